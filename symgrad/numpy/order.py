"""Functions that depend on the order of elements: sorting, medians, quantiles, searching."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import ShapeError, UnsupportedError
from symgrad.ir.types import i64
from symgrad.numpy.core import (
    along,
    astype,
    float_type,
    implements,
    many_axes,
    refuse,
    reshape,
    sliced,
    traced,
    transposed,
)
from symgrad.numpy.indexing import guard, take_along_axis
from symgrad.numpy.reductions import keep_axes
from symgrad.tracer import Tracer
from symgrad.tracing import stage


@implements(np.argsort)
def argsort(
    a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Tracer:
    """Positions of the elements in rising order; equal ones keep theirs."""
    refuse("argsort", order=order)
    x, at = along("argsort", a, axis)
    result: Tracer = stage("argsort", x, axis=at)
    return result


@implements(np.sort)
def sort(
    a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Tracer:
    """The elements in rising order along an axis."""
    refuse("sort", order=order)
    x, at = along("sort", a, axis)
    return take_along_axis(x, argsort(x, at), at)


@implements(np.partition)
def partition(
    a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None
) -> Tracer:
    """Sorted altogether, which is one of the orders that NumPy may give."""
    return sort(a, axis)


@implements(np.argpartition)
def argpartition(
    a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None
) -> Tracer:
    """As ``argsort``, which is one of the orders that NumPy may give."""
    return argsort(a, axis)


def _rows(x: Tracer, axis: Any, name: str) -> tuple[Tracer, tuple[int, ...]]:
    """The elements sorted along a last axis, and the axes that are gone."""
    axes = many_axes(name, axis, x)
    kept = [i for i in range(x.ndim) if i not in axes]
    size = math.prod(x.shape[i] for i in axes)
    flat = reshape(transposed(x, [*kept, *axes]), [*(x.shape[i] for i in kept), size])
    return sort(flat, -1), axes


def _at(rows: Tracer, rank: float) -> Any:
    """Between neighbours in proportion; nan, which comes last, if there is one."""
    last, n = rows.ndim - 1, rows.shape[-1]
    low = min(math.floor(rank), n - 1)
    high = min(low + 1, n - 1)
    shape = rows.shape[:-1]
    first, second, end = (reshape(sliced(rows, last, i, i + 1), shape) for i in (low, high, n - 1))
    part = rank - low
    if part == 0.5:  # also of two infinities
        value = first * 0.5 + second * 0.5
    else:
        value = first if not part else first + (second - first) * part
    return HANDLERS[np.where](HANDLERS[np.isnan](end), end, value)


_METHODS = {
    "inverted_cdf", "averaged_inverted_cdf", "closest_observation", "interpolated_inverted_cdf",
    "hazen", "weibull", "linear", "median_unbiased", "normal_unbiased", "lower", "higher",
    "midpoint", "nearest",
}  # fmt: skip
_ELEMENTS = {"inverted_cdf", "closest_observation", "lower", "higher", "nearest"}
"""Methods whose quantiles are elements of the array, of its dtype."""


def _quantiles(
    name: str, a: Any, q: Any, axis: Any, method: str, keepdims: Any, scale: float
) -> Tracer:
    if method not in _METHODS:
        raise UnsupportedError(f"{name}: method={method!r} is none of {', '.join(_METHODS)}")
    if isinstance(q, Tracer):
        raise UnsupportedError(f"{name}: which quantiles are wanted must be known while tracing")
    guard(q)
    x = traced(a)
    if method not in _ELEMENTS:
        x = astype(x, float_type(x, name))
        if type(q) not in (float, int):
            x = astype(x, np.result_type(x.dtype, np.asarray(q)))
    rows, axes = _rows(x, axis, name)
    wanted = np.asarray(q, np.float64) / scale
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"{name}: {q} is not in the range [0, {scale:g}]")
    n = rows.shape[-1]
    if not n:
        raise ShapeError(f"{name}: {x._value.type} has no elements along axes {axes}")
    # Every method is a mean of two neighbours: NumPy tells which by the quantiles of positions.
    ranks = np.quantile(np.arange(n, dtype=np.float64), wanted, method=method)  # type: ignore[call-overload]
    found = [keep_axes(_at(rows, r), x, axes, keepdims) for r in ranks.reshape(-1).tolist()]
    stacked: Tracer = HANDLERS[np.stack](found) if wanted.ndim else found[0]
    return reshape(stacked, (*wanted.shape, *found[0].shape))


@implements(np.quantile)
def quantile(
    a: Any, q: Any, axis: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False,
) -> Tracer:  # fmt: skip
    """Quantiles along axes; which ones must be known while tracing."""
    return _quantiles("quantile", a, q, axis, method, keepdims, 1.0)


@implements(np.percentile)
def percentile(
    a: Any, q: Any, axis: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False,
) -> Tracer:  # fmt: skip
    """Percentiles along axes; which ones must be known while tracing."""
    return _quantiles("percentile", a, q, axis, method, keepdims, 100.0)


@implements(np.median)
def median(
    a: Any, axis: Any = None, overwrite_input: bool = False, keepdims: Any = False
) -> Tracer:
    """The median along axes: of two middle elements the mean."""
    return _quantiles("median", a, 0.5, axis, "linear", keepdims, 1.0)


@implements(np.nanmedian)
def nanmedian(
    a: Any, axis: Any = None, overwrite_input: bool = False, keepdims: Any = False
) -> Tracer:
    """The median along axes of the elements that are not nan; nan where there are none."""
    x = traced(a)
    x = astype(x, float_type(x, "nanmedian"))
    rows, axes = _rows(x, axis, "nanmedian")
    count = HANDLERS[np.count_nonzero](~HANDLERS[np.isnan](rows), -1, keepdims=True)
    last = HANDLERS[np.maximum](count - 1, 0)  # without any, the first is nan
    low, high = (take_along_axis(rows, place, -1) for place in (last // 2, last - last // 2))
    middle = reshape(low * 0.5 + high * 0.5, rows.shape[:-1])
    return keep_axes(middle, x, axes, keepdims)


@implements(np.searchsorted)
def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Tracer:
    """Where elements would be put into a sorted vector, by halving steps."""
    line, values = traced(a), traced(v)
    if sorter is not None:
        line = HANDLERS[np.take](line, sorter)
    n = line.size
    place = astype(values, i64.numpy) * 0
    step = 1 << n.bit_length() >> 1
    while step:
        reached = place + step
        probe = HANDLERS[np.take](line, HANDLERS[np.minimum](reached, n) - 1) if n else place
        ahead = probe <= values if side == "right" else probe < values
        place = HANDLERS[np.where](ahead & (reached <= n), reached, place)
        step >>= 1
    if values._kind != "f":
        return place
    numbers = n - HANDLERS[np.count_nonzero](HANDLERS[np.isnan](line))  # nan comes last
    last = n if side == "right" else numbers
    return HANDLERS[np.where](HANDLERS[np.isnan](values), last, place)  # type: ignore[no-any-return]


@implements(np.digitize)
def digitize(x: Any, bins: Any, right: bool = False) -> Tracer:
    """The bins that elements fall into; the edges must be known while tracing."""
    if isinstance(bins, Tracer):
        raise UnsupportedError(
            "digitize: whether the edges rise or fall must be known while tracing; use "
            "np.searchsorted, for rising ones"
        )
    guard(bins)
    edges = np.asarray(bins)
    steps = np.diff(edges)
    if (steps >= 0).all():
        return searchsorted(edges, x, "left" if right else "right")
    if (steps <= 0).all():
        return len(edges) - searchsorted(edges[::-1], x, "left" if right else "right")
    raise ValueError("bins must be monotonically increasing or decreasing")
