"""Matrix products: packed, register-tiled, with an epilogue on the result.

The structure is that of Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication" (2008), and of BLIS: a block of B stays in the outer
caches, a block of A in L2, a panel of B in L1, a tile of C in registers.  What
is already in a good order, or used too seldom, is read in place instead of
being packed.  Threads share nothing: each packs what its part of C needs.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, isqrt, prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.gemm_emit import emit_combine, emit_gemm
from symgrad.codegen.kernels.gemm_pairs import in_pairs
from symgrad.codegen.kernels.gemm_plan import Plan
from symgrad.codegen.kernels.gemm_schedule import DEEPEST, on_tiles, vectors_beside
from symgrad.codegen.kernels.gemm_spec import GemmSpec, partial_sums, runs_down, transposed
from symgrad.codegen.kernels.microkernel import LATENCY_PRODUCTS
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.target import Target

__all__ = [
    "GemmSpec",
    "emit_combine",
    "emit_gemm",
    "gemm_scratch_bytes",
    "lower_gemm",
    "stores_once",
]

TRANSPOSING, TURNING = 6, 5
"""Cycles to transpose a vector of B while it is packed, and to store one that is turned."""


def lower_gemm(spec: GemmSpec, target: Target, threads: int) -> Lowering:
    """The kernels of a product on ``threads`` threads.

    Buffers are numbered as A, B, the epilogue's operands, then C.  A product with too
    few result tiles for the team is split along the contraction, into partial sums
    that a second kernel adds up.
    """
    spec, order = replace(spec, threads=threads), (0, 1)
    extra = len(spec.epilogue.operands) if spec.epilogue else 0
    before: tuple[Phase, ...] = ()
    temporaries: tuple[int, ...] = ()
    if paired := in_pairs(spec, target, 3 + extra):
        spec, order = paired.spec, paired.operands
        before, temporaries = paired.phases, paired.temporaries
    if runs_down(spec) or (not _streams_down(spec, target) and _turns(spec, target)):
        spec, order = transposed(spec), order[::-1]
    splits = _splits(spec, target)
    if splits == 1 and _streams_down(spec, target):
        spec, order, splits = transposed(spec), order[::-1], max(2, threads)
    if splits == 1:
        buffers = (*order, *range(2, 3 + extra))
        scratch = gemm_scratch_bytes(spec, target, threads)
        return Lowering((*before, Phase("gemm", emit_gemm, spec, buffers, scratch)), temporaries)
    partial = partial_sums(spec, splits)
    first = replace(spec, c=partial, epilogue=None, splits=splits)
    scratch = gemm_scratch_bytes(first, target, threads)
    temporary = 3 + extra + len(temporaries)
    return Lowering(
        (
            *before,
            Phase("gemm_partial", emit_gemm, first, (*order, temporary), scratch),
            Phase(
                "gemm_combine",
                emit_combine,
                replace(spec, splits=splits),
                (temporary, *range(2, 3 + extra)),
            ),
        ),
        (*temporaries, partial.strides[0] * splits * bytes_of(MEMORY_TYPES[partial.dtype])),
    )


def _streams_down(spec: GemmSpec, target: Target) -> bool:
    """Whether A, large and with contiguous columns, is better streamed as the other factor.

    Tiles of a few columns of C would walk down narrow strips of A, a page for every step or
    two; as B of the transposed product it passes by once, row by row.  C then has other
    strides, so that sums are kept aside in parts.
    """
    if not isinstance(spec.a, Access) or not spec.m or not spec.k:
        return False
    if spec.epilogue or prod(spec.batch) != 1:
        return False
    bytes = bytes_of(MEMORY_TYPES[spec.accumulator])
    lanes = target.lanes(bytes)
    rows, cols, depth = prod(spec.m), prod(spec.n), prod(spec.k)
    row_step, depth_step = spec.a.strides[-1 - len(spec.k)], spec.a.strides[-1]
    return (
        row_step == 1 < abs(depth_step)
        and spec.a.dtype == spec.accumulator
        and vectors_beside(cols, target) > 1  # a tile has them all
        and rows > 8 * lanes
        and rows * depth * bytes > target.l2
    )


def _turns(spec: GemmSpec, target: Target) -> bool:
    """Whether vectors should run down C though its rows are contiguous.

    Where A's columns are contiguous they can.  Tiles are then turned before they are stored,
    but B need not be transposed, and vectors may have fewer idle lanes.
    """
    a, b, c = spec.a, spec.b, spec.c
    if not (isinstance(a, Access) and isinstance(b, Access)) or spec.epilogue:
        return False
    if not (spec.m and spec.n and spec.k) or prod(spec.batch) * prod(spec.k) == 0:
        return False
    if on_tiles(a.dtype, prod(spec.m), prod(spec.n), prod(spec.k), target):
        return False
    if a.strides[-1 - len(spec.k)] != 1 or c.strides[-1] != 1 or len(spec.m) + len(spec.n) > 2:
        return False
    rows, cols, depth = prod(spec.m), prod(spec.n), prod(spec.k)
    lanes = target.lanes(bytes_of(MEMORY_TYPES[spec.accumulator]))
    if min(rows, cols) == 1 or a.strides[-1] == 1:
        return False
    across, down = ceil(cols / lanes), ceil(rows / lanes)
    blocks = ceil(depth / DEEPEST)
    straight = rows * across * (depth + blocks)
    if b.strides[-1] != 1:
        straight += TRANSPOSING * across * depth
    return cols * down * (depth + TURNING * blocks) < straight


def stores_once(spec: GemmSpec, target: Target, threads: int) -> bool:
    """Whether C is written only when its sums are complete.

    Sums of several blocks of the contraction meet in C; then it must not lie where the
    epilogue reads.
    """
    spec = replace(spec, threads=threads)
    if in_pairs(spec, target, 3):
        return False
    return _splits(spec, target) > 1 or Plan(spec, target).k_blocks == 1


def gemm_scratch_bytes(spec: GemmSpec, target: Target, threads: int) -> int:
    """Size of the packing area of all threads; 0 where nothing is packed."""
    return threads * Plan(spec, target).scratch


def _splits(spec: GemmSpec, target: Target) -> int:
    """Parts of the contraction: more than 1 where the result is too small to share.

    A thread needs about eight accumulators of its own to hide an addition's latency.
    """
    lanes = target.lanes(bytes_of(MEMORY_TYPES[spec.accumulator]))
    accumulators = prod(spec.batch) * prod(spec.m) * ceil(prod(spec.n) / lanes)
    # The root keeps every part longer than a vector times the number of parts.
    most = isqrt(prod(spec.k) // 64)
    return max(1, min(spec.threads // max(1, accumulators // LATENCY_PRODUCTS), most))
