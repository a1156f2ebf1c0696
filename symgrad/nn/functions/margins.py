"""Losses that compare scores or distances with a margin, and the distances themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.nn.faces import FitError, for_tensors, known_array
from symgrad.nn.functions.losses import ends_in, reduced

Array = Any


@for_tensors(ends_in("ClampMinBackward0"))
def margin_ranking_loss(
    input1: Array, input2: Array, target: Array, margin: float = 0, *, reduction: str = "mean"
) -> Array:
    """``max(0, margin - target (input1 - input2))`` for targets 1 and -1."""
    return reduced(_clipped(margin - target * (input1 - input2)), reduction)


def _clipped(x: Array) -> Array:
    """``max(x, 0)`` with torch's slope 1 at 0."""
    return snp.where(x >= 0, x, x * 0)


@for_tensors(ends_in("AddBackward0"))
def hinge_embedding_loss(
    input: Array, target: Array, margin: float = 1.0, *, reduction: str = "mean"
) -> Array:
    """The input where the target is 1, ``max(0, margin - input)`` where it is -1."""
    zero = input * 0
    apart = snp.where(target == 1, zero, _clipped(margin - input))
    return reduced(apart + snp.where(target == -1, zero, input), reduction)


@for_tensors("SoftMarginLossBackward0")
def soft_margin_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    """``log(1 + exp(-target input))`` for targets 1 and -1."""
    z = -target * input
    return reduced(snp.logaddexp(z, z * 0), reduction)


@for_tensors(ends_in("AddBackward0"))
def cosine_embedding_loss(
    input1: Array, input2: Array, target: Array, margin: float = 0, *, reduction: str = "mean"
) -> Array:
    """1 less the cosine where the target is 1; where it is -1, the cosine above ``margin``."""
    small = 1e-12
    product = snp.sum(input1 * input2, axis=-1)
    squares = [snp.sum(x * x, axis=-1) + small for x in (input1, input2)]
    cosine = product / snp.sqrt(squares[0] * squares[1])
    zero = cosine * 0
    alike = snp.where(target == 1, 1 - cosine, zero)
    return reduced(alike + snp.where(target == -1, _clipped(cosine - margin), zero), reduction)


def _distance(x: Array, y: Array, p: float, eps: float) -> Array:
    return snp.linalg.vector_norm(x - y + eps, ord=p, axis=-1)


@for_tensors(ends_in("ClampMinBackward0"))
def triplet_margin_loss(
    anchor: Array, positive: Array, negative: Array, margin: float = 1.0, p: float = 2,
    eps: float = 1e-6, swap: bool = False, *, reduction: str = "mean",
) -> Array:  # fmt: skip
    """``max(0, margin + d(anchor, positive) - d(anchor, negative))`` in the ``p``-norm.

    With ``swap`` the negative may be nearer to the positive instead.  V. Balntas et al.,
    "Learning local feature descriptors with triplets" (2016).
    """
    near, far = _distance(anchor, positive, p, eps), _distance(anchor, negative, p, eps)
    if swap:
        far = snp.minimum(far, _distance(positive, negative, p, eps))
    return reduced(_clipped(margin + near - far), reduction)


