"""Elementwise operations: one row each.

A row holds the operand names, dtype kinds, NumPy reference, adjoint rule, SymPy
form and the range test inputs are drawn from.  Adjoint rules multiply by a local
slope with ``scale``, for which 0 times infinity is 0: the branch of a ``where``
that is not taken contributes nothing, whatever its slope.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.facts import is_positive, is_tame
from symgrad.ir.graph import Value, insertion, scalar_constant
from symgrad.ir.opdef import (
    ANY,
    BITS,
    FLOAT,
    INTEGER,
    NUMERIC,
    ORDERED,
    Array,
    OpDef,
    Sample,
    elementwise,
    op,
)
from symgrad.ir.types import DType, TensorType, bool_

# -- helpers of the rules ------------------------------------------------------


def where(condition: Value, x: Value | float, y: Value | float) -> Value:
    """``select`` that takes Python numbers on one side."""
    like = x if isinstance(x, Value) else y
    if not isinstance(like, Value):
        raise TypeError("one branch must be a Value")
    builder = insertion.builder
    branches = [v if isinstance(v, Value) else builder.operand_like(v, like) for v in (x, y)]
    result: Value = select(condition, *branches)
    return result


def zeros_like(x: Value) -> Value:
    """The constant 0 of a value's type."""
    return insertion.builder.operand_like(0, x)


def divide(ct: Value, y: Value) -> Value:
    """``ct / y``, and 0 where ``ct`` is 0."""
    return ct / y if is_tame(y) and is_positive(y) else scale(ct, 1 / y)


def _reference(name: str) -> Any:
    """A function of SciPy's quality from mpmath-free sources: Python's own math."""
    return np.vectorize(getattr(math, name), otypes=[np.float64])


def _in_dtype(f: Any) -> Any:
    """Applies a float64 reference and rounds back to the operands' dtype."""

    def evaluate(*arrays: Array) -> Array:
        with np.errstate(all="ignore"):
            result = f(*(np.asarray(a, np.float64) for a in arrays))
        return np.asarray(result).astype(arrays[0].dtype)

    return evaluate


_erf, _erfc = _in_dtype(_reference("erf")), _in_dtype(_reference("erfc"))


def _sigmoid(x: Array) -> Array:
    t = np.exp(-np.abs(x))
    one = x.dtype.type(1)
    return np.asarray(np.where(x >= 0, one / (one + t), t / (one + t)))


def _shift(f: Any, fill_sign: bool) -> Any:
    def evaluate(x: Array, n: Array) -> Array:
        bits = x.dtype.itemsize * 8
        fits = (n >= 0) & (n < bits)
        inside = f(x, np.where(fits, n, 0))
        outside = -(x < 0).astype(x.dtype) if fill_sign else 0
        return np.asarray(np.where(fits, inside, outside), dtype=x.dtype)

    return evaluate


