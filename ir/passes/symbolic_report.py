"""Scalar regions as formulas to read: what ``symgrad show --emit symbolic`` prints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from symgrad.ir.graph import Func, Op, Region
from symgrad.ir.passes import op_cost
from symgrad.ir.passes.simplify_scalar import is_candidate, simplify_region

_LONG = 40
"""Formulas of more operations are printed with their common parts named."""


def report(func: Func, *, max_ops: int = 120) -> str:
    """Every nest of an optimized function as formulas, before and after simplification.

    ``func`` comes from ``optimize`` with ``simplify_scalar`` disabled.
    """
    lines = []
    names = {id(p): p.name for p in func.params}
    numbers = itertools.count()
    for op in func.ops:
        for value in op.results:
            names[id(value)] = f"v{next(numbers)}"
        if op.name == "fused":
            lines += _nest(op, names, max_ops)
    return "\n".join(lines) + "\n"


def _nest(op: Op, names: dict[int, str], max_ops: int) -> list[str]:
    (region,) = op.regions
    inputs = [names[id(v)] for v in op.operands]
    outputs = [
        names[id(v)] if how is None else f"{how[0]} into {names[id(v)]}"
        for v, how in zip(op.results, op.attrs["reduce"], strict=True)
    ]
    title = f"nest over {op.attrs['space']}"
    lines = [f"# {title}: {_size(region)}", *formulas(region, inputs, outputs)]
    if is_candidate(region, max_ops):
        after = simplify_region(region)
        if after is not region:
            lines += [f"# simplified: {_size(after)}", *formulas(after, inputs, outputs)]
    return lines


def _size(region: Region) -> str:
    return f"{op_cost.count(region.ops)} ops, {op_cost.cost(region):.0f} cycles a vector"


def formulas(region: Region, inputs: Sequence[str], outputs: Sequence[str] = ()) -> list[str]:
    """One line ``name = formula`` per result of a region."""
    import sympy

    known: dict[int, Any] = {
        id(p): sympy.Symbol(name) for p, name in zip(region.params, inputs, strict=True)
    }
    for op in region.ops:
        known[id(op.result)] = _formula(op, [known[id(v)] for v in op.operands])
    results = [known[id(v)] for v in region.results]
    labels = list(outputs) or [f"result {i}" for i in range(len(results))]
    parts: list[tuple[Any, Any]] = []
    if sum(sympy.count_ops(e) for e in results) > _LONG:
        parts, results = sympy.cse(results, symbols=sympy.numbered_symbols("s"), order="none")
    pairs = [*parts, *zip(labels, results, strict=True)]
    return [f"{name} = {sympy.sstr(e, full_prec=False)}" for name, e in pairs]


def _formula(op: Op, operands: list[Any]) -> Any:
    import sympy
    from symgrad.ir.passes.sympy_bridge import ANALYTIC, FORWARD

    if op.name == "constant":
        number = op.attrs["value"]
        if isinstance(number, bool):
            return sympy.Symbol(str(number))
        exact = sympy.Rational(number) if math.isfinite(number) else None
        short = exact is not None and exact.q <= 64
        return exact if short else sympy.Symbol(f"{number:.6g}")
    if op.name in ANALYTIC and op.name in FORWARD:
        return FORWARD[op.name](*operands)
    if op.name == "scale":
        return operands[0] * operands[1]
    return sympy.Function(op.name)(*operands)
