"""Work that is done or not, and done again, as a value known at run time says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symgrad.ir.adjoint import pull_back
from symgrad.ir.builder import Builder, inline
from symgrad.ir.errors import DifferentiationError, ShapeError, UsageError
from symgrad.ir.graph import Region, Value, insertion
from symgrad.ir.interp import evaluate_region
from symgrad.ir.opdef import Array, op
from symgrad.ir.ops.elementwise import select
from symgrad.ir.ops.shape import broadcast_to
from symgrad.ir.types import TensorType, bool_


def _check(name: str, region: Region, takes: Sequence[TensorType], gives: Any) -> None:
    found = tuple(p.type for p in region.params), tuple(v.type for v in region.results)
    if found != (tuple(takes), tuple(gives)):
        raise ShapeError(f"{name}: the body goes from {found[0]} to {found[1]}, "
                         f"not from {tuple(takes)} to {tuple(gives)}")  # fmt: skip


@op("when")
def when(flag: TensorType, *operands: TensorType, count: int, region: Region) -> Any:
    """What a region gives, if the flag is true; else the first ``count`` operands.

    The region takes the operands after these, and does not run unless it is asked for.
    """
    if flag != TensorType(bool_) or not 0 < count <= len(operands):
        raise UsageError(f"when: flag {flag}, count={count} for {len(operands)} operands")
    _check("when", region, operands[count:], operands[:count])
    return operands[:count]


@when.evaluate
def _when(flag: Array, *operands: Array, count: int, region: Region) -> Any:
    return tuple(evaluate_region(region, operands[count:]) if flag else operands[:count])


@when.adjoint
def _when_adjoint(
    ct: Any, result: Any, flag: Value, *operands: Value, count: int
) -> tuple[Value | None, ...]:
    """The region's pull-back, if it ran; else the cotangents go where the values came from."""
    cts = ct if count > 1 else (ct,)
    (region,) = (result[0] if count > 1 else result).op.regions
    given = [c for c in cts if c is not None]
    outer, builder = insertion.builder, Builder(locations=False)
    inputs = [builder.param_like(p) for p in region.params]
    ct_params = [builder.param(c.type) for c in given]
    for param in ct_params:
        param.facts = 0
    waiting = iter(ct_params)
    seeds = [None if c is None else next(waiting) for c in cts]
    parts = pull_back(builder, inline(builder, region, inputs), seeds, inputs)
    reached = {i: v for i, v in enumerate(parts) if v is not None}
    by_input: dict[int, Value] = {}
    if reached:
        zeros = [outer.constant(0, v.type) for v in reached.values()]
        pulled = builder.region([*inputs, *ct_params], list(reached.values()))
        made = when(flag, *zeros, *operands[count:], *given, count=len(reached), regions=(pulled,))
        by_input = dict(zip(reached, made if isinstance(made, tuple) else (made,), strict=True))
    otherwise = [
        None if c is None else
        select(broadcast_to(flag, shape=c.shape, axes=()), outer.constant(0, c.type), c)
        for c in cts
    ]  # fmt: skip
    return (None, *otherwise, *(by_input.get(i) for i in range(len(inputs))))


@op("while_loop")
def while_loop(*operands: TensorType, consts: int, region: Region) -> Any:
    """Runs of a region, as long as a flag is true.

    Operands: ``consts`` values that all steps see, the flag, and the state.  The region takes
    ``consts`` and state, and yields the next flag and state.  Results: the last state.
    """
    state = operands[consts + 1 :]
    if not state or operands[consts] != TensorType(bool_):
        raise UsageError(f"while_loop: consts={consts} of {len(operands)} operands {operands}")
    _check("while_loop", region, (*operands[:consts], *state), operands[consts:])
    return state


@while_loop.evaluate
def _while_loop(*operands: Array, consts: int, region: Region) -> Any:
    fixed, flag = operands[:consts], operands[consts]
    state: Sequence[Array] = operands[consts + 1 :]
    while flag:
        flag, *state = evaluate_region(region, [*fixed, *state])
    return tuple(state)


@while_loop.adjoint
def _while_loop_adjoint(ct: Any, result: Any, *operands: Value, consts: int) -> Any:
    raise DifferentiationError(
        "while_loop: a loop of unknown length has no derivative, as its states would have to be "
        "kept; use symgrad.scan or symgrad.fori_loop with a fixed number of steps (and "
        "symgrad.cond or np.where in a step for those that are too many)"
    )
