"""Losses with torch's names and rules of reduction.

``reduction`` is ``"none"``, ``"sum"`` or ``"mean"``.  torch's deprecated ``size_average`` and
``reduce`` are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.nn.faces import FitError, for_tensors, kind_of, known_array
from symgrad.tensors import Tensor, dtypes
from symgrad.tensors.softmax import log_softmax
from symgrad.tracing import emit

Array = Any


def reduced(losses: Array, reduction: str, count: Array | float | None = None) -> Array:
    """The losses, their sum, or that divided by ``count``, the number of losses unless given."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return snp.sum(losses)
    if reduction == "mean":
        return snp.sum(losses) / ((math.prod(losses.shape) or math.nan) if count is None else count)
    raise UsageError(f"{reduction} is not a valid value for reduction")


def ends_in(last: str, **others: str) -> Callable[[dict[str, Any]], str]:
    """The name of a loss that torch composes: of the reduction, or of what comes before.

    ``others`` are the names where an option is on.
    """
    names = {"mean": "MeanBackward0", "sum": "SumBackward0"}

    def name(given: dict[str, Any]) -> str:
        before = next((other for option, other in others.items() if given[option]), last)
        return names.get(given["reduction"], before)

    return name


# -- classes -------------------------------------------------------------------------------


def _class_axis(x: Array) -> int:
    return 1 if x.ndim > 1 else 0


def _by_class(values: Array, like: Array) -> Array:
    """One value per class, along the axis of classes."""
    axis = _class_axis(like)
    return snp.reshape(values, [-1 if a == axis else 1 for a in range(like.ndim)])


def _check_classes(input: Array, target: Array, ignore_index: int) -> None:
    """Refuses class numbers that do not fit ``input[N, C, ...]``, as far as they are known."""
    axis = _class_axis(input)
    expected = (*input.shape[:axis], *input.shape[axis + 1 :])
    if tuple(target.shape) != expected:
        if target.ndim and expected and target.shape[0] != expected[0]:
            raise ShapeError(
                f"Expected input batch_size ({expected[0]}) to match target batch_size "
                f"({target.shape[0]})."
            )
        raise FitError(
            f"class numbers for an input {list(input.shape)} must have the shape "
            f"{list(expected)}, got {list(target.shape)}"
        )
    if kind_of(target) not in "iu":
        raise FitError(f"expected target dtype to be Long or Byte, but got {_kind_name(target)}")
    known = known_array(target)
    if known is None or not known.size:
        return
    unsigned = known.view(known.dtype.str.replace("i", "u"))  # what is below zero is large
    if np.maximum.reduce(unsigned, axis=None) >= input.shape[axis]:
        wrong = ((known < 0) | (known >= input.shape[axis])) & (known != ignore_index)
        if wrong.any():
            raise IndexError(f"Target {known[wrong].flat[0]} is out of bounds.")


def _kind_name(x: Any) -> str:
    return getattr(x.dtype, "scalar_name", str(x.dtype))


def _negative_likelihood(
    log_p: Array, target: Array, weight: Array | None, ignore_index: int, reduction: str,
    label_smoothing: float,
) -> Array:  # fmt: skip
    """Minus the logarithms at the class numbers; ``mean`` divides by the sum of weights."""
    axis, weights = _class_axis(log_p), None if weight is None else _by_class(weight, log_p)
    classes = log_p.shape[axis]
    hit = _by_class(snp.arange(classes), log_p) == snp.expand_dims(target, axis)
    kept = target != ignore_index
    weighted = log_p if weights is None else log_p * weights
    losses = -snp.sum(snp.where(hit, weighted, 0), axis=axis)
    if weights is None:
        each = snp.astype(kept, log_p.dtype)
    else:
        each = snp.sum(snp.where(hit & snp.expand_dims(kept, axis), weights, 0), axis=axis)
    if label_smoothing:
        spread = -snp.sum(weighted, axis=axis)
        losses = (1 - label_smoothing) * losses + (label_smoothing / classes) * spread
    return reduced(snp.where(kept, losses, 0), reduction, snp.sum(each))


