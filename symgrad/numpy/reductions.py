"""Sums, extrema, moments and running sums over axes.

The derivative of an extremum over one given axis goes to the first of ties, over the
whole array or several axes it is shared evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import ShapeError, UnsupportedError
from symgrad.numpy.core import (
    along,
    astype,
    broadcast,
    float_type,
    implements,
    many_axes,
    one_axis,
    refuse,
    reshape,
    sliced,
    traced,
)
from symgrad.numpy.elementwise import norm_root, where
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage

NO_VALUE: Any = np._NoValue


def keep_axes(y: Tracer, x: Tracer, axes: tuple[int, ...], keepdims: Any) -> Tracer:
    """The reduced result, with the reduced axes as size 1 where asked."""
    if not keepdims or keepdims is NO_VALUE:
        return y
    return reshape(y, tuple(1 if a in axes else n for a, n in enumerate(x.shape)))


def _masked(x: Tracer, mask: Any, neutral: Any) -> Tracer:
    if mask is True or mask is NO_VALUE:
        return x
    chosen = where(mask, x, astype(neutral, x.dtype))
    if chosen.shape != x.shape:
        raise ShapeError(f"where= of shape {np.shape(mask)} does not fit {x._value.type}")
    return chosen


def _sum_dtype(x: Tracer, dtype: Any) -> Any:
    """Small integers and bool add up in 64 bits."""
    if dtype is not None:
        return np.dtype(dtype)
    if x.dtype.kind in "bi":
        return np.promote_types(x.dtype, np.int64)
    return np.promote_types(x.dtype, np.uint64) if x.dtype.kind == "u" else x.dtype


def _declare_sum(name: Callable[..., Any], op: str, ufunc: np.ufunc, neutral: int) -> Any:
    def reduce(
        a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False,
        initial: Any = NO_VALUE, where: Any = True,
    ) -> Tracer:  # fmt: skip
        x = traced(a)
        x = _masked(astype(x, _sum_dtype(x, dtype)), where, neutral)
        axes = many_axes(name.__name__, axis, x)
        y: Tracer = stage(op, x, axes=axes)
        if initial is not NO_VALUE and initial is not None:
            y = ufunc(y, astype(initial, y.dtype))
        return keep_axes(y, x, axes, keepdims)

    implements(name)(reduce)
    HANDLERS[ufunc, "reduce"] = lambda a, axis=0, **kwargs: reduce(a, axis, **kwargs)
    return reduce


sum_ = _declare_sum(np.sum, "reduce_sum", np.add, 0)
prod = _declare_sum(np.prod, "reduce_prod", np.multiply, 1)


def _declare_logical(name: Callable[..., Any], op: str, ufunc: np.ufunc, neutral: bool) -> Any:
    def reduce(a: Any, axis: Any = None, keepdims: Any = False, *, where: Any = True) -> Tracer:
        x = _masked(traced(a, bool), where, neutral)
        axes = many_axes(name.__name__, axis, x)
        return keep_axes(stage(op, x, axes=axes), x, axes, keepdims)

    def of_ufunc(
        a: Any, axis: Any = 0, dtype: Any = None, keepdims: Any = False,
        initial: Any = NO_VALUE, where: Any = True,
    ) -> Tracer:  # fmt: skip
        y = reduce(a, axis, keepdims, where=where)
        return y if initial is NO_VALUE or initial is None else HANDLERS[ufunc](y, initial)

    implements(name)(reduce)
    HANDLERS[ufunc, "reduce"] = of_ufunc
    return reduce


any_ = _declare_logical(np.any, "reduce_any", np.logical_or, False)
all_ = _declare_logical(np.all, "reduce_all", np.logical_and, True)


def _declare_extremum(names: Any, op: str, ufunc: np.ufunc) -> Any:
    text = names[0].__name__

    def reduce(
        a: Any, axis: Any = None, keepdims: Any = False, initial: Any = NO_VALUE,
        where: Any = True,
    ) -> Tracer:  # fmt: skip
        x = traced(a)
        start = None if initial is NO_VALUE else initial
        if where is not True and where is not NO_VALUE and start is None:
            raise ShapeError(f"{text}: where= needs initial=, the result for empty selections")
        x = _masked(x, where, start)
        axes = many_axes(text, axis, x)
        if start is None and not all(x.shape[i] for i in axes):
            raise ShapeError(f"{text}: {x._value.type} has no element to choose along axes {axes}")
        first = isinstance(axis, (int, np.integer)) and x._kind == "f"
        y = stage(op, x, axes=axes, ties="first" if first else "split")
        if start is not None:
            y = ufunc(y, astype(start, y.dtype))
        return keep_axes(y, x, axes, keepdims)

    implements(*names)(reduce)
    HANDLERS[ufunc, "reduce"] = lambda a, axis=0, **kwargs: reduce(a, axis, **kwargs)
    return reduce


max_ = _declare_extremum((np.max, np.amax), "reduce_max", np.maximum)
min_ = _declare_extremum((np.min, np.amin), "reduce_min", np.minimum)


def _declare_position(name: Callable[..., Any], op: str) -> None:
    @implements(name)
    def search(a: Any, axis: Any = None, *, keepdims: Any = False) -> Tracer:
        x = traced(a)
        flat = reshape(x, (x.size,)) if axis is None else x
        at = 0 if axis is None else one_axis(name.__name__, axis, x)
        axes = many_axes(name.__name__, axis, x)
        if not flat.shape[at]:
            raise ShapeError(f"{name.__name__}: {x._value.type} has no element to choose")
        return keep_axes(stage(op, flat, axis=at), x, axes, keepdims)


_declare_position(np.argmax, "argmax")
_declare_position(np.argmin, "argmin")


@implements(np.ptp)
def ptp(a: Any, axis: Any = None, keepdims: Any = False) -> Tracer:
    """Largest minus smallest element."""
    return max_(a, axis, keepdims) - min_(a, axis, keepdims)  # type: ignore[no-any-return]


@implements(np.mean)
def mean(
    a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False, *, where: Any = True
) -> Tracer:
    """The sum divided by the number of elements, in floating point."""
    x = traced(a)
    x = astype(x, dtype or float_type(x, "mean"))
    count = _count(x, axis, where, keepdims)
    # bfloat16 divided by a number is float32, in NumPy too.
    return astype(sum_(x, axis, keepdims=keepdims, where=where) / count, x.dtype)


def _count(x: Tracer, axis: Any, mask: Any, keepdims: Any) -> Any:
    """Elements that a mean runs over: a number, or an array where a mask chooses them."""
    if mask is True or mask is NO_VALUE:
        return float(math.prod(x.shape[a] for a in many_axes("mean", axis, x)))
    chosen = broadcast(traced(mask, bool), x.shape)
    return astype(sum_(chosen, axis, keepdims=keepdims), x.dtype)


@implements(np.var)
def var(
    a: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: Any = False, *,
    where: Any = True, mean: Any = NO_VALUE, correction: Any = NO_VALUE,
) -> Tracer:  # fmt: skip
    """The mean of squared deviations, with divisor ``n - ddof``."""
    if where is not True or mean is not NO_VALUE:
        raise UnsupportedError("var: where= and mean= cannot be traced; compute the deviations")
    x = traced(a)
    x = astype(x, dtype or float_type(x, "var"))
    axes = many_axes("var", axis, x)
    _, variance = stage("moments", x, axes=axes)
    ddof = ddof if correction is NO_VALUE else correction
    if ddof:
        count = math.prod(x.shape[i] for i in axes)
        variance = variance * (count / (count - ddof) if count > ddof else math.inf)
    return keep_axes(variance, x, axes, keepdims)


@implements(np.std)
def std(
    a: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: Any = False,
    **kwargs: Any,
) -> Tracer:  # fmt: skip
    """The root of the variance; a norm of deviations, so its subgradient at 0 is 0."""
    return norm_root(var(a, axis, dtype, ddof, keepdims, **kwargs))


@implements(np.average)
def average(
    a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False
) -> Any:
    """The mean, or the weighted mean."""
    if weights is None:
        result, total = mean(a, axis, keepdims=keepdims), _count(traced(a), axis, True, False)
    else:
        x, w = traced(a), traced(weights)
        if w.shape != x.shape:
            shape = [1] * x.ndim
            shape[one_axis("average", axis, x)] = w.size
            w = broadcast(reshape(w, shape), x.shape)
        total = sum_(w, axis, keepdims=keepdims)
        result = sum_(x * w, axis, keepdims=keepdims) / total
    return (result, broadcast(traced(total, result.dtype), result.shape)) if returned else result


@implements(np.count_nonzero)
def count_nonzero(a: Any, axis: Any = None, *, keepdims: Any = False) -> Tracer:
    """The number of elements that are not zero."""
    result: Tracer = sum_(traced(a, bool), axis, keepdims=keepdims)
    return result


def _declare_ignoring_nan(name: Callable[..., Any], plain: Any, neutral: float) -> None:
    @implements(name)
    def reduce(
        a: Any, axis: Any = None, *, keepdims: Any = False, initial: Any = NO_VALUE, **kwargs: Any
    ) -> Any:
        x = traced(a)
        if x._kind != "f":
            return plain(x, axis, keepdims=keepdims, initial=initial, **kwargs)
        missing = HANDLERS[np.isnan](x)
        x = where(missing, constant(neutral, x.dtype), x)
        result = plain(x, axis, keepdims=keepdims, initial=initial, **kwargs)
        if not math.isinf(neutral) or initial is not NO_VALUE:
            return result
        nothing = all_(missing, axis, keepdims)  # of which there is no extremum
        return where(nothing, constant(math.nan, result.dtype), result)


_declare_ignoring_nan(np.nansum, sum_, 0)
_declare_ignoring_nan(np.nanprod, prod, 1)
_declare_ignoring_nan(np.nanmax, max_, -math.inf)
_declare_ignoring_nan(np.nanmin, min_, math.inf)


def _declare_nan_moment(name: Callable[..., Any], root: bool) -> None:
    @implements(name)
    def reduce(
        a: Any, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: Any = False, *,
        where: Any = True, correction: Any = NO_VALUE,
    ) -> Tracer:  # fmt: skip
        if dtype is not None and np.dtype(dtype).kind != "f":
            refuse(name.__name__, dtype=dtype)
        x, select = traced(a), HANDLERS[np.where]
        x = astype(x, float_type(x, name.__name__) if dtype is None else dtype)
        ddof = ddof if correction is NO_VALUE else correction
        there = _numbers(x, where)
        off = select(there, x - mean(x, axis, dtype, True, where=there), 0.0)
        count = sum_(there, axis, keepdims=keepdims) - ddof
        free = select(count > 0, astype(count, off.dtype), constant(math.nan, off.dtype))
        variance: Tracer = sum_(off * off, axis, keepdims=keepdims) / free
        return norm_root(variance) if root else variance


_declare_nan_moment(np.nanvar, False)
_declare_nan_moment(np.nanstd, True)


@implements(np.nanmean)
def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False, *, where: Any = True
) -> Tracer:
    """The mean of the elements that are not nan."""
    x = traced(a)
    return mean(x, axis, dtype, keepdims, where=_numbers(x, where))


def _numbers(x: Tracer, mask: Any) -> Tracer:
    """Which elements are no nan, among those of a mask."""
    there: Tracer = ~HANDLERS[np.isnan](x)
    return there if mask is True or mask is NO_VALUE else there & traced(mask)


def _declare_running(name: Callable[..., Any], op: str, ufunc: np.ufunc) -> Any:
    @implements(name)
    def run(a: Any, axis: Any = None, dtype: Any = None) -> Tracer:
        x = traced(a)
        x = astype(x, _sum_dtype(x, dtype))
        x, at = along(name.__name__, x, axis)
        result: Tracer = stage(op, x, axis=at)
        return result

    HANDLERS[ufunc, "accumulate"] = lambda a, axis=0, dtype=None: run(a, axis, dtype)
    return run


cumsum = _declare_running(np.cumsum, "cumsum", np.add)
cumprod = _declare_running(np.cumprod, "cumprod", np.multiply)


def _declare_cumulative(name: Callable[..., Any], run: Callable[..., Any], neutral: int) -> None:
    @implements(name)
    def cumulative(
        x: Any, /, *, axis: Any = None, dtype: Any = None, include_initial: bool = False
    ) -> Tracer:
        a = traced(x)
        if axis is None and a.ndim != 1:
            raise ShapeError(f"{name.__name__}: {a._value.type} needs an axis")
        at = one_axis(name.__name__, 0 if axis is None else axis, a)
        total: Tracer = run(a, at, dtype)
        if include_initial:
            shape = tuple(1 if i == at else n for i, n in enumerate(a.shape))
            first = constant(neutral, total.dtype, shape)
            total = HANDLERS[np.concatenate]([first, total], at)
        return total


_declare_cumulative(np.cumulative_sum, cumsum, 0)
_declare_cumulative(np.cumulative_prod, cumprod, 1)


def _declare_running_extremum(ufunc: np.ufunc) -> None:
    def run(a: Any, axis: Any = 0, dtype: Any = None) -> Tracer:
        """By doubling: after step k each element has seen 2^k before it."""
        x = traced(a, dtype)
        at = one_axis(f"{ufunc.__name__}.accumulate", axis, x)
        n, reach = x.shape[at], 1
        while reach < n:
            new = HANDLERS[ufunc](sliced(x, at, reach, n), sliced(x, at, 0, n - reach))
            x = HANDLERS[np.concatenate]([sliced(x, at, 0, reach), new], at)
            reach *= 2
        return x

    HANDLERS[ufunc, "accumulate"] = run


for _ufunc in (np.maximum, np.minimum, np.fmax, np.fmin):
    _declare_running_extremum(_ufunc)


@implements(np.allclose)
def allclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    """Whether all elements are close."""
    return all_(HANDLERS[np.isclose](a, b, rtol, atol, equal_nan))


@implements(np.array_equal)
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """Whether shapes and all elements agree."""
    a1, a2 = traced(a1), traced(a2)
    if a1.shape != a2.shape:
        return False
    same, isnan = a1 == a2, HANDLERS[np.isnan]
    return all_(same | (isnan(a1) & isnan(a2)) if equal_nan else same)
