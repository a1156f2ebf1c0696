"""Connectionist temporal classification: the likelihood of a sequence whose timing is unknown.

A. Graves et al., "Connectionist temporal classification" (2006).  The forward recursion over
``[blank, label, blank, label, ..., blank]``, in logarithms, is one loop (the op ``scan``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.api import jit
from symgrad.api_loops import scan
from symgrad.ir.errors import DTypeError, UsageError
from symgrad.nn.faces import FitError, computed_array, for_tensors, kind_of, known_array
from symgrad.tensors import Tensor
from symgrad.tracer import Tracer
from symgrad.tracing import current_trace, emit

Array = Any


def _log_sum(*terms: Array) -> Array:
    """``log(exp(a) + exp(b) + ...)``, where minus infinity is a term like others."""
    top = terms[0]
    for term in terms[1:]:
        top = snp.maximum(top, term)
    none = top == -np.inf
    top = emit("stop_gradient", snp.where(none, 0.0, top))
    total = sum(snp.exp(term - top) for term in terms)
    return snp.where(none, -np.inf, snp.log(snp.where(none, 1.0, total)) + top)


def _moved(x: Array, places: int) -> Array:
    """``x[N, S]`` moved to the right, minus infinity coming in."""
    none = (0, 0)
    wide = emit("pad", x, low=(0, places), high=none, interior=none, value=-np.inf)
    return wide[:, : x.shape[1]]


def _at(x: Array, place: Array) -> Array:
    """``x[N, S]`` at one place in each row."""
    return snp.squeeze(snp.take_along_axis(x, snp.expand_dims(place, 1), axis=1), axis=1)


def _minus_log_likelihood(
    log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int
) -> Array:
    """``[N]`` for ``log_probs[T, N, C]``, ``targets[N, S]`` and lengths ``[N]``."""
    time, batch, _ = log_probs.shape
    gaps = targets * 0 + blank
    pairs = snp.reshape(snp.stack([gaps, targets], axis=2), (batch, -1))
    labels = snp.concatenate([pairs, snp.full((batch, 1), blank, targets.dtype)], axis=1)
    images = np.arange(batch).reshape(-1, 1) + labels * 0
    emitted = emit("gather", log_probs, images, labels, axes=(1, 2))  # [N, S', T]
    emitted = snp.moveaxis(emitted, -1, 0)
    # From one label to the next without a blank between, if they differ.
    before = snp.concatenate([labels[:, :2] * 0 + blank, labels[:, :-2]], axis=1)
    may_skip = (labels != blank) & (labels != before)
    runs = snp.reshape(snp.arange(time), (-1, 1)) < input_lengths

    def advance(alpha: Array, now: tuple[Array, Array]) -> tuple[Array, Any]:
        emitted, runs = now
        skipped = snp.where(may_skip, _moved(alpha, 2), -np.inf)
        following = _log_sum(alpha, _moved(alpha, 1), skipped) + emitted
        return snp.where(snp.expand_dims(runs, 1), following, alpha), ()

    # Before the first step all is at the first blank, which need not be emitted.
    begun = snp.where(np.arange(labels.shape[1]) == 0, 0.0, -np.inf)
    begun = snp.broadcast_to(snp.astype(begun, log_probs.dtype), labels.shape)
    alpha, _ = scan(advance, begun, (emitted, runs))
    at_blank = _at(alpha, 2 * target_lengths)
    at_label = _at(alpha, snp.maximum(2 * target_lengths - 1, 0))
    at_label = snp.where(target_lengths > 0, at_label, -np.inf)
    return -_log_sum(at_blank, at_label)


def _losses(
    log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int,
    zero_infinity: bool,
) -> Array:  # fmt: skip
    losses = _minus_log_likelihood(log_probs, targets, input_lengths, target_lengths, blank)
    # torch's derivative is that by the input of log_softmax: it adds exp(log_probs), which
    # log_softmax's own derivative takes away again.
    runs = snp.reshape(snp.arange(log_probs.shape[0]), (-1, 1)) < input_lengths
    likely = snp.sum(snp.exp(log_probs), axis=2)
    likely = snp.sum(snp.where(runs, likely - emit("stop_gradient", likely), 0.0), axis=0)
    if not zero_infinity:
        return losses + likely
    return snp.where(losses == np.inf, 0.0, losses + likely)


_on_arrays = jit(_losses, static_argnums=(4, 5))


def _name(given: dict[str, Any]) -> str:
    names = {"mean": "MeanBackward0", "sum": "SumBackward0"}
    last = "WhereBackward0" if given["zero_infinity"] else "CtcLossBackward0"
    return names.get(given["reduction"], last)


@for_tensors(_name, saves=("log_probs",))
def _ctc(
    log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int,
    reduction: str, zero_infinity: bool,
) -> Array:  # fmt: skip
    compute = _on_arrays if current_trace() is None else _losses
    losses = compute(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return snp.sum(losses)
    return snp.mean(losses / snp.astype(snp.maximum(target_lengths, 1), losses.dtype))


def ctc_loss(
    log_probs: Array, targets: Array, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False,
) -> Array:  # fmt: skip
    """Minus the log-likelihood of label sequences under ``log_probs[T, N, C]``, or ``[T, C]``.

    ``targets`` are ``[N, S]``, or one after another in one axis; label ``blank`` stands for
    none.  ``mean`` divides by the targets' lengths first.  A target that does not fit into its
    input has an infinite loss, or with ``zero_infinity`` none and no gradient.
    """
    if reduction not in ("none", "mean", "sum"):
        raise UsageError(f"{reduction} is not a valid value for reduction")
    if kind_of(log_probs) != "f":
        raise DTypeError(f"ctc_loss: log_probs must be floating point, got {log_probs.dtype}")
    like_tensor = isinstance(log_probs, Tensor)
    inputs, labels = (_lengths(x, like_tensor) for x in (input_lengths, target_lengths))
    alone = log_probs.ndim == 2
    if alone:
        log_probs, targets = log_probs[:, None], targets.reshape(1, -1)
        inputs, labels = inputs.reshape(1), labels.reshape(1)
    if not 0 <= blank < log_probs.shape[2]:
        raise FitError("blank must be in label range")
    _check_lengths(log_probs, inputs, labels)
    targets = _padded(targets, labels)
    losses = _ctc(log_probs, targets, inputs, labels, blank, reduction, zero_infinity)
    return losses.squeeze(0) if alone and reduction == "none" else losses


def _lengths(lengths: Any, like_tensor: bool) -> Array:
    """Lengths as a tensor or an array."""
    if isinstance(lengths, (Tensor, Tracer)):
        return lengths
    array = np.asarray(lengths, np.int64)
    return Tensor.of_array(array) if like_tensor else array


def _check_lengths(log_probs: Array, inputs: Array, labels: Array) -> None:
    time, batch, _ = log_probs.shape
    for name, lengths in (("input_lengths", inputs), ("target_lengths", labels)):
        if tuple(lengths.shape) != (batch,):
            raise FitError(f"{name} must be of size batch_size")
        known = known_array(lengths)
        if known is not None and known.size and known.min() < 0:
            raise FitError(f"Expected {name} to be at least 0, but got value {known.min()}")
    known = known_array(inputs)
    if known is not None and known.size and known.max() > time:
        raise FitError(
            f"Expected input_lengths to have value at most {time}, but got value {known.max()} "
            "(while checking arguments for ctc_loss)"
        )


def _padded(targets: Array, lengths: Array) -> Array:
    """Targets as ``[N, S]``; what is beyond their lengths is never read."""
    known = computed_array(lengths)
    if known is None and targets.ndim == 1:
        raise UsageError(
            "ctc_loss: targets one after another need target_lengths that are known, not traced "
            "ones; pass targets[N, S]"
        )
    longest = 0 if known is None else int(known.max(initial=0))
    axis, wanted = (0, int(known.sum())) if targets.ndim == 1 else (1, longest)
    given = targets.shape[axis]
    if given < wanted or (axis == 0 and given > wanted):
        at_least = "at least " if axis else ""
        raise FitError(
            f"Expected tensor to have size {at_least}{wanted} at dimension {axis}, but got size "
            f"{given} for argument #2 'targets' (while checking arguments for ctc_loss)"
        )
    if axis == 1 and targets.shape[0] != lengths.shape[0]:
        raise FitError(
            f"Expected tensor to have size {lengths.shape[0]} at dimension 0, but got size "
            f"{targets.shape[0]} for argument #2 'targets' (while checking arguments for ctc_loss)"
        )
    if axis == 1:
        return targets
    if not wanted:
        return targets.reshape(len(known), 0)
    places = (known.cumsum() - known)[:, None] + np.arange(longest)
    return targets[np.minimum(places, wanted - 1)]
