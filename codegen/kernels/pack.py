"""Copies blocks of a matrix into the order in which a micro-kernel reads them.

A packed block is contiguous, so that it neither collides in a cache nor spreads
over many pages, and it holds numbers to compute with: half types widened, the
elements outside of an image 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import ceil

from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.conversions import to_memory
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.lanes import transpose
from symgrad.codegen.kernels.matrix import Source
from symgrad.codegen.registers import Int, Reg, bytes_of, vec

CACHE_LINE = 64
"""Bytes of memory that are fetched together."""


def packed_dtype(dtype: str) -> str:
    """IR dtype of packed elements: the one they are computed in."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def summed_dtype(dtype: str) -> str:
    """IR dtype of sums of products."""
    return "f32" if dtype == "bf16x2" else packed_dtype(dtype)


def round_up(value: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that is not below ``value``."""
    return -(-value // unit) * unit


def pack_lines(
    k: Emitter,
    source: Source,
    dst: Reg,
    first: tuple[Int, Int],
    shape: tuple[Int, Int],
    pitch: int,
    lanes: int,
) -> None:
    """Copies ``shape`` elements from ``first`` on, row by row, rows ``pitch`` apart.

    Every row is written in whole vectors, in order: what exceeds its length is
    overwritten by the next one, or is 0 where ``pitch`` leaves room.
    """
    rows, cols = shape

    def copy(starts: Sequence[Int], counts: Sequence[Int]) -> None:
        along = [
            source.lanes(k, k.add(first[1], start), lanes, count)
            for start, count in zip(starts, counts, strict=True)
        ]
        with k.loop(0, rows) as row:
            for start, places in zip(starts, along, strict=True):
                value = source.load(k, k.add(first[0], row), places)
                _put(k, source, value, dst, k.add(k.mul(row, pitch), start))

    # A panel has short rows; several vectors share the work of finding a row.
    if isinstance(cols, int) and cols <= pitch <= 8 * lanes and source.runs:
        starts = range(0, cols, lanes)
        copy(starts, [min(lanes, cols - start) for start in starts])
        return
    for start, count in vectors(k, cols, lanes):
        with start as at:
            copy([at], [count])


def pack_transposed(
    k: Emitter,
    source: Source,
    dst: Reg,
    first: tuple[Int, Int],
    shape: tuple[Int, Int],
    pitch: int,
    lanes: int,
) -> None:
    """As ``pack_lines``, for a matrix whose columns are contiguous.

    Squares of ``lanes`` x ``lanes`` elements are transposed in registers; rows are
    written in multiples of ``lanes``.
    """
    rows, cols = shape
    flipped, dtype = source.transposed, packed_dtype(source.matrix.dtype)
    scalar = MEMORY_TYPES[dtype]
    in_place = flipped.matrix.strides if dtype == source.matrix.dtype else None
    square = k.alloca(vec(scalar, lanes), lanes)
    # The lines of a strip of squares are read from end to end: few streams at a time.
    for across, width in vectors(k, cols, lanes):
        with across as col:
            for down, height in vectors(k, rows, lanes):
                with down as row:
                    to = k.gep(dst, k.add(k.mul(row, pitch), col), scalar)
                    line, start = k.add(first[1], col), k.add(first[0], row)
                    if in_place and in_place[1] == 1 and (width, height) == (lanes, lanes):
                        offset = k.add(k.mul(line, in_place[0]), start)
                        at = k.gep(flipped.base, offset, scalar)
                        _transpose(k, at, in_place[0], to, pitch, dtype, lanes)
                        continue
                    along = flipped.lanes(k, start, lanes, height)
                    with k.loop(0, width) as i:
                        value = flipped.load(k, k.add(line, i), along)
                        _put(k, source, value, square, k.mul(i, lanes))
                    _transpose(k, square, lanes, to, pitch, dtype, lanes)


def prefetch_share(
    k: Emitter,
    source: Source,
    first: tuple[Int, Int],
    shape: tuple[int, int],
    share: Int,
    shares: int,
) -> None:
    """Asks for the cache lines of one of equal shares of ``shape`` elements from ``first`` on.

    The matrix has strides, one of which is 1.  Shares may exceed the block, and it the
    matrix: nothing is read.
    """
    assert source.matrix.strides is not None
    (row, col), (rows, cols), (down, across) = first, shape, source.matrix.strides
    scalar = MEMORY_TYPES[source.matrix.dtype]
    pitch, count, length = (down, rows, cols) if across == 1 else (across, cols, rows)
    per_line = CACHE_LINE // bytes_of(scalar)
    run = ceil(length / per_line)
    base = k.gep(source.base, k.add(k.mul(row, down), k.mul(col, across)), scalar)
    lines = ceil(count * run / shares)
    with k.loop(0, lines) as i:
        number, at = k.divmod(k.add(k.mul(share, lines), i), run)
        offset = k.add(k.mul(number, pitch), k.mul(at, per_line))
        k.prefetch(k.gep(base, offset, scalar), locality=2)


def _transpose(
    k: Emitter, src: Reg, src_pitch: int, dst: Reg, dst_pitch: int, dtype: str, lanes: int
) -> None:
    """Stores a square's columns as rows; out of line, for it is long."""
    scalar = MEMORY_TYPES[dtype]
    name = f"transpose_{dtype}_{lanes}_{src_pitch}_{dst_pitch}".replace("-", "m")
    if k.misses(name):
        with k.function(name, ("ptr noalias", "ptr noalias"), internal=True) as (source, target):
            rows = [
                k.load(vec(scalar, lanes), k.gep(source, i * src_pitch, scalar))
                for i in range(lanes)
            ]
            for i, row in enumerate(transpose(k, rows)):
                k.store(row, k.gep(target, i * dst_pitch, scalar))
    k.call(name, "void", (src, dst))


def vectors(
    k: Emitter, total: Int, lanes: int
) -> Iterator[tuple[AbstractContextManager[Int], Int]]:
    """Covers ``range(total)`` by whole vectors and a rest: contexts and their counts."""
    whole = k.mul(k.udiv(total, lanes), lanes)
    if whole != 0:
        yield k.loop(0, whole, lanes), lanes
    if isinstance(total, int) and isinstance(whole, int):
        if whole < total:
            yield nullcontext(whole), total - whole
    else:
        yield _guarded(k, k.icmp("slt", whole, total), whole), k.sub(total, whole)


@contextmanager
def _guarded(k: Emitter, condition: Reg, value: Int) -> Iterator[Int]:
    with k.if_(condition):
        yield value


def _put(k: Emitter, source: Source, value: Reg, dst: Reg, index: Int) -> None:
    """Stores a vector of a packed block."""
    dtype = packed_dtype(source.matrix.dtype)
    k.store(to_memory(k, value, dtype), k.gep(dst, index, MEMORY_TYPES[dtype]))
