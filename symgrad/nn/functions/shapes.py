"""Padding and rearranging images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import FitError, for_tensors

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


# -- channels and pixels ------------------------------------------------------------------


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


@for_tensors("PixelUnshuffleBackward0")
def pixel_unshuffle(input: Array, downscale_factor: int) -> Array:
    """``[..., C, H r, W r]`` to ``[..., C r^2, H, W]``: ``pixel_shuffle`` undone."""
    r = downscale_factor
    *lead, channels, height, width = input.shape
    for name, n, place in (("height", height, -2), ("width", width, -1)):
        if n % r:
            raise FitError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but "
                f"input.size({place})={n} is not divisible by {r}"
            )
    k = len(lead)
    split = snp.reshape(input, (*lead, channels, height // r, r, width // r, r))
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return snp.reshape(
        snp.transpose(split, order), (*lead, channels * r * r, height // r, width // r)
    )


@for_tensors("ChannelShuffleBackward0")
def channel_shuffle(input: Array, groups: int) -> Array:
    """Channels (axis 1) in the order in which groups take turns.

    X. Zhang et al., "ShuffleNet" (2017).
    """
    if input.ndim < 3:
        raise FitError(
            "channel_shuffle expects input with > 2 dims, but got input with sizes "
            f"{list(input.shape)}"
        )
    batch, channels, *rest = input.shape
    if channels % groups:
        raise FitError(
            f"Number of channels must be divisible by groups. Got {channels} channels and "
            f"{groups} groups."
        )
    split = snp.reshape(input, (batch, groups, channels // groups, *rest))
    return snp.reshape(snp.swapaxes(split, 1, 2), input.shape)