@for_tensors("SumBackward1")
def cosine_similarity(x1: Array, x2: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """The cosine of the angle between vectors along an axis, each norm kept above ``eps``."""
    norms = [snp.maximum(snp.linalg.vector_norm(x, axis=dim, keepdims=True), eps) for x in (x1, x2)]
    return snp.sum((x1 / norms[0]) * (x2 / norms[1]), axis=dim)


@for_tensors("NormBackward1")
def pairwise_distance(
    x1: Array, x2: Array, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Array:
    """The ``p``-norm of the difference along the last axis, ``eps`` added to each element."""
    distance = _distance(x1, x2, p, eps)
    return snp.expand_dims(distance, -1) if keepdim else distance


# -- classes against each other ------------------------------------------------------------


def _excess(x: Array) -> Array:
    """``max(x, 0)`` with slope 0 at 0."""
    return snp.where(x > 0, x, 0.0)


@for_tensors("MultiMarginLossBackward0", saves=("input",))
def _multi_margin(
    input: Array, target: Array, p: int, margin: float, weight: Array | None, reduction: str
) -> Array:
    scores = snp.reshape(input, (-1, input.shape[-1])) if input.ndim else input.reshape(1, 1)
    classes = scores.shape[1]
    hit = snp.arange(classes) == snp.reshape(target, (-1, 1))
    right = snp.sum(snp.where(hit, scores, 0.0), axis=1, keepdims=True)
    over = snp.where(hit, 0.0, _excess(margin - right + scores))
    over = over if p == 1 else over * over
    if weight is not None:
        over = over * snp.sum(snp.where(hit, weight, 0.0), axis=1, keepdims=True)
    losses = snp.sum(over, axis=1) * (1 / classes)
    return reduced(losses if input.ndim > 1 else snp.squeeze(losses, axis=0), reduction)


def multi_margin_loss(
    input: Array, target: Array, p: int = 1, margin: float = 1.0, weight: Array | None = None, *,
    reduction: str = "mean",
) -> Array:  # fmt: skip
    """The mean over classes of how far each comes within ``margin`` of the right one, to the
    power ``p``; for scores ``[N, C]`` or ``[C]``."""
    if p not in (1, 2):
        raise UsageError("only p == 1 and p == 2 supported")
    if weight is not None and weight.ndim != 1:
        raise ShapeError("weight must be one-dimensional")
    if input.ndim > 1 and tuple(target.shape) != (input.shape[0],):
        raise FitError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input "
            f"samples (batch size). Expected target size [{input.shape[0]}], but got "
            f"{list(target.shape)}. Input has shape {list(input.shape)}."
        )
    known = known_array(target)
    if known is not None and known.size and not 0 <= known.min() <= known.max() < input.shape[-1]:
        raise FitError("target out of range")
    return _multi_margin(input, target, p, margin, weight, reduction)


@for_tensors("MultilabelMarginLossBackward0", saves=("input",))
def _multilabel_margin(input: Array, target: Array, reduction: str) -> Array:
    scores, labels = (snp.reshape(x, (-1, x.shape[-1])) for x in (input, target))
    classes = scores.shape[1]
    is_label = snp.cumprod(snp.astype(labels >= 0, np.int64), axis=1) > 0  # up to the first -1
    at = snp.expand_dims(snp.maximum(labels, 0), -1)
    hit = (at == snp.arange(classes)) & snp.expand_dims(is_label, -1)
    wrong = snp.logical_not(snp.any(hit, axis=1, keepdims=True))
    right = snp.sum(snp.where(hit, snp.expand_dims(scores, 1), 0.0), axis=2, keepdims=True)
    over = _excess(1 - right + snp.expand_dims(scores, 1))
    counted = snp.where(snp.expand_dims(is_label, -1) & wrong, over, 0.0)
    losses = snp.sum(counted, axis=(1, 2)) * (1 / classes)
    return reduced(losses if input.ndim > 1 else snp.squeeze(losses, axis=0), reduction)


def multilabel_margin_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    """``max(0, 1 - (x[right] - x[wrong]))`` over all pairs of classes, divided by their number.

    The right ones are named by ``target[N, C]``, as far as its first -1.
    """
    if tuple(target.shape) != tuple(input.shape):
        raise FitError(
            f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}"
        )
    known = known_array(target)
    if known is not None and known.size and not -1 <= known.min() <= known.max() < input.shape[-1]:
        raise FitError("target out of range")
    return _multilabel_margin(input, target, reduction)


@for_tensors(ends_in("DivBackward0"))
def multilabel_soft_margin_loss(
    input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean"
) -> Array:
    """The mean over classes of the cross-entropies of their own logits, targets 0 or 1."""
    # log(1 + exp(-x)) is that of the event; that of its opposite adds x.
    losses = (1 - target) * input + snp.logaddexp(-input, input * 0)
    losses = losses if weight is None else losses * weight
    return reduced(snp.mean(losses, axis=-1), reduction)


# -- triplets ------------------------------------------------------------------------------


@for_tensors(ends_in("ClampMinBackward0"))
def _triplets(near: Array, far: Array, margin: float, reduction: str) -> Array:
    return reduced(_clipped(margin + near - far), reduction)


@for_tensors("MinimumBackward0")
def _nearer(far: Array, other: Array) -> Array:
    return snp.minimum(far, other)


def triplet_margin_with_distance_loss(
    anchor: Array, positive: Array, negative: Array, *,
    distance_function: Callable[[Array, Array], Array] | None = None, margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Array:  # fmt: skip
    """``triplet_margin_loss`` by any distance, ``pairwise_distance`` unless given."""
    if margin <= 0:
        raise UsageError(f"margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise FitError(
            "The anchor, positive, and negative tensors are expected to have the same number of "
            f"dimensions, but got: anchor {anchor.ndim}D, positive {positive.ndim}D, and negative "
            f"{negative.ndim}D inputs"
        )
    distance = distance_function or pairwise_distance
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = _nearer(far, distance(positive, negative))
    return _triplets(near, far, margin, reduction)
