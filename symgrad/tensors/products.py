"""Products of matrices and vectors under torch's names, with its error texts."""

from __future__ import annotations

import math
from typing import Any

import symgrad.numpy as snp
from symgrad.tensors.apply import OTHERS, apply
from symgrad.tensors.elementwise import FUNCTIONS, declared
from symgrad.tensors.handle import Tensor
from symgrad.tensors.shapes import unsqueeze
from symgrad.tracer import Tracer


@declared
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product, over leading axes in turn."""
    a, b = input.shape, other.shape
    if not a or not b:
        raise RuntimeError("both arguments to matmul need to be at least 1D, but they are 0D")
    if input._dtype != other._dtype:
        raise RuntimeError(
            "expected m1 and m2 to have the same dtype, but got: "
            f"{input.dtype.scalar_name} != {other.dtype.scalar_name}"
        )
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        if len(a) == len(b) == 1:
            raise RuntimeError(
                f"inconsistent tensor size, expected tensor [{a[0]}] and src [{b[0]}] to have the "
                f"same number of elements, but got {a[0]} and {b[0]} elements respectively"
            )
        left = f"{math.prod(a[:-1])}x{a[-1]}"
        right = "x".join(map(str, b)) if len(b) < 3 else f"{b[-2]}x{b[-1]}"
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({left} and {right})")
    names = {(1, 1): "Dot", (2, 1): "Mv", (2, 2): "Mm"}
    label = names.get((len(a), len(b)), "Bmm" if len(a) == len(b) == 3 else "UnsafeView")
    made: Tensor = apply(f"{label}Backward0", snp.matmul, (input, other), saves=OTHERS)
    return made


FUNCTIONS.update(dict.fromkeys(("mm", "mv", "bmm", "dot"), matmul))


@declared
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of the elements of two vectors."""
    return FUNCTIONS["mul"](unsqueeze(input, 1), vec2)  # type: ignore[no-any-return]


@declared
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * mat1 @ mat2``"""
    if mat1.shape[-1] != mat2.shape[0]:
        matmul(mat1, mat2)  # raises

    def compute(c: Tracer, x: Tracer, y: Tracer) -> Any:
        product = snp.matmul(x, y)
        return (c if beta == 1 else beta * c) + (product if alpha == 1 else alpha * product)

    made: Tensor = apply("AddmmBackward0", compute, (input, mat1, mat2))
    return made


def einsum(equation: str, *operands: Any) -> Tensor:
    """The sum of products that an equation such as ``"ij,jk->ik"`` describes."""
    given = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    )
    made: Tensor = apply("ViewBackward0", lambda *xs: snp.einsum(equation, *xs), tuple(given))
    return made
