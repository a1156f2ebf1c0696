"""Numerical analysis on arrays: differences, integrals, covariances, polynomials."""

from __future__ import annotations

from typing import Any

import numpy as np

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
from symgrad.numpy.reductions import NO_VALUE, mean, sum_
from symgrad.tracer import HANDLERS, Tracer


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
    pairs = sliced(y, at, 1, n) + sliced(y, at, 0, n - 1)
    result: Tracer = sum_(steps * pairs / 2.0, at)
    return result


@implements(np.ediff1d)
def ediff1d(ary: Any) -> Tracer:
    """Differences of neighbours of the flattened array."""
    x = traced(ary)
    return diff(reshape(x, (x.size,)))


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
    x = HANDLERS[np.atleast_2d](astype(m, result_type(m, 0.0)))
    if not rowvar and x.shape[0] != 1:
        x = x.T
    if y is not None:
        other = HANDLERS[np.atleast_2d](astype(y, result_type(y, 0.0)))
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
    coefficients = traced(p)
    result: Any = 0.0
    for i in range(coefficients.size):
        result = result * x + coefficients[i]
    return result
