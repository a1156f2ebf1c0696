"""Tables of vectors looked up by number, one by one or as the sums of bags."""

from __future__ import annotations

from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UnsupportedError, UsageError
from symgrad.nn.faces import (
    FitError,
    TypeFitError,
    computed_array,
    for_tensors,
    kind_of,
    known_array,
)
from symgrad.tensors import Tensor
from symgrad.tensors.state import no_grad
from symgrad.tracing import emit

Array = Any


def _checked(name: str, input: Array, weight: Array, padding_idx: int | None) -> int | None:
    """Refuses numbers that are no rows of the table; the padding's row, counted from the first."""
    if kind_of(input) not in "iu":
        kind = input.type() if isinstance(input, Tensor) else input.dtype
        raise TypeFitError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: "
            f"Long, Int; but got {kind} instead (while checking arguments for {name})"
        )
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise UsageError("padding_idx must be within num_embeddings")
        padding_idx %= rows
    known = known_array(input)
    if known is not None and known.size and (known.min() < 0 or known.max() >= rows):
        raise IndexError("index out of range in self")
    return padding_idx


def _renorm(weight: Array, input: Array, max_norm: float, norm_type: float) -> None:
    """Makes rows that are looked up no longer than ``max_norm``, in the table itself."""
    chosen = known_array(input)
    if not isinstance(weight, Tensor) or chosen is None:
        raise UsageError(
            "embedding: max_norm changes the table, which must be a tensor, and looks at the "
            "numbers, which a traced function cannot; normalise the table before"
        )
    with no_grad():
        rows = np.unique(chosen)
        table = weight._array().copy()
        norms = np.linalg.norm(table[rows], norm_type, axis=1)
        factors = np.where(norms > max_norm, max_norm / (norms + 1e-7), 1)
        table[rows] *= factors[:, None].astype(table.dtype)
        weight.copy_(Tensor.of_array(table))


def _without(weight: Array, padding_idx: int | None) -> Array:
    """The table, whose row of padding gets no gradient."""
    if padding_idx is None:
        return weight
    row = snp.arange(weight.shape[0]).reshape(-1, 1) == padding_idx
    return snp.where(row, emit("stop_gradient", weight), weight)


def _rows(input: Array, weight: Array, by_freq: bool) -> Array:
    """The rows ``[..., D]``; ``by_freq`` divides a row's gradient by how often it is chosen."""
    rows = emit("gather", weight, input, axes=(0,))
    if not by_freq:
        return rows
    flat = snp.reshape(input, (-1,))
    ones = snp.ones(flat.shape, weight.dtype)
    counts = emit("scatter_add", snp.zeros((weight.shape[0],), weight.dtype), ones, flat, axes=(0,))
    share = 1 / snp.expand_dims(emit("gather", counts, input, axes=(0,)), -1)
    return rows * share + emit("stop_gradient", rows * (1 - share))


@for_tensors("EmbeddingBackward0", wide=False)
def _embedding(input: Array, weight: Array, padding_idx: int | None, by_freq: bool) -> Array:
    return _rows(input, _without(weight, padding_idx), by_freq)


