"""Products of matrices and vectors under torch's names, with its error texts."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import symgrad.numpy as snp
from symgrad.tensors import dtypes
from symgrad.tensors.apply import INPUTS, apply
from symgrad.tensors.axes import one_axis
from symgrad.tensors.elementwise import FUNCTIONS, broadcast_shape, cast, declared, in_type
from symgrad.tensors.handle import Tensor
from symgrad.tensors.plans import OTHERS, remembered
from symgrad.tensors.shapes import unsqueeze
from symgrad.tracer import Tracer
from symgrad.tracing import stage


def _one_type(name: str, x: Tensor, y: Tensor) -> None:
    if x._dtype == y._dtype:
        return
    if name == "dot":
        raise RuntimeError(
            f"dot : expected both vectors to have same dtype, but found {x.dtype.scalar_name} and "
            f"{y.dtype.scalar_name}"
        )
    raise RuntimeError(
        "expected m1 and m2 to have the same dtype, but got: "
        f"{_native(x.dtype)} != {_native(y.dtype)}"
    )


def _native(dtype: dtypes.dtype) -> str:
    names = {"Long": "long long", "Byte": "unsigned char", "Char": "signed char",
             "BFloat16": "c10::BFloat16", "Half": "c10::Half"}  # fmt: skip
    return names.get(dtype.scalar_name, dtype.scalar_name.lower())


# Functions of their own, so that what they record is known again.
def _matmul(x: Tracer, y: Tracer) -> Any:
    return snp.matmul(x, y)


def _inner(x: Tracer, y: Tracer) -> Any:
    return snp.inner(x, y)


def _outer(x: Tracer, y: Tracer) -> Any:
    return snp.outer(x, y)


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


@declared
@remembered
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product, over leading axes in turn."""
    a, b = input.shape, other.shape
    if not a or not b:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {len(a)}D and {len(b)}D"
        )
    ranks = (len(a), len(b))
    if ranks == (1, 1):
        return dot(input, other)
    if ranks == (2, 1):
        return mv(input, other)
    _one_type("matmul", input, other)
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        left = f"{math.prod(a[:-1])}x{a[-1]}"
        right = _sizes(other) if len(b) < 3 else f"{b[-2]}x{b[-1]}"
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({left} and {right})")
    names = {(2, 2): "MmBackward0", (1, 2): "SqueezeBackward4", (3, 3): "UnsafeViewBackward0"}
    label = names.get(ranks, "UnsafeViewBackward0")
    made: Tensor = apply(label, _matmul, (input, other), saves=OTHERS, wide=False)
    return made


@declared
@remembered
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    if input.ndim != 2:
        raise RuntimeError("self must be a matrix")
    if mat2.ndim != 2:
        raise RuntimeError("mat2 must be a matrix")
    return matmul(input, mat2)


@declared
@remembered
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector."""
    if input.ndim != 2 or vec.ndim != 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got {vec.ndim}, {input.ndim}, {vec.ndim}"
        )
    if input.shape[1] != vec.shape[0]:
        raise RuntimeError(
            f"size mismatch, got input ({input.shape[0]}), mat ({_sizes(input)}), vec "
            f"({vec.shape[0]})"
        )
    _one_type("mv", input, vec)
    made: Tensor = apply("MvBackward0", _matmul, (input, vec), saves=OTHERS, wide=False)
    return made


@declared
@remembered
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices."""
    for number, x in enumerate((input, mat2), 1):
        if x.ndim != 3:
            raise RuntimeError(f"batch{number} must be a 3D tensor")
    (b, _, k), expected = input.shape, mat2.shape
    if expected[:2] != (b, k):
        raise RuntimeError(
            "Expected size for first two dimensions of batch2 tensor to be: "
            f"[{b}, {k}] but got: [{expected[0]}, {expected[1]}]."
        )
    _one_type("bmm", input, mat2)
    made: Tensor = apply("BmmBackward0", _matmul, (input, mat2), saves=OTHERS, wide=False)
    return made


def _dot(name: str, input: Tensor, other: Tensor) -> Tensor:
    for x in (input, other):
        if x.ndim != 1:
            raise RuntimeError(
                f"1D tensors expected, but got {input.ndim}D and {other.ndim}D tensors"
            )
    _one_type("dot", input, other)
    n, m = input.numel(), other.numel()
    if n != m:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{n}] and src [{m}] to have the same "
            f"number of elements, but got {n} and {m} elements respectively"
        )
    label = f"{name.title()}Backward0"
    made: Tensor = apply(label, _matmul, (input, other), saves=OTHERS, wide=False)
    return made


@declared
@remembered
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of the products of two vectors' elements."""
    return _dot("dot", input, tensor)


@declared
@remembered
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """As ``dot``, for real numbers."""
    return _dot("vdot", input, other)


def _product(label: str, compute: Callable[..., Any], *operands: Tensor) -> Tensor:
    made: Tensor = apply(f"{label}Backward0", compute, operands, saves=OTHERS, wide=False)
    return made


@declared
@remembered
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last axes of both."""
    if not input.ndim or not other.ndim:
        return FUNCTIONS["mul"](input, other)  # type: ignore[no-any-return]
    if input.shape[-1] != other.shape[-1]:
        raise RuntimeError(
            "inner() the last dimension must match on both input tensors but got shapes "
            f"{list(input.shape)} and {list(other.shape)}"
        )
    return _product("View", _inner, input, other)


@declared
@remembered
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of the elements of two vectors."""
    if input.ndim != 1 or vec2.ndim != 1:
        which, x = ("self", input) if input.ndim != 1 else ("vec2", vec2)
        raise RuntimeError(f"outer: Expected 1-D argument {which}, but got {x.ndim}-D")
    return FUNCTIONS["mul"](unsqueeze(input, 1), vec2)  # type: ignore[no-any-return]


