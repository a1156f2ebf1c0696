"""Convolution and its two gradients: three bilinear ops closed under adjoints.

All three take the same attributes, those of the forward convolution, so each one's
cotangents are again the other two.  Layout: input ``[N, C, *spatial]``, weight
``[O, C / groups, *kernel]``, any number of spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import TensorType

Axes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]

_PLAIN = {
    "stride": (1, 1),
    "padding": ((0, 0), (0, 0)),
    "dilation": (1, 1),
    "lhs_dilation": (1, 1),
    "groups": 1,
}
_RICH = {
    "stride": (2, 1),
    "padding": ((1, 0), (0, 2)),
    "dilation": (1, 2),
    "lhs_dilation": (1, 1),
    "groups": 2,
}
_SPREAD = {**_PLAIN, "lhs_dilation": (2, 3), "padding": ((1, 1), (2, 0))}


def output_size(
    n: int, k: int, stride: int, pad: tuple[int, int], dilation: int, spread: int
) -> int:
    """Output positions of a window of ``k`` taps along one axis (none if it does not fit)."""
    padded = (n - 1) * spread + 1 + sum(pad) if n else sum(pad)
    reach = (k - 1) * dilation + 1
    return max(0, (padded - reach) // stride + 1)


def _spatial(
    name: str,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    lhs_dilation: Axes,
) -> Axes:
    given = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "lhs_dilation": lhs_dilation,
    }
    for label, value in given.items():
        if len(value) != len(sizes):
            raise ShapeError(f"{name}: {label} {value} for {len(sizes)} spatial axes")
    if min((*stride, *dilation, *lhs_dilation, 1)) < 1:
        raise ShapeError(f"{name}: strides and dilations must be at least 1")
    if min((*(e for p in padding for e in p), 0)) < 0:
        raise ShapeError(f"{name}: padding must not be negative, got {padding}")
    return tuple(
        output_size(*args)
        for args in zip(sizes, kernel, stride, padding, dilation, lhs_dilation, strict=True)
    )


def _check_groups(name: str, channels: int, w: TensorType, groups: int) -> None:
    if groups < 1 or channels != w.shape[1] * groups or w.shape[0] % groups:
        raise ShapeError(
            f"{name}: {channels} input channels and weight {w} do not fit groups={groups}; "
            f"the weight must be [out, in / groups, ...] with out divisible by groups"
        )


@op(
    "conv",
    samples=[
        Sample(((2, 3, 5, 4), (4, 3, 3, 2)), _PLAIN),
        Sample(((1, 4, 6, 7), (4, 2, 3, 3)), _RICH),
        Sample(((1, 2, 3, 3), (3, 2, 2, 2)), _SPREAD),
    ],
)
def conv(
    x: TensorType,
    w: TensorType,
    *,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    lhs_dilation: Axes,
    groups: int = 1,
) -> TensorType:
    """Cross-correlation of ``x`` with ``w``: what deep learning calls convolution."""
    if x.dtype != w.dtype or not x.dtype.is_inexact:
        raise DTypeError(f"conv: operands must have one floating dtype, got {x}, {w}")
    if x.rank != w.rank or x.rank < 3:
        raise ShapeError(f"conv: needs [N, C, spatial...] and [O, C, kernel...], got {x}, {w}")
    _check_groups("conv", x.shape[1], w, groups)
    out = _spatial("conv", x.shape[2:], w.shape[2:], stride, padding, dilation, lhs_dilation)
    return x.with_shape((x.shape[0], w.shape[0], *out))


@op(
    "conv_input_grad",
    samples=[
        Sample(((2, 4, 3, 3), (4, 3, 3, 2)), {"spatial": (5, 4), **_PLAIN}),
        Sample(((1, 4, 3, 5), (4, 2, 3, 3)), {"spatial": (6, 7), **_RICH}),
    ],
)
def conv_input_grad(
    dy: TensorType,
    w: TensorType,
    *,
    spatial: Axes,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    lhs_dilation: Axes,
    groups: int = 1,
) -> TensorType:
    """Cotangent of ``conv``'s input, of spatial sizes ``spatial``."""
    out = _spatial("conv_input_grad", spatial, w.shape[2:], stride, padding, dilation, lhs_dilation)
    if dy.shape[1:] != (w.shape[0], *out) or dy.dtype != w.dtype:
        raise ShapeError(f"conv_input_grad: {dy} is no cotangent for weight {w} and size {spatial}")
    return dy.with_shape((dy.shape[0], w.shape[1] * groups, *spatial))


