"""Fused regions become loop nests, over the blocked space where their values live there."""

from __future__ import annotations

from math import prod

from symgrad.codegen.kernels.loop_nest import LoopSpec, Output
from symgrad.codegen.lowering.early import begun_early
from symgrad.codegen.lowering.lift import lift_constants
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import over_space
from symgrad.codegen.tiling import Tiling
from symgrad.ir.graph import Op


@lowers("fused")
def fused(scope: Scope, op: Op) -> None:
    """One loop nest per fused region, unless the kernel before has taken its sums."""
    if (sums := scope.sums_of(op)) is not None:
        sums.join(scope)
        return
    tiling = scope.layouts.tiling(op)
    space: tuple[int, ...] = op.attrs["space"]
    inputs = [
        scope.operand(value, axes, tiling)
        for value, axes in zip(op.operands, op.attrs["maps"], strict=True)
    ]
    accesses = [
        over_space(storage, axes, len(space), tiling)
        for storage, axes in zip(inputs, op.attrs["maps"], strict=True)
    ]
    region, numbers = lift_constants(op.regions[0], prod(space))
    if prod(space) == 1:
        region = begun_early(region)
    inputs += numbers
    accesses += [over_space(number, (), len(space), tiling) for number in numbers]
    outputs, results = [], []
    for value, how in zip(op.results, op.attrs["reduce"], strict=True):
        storage = scope.allocate(value, plain=how is not None or tiling is None)
        results.append(storage)
        kind, gone = how or (None, ())
        kept = tuple(a for a in range(len(space)) if a not in gone)
        access = over_space(storage, kept, len(space), tiling)
        # Reducing an axis of one element is no reduction: nests must agree on the rest.
        axes = tuple(a for a in gone if space[a] != 1)
        outputs.append(Output(access, kind if axes else None, _physical(axes, tiling)))
    extents = tiling.extents if tiling else space
    spec = LoopSpec(extents, tuple(accesses), region, tuple(outputs))
    scope.loop(spec, inputs, results, label="loop")


def _physical(axes: tuple[int, ...], tiling: Tiling | None) -> tuple[int, ...]:
    """Dimensions of the iteration space that walk logical axes: a blocked axis has two."""
    return tiling.dimensions(axes) if tiling else axes
