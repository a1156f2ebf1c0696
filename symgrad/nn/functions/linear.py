"""Linear maps, and looking up rows: torch's ``linear``, ``bilinear``, ``embedding``."""

from __future__ import annotations

import math
from typing import Any

import symgrad.numpy as snp
from symgrad.ir.errors import DTypeError, UsageError
from symgrad.nn.faces import FitError, for_tensors, kind_of, known_array
from symgrad.tensors import Tensor
from symgrad.tensors.dtypes import named
from symgrad.tracing import emit

Array = Any


def _linear_name(given: dict[str, Any]) -> str:
    rank, alone = given["input"].ndim, given["bias"] is None
    if rank == 2:
        return "MmBackward0" if alone else "AddmmBackward0"
    return "UnsafeViewBackward0" if alone and rank > 2 else "ViewBackward0"


@for_tensors(_linear_name, wide=False)
def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """``x @ weight.T + bias`` for ``x[..., in]`` and ``weight[out, in]`` or ``weight[in]``."""
    if input.ndim < 1 or weight.ndim not in (1, 2) or input.shape[-1] != weight.shape[-1]:
        rows = math.prod(input.shape[:-1])
        columns = input.shape[-1] if input.ndim else 1
        transposed = "x".join(map(str, weight.shape[::-1]))
        raise FitError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{columns} and {transposed})"
        )
    if input.dtype != weight.dtype:
        left, right = (named(x.dtype).scalar_name for x in (input, weight))
        raise _DTypeError(f"mat1 and mat2 must have the same dtype, but got {left} and {right}")
    inner = {"lhs_contract": (input.ndim - 1,), "rhs_contract": (weight.ndim - 1,)}
    y = emit("dot_general", input, weight, **inner)
    return y if bias is None else y + bias


class _DTypeError(DTypeError, RuntimeError):
    """A ``RuntimeError`` too, as torch's."""


@for_tensors("AddBackward0")
def bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None = None) -> Array:
    """``x1 weight[o] x2 + bias[o]`` for ``x1[..., i]``, ``x2[..., j]``, ``weight[o, i, j]``."""
    if (input1.shape[-1], input2.shape[-1]) != tuple(weight.shape[1:]):
        raise FitError(
            f"bilinear: inputs [..., i], [..., j] need a weight [o, i, j], got {input1.shape}, "
            f"{input2.shape}, {weight.shape}"
        )
    half = emit("dot_general", input1, weight, lhs_contract=(input1.ndim - 1,), rhs_contract=(1,))
    y = snp.sum(half * snp.expand_dims(input2, -2), axis=-1)
    return y if bias is None else y + bias


@for_tensors("EmbeddingBackward0", wide=False)
def _embedding(input: Array, weight: Array, padding_idx: int | None) -> Array:
    if padding_idx is not None:  # its row gets no gradient
        row = snp.arange(weight.shape[0]).reshape(-1, 1) == padding_idx
        weight = snp.where(row, emit("stop_gradient", weight), weight)
    return emit("gather", weight, input, axes=(0,))


def embedding(input: Array, weight: Array, padding_idx: int | None = None) -> Array:
    """The rows of ``weight`` that ``input`` numbers; that of ``padding_idx`` gets no gradient.

    Numbers are checked where they are known; an unknown one out of bounds is clipped.
    """
    if kind_of(input) not in "iu":
        kind = input.type() if isinstance(input, Tensor) else input.dtype
        raise _DTypeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: "
            f"Long, Int; but got {kind} instead (while checking arguments for embedding)"
        )
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise UsageError("padding_idx must be within num_embeddings")
        padding_idx %= rows
    known = known_array(input)
    if known is not None and known.size and (known.min() < 0 or known.max() >= rows):
        raise IndexError("index out of range in self")
    return _embedding(input, weight, padding_idx)


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
