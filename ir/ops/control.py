"""Structured control flow: a body run once per step, its state carried from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from symgrad.ir.adjoint import pull_back
from symgrad.ir.builder import Builder, inline
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.ir.graph import Region, Value, insertion
from symgrad.ir.interp import evaluate_region
from symgrad.ir.opdef import Array, op
from symgrad.ir.types import TensorType


@op("scan")
def scan(
    *operands: TensorType, consts: int, carries: int, length: int, reverse: bool = False,
    region: Region,
) -> tuple[TensorType, ...]:  # fmt: skip
    """``length`` runs of a region, in order of time or in ``reverse``.

    Operands: ``consts`` values that all steps see, ``carries`` initial values of the state, and
    the rest arrays ``[length, ...]`` of which step t sees element t.  The region takes them in
    this order and yields the next state and what the step gives.  Results: the last state;
    arrays ``[length, ...]`` of what the steps gave; arrays ``[length, ...]`` of the state that
    each step began with, which are what a derivative needs.
    """
    if min(consts, carries, length, len(operands) - consts - carries) < 0:
        raise UsageError(f"scan: consts={consts}, carries={carries} of {len(operands)} operands")
    each = operands[consts + carries :]
    for t in each:
        if not t.shape or t.shape[0] != length:
            raise ShapeError(f"scan: {t} has no element for each of {length} steps")
    state = operands[consts : consts + carries]
    expected = (*operands[: consts + carries], *(t.with_shape(t.shape[1:]) for t in each))
    if tuple(p.type for p in region.params) != expected:
        found = ", ".join(str(p.type) for p in region.params)
        raise ShapeError(f"scan: the body takes ({found}), not ({', '.join(map(str, expected))})")
    given = tuple(v.type for v in region.results)
    if given[:carries] != state:
        raise ShapeError(
            f"scan: the state is ({', '.join(map(str, state))}) before a step and "
            f"({', '.join(map(str, given[:carries]))}) after it; both must be the same"
        )
    stacked = (t.with_shape((length, *t.shape)) for t in (*given[carries:], *state))
    return (*state, *stacked)


@scan.evaluate
def _scan(
    *operands: Array, consts: int, carries: int, length: int, reverse: bool, region: Region
) -> tuple[Array, ...]:
    fixed, each = operands[:consts], operands[consts + carries :]
    state: Sequence[Array] = operands[consts : consts + carries]
    types = [v.type for v in (*region.results[carries:], *region.results[:carries])]
    stacked = [np.empty((length, *t.shape), t.dtype.numpy) for t in types]
    for t in reversed(range(length)) if reverse else range(length):
        found = evaluate_region(region, [*fixed, *state, *(x[t] for x in each)])
        for array, value in zip(stacked, [*found[carries:], *state], strict=True):
            array[t] = value
        state = found[:carries]
    return (*state, *stacked)


@scan.adjoint
def _scan_adjoint(
    ct: Any, result: Any, *operands: Value, consts: int, carries: int, length: int, reverse: bool
) -> tuple[Value | None, ...]:
    """The same loop the other way round: each step runs the body again, from the state that it
    began with, and pulls the cotangents back through it.  State of that loop: the cotangents of
    the state, and the sums of those of ``consts``.

    What the steps gave is not computed again, nor what served that alone: a body may keep
    something by giving it, and where no derivative is taken, what nobody reads costs nothing.
    The pass ``leave_residuals`` has the loop leave more where that is cheaper.
    """
    if isinstance(result, Value):
        ct, result = (ct,), (result,)
    (region,) = result[0].op.regions
    gives = len(region.results) - carries
    fixed, each = operands[:consts], operands[consts + carries :]
    state = operands[consts : consts + carries]
    began = result[carries + gives :]
    smooth = [i for i, v in enumerate(state) if v.type.dtype.is_inexact]
    summed = [i for i, v in enumerate(fixed) if v.type.dtype.is_inexact]
    told = [i for i in range(gives) if ct[carries + i] is not None]
    asked = [i for i in smooth if ct[carries + gives + i] is not None]

    builder, params = Builder(locations=False), list[Value]()

    def take(types: Iterable[TensorType]) -> list[Value]:
        """The next parameters of the new body; nothing is known of cotangents."""
        new = [builder.param(t) for t in types]
        params.extend(new)
        for param in new:
            param.facts = 0
        return new

    body_fixed = take(v.type for v in fixed)
    state_ct = take(state[i].type for i in smooth)
    sums = take(fixed[i].type for i in summed)
    body_each = take(p.type for p in region.params[consts + carries :])
    body_state = take(v.type for v in state)
    told_ct = take(region.results[carries + i].type for i in told)
    asked_ct = take(state[i].type for i in asked)
    inputs = [*body_fixed, *body_state, *body_each]
    for param, old in zip(inputs, region.params, strict=True):
        param.facts = old.facts
    found = inline(builder, region, inputs)
    outputs = [*(found[i] for i in smooth), *(found[carries + i] for i in told)]
    parts = pull_back(builder, outputs, [*state_ct, *told_ct], inputs)
    by_fixed, by_state = parts[:consts], parts[consts : consts + carries]
    by_each = {i: v for i, v in enumerate(parts[consts + carries :]) if v is not None}
    with builder:
        for i, extra in zip(asked, asked_ct, strict=True):
            by_state[i] = _sum(extra, by_state[i])
        yields = [
            *(_or_zero(by_state[i], state[i].type) for i in smooth),
            *(_sum(total, by_fixed[i]) for total, i in zip(sums, summed, strict=True)),
            *by_each.values(),
        ]
    gave = {found[carries + i]: result[carries + i] for i in range(gives)}
    region, recalled = recalling(builder.region(params, yields), gave)
    made = insertion.builder.emit(
        "scan",
        *fixed,
        *(_or_zero(ct[i], state[i].type) for i in smooth),
        *(_or_zero(None, fixed[i].type) for i in summed),
        *each, *began, *(ct[carries + i] for i in told), *(ct[carries + gives + i] for i in asked),
        *recalled, regions=(region,),
        consts=consts, carries=len(smooth) + len(summed), length=length, reverse=not reverse,
    )  # fmt: skip
    found_cts: list[Value | None] = [None] * len(operands)
    targets = [*(consts + i for i in smooth), *summed, *(consts + carries + i for i in by_each)]
    for target, value in zip(targets, made if isinstance(made, tuple) else (made,), strict=False):
        found_cts[target] = value
    return tuple(found_cts)


def recalling(region: Region, gave: Mapping[Value, Value]) -> tuple[Region, list[Value]]:
    """A body that takes values it would compute from arrays ``[length, ...]`` that have them.

    ``gave`` has these arrays by the values.  Returned are the body, with more parameters at its
    end, and the arrays for these.
    """
    if not any(v in gave for step in region.ops for v in step.results):
        return region, []
    builder = Builder(locations=False)
    mapping: dict[Value, Value] = {}
    for param in region.params:
        mapping[param] = builder.param_like(param)
    taken: dict[Value, Value] = {}
    for step in region.ops:
        for value in step.results:
            if value in gave:
                mapping[value] = taken[value] = builder.param_like(value)
        if not all(v in taken for v in step.results):
            made = builder.copy(step, [mapping[v] for v in step.operands])
            made = made if isinstance(made, tuple) else (made,)
            for value, new in zip(step.results, made, strict=True):
                mapping.setdefault(value, new)
    results = [mapping[v] for v in region.results]
    read = {v for step in builder.ops_behind(results) for v in step.operands} | set(results)
    used = [v for v, param in taken.items() if param in read]
    params = [mapping[v] for v in (*region.params, *used)]
    return builder.region(params, results), [gave[v] for v in used]


def _or_zero(value: Value | None, type: TensorType) -> Value:
    return insertion.builder.constant(0, type) if value is None else value


def _sum(total: Value, part: Value | None) -> Value:
    return total if part is None else total + part
