"""NumPy's ufuncs: a table from ufunc to IR op, and the few that are composed.

Dtypes come from the ufunc's own loops (``resolve_dtypes``), so promotion is NumPy's:
``sin`` of integers is float64, float32 times a Python float stays float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import DTypeError, UnsupportedError
from symgrad.ir.graph import Value, scalar_constant
from symgrad.numpy.core import (
    astype,
    broadcast,
    common_shape,
    dtype_key,
    implements,
    refuse,
    reshape,
    result_type,
    traced,
    types_text,
)
from symgrad.operators import NUMBERS
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage

OPS: dict[np.ufunc, str] = {
    np.add: "add", np.subtract: "sub", np.multiply: "mul", np.true_divide: "div",
    np.negative: "neg", np.sign: "sign", np.fmod: "fmod",
    np.remainder: "rem", np.floor_divide: "floor_div", np.minimum: "minimum",
    np.exp: "exp", np.exp2: "exp2", np.expm1: "expm1", np.log: "log", np.log2: "log2",
    np.log10: "log10", np.log1p: "log1p", np.cbrt: "cbrt", np.logaddexp: "logaddexp",
    np.sin: "sin", np.cos: "cos", np.tan: "tan", np.arcsin: "asin", np.arccos: "acos",
    np.arctan: "atan", np.arctan2: "atan2", np.sinh: "sinh", np.cosh: "cosh",
    np.tanh: "tanh", np.arcsinh: "asinh", np.arccosh: "acosh", np.arctanh: "atanh",
    np.hypot: "hypot", np.copysign: "copysign",
    np.bitwise_and: "and", np.bitwise_or: "or",
    np.bitwise_xor: "xor", np.left_shift: "shift_left", np.right_shift: "shift_right",
}  # fmt: skip
"""Ufuncs that are one op on operands of one dtype."""

COMPARISONS: dict[np.ufunc, str] = {
    np.equal: "eq", np.not_equal: "ne", np.less: "lt", np.less_equal: "le",
    np.greater: "gt", np.greater_equal: "ge",
}  # fmt: skip
ROUNDING = {np.floor: "floor", np.ceil: "ceil", np.trunc: "trunc", np.rint: "round"}
SPECIAL = {"erf": "erf", "erfc": "erfc", "expit": "sigmoid"}
"""Ufuncs of ``scipy.special``, known by name so that SciPy need not be there."""


def loop_dtypes(ufunc: np.ufunc, operands: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    """The dtypes of the ufunc's loop for these operands (inputs, then outputs)."""
    try:
        result = None if dtype is None else np.dtype(dtype)
        return _resolved(ufunc, tuple([dtype_key(x) for x in operands]), result)
    except TypeError as error:
        raise DTypeError(f"{ufunc.__name__}: no loop for {types_text(operands)}: {error}") from None