def _likelihood_name(given: dict[str, Any]) -> str:
    if given.get("label_smoothing"):
        return "AddBackward0"
    return "NllLossBackward0" if given["input"].ndim < 3 else "NllLoss2DBackward0"


@for_tensors(_likelihood_name, saves=("input",))
def _cross_entropy_of_classes(
    input: Array, target: Array, weight: Array | None, ignore_index: int, reduction: str,
    label_smoothing: float,
) -> Array:  # fmt: skip
    log_p = log_softmax(input, _class_axis(input))
    return _negative_likelihood(log_p, target, weight, ignore_index, reduction, label_smoothing)


@for_tensors(lambda given: "DivBackward1" if given["reduction"] == "mean" else "NegBackward0")
def _cross_entropy_of_odds(
    input: Array, target: Array, weight: Array | None, reduction: str, label_smoothing: float
) -> Array:
    axis = _class_axis(input)
    log_p = log_softmax(input, axis)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / input.shape[axis]
    scaled = log_p if weight is None else log_p * _by_class(weight, log_p)
    return reduced(-snp.sum(target * scaled, axis=axis), reduction)


def cross_entropy(
    input: Array, target: Array, weight: Array | None = None, *, ignore_index: int = -100,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Array:  # fmt: skip
    """Cross-entropy of logits ``[N, C, ...]`` against class numbers ``[N, ...]`` or
    probabilities of the logits' shape.

    ``mean`` divides by the sum of the targets' class weights, ignored ones left out, and for
    probabilities by their number.
    """
    if kind_of(target) == "f":
        if tuple(target.shape) != tuple(input.shape):
            if target.ndim < input.ndim:
                _check_classes(input, target, ignore_index)  # raises
            raise FitError(
                f"probabilities must have the logits' shape {list(input.shape)}, "
                f"got {list(target.shape)}"
            )
        return _cross_entropy_of_odds(input, target, weight, reduction, label_smoothing)
    _check_classes(input, target, ignore_index)
    return _cross_entropy_of_classes(
        input, target, weight, ignore_index, reduction, label_smoothing
    )


@for_tensors(_likelihood_name)
def _nll_loss(
    input: Array, target: Array, weight: Array | None, ignore_index: int, reduction: str
) -> Array:
    return _negative_likelihood(input, target, weight, ignore_index, reduction, 0.0)


def nll_loss(
    input: Array, target: Array, weight: Array | None = None, *, ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:  # fmt: skip
    """Minus the log-probabilities ``[N, C, ...]`` at class numbers ``[N, ...]``."""
    _check_classes(input, target, ignore_index)
    return _nll_loss(input, target, weight, ignore_index, reduction)


# -- differences ---------------------------------------------------------------------------


def _alike(input: Array, target: Array) -> tuple[Array, Array]:
    """Both, tensors in the type that torch promotes them to; warns unless the shapes agree."""
    if tuple(input.shape) != tuple(target.shape):
        warnings.warn(
            f"Using a target size (torch.Size({list(target.shape)})) that is different to the "
            f"input size (torch.Size({list(input.shape)})). This will likely lead to incorrect "
            "results due to broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    if isinstance(input, Tensor) and isinstance(target, Tensor) and input.dtype != target.dtype:
        dtype = dtypes.promote_types(input.dtype, target.dtype)  # as they are broadcast first
        return input.to(dtype), target.to(dtype)
    return input, target


def _or_weighted(
    plain: Callable[[dict[str, Any]], str], mean: str = "DivBackward0"
) -> Callable[[dict[str, Any]], str]:
    """The name of a loss that torch composes if its elements have weights."""
    weighted = {"mean": mean, "sum": "SumBackward0", "none": "MulBackward0"}

    def name(given: dict[str, Any]) -> str:
        return plain(given) if given["weight"] is None else weighted[given["reduction"]]

    return name


def _weighted(losses: Array, weight: Array | None, reduction: str) -> Array:
    """Losses times their weights, by whose sum ``mean`` divides."""
    if weight is None:
        return reduced(losses, reduction)
    return reduced(losses * weight, reduction, snp.sum(weight))


def _check_weights(weight: Array | None, input: Array) -> None:
    if weight is not None and tuple(weight.shape) != tuple(input.shape):
        raise ShapeError("Weights and input must have the same size.")


@for_tensors(_or_weighted(lambda given: "MseLossBackward0"))
def _mse(input: Array, target: Array, reduction: str, weight: Array | None) -> Array:
    return _weighted(snp.square(input - target), weight, reduction)


def mse_loss(
    input: Array, target: Array, *, reduction: str = "mean", weight: Array | None = None
) -> Array:
    """Squared difference."""
    input, target = _alike(input, target)
    _check_weights(weight, input)
    return _mse(input, target, reduction, weight)


@for_tensors(_or_weighted(ends_in("AbsBackward0")))
def _l1(input: Array, target: Array, reduction: str, weight: Array | None) -> Array:
    return _weighted(snp.abs(input - target), weight, reduction)


def l1_loss(
    input: Array, target: Array, *, reduction: str = "mean", weight: Array | None = None
) -> Array:
    """Absolute difference."""
    input, target = _alike(input, target)
    _check_weights(weight, input)
    return _l1(input, target, reduction, weight)


@for_tensors("SmoothL1LossBackward0")
def _smooth_l1(input: Array, target: Array, reduction: str, beta: float) -> Array:
    size = snp.abs(input - target)
    if beta == 0:
        return reduced(size, reduction)
    return reduced(snp.where(size < beta, size * size * (0.5 / beta), size - 0.5 * beta), reduction)


def smooth_l1_loss(
    input: Array, target: Array, *, reduction: str = "mean", beta: float = 1.0
) -> Array:
    """Absolute difference less ``beta / 2``; below ``beta``, squared and divided by that."""
    input, target = _alike(input, target)
    if beta < 0:
        raise UsageError("smooth_l1_loss does not support negative values for beta.")
    return _smooth_l1(input, target, reduction, beta)


@for_tensors(_or_weighted(lambda given: "HuberLossBackward0", "MeanBackward0"))
def _huber(
    input: Array, target: Array, reduction: str, delta: float, weight: Array | None
) -> Array:
    size = snp.abs(input - target)
    losses = snp.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))
    return reduced(losses if weight is None else losses * weight, reduction)


def huber_loss(
    input: Array, target: Array, reduction: str = "mean", delta: float = 1.0,
    weight: Array | None = None,
) -> Array:  # fmt: skip
    """Half the squared difference up to ``delta``, linear beyond.  P. Huber (1964)."""
    input, target = _alike(input, target)
    _check_weights(weight, input)
    if delta <= 0:
        raise UsageError("huber_loss does not support non-positive values for delta.")
    return _huber(input, target, reduction, delta, weight)


# -- probabilities -------------------------------------------------------------------------


@for_tensors("BinaryCrossEntropyBackward0")
def _binary(input: Array, target: Array, weight: Array | None, reduction: str) -> Array:
    # torch keeps the logarithms above -100, and with them the derivative finite.
    log_p, log_q = snp.maximum(snp.log(input), -100), snp.maximum(snp.log1p(-input), -100)
    losses = (target - 1) * log_q - target * log_p
    return reduced(losses if weight is None else losses * weight, reduction)


def binary_cross_entropy(
    input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean"
) -> Array:
    """Cross-entropy of probabilities of one event against targets in [0, 1]."""
    if tuple(input.shape) != tuple(target.shape):
        raise ShapeError(
            f"Using a target size (torch.Size({list(target.shape)})) that is different to the "
            f"input size (torch.Size({list(input.shape)})) is deprecated. Please ensure they have "
            "the same size."
        )
    known = known_array(input)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise FitError("all elements of input should be between 0 and 1")
    return _binary(input, target, weight, reduction)


@for_tensors("BinaryCrossEntropyWithLogitsBackward0")
def _binary_with_logits(
    input: Array, target: Array, weight: Array | None, reduction: str, pos_weight: Array | None
) -> Array:
    # -log(sigmoid(x)) = log(1 + exp(-x)), and that of the opposite event adds x.
    rest = snp.logaddexp(-input, input * 0)
    if pos_weight is not None:
        rest = rest * ((pos_weight - 1) * target + 1)
    losses = (1 - target) * input + rest
    return reduced(losses if weight is None else losses * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:  # fmt: skip
    """``binary_cross_entropy`` of ``sigmoid(input)``; ``pos_weight`` scales the event's side."""
    if tuple(input.shape) != tuple(target.shape):
        raise ShapeError(
            f"Target size (torch.Size({list(target.shape)})) must be the same as input size "
            f"(torch.Size({list(input.shape)}))"
        )
    return _binary_with_logits(input, target, weight, reduction, pos_weight)


def _divergence_name(given: dict[str, Any]) -> str:
    if given["reduction"] == "batchmean":
        return "DivBackward0"
    return ends_in("SubBackward0", log_target="MulBackward0")(given)


@for_tensors(_divergence_name)
def _divergence(input: Array, target: Array, reduction: str, log_target: bool) -> Array:
    if log_target:
        losses = snp.exp(target) * (target - input)
    else:  # 0 log(0) = 0
        logs = snp.log(snp.where(target == 0, target * 0 + 1, target))
        losses = target * logs - target * input
    if reduction == "batchmean":
        return snp.sum(losses) / max(1, input.shape[0] if input.ndim else 1)
    return reduced(losses, reduction)


def kl_div(
    input: Array, target: Array, *, reduction: str = "mean", log_target: bool = False
) -> Array:
    """Divergence of log-probabilities ``input`` from probabilities, or their logarithms.

    ``"batchmean"`` divides the sum by the batch: that is the divergence as it is defined.
    """
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support "
            "size.'batchmean' divides only by the batch size, and aligns with the KL div math "
            "definition.'mean' will be changed to behave the same as 'batchmean' in the next "
            "major release.",
            stacklevel=2,
        )
    return _divergence(input, target, reduction, log_target)


@for_tensors(ends_in("SubBackward0", full="AddBackward0"))
def poisson_nll_loss(
    input: Array, target: Array, log_input: bool = True, full: bool = False, *,
    eps: float = 1e-8, reduction: str = "mean",
) -> Array:  # fmt: skip
    """Minus the log-likelihood of counts under Poisson's distribution.

    ``input`` is the rate or, with ``log_input``, its logarithm; ``full`` adds Stirling's
    formula for ``log(target!)`` where that is above 1.
    """
    rate, log_rate = (snp.exp(input), input) if log_input else (input, snp.log(input + eps))
    losses = rate - target * log_rate
    if full:
        large = target > 1
        t = snp.where(large, target, target * 0 + 1)
        stirling = t * snp.log(t) - t + 0.5 * snp.log(2 * math.pi * t)
        losses = losses + snp.where(large, stirling, target * 0)
    return reduced(losses, reduction)


@for_tensors(ends_in("MulBackward0", full="AddBackward0"))
def _gaussian(
    input: Array, target: Array, var: Array, full: bool, eps: float, reduction: str
) -> Array:
    clamped = var + emit("stop_gradient", snp.maximum(var, eps) - var)
    losses = 0.5 * (snp.log(clamped) + snp.square(input - target) / clamped)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


def gaussian_nll_loss(
    input: Array, target: Array, var: Array, full: bool = False, eps: float = 1e-6,
    reduction: str = "mean",
) -> Array:  # fmt: skip
    """Minus the log-likelihood under normal distributions of mean ``input`` and variance
    ``var``, which is kept above ``eps`` without changing its derivative."""
    if isinstance(var, int | float):
        var = input * 0 + var
    if tuple(var.shape) != tuple(input.shape):
        if tuple(input.shape[:-1]) == tuple(var.shape):
            var = var.reshape(*var.shape, 1)
        elif tuple(var.shape) != (*input.shape[:-1], 1):
            raise UsageError("var is of incorrect size")
    known = known_array(var)
    if known is not None and (known < 0).any():
        raise UsageError("var has negative entry/entries")
    return _gaussian(input, target, var, full, eps, reduction)
