"""Copies into parts of an array: concatenation, padding, filling.

Each is a few loop nests over sub-accesses of the result.  Where the nests write
disjoint parts, one kernel runs them all without a barrier in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.loop_nest import (
    LoopSpec,
    Output,
    emit_nest,
    identity_body,
    lower_loop,
)
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.target import Target
    from symgrad.ir.graph import Region


@record
class PartsSpec:
    """Loop nests that write disjoint memory; ``buffers`` are the arguments of each."""

    nests: tuple[LoopSpec, ...]
    buffers: tuple[tuple[int, ...], ...]


def emit_parts(k: Emitter, name: str, spec: PartsSpec) -> None:
    """Writes the kernel that runs all nests of a ``PartsSpec``."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        for nest, buffers in zip(spec.nests, spec.buffers, strict=True):
            bases = [k.load("ptr", k.gep(args, i, "ptr")) for i in buffers]
            emit_nest(k, nest, bases, tid, nth)


def fill_body(dtype: str, value: float) -> Region:
    """The region that gives one number."""
    from symgrad.ir.builder import Builder
    from symgrad.ir.types import DTYPES, TensorType

    b = Builder(locations=False)
    return b.region((), (b.constant(value, TensorType(DTYPES[dtype])),))


def fill_spec(extents: Sequence[int], result: Access, value: float, threads: int) -> LoopSpec:
    """Stores one number everywhere."""
    body = fill_body(result.dtype, value)
    return LoopSpec(tuple(extents), (), body, (Output(result),), threads)


def copy_spec(extents: Sequence[int], source: Access, result: Access, threads: int) -> LoopSpec:
    """Copies between two accesses of one space."""
    body = identity_body(source.dtype)
    return LoopSpec(tuple(extents), (source,), body, (Output(result),), threads)


def shifted(access: Access, start: Sequence[int], step: Sequence[int] | None = None) -> Access:
    """The access of the sub-array from ``start`` on, every ``step``-th element."""
    offset = sum(p * s for p, s in zip(start, access.strides, strict=True))
    step = step or (1,) * len(start)
    strides = tuple(s * n for s, n in zip(access.strides, step, strict=True))
    return replace(access, strides=strides, offset=access.offset + offset)


def lower_copy(
    extents: Sequence[int], source: Access, result: Access, target: Target, threads: int
) -> Lowering:
    """Copies an array into another layout: operand 0 to result 0."""
    return lower_loop(copy_spec(extents, source, result, threads), target, threads)


def lower_concatenate(
    shapes: Sequence[Sequence[int]],
    sources: Sequence[Access | None],
    axis: int,
    result: Access,
    threads: int,
) -> Lowering:
    """Joins arrays of ``shapes`` along ``axis``; the operands are the arrays in order.

    ``None`` stands for an array that lies in its place already, and is no operand.
    """
    nests: list[LoopSpec] = []
    start = [0] * len(result.strides)
    for shape, source in zip(shapes, sources, strict=True):
        if source is not None:
            nests.append(copy_spec(shape, source, shifted(result, start), threads))
        start[axis] += shape[axis]
    count = len(nests)
    spec = PartsSpec(tuple(nests), tuple((n, count) for n in range(count)))
    return Lowering((Phase("concatenate", emit_parts, spec, tuple(range(count + 1))),))


def lower_pad(
    shape: Sequence[int],
    source: Access | None,
    low: Sequence[int],
    high: Sequence[int],
    interior: Sequence[int],
    value: float,
    result: Access,
    threads: int,
) -> Lowering:
    """Puts an array of ``shape`` into a larger one of ``value``: operand 0 to result 0.

    Without a ``source``, and without gaps, the array lies there already and is no operand.
    """
    full = [
        lo + n + max(n - 1, 0) * gap + hi
        for lo, n, gap, hi in zip(low, shape, interior, high, strict=True)
    ]
    nests: list[LoopSpec] = []
    buffers: list[tuple[int, ...]] = []
    target = 0 if source is None else 1
    if source is not None:
        inner = shifted(result, low, [gap + 1 for gap in interior])
        copy = copy_spec(shape, source, inner, threads)
        if any(interior):  # the gaps between elements are too many to fill one by one
            first = PartsSpec((fill_spec(full, result, value, threads),), ((1,),))
            second = PartsSpec((copy,), ((0, 1),))
            fill = Phase("fill", emit_parts, first, (0, 1))
            return Lowering((fill, Phase("copy", emit_parts, second, (0, 1))))
        nests, buffers = [copy], [(0, 1)]
    # Slabs before and behind the elements: whole along earlier axes, and only as
    # wide as the elements along those already filled.
    start, extents = [0] * len(full), list(full)
    for axis, n in enumerate(shape):
        for at, width in ((0, low[axis]), (low[axis] + n, high[axis])):
            if width:
                start[axis], extents[axis] = at, width
                nests.append(fill_spec(extents, shifted(result, start), value, threads))
                buffers.append((target,))
        start[axis], extents[axis] = low[axis], n
    spec = PartsSpec(tuple(nests), tuple(buffers))
    return Lowering((Phase("pad", emit_parts, spec, tuple(range(target + 1))),))
