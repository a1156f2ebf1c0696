"""Means and maxima over the windows that cut an image into a wanted number of parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.nn.faces import for_tensors
from symgrad.nn.functions.pooling import with_batch
from symgrad.nn.windows import adaptive_windows, window_bounds
from symgrad.tracing import emit

Array = Any
Sizes = int | None | Sequence[int | None]
Window = tuple[int, ...]


def _wanted(x: Array, rank: int, output_size: Sizes) -> tuple[int, ...]:
    sizes = (
        (output_size,) * rank
        if output_size is None or isinstance(output_size, int)
        else tuple(output_size)
    )
    return tuple(n if m is None else m for m, n in zip(sizes, x.shape[2:], strict=True))


def _even_window(x: Array, out: tuple[int, ...]) -> Window | None:
    """The window if all are alike, ``None`` if sizes do not divide."""
    if any(n % m for n, m in zip(x.shape[2:], out, strict=True)):
        return None
    return tuple(n // m for n, m in zip(x.shape[2:], out, strict=True))


def _side_by_side(window: Window) -> dict[str, Any]:
    """Attributes of windows that share nothing and leave nothing out."""
    rank = len(window)
    return {
        "window": window, "stride": window, "padding": ((0, 0),) * rank, "dilation": (1,) * rank,
    }  # fmt: skip


# -- means ---------------------------------------------------------------------------------


def _mean_pool(rank: int, x: Array, output_size: Sizes) -> Array:
    def pool(x: Array) -> Array:
        out = _wanted(x, rank, output_size)
        window = _even_window(x, out)
        if window is not None:
            return _even_mean(x, window)
        for axis, m in enumerate(out, 2):
            x = _means_along(x, axis, m)
        return x

    return with_batch(f"adaptive_avg_pool{rank}d", rank, x, pool)


def _even_mean(x: Array, window: Window) -> Array:
    if window == tuple(x.shape[2:]):
        return snp.mean(x, axis=tuple(range(2, x.ndim)), keepdims=True)
    return emit("window_sum", x, **_side_by_side(window)) * (1 / math.prod(window))


def _means_along(x: Array, axis: int, count: int) -> Array:
    """Uneven windows are a product with a matrix of weights."""
    weights = adaptive_windows(x.shape[axis], count).astype(x.dtype)
    moved = emit("dot_general", x, weights, lhs_contract=(axis,), rhs_contract=(1,))
    return snp.moveaxis(moved, -1, axis)


@for_tensors("SqueezeBackward1")
def adaptive_avg_pool1d(input: Array, output_size: Sizes) -> Array:
    """Mean over the windows that cut the axis into ``output_size`` parts."""
    return _mean_pool(1, input, output_size)


def _mean_name(rank: int) -> Callable[[dict[str, Any]], str]:
    ones = (1, (1,) * rank, [1] * rank)

    def name(given: dict[str, Any]) -> str:
        single = given["output_size"] in ones
        return "MeanBackward1" if single else f"AdaptiveAvgPool{rank}DBackward0"

    return name


@for_tensors(_mean_name(2))
def adaptive_avg_pool2d(input: Array, output_size: Sizes) -> Array:
    """Mean over the windows that cut the image into ``output_size`` parts.

    ``None`` keeps an axis as it is.
    """
    return _mean_pool(2, input, output_size)


@for_tensors(_mean_name(3))
def adaptive_avg_pool3d(input: Array, output_size: Sizes) -> Array:
    """Mean over the windows that cut the image into ``output_size`` parts."""
    return _mean_pool(3, input, output_size)


# -- maxima --------------------------------------------------------------------------------


def _max_pool(rank: int, x: Array, output_size: Sizes, return_indices: bool) -> Any:
    def pool(x: Array) -> Any:
        out = _wanted(x, rank, output_size)
        window = _even_window(x, out)
        if window is not None and not return_indices:
            return emit("window_max", x, **_side_by_side(window))
        numbers = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
        places = snp.broadcast_to(numbers, x.shape) if return_indices else None
        # The last axis first: of equal maxima, it is the first in the order of memory that wins.
        for axis in reversed(range(2, x.ndim)):
            x, places = _maxima_along(x, places, axis, out[axis - 2])
        return (x, places) if return_indices else x

    return with_batch(f"adaptive_max_pool{rank}d", rank, x, pool)


def _maxima_along(x: Array, places: Array | None, axis: int, count: int) -> tuple[Array, Any]:
    """Maxima over windows of one axis, and what ``places`` has where they are."""
    lead = (slice(None),) * axis
    maxima, found = [], []
    for start, stop in window_bounds(x.shape[axis], count):
        inside = (*lead, slice(start, stop))
        maxima.append(emit("reduce_max", x[inside], axes=(axis,), ties="first"))
        if places is not None:
            first = snp.expand_dims(snp.argmax(x[inside], axis=axis), axis)
            chosen = snp.take_along_axis(places[inside], first, axis=axis)
            found.append(snp.squeeze(chosen, axis=axis))
    return snp.stack(maxima, axis=axis), snp.stack(found, axis=axis) if found else None


@for_tensors("SqueezeBackward1", several=True)
def adaptive_max_pool1d(input: Array, output_size: Sizes, return_indices: bool = False) -> Any:
    """Maximum over the windows that cut the axis into ``output_size`` parts.

    With ``return_indices`` also its number among the elements of the image, as in
    ``adaptive_max_pool2d`` and ``adaptive_max_pool3d``.
    """
    return _max_pool(1, input, output_size, return_indices)


@for_tensors("AdaptiveMaxPool2DBackward0", several=True)
def adaptive_max_pool2d(input: Array, output_size: Sizes, return_indices: bool = False) -> Any:
    """Maximum over the windows that cut the image into ``output_size`` parts."""
    return _max_pool(2, input, output_size, return_indices)


@for_tensors("AdaptiveMaxPool3DBackward0", several=True)
def adaptive_max_pool3d(input: Array, output_size: Sizes, return_indices: bool = False) -> Any:
    """Maximum over the windows that cut the image into ``output_size`` parts."""
    return _max_pool(3, input, output_size, return_indices)
