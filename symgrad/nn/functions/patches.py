"""Sliding blocks of images as columns of a matrix, and their sum back into images.

Axis by axis: the windows along one axis are its slices that begin at each tap, which makes a
kernel of ``kh x kw`` elements ``kh + kw`` slices; windows that tile an axis are a reshape.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import symgrad.numpy as snp
from symgrad.ir.record import record
from symgrad.nn.faces import FitError, for_tensors
from symgrad.nn.windows import Numbers, per_axis
from symgrad.tracing import emit

Array = Any


@record
class _Windows:
    """The windows along an axis of ``size``, padding included: ``count``, one each ``step``."""

    size: int
    taps: int
    step: int
    dilation: int

    @property
    def count(self) -> int:
        """How many there are."""
        return (self.size - (self.taps - 1) * self.dilation - 1) // self.step + 1

    @property
    def tiles(self) -> bool:
        """Whether the windows lie side by side."""
        return self.dilation == 1 and self.step == self.taps

    def read(self, x: Array, axis: int) -> Array:
        """The axis as two, ``[taps, count]``."""
        lead = (slice(None),) * axis
        if self.tiles:
            used = x[(*lead, slice(0, self.count * self.taps))]
            shape = (*x.shape[:axis], self.count, self.taps, *x.shape[axis + 1 :])
            return snp.swapaxes(snp.reshape(used, shape), axis, axis + 1)
        span = (self.count - 1) * self.step + 1
        starts = [tap * self.dilation for tap in range(self.taps)]
        return snp.stack(
            [x[(*lead, slice(start, start + span, self.step))] for start in starts], axis=axis
        )

    def add_up(self, columns: Array, axis: int) -> Array:
        """``read`` transposed: the axes ``[taps, count]`` as one, where windows meet the sum."""
        if self.tiles:
            shape = (*columns.shape[:axis], self.count * self.taps, *columns.shape[axis + 2 :])
            joined = snp.reshape(snp.swapaxes(columns, axis, axis + 1), shape)
            return _placed(joined, axis, 0, self.size, 1)
        lead = (slice(None),) * axis
        parts = [
            _placed(columns[(*lead, tap)], axis, tap * self.dilation, self.size, self.step)
            for tap in range(self.taps)
        ]
        return functools.reduce(operator.add, parts)


def _placed(x: Array, axis: int, start: int, size: int, step: int) -> Array:
    """``x`` at every ``step``-th place from ``start`` on, along an axis of zeros."""
    rest = size - start - (x.shape[axis] - 1) * step - 1

    def along(n: int) -> tuple[int, ...]:
        return tuple(n if a == axis else 0 for a in range(x.ndim))

    return emit("pad", x, low=along(start), high=along(rest), interior=along(step - 1), value=0.0)


def _windows(
    spatial: tuple[int, ...], kernel: Numbers, dilation: Numbers, padding: Numbers, stride: Numbers
) -> list[_Windows]:
    options = (per_axis(v, len(spatial)) for v in (kernel, stride, dilation, padding))
    return [_Windows(n + 2 * p, k, s, d) for n, k, s, d, p in zip(spatial, *options, strict=True)]


def _options_text(kernel: Numbers, dilation: Numbers, padding: Numbers) -> str:
    kernel, dilation, padding = (per_axis(v, 2) for v in (kernel, dilation, padding))
    return f"kernel_size={kernel}, dilation={dilation}, padding={padding}"


@for_tensors("Im2ColBackward0")
def unfold(
    input: Array, kernel_size: Numbers, dilation: Numbers = 1, padding: Numbers = 0,
    stride: Numbers = 1,
) -> Array:  # fmt: skip
    """Blocks of ``[N, C, H, W]`` as columns: ``[N, C kh kw, blocks]``; also without N."""
    if input.ndim == 3:
        columns = unfold(snp.expand_dims(input, 0), kernel_size, dilation, padding, stride)
        return snp.squeeze(columns, axis=0)
    if input.ndim != 4:
        raise FitError(
            "Input Error: Only unbatched (3D) or batched (4D) image-like tensors are supported "
            f"by unfold, got {list(input.shape)}"
        )
    windows = _windows(tuple(input.shape[2:]), kernel_size, dilation, padding, stride)
    if min(w.count for w in windows) < 1:
        raise FitError(
            f"Given input with spatial size {tuple(input.shape[2:])}, "
            f"{_options_text(kernel_size, dilation, padding)}, calculated shape of the array of "
            f"sliding blocks as {tuple(w.count for w in windows)}, but its components must be at "
            "least one."
        )
    widths = [(0, 0), (0, 0), *[(p, p) for p in per_axis(padding, 2)]]
    x = snp.pad(input, widths) if any(map(any, widths)) else input
    for place, along in enumerate(windows):
        x = along.read(x, 2 + 2 * place)
    x = snp.transpose(x, (0, 1, 2, 4, 3, 5))  # [N, C, kh, kw, H', W']
    rows = input.shape[1] * math.prod(w.taps for w in windows)
    return snp.reshape(x, (input.shape[0], rows, math.prod(w.count for w in windows)))


@for_tensors("Col2ImBackward0")
def fold(
    input: Array, output_size: Numbers, kernel_size: Numbers, dilation: Numbers = 1,
    padding: Numbers = 0, stride: Numbers = 1,
) -> Array:  # fmt: skip
    """Blocks ``[N, C kh kw, blocks]`` added up in images ``[N, C, H, W]``; also without N."""
    if input.ndim == 2:
        batch = snp.expand_dims(input, 0)
        images = fold(batch, output_size, kernel_size, dilation, padding, stride)
        return snp.squeeze(images, axis=0)
    if input.ndim != 3:
        raise FitError(
            "Input Error: Only unbatched (2D) or batched (3D) blocks are supported by fold, got "
            f"{list(input.shape)}"
        )
    sizes = per_axis(output_size, 2)
    windows = _windows(sizes, kernel_size, dilation, padding, stride)
    taps, counts = [w.taps for w in windows], [w.count for w in windows]
    batch, rows, blocks = input.shape
    if rows % math.prod(taps):
        raise FitError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={rows} and kernel_size={per_axis(kernel_size, 2)}."
        )
    if min(counts) < 1 or blocks != math.prod(counts):
        raise FitError(
            f"Given output_size={sizes}, {_options_text(kernel_size, dilation, padding)}, "
            f"stride={per_axis(stride, 2)}, expected size of input's dimension 2 to match the "
            f"calculated number of sliding blocks {' * '.join(map(str, counts))} = "
            f"{math.prod(counts)}, but got input.size(2)={blocks}."
        )
    x = snp.reshape(input, (batch, rows // math.prod(taps), *taps, *counts))
    x = snp.transpose(x, (0, 1, 2, 4, 3, 5))
    for axis, along in reversed([*zip((2, 4), windows, strict=True)]):
        x = along.add_up(x, axis)
    low = per_axis(padding, 2)
    inside = tuple(slice(p, p + n) for p, n in zip(low, sizes, strict=True))
    return x[(slice(None), slice(None), *inside)]
