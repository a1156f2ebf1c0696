"""Padding, resizing and rearranging images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import for_tensors
from symgrad.tracing import emit

Array = Any

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad_name(given: dict[str, Any]) -> str:
    mode, rank = given["mode"], len(given["pad"]) // 2
    names = {"reflect": f"ReflectionPad{rank}DBackward0",
             "replicate": f"ReplicationPad{rank}DBackward0"}  # fmt: skip
    return names.get(mode, "ConstantPadNdBackward0")


@for_tensors(_pad_name)
def pad(
    input: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Array:
    """Widens the last axes, given as ``(low, high)`` pairs from the last one on.

    By ``value`` (0 unless given), or with ``mode`` "reflect", "replicate" or "circular" by the
    image itself.  Negative widths cut off.
    """
    if mode not in _PAD_MODES:
        raise UsageError(f"Unrecognised padding mode {mode}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise UsageError(f"Padding length must be even and fit {input.ndim} axes, got {len(pad)}")
    if value and mode != "constant":
        raise UsageError(f"Padding mode {mode!r} doesn't take in value argument")
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)]
    widths = [*[(0, 0)] * (input.ndim - len(pairs)), *reversed(pairs)]
    if any(n < 0 for pair in widths for n in pair):
        input = input[
            tuple(
                slice(max(0, -low), n - max(0, -high))
                for n, (low, high) in zip(input.shape, widths, strict=True)
            )
        ]
        widths = [(max(0, low), max(0, high)) for low, high in widths]
    if mode == "constant":
        return snp.pad(input, widths, constant_values=value or 0)
    return snp.pad(input, widths, mode=_PAD_MODES[mode])


@for_tensors("ViewBackward0", views=True)
def flatten(input: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Joins the axes from ``start_dim`` to ``end_dim``."""
    if not input.ndim:
        return snp.reshape(input, (1,))
    first, last = start_dim % input.ndim, end_dim % input.ndim
    joined = math.prod(input.shape[first : last + 1])
    return snp.reshape(input, (*input.shape[:first], joined, *input.shape[last + 1 :]))


@for_tensors("ViewBackward0", views=True)
def unflatten(input: Array, dim: int, sizes: Sequence[int]) -> Array:
    """Splits an axis into several."""
    axis = dim % input.ndim
    return snp.reshape(input, (*input.shape[:axis], *sizes, *input.shape[axis + 1 :]))


# -- resizing ------------------------------------------------------------------------------

_LINEAR_NAMES = ("Linear1D", "Bilinear2D", "Trilinear3D")


@for_tensors(lambda given: f"UpsampleNearest{given['input'].ndim - 2}DBackward0")
def _nearest(input: Array, sizes: tuple[int, ...], scales: tuple[float, ...]) -> Array:
    x = input
    for axis, (m, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        source = np.minimum(np.floor(np.arange(m) * scale).astype(np.int64), x.shape[axis] - 1)
        if m % x.shape[axis] == 0 and (source == np.arange(m) // (m // x.shape[axis])).all():
            x = snp.repeat(x, m // x.shape[axis], axis=axis)
        else:
            x = snp.take(x, source, axis=axis)
    return x


@for_tensors(lambda given: f"Upsample{_LINEAR_NAMES[given['input'].ndim - 3]}Backward0")
def _linear(
    input: Array, sizes: tuple[int, ...], scales: tuple[float, ...], align_corners: bool
) -> Array:
    x = input
    for axis, (m, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        weights = _linear_weights(x.shape[axis], m, scale, align_corners).astype(x.dtype)
        moved = emit("dot_general", x, weights, lhs_contract=(axis,), rhs_contract=(1,))
        x = snp.moveaxis(moved, -1, axis)
    return x


def _linear_weights(n: int, m: int, scale: float, align_corners: bool) -> Any:
    """Shares ``[m, n]`` of the two neighbours of each new position."""
    if align_corners:
        places = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    else:
        places = np.maximum((np.arange(m) + 0.5) * scale - 0.5, 0)
    low = np.minimum(np.floor(places).astype(np.int64), n - 1)
    share = np.clip(places - low, 0, 1)
    weights = np.zeros((m, n))
    np.add.at(weights, (np.arange(m), low), 1 - share)
    np.add.at(weights, (np.arange(m), np.minimum(low + 1, n - 1)), share)
    return weights


_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}


def interpolate(
    input: Array, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None,
) -> Array:  # fmt: skip
    """Images ``[N, C, *spatial]`` resized to ``size`` or by ``scale_factor``.

    ``mode`` is "nearest", or "linear", "bilinear", "trilinear" for 1 to 3 axes; with
    ``align_corners`` the corner pixels keep their values.
    """
    rank = input.ndim - 2
    if (size is None) == (scale_factor is None):
        raise UsageError(
            "either size or scale_factor should be defined"
            if size is None
            else "only one of size or scale_factor should be defined"
        )
    if mode == "nearest":
        if align_corners is not None:
            raise UsageError(
                "align_corners option can only be set with the interpolating modes: linear | "
                "bilinear | bicubic | trilinear"
            )
    elif _LINEAR.get(mode) != rank:
        raise UsageError(
            f"interpolate: mode {mode!r} is not there for {rank} spatial axes; use 'nearest', "
            "'linear' (1), 'bilinear' (2) or 'trilinear' (3)"
        )
    spatial = input.shape[2:]
    if size is not None:
        sizes = (size,) * rank if isinstance(size, int) else tuple(size)
        scales = tuple(n / m for n, m in zip(spatial, sizes, strict=True))
    else:
        factors = (
            (scale_factor,) * rank if isinstance(scale_factor, int | float) else scale_factor
        )
        sizes = tuple(int(n * f) for n, f in zip(spatial, factors, strict=True))
        scales = tuple(1 / float(f) for f in factors)
    if mode == "nearest":
        return _nearest(input, sizes, scales)
    return _linear(input, sizes, scales, bool(align_corners))


@for_tensors("PixelShuffleBackward0")
def pixel_shuffle(input: Array, upscale_factor: int) -> Array:
    """``[..., C r^2, H, W]`` to ``[..., C, H r, W r]``.  W. Shi et al. (2016)."""
    r = upscale_factor
    *lead, channels, height, width = input.shape
    if channels % (r * r):
        raise UsageError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square "
            f"of upscale_factor, but input.size(-3)={channels} is not divisible by {r * r}"
        )
    k = len(lead)
    split = snp.reshape(input, (*lead, channels // (r * r), r, r, height, width))
    order = (*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return snp.reshape(
        snp.transpose(split, order), (*lead, channels // (r * r), height * r, width * r)
    )
