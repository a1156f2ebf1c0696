"""``symgrad.numpy.linalg``: norms, products and powers of matrices; see also ``factors``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import ShapeError, UnsupportedError
from symgrad.numpy import products as _products
from symgrad.numpy.core import (
    SUPPORTED,
    astype,
    float_type,
    implements,
    many_axes,
    reshape,
    traced,
)
from symgrad.numpy.elementwise import norm_root, where
from symgrad.numpy.factors import inv, svdvals
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage


@implements(np.linalg.norm, name="linalg.norm")
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tracer:
    """Norms of vectors and matrices; slope 0 at 0."""
    a = traced(x)
    a = astype(a, float_type(a, "norm"))
    if axis is None and ord is None:
        return _keep(_euclidean(a, tuple(range(a.ndim))), a, range(a.ndim), keepdims)
    if axis is not None and not isinstance(axis, (int, np.integer)):
        axis = tuple(many_axes("norm", i, a)[0] for i in axis)
    axes = axis if isinstance(axis, tuple) else many_axes("norm", axis, a)
    if len(axes) == 1:
        return _keep(_vector(a, ord, axes), a, axes, keepdims)
    if len(axes) == 2:
        return _keep(_matrix(a, ord, axes), a, axes, keepdims)
    raise ShapeError(f"norm: axis must name one or two axes of {a._value.type}, got {axis}")


def _keep(y: Tracer, x: Tracer, axes: Any, keepdims: bool) -> Tracer:
    return reshape(y, [1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else y


def _euclidean(x: Tracer, axes: tuple[int, ...]) -> Tracer:
    return norm_root(stage("reduce_sum", x * x, axes=tuple(sorted(axes))))


def _vector(x: Tracer, ord: Any, axes: tuple[int, ...]) -> Tracer:
    if ord is None or ord == 2:
        return _euclidean(x, axes)
    (axis,) = axes
    size = abs(x)
    if ord in (math.inf, -math.inf):
        return np.max(size, axis) if ord > 0 else np.min(size, axis)  # type: ignore[no-any-return]
    if ord == 0:
        return astype(HANDLERS[np.count_nonzero](x, axis), x.dtype)
    if ord == 1:
        return size.sum(axis)  # type: ignore[no-any-return]
    if isinstance(ord, str):
        raise ShapeError(f"norm: order {ord!r} is for matrices, got vectors along axis {axis}")
    total = (size**ord).sum(axis)
    zero = constant(0, total.dtype, total.shape)
    return where(total == 0, zero, total ** (1 / ord))


def _matrix(x: Tracer, ord: Any, axes: tuple[int, ...]) -> Tracer:
    if ord in (None, "fro", "f"):
        return _euclidean(x, axes)
    rows, columns = axes
    if ord in (2, -2, "nuc"):
        s = svdvals(HANDLERS[np.moveaxis](x, axes, (-2, -1)))
        return s.sum(-1) if ord == "nuc" else s[..., 0 if ord > 0 else -1]
    sums = {1: rows, -1: rows, math.inf: columns, -math.inf: columns}
    if ord not in sums:
        raise UnsupportedError(
            f"norm: there is no order {ord!r} of matrices; "
            "use 'fro', 'nuc', 1, -1, 2, -2, inf or -inf"
        )
    totals = abs(x).sum(sums[ord])
    other = columns if sums[ord] == rows else rows
    at = other - (sums[ord] < other)
    return HANDLERS[np.max if ord > 0 else np.min](totals, at)  # type: ignore[no-any-return]


@implements(np.linalg.vector_norm, name="linalg.vector_norm")
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Tracer:
    """The norm of the elements along one or several axes."""
    a = traced(x)
    a = astype(a, float_type(a, "vector_norm"))
    axes = many_axes("vector_norm", axis, a)
    kept = [i for i in range(a.ndim) if i not in axes]
    flat = HANDLERS[np.transpose](a, [*kept, *axes])
    flat = reshape(flat, [*(a.shape[i] for i in kept), math.prod(a.shape[i] for i in axes)])
    return _keep(_vector(flat, ord, (len(kept),)), a, axes, keepdims)


@implements(np.linalg.matrix_norm, name="linalg.matrix_norm")
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Tracer:
    """The norm of the matrices in the last two axes."""
    return norm(x, ord, (-2, -1), keepdims)


@implements(np.linalg.matmul, name="linalg.matmul")
def matmul(x1: Any, x2: Any, /) -> Tracer:
    """As ``numpy.matmul``."""
    return _products.matmul(x1, x2)


@implements(np.linalg.multi_dot, name="linalg.multi_dot")
def multi_dot(arrays: Any) -> Tracer:
    """The product of several matrices, in the cheapest order."""
    operands = [traced(x) for x in arrays]
    labels = [[i, i + 1][2 - x.ndim :] for i, x in enumerate(operands)]
    if operands[0].ndim == 1:
        labels[0] = [1]
    if operands[-1].ndim == 1:
        labels[-1] = [len(operands) - 1]
    out = [0] * (operands[0].ndim == 2) + [len(operands)] * (operands[-1].ndim == 2)
    interleaved = [part for pair in zip(operands, labels, strict=True) for part in pair]
    return _products.einsum(*interleaved, out)


@implements(np.linalg.matrix_power, name="linalg.matrix_power")
def matrix_power(a: Any, n: int) -> Tracer:
    """A square matrix to a power, by repeated squaring."""
    x = traced(a) if n >= 0 else inv(a)
    n = abs(n)
    result: Any = None
    while n:
        if n % 2:
            result = x if result is None else result @ x
        x, n = x @ x if n > 1 else x, n // 2
    return traced(np.eye(x.shape[-1], dtype=x.dtype)) if result is None else result


_PREFIX = "linalg."
globals().update(
    {name.removeprefix(_PREFIX): f for name, f in SUPPORTED.items() if name.startswith(_PREFIX)}
)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return SUPPORTED.get(name) or getattr(np.linalg, name)
