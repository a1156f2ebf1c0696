"""Loop bodies: what a loop need not compute, and passes on what is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from symgrad.ir.builder import Builder, inline
from symgrad.ir.graph import Func, Op, Region, Value
from symgrad.ir.passes.canonicalize import canonicalize
from symgrad.ir.passes.expand import expand
from symgrad.ir.passes.fixed_factors import turn_fixed_factors
from symgrad.ir.passes.linear_loops import spread_out
from symgrad.ir.passes.residuals import leave_residuals
from symgrad.ir.passes.summed_products import Loop, sum_products_at_once
from symgrad.ir.rewrite import region_params

_BODIES = ("scan", "when", "while_loop")
"""Ops with a region that is run as a program of its own."""


def has_loops(func: Func) -> bool:
    """Whether any op of the function is a loop, or a branch."""
    return any(op.name in _BODIES for op in func.ops)


def rebuild_loops(func: Func, optimise: Callable[[Func], Func]) -> Func:
    """The function with each loop pruned and its body optimised, as a function of its own.

    In between loops come to leave for their derivatives what is best for both: what is not
    needed then is pruned again.
    """
    if not has_loops(func):
        return func

    def optimised(region: Region) -> Region:
        return _as_region(optimise(_as_func(region)))

    func = leave_residuals(_pruned(func, _as_it_is, lambda region: region))
    return _pruned(func, functools.partial(_loop, optimised), optimised)


def _pruned(func: Func, loop: Loop, body: Callable[[Region], Region]) -> Func:
    """The function with its loops pruned and emitted by ``loop``, and each ``body`` of a branch
    rebuilt."""
    uses = {id(v) for op in func.ops for v in op.operands} | {id(v) for v in func.results}
    builder = Builder(locations=False)
    new: dict[int, Value] = {}
    for param in func.params:
        new[id(param)] = builder.param_like(param, param.name)
    for op in func.ops:
        operands = [new[id(v)] for v in op.operands]
        with builder.at(op.loc):
            if op.name == "scan":
                new.update(_without_unused(builder, op, operands, uses, loop))
                continue
            if op.name in _BODIES:
                made = builder.emit(op.name, *operands, regions=(body(op.regions[0]),), **op.attrs)
            else:
                made = builder.copy(op, operands)
        values = made if isinstance(made, tuple) else (made,)
        new.update((id(old), value) for old, value in zip(op.results, values, strict=True))
    return builder.build([new[id(v)] for v in func.results], func.name)


def _as_func(body: Region) -> Func:
    return Func("body", body.params, body.ops, body.results)


def _as_region(body: Func) -> Region:
    return Region(body.params, body.ops, body.results)


def _without_unused(
    builder: Builder, op: Op, operands: list[Value], uses: set[int], loop: Loop
) -> dict[int, Value]:
    """A loop without what nobody uses and state that no step changes, by its old results."""
    (region,), attrs = op.regions, op.attrs
    consts, carries = attrs["consts"], attrs["carries"]
    first = consts + carries
    gives = len(region.results) - carries
    used = [id(v) in uses for v in op.results]
    steps = [j for j in range(gives) if used[carries + j]]
    fixed = {i for i in range(carries) if region.results[i] is region.params[consts + i]}
    state = {i for i in range(carries) if used[i] or used[carries + gives + i]} - fixed
    while True:
        results = [region.results[i] for i in sorted(state)]
        results += [region.results[carries + j] for j in steps]
        needed = _needed(region, results)
        more = {i for i in range(carries) if id(region.params[consts + i]) in needed}
        if more <= state | fixed:
            break
        state |= more - fixed
    kept_state = sorted(state)
    outer = [*range(consts), *(consts + i for i in sorted(fixed))]
    outer = [i for i in outer if id(region.params[i]) in needed]
    each = [i for i in range(first, len(operands)) if id(region.params[i]) in needed]
    kept = [*outer, *(consts + i for i in kept_state), *each]
    inner = Builder(locations=False)
    params = region_params(inner, region)
    found = inline(inner, region, params)
    results = [found[i] for i in kept_state] + [found[carries + j] for j in steps]
    cut = inner.region([params[i] for i in kept], results)
    old = [*kept_state, *(carries + j for j in steps), *(carries + gives + i for i in kept_state)]
    attrs = {**attrs, "consts": len(outer), "carries": len(kept_state)}
    wanted, inputs = [used[i] for i in old], [operands[i] for i in kept]
    values = loop(builder, cut, inputs, wanted, attrs) if old else ()
    made = {id(op.results[i]): v for i, v in zip(old, values, strict=True) if v is not None}
    for i in fixed:
        made[id(op.results[i])] = operands[consts + i]
        began = op.results[carries + gives + i]
        if id(began) in uses:
            axes = tuple(range(1, began.rank))
            made[id(began)] = builder.emit(
                "broadcast_to", operands[consts + i], shape=began.shape, axes=axes
            )
    return made


def _as_it_is(
    builder: Builder, body: Region, operands: list[Value], wanted: list[bool],
    attrs: dict[str, Any],
) -> Sequence[Value | None]:  # fmt: skip
    made = builder.emit("scan", *operands, regions=(body,), **attrs)
    return made if isinstance(made, tuple) else (made,)


def _loop(
    optimised: Callable[[Region], Region], builder: Builder, body: Region, operands: list[Value],
    wanted: list[bool], attrs: dict[str, Any],
) -> Sequence[Value | None]:  # fmt: skip
    """A loop's results, where they are ``wanted``: all steps at once as far as that can be."""
    normal = _as_region(canonicalize(expand(_as_func(body))))
    values = spread_out(builder, normal, operands, wanted, attrs, optimised)
    if values is not None:
        return values
    values = sum_products_at_once(
        builder, normal, operands, wanted, attrs, functools.partial(_loop, optimised)
    )
    if values is not None:
        return values
    body, operands = turn_fixed_factors(builder, normal, operands, attrs["consts"])
    return _as_it_is(builder, optimised(body), operands, wanted, attrs)


def _needed(region: Region, results: list[Value]) -> set[int]:
    """Everything in a region that some of its results depend on."""
    needed = {id(v) for v in results}
    for op in reversed(region.ops):
        if any(id(v) in needed for v in op.results):
            needed.update(id(v) for v in op.operands)
    return needed
