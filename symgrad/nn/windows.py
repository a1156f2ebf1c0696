"""Geometry of windows: numbers per axis, padding, and how many elements a window holds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad.ir.errors import UsageError

Numbers = int | Sequence[int]
Pads = int | Sequence[int] | str


def per_axis(value: Numbers, rank: int) -> tuple[int, ...]:
    """One number for every spatial axis."""
    if isinstance(value, int):
        return (value,) * rank
    if len(value) != rank:
        raise UsageError(f"{tuple(value)} for {rank} spatial axes; give one number or {rank}")
    return tuple(int(v) for v in value)


def pads(
    padding: Pads, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """(low, high) padding per axis from torch's forms, ``"same"`` and ``"valid"`` included."""
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * len(kernel)
        if padding != "same":
            raise UsageError(
                f"Invalid padding string {padding!r}, should be one of {{'valid', 'same'}}"
            )
        if any(s != 1 for s in stride):
            raise UsageError("padding='same' is not supported for strided convolutions")
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    return tuple((p, p) for p in per_axis(padding, len(kernel)))


def window_counts(
    counted: Sequence[tuple[int, int]],
    out: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> np.ndarray[Any, Any]:
    """Elements in each window: positions from -p to n + p for each ``(n, p)`` in ``counted``."""
    lines = []
    for (n, p), m, k, s, low in zip(counted, out, window, stride, padding, strict=True):
        start = np.arange(m) * s - low
        lines.append(np.minimum(start + k, n + p) - np.maximum(start, -p))
    return np.asarray(functools.reduce(np.multiply.outer, lines), np.float64)


def window_bounds(n: int, m: int) -> list[tuple[int, int]]:
    """The windows ``floor(i n / m) ... ceil((i + 1) n / m)`` that cut ``n`` into ``m`` parts."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def adaptive_windows(n: int, m: int) -> np.ndarray[Any, Any]:
    """Weights ``[m, n]`` of the means over ``window_bounds``."""
    weights = np.zeros((m, n))
    for i, (start, stop) in enumerate(window_bounds(n, m)):
        weights[i, start:stop] = 1 / (stop - start)
    return weights
