"""Loop bodies: what a loop need not compute, and passes on what is left."""

from __future__ import annotations

from collections.abc import Callable

from symgrad.ir.builder import Builder, inline
from symgrad.ir.graph import Func, Op, Region, Value
from symgrad.ir.rewrite import region_params

_BODIES = ("scan", "when", "while_loop")
"""Ops with a region that is run as a program of its own."""


def has_loops(func: Func) -> bool:
    """Whether any op of the function is a loop, or a branch."""
    return any(op.name in _BODIES for op in func.ops)


def rebuild_loops(func: Func, optimise: Callable[[Func], Func]) -> Func:
    """The function with each loop pruned and its body optimised, as a function of its own."""
    if not has_loops(func):
        return func
    uses = {id(v) for op in func.ops for v in op.operands} | {id(v) for v in func.results}
    builder = Builder(locations=False)
    new: dict[int, Value] = {}
    for param in func.params:
        new[id(param)] = builder.param(param.type, param.name)
        new[id(param)].facts = param.facts
    for op in func.ops:
        operands = [new[id(v)] for v in op.operands]
        with builder.at(op.loc):
            if op.name == "scan":
                new.update(_rebuilt(builder, op, operands, uses, optimise))
                continue
            if op.name in _BODIES:
                body = optimise(Func("body", *_parts(op.regions[0])))
                region = Region(*_parts(body))
                made = builder.emit(op.name, *operands, regions=(region,), **op.attrs)
            else:
                made = builder.copy(op, operands)
        values = made if isinstance(made, tuple) else (made,)
        new.update((id(old), value) for old, value in zip(op.results, values, strict=True))
    return builder.build([new[id(v)] for v in func.results], func.name)


def _parts(body: Region) -> tuple[tuple[Value, ...], tuple[Op, ...], tuple[Value, ...]]:
    return body.params, body.ops, body.results


def _rebuilt(
    builder: Builder, op: Op, operands: list[Value], uses: set[int],
    optimise: Callable[[Func], Func],
) -> dict[int, Value]:  # fmt: skip
    """A loop without what nobody uses, by its old results."""
    (region,), attrs = op.regions, op.attrs
    consts, carries = attrs["consts"], attrs["carries"]
    gives = len(region.results) - carries
    used = [id(v) in uses for v in op.results]
    steps = [j for j in range(gives) if used[carries + j]]
    state = {i for i in range(carries) if used[i] or used[carries + gives + i]}
    while True:
        results = [region.results[i] for i in sorted(state)]
        results += [region.results[carries + j] for j in steps]
        needed = _needed(region, results)
        more = {i for i in range(carries) if id(region.params[consts + i]) in needed} - state
        if not more:
            break
        state |= more
    kept_state = sorted(state)
    kept = [
        *(i for i in range(consts) if id(region.params[i]) in needed),
        *(consts + i for i in kept_state),
        *(i for i in range(consts + carries, len(operands)) if id(region.params[i]) in needed),
    ]
    inner = Builder(locations=False)
    params = region_params(inner, region)
    found = inline(inner, region, params)
    results = [found[i] for i in kept_state] + [found[carries + j] for j in steps]
    cut = inner.region([params[i] for i in kept], results)
    body = optimise(Func("body", cut.params, cut.ops, cut.results))
    made = builder.emit(
        "scan", *(operands[i] for i in kept),
        regions=(Region(body.params, body.ops, body.results),),
        consts=sum(i < consts for i in kept), carries=len(kept_state), length=attrs["length"],
        reverse=attrs["reverse"],
    )  # fmt: skip
    values = made if isinstance(made, tuple) else (made,)
    old = [*kept_state, *(carries + j for j in steps), *(carries + gives + i for i in kept_state)]
    return {id(op.results[i]): value for i, value in zip(old, values, strict=True)}


def _needed(region: Region, results: list[Value]) -> set[int]:
    """Everything in a region that some of its results depend on."""
    needed = {id(v) for v in results}
    for op in reversed(region.ops):
        if any(id(v) in needed for v in op.results):
            needed.update(id(v) for v in op.operands)
    return needed