FUNCTIONS["ger"] = outer


# -- a product added -----------------------------------------------------------------------


def _declare_added(
    name: str, product: Callable[[Any, Any], Any], check: Callable[..., Any]
) -> None:
    label = f"{name.title()}Backward0"

    def added(
        input: Tensor, first: Tensor, second: Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> Tensor:
        check(first, second)
        beta, alpha = (in_type(f, input._dtype) for f in (beta, alpha))

        def compute(c: Tracer, x: Tracer, y: Tracer) -> Any:
            result = product(x, y)
            scaled = result if alpha == 1 else alpha * result
            return scaled if beta == 0 else (c if beta == 1 else beta * c) + scaled

        made: Tensor = apply(label, compute, (input, first, second), saves=INPUTS, wide=False)
        return made

    added.__name__ = name
    added.__doc__ = f"``beta * input + alpha * product``: {name} of torch."
    FUNCTIONS[name] = remembered(added)


def _check_mm(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[0] or x._dtype != y._dtype:
        mm(x, y)  # raises


def _check_mv(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 1 or x.shape[1] != y.shape[0]:
        mv(x, y)  # raises


def _check_bmm(x: Tensor, y: Tensor) -> None:
    if x.ndim != 3 or y.ndim != 3 or (x.shape[0], x.shape[2]) != tuple(y.shape[:2]):
        bmm(x, y)  # raises


def _check_vectors(x: Tensor, y: Tensor) -> None:
    if x.ndim != 1 or y.ndim != 1:
        outer(x, y)  # raises


_declare_added("addmm", _matmul, _check_mm)
_declare_added("addmv", _matmul, _check_mv)
_declare_added("addr", _outer, _check_vectors)
_declare_added("baddbmm", _matmul, _check_bmm)
_declare_added("addbmm", lambda x, y: snp.sum(snp.matmul(x, y), axis=0, dtype=x.dtype), _check_bmm)


# -- general products ----------------------------------------------------------------------


@remembered
def _equation(lists: Sequence[Any]) -> str:
    """The equation for lists of axis numbers, ``Ellipsis`` among them; the last is the result's."""

    def letters(axes: Sequence[Any]) -> str:
        return "".join("..." if a is Ellipsis else string.ascii_letters[a] for a in axes)

    return ",".join(map(letters, lists[:-1])) + ("" if lists[-1] is None else
                                                 f"->{letters(lists[-1])}")  # fmt: skip


def einsum(equation: Any, *operands: Any) -> Tensor:
    """The sum of products that an equation such as ``"ij,jk->ik"`` describes.

    Also ``einsum(x, [0, 1], y, [1, 2], [0, 2])``, with the numbers of the axes.
    """
    if isinstance(equation, Tensor):
        parts = [equation, *operands]
        end = parts.pop() if len(parts) % 2 else None
        return einsum(_equation([*parts[1::2], end]), *parts[::2])
    given = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    )
    text = equation.replace(" ", "")
    inputs, _, output = text.partition("->")
    labels = set(inputs) - set(",.")
    explicit = "->" in text
    summed = labels - set(output) if explicit else {c for c in labels if inputs.count(c) > 1}
    label = "View" if summed and len(given) > 1 else "Mul" if len(given) > 1 else "Permute"
    if len(given) == 1 and labels - set(output if explicit else inputs):
        label = "Sum"
    saves = OTHERS if len(given) == 2 else INPUTS
    made: Tensor = apply(
        f"{label}Backward0", lambda *xs: snp.einsum(equation, *xs), tuple(given), saves=saves
    )
    return made


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """The sum of products over pairs of axes."""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    axes = dims if isinstance(dims, int) else tuple(
        tuple(d) if isinstance(d, (list, tuple)) else (d,) for d in dims
    )  # fmt: skip
    return _product("View", lambda x, y: snp.tensordot(x, y, axes), a, b)


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, in the cheapest order."""
    return multi_dot(matrices)


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of several matrices, in the cheapest order; the ends may be vectors."""
    if len(tensors) < 2:
        raise RuntimeError("multi_dot(): expected at least 2 tensors but got " + str(len(tensors)))
    made: Tensor = apply(
        "ViewBackward0", lambda *xs: snp.linalg.multi_dot(list(xs)), tuple(tensors), saves=INPUTS
    )
    return made


def _cross_axis(shape: tuple[int, ...]) -> int:
    axis = next((a for a, n in enumerate(shape) if n == 3), None)
    if axis is None:
        raise RuntimeError("no dimension of size 3 in input")
    return axis


@declared
@remembered
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross products of the vectors along an axis of size 3."""
    shape = broadcast_shape(input._tracer.shape, other._tracer.shape)
    axis = _cross_axis(shape) if dim is None else one_axis(dim, len(shape))
    if shape[axis] != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {axis} must have length 3. Got {input.shape[axis]} "
            f"and {other.shape[axis]}"
        )
    dtype = dtypes.promote((input, other))

    def compute(x: Tracer, y: Tracer) -> Any:
        x, y = (snp.broadcast_to(cast(v, dtype), shape) for v in (x, y))
        turned = [snp.roll(v, -n, axis) for v in (x, y) for n in (1, 2)]
        return stage("sub", turned[0] * turned[3], turned[1] * turned[2])

    made: Tensor = apply("LinalgCrossBackward0", compute, (input, other), saves=INPUTS)
    return made


PLAIN = {f.__name__: f for f in (einsum, tensordot, chain_matmul)}
"""Functions that are no methods."""
