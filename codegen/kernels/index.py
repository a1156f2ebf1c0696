"""Access by indices known only at run time: gather, scatter, dynamic slices.

Indices are clamped to the array.  Gathers and slices are loop nests with an
``Indirect`` access; a scatter walks its positions in order and lets the threads
share each position's elements, so that repeated positions add up in the same
order whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.conversions import convert, from_memory
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes, vector_loop
from symgrad.codegen.kernels.loop_nest import (
    Indirect,
    LoopSpec,
    Output,
    emit_loop,
    identity_body,
    lower_loop,
)
from symgrad.codegen.kernels.loop_schedule import Dim, merged
from symgrad.codegen.kernels.movement import copy_spec
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.scalar import emit_op
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.target import Target


def lower_gather(
    shape: Sequence[int],
    source: Access,
    axes: Sequence[int],
    index_shape: Sequence[int],
    indices: Sequence[Access],
    result: Access,
    target: Target,
    threads: int,
) -> Lowering:
    """Elements of an array of ``shape`` at integer positions along ``axes``.

    ``source`` runs over the array's axes, ``indices`` over ``index_shape`` and
    ``result`` over ``index_shape`` followed by the other axes.  Operands: the array,
    then the index arrays.
    """
    others = [a for a in range(len(shape)) if a not in axes]
    strides = (*(0 for _ in index_shape), *(source.strides[a] for a in others))
    along = [(1 + n, shape[a] - 1, source.strides[a]) for n, a in enumerate(axes)]
    moved = _moved(Access(source.dtype, strides, source.offset), along)
    spread = [Access(i.dtype, (*i.strides, *(0 for _ in others)), i.offset) for i in indices]
    body = identity_body(source.dtype, *(i.dtype for i in indices), results=1)
    extents = (*index_shape, *(shape[a] for a in others))
    return lower_loop(LoopSpec(extents, (moved, *spread), body, (Output(result),)), target, threads)


def _moved(access: Access, along: Sequence[tuple[int, int, int]]) -> Access:
    """``access`` moved by indices; those into broadcast axes always find the same element."""
    moving = tuple(index for index in along if index[2])
    return Indirect(access.dtype, access.strides, access.offset, moving) if moving else access


def lower_dynamic_slice(
    shape: Sequence[int],
    source: Access,
    sizes: Sequence[int],
    starts: Sequence[Access],
    result: Access,
    target: Target,
    threads: int,
) -> Lowering:
    """A block of ``sizes`` of an array of ``shape``; operands: the array, then the starts."""
    along = [
        (1 + a, n - m, source.strides[a]) for a, (n, m) in enumerate(zip(shape, sizes, strict=True))
    ]
    moved = _moved(source, along)
    fixed = [Access(s.dtype, (0,) * len(sizes), s.offset) for s in starts]
    body = identity_body(source.dtype, *(s.dtype for s in starts), results=1)
    spec = LoopSpec(tuple(sizes), (moved, *fixed), body, (Output(result),))
    return lower_loop(spec, target, threads)


def lower_dynamic_update_slice(
    shape: Sequence[int],
    source: Access | None,
    sizes: Sequence[int],
    update: Access,
    starts: Sequence[Access],
    result: Access,
    threads: int,
) -> Lowering:
    """An array of ``shape`` with a block of ``sizes`` replaced.

    Operands: the array, the update, the starts.  Without ``source`` the result's
    buffer already holds the array.
    """
    along = tuple(
        (1 + a, n - m, result.strides[a]) for a, (n, m) in enumerate(zip(shape, sizes, strict=True))
    )
    moved = Indirect(result.dtype, result.strides, result.offset, along)
    fixed = [Access(s.dtype, (0,) * len(sizes), s.offset) for s in starts]
    body = identity_body(update.dtype, *(s.dtype for s in starts), results=1)
    spec = LoopSpec(tuple(sizes), (update, *fixed), body, (Output(moved),), threads)
    last = 2 + len(starts)
    phase = Phase("update", emit_loop, spec, (*range(1, last), last))
    return Lowering((*_copied(shape, source, result, last, threads), phase))


def _copied(
    shape: Sequence[int], source: Access | None, result: Access, place: int, threads: int
) -> tuple[Phase, ...]:
    """The copy of operand 0 that an update starts from."""
    if source is None:
        return ()
    return (Phase("copy", emit_loop, copy_spec(shape, source, result, threads), (0, place)),)


# -- scatter -----------------------------------------------------------------------


@record
class ScatterSpec:
    """Updates put into, or added to, an array at integer positions, in order.

    ``updates`` runs over ``index_shape`` and then ``kept``, ``indices`` over
    ``index_shape``, ``result`` over ``kept``; ``along`` holds the limit and the
    result's stride of every index.  ``op`` joins old and new (``add``) or is ``None``
    to replace.  Buffers: the updates, the indices, the result.
    """

    index_shape: tuple[int, ...]
    kept: tuple[int, ...]
    updates: Access
    indices: tuple[Access, ...]
    along: tuple[tuple[int, int], ...]
    result: Access
    op: str | None
    threads: int


def lower_scatter(
    shape: Sequence[int],
    source: Access | None,
    axes: Sequence[int],
    index_shape: Sequence[int],
    updates: Access,
    indices: Sequence[Access],
    result: Access,
    threads: int,
    op: str | None = "add",
) -> Lowering:
    """An array of ``shape`` with updates added to (``op="add"``) or put at positions.

    Operands: the array, the updates (over ``index_shape``, then the axes that are not
    indexed), the index arrays.  Without ``source`` the result's buffer already holds
    the array.
    """
    others = [a for a in range(len(shape)) if a not in axes]
    spec = ScatterSpec(
        tuple(index_shape),
        tuple(shape[a] for a in others),
        updates,
        tuple(indices),
        tuple((shape[a] - 1, result.strides[a]) for a in axes),
        Access(result.dtype, tuple(result.strides[a] for a in others), result.offset),
        op,
        threads,
    )
    last = 2 + len(indices)
    phase = Phase("scatter", emit_scatter, spec, tuple(range(1, last + 1)))
    return Lowering((*_copied(shape, source, result, last, threads), phase))


def emit_scatter(k: Emitter, name: str, spec: ScatterSpec) -> None:
    """Writes the kernel that walks the positions."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        bases = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(len(spec.indices) + 2)]
        _Scatter(k, spec, bases).emit(tid, nth)


