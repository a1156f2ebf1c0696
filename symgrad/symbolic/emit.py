"""The subexpressions of ``order`` computed one by one on traced operands."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import sympy

from symgrad.numpy.core import astype
from symgrad.symbolic.order import Order
from symgrad.symbolic.table import LOGIC, MATRICES, NUMBERS, RELATIONS
from symgrad.tracer import Tracer
from symgrad.tracing import constant

MAX_POWER = 64
"""Whole exponents up to here are products; every product adds its rounding."""
_ON_NUMBERS = {**NUMBERS, **RELATIONS, **MATRICES}


class Emission:
    """Values of expressions in the current trace, floating ones of one ``dtype``."""

    def __init__(self, order: Order, arguments: Mapping[Any, Tracer], dtype: np.dtype[Any]) -> None:
        self._order = order
        self._dtype = dtype
        self._known: dict[Any, Any] = dict(arguments)
        for e in order.computed:
            if e not in self._known:
                self._known[e] = self._value(e)

    def result(self, e: Any) -> Tracer:
        """The value of a root, constants included."""
        value = self._operand(e)
        if isinstance(value, Tracer):
            return value if value.dtype == bool else astype(value, self._dtype)
        return constant(value, bool if isinstance(value, bool) else self._dtype)

    def _operand(self, e: Any) -> Any:
        """A traced value, or the Python number that a constant is."""
        number = self._order.number(e)
        return self._known[e] if number is None else number

    def _number(self, e: Any) -> Any:
        """An operand of arithmetic: truth values count as 0 and 1."""
        x = self._operand(e)
        if isinstance(x, bool):
            return float(x)
        return astype(x, self._dtype) if isinstance(x, Tracer) and x.dtype == bool else x

    def _truth(self, e: Any) -> Any:
        """An operand of logic: numbers other than 0 are true."""
        x = self._operand(e)
        if isinstance(x, Tracer):
            return x if x.dtype == bool else np.not_equal(x, 0)
        return bool(x)

    def _value(self, e: Any) -> Any:
        kind, parts = type(e), self._order.parts(e)
        if e in self._order.replaced:
            return self._operand(parts[0])
        if kind is sympy.Add:
            return self._sum(e)
        if kind is sympy.Mul:
            return self._product(e)
        if kind is sympy.Pow:
            return self._power(e.base, e.exp)
        if isinstance(e, sympy.Piecewise):
            return self._pieces(e)
        if isinstance(e, (sympy.matrices.expressions.matexpr.MatrixElement, sympy.Indexed)):
            return self._operand(parts[0])[tuple(map(int, e.args[1:]))]
        if isinstance(e, sympy.MatrixBase):
            return np.stack([self.result(x) for x in parts]).reshape(e.shape)
        if kind in LOGIC:
            return LOGIC[kind](*map(self._truth, parts))
        return _ON_NUMBERS[kind](*map(self._number, parts))

    # -- sums and products -----------------------------------------------------------------

    def _sum(self, e: Any) -> Any:
        """The terms added up; those with a negative coefficient are subtracted."""
        total: Any = None
        less = []
        for term in self._order.variables(e):
            if self._is_negative(term):
                less.append(self._product(term, negated=True))
            else:
                value = self._number(term)
                total = value if total is None else total + value
        number = self._order.coefficient(e)
        if number:
            total = number if total is None else total + number
        for value in less:
            total = -value if total is None else total - value
        return total

    def _product(self, e: Any, *, negated: bool = False) -> Any:
        """Numerator over denominator, so that a quotient is rounded once."""
        above: Any = None
        below: Any = None
        for factor in self._order.variables(e):
            if isinstance(factor, sympy.Pow) and factor.exp.is_Rational and factor.exp < 0:
                value = self._power(factor.base, -factor.exp)
                below = value if below is None else below * value
            else:
                value = self._number(factor)
                above = value if above is None else above * value
        number = self._order.coefficient(e)
        number = -number if negated else number
        if above is None:
            above = number
        elif number == -1:
            above = -above
        elif number != 1:
            above = above * number
        return above if below is None else above / below

    def _is_negative(self, term: Any) -> bool:
        return isinstance(term, sympy.Mul) and self._order.coefficient(term) < 0

    def _power(self, base: Any, exponent: Any) -> Any:
        x = self._number(base)
        if not exponent.is_Rational:
            if self._order.number(base) == 2:
                return np.exp2(self._number(exponent))
            return np.power(x, self._number(exponent))
        size = Fraction(int(abs(exponent.p)), int(exponent.q))
        if size.denominator > 2 or size > MAX_POWER:
            return np.power(x, int(exponent.p) / int(exponent.q))
        power: Any = None if size < 1 else _whole_power(x, int(size))
        if size.denominator == 2:
            root = np.sqrt(x)
            power = root if power is None else power * root
        return 1 / power if exponent < 0 else power

    def _pieces(self, e: Any) -> Any:
        """The value under the first condition that holds; nan where none does."""
        value: Any = np.nan
        for part, condition in reversed(e.args):
            holds = self._truth(condition)
            x = self._number(part)
            value = x if holds is True else self._chosen(holds, x, value)
        return value

    def _chosen(self, holds: Any, x: Any, y: Any) -> Any:
        if not isinstance(x, Tracer) and not isinstance(y, Tracer):
            x = constant(x, self._dtype)
        return np.where(holds, x, y)


def _whole_power(x: Any, n: int) -> Any:
    """By squaring: common parts of several powers are the same products."""
    if n == 1:
        return x
    half = _whole_power(x, n // 2)
    return half * half * x if n % 2 else half * half
