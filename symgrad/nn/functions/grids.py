"""Images read at positions that are data: affine grids, and sampling at the points of a grid.

Positions are in [-1, 1] along each axis, from one border of the image to the other; with
``align_corners`` -1 and 1 are the centres of the corner pixels, else their outer edges.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UnsupportedError, UsageError
from symgrad.nn.faces import FitError, for_tensors, kind_of
from symgrad.nn.functions.resizing import cubic
from symgrad.tracing import emit

Array = Any


def _warned(align_corners: bool | None) -> bool:
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False "
            "since 1.3.0. Please specify align_corners=True if the old behavior is desired. See "
            "the documentation of grid_sample for details.",
            stacklevel=3,
        )
    return bool(align_corners)


# -- grids ---------------------------------------------------------------------------------


@for_tensors("AffineGridGeneratorBackward0")
def _affine(theta: Array, spatial: tuple[int, ...], align_corners: bool) -> Array:
    """``theta [x, y, ..., 1]`` at every pixel."""
    lines = []
    for n in reversed(spatial):  # theta's rows begin with x, the last axis
        line = np.linspace(-1, 1, n) if n > 1 else np.zeros(n)
        lines.append(line if align_corners or n == 1 else line * ((n - 1) / n))
    axes = np.meshgrid(*reversed(lines), indexing="ij")
    points = np.stack([*reversed(axes), np.ones(spatial)], axis=-1).astype(theta.dtype)
    inner = {"lhs_contract": (2,), "rhs_contract": (points.ndim - 1,)}
    moved = emit("dot_general", theta, points, **inner)
    return snp.moveaxis(moved, 1, -1)


def affine_grid(theta: Array, size: Sequence[int], align_corners: bool | None = None) -> Array:
    """Positions ``[N, H, W, 2]`` under ``theta[N, 2, 3]``, or ``[N, D, H, W, 3]`` under
    ``[N, 3, 4]``, for images of ``size`` ``[N, C, H, W]`` or ``[N, C, D, H, W]``."""
    if kind_of(theta) != "f":
        raise UsageError(f"Expected theta to have floating point type, but got {theta.dtype}")
    size = tuple(int(n) for n in size)
    rank = len(size) - 2
    if rank not in (2, 3):
        raise UnsupportedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, "
            f"respectively. Got size {size}."
        )
    if tuple(theta.shape[1:]) != (rank, rank + 1):
        raise ShapeError(
            f"Expected a batch of {rank}D affine matrices of shape Nx{rank}x{rank + 1} for size "
            f"{size}. Got torch.Size({list(theta.shape)})."
        )
    return _affine(theta, size[2:], _warned(align_corners))


# -- sampling ------------------------------------------------------------------------------


def _in_pixels(x: Array, n: int, align_corners: bool) -> Array:
    """Positions in [-1, 1] as pixel numbers."""
    return (x + 1) * ((n - 1) / 2) if align_corners else ((x + 1) * n - 1) * 0.5


def _clipped(x: Array, n: int) -> Array:
    """Moved inside; what is at the border or beyond it has no slope."""
    return snp.where(x <= 0, 0.0, snp.where(x >= n - 1, float(n - 1), x))


def _reflected(x: Array, n: int, align_corners: bool) -> Array:
    """Mirrored at the borders until it is inside."""
    low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
    if span == 0:
        return x * 0
    beyond = x - low
    beyond = snp.where(beyond < 0, -beyond, beyond)
    turns = snp.floor(beyond * (1 / span))
    rest = beyond - turns * span
    is_even = turns - 2 * snp.floor(turns * 0.5) == 0
    return _clipped(snp.where(is_even, rest + low, span - rest + low), n)


def _bounded(padding_mode: str, align_corners: bool) -> Callable[[Array, int], Array]:
    """What a padding mode makes of a pixel number."""
    if padding_mode == "border":
        return _clipped
    if padding_mode == "reflection":
        return lambda x, n: _reflected(x, n, align_corners)
    return lambda x, n: x


Tap = tuple[Array, Array]
"""A pixel number along an axis, whole but of floating type, and its weight."""


def _taps(mode: str, x: Array, n: int, bounded: Callable[[Array, int], Array]) -> list[Tap]:
    """The pixels along an axis that a position reads."""
    if mode == "nearest":
        return [(snp.round(bounded(x, n)), x * 0 + 1)]
    if mode == "bilinear":
        x = bounded(x, n)
        low = snp.floor(x)
        share = x - emit("stop_gradient", low)
        return [(low, 1 - share), (low + 1, share)]
    low = snp.floor(x)
    share = x - emit("stop_gradient", low)
    return [(bounded(low + tap, n), cubic(share - tap, -0.75)) for tap in range(-1, 3)]


@for_tensors(lambda given: f"GridSampler{given['input'].ndim - 2}DBackward0")
def _sampled(input: Array, grid: Array, mode: str, padding_mode: str, align_corners: bool) -> Array:
    spatial = tuple(input.shape[2:])
    bounded = _bounded(padding_mode, align_corners)
    choices = []
    for place, n in enumerate(spatial):  # the grid's numbers begin with x, the last axis
        x = _in_pixels(grid[..., len(spatial) - 1 - place], n, align_corners)
        inside = []
        for number, weight in _taps(mode, x, n, bounded):
            is_there = (number >= 0) & (number <= n - 1)
            inside.append((snp.astype(number, np.int64), snp.where(is_there, weight, 0.0)))
        choices.append(inside)
    images = np.arange(input.shape[0]).reshape(-1, *(1,) * len(spatial))
    axes = (0, *range(2, input.ndim))
    result: Array = None
    for corner in itertools.product(*choices):
        places = [number for number, _ in corner]
        weight = corner[0][1]
        for _, factor in corner[1:]:
            weight = weight * factor
        batch = images + places[0] * 0
        part = emit("gather", input, batch, *places, axes=axes) * snp.expand_dims(weight, -1)
        result = part if result is None else result + part
    return snp.moveaxis(result, -1, 1)


def grid_sample(
    input: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Array:  # fmt: skip
    """Images ``[N, C, H, W]`` at the positions ``grid[N, H', W', 2]``; of three axes, too.

    ``mode`` is "bilinear" (between all neighbours, in three dimensions as well), "nearest" or
    "bicubic"; outside there is 0, the "border"'s pixel, or the image's "reflection".
    """
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise UsageError(
            "nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', "
            f"but got: '{mode}'"
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise UsageError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or "
            f"'reflection', but got: '{padding_mode}'"
        )
    rank, sizes = input.ndim - 2, f"input with sizes {list(input.shape)}"
    shown = f"grid with sizes {list(grid.shape)}"
    if input.shape[0] != grid.shape[0]:
        raise FitError(
            "grid_sampler(): expected grid and input to have same batch size, but got "
            f"{sizes} and {shown}"
        )
    if rank not in (2, 3) or grid.ndim != input.ndim:
        raise FitError(
            "grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but "
            f"got {sizes} and {shown}"
        )
    if grid.shape[-1] != rank:
        raise FitError(
            f"grid_sampler(): expected grid to have size {rank} in last dimension, but got {shown}"
        )
    if mode == "bicubic" and rank != 2:
        raise FitError("grid_sampler(): bicubic interpolation only supports 4D input")
    return _sampled(input, grid, mode, padding_mode, _warned(align_corners))