def embedding(
    input: Array, weight: Array, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Array:  # fmt: skip
    """The rows of ``weight`` that ``input`` numbers; that of ``padding_idx`` gets no gradient.

    Numbers are checked where they are known; an unknown one out of bounds is clipped.  With
    ``max_norm`` longer rows are shortened in the table first.  ``sparse`` changes nothing: the
    gradient has the table's shape.
    """
    padding_idx = _checked("embedding", input, weight, padding_idx)
    if max_norm is not None:
        _renorm(weight, input, max_norm, norm_type)
    return _embedding(input, weight, padding_idx, scale_grad_by_freq)


# -- bags ----------------------------------------------------------------------------------


@for_tensors("EmbeddingBagBackward0")
def _bags_alike(
    input: Array, weight: Array, mode: str, padding_idx: int | None, by_freq: bool,
    factors: Array | None,
) -> Array:  # fmt: skip
    """Bags of one size: ``input[B, L]``; a bag of padding alone is 0."""
    rows = _rows(input, _without(weight, padding_idx), by_freq)
    is_there = None if padding_idx is None else snp.expand_dims(input != padding_idx, -1)
    if mode == "max":
        return _greatest(rows, is_there)
    if factors is not None:
        rows = rows * snp.expand_dims(factors, -1)
    total = snp.sum(rows if is_there is None else snp.where(is_there, rows, 0.0), axis=1)
    if mode == "sum":
        return total
    if is_there is None:
        return total * (1 / max(input.shape[1], 1))
    return total / snp.maximum(snp.sum(snp.astype(is_there, weight.dtype), axis=1), 1)


def _greatest(rows: Array, is_there: Array | None) -> Array:
    """The maximum of those rows ``[B, L, D]`` that are there; 0 if none is."""
    if not rows.shape[1]:
        return snp.sum(rows, axis=1)
    if is_there is None:
        return emit("reduce_max", rows, axes=(1,), ties="first")
    inside = snp.where(is_there, rows, -np.inf)
    top = emit("reduce_max", inside, axes=(1,), ties="first")
    return snp.where(snp.any(is_there, axis=1), top, 0.0)


@for_tensors("EmbeddingBagBackward0")
def _bags(
    input: Array, weight: Array, starts: Array, mode: str, padding_idx: int | None, by_freq: bool,
    factors: Array | None,
) -> Array:  # fmt: skip
    """Sums or means of bags that begin at ``starts``, of which the first is 0."""
    rows = _rows(input, _without(weight, padding_idx), by_freq)
    if factors is not None:
        rows = rows * snp.expand_dims(factors, -1)
    count, length = starts.shape[0], input.shape[0]
    begun = emit(
        "scatter_add", snp.zeros((length + 1,), np.int64), snp.ones((count,), np.int64), starts,
        axes=(0,),
    )  # fmt: skip
    bag = snp.cumsum(begun[:length]) - 1  # the bag that each row belongs to
    there = snp.ones((length, 1), weight.dtype)
    if padding_idx is not None:
        there = snp.astype(snp.expand_dims(input != padding_idx, -1), weight.dtype)
        rows = rows * there
    empty = snp.zeros((count, weight.shape[1]), weight.dtype)
    total = emit("scatter_add", empty, rows, bag, axes=(0,))
    if mode == "sum":
        return total
    sizes = emit("scatter_add", snp.zeros((count, 1), weight.dtype), there, bag, axes=(0,))
    return total / snp.maximum(sizes, 1)


@for_tensors("EmbeddingBagBackward0")
def _greatest_of_bags(
    input: Array, weight: Array, starts: Array, longest: int, padding_idx: int | None
) -> Array:
    """Maxima of bags, of which none is longer than ``longest``."""
    length = input.shape[0]
    end = snp.full((1,), length, starts.dtype)
    ends = snp.concatenate([starts[1:], end]) if starts.shape[0] else starts
    places = snp.expand_dims(starts, 1) + snp.arange(longest)
    is_there = places < snp.expand_dims(ends, 1)
    places = snp.minimum(places, max(length - 1, 0))
    numbers = emit("gather", input, places, axes=(0,))
    if padding_idx is not None:
        is_there = is_there & (numbers != padding_idx)
    rows = _rows(numbers, _without(weight, padding_idx), False)
    return _greatest(rows, snp.expand_dims(is_there, -1))


def _known_starts(starts: Array, length: int) -> Any:
    """The array of the bags' beginnings, if it is known, checked."""
    known = computed_array(starts)
    if known is None or not known.size:
        return known
    if known[0] != 0:
        raise FitError(
            "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from "
            f"position 0. However, got {known[0]}"
        )
    if known[-1] > length:
        raise FitError(
            f"offsets[-1] can not be greater than input's length {length} but got offsets[-1] of "
            f"{known[-1]}"
        )
    return known


def _check_bags(input: Array, weight: Array, offsets: Array | None, factors: Array | None) -> None:
    if factors is not None and tuple(factors.shape) != tuple(input.shape):
        raise ShapeError(
            f"embedding_bag: If per_sample_weights (torch.Size({list(factors.shape)})) is not "
            "None, then it must have the same shape as the input "
            f"(torch.Size({list(input.shape)}))"
        )
    if weight.ndim != 2:
        raise ShapeError(f"weight has to be a 2D Tensor, but got Tensor of dimension {weight.ndim}")
    if input.ndim not in (1, 2):
        raise ShapeError(
            f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.ndim}"
        )
    if input.ndim == 2 and offsets is not None:
        raise UsageError(
            "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of "
            f"fixed length sequences. However, found offsets of type {type(offsets)}"
        )
    if input.ndim == 1 and (offsets is None or offsets.ndim != 1):
        got = " but got None" if offsets is None else ""
        raise ShapeError(f"offsets has to be a 1D Tensor{got}")


def embedding_bag(
    input: Array, weight: Array, offsets: Array | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean",
    sparse: bool = False, per_sample_weights: Array | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Array:  # fmt: skip
    """Sums, means or maxima ``[B, D]`` of the rows that bags of numbers choose; empty ones are 0.

    Bags are the rows of ``input[B, L]``, or the parts of ``input[L]`` that begin at
    ``offsets[B]``; with ``include_last_offset`` these end with the length.  Numbers equal to
    ``padding_idx`` are left out; ``per_sample_weights`` are factors of each row (of a sum).
    """
    factors = per_sample_weights
    _check_bags(input, weight, offsets, factors)
    if mode not in ("sum", "mean", "max"):
        raise UsageError("mode has to be one of sum, mean or max")
    if mode == "max" and scale_grad_by_freq:
        raise UsageError("max mode does not support scaling the gradient by the frequency")
    if factors is not None and mode != "sum":
        raise UnsupportedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported "
            f"for mode='sum' (got mode='{mode}')."
        )
    padding_idx = _checked("embedding_bag", input, weight, padding_idx)
    if max_norm is not None:
        _renorm(weight, input, max_norm, norm_type)
    if offsets is None:
        return _bags_alike(input, weight, mode, padding_idx, scale_grad_by_freq, factors)
    offsets = offsets[:-1] if include_last_offset else offsets
    known = _known_starts(offsets, input.shape[0])
    if mode != "max":
        return _bags(input, weight, offsets, mode, padding_idx, scale_grad_by_freq, factors)
    longest = input.shape[0]
    if known is not None:
        longest = int(np.diff(known, append=longest).max(initial=0))
    return _greatest_of_bags(input, weight, offsets, longest, padding_idx)


# -- one place of many ---------------------------------------------------------------------


def one_hot(tensor: Array, num_classes: int = -1) -> Array:
    """1 at the place each class number says, else 0, along a new last axis."""
    if num_classes == -1:
        known = tensor._array() if isinstance(tensor, Tensor) else tensor
        num_classes = int(snp.max(known)) + 1
    known = known_array(tensor)
    if known is not None and known.size and not (known < num_classes).all():
        raise FitError("Class values must be smaller than num_classes.")
    if known is not None and known.size and not (known >= 0).all():
        raise FitError("Class values must be non-negative.")
    return _one_hot(tensor, num_classes)


@for_tensors("")
def _one_hot(tensor: Array, num_classes: int) -> Array:
    hit = snp.expand_dims(tensor, -1) == snp.arange(num_classes)
    return snp.astype(hit, tensor.dtype)
