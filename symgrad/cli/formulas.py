"""IR functions as formulas in LaTeX, through SymPy.

An elementwise op stands for its formula from the op table, whatever the shape; ops that only
move elements vanish; any other op is a named function of its operands.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

from symgrad.ir import Func, Op
from symgrad.ir.graph import scalar_constant

_UNSEEN = ("identity", "stop_gradient", "broadcast_to", "reshape", "convert", "transpose")
_NAMES = {"dot_general": "dot", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}
_LARGE = 40
"""Operations from which common parts of a formula get names of their own."""


def as_latex(func: Func) -> str:
    """An aligned block with one row per result, after the named common parts, if any."""
    from sympy import latex

    rows = [
        f"  {latex(name) if not isinstance(name, str) else _roman(name)} &= {latex(formula)} \\\\"
        for name, formula in _lines(func)
    ]
    return "\n".join(["\\begin{aligned}", *rows, "\\end{aligned}"])


def _roman(name: str) -> str:
    return "\\mathrm{" + name.replace("_", "\\_") + "}"


def _lines(func: Func) -> list[tuple[Any, Any]]:
    import sympy

    names = (
        [f"result{i}" for i in range(len(func.results))] if len(func.results) > 1 else ["result"]
    )
    formulas = expressions(func)
    if sum(formula.count_ops() for formula in formulas) <= _LARGE:
        return list(zip(names, formulas, strict=True))
    parts, reduced = sympy.cse(formulas, symbols=sympy.numbered_symbols("t"))
    return [*parts, *zip(names, reduced, strict=True)]


def expressions(func: Func) -> list[Any]:
    """The results as SymPy expressions in symbols named after the parameters."""
    import sympy

    known = {id(p): sympy.Symbol(p.name, real=True) for p in func.params}
    for op in func.ops:
        results = _of_op(op, [known[id(v)] for v in op.operands])
        known.update((id(v), e) for v, e in zip(op.results, results, strict=True))
    return [known[id(v)] for v in func.results]


def _of_op(op: Op, operands: list[Any]) -> list[Any]:
    import sympy

    if op.name in _UNSEEN:
        return operands
    if op.name == "constant":
        number = scalar_constant(op.result)
        return [sympy.Symbol("constant") if number is None else _number(number)]
    if op.name == "select":
        condition, x, y = operands
        if isinstance(condition, (sympy.logic.boolalg.Boolean, sympy.Symbol)):
            return [sympy.Piecewise((x, condition), (y, True), evaluate=False)]
    elif op.opdef.sympy is not None:
        return [_formula(op.opdef.sympy, len(operands))(*operands)]
    name = _NAMES.get(op.name, op.name)
    if len(op.results) == 1:
        return [sympy.Function(name)(*operands)]
    return [sympy.Function(f"{name}_{i}")(*operands) for i in range(len(op.results))]


@cache
def _formula(text: str, count: int) -> Callable[..., Any]:
    """An op's formula as a function of expressions."""
    import sympy

    names = ("x", "y", "z")[:count]
    result: Callable[..., Any] = eval(f"lambda {', '.join(names)}: {text}", vars(sympy).copy())
    return result


def _number(x: Any) -> Any:
    """An exact number where it is short, else its decimal digits."""
    import sympy

    if isinstance(x, bool):
        return sympy.true if x else sympy.false
    if isinstance(x, (int, float)) and x - x == 0:
        exact = Fraction(x)
        if exact.denominator <= 64:
            return sympy.Rational(exact.numerator, exact.denominator)
    return sympy.sympify(x)
