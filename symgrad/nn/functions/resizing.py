"""Images of another size: every new pixel is a weighted mean of old ones, axis by axis.

The weights of an axis are a matrix, and resizing is a product with it, as is its derivative;
where a new pixel is one old pixel, it is copied.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UnsupportedError, UsageError
from symgrad.nn.faces import FitError, for_tensors
from symgrad.nn.functions.adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)
from symgrad.tracing import emit

Array = Any
Matrix = np.ndarray[Any, Any]

_RANKS = {"linear": (1,), "bilinear": (2,), "trilinear": (3,), "bicubic": (2,), "area": (1, 2, 3),
          "nearest": (1, 2, 3), "nearest-exact": (1, 2, 3)}  # fmt: skip
_AREAS = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
_EXPLICIT = "linear | bilinear | bicubic | trilinear"


# -- copies --------------------------------------------------------------------------------


def _nearest_name(given: dict[str, Any]) -> str:
    return f"UpsampleNearest{'Exact' if given['exact'] else ''}{given['input'].ndim - 2}DBackward0"


@for_tensors(_nearest_name)
def _nearest(input: Array, sizes: tuple[int, ...], scales: tuple[float, ...], exact: bool) -> Array:
    x = input
    for axis, (m, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        n = x.shape[axis]
        places = (np.arange(m) + (0.5 if exact else 0)) * scale
        source = np.minimum(np.floor(places).astype(np.int64), n - 1)
        if m % n == 0 and (source == np.arange(m) // (m // n)).all():
            x = snp.repeat(x, m // n, axis=axis)
        else:
            x = snp.take(x, source, axis=axis)
    return x


# -- weighted means ------------------------------------------------------------------------


def _weighted_name(given: dict[str, Any]) -> str:
    mode, rank = given["mode"], given["input"].ndim - 2
    return f"Upsample{mode.title()}{rank}D{'Aa' if given['antialias'] else ''}Backward0"


@for_tensors(_weighted_name)
def _weighted(
    input: Array, sizes: tuple[int, ...], scales: tuple[float, ...], mode: str,
    align_corners: bool, antialias: bool,
) -> Array:  # fmt: skip
    x = input
    for axis, (m, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        n = x.shape[axis]
        step = scale if not align_corners else (n - 1) / (m - 1) if m > 1 else 0.0
        if antialias:
            weights = _smooth_weights(n, m, step, mode)
        elif mode == "bicubic":
            weights = _cubic_weights(n, _places(m, step, align_corners))
        else:
            weights = _linear_weights(n, _places(m, step, align_corners))
        moved = emit(
            "dot_general", x, weights.astype(x.dtype), lhs_contract=(axis,), rhs_contract=(1,)
        )
        x = snp.moveaxis(moved, -1, axis)
    return x


def _places(m: int, scale: float, align_corners: bool) -> Matrix:
    """Where the centres of new pixels are among those of the old ones."""
    return np.arange(m) * scale if align_corners else (np.arange(m) + 0.5) * scale - 0.5


def _shared(n: int, indices: Sequence[Matrix], shares: Sequence[Matrix]) -> Matrix:
    """The matrix ``[m, n]`` of shares at indices, which are moved inside."""
    m = len(indices[0])
    weights = np.zeros((m, n))
    for index, share in zip(indices, shares, strict=True):
        np.add.at(weights, (np.arange(m), np.clip(index, 0, n - 1)), share)
    return weights


def _linear_weights(n: int, places: Matrix) -> Matrix:
    """Shares of the two neighbours of each place."""
    low = np.clip(np.floor(places), 0, n - 1).astype(np.int64)
    share = np.clip(places - low, 0, 1)
    return _shared(n, (low, low + 1), (1 - share, share))


def _cubic_weights(n: int, places: Matrix) -> Matrix:
    """Shares of the four neighbours of each place."""
    low = np.floor(places).astype(np.int64)
    taps = range(-1, 3)
    return _shared(
        n, [low + tap for tap in taps], [cubic(places - low - tap, -0.75) for tap in taps]
    )


def cubic(distance: Any, a: float) -> Any:
    """A piecewise cubic kernel, for arrays and traced values.

    R. Keys, "Cubic convolution interpolation for digital image processing" (1981).
    """
    d = snp.abs(distance)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((d - 5) * d + 8) * d * a - 4 * a
    return snp.where(d <= 1, inner, snp.where(d < 2, outer, 0.0))


_FILTERS: dict[str, tuple[float, Callable[[Matrix], Matrix]]] = {
    "bilinear": (1.0, lambda d: np.maximum(1 - np.abs(d), 0)),
    "bicubic": (2.0, functools.partial(cubic, a=-0.5)),
}
"""How far filters reach, in pixels, and their weights by distance."""


def _smooth_weights(n: int, m: int, scale: float, mode: str) -> Matrix:
    """A filter around each centre, wider by ``scale`` as the image shrinks, of sum 1."""
    reach, weight = _FILTERS[mode]
    wide = max(scale, 1.0)
    centers = (np.arange(m)[:, None] + 0.5) * scale
    first = np.maximum(np.floor(centers - reach * wide + 0.5), 0)
    after = np.minimum(np.floor(centers + reach * wide + 0.5), n)
    pixels = np.arange(n)
    shares = weight((pixels + 0.5 - centers) / wide)
    shares = np.where((pixels >= first) & (pixels < after), shares, 0)
    total = shares.sum(axis=1, keepdims=True)
    return np.asarray(shares / np.where(total == 0, 1, total))


# -- the function --------------------------------------------------------------------------


def interpolate(
    input: Array, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Array:  # fmt: skip
    """Images ``[N, C, *spatial]`` resized to ``size`` or by ``scale_factor``.

    ``mode`` is "nearest", "nearest-exact", "area", "bicubic", or "linear", "bilinear",
    "trilinear" for 1 to 3 axes; with ``align_corners`` the corner pixels keep their values.
    ``antialias`` widens the filter of "bilinear" and "bicubic" as the image shrinks.
    """
    rank = input.ndim - 2
    _check_mode(rank, mode, align_corners, antialias)
    if (size is None) == (scale_factor is None):
        raise UsageError(
            "either size or scale_factor should be defined"
            if size is None
            else "only one of size or scale_factor should be defined"
        )
    spatial = tuple(input.shape[2:])
    if size is not None:
        if recompute_scale_factor:
            raise UsageError("recompute_scale_factor is not meaningful with an explicit size.")
        sizes = _per_axis(size, spatial, "output size of", "output size", "o")
    else:
        factors = _per_axis(scale_factor, spatial, "scale_factor of shape", "scale_factor", "s")
        sizes = tuple(math.floor(n * f) for n, f in zip(spatial, factors, strict=True))
    if min(sizes) < 1:
        raise FitError(
            "Input and output sizes should be greater than 0, but got input "
            f"{list(spatial)} output {list(sizes)}"
        )
    if size is not None or recompute_scale_factor:
        scales = tuple(n / m for n, m in zip(spatial, sizes, strict=True))
    else:
        scales = tuple(1 / float(f) for f in factors)
    if mode == "area":
        return _AREAS[rank - 1](input, sizes if rank > 1 else sizes[0])
    if mode.startswith("nearest"):
        return _nearest(input, sizes, scales, mode == "nearest-exact")
    return _weighted(input, sizes, scales, mode, bool(align_corners), antialias)


def _check_mode(rank: int, mode: str, align_corners: bool | None, antialias: bool) -> None:
    if mode in ("nearest", "area", "nearest-exact") and align_corners is not None:
        raise UsageError(
            f"align_corners option can only be set with the interpolating modes: {_EXPLICIT}"
        )
    if antialias and (mode not in _FILTERS or rank != 2):
        raise UsageError(
            "Anti-alias option is restricted to bilinear and bicubic modes and requires a 4-D "
            "tensor as input"
        )
    if mode not in _RANKS:
        raise UnsupportedError(
            f"Input Error: interpolate knows the modes {' | '.join(_RANKS)} (got {mode})"
        )
    if rank not in _RANKS[mode]:
        wanted = " or ".join(f"{r + 2}D" for r in _RANKS[mode])
        raise UnsupportedError(f"Got {rank + 2}D input, but {mode} mode needs {wanted} input")


def _per_axis(
    value: Any, spatial: tuple[int, ...], got: str, what: str, letter: str
) -> tuple[Any, ...]:
    """One number for each spatial axis."""
    if isinstance(value, int | float):
        return (value,) * len(spatial)
    if len(value) != len(spatial):
        raise ShapeError(
            "Input and "
            f"{what.replace('output size', 'output')} must have the same number of spatial "
            f"dimensions, but got input with spatial dimensions of {list(spatial)} and {got} "
            f"{tuple(value)}. Please provide input tensor in (N, C, d1, d2, ...,dK) format and "
            f"{what} in ({letter}1, {letter}2, ...,{letter}K) format."
        )
    return tuple(value)
