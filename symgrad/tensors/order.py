"""What depends on the order of elements: sorting, quantiles, counting, searching."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.types import i64
from symgrad.numpy import core
from symgrad.tensors import dtypes
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tensors.axes import one_axis
from symgrad.tensors.creation import tensor
from symgrad.tensors.elementwise import cast, declared, is_number, without_derivative
from symgrad.tensors.handle import Tensor
from symgrad.tensors.positions import along, flat, iota, pick_one
from symgrad.tensors.reductions import reduction, refuse_empty, returned
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage

Sorted = returned("sort", "values indices")
TopK = returned("topk", "values indices")
KthValue = returned("kthvalue", "values indices")
Median = returned("median", "values indices")
NanMedian = returned("nanmedian", "values indices")
Mode = returned("mode", "values indices")
CumMax = returned("cummax", "values indices")
CumMin = returned("cummin", "values indices")
Histogram = returned("histogram", "hist bin_edges")


def _ordered(x: Tracer, axis: int, descending: bool = False) -> Any:
    return stage("argsort", x, axis=axis, descending=descending)


def _with_axis(x: Tracer) -> Any:
    return core.reshape(x, (1,)) if not x.ndim else x


@reduction
def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Tensor:
    """Positions of the elements in order along an axis; equal ones keep their order."""
    axis = one_axis(dim, input.ndim)

    def compute(x: Tracer) -> Any:
        return core.reshape(_ordered(_with_axis(x), axis, descending), x.shape)

    made: Tensor = apply("", compute, (input,))
    return made


def _sorted(kind: Any, label: str, input: Tensor, axis: int, descending: bool, keep: slice) -> Any:
    indices = argsort(input, axis, descending)
    if keep != slice(None) and input.ndim:
        indices = indices[(*(slice(None),) * axis, keep)].contiguous()
    values = apply(label, lambda x, i: along(x, i, axis), (input, indices), saves=NOTHING,
                   parents=(input,))  # fmt: skip
    return kind(values, indices)


@reduction
def sort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> Any:
    """The elements in order along an axis, with their positions."""
    axis = one_axis(dim, input.ndim)
    label = f"SortBackward{int(stable is not None)}"
    return _sorted(Sorted, label, input, axis, descending, slice(None))


@declared
def msort(input: Tensor) -> Tensor:
    """The elements in order along the first axis."""
    return sort(input, 0).values  # type: ignore[no-any-return]


@reduction
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The ``k`` largest, or smallest, elements along an axis in order, with their positions."""
    axis = one_axis(dim, input.ndim)
    if not 0 <= k <= (input.shape[axis] if input.ndim else 1):
        raise RuntimeError("selected index k out of range")
    return _sorted(TopK, "TopkBackward0", input, axis, largest, slice(0, k))


