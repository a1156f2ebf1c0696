"""``softmax``, ``log_softmax`` and ``logsumexp`` of arrays and traced values.

All are shifted by the maximum, against overflow.  No derivative passes through the shift: by
it the functions do not change.
"""

from __future__ import annotations

from typing import Any

import symgrad.numpy as snp
from symgrad.tensors.axes import one_axis
from symgrad.tracing import emit

Array = Any


def softmax(x: Array, dim: int) -> Array:
    """``exp(x) / sum(exp(x))`` along an axis."""
    axis = one_axis(dim, x.ndim)
    if not x.ndim:
        return softmax(snp.reshape(x, (1,)), 0).reshape(())
    e = snp.exp(_shifted(x, axis))
    return e / snp.sum(e, axis=axis, keepdims=True)


def log_softmax(x: Array, dim: int) -> Array:
    """``x - log(sum(exp(x)))`` along an axis."""
    axis = one_axis(dim, x.ndim)
    if not x.ndim:
        return log_softmax(snp.reshape(x, (1,)), 0).reshape(())
    shifted = _shifted(x, axis)
    return shifted - snp.log(snp.sum(snp.exp(shifted), axis=axis, keepdims=True))


def logsumexp(x: Array, axes: tuple[int, ...]) -> Array:
    """``log(sum(exp(x)))`` along axes, which stay as axes of size 1; of nothing ``-inf``."""
    if x.size:
        top = emit("stop_gradient", snp.max(x, axis=axes, keepdims=True))
        top = snp.where(snp.isfinite(top), top, 0.0)
        return snp.log(snp.sum(snp.exp(x - top), axis=axes, keepdims=True)) + top
    return snp.log(snp.sum(snp.exp(x), axis=axes, keepdims=True))


def _shifted(x: Array, axis: int) -> Array:
    if not x.size:
        return x
    return x - emit("stop_gradient", snp.max(x, axis=axis, keepdims=True))
