"""Pooling: sums and maxima over sliding windows of the trailing axes, with adjoints.

The windows run over the spatial axes of ``[N, C, *spatial]``; positions outside the
array count as 0 for the sum and as minus infinity for the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value
from symgrad.ir.opdef import Array, OpDef, Sample, op
from symgrad.ir.ops import shape as sh
from symgrad.ir.ops.conv import Axes, Padding, _merge, _spatial, _split, windows
from symgrad.ir.types import TensorType

_POOL = {"window": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)}
_WIDE = {"window": (2, 2), "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (2, 1)}


def _pooled(
    name: str, x: TensorType, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> TensorType:
    if x.rank != len(window) + 2:
        raise ShapeError(f"{name}: window {window} needs [N, C, spatial...], got {x}")
    if not x.dtype.is_float:
        raise DTypeError(f"{name}: needs a floating dtype, got {x}")
    out = _spatial(name, x.shape[2:], window, stride, padding, dilation, (1,) * len(window))
    return x.with_shape((*x.shape[:2], *out))


def _views(
    x: Array, fill: float, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> Array:
    return windows(x, window, stride, padding, dilation, (1,) * len(window), fill)


@op("window_sum", samples=[Sample(((2, 3, 5, 4),), _POOL), Sample(((1, 2, 5, 4),), _WIDE)])
def window_sum(
    x: TensorType, *, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> TensorType:
    """Sum over each window."""
    return _pooled("window_sum", x, window, stride, padding, dilation)


@window_sum.evaluate
def _window_sum(x: Array, **attrs: Any) -> Array:
    view = _views(x, 0, **attrs)
    return np.asarray(view.sum(axis=tuple(range(x.ndim, view.ndim)), dtype=x.dtype))


@window_sum.adjoint
def _window_sum_adjoint(ct: Value, y: Value, x: Value, **attrs: Any) -> tuple[Value]:
    return (window_sum_grad(ct, spatial=x.shape[2:], **attrs),)


@op("window_sum_grad", samples=[Sample(((2, 3, 3, 4),), {"spatial": (5, 4), **_POOL})])
def window_sum_grad(
    ct: TensorType, *, spatial: Axes, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> TensorType:
    """Adds each element to every position of its window: ``window_sum`` transposed."""
    x = ct.with_shape((*ct.shape[:2], *spatial))
    if _pooled("window_sum_grad", x, window, stride, padding, dilation) != ct:
        raise ShapeError(f"window_sum_grad: {ct} is no cotangent for spatial sizes {spatial}")
    return x


def _scatter_windows(
    values: Array, spatial: Axes, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> Array:
    """Adds ``values[N, C, *out, *window]`` at the windows' positions."""
    padded = [n + sum(p) for n, p in zip(spatial, padding, strict=True)]
    total = np.zeros((*values.shape[:2], *padded), values.dtype)
    out = values.shape[2 : 2 + len(window)]
    for tap in np.ndindex(*window):
        at = tuple(
            slice(t * d, t * d + (m - 1) * s + 1 if m else t * d, s)
            for t, d, m, s in zip(tap, dilation, out, stride, strict=True)
        )
        total[(slice(None), slice(None), *at)] += values[(..., *tap)]
    inner = tuple(slice(p[0], p[0] + n) for p, n in zip(padding, spatial, strict=True))
    return total[(slice(None), slice(None), *inner)]


@window_sum_grad.evaluate
def _window_sum_grad(ct: Array, *, spatial: Axes, window: Axes, **attrs: Any) -> Array:
    values = np.broadcast_to(ct.reshape(*ct.shape, *(1,) * len(window)), (*ct.shape, *window))
    return _scatter_windows(values, spatial, window, **attrs)


@window_sum_grad.adjoint
def _window_sum_grad_adjoint(
    ct: Value, dx: Value, dy: Value, *, spatial: Axes, **attrs: Any
) -> tuple[Value]:
    return (window_sum(ct, **attrs),)


