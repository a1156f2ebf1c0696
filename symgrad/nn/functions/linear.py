"""Linear maps: torch's ``linear`` and ``bilinear``."""

from __future__ import annotations

import math
from typing import Any

import symgrad.numpy as snp
from symgrad.nn.faces import FitError, TypeFitError, for_tensors
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
        raise TypeFitError(f"mat1 and mat2 must have the same dtype, but got {left} and {right}")
    inner = {"lhs_contract": (input.ndim - 1,), "rhs_contract": (weight.ndim - 1,)}
    y = emit("dot_general", input, weight, **inner)
    return y if bias is None else y + bias


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