def _chosen(kind: Any, label: str, input: Tensor, axis: int, keepdim: bool, place: Any) -> Any:
    """Values along an axis, and their positions that ``place`` finds in the trace."""

    def find(x: Tracer) -> Any:
        x = _with_axis(x)
        index = place(x, _ordered(x, axis))
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :]) if keepdim else index.shape
        return core.reshape(index, shape if input.ndim else ())

    indices = apply("", find, (input,))

    def value(x: Tracer, i: Tracer) -> Any:
        if not x.ndim:
            return x
        thin = core.reshape(i, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
        return core.reshape(along(x, thin, axis), i.shape)

    return kind(apply(label, value, (input, indices), saves=NOTHING, parents=(input,)), indices)


def _fixed(number: int, axis: int) -> Any:
    def place(x: Tracer, order: Tracer) -> Any:
        chosen = core.sliced(order, axis, number, number + 1)
        return core.reshape(chosen, (*x.shape[:axis], *x.shape[axis + 1 :]))

    return place


@reduction
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The ``k``-th smallest element along an axis, counted from 1, with its position."""
    refuse_empty("kthvalue", input, dim)
    axis = one_axis(dim, input.ndim)
    if not 1 <= k <= (input.shape[axis] if input.ndim else 1):
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {axis}")
    return _chosen(KthValue, "KthvalueBackward0", input, axis, keepdim, _fixed(k - 1, axis))


def _middle(axis: int, ignore_nan: bool) -> Any:
    """The lower of the two middle elements; nan if there is one, or of the numbers only."""

    def place(x: Tracer, order: Tracer) -> Any:
        n = x.shape[axis]
        if x._kind != "f":
            return _fixed((n - 1) // 2, axis)(x, order)
        numbers = snp.sum(~snp.isnan(x), axis=axis)
        if ignore_nan:
            at = snp.maximum((numbers - 1) // 2, 0)
        else:  # nan comes last, the first of several wins
            at = snp.where(numbers < n, numbers, (n - 1) // 2)
        return pick_one(order, cast(at, i64.numpy), axis)

    return place


def _declare_median(name: str, kind: Any, ignore_nan: bool) -> None:
    label = "NanmedianBackward" if ignore_nan else "MedianBackward"

    def median(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return _whole_median(f"{label}0", input, ignore_nan)
        refuse_empty("median", input, dim)
        axis = one_axis(dim, input.ndim)
        return _chosen(kind, f"{label}1", input, axis, keepdim, _middle(axis, ignore_nan))

    median.__name__ = name
    median.__doc__ = "The lower median of all elements, or along an axis with its position."
    reduction(median)


_OF_NOTHING = {"f": math.nan, "b": True}
"""The median of no elements, by the kind of their type; an integer is the smallest one."""


def _whole_median(label: str, input: Tensor, ignore_nan: bool) -> Tensor:
    """The median of all elements: equal ones share the cotangent."""

    def compute(x: Tracer) -> Any:
        if not x.size:
            return constant(_OF_NOTHING.get(x.dtype.kind) or np.iinfo(x.dtype).min, x.dtype)
        x = flat(x)
        place = _middle(0, ignore_nan)(x, _ordered(x, 0))
        value = stage("stop_gradient", pick_one(x, place, 0))
        if x._kind != "f":
            return value
        hits = (x == value) | (snp.isnan(x) & snp.isnan(value))
        share = cast(hits, x.dtype) / snp.maximum(snp.sum(cast(hits, x.dtype)), 1.0)
        return value + snp.sum(snp.where(hits, x - stage("stop_gradient", x), 0.0) * share)

    made: Tensor = apply(label, compute, (input,))
    return made


_declare_median("median", Median, False)
_declare_median("nanmedian", NanMedian, True)


@reduction
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The smallest of the most frequent elements along an axis, with its last position."""
    refuse_empty("mode", input, dim)
    axis = one_axis(dim, input.ndim)

    def place(x: Tracer, order: Tracer) -> Any:
        rows, n = along(x, order, axis), x.shape[axis]
        runs: Any = snp.expand_dims(rows, axis) == snp.expand_dims(rows, axis + 1)
        counts = snp.sum(runs, axis=axis + 1)
        best = snp.argmax(counts, axis=axis)  # the first maximum is the smallest element
        value = snp.expand_dims(pick_one(rows, best, axis), axis)
        number = iota(x.shape, axis)
        return snp.max(snp.where(x == value, number, -1), axis=axis) if n else best

    return _chosen(Mode, "ModeBackward0", input, axis, keepdim, place)


def _declare_running_extreme(name: str, kind: Any, ufunc: str) -> None:
    def running(input: Tensor, dim: int) -> Any:
        axis = one_axis(dim, input.ndim)

        def find(x: Tracer) -> Any:
            """The position of the last extreme so far, doubling the reach in every step."""
            x = _with_axis(x)
            n, places, values = x.shape[axis], iota(x.shape, axis), x
            reach = 1
            while reach < n:
                earlier = [snp.concatenate([core.sliced(v, axis, 0, reach),
                                            core.sliced(v, axis, 0, n - reach)], axis)
                           for v in (values, places)]  # fmt: skip
                better = earlier[0] > values if ufunc == "max" else earlier[0] < values
                if x._kind == "f":
                    better = (better | snp.isnan(earlier[0])) & ~snp.isnan(values)
                better = better & (iota(x.shape, axis) >= reach)
                values = snp.where(better, earlier[0], values)
                places = snp.where(better, earlier[1], places)
                reach *= 2
            return core.reshape(places, input._tracer.shape)

        indices = apply("", find, (input,))
        values = apply(f"{name.title()}Backward0", lambda x, i: along(x, i, axis),
                       (input, indices), saves=NOTHING, parents=(input,))  # fmt: skip
        return kind(values, indices)

    running.__name__ = name
    running.__doc__ = "Running extremes along an axis, with their positions (of ties the last)."
    reduction(running)


_declare_running_extreme("cummax", CumMax, "max")
_declare_running_extreme("cummin", CumMin, "min")

# -- quantiles -----------------------------------------------------------------------------

_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(
    input: Tensor, q: Any, dim: Any, keepdim: bool, interpolation: str, ignore_nan: bool
) -> Tensor:
    if interpolation not in _INTERPOLATIONS:
        raise RuntimeError(
            "quantile() interpolation must be one of linear, lower, higher, midpoint or nearest, "
            f"but got {interpolation}"
        )
    if input._kind != "f":
        raise RuntimeError("quantile() input tensor must be either float or double dtype")
    wanted = q._array() if isinstance(q, Tensor) else np.asarray(q, input._dtype)
    if ((wanted < 0) | (wanted > 1)).any():
        raise RuntimeError("quantile() q values must be in the range [0, 1]")
    axis = 0 if dim is None else one_axis(dim, input.ndim)

    def compute(x: Tracer) -> Any:
        full = [1 if dim is None or a == axis else n for a, n in enumerate(x.shape)]
        x = flat(x) if dim is None else _with_axis(x)
        n = x.shape[axis]
        rows = along(x, _ordered(x, axis), axis)
        numbers = snp.sum(~snp.isnan(x), axis=axis)
        results = [
            _at(rows, float(w), numbers, n, axis, interpolation, ignore_nan)
            for w in wanted.reshape(-1)
        ]
        if keepdim:
            results = [core.reshape(r, tuple(full)) for r in results]
        return snp.stack(results) if wanted.ndim else results[0]

    made: Tensor = apply("SqueezeBackward4", compute, (input,))
    return made


def _at(
    rows: Tracer, q: float, numbers: Tracer, n: int, axis: int, interpolation: str,
    ignore_nan: bool,
) -> Any:  # fmt: skip
    """The quantile of sorted rows, nan last."""
    last = cast(numbers - 1, rows.dtype) if ignore_nan else None
    if last is None:
        rank = q * (n - 1)
        low, high = math.floor(rank), math.ceil(rank)
        if interpolation == "nearest":
            low = high = round(rank)
        low, high = {"lower": (low, low), "higher": (high, high)}.get(interpolation, (low, high))
        a, b = (pick_one(rows, _filled(numbers, i), axis) for i in (low, high))
        weight: Any = 0.5 if interpolation == "midpoint" else rank - low
        value = a if low == high else a + (b - a) * weight
        return snp.where(numbers < n, math.nan, value)
    rank_ = snp.maximum(last, 0.0) * q
    below, above = snp.floor(rank_), snp.ceil(rank_)
    if interpolation == "nearest":
        below = above = snp.round(rank_)
    below, above = {"lower": (below, below), "higher": (above, above)}.get(
        interpolation, (below, above)
    )
    a, b = (pick_one(rows, cast(i, i64.numpy), axis) for i in (below, above))
    part: Any = 0.5 if interpolation == "midpoint" else rank_ - below
    return a + (b - a) * part


def _filled(like: Tracer, number: int) -> Any:
    return cast(like, i64.numpy) * 0 + number


@reduction
def quantile(
    input: Tensor, q: Any, dim: Any = None, keepdim: bool = False, *,
    interpolation: str = "linear",
) -> Tensor:  # fmt: skip
    """Quantiles of all elements or along an axis; nan where there is one."""
    return _quantile(input, q, dim, keepdim, interpolation, False)


@reduction
def nanquantile(
    input: Tensor, q: Any, dim: Any = None, keepdim: bool = False, *,
    interpolation: str = "linear",
) -> Tensor:  # fmt: skip
    """Quantiles of the elements that are numbers."""
    return _quantile(input, q, dim, keepdim, interpolation, True)


# -- searching -----------------------------------------------------------------------------


def searchsorted(
    sorted_sequence: Tensor, input: Any, *, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Where elements would be put into sorted rows: before equal ones, or after (``right``)."""
    if side is not None:
        right = side == "right"
    values = tensor(input) if is_number(input) else input
    ordered = sorted_sequence if sorter is None else sorted_sequence.gather(-1, sorter)
    dtype = dtypes.promote((ordered, values))

    def compute(rows: Tracer, v: Tracer) -> Any:
        shape = v.shape
        rows, v = cast(rows, dtype), cast(v, dtype)
        if rows.ndim == 1:
            v = flat(v)
        return core.reshape(_search(rows, v, right), shape)

    found: Tensor = apply("", compute, (ordered, values))
    return found.to(dtypes.int32) if out_int32 else found


def _search(rows: Tracer, v: Tracer, right: bool) -> Any:
    """Bisection by halving steps, for all elements at once."""
    n, axis = rows.shape[-1], rows.ndim - 1
    place = cast(iota(v.shape, axis) * 0, i64.numpy)
    if n == 0:
        return place
    step = 1 << (n.bit_length() - 1)
    while step:
        reached = place + step
        probe = along(rows, snp.minimum(reached, n) - 1, axis)
        ahead = probe <= v if right else probe < v
        if v._kind == "f":
            ahead = ahead | (snp.isnan(v) & ~snp.isnan(probe))
        place = snp.where(ahead & (reached <= n), reached, place)
        step >>= 1
    return place


def bucketize(
    input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """The number of the interval between sorted boundaries that elements lie in."""
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Which elements are among others."""
    a, b = (x._array() if isinstance(x, Tensor) else np.asarray(x) for x in
            (elements, test_elements))  # fmt: skip
    return Tensor.of_array(np.asarray(np.isin(a, b, invert=invert)))


# -- counting: the shape of the result depends on the values -------------------------------


def unique(
    input: Tensor, sorted: bool = True, return_inverse: bool = False,
    return_counts: bool = False, dim: int | None = None,
) -> Any:  # fmt: skip
    """The different elements, or slices along an axis, in order."""
    found: Any = np.unique(  # type: ignore[call-overload]
        input._array(), return_inverse=return_inverse, return_counts=return_counts,
        axis=None if dim is None else one_axis(dim, input.ndim),
    )  # fmt: skip
    arrays = found if isinstance(found, tuple) else (found,)
    made = tuple(Tensor.of_array(np.ascontiguousarray(a)) for a in arrays)
    without_derivative(made[0], "aten::_unique2" if dim is None else "aten::unique_dim", input)
    return made if len(made) > 1 else made[0]


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """The elements without immediate repetitions."""
    array = input._array()
    rows = array.reshape(-1) if dim is None else np.moveaxis(array, dim, 0)
    changed = (rows[1:] != rows[:-1]).reshape(max(len(rows) - 1, 0), -1).any(1)
    starts = np.flatnonzero(np.concatenate([[True], changed])) if len(rows) else np.zeros(0, int)
    kept = rows[starts] if dim is None else np.moveaxis(rows[starts], 0, dim)
    results = [kept]
    if return_inverse:
        inverse = np.cumsum(np.concatenate([[0], changed]))[: len(rows)]
        results.append(inverse.reshape(array.shape) if dim is None else inverse)
    if return_counts:
        results.append(np.diff([*starts, len(rows)]))
    made = tuple(Tensor.of_array(np.ascontiguousarray(a)) for a in results)
    without_derivative(made[0], "aten::unique_consecutive", input)
    return made if len(made) > 1 else made[0]


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each non-negative integer occurs, or the sums of its weights."""
    numbers = input._array()
    if input.ndim != 1 or input._dtype.kind not in "iu" or (numbers < 0).any():
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    counted = np.bincount(numbers, None if weights is None else weights._array(), minlength)
    dtype = np.int64 if weights is None else (
        np.float32 if weights._dtype == np.float32 else np.float64
    )  # fmt: skip
    return Tensor.of_array(counted.astype(dtype))


def _range(array: Any, low: float, high: float) -> tuple[float, float]:
    if low == high == 0 and array.size:
        low, high = float(array.min()), float(array.max())
    return (low - 1, high + 1) if low == high else (low, high)


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts in equal bins between two numbers, the extremes unless given."""
    array = input._array().reshape(-1)
    counts, _ = np.histogram(array, bins, _range(array, min, max))
    return Tensor.of_array(counts.astype(input._dtype))


def histogram(
    input: Tensor, bins: Any, *, range: Any = None, weight: Tensor | None = None,
    density: bool = False,
) -> Any:  # fmt: skip
    """Counts, or sums of weights, in bins, and the bins' edges."""
    array = input._array().reshape(-1)
    edges = bins._array() if isinstance(bins, Tensor) else bins
    limits = _range(array, *(range or (0, 0)))
    found, ends = np.histogram(
        array, edges, limits, density, None if weight is None else weight._array().reshape(-1)
    )
    return Histogram(*(Tensor.of_array(np.asarray(a, input._dtype)) for a in (found, ends)))


for _function in (unique, unique_consecutive, bincount, histc):
    declared(_function)
PLAIN = {f.__name__: f for f in (searchsorted, bucketize, isin, histogram)}
"""Functions that are no methods."""
