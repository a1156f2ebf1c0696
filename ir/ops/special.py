"""Special functions as formulas of the elementary ones, computed in f64 whatever the type.

Each formula is written once over a namespace of elementary functions: NumPy's for the
reference, the ops' for the expansion that is compiled.  Sources: Stirling's series and the
reflection formulas (DLMF 5.11, 5.5, 5.15); for ``erfinv`` Winitzki's approximation and two
steps of Halley's method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError
from symgrad.ir.graph import Value, insertion
from symgrad.ir.opdef import Array, OpDef, Sample, elementwise, op
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.types import TensorType, f64

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
HALF_ROOT_PI = 0.886226925452758  # sqrt(pi) / 2, rounded once
_SHIFT = 8
"""Recurrence steps that bring an argument of at least 1/2 where the series are exact."""
_FAR_SHIFT = 16


def _less(x: Value, limit: float) -> Value:
    result: Value = ew.lt(x, insertion.builder.operand_like(limit, x))
    return result


_ARRAYS = SimpleNamespace(
    log=np.log, exp=np.exp, pow=np.power, sqrt=np.sqrt, sin=np.sin, cos=np.cos, abs=np.abs,
    round=np.rint, sign=np.sign, erf=ew._erf, erfc=ew._erfc, less=np.less, where=np.where,
    isnan=np.isnan,
)  # fmt: skip
_OPS = SimpleNamespace(
    log=ew.log, exp=ew.exp, pow=ew.pow, sqrt=ew.sqrt, sin=ew.sin, cos=ew.cos, abs=ew.abs,
    round=ew.round, sign=ew.sign, erf=ew.erf, erfc=ew.erfc, less=_less, where=ew.where,
    isnan=ew.isnan,
)  # fmt: skip


def _power(x: Any, n: int) -> Any:
    """``x ** n`` by multiplication."""
    result = x
    for _ in range(n - 1):
        result = result * x
    return result


def _polynomial(x: Any, coefficients: Any) -> Any:
    result: Any = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def _turn(m: Any, x: Any) -> tuple[Any, Any]:
    """``sin(pi x)`` and ``cos(pi x)`` up to a common sign."""
    angle = (x - m.round(x)) * math.pi
    return m.sin(angle), m.cos(angle)


def _raised(m: Any, x: Any) -> tuple[Any, Any, Any, Any, Any]:
    """What gamma and its logarithm know of an argument.

    Whether it is mirrored at 1/2; whether it is small then, and raised by ``_SHIFT``; the product
    by which that multiplies gamma; the argument that this leaves; the rest of Stirling's series.
    """
    mirrored = m.less(x, 0.5)
    z = m.where(mirrored, 1.0 - x, x)
    small = m.less(z, float(_SHIFT))
    low = m.where(small, z, 1.0)
    product: Any = low
    for k in range(1, _SHIFT):
        product = product * (low + float(k))
    w = m.where(small, z + float(_SHIFT), z)
    series = [b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI, 1)]
    inverse = 1.0 / w
    return mirrored, small, product, w, inverse * _polynomial(inverse * inverse, series)


def _log_gamma(m: Any, x: Any) -> Any:
    mirrored, small, product, w, rest = _raised(m, x)
    value = (w - 0.5) * m.log(w) - w + 0.5 * math.log(2 * math.pi) + rest
    value = value - m.where(small, m.log(product), 0.0)
    sine = m.abs(_turn(m, x)[0])
    value = m.where(mirrored, math.log(math.pi) - m.log(sine) - value, value)
    # Infinite and huge arguments: the series has inf - inf, the angle is nan.
    return m.where(m.less(m.abs(x), 1e305), value, m.where(m.isnan(x), x, math.inf))


def _gamma(m: Any, x: Any) -> Any:
    mirrored, small, product, w, rest = _raised(m, x)
    # Half the power at a time: the whole one is infinite before the result is.
    half = m.pow(w, 0.5 * w - 0.25)
    value = half * m.exp(-w) * half * (m.exp(rest) * math.sqrt(2 * math.pi))
    value = m.where(m.less(w, 200.0), m.where(small, value / product, value), math.inf)
    nearest = m.round(x)
    odd = m.abs(nearest - 2.0 * m.round(0.5 * nearest))
    sine = _turn(m, x)[0] * (1.0 - 2.0 * odd)
    value = m.where(mirrored, math.pi / (sine * value), value)
    return m.where(m.isnan(x), x, value)


def _poly_gamma(m: Any, x: Any, order: int) -> Any:
    reflects = order < 3
    shift = _SHIFT if reflects else _FAR_SHIFT
    mirrored = m.less(x, 0.5)
    z = m.where(mirrored, 1.0 - x, x) if reflects else x
    small = m.less(z, 8.5)
    low = m.where(small, z, 1.0)
    total: Any = 1.0 / _power(low, order + 1)
    for k in range(1, shift):
        total = total + 1.0 / _power(low + float(k), order + 1)
    w = m.where(small, z + float(shift), z)
    inverse = 1.0 / w
    if order == 0:
        terms = [-b / (2 * k) for k, b in enumerate(_BERNOULLI, 1)]
        series = m.log(w) - 0.5 * inverse
        sign = -1.0
    else:
        terms = [
            b * math.factorial(2 * k + order - 1) / math.factorial(2 * k)
            for k, b in enumerate(_BERNOULLI, 1)
        ]
        sign = -1.0 if order % 2 == 0 else 1.0
        series = _power(inverse, order) * math.factorial(order - 1)
        series = sign * (series + _power(inverse, order + 1) * (math.factorial(order) / 2))
    square = inverse * inverse
    tail = square * _polynomial(square, terms)
    series = series + (tail if order == 0 else sign * _power(inverse, order) * tail)
    value = series + m.where(small, total * (sign * math.factorial(order)), 0.0)
    if not reflects:
        return m.where(m.less(x, -7.5), math.nan, value)
    sine, cosine = _turn(m, x)
    mirror = (
        lambda: value - math.pi * (cosine / sine),
        lambda: math.pi**2 / (sine * sine) - value,
        lambda: value - 2 * math.pi**3 * (cosine / (sine * sine * sine)),
    )[order]()
    return m.where(mirrored, mirror, value)


def _inverse_erf(m: Any, x: Any) -> Any:
    size = m.abs(x)
    rest = 1.0 - size
    log = m.log(rest * (1.0 + size))
    middle = 2 / (math.pi * 0.147) + 0.5 * log
    square = log / -0.147 / (m.sqrt(middle * middle - log / 0.147) + middle)
    y = m.sqrt(square)
    for _ in range(2):
        miss = m.where(m.less(size, 0.5), m.erf(y) - size, rest - m.erfc(y))
        step = miss * m.exp(y * y) * HALF_ROOT_PI
        y = y - step / (1.0 + y * step)
    y = m.where(m.less(size, 1.0), y, m.where(m.less(rest, 0.0), math.nan, math.inf * (rest + 1.0)))
    return m.sign(x) * y


Formula = Callable[..., Any]


def _reference(formula: Formula) -> Callable[..., Array]:
    def evaluate(x: Array, **attrs: Any) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(formula(_ARRAYS, x.astype(np.float64), **attrs)).astype(x.dtype)

    return evaluate


def _expansion(opdef: OpDef, formula: Formula) -> None:
    @opdef.expand
    def _(x: Value, **attrs: Any) -> Value:
        wide = formula(_OPS, ew.convert(x, dtype=f64), **attrs)
        result: Value = ew.convert(wide, dtype=x.type.dtype)
        return result


lgamma: OpDef = elementwise(
    "lgamma", "x", "f", _reference(_log_gamma), sympy="loggamma(x)", sample=(0.5, 2.0),
    adjoint=lambda ct, y, x: (ew.scale(ct, insertion.builder.emit("polygamma", x, order=0)),),
    doc="The logarithm of the absolute value of the gamma function.",
)  # fmt: skip
gamma: OpDef = elementwise(
    "gamma", "x", "f", _reference(_gamma), sympy="gamma(x)", sample=(0.5, 2.5),
    adjoint=lambda ct, y, x: (ew.scale(ct, y * insertion.builder.emit("polygamma", x, order=0)),),
    doc="The gamma function.",
)  # fmt: skip
erfinv = elementwise(
    "erfinv", "x", "f", _reference(_inverse_erf), sympy="erfinv(x)", sample=(-0.8, 0.8),
    adjoint=lambda ct, y, x: (ew.scale(ct, ew.exp(y * y) * HALF_ROOT_PI),),
    doc="The inverse of ``erf``.",
)  # fmt: skip


@op("polygamma", samples=[Sample(((3, 4),), {"order": 0}, ((0.3, 3.0),))])
def polygamma(x: TensorType, *, order: int = 0) -> TensorType:
    """The derivative of ``order`` + 1 of ``lgamma``; 0 is the digamma function.

    From order 3 on, arguments below -7.5 give nan.
    """
    if x.dtype.kind != "f":
        raise DTypeError(f"polygamma: operands of dtype {x.dtype} are not supported")
    return x


polygamma.elementwise, polygamma.kinds = True, "f"
polygamma.evaluate(_reference(_poly_gamma))


@polygamma.adjoint
def _polygamma_adjoint(ct: Value, y: Value, x: Value, *, order: int) -> tuple[Value]:
    return (ew.scale(ct, polygamma(x, order=order + 1)),)


for _opdef, _formula in (
    (lgamma, _log_gamma), (gamma, _gamma), (erfinv, _inverse_erf), (polygamma, _poly_gamma)
):  # fmt: skip
    _expansion(_opdef, _formula)