class _Scatter:
    def __init__(self, k: Emitter, spec: ScatterSpec, bases: Sequence[Reg]) -> None:
        self.k, self.spec, self.bases = k, spec, bases
        rank = len(spec.index_shape)
        strides = zip(spec.updates.strides[rank:], spec.result.strides, strict=True)
        dims = [Dim(n, False, pair) for n, pair in zip(spec.kept, strides, strict=True) if n != 1]
        # Unit strides last: they are the vector loop.
        self.dims = sorted(merged(dims), key=lambda d: -abs(d.strides[1])) or [
            Dim(1, False, (0, 0))
        ]
        self.lanes = min(k.target.lanes(4), 1 << (max(1, self.dims[-1].extent) - 1).bit_length())
        if not k.target.has_masks:
            self.lanes = min(self.lanes, 1 << max(1, self.dims[-1].extent).bit_length() - 1)

    def emit(self, tid: Reg, nth: Reg) -> None:
        """Every thread walks all positions, for its share of the elements of each."""
        k, dims = self.k, self.dims
        units = [-(-d.extent // self.lanes) if d is dims[-1] else d.extent for d in dims]
        shared = max(range(len(dims)), key=units.__getitem__)
        bounds: list[tuple[Int, Int]] = [(0, d.extent) for d in dims]
        work = math.prod(self.spec.index_shape) * math.prod(self.spec.kept)
        if self.spec.threads == 1 or units[shared] == 1 or work < 4096:
            with k.if_(k.icmp("eq", tid, 0)):
                self._positions(bounds)
            return
        low, high = k.slice(units[shared], tid, nth)
        if shared == len(dims) - 1:
            low = k.mul(low, self.lanes)
            high = k.min(k.mul(high, self.lanes), dims[-1].extent)
        bounds[shared] = low, high
        with k.if_(k.icmp("slt", k.as_reg(low), high)):
            self._positions(bounds)

    def _positions(self, bounds: list[tuple[Int, Int]]) -> None:
        k, spec = self.k, self.spec
        with ExitStack() as loops:
            point: list[Int] = [loops.enter_context(k.loop(0, n)) for n in spec.index_shape]
            distance: Int = spec.result.offset
            for access, base, (limit, stride) in zip(
                spec.indices, self.bases[1:-1], spec.along, strict=True
            ):
                memory = k.load(MEMORY_TYPES[access.dtype], access.address(k, base, point))
                index = convert(k, from_memory(k, memory, access.dtype), access.dtype, "i64")
                clamped = k.min(k.max(index, 0), limit)
                distance = k.add(distance, k.mul(clamped, stride))
            kept = Access(
                spec.updates.dtype, spec.updates.strides[: len(point)], spec.updates.offset
            )
            source = kept.address(k, self.bases[0], point)
            result = k.gep(self.bases[-1], distance, MEMORY_TYPES[spec.result.dtype])
            for at, lanes, mask in self._elements(bounds):
                self._combine(source, result, at, lanes, mask)

    def _elements(
        self, bounds: list[tuple[Int, Int]]
    ) -> Iterator[tuple[list[Int], int, Reg | None]]:
        k = self.k
        with ExitStack() as loops:
            outer: list[Int] = [loops.enter_context(k.loop(*b)) for b in bounds[:-1]]
            for i, lanes, mask in vector_loop(k, *bounds[-1], self.lanes):
                yield [*outer, i], lanes, mask

    def _combine(
        self, source: Reg, result: Reg, at: Sequence[Int], lanes: int, mask: Reg | None
    ) -> None:
        k, spec = self.k, self.spec
        addresses, strides = [], []
        for n, (base, dtype) in enumerate(
            ((source, spec.updates.dtype), (result, spec.result.dtype))
        ):
            along = tuple(d.strides[n] for d in self.dims)
            addresses.append(Access(dtype, along).address(k, base, at))
            strides.append(along[-1])
        value = load_lanes(k, addresses[0], spec.updates.dtype, strides[0], lanes, mask)
        dtype = spec.result.dtype
        if spec.op is not None:
            old = load_lanes(k, addresses[1], dtype, strides[1], lanes, mask)
            value = emit_op(k, spec.op, (old, value), (dtype, dtype))
        store_lanes(k, value, addresses[1], dtype, strides[1], mask)
