"""Products of bf16 by the instruction that multiplies pairs and adds them up in f32.

AVX-512 BF16 and AMX take neighbours along the contraction as one 32-bit element.  Where an
operand's contraction is contiguous, that is what memory holds; any other is rewritten first,
its order kept.  A *pair* has the dtype ``bf16x2``; apart from the multiplication, such a
product is one of 4-byte elements over half the depth.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod

from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Phase
from symgrad.codegen.kernels.gemm_spec import GemmSpec
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, lower_loop
from symgrad.codegen.registers import Reg, lanes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.graph import Region
from symgrad.ir.record import record

LEAST = 8
"""Rows and columns from which on rewriting an operand pays."""


@record
class Paired:
    """A product of pairs, and the kernels and memory that make them."""

    spec: GemmSpec
    phases: tuple[Phase, ...]
    temporaries: tuple[int, ...]
    operands: tuple[int, int]
    """Buffer numbers of A and B."""


def in_pairs(spec: GemmSpec, target: Target, first: int) -> Paired | None:
    """``spec`` over pairs, or ``None`` where there is no such instruction or it does not pay.

    Buffers are numbered as in ``lower_gemm``; temporaries from ``first`` on.
    """
    a, b = spec.a, spec.b
    multiplies = target.has_bf16_products or target.tile_unit
    if not (multiplies and isinstance(a, Access) and isinstance(b, Access)):
        return None
    if a.dtype != "bf16" or not spec.k or min(prod(spec.m), prod(spec.n)) < LEAST:
        return None
    depth = (*spec.k[:-1], ceil(spec.k[-1] / 2))
    batch = len(spec.batch)
    shape_a, shape_b = (*spec.batch, *spec.m, *spec.k), (*spec.batch, *spec.k, *spec.n)
    phases: list[Phase] = []
    temporaries: list[int] = []
    pairs: list[Access] = []
    buffers: list[int] = []
    for number, (access, shape, axis) in enumerate(
        ((a, shape_a, len(shape_a) - 1), (b, shape_b, batch + len(spec.k) - 1))
    ):
        found = _as_they_lie(access, shape, axis)
        if found is None:
            found, size = _rewritten(access, shape, axis)
            at = first + len(temporaries)
            phases += _rewriting(access, found, shape, axis, spec.threads, target, (number, at))
            temporaries.append(4 * size)
            buffers.append(at)
        else:
            buffers.append(number)
        pairs.append(found)
    product = replace(spec, k=depth, a=pairs[0], b=pairs[1])
    return Paired(product, tuple(phases), tuple(temporaries), (buffers[0], buffers[1]))


def multiply_add_pairs(k: Emitter, a: Reg, b: Reg, total: Reg) -> Reg:
    """``total`` plus the products of both halves of each pair."""
    lanes = lanes_of(total.type)
    if lanes in (4, 8, 16) and k.target.has_bf16_products:
        halves = vec("bfloat", 2 * lanes)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
        k.declare(name, total.type, (total.type, halves, halves))
        left, right = (k.cast("bitcast", v, halves) for v in (a, b))
        arguments = f"{total.type} {total}, {halves} {left}, {halves} {right}"
        return k.op(total.type, f"call {total.type} @{name}({arguments})")
    for halve in (_low, _high):  # narrower vectors are too few to matter
        total = k.fma(halve(k, a), halve(k, b), total)
    return total


def _low(k: Emitter, pair: Reg) -> Reg:
    bits = k.bits("shl", pair, 16)
    return k.cast("bitcast", bits, vec("float", lanes_of(pair.type)))


def _high(k: Emitter, pair: Reg) -> Reg:
    bits = k.bits("and", pair, -1 << 16)
    return k.cast("bitcast", bits, vec("float", lanes_of(pair.type)))


def _as_they_lie(access: Access, shape: tuple[int, ...], axis: int) -> Access | None:
    """The pairs of an operand as elements of its own memory, if they are."""
    others = [s for i, s in enumerate(access.strides) if i != axis and shape[i] > 1]
    aligned = all(s % 2 == 0 for s in (*others, access.offset, shape[axis]))
    if access.strides[axis] != 1 or not aligned:
        return None
    strides = tuple(1 if i == axis else s // 2 for i, s in enumerate(access.strides))
    return Access("bf16x2", strides, access.offset // 2)


def _rewritten(access: Access, shape: tuple[int, ...], axis: int) -> tuple[Access, int]:
    """Where the pairs of an operand go, its axes in the order they have; and how many."""
    order = sorted(range(len(shape)), key=lambda i: abs(access.strides[i]))
    strides, size = [0] * len(shape), 1
    for i in order:
        if access.strides[i]:
            strides[i] = size
            size *= ceil(shape[i] / 2) if i == axis else shape[i]
    if not strides[axis]:  # a broadcast contraction: its pairs are equal
        strides[axis], size = size, size * ceil(shape[axis] / 2)
    return Access("bf16x2", tuple(strides)), size


def _rewriting(
    source: Access,
    target: Access,
    shape: tuple[int, ...],
    axis: int,
    threads: int,
    machine: Target,
    buffers: tuple[int, int],
) -> list[Phase]:
    """Nests that write pairs; an odd last element is paired with 0."""
    whole, rest = divmod(shape[axis], 2)
    spread = tuple(s * (1 + (i == axis)) for i, s in enumerate(source.strides))
    first = Access("u16", spread, source.offset)
    second = replace(first, offset=source.offset + source.strides[axis])
    phases = []
    for count, inputs, skip in (
        (whole, (first, second), 0),
        (rest, (replace(first, offset=source.offset + whole * spread[axis]),), whole),
    ):
        if not count:
            continue
        # Axes along which the operand is broadcast are rewritten once.
        extents = tuple(
            count if i == axis else n if target.strides[i] else 1 for i, n in enumerate(shape)
        )
        output = Access("u32", target.strides, skip * target.strides[axis])
        spec = LoopSpec(extents, inputs, _joining(len(inputs)), (Output(output),))
        at = (*(buffers[0] for _ in inputs), buffers[1])
        lowered = lower_loop(spec, machine, threads)
        phases += [
            replace(phase, buffers=tuple(at[i] for i in phase.buffers)) for phase in lowered.phases
        ]
    return phases


def _joining(count: int) -> Region:
    """u16 values as one u32, the first in the low half."""
    from symgrad.ir.builder import Builder
    from symgrad.ir.ops import elementwise as ew
    from symgrad.ir.types import TensorType, u16, u32

    builder = Builder(locations=False)
    halves = [builder.param(TensorType(u16), f"x{i}") for i in range(count)]
    with builder:
        wide = [ew.convert(half, dtype=u32) for half in halves]
        joined = wide[0]
        if count == 2:
            sixteen = builder.constant(16, TensorType(u32))
            joined = ew.or_(wide[0], ew.shift_left(wide[1], sixteen))
    return builder.region(halves, [joined])