@functools.lru_cache(maxsize=4096)
def _resolved(ufunc: np.ufunc, keys: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    keys += (None,) * ufunc.nout
    if dtype is None:
        return ufunc.resolve_dtypes(keys)
    return ufunc.resolve_dtypes(keys, signature=(*(None,) * ufunc.nin, dtype))


def matched(name: str, operands: tuple[Any, ...], dtypes: tuple[Any, ...]) -> list[Tracer]:
    """Operands converted to the given dtypes and broadcast to one shape."""
    arrays = [
        None if type(x) in NUMBERS else astype(x, t) for x, t in zip(operands, dtypes, strict=True)
    ]
    shape = common_shape(name, [x for x in arrays if x is not None])
    return [
        constant(np.asarray(x, t), t, shape) if a is None else broadcast(a, shape)
        for a, x, t in zip(arrays, operands, dtypes, strict=True)
    ]


def prepared(ufunc: np.ufunc, operands: tuple[Any, ...], dtype: Any = None) -> list[Tracer]:
    """Operands as the ufunc's loop takes them."""
    dtypes = loop_dtypes(ufunc, operands, dtype)
    return matched(ufunc.__name__, operands, dtypes[: len(operands)])


def _masked(ufunc: Any, where: Any, casting: Any) -> None:
    refuse(
        ufunc.__name__, where=None if where is True else where,
        casting=None if casting == "same_kind" else casting,
    )  # fmt: skip


def _declare(ufunc: np.ufunc, op: str) -> None:
    @implements(ufunc)
    def apply(*operands: Any, dtype: Any = None, where: Any = True, casting: Any = None) -> Tracer:
        _masked(ufunc, where, casting)
        dtypes = loop_dtypes(ufunc, operands, dtype)
        result: Tracer = stage(op, *matched(ufunc.__name__, operands, dtypes[:-1]))
        return result


for _ufunc, _op in (OPS | COMPARISONS).items():
    _declare(_ufunc, _op)


def _declare_comparison(ufunc: np.ufunc) -> None:
    compare = HANDLERS[ufunc]

    @implements(ufunc)
    def apply(x: Any, y: Any, **kwargs: Any) -> Tracer:
        for other, number in ((x, y), (y, x)):
            if type(number) is int and not _holds(dtype_key(other), number):
                beyond = bool(ufunc(0 if other is x else x, 0 if other is y else y))
                return constant(beyond, bool, traced(other).shape)
        result: Tracer = compare(x, y, **kwargs)
        return result


def _holds(key: Any, number: int) -> bool:
    """Whether an operand's dtype has a number, as far as integers are concerned."""
    if not isinstance(key, np.dtype) or key.kind not in "iu":
        return True
    return bool(np.iinfo(key).min <= number <= np.iinfo(key).max)


for _ufunc in COMPARISONS:
    _declare_comparison(_ufunc)


def _declare_rounding(ufunc: np.ufunc, op: str) -> None:
    @implements(ufunc)
    def apply(x: Any, dtype: Any = None, where: Any = True, casting: Any = None) -> Tracer:
        _masked(ufunc, where, casting)
        (x,) = prepared(ufunc, (x,), dtype)
        rounded: Tracer = x if x.dtype.kind in "biu" else stage(op, x)
        return rounded


for _ufunc, _op in ROUNDING.items():
    _declare_rounding(_ufunc, _op)


def _declare_special(name: str, op: str) -> Callable[..., Tracer]:
    def apply(x: Any, **kwargs: Any) -> Tracer:
        x = traced(x)
        result: Tracer = stage(op, astype(x, x.dtype if x._kind == "f" else np.float64))
        return result

    HANDLERS[name] = apply
    return apply


for _name, _op in SPECIAL.items():
    _declare_special(_name, _op)


# -- ufuncs that need a second look --------------------------------------------------------


@implements(np.sqrt)
def sqrt(x: Any, dtype: Any = None, where: Any = True, casting: Any = None) -> Tracer:
    """The root; of a sum of squares it is a norm, with subgradient 0 at 0."""
    _masked(np.sqrt, where, casting)
    (x,) = prepared(np.sqrt, (x,), dtype)
    if _is_sum_of_squares(x.value):
        return norm_root(x)
    result: Tracer = stage("sqrt", x)
    return result


def _is_sum_of_squares(value: Value) -> bool:
    op = value.op
    if op is None:
        return False
    if op.name in ("reshape", "broadcast_to"):
        return _is_sum_of_squares(op.operands[0])
    if op.name == "dot_general":
        same = op.attrs["lhs_contract"] == op.attrs["rhs_contract"]
        whole = len(op.attrs["lhs_batch"]) + len(op.attrs["lhs_contract"]) == op.operands[0].rank
        return op.operands[0] is op.operands[1] and same and whole
    if op.name != "reduce_sum" or op.operands[0].op is None:
        return False
    square = op.operands[0].op
    return square.name == "mul" and square.operands[0] is square.operands[1]


def norm_root(total: Tracer) -> Tracer:
    """``sqrt`` of a sum of squares: at 0 no cotangent passes, which is the norm's subgradient."""
    zero = constant(0, total.dtype, total.shape)
    result: Tracer = stage("select", stage("eq", total, zero), zero, stage("sqrt", total))
    return result


@implements(np.maximum)
def maximum(x: Any, y: Any, dtype: Any = None, where: Any = True, casting: Any = None) -> Tracer:
    """The larger operand; a tie shares its cotangent, except that ``maximum(x, 0)`` is relu."""
    _masked(np.maximum, where, casting)
    x, y = prepared(np.maximum, (x, y), dtype)
    if x._kind == "f":
        for one, other in ((x, y), (y, x)):
            if scalar_constant(one.value) == 0:
                result: Tracer = stage("relu", other)
                return result
    result = stage("maximum", x, y)
    return result


@implements(np.power)
def power(x: Any, y: Any, dtype: Any = None, where: Any = True, casting: Any = None) -> Tracer:
    """Powers; exponent 0.5 is a square root, as in NumPy."""
    _masked(np.power, where, casting)
    base, exponent = prepared(np.power, (x, y), dtype)
    number = scalar_constant(exponent.value)
    if number == 0.5:
        return sqrt(base)
    if base.dtype.kind in "iu" and number is not None and number < 0:
        raise DTypeError("power: integers to negative integer powers are not allowed")
    result: Tracer = stage("pow", base, exponent)
    return result


def _declare_composite(ufunc: np.ufunc) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a formula of prepared operands."""

    def register(formula: Callable[..., Any]) -> Callable[..., Any]:
        def apply(*operands: Any, dtype: Any = None, where: Any = True, casting: Any = None) -> Any:
            _masked(ufunc, where, casting)
            return formula(*prepared(ufunc, operands, dtype))

        implements(ufunc)(apply)
        return formula

    return register


@_declare_composite(np.absolute)
def _absolute(x: Tracer) -> Any:
    if x.dtype.kind == "b":
        return x.copy()
    if x.dtype.kind == "c":
        raise UnsupportedError(f"np.absolute of {types_text([x])} cannot be traced")
    return stage("abs", x)


@_declare_composite(np.square)
def _square(x: Tracer) -> Any:
    return x * x


@_declare_composite(np.reciprocal)
def _reciprocal(x: Tracer) -> Any:
    one = constant(1, x.dtype, x.shape)
    if x._kind in "fc":
        return stage("div", one, x)
    return where(abs(x) == 1, x, constant(0, x.dtype))  # rounded to zero


@_declare_composite(np.positive)
def _positive(x: Tracer) -> Any:
    return x.copy()


@_declare_composite(np.fabs)
def _fabs(x: Tracer) -> Any:
    return abs(x)


@_declare_composite(np.conjugate)
def _conjugate(x: Tracer) -> Any:
    if x.dtype.kind == "c":
        raise DTypeError(f"conjugate: complex dtype {x.dtype} cannot be traced")
    return x


@_declare_composite(np.float_power)
def _float_power(x: Tracer, y: Tracer) -> Any:
    return x**y


@_declare_composite(np.invert)
def _invert(x: Tracer) -> Any:
    return stage("logical_not" if x.dtype.kind == "b" else "bitwise_not", x)


@_declare_composite(np.fmax)
def _fmax(x: Tracer, y: Tracer) -> Any:
    return where(np.isnan(x), y, where(np.isnan(y), x, np.maximum(x, y)))


@_declare_composite(np.fmin)
def _fmin(x: Tracer, y: Tracer) -> Any:
    return where(np.isnan(x), y, where(np.isnan(y), x, np.minimum(x, y)))


@_declare_composite(np.divmod)
def _divmod(x: Tracer, y: Tracer) -> Any:
    return x // y, x % y


@_declare_composite(np.modf)
def _modf(x: Tracer) -> Any:
    whole = np.trunc(x)
    return where(np.isinf(x), np.copysign(constant(0, x.dtype), x), x - whole), whole


@_declare_composite(np.heaviside)
def _heaviside(x: Tracer, at_zero: Tracer) -> Any:
    return where(x == 0, at_zero, where(np.isnan(x), x, (x > 0).astype(x.dtype)))


@_declare_composite(np.logaddexp2)
def _logaddexp2(x: Tracer, y: Tracer) -> Any:
    return np.logaddexp(x * math.log(2), y * math.log(2)) * (1 / math.log(2))


@_declare_composite(np.signbit)
def _signbit(x: Tracer) -> Any:
    return np.copysign(constant(1, x.dtype, x.shape), x) < 0


@_declare_composite(np.isnan)
def _isnan(x: Tracer) -> Any:
    return constant(False, bool, x.shape) if x.dtype.kind in "biu" else stage("isnan", x)


@_declare_composite(np.isfinite)
def _isfinite(x: Tracer) -> Any:
    return constant(True, bool, x.shape) if x.dtype.kind in "biu" else stage("isfinite", x)


@_declare_composite(np.isinf)
def _isinf(x: Tracer) -> Any:
    return ~(np.isfinite(x) | np.isnan(x))


for _ufunc, _factor in (
    (np.deg2rad, math.pi / 180),
    (np.radians, math.pi / 180),
    (np.rad2deg, 180 / math.pi),
    (np.degrees, 180 / math.pi),
):
    _declare_composite(_ufunc)(lambda x, factor=_factor: x * factor)


def _declare_logical(ufunc: np.ufunc, op: str) -> None:
    @implements(ufunc)
    def apply(*operands: Any, where: Any = True, dtype: Any = None, casting: Any = None) -> Tracer:
        _masked(ufunc, where, casting)
        refuse(ufunc.__name__, dtype=None if dtype in (None, bool) else dtype)
        result: Tracer = stage(op, *matched(ufunc.__name__, operands, (bool,) * ufunc.nin))
        return result


for _ufunc, _op in (
    (np.logical_and, "and"),
    (np.logical_or, "or"),
    (np.logical_xor, "xor"),
    (np.logical_not, "logical_not"),
):
    _declare_logical(_ufunc, _op)


# -- elementwise functions that are no ufuncs ----------------------------------------------


@implements(np.where)
def where(condition: Any, x: Any = None, y: Any = None) -> Tracer:
    """``x`` where the condition holds, else ``y``; the other branch gets a zero cotangent."""
    if x is None or y is None:
        result: Tracer = HANDLERS[np.nonzero](condition)
        return result
    dtype = result_type(x, y)
    operands = matched("where", (condition, x, y), (bool, dtype, dtype))
    result = stage("select", *operands)
    return result


@implements(np.clip)
def clip(
    a: Any,
    a_min: Any = None,
    a_max: Any = None,
    *,
    min: Any = None,
    max: Any = None,
    dtype: Any = None,
) -> Tracer:
    """Limits values to an interval; outside it, and nowhere else, the derivative is 0."""
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    bounds = [b for b in (low, high) if b is not None]
    common = result_type(a, *bounds) if dtype is None else np.dtype(dtype)
    if common.kind in "iu":  # no element is beyond what the dtype cannot hold
        limits = np.iinfo(common)
        low = limits.min if type(low) is int and low < limits.min else low
        high = limits.max if type(high) is int and high > limits.max else high
        bounds = [b for b in (low, high) if b is not None]
    operands = matched("clip", (a, *bounds), (common,) * (1 + len(bounds)))
    x, rest = operands[0], operands[1:]
    if low is not None:
        bound, *rest = rest
        x = stage("select", _is_beyond("lt", x, bound), bound, x)
    if high is not None:
        x = stage("select", _is_beyond("gt", x, rest[0]), rest[0], x)
    return x


def _is_beyond(comparison: str, x: Tracer, bound: Tracer) -> Tracer:
    """Whether a bound replaces ``x``, as it does where the bound is nan."""
    beyond: Tracer = stage(comparison, x, bound)
    number = scalar_constant(bound.value)
    known = bound._kind != "f" or not (number is None or math.isnan(number))
    return beyond if known else stage("or", beyond, stage("isnan", bound))


@implements(np.round, np.around)
def round_(a: Any, decimals: int = 0) -> Tracer:
    """Rounds half to even, at a number of decimals."""
    x = traced(a)
    if x.dtype.kind in "biu":
        return x if decimals >= 0 else astype(round_(astype(x, np.float64), decimals), x.dtype)
    if not decimals:
        whole: Tracer = HANDLERS[np.rint](x)
        return whole
    scale = 10.0 ** abs(decimals)
    nearest: Tracer = HANDLERS[np.rint](x * scale if decimals > 0 else x / scale)
    return nearest / scale if decimals > 0 else nearest * scale


@implements(np.nan_to_num)
def nan_to_num(
    x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Tracer:
    """Replaces nan and infinities by numbers."""
    a = traced(x)
    if a._kind != "f":
        return a
    if not copy:
        a.assign(nan_to_num(a, True, nan, posinf, neginf), "nan_to_num")
        return a
    limits = np.finfo(a.dtype)
    top = limits.max if posinf is None else posinf
    bottom = limits.min if neginf is None else neginf
    infinite = HANDLERS[np.isinf](a)
    big = where(infinite & (a > 0), top, a)
    return where(HANDLERS[np.isnan](a), nan, where(infinite & (a < 0), bottom, big))


@implements(np.isclose)
def isclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    """``|a - b| <= atol + rtol |b|``, infinities equal to themselves."""
    a, b = traced(a), traced(b, result_type(b, 1.0))  # no integers, whose differences wrap
    close = (abs(a - b) <= atol + rtol * abs(b)) & np.isfinite(b) | (a == b)
    return close | (np.isnan(a) & np.isnan(b)) if equal_nan else close


@implements(np.real)
def real(val: Any) -> Tracer:
    """The real part: real arrays are their own."""
    x: Tracer = np.conjugate(val)
    return x


@implements(np.imag)
def imag(val: Any) -> Tracer:
    """The imaginary part: zero for real arrays."""
    x: Tracer = np.conjugate(val)
    return constant(0, x.dtype, x.shape)


@implements(np.sinc)
def sinc(x: Any) -> Tracer:
    """``sin(pi x) / (pi x)``, 1 at 0."""
    t = traced(x) * np.pi
    is_near = abs(t) < 0.5
    # Near 0 the series: derivatives of the quotient lose their digits there, and have none at 0.
    square, series = t * t, constant(1.0, t.dtype)
    for n in range(16, 0, -2):
        series = 1 - square / (n * (n + 1)) * series
    far = where(is_near, 1.0, t)
    sine: Tracer = HANDLERS[np.sin](far)
    return where(is_near, series, sine / far)


@implements(np.select)
def select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    """The choice of the first condition that holds."""
    result = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        result = where(condition, choice, result)
    return result


@implements(np.angle)
def angle(z: Any, deg: bool = False) -> Tracer:
    """0 for positive, pi for negative real numbers."""
    return where(traced(z) < 0, 180.0 if deg else math.pi, 0.0)


def _outer(ufunc: np.ufunc, a: Any, b: Any, **kwargs: Any) -> Any:
    """``ufunc.outer``: every element of ``a`` with every one of ``b``."""
    x, y = traced(a), traced(b)
    return HANDLERS[ufunc](reshape(x, x.shape + (1,) * y.ndim), y, **kwargs)


HANDLERS["outer"] = _outer
