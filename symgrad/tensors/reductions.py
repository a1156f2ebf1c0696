"""Sums, extremes, norms and the like under torch's names, with its result types.

Computed by the traced functions of ``symgrad.numpy``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import symgrad.numpy as snp
from symgrad.tensors import dtypes
from symgrad.tensors.apply import INPUTS, NOTHING, RESULT, apply, stage
from symgrad.tensors.elementwise import FUNCTIONS, cast, declared
from symgrad.tensors.handle import Tensor
from symgrad.tensors.shapes import to
from symgrad.tracer import Tracer


class Extremes(NamedTuple):
    """Values and their positions along an axis."""

    values: Tensor
    indices: Tensor


def _axes(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, (list, tuple)) else dim


def _variant(name: str, dim: Any) -> str:
    return f"{name}Backward{0 if dim is None else 1}"


@declared
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum of all elements or along axes; integers and booleans give int64."""
    wanted = dtypes.named(dtype).numpy if dtype else input._dtype
    if dtype is None and wanted.kind in "biu":
        wanted = np.dtype(np.int64)

    def compute(x: Tracer) -> Any:
        return snp.sum(cast(x, wanted), axis=_axes(dim), keepdims=keepdim)

    made: Tensor = apply(_variant("Sum", dim), compute, (input,), saves=NOTHING)
    return made


@declared
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of all elements or along axes."""
    wanted = dtypes.named(dtype) if dtype else input.dtype
    if not wanted.is_floating_point:
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {wanted.scalar_name}"
        )

    def compute(x: Tracer) -> Any:
        return snp.mean(cast(x, wanted.numpy), axis=_axes(dim), keepdims=keepdim)

    made: Tensor = apply(_variant("Mean", dim), compute, (input,), saves=NOTHING)
    return made


def _declare_reduction(name: str, function: Any, label: str, saves: str) -> None:
    def reduction(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        made: Tensor = apply(
            label, lambda x: function(x, axis=_axes(dim), keepdims=keepdim), (input,), saves=saves
        )
        return made

    reduction.__name__ = name
    reduction.__doc__ = f"``{name}`` of all elements or along axes."
    FUNCTIONS[name] = reduction


for _name, _function, _label, _saves in (
    ("prod", snp.prod, "ProdBackward0", INPUTS),
    ("any", snp.any, "", NOTHING),
    ("all", snp.all, "", NOTHING),
    ("argmax", snp.argmax, "", NOTHING),
    ("argmin", snp.argmin, "", NOTHING),
    ("amax", snp.max, "AmaxBackward0", INPUTS),
    ("amin", snp.min, "AminBackward0", INPUTS),
):
    _declare_reduction(_name, _function, _label, _saves)


def _declare_extreme(name: str, function: Any, position: Any, elementwise: str) -> None:
    def extreme(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Tensor):
            return FUNCTIONS[elementwise](input, dim)
        label = f"{name.title()}Backward{1 if dim is None else 0}"
        values = apply(label, lambda x: function(x, axis=dim, keepdims=keepdim), (input,))
        if dim is None:
            return values
        places = apply("", lambda x: position(x, axis=dim, keepdims=keepdim), (input,))
        return Extremes(values, places)

    extreme.__name__ = name
    extreme.__doc__ = f"The {name}imum of all elements; along an axis, with its positions."
    FUNCTIONS[name] = extreme


_declare_extreme("max", snp.max, snp.argmax, "maximum")
_declare_extreme("min", snp.min, snp.argmin, "minimum")


def _declare_spread(name: str, function: Any, saves: str) -> None:
    def spread(
        input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False,
        *, correction: Any = None,
    ) -> Tensor:  # fmt: skip
        ddof = int(unbiased) if correction is None else correction

        def compute(x: Tracer) -> Any:
            return function(x, axis=_axes(dim), ddof=ddof, keepdims=keepdim)

        made: Tensor = apply(f"{name.title()}Backward0", compute, (input,), saves=saves)
        return made

    spread.__name__ = name
    spread.__doc__ = f"``{name}``, divided by n - 1 unless ``correction`` says otherwise."
    FUNCTIONS[name] = spread


_declare_spread("var", snp.var, INPUTS)
_declare_spread("std", snp.std, INPUTS)


@declared
def norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The vector norm of all elements or along axes."""
    order = 2 if p in (None, "fro") else p

    def compute(x: Tracer) -> Any:
        if dim is None:
            x = snp.ravel(x)
        return snp.linalg.vector_norm(x, ord=order, axis=_axes(dim), keepdims=keepdim)

    made: Tensor = apply("LinalgVectorNormBackward0", compute, (input,))
    return made


@declared
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(input)))`` along axes, without overflow."""

    def compute(x: Tracer) -> Any:
        top = stage("stop_gradient", snp.max(x, axis=_axes(dim), keepdims=True))
        total = snp.log(snp.sum(snp.exp(x - top), axis=_axes(dim), keepdims=True)) + top
        return total if keepdim else snp.squeeze(total, axis=_axes(dim))

    made: Tensor = apply("LogsumexpBackward0", compute, (input,))
    return made


@declared
def cumsum(input: Tensor, dim: int) -> Tensor:
    """Running sums along an axis."""
    made: Tensor = apply(
        "CumsumBackward0", lambda x: snp.cumsum(x, axis=dim), (input,), saves=NOTHING
    )
    return made


@declared
def cumprod(input: Tensor, dim: int) -> Tensor:
    """Running products along an axis."""
    made: Tensor = apply("CumprodBackward0", lambda x: snp.cumprod(x, axis=dim), (input,))
    return made


def _shifted(x: Tracer, dim: int) -> Any:
    """``x`` less its maximum along an axis, against overflow of the exponential."""
    return x - stage("stop_gradient", snp.max(x, axis=dim, keepdims=True))


@declared
def softmax(input: Tensor, dim: int = -1, *, dtype: Any = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along an axis."""

    def compute(x: Tracer) -> Any:
        e = snp.exp(_shifted(x, dim))
        return e / snp.sum(e, axis=dim, keepdims=True)

    made: Tensor = apply("SoftmaxBackward0", compute, (to(input, dtype=dtype),), saves=RESULT)
    return made


@declared
def log_softmax(input: Tensor, dim: int = -1, *, dtype: Any = None) -> Tensor:
    """``x - log(sum(exp(x)))`` along an axis."""

    def compute(x: Tracer) -> Any:
        shifted = _shifted(x, dim)
        return shifted - snp.log(snp.sum(snp.exp(shifted), axis=dim, keepdims=True))

    made: Tensor = apply("LogSoftmaxBackward0", compute, (to(input, dtype=dtype),), saves=RESULT)
    return made
