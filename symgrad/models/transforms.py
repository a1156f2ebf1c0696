"""Preparing images for a trained network: resize, cut, scale, normalise.

The steps, sizes and rounding are those of torchvision's presets.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad.ir.errors import ShapeError, UsageError
from symgrad.tensors import Tensor

Array = np.ndarray[Any, Any]
Image = Any
"""A PIL image, a NumPy array ``[H, W]`` or ``[H, W, C]``, or a tensor ``[..., C, H, W]``."""
INTERPOLATIONS = {"bilinear": 2, "nearest": 0}
"""Methods by PIL's number."""


class ImageClassification:
    """An image as a classifier wants it: called with one, it gives ``f32[..., C, size, size]``.

    The shorter side is resized to ``resize_size``, the middle of ``crop_size`` cut out, bytes
    scaled to [0, 1], and each channel normalised by ``mean`` and ``std``.  Takes PIL images
    and gives tensors; takes tensors ``[..., C, H, W]``, or NumPy arrays ``[H, W, C]``, and
    gives their like.  Tensors stay differentiable.
    """

    def __init__(
        self,
        *,
        crop_size: int,
        resize_size: int = 256,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        interpolation: str = "bilinear",
        antialias: bool = True,
    ) -> None:
        if interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"ImageClassification: interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"got {interpolation!r}"
            )
        self.crop_size, self.resize_size = [crop_size], [resize_size]
        self.mean, self.std = list(mean), list(std)
        self.interpolation, self.antialias = interpolation, antialias

    def __call__(self, image: Image) -> Any:
        """Raises ``ShapeError`` for an image whose channels are not those of ``mean``."""
        planes = self._resized(image)
        if planes.shape[-3] != len(self.mean):
            raise ShapeError(
                f"ImageClassification: an image of {planes.shape[-3]} channels for {len(self.mean)}"
                " means; convert it first: image.convert('RGB')"
            )
        planes = _cut(planes, self.crop_size[0])
        planes = _scaled(planes)
        mean, std = (_like(planes, np.array(x)[:, None, None]) for x in (self.mean, self.std))
        return (planes - mean) / std

    def _resized(self, image: Image) -> Any:
        """The image as ``[..., C, H, W]`` with its shorter side as wanted."""
        if hasattr(image, "getbands"):  # PIL's, resized by its own code as torchvision does
            width, height = image.size
            new_height, new_width = self._size(height, width)
            method = INTERPOLATIONS[self.interpolation]
            pixels = np.asarray(image.resize((new_width, new_height), method))
            planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
            return Tensor.of_array(np.ascontiguousarray(planes))
        if isinstance(image, np.ndarray):
            image = image[None] if image.ndim == 2 else np.moveaxis(image, -1, -3)
        height, width = image.shape[-2:]
        rows, columns = self._size(height, width)
        return resize(
            image, rows, columns, interpolation=self.interpolation, antialias=self.antialias
        )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        short, target = min(height, width), self.resize_size[0]
        return int(target * height / short), int(target * width / short)

    def describe(self) -> str:
        """The steps in words."""
        return (
            "Accepts PIL images, NumPy arrays [H, W, C] and tensors [..., C, H, W]. The shorter "
            f"side is resized to {self.resize_size[0]} ({self.interpolation}), the middle "
            f"{self.crop_size[0]} x {self.crop_size[0]} cut out, values scaled to [0, 1] and "
            f"normalised with mean={self.mean} and std={self.std}."
        )

    def __repr__(self) -> str:
        names = ("crop_size", "resize_size", "mean", "std", "interpolation")
        lines = [f"    {name}={getattr(self, name)}" for name in names]
        return "\n".join(["ImageClassification(", *lines, ")"])