@op("window_max", samples=[Sample(((2, 3, 5, 4),), _POOL), Sample(((1, 2, 5, 4),), _WIDE)])
def window_max(
    x: TensorType, *, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> TensorType:
    """Maximum over each window; nan wins."""
    return _pooled("window_max", x, window, stride, padding, dilation)


@window_max.evaluate
def _window_max(x: Array, **attrs: Any) -> Array:
    view = _views(x, -np.inf, **attrs)
    return np.asarray(view.max(axis=tuple(range(x.ndim, view.ndim))))


@window_max.adjoint
def _window_max_adjoint(ct: Value, y: Value, x: Value, **attrs: Any) -> tuple[Value]:
    return (window_max_scatter(x, ct, **attrs),)


def _first_maximum(x: Array, **attrs: Any) -> Array:
    """One-hot mask ``[N, C, *out, *window]`` of each window's first maximum (or first nan)."""
    view = _views(x, -np.inf, **attrs)
    flat = view.reshape(*view.shape[: x.ndim], math.prod(view.shape[x.ndim :]))
    first = np.argmax(flat, axis=-1)[..., None]
    return np.asarray(np.arange(flat.shape[-1]) == first).reshape(view.shape)


@op(
    "window_max_scatter",
    samples=[Sample(((2, 3, 5, 4), (2, 3, 3, 4)), _POOL)],
    differentiable=(False, True),
)
def window_max_scatter(
    x: TensorType, ct: TensorType, *, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> TensorType:
    """Adds each element of ``ct`` at the first maximum of its window of ``x``."""
    if _pooled("window_max_scatter", x, window, stride, padding, dilation) != ct:
        raise ShapeError(f"window_max_scatter: {ct} is no cotangent for {x}")
    return x


@window_max_scatter.evaluate
def _window_max_scatter(x: Array, ct: Array, *, window: Axes, **attrs: Any) -> Array:
    hot = _first_maximum(x, window=window, **attrs)
    values = np.where(hot, ct.reshape(*ct.shape, *(1,) * len(window)), ct.dtype.type(0))
    return _scatter_windows(values, x.shape[2:], window, **attrs)


@window_max_scatter.adjoint
def _window_max_scatter_adjoint(ct: Value, dx: Value, x: Value, dy: Value, **attrs: Any) -> Any:
    return None, window_max_gather(x, ct, **attrs)


@op(
    "window_max_gather",
    samples=[Sample(((2, 3, 5, 4), (2, 3, 5, 4)), _POOL)],
    differentiable=(False, True),
)
def window_max_gather(
    x: TensorType, v: TensorType, *, window: Axes, stride: Axes, padding: Padding, dilation: Axes
) -> TensorType:
    """The element of ``v`` at the first maximum of each window of ``x``."""
    if x != v:
        raise ShapeError(f"window_max_gather: operands must have one type, got {x}, {v}")
    return _pooled("window_max_gather", x, window, stride, padding, dilation)


@window_max_gather.evaluate
def _window_max_gather(x: Array, v: Array, **attrs: Any) -> Array:
    hot = _first_maximum(x, **attrs)
    view = np.where(hot, _views(v, 0, **attrs), v.dtype.type(0))
    return np.asarray(view.sum(axis=tuple(range(x.ndim, view.ndim)), dtype=v.dtype))


@window_max_gather.adjoint
def _window_max_gather_adjoint(ct: Value, y: Value, x: Value, v: Value, **attrs: Any) -> Any:
    return None, window_max_scatter(x, ct, **attrs)


def _batch_windows(opdef: OpDef) -> None:
    @opdef.batch
    def _(size: int, operands: Sequence[Value], batched: Sequence[bool], **attrs: Any) -> Any:
        merged = [_merge(v, 0) for v in sh.add_batch(size, operands, batched)]
        return _split(opdef(*merged, **attrs), 0, size)


for _opdef in (window_sum, window_sum_grad, window_max, window_max_scatter, window_max_gather):
    _batch_windows(_opdef)