def _quiet(f: Any) -> Any:
    def evaluate(*arrays: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(f(*arrays))

    return evaluate


# -- linear and bilinear ---------------------------------------------------------

# A table, read by its rows:
# fmt: off
neg = elementwise(
    "neg", "x", NUMERIC, np.negative, sympy="-x", adjoint=lambda ct, y, x: (-ct,)
)
add = elementwise(
    "add", "x y", ANY, np.add, sympy="x + y", commutative=True,
    adjoint=lambda ct, r, x, y: (ct, ct),
)
sub = elementwise(
    "sub", "x y", NUMERIC, np.subtract, sympy="x - y", adjoint=lambda ct, r, x, y: (ct, -ct)
)
mul = elementwise(
    "mul", "x y", ANY, np.multiply, sympy="x * y", commutative=True,
    adjoint=lambda ct, r, x, y: (scale(ct, y), scale(ct, x)),
)


def _scale(ct: Array, slope: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.where(ct == 0, ct, ct * slope))


scale: OpDef = elementwise(
    "scale", "ct slope", FLOAT, _scale, sympy="x * y",
    adjoint=lambda ct, r, x, y: (scale(ct, y), scale_both(ct, x)),
    doc="``ct * slope``, and 0 where ``ct`` is 0 even if the slope is infinite or nan.",
)


@scale.fold
def _scale_fold(ct: Value, slope: Value) -> Value | None:
    return ct * slope if is_tame(slope) or scalar_constant(ct) else None


def _scale_both(x: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.where((x == 0) | (y == 0), 0, x * y), x.dtype)


scale_both: OpDef = elementwise(
    "scale_both", "x y", FLOAT, _scale_both, sympy="x * y", commutative=True,
    adjoint=lambda ct, r, x, y: (scale_both(ct, y), scale_both(ct, x)),
    doc="""``x * y``, and 0 where either is 0 even if the other is infinite or nan.

    What derivatives of ``scale`` by its slope are made of: of the cotangent of an untaken branch
    and of a tangent that is nan there, in whichever order derivatives are taken.
    """,
)


@scale_both.expand
def _scale_both_expansion(x: Value, y: Value) -> Value:
    if not is_tame(x):
        x, y = y, x
    result: Value = scale(x, y)
    if not is_tame(x):
        result = where(eq(y, zeros_like(y)), 0.0, result)
    return result


@scale_both.fold
def _scale_both_fold(x: Value, y: Value) -> Value | None:
    return x * y if scalar_constant(x) or scalar_constant(y) else None


@mul.fold
def _mul_fold(x: Value, y: Value) -> Value | None:
    return y if scalar_constant(x) == 1 else x if scalar_constant(y) == 1 else None


def _div_adjoint(ct: Value, r: Value, x: Value, y: Value) -> tuple[Value, Value]:
    return divide(ct, y), -scale(ct, r / y)


div = elementwise(
    "div", "x y", FLOAT, _quiet(np.divide), sympy="x / y", sample=((-2, 2), (0.5, 2)),
    adjoint=_div_adjoint,
)

# -- powers and roots --------------------------------------------------------------


def _pow_adjoint(ct: Value, r: Value, x: Value, y: Value) -> tuple[Value, Value]:
    # d/dx x^y = y x^(y-1), 0 where y = 0;  d/dy = x^y log x, 0 where x = 0 < y.
    exponent = scalar_constant(y)
    if exponent is not None:
        slope = 2 * x if exponent == 2 else power(x, exponent - 1) * exponent
        return scale(ct, slope), scale(ct, _pow_log(r, x))
    slope = where(eq(y, zeros_like(y)), 0.0, y * pow(x, y - 1))
    return scale(ct, slope), scale(ct, _pow_log(r, x))


def _pow_log(r: Value, x: Value) -> Value:
    return where(eq(r, zeros_like(r)), 0.0, r * log(x))


def power(x: Value, exponent: float) -> Value:
    """``x ** exponent`` for a Python number."""
    result: Value = pow(x, insertion.builder.operand_like(exponent, x))
    return result


def _power(x: Array, y: Array) -> Array:
    """Of integers to negative powers, where NumPy raises, the exact result rounded to 0."""
    if x.dtype.kind not in "iu" or (y >= 0).all():
        return np.asarray(np.power(x, y))
    whole = np.where(np.abs(x) == 1, np.where(y % 2 == 0, 1, x), 0)
    return np.where(y < 0, whole, np.power(x, np.maximum(y, 0))).astype(x.dtype)


pow = elementwise(
    "pow", "x y", NUMERIC, _quiet(_power), sympy="x ** y", sample=((0.5, 2), (0.2, 2.5)),
    adjoint=_pow_adjoint,
)


@pow.fold
def _pow_fold(x: Value, y: Value) -> Value | None:
    exponent = scalar_constant(y)
    if not x.type.dtype.is_float or exponent is None:
        return None
    squared = {0: lambda: insertion.builder.operand_like(1, x), 1: lambda: x, 2: lambda: x * x,
               -1: lambda: 1 / x}
    return squared[exponent]() if exponent in squared else None


sqrt = elementwise(
    "sqrt", "x", FLOAT, _quiet(np.sqrt), sympy="sqrt(x)", sample=(0.5, 2),
    adjoint=lambda ct, y, x: (scale(ct, 0.5 / y),),
)
rsqrt = elementwise(
    "rsqrt", "x", FLOAT, _quiet(lambda x: x.dtype.type(1) / np.sqrt(x)), sympy="1 / sqrt(x)",
    sample=(0.5, 2), adjoint=lambda ct, y, x: (scale(ct, -0.5 * (y / x)),),
)
cbrt = elementwise(
    "cbrt", "x", FLOAT, np.cbrt, sympy="cbrt(x)", sample=(0.5, 2),
    adjoint=lambda ct, y, x: (scale(ct, 1 / (3 * (y * y))),),
)
hypot = elementwise(
    "hypot", "x y", FLOAT, np.hypot, sympy="sqrt(x**2 + y**2)", sample=((0.5, 2), (-2, -0.5)),
    adjoint=lambda ct, r, x, y: (
        where(eq(r, zeros_like(r)), 0.0, scale(ct, x / r)),
        where(eq(r, zeros_like(r)), 0.0, scale(ct, y / r)),
    ),
)

# -- exponentials and logarithms -----------------------------------------------------

LN2, LN10 = math.log(2), math.log(10)

exp = elementwise(
    "exp", "x", FLOAT, _quiet(np.exp), sympy="exp(x)",
    adjoint=lambda ct, y, x: (scale(ct, y),),
)
exp2 = elementwise(
    "exp2", "x", FLOAT, _quiet(np.exp2), sympy="2**x",
    adjoint=lambda ct, y, x: (scale(ct, y * LN2),),
)
expm1 = elementwise(
    "expm1", "x", FLOAT, _quiet(np.expm1), sympy="exp(x) - 1",
    adjoint=lambda ct, y, x: (scale(ct, y + 1),),
)
log = elementwise(
    "log", "x", FLOAT, _quiet(np.log), sympy="log(x)", sample=(0.5, 2),
    adjoint=lambda ct, y, x: (divide(ct, x),),
)
log2 = elementwise(
    "log2", "x", FLOAT, _quiet(np.log2), sympy="log(x) / log(2)", sample=(0.5, 2),
    adjoint=lambda ct, y, x: (divide(ct, x * LN2),),
)
log10 = elementwise(
    "log10", "x", FLOAT, _quiet(np.log10), sympy="log(x) / log(10)", sample=(0.5, 2),
    adjoint=lambda ct, y, x: (divide(ct, x * LN10),),
)
log1p = elementwise(
    "log1p", "x", FLOAT, _quiet(np.log1p), sympy="log(x + 1)", sample=(-0.5, 2),
    adjoint=lambda ct, y, x: (divide(ct, x + 1),),
)
logaddexp = elementwise(
    "logaddexp", "x y", FLOAT, np.logaddexp, sympy="log(exp(x) + exp(y))", commutative=True,
    adjoint=lambda ct, r, x, y: (scale(ct, sigmoid(x - y)), scale(ct, sigmoid(y - x))),
)
sigmoid: OpDef = elementwise(
    "sigmoid", "x", FLOAT, _quiet(_sigmoid), sympy="1 / (1 + exp(-x))",
    adjoint=lambda ct, y, x: (ct * (y * (1 - y)),),
)

# -- trigonometric and hyperbolic -----------------------------------------------------

sin = elementwise(
    "sin", "x", FLOAT, _quiet(np.sin), sympy="sin(x)", adjoint=lambda ct, y, x: (ct * cos(x),)
)
cos: OpDef = elementwise(
    "cos", "x", FLOAT, _quiet(np.cos), sympy="cos(x)", adjoint=lambda ct, y, x: (-(ct * sin(x)),)
)
tan = elementwise(
    "tan", "x", FLOAT, _quiet(np.tan), sympy="tan(x)", sample=(-1, 1),
    adjoint=lambda ct, y, x: (scale(ct, 1 + y * y),),
)
asin = elementwise(
    "asin", "x", FLOAT, _quiet(np.arcsin), sympy="asin(x)", sample=(-0.8, 0.8),
    adjoint=lambda ct, y, x: (scale(ct, rsqrt((1 - x) * (1 + x))),),
)
acos = elementwise(
    "acos", "x", FLOAT, _quiet(np.arccos), sympy="acos(x)", sample=(-0.8, 0.8),
    adjoint=lambda ct, y, x: (-scale(ct, rsqrt((1 - x) * (1 + x))),),
)
atan = elementwise(
    "atan", "x", FLOAT, np.arctan, sympy="atan(x)",
    adjoint=lambda ct, y, x: (ct / (x * x + 1),),
)


def _atan2_adjoint(ct: Value, r: Value, y: Value, x: Value) -> tuple[Value, Value]:
    norm = x * x + y * y
    return scale(ct, x / norm), -scale(ct, y / norm)


atan2 = elementwise(
    "atan2", "y x", FLOAT, np.arctan2, sympy="atan2(x, y)", sample=((0.5, 2), (-2, -0.5)),
    adjoint=_atan2_adjoint,
)
sinh = elementwise(
    "sinh", "x", FLOAT, _quiet(np.sinh), sympy="sinh(x)",
    adjoint=lambda ct, y, x: (scale(ct, cosh(x)),),
)
cosh: OpDef = elementwise(
    "cosh", "x", FLOAT, _quiet(np.cosh), sympy="cosh(x)",
    adjoint=lambda ct, y, x: (scale(ct, sinh(x)),),
)
tanh = elementwise(
    "tanh", "x", FLOAT, np.tanh, sympy="tanh(x)", adjoint=lambda ct, y, x: (ct * (1 - y * y),)
)
asinh = elementwise(
    "asinh", "x", FLOAT, np.arcsinh, sympy="asinh(x)",
    adjoint=lambda ct, y, x: (ct * rsqrt(x * x + 1),),
)
acosh = elementwise(
    "acosh", "x", FLOAT, _quiet(np.arccosh), sympy="acosh(x)", sample=(1.5, 3),
    adjoint=lambda ct, y, x: (scale(ct, rsqrt((x - 1) * (x + 1))),),
)
atanh = elementwise(
    "atanh", "x", FLOAT, _quiet(np.arctanh), sympy="atanh(x)", sample=(-0.8, 0.8),
    adjoint=lambda ct, y, x: (scale(ct, 1 / ((1 - x) * (1 + x))),),
)

TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
erf = elementwise(
    "erf", "x", FLOAT, _erf, sympy="erf(x)",
    adjoint=lambda ct, y, x: (ct * (exp(-(x * x)) * TWO_OVER_SQRT_PI),),
)
erfc = elementwise(
    "erfc", "x", FLOAT, _erfc, sympy="erfc(x)",
    adjoint=lambda ct, y, x: (-(ct * (exp(-(x * x)) * TWO_OVER_SQRT_PI)),),
)

# -- piecewise ---------------------------------------------------------------------

abs = elementwise(
    "abs", "x", NUMERIC, np.abs, sympy="Abs(x)", sample=(0.5, 2),
    adjoint=lambda ct, y, x: (ct * sign(x),),
)
sign: OpDef = elementwise("sign", "x", NUMERIC, np.sign, sympy="sign(x)")
floor = elementwise("floor", "x", "f", np.floor, sympy="floor(x)")
ceil = elementwise("ceil", "x", "f", np.ceil, sympy="ceiling(x)")
round = elementwise("round", "x", "f", np.rint)
trunc = elementwise("trunc", "x", "f", np.trunc)


def _tie_adjoint(ct: Value, r: Value, x: Value, y: Value) -> tuple[Value, Value]:
    # A tie is shared evenly, as in NumPy-like systems for arrays.
    to_x = where(eq(x, y), 0.5 * ct, where(eq(r, x), ct, 0.0))
    return to_x, where(eq(x, y), 0.5 * ct, where(eq(r, y), ct, 0.0))


maximum = elementwise(
    "maximum", "x y", ANY, np.maximum, sympy="Max(x, y)", commutative=True,
    sample=((0, 1), (1.5, 2)), adjoint=_tie_adjoint,
)
minimum = elementwise(
    "minimum", "x y", ANY, np.minimum, sympy="Min(x, y)", commutative=True,
    sample=((0, 1), (1.5, 2)), adjoint=_tie_adjoint,
)
relu = elementwise(
    "relu", "x", "f", lambda x: np.maximum(x, x.dtype.type(0)), sympy="Max(x, 0)",
    sample=(0.5, 2), adjoint=lambda ct, y, x: (where(gt(y, zeros_like(y)), ct, 0.0),),
    doc="``max(x, 0)`` with slope 0 at 0.",
)
rem = elementwise(
    "rem", "x y", ORDERED, _quiet(np.remainder), sample=((0.6, 0.9), (1, 2)),
    adjoint=lambda ct, r, x, y: (ct, -scale(ct, floor_div(x, y))),
    doc="Remainder with the sign of the divisor, as Python's ``%``.",
)
fmod = elementwise(
    "fmod", "x y", ORDERED, _quiet(np.fmod), sample=((0.6, 0.9), (1, 2)),
    adjoint=lambda ct, r, x, y: (ct, -scale(ct, trunc(x / y))),
    doc="Remainder with the sign of the dividend, as C's ``fmod``.",
)
floor_div: OpDef = elementwise(
    "floor_div", "x y", ORDERED, _quiet(np.floor_divide), sample=((-2, 2), (0.5, 2))
)
copysign = elementwise(
    "copysign", "x y", "f", np.copysign, sample=((0.5, 2), (0.5, 2)),
    adjoint=lambda ct, r, x, y: (ct * (sign(r) * sign(x)), None),
)

# -- comparison and logic --------------------------------------------------------------

eq: OpDef = elementwise(
    "eq", "x y", ANY + "c", np.equal, result=bool_, commutative=True, sympy="Eq(x, y)"
)
ne = elementwise(
    "ne", "x y", ANY + "c", np.not_equal, result=bool_, commutative=True, sympy="Ne(x, y)"
)
lt = elementwise("lt", "x y", ANY, np.less, result=bool_, sympy="x < y")
le = elementwise("le", "x y", ANY, np.less_equal, result=bool_, sympy="x <= y")
gt: OpDef = elementwise("gt", "x y", ANY, np.greater, result=bool_, sympy="x > y")
ge = elementwise("ge", "x y", ANY, np.greater_equal, result=bool_, sympy="x >= y")
isnan = elementwise("isnan", "x", FLOAT, np.isnan, result=bool_)
isfinite = elementwise("isfinite", "x", FLOAT, np.isfinite, result=bool_)
logical_not = elementwise("logical_not", "x", "b", np.logical_not, sympy="Not(x)")
bitwise_not = elementwise("bitwise_not", "x", INTEGER, np.invert)
and_ = elementwise("and", "x y", BITS, np.bitwise_and, commutative=True)
or_ = elementwise("or", "x y", BITS, np.bitwise_or, commutative=True)
xor = elementwise("xor", "x y", BITS, np.bitwise_xor, commutative=True)
shift_left = elementwise(
    "shift_left", "x n", INTEGER, _shift(np.left_shift, False), sample=((-9, 9), (0, 9))
)
shift_right = elementwise(
    "shift_right", "x n", INTEGER, _shift(np.right_shift, True), sample=((-99, 99), (0, 9))
)

# -- select and convert: operands of several dtypes ---------------------------------------


@op("select", samples=[Sample(((3, 4),) * 3, dtypes=(bool_, None, None))])
def select(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    """``x`` where the condition holds, else ``y``."""
    if condition.dtype != bool_ or x.dtype != y.dtype:
        raise DTypeError(f"select: needs (bool, T, T), got {condition}, {x}, {y}")
    if not condition.shape == x.shape == y.shape:
        raise ShapeError(f"select: operands must have one shape, got {condition}, {x}, {y}")
    return x


select.elementwise, select.kinds, select.sympy = True, ANY, "Piecewise((y, x), (z, True))"
select.differentiable = (False, True, True)
select.evaluate(np.where)
select.adjoint(lambda ct, r, c, x, y: (None, where(c, ct, 0.0), where(c, 0.0, ct)))


@select.fold
def _select_fold(condition: Value, x: Value, y: Value) -> Value | None:
    return x if x is y else None


@op("convert", samples=[])
def convert(x: TensorType, *, dtype: DType) -> TensorType:
    """The same numbers in another dtype; float to integer truncates."""
    return x.with_dtype(dtype)


convert.elementwise, convert.kinds = True, ANY


@convert.evaluate
def _convert(x: Array, *, dtype: DType) -> Array:
    with np.errstate(all="ignore"):
        return x.astype(dtype.numpy)


@convert.adjoint
def _convert_adjoint(ct: Value, r: Value, x: Value, *, dtype: DType) -> tuple[Value | None]:
    inexact = x.type.dtype.is_inexact and dtype.is_inexact
    return (convert(ct, dtype=x.type.dtype) if inexact else None,)


@convert.fold
def _convert_fold(x: Value, *, dtype: DType) -> Value | None:
    return x if x.type.dtype == dtype else None
