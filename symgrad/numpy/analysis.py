"""Numerical analysis on arrays: differences, integrals, covariances, polynomials."""

from __future__ import annotations

from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import ShapeError, UnsupportedError
from symgrad.numpy.core import (
    astype,
    broadcast,
    float_type,
    implements,
    one_axis,
    reshape,
    result_type,
    sliced,
    traced,
)
from symgrad.numpy.indexing import guard
from symgrad.numpy.reductions import NO_VALUE, mean, sum_
from symgrad.tracer import Tracer
from symgrad.tracing import constant


@implements(np.diff)
def diff(
    a: Any, n: int = 1, axis: int = -1, prepend: Any = NO_VALUE, append: Any = NO_VALUE
) -> Tracer:
    """Differences of neighbours, ``n`` times."""
    x = traced(a)
    at = one_axis("diff", axis, x)
    parts = [p for p in (prepend, x, append) if p is not NO_VALUE]
    if len(parts) > 1:
        shape = tuple(1 if i == at else m for i, m in enumerate(x.shape))
        parts = [broadcast(traced(p), shape) if np.ndim(p) == 0 else p for p in parts]
        x = HANDLERS[np.concatenate](parts, at)
    for _ in range(n):
        m = x.shape[at]
        after, before = sliced(x, at, min(1, m), m), sliced(x, at, 0, max(m - 1, 0))
        x = after != before if x.dtype.kind == "b" else after - before
    return x


@implements(np.trapezoid)
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Tracer:
    """The integral by the trapezoidal rule."""
    y = traced(y)
    at = one_axis("trapezoid", axis, y)
    if x is None:
        steps: Any = dx
    else:
        points = traced(x, result_type(x, 0.0))
        steps = diff(points, axis=-1 if points.ndim == 1 else at)
        if points.ndim == 1:
            steps = reshape(steps, tuple(steps.size if i == at else 1 for i in range(y.ndim)))
    n = y.shape[at]
    pairs = sliced(y, at, min(1, n), n) + sliced(y, at, 0, max(n - 1, 0))
    result: Tracer = sum_(steps * pairs / 2.0, at)
    return result


@implements(np.ediff1d)
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Tracer:
    """Differences of neighbours of the flattened array, between what is put at the ends."""
    x = traced(ary)
    found = diff(reshape(x, (x.size,)))
    ends = [None if v is None else traced(v, x.dtype) for v in (to_begin, to_end)]
    flat = [None if v is None else reshape(v, (v.size,)) for v in ends]
    parts = [part for part in (flat[0], found, flat[1]) if part is not None]
    return HANDLERS[np.concatenate](parts) if len(parts) > 1 else found


@implements(np.gradient)
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Central differences inside, one-sided at the ends, for evenly spaced samples."""
    x = traced(f)
    x = astype(x, float_type(x, "gradient"))
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = [one_axis("gradient", a, x) for a in axes]
    steps = varargs * len(axes) if len(varargs) == 1 else varargs or (1.0,) * len(axes)
    if edge_order != 1 or len(steps) != len(axes) or any(np.ndim(h) for h in steps):
        raise UnsupportedError(
            "gradient: needs one number as the spacing of each axis and edge_order=1 to be traced"
        )
    results = [_slopes(x, a, h) for a, h in zip(axes, steps, strict=True)]
    return results[0] if len(results) == 1 else tuple(results)


def _slopes(x: Tracer, axis: int, step: Any) -> Tracer:
    n = x.shape[axis]
    if n < 2:
        raise ShapeError(f"gradient: axis {axis} of {x._value.type} needs at least 2 samples")
    ends = [(sliced(x, axis, i + 1, i + 2) - sliced(x, axis, i, i + 1)) / step for i in (0, n - 2)]
    inside = (sliced(x, axis, 2, n) - sliced(x, axis, 0, n - 2)) / (2.0 * step)
    result: Tracer = HANDLERS[np.concatenate]([ends[0], inside, ends[1]], axis)
    return result


@implements(np.cov)
def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None
) -> Tracer:
    """Covariances of variables, one per row (per column with ``rowvar=False``)."""
    x = HANDLERS[np.atleast_2d](astype(m, result_type(m, np.float64)))
    if not rowvar and x.shape[0] != 1:
        x = x.T
    if y is not None:
        other = HANDLERS[np.atleast_2d](astype(y, result_type(y, np.float64)))
        x = HANDLERS[np.concatenate]([x, other if rowvar or other.shape[0] == 1 else other.T])
    x = x - mean(x, 1, keepdims=True)
    count = x.shape[1] - (ddof if ddof is not None else 0 if bias else 1)
    result: Tracer = HANDLERS[np.squeeze](x @ x.T / float(count))
    return result


@implements(np.corrcoef)
def corrcoef(x: Any, y: Any = None, rowvar: bool = True) -> Tracer:
    """Covariances divided by the standard deviations."""
    c = cov(x, y, rowvar)
    if not c.ndim:
        return c / c
    scale: Tracer = HANDLERS[np.sqrt](HANDLERS[np.diagonal](c))
    return c / scale[:, None] / scale[None, :]


@implements(np.polyval)
def polyval(p: Any, x: Any) -> Any:
    """A polynomial by Horner's rule, the highest coefficient first."""
    coefficients, x = traced(p), HANDLERS["array"](x)
    result: Any = constant(0, x.dtype, x.shape)
    for i in range(coefficients.size):
        result = result * x + coefficients[i]
    return result