def resize(
    planes: Any, rows: int, columns: int, *, interpolation: str = "bilinear", antialias: bool = True
) -> Any:
    """``[..., H, W]`` to ``[..., rows, columns]``; bytes are rounded to bytes again.

    With ``antialias`` the filter widens as the image shrinks, as PIL's does.
    """
    height, width = planes.shape[-2:]
    if (height, width) == (rows, columns):
        return planes
    if interpolation == "nearest":
        taken = planes[..., _nearest(height, rows), :]
        return taken[..., _nearest(width, columns)]
    whole = _kind(planes) in "iu"
    values = _single(planes) if whole else planes
    down = _like(values, _weights(height, rows, antialias))
    across = _like(values, _weights(width, columns, antialias))
    values = down @ values @ across.T
    return _bytes(values, planes) if whole else values


@functools.lru_cache(maxsize=64)
def _weights(size: int, wanted: int, antialias: bool) -> Array:
    """What each of ``wanted`` elements takes of ``size``: the rows of a matrix, of sum 1.

    A triangle around the element's centre, as wide as a pixel on either side, wider by the
    factor of shrinking with ``antialias``; beyond the border nothing is taken.
    """
    scale = size / wanted
    reach = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(wanted) + 0.5) * scale
    if not antialias:  # the outermost elements look no further than the border's centre
        centres = np.clip(centres, 0.5, size - 0.5)
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / reach
    triangle = np.maximum(1 - distances, 0)
    made: Array = triangle / triangle.sum(axis=1, keepdims=True)
    return made


def _nearest(size: int, wanted: int) -> Array:
    return np.minimum((np.arange(wanted) * (size / wanted)).astype(np.int64), size - 1)


def _cut(planes: Any, side: int) -> Any:
    """The middle square of a side; around images that are smaller, zeros."""
    height, width = planes.shape[-2:]
    if min(height, width) < side:
        lack = [max(side - n, 0) for n in (height, width)]
        planes = _padded(planes, lack)
        height, width = planes.shape[-2:]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return planes[..., top : top + side, left : left + side]


def _padded(planes: Any, lack: Sequence[int]) -> Any:
    """Zeros around the last two axes: ``lack`` of them in all, the odd one at the end."""
    before = [n // 2 for n in lack]
    shape = (*planes.shape[:-2], *(n + m for n, m in zip(planes.shape[-2:], lack, strict=True)))
    inside = (..., *(slice(b, b + n) for b, n in zip(before, planes.shape[-2:], strict=True)))
    if isinstance(planes, np.ndarray):
        padded: Any = np.zeros(shape, planes.dtype)
    else:
        padded = Tensor.of_array(np.zeros(shape, planes.dtype.numpy))
    padded[inside] = planes
    return padded


def _scaled(planes: Any) -> Any:
    """As float32: bytes from [0, 255] to [0, 1], other whole numbers by their type's maximum."""
    kind = _kind(planes)
    if kind in "iu":
        dtype = planes.dtype if isinstance(planes, np.ndarray) else planes.dtype.numpy
        return _single(planes) / math.floor(np.iinfo(dtype).max)
    return planes if kind == "f" else _single(planes)


# -- arrays and tensors ----------------------------------------------------------------------


def _kind(x: Any) -> str:
    return str(np.dtype(x.dtype if isinstance(x, np.ndarray) else x.dtype.numpy).kind)


def _single(x: Any) -> Any:
    return x.astype(np.float32) if isinstance(x, np.ndarray) else x.float()


def _like(x: Any, array: Array) -> Any:
    """Numbers as what ``x`` is, with its dtype."""
    if isinstance(x, np.ndarray):
        return array.astype(x.dtype)
    return Tensor.of_array(array.astype(x.dtype.numpy))


def _bytes(values: Any, original: Any) -> Any:
    """Rounded, within the range of the type, converted to it."""
    if isinstance(values, np.ndarray):
        limits = np.iinfo(original.dtype)
        return values.round().clip(limits.min, limits.max).astype(original.dtype)
    limits = np.iinfo(original.dtype.numpy)
    return values.round().clamp(limits.min, limits.max).to(original.dtype)
