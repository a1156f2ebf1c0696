"""Maxima and means over windows of ``[N, C, *spatial]``, or unbatched ``[C, *spatial]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.nn.faces import FitError, for_tensors, known_array
from symgrad.nn.windows import Numbers, per_axis, window_counts
from symgrad.tracing import emit

Array = Any


def with_batch(name: str, rank: int, x: Array, pool: Callable[[Array], Any]) -> Any:
    """``pool`` of ``x`` with a batch axis, which is taken away again if it was not there."""
    if x.ndim == rank + 2:
        return pool(x)
    if x.ndim != rank + 1:
        raise FitError(
            f"{name}() Expected {rank + 1}D or {rank + 2}D tensor, but got {list(x.shape)}"
        )
    results = pool(snp.expand_dims(x, 0))
    if isinstance(results, tuple):
        return tuple(snp.squeeze(y, axis=0) for y in results)
    return snp.squeeze(results, axis=0)


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


def _max_pool(rank: int, x: Array, options: Any, return_indices: bool) -> Any:
    def pool(x: Array) -> Any:
        window, steps, spread, widths = _geometry(rank, x, *options)
        attrs = {"window": window, "stride": steps, "padding": widths, "dilation": spread}
        top = emit("window_max", x, **attrs)
        return (top, _places(x, attrs)) if return_indices else top

    return with_batch(f"max_pool{rank}d", rank, x, pool)


def _places(x: Array, attrs: dict[str, Any]) -> Array:
    """The number of each window's first maximum among the elements of its image.

    Found axis by axis, so that a number in the elements' own type is exact.
    """
    spatial = tuple(x.shape[2:])
    found: Array = 0
    for axis, n in enumerate(spatial):
        line = snp.arange(n, dtype=x.dtype).reshape(-1, *(1,) * (len(spatial) - 1 - axis))
        number = emit("window_max_gather", x, snp.broadcast_to(line, x.shape), **attrs)
        found = found * n + snp.astype(number, np.int64)
    return found


@for_tensors("SqueezeBackward1", several=True)
def max_pool1d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each.

    With ``return_indices`` also its number among the elements of the image, as in
    ``max_pool2d`` and ``max_pool3d``.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool(1, input, options, return_indices)


@for_tensors("MaxPool2DWithIndicesBackward0", several=True)
def max_pool2d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each."""
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool(2, input, options, return_indices)


@for_tensors("MaxPool3DWithIndicesBackward0", several=True)
def max_pool3d(
    input: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each."""
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool(3, input, options, return_indices)


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

    return with_batch(f"avg_pool{rank}d", rank, x, pool)


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


# -- norms ---------------------------------------------------------------------------------


def _lp_pool(
    rank: int, x: Array, norm_type: float, kernel: Numbers, stride: Numbers | None, ceil_mode: bool
) -> Array:
    if abs(norm_type) == math.inf:
        sign = 1 if norm_type > 0 else -1
        options = (kernel, stride, 0, 1, ceil_mode)
        return sign * _max_pool(rank, sign * snp.abs(x), options, False)
    powers = x * x if norm_type == 2 else x**norm_type
    mean = _avg_pool(rank, powers, (kernel, stride, 0, ceil_mode), (True, None))
    return (mean * float(math.prod(per_axis(kernel, rank)))) ** (1 / norm_type)


@for_tensors("PowBackward0")
def lp_pool1d(
    input: Array, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
    ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """The root of the sum of powers over windows."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@for_tensors("PowBackward0")
def lp_pool2d(
    input: Array, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
    ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """The root of the sum of powers over windows."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@for_tensors("PowBackward0")
def lp_pool3d(
    input: Array, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
    ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """The root of the sum of powers over windows."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# -- maxima back in their places -----------------------------------------------------------


@for_tensors(
    lambda given: ("SqueezeBackward1", "MaxUnpool2DBackward0", "MaxUnpool3DBackward0")[
        len(given["sizes"]) - 1
    ],
    saves=("indices",),
)
def _put_back(input: Array, indices: Array, sizes: tuple[int, ...]) -> Array:
    lead = tuple(input.shape[: input.ndim - len(sizes)])
    rows, columns = math.prod(lead), math.prod(input.shape[input.ndim - len(sizes) :])
    values, places = (snp.reshape(v, (rows, columns)) for v in (input, indices))
    images = np.arange(rows).reshape(-1, 1) + places * 0
    empty = snp.zeros((rows, math.prod(sizes)), input.dtype)
    return snp.reshape(emit("scatter", empty, values, images, places, axes=(0, 1)), (*lead, *sizes))


def _max_unpool(
    rank: int, x: Array, indices: Array, kernel: Numbers, stride: Numbers | None,
    padding: Numbers, output_size: Sequence[int] | None,
) -> Array:  # fmt: skip
    if tuple(indices.shape) != tuple(x.shape):
        raise FitError(
            "Expected shape of indices to be same as that of the input tensor "
            f"({list(x.shape)}) but got indices tensor with shape: {list(indices.shape)}"
        )
    window, low = per_axis(kernel, rank), per_axis(padding, rank)
    steps = window if stride is None else per_axis(stride, rank)
    spatial = x.shape[x.ndim - rank :]
    usual = [
        (n - 1) * s + k - 2 * p for n, s, k, p in zip(spatial, steps, window, low, strict=True)
    ]
    sizes = tuple(usual if output_size is None else output_size)
    sizes = sizes[2:] if len(sizes) == rank + 2 else sizes
    if len(sizes) != rank:
        raise UsageError(
            f"output_size should be a sequence containing {rank} or {rank + 2} elements, but it "
            f"has a length of '{len(sizes)}'"
        )
    for axis, (n, size, step) in enumerate(zip(usual, sizes, steps, strict=True)):
        if not n - step < size < n + step:
            raise ShapeError(
                f'invalid output_size "{sizes}" (dim {axis} must be between {n - step} and '
                f"{n + step})"
            )
    known = known_array(indices)
    if known is not None and known.size:
        wrong = known[(known < 0) | (known >= math.prod(sizes))]
        if wrong.size:
            shown = "x".join(map(str, sizes))
            raise FitError(
                f"Found an invalid max index: {wrong.flat[0]} (output volumes are of size {shown})"
            )
    return _put_back(x, indices, sizes)


def max_unpool1d(
    input: Array, indices: Array, kernel_size: Numbers, stride: Numbers | None = None,
    padding: Numbers = 0, output_size: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """Zeros with the input's elements at the places that ``max_pool1d`` gave as indices."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Array, indices: Array, kernel_size: Numbers, stride: Numbers | None = None,
    padding: Numbers = 0, output_size: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """Zeros with the input's elements at the places that ``max_pool2d`` gave as indices."""
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Array, indices: Array, kernel_size: Numbers, stride: Numbers | None = None,
    padding: Numbers = 0, output_size: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """Zeros with the input's elements at the places that ``max_pool3d`` gave as indices."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
