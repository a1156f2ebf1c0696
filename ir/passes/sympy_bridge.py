"""Scalar regions as SymPy expressions, and back, without losing a bit of a constant.

What SymPy's real analysis models faithfully becomes part of an expression; any other op
(comparisons, ``select``, ``scale``, ``relu``, conversions, integer arithmetic...) stays as
it is and its result is a symbol, so branches and nan keep their meaning.  Numbers with few
bits are rationals; every other constant is a positive symbol times a power of two, which
carries its exact binary value, so no digit is ever printed and read again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import sympy
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op, Region, Value, scalar_constant
from symgrad.ir.rewrite import region_params
from symgrad.ir.types import DType, TensorType
from sympy.codegen import cfunctions as cf
from sympy.core.function import FunctionClass

ARITHMETIC = frozenset(("neg", "add", "sub", "mul", "div", "sqrt", "rsqrt", "pow"))
"""Ops that are algebra; transcendental ones may be opaque or analytic."""

# SymPy has no sigmoid, and turns erfc(-x) into 2 - erfc(x), which loses all digits.
sigmoid = sympy.Function("sigmoid", real=True)
erfc = sympy.Function("erfc", real=True)
FORWARD: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "sqrt": sympy.sqrt,
    "rsqrt": lambda x: 1 / sympy.sqrt(x),
    "exp": sympy.exp,
    "log": sympy.log,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "asinh": sympy.asinh,
    "atan": sympy.atan,
    "erf": sympy.erf,
    "erfc": erfc,
    "abs": sympy.Abs,
    "exp2": cf.exp2,
    "expm1": cf.expm1,
    "log1p": cf.log1p,
    "log2": cf.log2,
    "log10": cf.log10,
    "sigmoid": sigmoid,
}
ANALYTIC = ARITHMETIC | frozenset(FORWARD) - {"abs"}
_BACKWARD = {f: name for name, f in FORWARD.items() if isinstance(f, FunctionClass)}
_PLAIN_BITS = 12
_MAX_POWER = 16


class UnfaithfulError(Exception):
    """An expression that no sequence of our ops stands for."""


@dataclass
class Formulas:
    """A region as expressions: its results, and the operands of ops kept as they are."""

    region: Region
    dtype: DType
    results: list[Any] = field(default_factory=list)
    opaque: dict[Any, tuple[Op, list[Any]]] = field(default_factory=dict)
    params: dict[Any, Value] = field(default_factory=dict)
    constants: dict[Any, Fraction] = field(default_factory=dict)

    def roots(self) -> list[Any]:
        """Every expression that has to be computed."""
        operands = (e for _, exprs in self.opaque.values() for e in exprs)
        return list(dict.fromkeys((*self.results, *operands)))

    def with_roots(self, new: Sequence[Any]) -> Formulas:
        """The same formulas with each root replaced."""
        to = dict(zip(self.roots(), new, strict=True))
        opaque = {s: (op, [to[e] for e in exprs]) for s, (op, exprs) in self.opaque.items()}
        results = [to[e] for e in self.results]
        return Formulas(self.region, self.dtype, results, opaque, self.params, self.constants)


def to_sympy(region: Region, dtype: DType, transparent: frozenset[str]) -> Formulas:
    """The region with ops named in ``transparent`` turned into expressions.

    Only ops whose operands and result are all of ``dtype`` are looked into.
    """
    formulas = Formulas(region, dtype)
    known: dict[int, Any] = {}
    for i, param in enumerate(region.params):
        symbol = sympy.Symbol(f"x{i}", real=True)
        formulas.params[symbol] = param
        known[id(param)] = symbol
    for op in region.ops:
        value = op.result
        number = scalar_constant(value)
        if number is not None and value.type.dtype == dtype and math.isfinite(number):
            known[id(value)] = _constant(Fraction(number), formulas)
            continue
        operands = [known[id(v)] for v in op.operands]
        own = value.type.dtype == dtype and all(v.type.dtype == dtype for v in op.operands)
        expression = _expression(op, operands) if own and op.name in transparent else None
        if expression is None:
            expression = sympy.Symbol(f"t{len(formulas.opaque)}", real=True)
            formulas.opaque[expression] = (op, operands)
        known[id(value)] = expression
    formulas.results = [known[id(v)] for v in region.results]
    return formulas


def _expression(op: Op, operands: Sequence[Any]) -> Any:
    if op.name != "pow":
        return FORWARD[op.name](*operands)
    base, exponent = operands
    halves = exponent.is_Rational and exponent.q in (1, 2) and abs(exponent) <= _MAX_POWER
    return base**exponent if halves else None


def _constant(number: Fraction, formulas: Formulas) -> Any:
    if abs(number.numerator) < 2**_PLAIN_BITS and number.denominator < 2**_PLAIN_BITS:
        return sympy.Rational(number.numerator, number.denominator)
    mantissa, exponent = abs(number), 0
    while mantissa >= 2:
        mantissa, exponent = mantissa / 2, exponent + 1
    while mantissa < 1:
        mantissa, exponent = mantissa * 2, exponent - 1
    symbols = {value: symbol for symbol, value in formulas.constants.items()}
    symbol = symbols.get(mantissa) or sympy.Symbol(f"k{len(symbols)}", positive=True)
    formulas.constants[symbol] = mantissa
    return (-1 if number < 0 else 1) * sympy.Integer(2) ** exponent * symbol


def _merged_constants(e: Any, formulas: Formulas) -> Any:
    """The expression with one constant per product, so that no part of one is shared."""
    if not e.args:
        return e
    new = e.func(*(_merged_constants(a, formulas) for a in e.args))
    if not new.is_Mul:
        return new
    constants = [a for a in new.args if a.is_Rational or a in formulas.constants]
    if len(constants) < 2 or all(a.is_Rational for a in constants):
        return new
    number = Fraction(1)
    for a in constants:
        number *= formulas.constants.get(a) or Fraction(int(a.p), int(a.q))
    rest = (a for a in new.args if a not in constants)
    return sympy.Mul(_constant(number, formulas), *rest)


def to_region(formulas: Formulas) -> Region:
    """A region that computes the formulas, common subexpressions once.

    Raises ``UnfaithfulError`` where an expression has no counterpart.
    """
    formulas = formulas.with_roots([_merged_constants(e, formulas) for e in formulas.roots()])
    roots = formulas.roots()
    shared, reduced = sympy.cse(roots, symbols=sympy.numbered_symbols("s"), order="none")
    writer = _Writer(formulas, dict(shared), dict(zip(roots, reduced, strict=True)))
    with writer.builder:
        results = [writer.root(e) for e in formulas.results]
    return writer.builder.region(writer.param_values, results)


class _Writer:
    """Emits expressions into a region builder."""

    def __init__(self, formulas: Formulas, shared: dict[Any, Any], reduced: dict[Any, Any]) -> None:
        self.formulas = formulas
        self.shared = shared
        self.reduced = reduced
        self.builder = Builder(locations=False)
        self.type = TensorType(formulas.dtype)
        self.param_values = region_params(self.builder, formulas.region)
        self.known: dict[Any, Value] = dict(zip(formulas.params, self.param_values, strict=True))

    def root(self, expression: Any) -> Value:
        return self.value(self.reduced[expression])

    def value(self, e: Any) -> Value:
        """The region value of an expression."""
        if e not in self.known:
            self.known[e] = self._emit(e)
        return self.known[e]

    def _emit(self, e: Any) -> Value:
        if e in self.shared:
            return self.value(self.shared[e])
        if e in self.formulas.opaque:
            op, operands = self.formulas.opaque[e]
            with self.builder.at(op.loc):
                kept: Value = self.builder.copy(op, [self.root(o) for o in operands])
            return kept
        if (number := self._number(e)) is not None:
            return self.builder.constant(float(number), self.type)
        if e.is_Add:
            return self._sum(e)
        if e.is_Mul:
            return self._product(e)
        if e.is_Pow:
            return self._power(e.base, e.exp)
        if (name := _BACKWARD.get(e.func)) is not None:
            result: Value = self.builder.emit(name, *(self.value(a) for a in e.args))
            return result
        raise UnfaithfulError(str(e.func))

    def _number(self, e: Any) -> Fraction | None:
        """The exact value of a constant expression, to 60 digits where it is irrational."""
        if e.is_Rational:
            return Fraction(int(e.p), int(e.q))
        constants = self.formulas.constants
        if not all(s in constants for s in e.free_symbols) or e.is_Boolean:
            return None
        exact = {s: sympy.Rational(v.numerator, v.denominator) for s, v in constants.items()}
        number = e.subs(exact)
        if not number.is_Rational:
            number = sympy.Rational(str(sympy.N(number, 60)))
        return Fraction(int(number.p), int(number.q))

    def _sum(self, e: Any) -> Value:
        plus: list[Any] = []
        minus: list[Any] = []
        for term in e.as_ordered_terms():
            if (number := self._number(term)) is not None:
                (plus if number > 0 else minus).append(abs(number))
            elif term.could_extract_minus_sign() and term.is_Mul:
                minus.append(-term)
            else:
                plus.append(term)
        values = [self._term(t) for t in plus]
        if not values:
            total: Value = -self._term(minus.pop(0))
        else:
            total = values[0]
            for value in values[1:]:
                total = self.builder.emit("add", total, value)
        for term in minus:
            total = self.builder.emit("sub", total, self._term(term))
        return total

    def _term(self, term: Any) -> Value:
        if isinstance(term, Fraction):
            return self.builder.constant(float(term), self.type)
        return self.value(term)

    def _product(self, e: Any) -> Value:
        number, above, below = Fraction(1), [], []
        for factor in e.as_ordered_factors():
            if (constant := self._number(factor)) is not None:
                number *= constant
            elif factor.is_Pow and factor.exp.is_Rational and factor.exp < 0:
                below.append(factor)
            else:
                above.append(self.value(factor))
        if below:
            bottom = [self._power(f.base, -f.exp) for f in below]
            top = self._joined(above, number)
            if top is None:
                top = self.builder.constant(float(number), self.type)
            result: Value = self.builder.emit("div", top, self._join(bottom))
            return result
        joined = self._joined(above, number)
        return joined if joined is not None else self.builder.constant(float(number), self.type)

    def _joined(self, values: list[Value], number: Fraction) -> Value | None:
        """The product of values and a number; ``None`` if there are no values."""
        if not values:
            return None
        product = self._join(values)
        if number == 1:
            return product
        if number == -1:
            return -product
        result: Value = self.builder.emit(
            "mul", product, self.builder.constant(float(number), self.type)
        )
        return result

    def _join(self, values: Iterable[Value]) -> Value:
        product: Value | None = None
        for value in values:
            product = value if product is None else self.builder.emit("mul", product, value)
        if product is None:
            raise UnfaithfulError("empty product")
        return product

    def _power(self, base: Any, exponent: Any) -> Value:
        if base == sympy.E:
            result: Value = self.builder.emit("exp", self.value(exponent))
            return result
        if base == 2 and not exponent.is_Rational:
            result = self.builder.emit("exp2", self.value(exponent))
            return result
        if not exponent.is_Rational or exponent.q > 2 or abs(exponent) > _MAX_POWER:
            result = self.builder.emit("pow", self.value(base), self.value(exponent))
            return result
        if exponent < 0:
            one = self.builder.constant(1.0, self.type)
            result = self.builder.emit("div", one, self._power(base, -exponent))
            return result
        value, whole = self.value(base), int(exponent)
        parts = [self._integer_power(value, whole)] if whole else []
        if exponent.q == 2:
            parts.append(self.builder.emit("sqrt", value))
        return self._join(parts)

    def _integer_power(self, value: Value, n: int) -> Value:
        if n == 1:
            return value
        half = self._integer_power(value, n // 2)
        square: Value = self.builder.emit("mul", half, half)
        result: Value = self.builder.emit("mul", square, value) if n % 2 else square
        return result
