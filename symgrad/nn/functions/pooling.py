"""Maxima and means over windows of ``[N, C, *spatial]``, or unbatched ``[C, *spatial]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import symgrad.numpy as snp
from symgrad.nn.faces import FitError, for_tensors
from symgrad.nn.windows import Numbers, adaptive_windows, per_axis, window_bounds, window_counts
from symgrad.tracing import emit

Array = Any
Sizes = int | None | Sequence[int | None]


def _with_batch(name: str, rank: int, x: Array, pool: Callable[[Array], Array]) -> Array:
    """``pool`` of ``x`` with a batch axis, which is taken away again if it was not there."""
    if x.ndim == rank + 2:
        return pool(x)
    if x.ndim != rank + 1:
        raise FitError(
            f"{name}() Expected {rank + 1}D or {rank + 2}D tensor, but got {list(x.shape)}"
        )
    return snp.squeeze(pool(snp.expand_dims(x, 0)), axis=0)


def _geometry(
    rank: int, x: Array, kernel: Numbers, stride: Numbers | None, padding: Numbers,
    dilation: Numbers, ceil_mode: bool,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    window, spread, low = per_axis(kernel, rank), per_axis(dilation, rank), per_axis(padding, rank)
    steps = window if stride is None else per_axis(stride, rank)
    if any(2 * p > (k - 1) * d + 1 for p, k, d in zip(low, window, spread, strict=True)):
        raise FitError(
            f"pad should be at most half of effective kernel size, but got pad={low[0]}, "
            f"kernel_size={window[0]} and dilation={spread[0]}"
        )
    widths, sizes = [], []
    for n, k, s, p, d in zip(x.shape[2:], window, steps, low, spread, strict=True):
        span = n + 2 * p - (k - 1) * d - 1
        out = -(-span // s) if ceil_mode else span // s
        if ceil_mode and out * s >= n + p:  # a window must begin inside the image
            out -= 1
        sizes.append(out + 1 if span >= 0 else 0)
        widths.append((p, max(p, out * s + (k - 1) * d + 1 - n - p)))
    if min(sizes) < 1:
        given = "x".join(map(str, (*x.shape[1 : x.ndim - rank], *x.shape[x.ndim - rank :])))
        made = "x".join(map(str, (x.shape[1], *sizes)))
        raise FitError(
            f"Given input size: ({given}). Calculated output size: ({made}). Output size is too "
            "small"
        )
    return window, steps, spread, tuple(widths)


# -- maxima --------------------------------------------------------------------------------


def _max_pool(rank: int, x: Array, options: Any) -> Array:
    def pool(x: Array) -> Array:
        window, steps, spread, widths = _geometry(rank, x, *options)
        return emit("window_max", x, window=window, stride=steps, padding=widths, dilation=spread)

    return _with_batch(f"max_pool{rank}d", rank, x, pool)


@for_tensors("SqueezeBackward1")
def max_pool1d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each."""
    return _max_pool(1, input, (kernel_size, stride, padding, dilation, ceil_mode))


@for_tensors("MaxPool2DWithIndicesBackward0")
def max_pool2d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each."""
    return _max_pool(2, input, (kernel_size, stride, padding, dilation, ceil_mode))


@for_tensors("MaxPool3DWithIndicesBackward0")
def max_pool3d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each."""
    return _max_pool(3, input, (kernel_size, stride, padding, dilation, ceil_mode))


# -- means ---------------------------------------------------------------------------------


def _avg_pool(rank: int, x: Array, window_options: Any, counting: Any) -> Array:
    kernel, stride, padding, ceil_mode = window_options
    count_include_pad, divisor = counting

    def pool(x: Array) -> Array:
        window, steps, spread, widths = _geometry(rank, x, kernel, stride, padding, 1, ceil_mode)
        total = emit("window_sum", x, window=window, stride=steps, padding=widths, dilation=spread)
        if divisor is not None:
            return total * (1 / divisor)
        low = per_axis(padding, rank)
        counted = [
            (n, p if count_include_pad else 0) for n, p in zip(x.shape[2:], low, strict=True)
        ]
        counts = window_counts(counted, total.shape[2:], window, steps, low)
        if (counts == counts.flat[0]).all():
            return total * (1 / float(counts.flat[0]))
        return total * (1 / counts).astype(x.dtype)

    return _with_batch(f"avg_pool{rank}d", rank, x, pool)