@op(
    "conv_weight_grad",
    samples=[
        Sample(((2, 3, 5, 4), (2, 4, 3, 3)), {"kernel": (3, 2), **_PLAIN}),
        Sample(((1, 4, 6, 7), (1, 4, 3, 5)), {"kernel": (3, 3), **_RICH}),
    ],
)
def conv_weight_grad(
    x: TensorType,
    dy: TensorType,
    *,
    kernel: Axes,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    lhs_dilation: Axes,
    groups: int = 1,
) -> TensorType:
    """Cotangent of ``conv``'s weight, of kernel sizes ``kernel``."""
    out = _spatial("conv_weight_grad", x.shape[2:], kernel, stride, padding, dilation, lhs_dilation)
    if dy.shape[0] != x.shape[0] or dy.shape[2:] != out or dy.dtype != x.dtype:
        raise ShapeError(
            f"conv_weight_grad: {dy} is no cotangent for input {x} and kernel {kernel}"
        )
    return x.with_shape((dy.shape[1], x.shape[1] // groups, *kernel))


# -- NumPy references: the windows of the dilated, padded input as a view --------------


def windows(
    x: Array,
    kernel: Axes,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    lhs_dilation: Axes,
    fill: float = 0,
) -> Array:
    """View ``[N, C, *out, *kernel]`` of all windows of a padded copy of ``x``."""
    x = sh.pad.evaluate_rule(  # type: ignore[misc]
        x,
        low=(0, 0, *(p[0] for p in padding)),
        high=(0, 0, *(p[1] for p in padding)),
        interior=(0, 0, *(d - 1 for d in lhs_dilation)),
        value=fill,
    )
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    axes = tuple(range(2, x.ndim))
    if any(n < r for n, r in zip(x.shape[2:], reach, strict=True)):
        out = [max(0, (n - r) // s + 1) for n, r, s in zip(x.shape[2:], reach, stride, strict=True)]
        return np.zeros((*x.shape[:2], *out, *kernel), x.dtype)
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    index = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in stride),
        *(slice(None, None, d) for d in dilation),
    )
    return np.asarray(view[index])


def _letters(rank: int) -> tuple[str, str]:
    return "ABCD"[:rank], "KLMN"[:rank]


def _grouped(x: Array, axis: int, groups: int) -> Array:
    """Splits an axis of channels into groups and the channels of each."""
    sizes = groups, x.shape[axis] // groups
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def _ungrouped(x: Array, axis: int) -> Array:
    """Undoes ``_grouped``."""
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


@conv.evaluate
def _conv(x: Array, w: Array, *, groups: int, **attrs: Any) -> Array:
    view = _grouped(windows(x, w.shape[2:], **attrs), 1, groups)
    s, k = _letters(x.ndim - 2)
    w = _grouped(w, 0, groups)
    y = np.einsum(f"zgc{s}{k},goc{k}->zgo{s}", view, w, optimize=True)
    return _ungrouped(y, 1)


@conv_weight_grad.evaluate
def _conv_weight_grad(x: Array, dy: Array, *, kernel: Axes, groups: int, **attrs: Any) -> Array:
    view = _grouped(windows(x, kernel, **attrs), 1, groups)
    s, k = _letters(x.ndim - 2)
    dy = _grouped(dy, 1, groups)
    return _ungrouped(np.einsum(f"zgc{s}{k},zgo{s}->goc{k}", view, dy, optimize=True), 0)


@conv_input_grad.evaluate
def _conv_input_grad(
    dy: Array,
    w: Array,
    *,
    spatial: Axes,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
    lhs_dilation: Axes,
    groups: int,
) -> Array:
    s, k = _letters(dy.ndim - 2)
    n, channels = dy.shape[0], w.shape[1] * groups
    taps = np.einsum(
        f"zgo{s},goc{k}->zgc{s}{k}",
        _grouped(dy, 1, groups),
        _grouped(w, 0, groups),
        optimize=True,
    )
    taps = taps.reshape(n, channels, *taps.shape[3:])
    spread = [(m - 1) * d + 1 if m else 0 for m, d in zip(spatial, lhs_dilation, strict=True)]
    padded = [m + sum(p) for m, p in zip(spread, padding, strict=True)]
    dx = np.zeros((n, channels, *padded), dy.dtype)
    for tap in np.ndindex(w.shape[2:]):
        at = tuple(
            slice(t * d, t * d + (m - 1) * st + 1 if m else t * d, st)
            for t, d, m, st in zip(tap, dilation, dy.shape[2:], stride, strict=True)
        )
        dx[(slice(None), slice(None), *at)] += taps[(..., *tap)]
    inner = tuple(
        slice(p[0], p[0] + m, d) for p, m, d in zip(padding, spread, lhs_dilation, strict=True)
    )
    return dx[(slice(None), slice(None), *inner)]


# -- adjoints ----------------------------------------------------------------------------


@conv.adjoint
def _conv_adjoint(ct: Value, y: Value, x: Value, w: Value, **attrs: Any) -> tuple[Value, Value]:
    return (
        conv_input_grad(ct, w, spatial=x.shape[2:], **attrs),
        conv_weight_grad(x, ct, kernel=w.shape[2:], **attrs),
    )


@conv_input_grad.adjoint
def _conv_input_grad_adjoint(
    ct: Value, dx: Value, dy: Value, w: Value, *, spatial: Axes, **attrs: Any
) -> tuple[Value, Value]:
    return conv(ct, w, **attrs), conv_weight_grad(ct, dy, kernel=w.shape[2:], **attrs)


@conv_weight_grad.adjoint
def _conv_weight_grad_adjoint(
    ct: Value, dw: Value, x: Value, dy: Value, *, kernel: Axes, **attrs: Any
) -> tuple[Value, Value]:
    return conv_input_grad(dy, ct, spatial=x.shape[2:], **attrs), conv(x, ct, **attrs)


# -- batching: the batch axis joins N, or becomes groups ------------------------------------


def _merge(v: Value, axis: int) -> Value:
    """Joins the leading batch axis into axis ``axis`` of the rest, as its major part."""
    order = (*range(1, axis + 1), 0, *range(axis + 1, v.rank))
    moved = sh.transpose(v, axes=order)
    shape = (
        *moved.shape[:axis],
        moved.shape[axis] * moved.shape[axis + 1],
        *moved.shape[axis + 2 :],
    )
    result: Value = sh.reshape(moved, shape=shape)
    return result


def _split(v: Value, axis: int, size: int) -> Value:
    """Undoes ``_merge``."""
    shape = (*v.shape[:axis], size, v.shape[axis] // size, *v.shape[axis + 1 :])
    split = sh.reshape(v, shape=shape)
    result: Value = sh.transpose(split, axes=(axis, *(a for a in range(split.rank) if a != axis)))
    return result


@conv.batch
def _conv_batch(
    size: int, operands: Sequence[Value], batched: Sequence[bool], *, groups: int, **attrs: Any
) -> Any:
    x, w = operands
    if not batched[1]:
        return _split(conv(_merge(x, 0), w, groups=groups, **attrs), 0, size)
    x, w = sh.add_batch(size, operands, batched)
    return _split(conv(_merge(x, 1), _merge(w, 0), groups=groups * size, **attrs), 1, size)


@conv_input_grad.batch
def _conv_input_grad_batch(
    size: int, operands: Sequence[Value], batched: Sequence[bool], *, groups: int, **attrs: Any
) -> Any:
    dy, w = operands
    if not batched[1]:
        return _split(conv_input_grad(_merge(dy, 0), w, groups=groups, **attrs), 0, size)
    dy, w = sh.add_batch(size, operands, batched)
    merged = conv_input_grad(_merge(dy, 1), _merge(w, 0), groups=groups * size, **attrs)
    return _split(merged, 1, size)


@conv_weight_grad.batch
def _conv_weight_grad_batch(
    size: int, operands: Sequence[Value], batched: Sequence[bool], *, groups: int, **attrs: Any
) -> Any:
    x, dy = sh.add_batch(size, operands, batched)
    merged = conv_weight_grad(_merge(x, 1), _merge(dy, 1), groups=groups * size, **attrs)
    return _split(merged, 0, size)