@implements(np.interp)
def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Tracer:
    """Straight lines between the points ``(xp, fp)``, ``xp`` rising; constant outside."""
    at, points, values = (traced(v, np.float64) for v in (x, xp, fp))
    if points.ndim != 1 or points.shape != values.shape or not points.size:
        raise ShapeError(
            f"interp: needs as many positions as values, got {points._value.type} and "
            f"{values._value.type}"
        )
    take, where = HANDLERS[np.take], HANDLERS[np.where]
    if period is not None:
        at, points = at % period, points % period
        order = HANDLERS[np.argsort](points)
        points, values = take(points, order), take(values, order)
        join = HANDLERS[np.concatenate]
        points = join([points[-1:] - period, points, points[:1] + period])
        values = join([values[-1:], values, values[:1]])
    n = points.size
    below = HANDLERS[np.searchsorted](points, at, "right") - 1
    low = HANDLERS[np.clip](below, 0, max(n - 2, 0))
    high = HANDLERS[np.minimum](low + 1, n - 1)
    start, width = take(points, low), take(points, high) - take(points, low)
    level = take(values, low)
    slope = (take(values, high) - level) / where(width == 0, 1.0, width)
    inside = level + (at - start) * slope
    before = values[0] if left is None or period is not None else left
    behind = values[-1] if right is None or period is not None else right
    line = where(at == points[-1], values[-1], inside)
    result: Tracer = where(at < points[0], before, where(at > points[-1], behind, line))
    return result


@implements(np.unwrap)
def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2 * np.pi) -> Tracer:
    """Angles without jumps: differences become their complements to the period."""
    x = traced(p)
    x = astype(x, result_type(x, period))
    half, odd = divmod(period, 2) if x.dtype.kind in "iu" else (period / 2, 0)
    at, where = one_axis("unwrap", axis, x), HANDLERS[np.where]
    steps = diff(x, axis=at)
    turned = (steps + half) % period - half
    if not odd:
        turned = where((turned == -half) & (steps > 0), half, turned)
    is_small = abs(steps) < (period / 2 if discont is None else discont)
    fixes = where(is_small, constant(0, x.dtype), turned - steps)
    n = x.shape[at]
    rest = sliced(x, at, min(1, n), n) + HANDLERS[np.cumsum](fixes, at)
    result: Tracer = HANDLERS[np.concatenate]([sliced(x, at, 0, min(1, n)), rest], at)
    return result


@implements(np.piecewise)
def piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Tracer:
    """For each point the function whose condition holds, the last of several; else the default.

    All functions are computed at all points.
    """
    a = traced(x)
    several = isinstance(condlist, (list, tuple)) or np.ndim(condlist) > a.ndim
    conditions = list(condlist) if several else [condlist]
    functions = list(funclist)
    if len(functions) not in (len(conditions), len(conditions) + 1):
        raise ShapeError(
            f"piecewise: {len(conditions)} conditions need {len(conditions)} or "
            f"{len(conditions) + 1} functions, got {len(functions)}"
        )
    values = [f(a, *args, **kw) if callable(f) else f for f in functions]
    result: Any = values.pop() if len(values) > len(conditions) else 0
    result = broadcast(traced(result, a.dtype), a.shape)
    for condition, value in zip(conditions, values, strict=True):
        result = HANDLERS[np.where](condition, traced(value, a.dtype), result)
    return traced(result)


@implements(np.bincount)
def bincount(x: Any, /, weights: Any = None, minlength: int = 0) -> Tracer:
    """Sums of the weights by bin; the bins must be known while tracing."""
    if isinstance(x, Tracer):
        raise UnsupportedError(
            "bincount: the bins decide the shape of the result and cannot be traced; with "
            "a known number n of them use y = np.zeros(n); np.add.at(y, bins, weights)"
        )
    guard(x)
    bins = np.asarray(x)
    size = max(int(bins.max(initial=-1)) + 1, minlength)
    total = constant(0, np.int64 if weights is None else np.float64, (size,))
    HANDLERS[np.add, "at"](total, bins, 1 if weights is None else traced(weights, np.float64))
    return total