@for_tensors("SqueezeBackward1")
def avg_pool1d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> Array:  # fmt: skip
    """Mean over windows; padding counts as zeros unless ``count_include_pad`` is off."""
    options = (kernel_size, stride, padding, ceil_mode)
    return _avg_pool(1, input, options, (count_include_pad, None))


@for_tensors("AvgPool2DBackward0")
def avg_pool2d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Array:  # fmt: skip
    """Mean over windows; padding counts as zeros unless ``count_include_pad`` is off."""
    options = (kernel_size, stride, padding, ceil_mode)
    return _avg_pool(2, input, options, (count_include_pad, divisor_override))


@for_tensors("AvgPool3DBackward0")
def avg_pool3d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Array:  # fmt: skip
    """Mean over windows; padding counts as zeros unless ``count_include_pad`` is off."""
    options = (kernel_size, stride, padding, ceil_mode)
    return _avg_pool(3, input, options, (count_include_pad, divisor_override))


# -- windows that cut the image into a number of parts -------------------------------------


def _wanted(x: Array, rank: int, output_size: Sizes) -> tuple[int, ...]:
    sizes = (
        (output_size,) * rank
        if output_size is None or isinstance(output_size, int)
        else tuple(output_size)
    )
    return tuple(n if m is None else m for m, n in zip(sizes, x.shape[2:], strict=True))


def _adaptive(rank: int, x: Array, output_size: Sizes, even: Any, along_axis: Any) -> Array:
    """Pools by equal windows where the sizes divide, else axis by axis."""

    def pool(x: Array) -> Array:
        out = _wanted(x, rank, output_size)
        if all(n % m == 0 for n, m in zip(x.shape[2:], out, strict=True)):
            return even(x, tuple(n // m for n, m in zip(x.shape[2:], out, strict=True)))
        for axis, m in enumerate(out, 2):
            x = along_axis(x, axis, m)
        return x

    return _with_batch(f"adaptive_pool{rank}d", rank, x, pool)


def _even_mean(x: Array, window: tuple[int, ...]) -> Array:
    axes = tuple(range(2, x.ndim))
    if window == tuple(x.shape[2:]):
        return snp.mean(x, axis=axes, keepdims=True)
    none = ((0, 0),) * len(window)
    total = emit(
        "window_sum", x, window=window, stride=window, padding=none, dilation=(1,) * len(window)
    )
    return total * (1 / math.prod(window))


def _even_max(x: Array, window: tuple[int, ...]) -> Array:
    none = ((0, 0),) * len(window)
    return emit(
        "window_max", x, window=window, stride=window, padding=none, dilation=(1,) * len(window)
    )


def _means_along(x: Array, axis: int, count: int) -> Array:
    """Uneven windows are a product with a matrix of weights."""
    weights = adaptive_windows(x.shape[axis], count).astype(x.dtype)
    moved = emit("dot_general", x, weights, lhs_contract=(axis,), rhs_contract=(1,))
    return snp.moveaxis(moved, -1, axis)


def _maxima_along(x: Array, axis: int, count: int) -> Array:
    lead = (slice(None),) * axis
    parts = [
        snp.max(x[(*lead, slice(start, stop))], axis=axis)
        for start, stop in window_bounds(x.shape[axis], count)
    ]
    return snp.stack(parts, axis=axis)


@for_tensors("SqueezeBackward1")
def adaptive_avg_pool1d(input: Array, output_size: Sizes) -> Array:
    """Mean over the windows that cut the axis into ``output_size`` parts."""
    return _adaptive(1, input, output_size, _even_mean, _means_along)


def _adaptive_name(given: dict[str, Any]) -> str:
    single = given["output_size"] in (1, (1, 1), [1, 1])
    return "MeanBackward1" if single else "AdaptiveAvgPool2DBackward0"


@for_tensors(_adaptive_name)
def adaptive_avg_pool2d(input: Array, output_size: Sizes) -> Array:
    """Mean over the windows that cut the image into ``output_size`` parts.

    ``None`` keeps an axis as it is.
    """
    return _adaptive(2, input, output_size, _even_mean, _means_along)


@for_tensors("SqueezeBackward1")
def adaptive_max_pool1d(input: Array, output_size: Sizes) -> Array:
    """Maximum over the windows that cut the axis into ``output_size`` parts."""
    return _adaptive(1, input, output_size, _even_max, _maxima_along)


@for_tensors("AdaptiveMaxPool2DBackward0")
def adaptive_max_pool2d(input: Array, output_size: Sizes) -> Array:
    """Maximum over the windows that cut the image into ``output_size`` parts."""
    return _adaptive(2, input, output_size, _even_max, _maxima_along)
