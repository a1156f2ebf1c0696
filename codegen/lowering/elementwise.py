"""Fused regions become loop nests, over the blocked space where their values live there."""

from __future__ import annotations

from collections.abc import Sequence

from symgrad.codegen.kernels.loop_nest import LoopSpec, Output
from symgrad.codegen.lowering.scope import Scope, lowers
from symgrad.codegen.storage import over_space, physical
from symgrad.ir.graph import Op


@lowers("fused")
def fused(scope: Scope, op: Op) -> None:
    """One loop nest per fused region."""
    block = scope.layouts.is_blocked(op)
    space: tuple[int, ...] = op.attrs["space"]
    inputs = [
        scope.operand(value, axes, block=block)
        for value, axes in zip(op.operands, op.attrs["maps"], strict=True)
    ]
    accesses = [
        over_space(storage, axes, space, block)
        for storage, axes in zip(inputs, op.attrs["maps"], strict=True)
    ]
    outputs, results = [], []
    for value, how in zip(op.results, op.attrs["reduce"], strict=True):
        storage = scope.allocate(value, plain=how is not None or not block)
        results.append(storage)
        kind, gone = how or (None, ())
        kept = tuple(a for a in range(len(space)) if a not in gone)
        access = over_space(storage, kept, space, block)
        # Reducing an axis of one element is no reduction: nests must agree on the rest.
        axes = _physical_axes([a for a in gone if space[a] != 1], block)
        outputs.append(Output(access, kind if axes else None, axes))
    extents = physical(space) if block else space
    spec = LoopSpec(extents, tuple(accesses), op.regions[0], tuple(outputs))
    scope.loop(spec, inputs, results, label="loop")


def _physical_axes(axes: Sequence[int], block: bool) -> tuple[int, ...]:
    """Physical dimensions of logical axes: channels are two of them."""
    return (*axes, 4) if block and 1 in axes else tuple(axes)
