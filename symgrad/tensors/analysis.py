"""Differences, integrals, distances and covariances of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.numpy import core
from symgrad.tensors import dtypes
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tensors.arithmetic import add, clamp, div, mul, sub
from symgrad.tensors.axes import one_axis
from symgrad.tensors.elementwise import FUNCTIONS, binary, cast, declared
from symgrad.tensors.handle import Tensor
from symgrad.tensors.joining import cat
from symgrad.tensors.parts import narrow
from symgrad.tensors.plans import OTHERS
from symgrad.tensors.reductions import mean, sum, vector_norm
from symgrad.tensors.shapes import unsqueeze
from symgrad.tracer import Tracer
from symgrad.tracing import stage


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    n = x.shape[axis]
    return narrow(x, axis, min(1, n), max(n - 1, 0)), narrow(x, axis, 0, max(n - 1, 0))


@declared
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Differences of neighbours along an axis, ``n`` times."""
    axis = one_axis(dim, input.ndim)
    parts = [p for p in (prepend, input, append) if p is not None]
    x = cat(parts, axis) if len(parts) > 1 else input
    if n == 0:
        return FUNCTIONS["clone"](x)  # type: ignore[no-any-return]
    for _ in range(n):
        after, before = _neighbours(x, axis)
        x = FUNCTIONS["logical_xor"](after, before) if x._dtype.kind == "b" else sub(after, before)
    return x


def _steps(y: Tensor, x: Tensor | None, dx: Any, axis: int) -> Any:
    if x is None:
        return dx
    steps = diff(x, dim=-1 if x.ndim == 1 else axis)
    if x.ndim == 1:
        steps = steps.reshape([-1 if a == axis else 1 for a in range(y.ndim)])
    return steps


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The integral along an axis by the trapezoidal rule."""
    axis = one_axis(dim, y.ndim)
    after, before = _neighbours(y, axis)
    if x is None:
        total = sum(add(after, before), axis)
        half = (1.0 if dx is None else dx) / 2.0
        return binary("mul", "mul", total, half, OTHERS, label="MulBackward1")
    return div(sum(mul(_steps(y, x, dx, axis), add(after, before)), axis), 2.0)


def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1
) -> Tensor:
    """The integrals up to each position along an axis."""
    axis = one_axis(dim, y.ndim)
    after, before = _neighbours(y, axis)
    if x is None:
        weighted = mul(add(after, before), (1.0 if dx is None else dx) / 2.0)
    else:
        weighted = div(mul(_steps(y, x, dx, axis), add(after, before)), 2.0)
    return FUNCTIONS["cumsum"](weighted, axis)  # type: ignore[no-any-return]


def gradient(
    input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """Central differences along axes, one-sided at the ends."""
    axes = range(input.ndim) if dim is None else (dim if isinstance(dim, (tuple, list)) else (dim,))
    axes = [one_axis(a, input.ndim) for a in axes]
    steps = spacing if isinstance(spacing, (tuple, list)) else [spacing] * len(axes)
    if edge_order != 1 or any(isinstance(h, Tensor) for h in steps):
        raise NotImplementedError("gradient: only numbers as spacing and edge_order=1")
    results = []
    for axis, h in zip(axes, steps, strict=True):
        n = input.shape[axis]
        if n < 2:
            raise RuntimeError(
                "torch.gradient expected each dimension size to be at least edge_order+1"
            )
        inner = div(sub(narrow(input, axis, 2, n - 2), narrow(input, axis, 0, n - 2)), 2 * h)
        ends = [
            div(sub(narrow(input, axis, i + 1, 1), narrow(input, axis, i, 1)), h)
            for i in (0, n - 2)
        ]
        results.append(cat([ends[0], inner, ends[1]], axis))
    return tuple(results)


@declared
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of the difference."""

    dtype = dtypes.promote((input, other))

    def compute(x: Tracer, y: Tracer) -> Any:
        gap = cast(x, dtype) - cast(y, dtype)
        return vector_norm(gap, p, tuple(range(gap.ndim)), False)

    made: Tensor = apply("DistBackward0", compute, (input, other))
    return made


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """The p-norm distances between all rows of two matrices, over leading axes in turn."""

    def compute(a: Tracer, b: Tracer) -> Any:
        gap = snp.expand_dims(a, -2) - snp.expand_dims(b, -3)
        return vector_norm(gap, p, (gap.ndim - 1,), False)

    made: Tensor = apply("CdistBackward0", compute, (x1, x2))
    return made


@declared
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Slices along an axis scaled down to p-norm ``maxnorm`` where theirs is larger."""
    axis = one_axis(dim, input.ndim)
    others = tuple(a for a in range(input.ndim) if a != axis)

    def compute(x: Tracer) -> Any:
        size = vector_norm(x, p, others, True)
        return x * snp.where(size > maxnorm, maxnorm / (size + 1e-7), 1.0)

    made: Tensor = apply("RenormBackward0", compute, (input,))
    return made


@declared
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """Running ``log(sum(exp(x)))`` along an axis, each prefix against its own maximum."""
    axis = one_axis(dim, input.ndim)

    def compute(x: Tracer) -> Any:
        if not x.ndim:
            return x
        n, reach = x.shape[axis], 1
        total = x
        while reach < n:  # prefixes of 1, 2, 4, ... elements join
            earlier = core.sliced(total, axis, 0, n - reach)
            later = core.sliced(total, axis, reach, n)
            kept = core.sliced(total, axis, 0, reach)
            total = stage("concatenate", kept, np.logaddexp(later, earlier), axis=axis)
            reach *= 2
        return total

    made: Tensor = apply("LogcumsumexpBackward0", compute, (input,))
    return made


@declared
def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Covariances of variables, a row each."""
    x = FUNCTIONS["atleast_2d"](input)
    if x._kind != "f":
        x = x.to(dtypes.get_default_dtype())
    weights: Any = None
    for given in (fweights, aweights):
        if given is not None:
            weights = given if weights is None else mul(weights, given)
    if weights is None:
        centred = sub(x, mean(x, 1, True))
        norm: Any = max(x.shape[1] - correction, 0)
        product = centred @ centred.transpose(0, 1)
    else:
        total = sum(weights)
        centred = sub(x, div(sum(mul(x, weights), 1, True), total))
        norm = total
        if correction:
            used = total if aweights is None else div(sum(mul(weights, aweights)), total)
            norm = sub(total, mul(used, correction) if aweights is not None else correction)
        product = mul(centred, weights) @ centred.transpose(0, 1)
    return div(product, norm).squeeze()  # type: ignore[no-any-return]


@declared
def corrcoef(input: Tensor) -> Tensor:
    """Correlations of variables, a row each."""
    c = cov(input)
    if not c.ndim:
        return div(c, c)
    deviation = c.diagonal().sqrt()
    scaled = div(div(c, unsqueeze(deviation, 1)), unsqueeze(deviation, 0))
    return clamp(scaled, -1, 1)


@declared
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input.ndim != 2:
        raise RuntimeError("trace: expected a matrix")
    dtype = input._dtype if input._kind == "f" else np.dtype(np.int64)
    made: Tensor = apply(
        "TraceBackward0",
        lambda x: snp.sum(snp.diagonal(x), dtype=dtype),
        (input,),
        saves=NOTHING,
    )
    return made


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product."""
    dtype = dtypes.promote((input, other))

    def compute(a: Tracer, b: Tracer) -> Any:
        a, b = cast(a, dtype), cast(b, dtype)
        rank = max(a.ndim, b.ndim)
        sa, sb = ((1,) * (rank - v.ndim) + v.shape for v in (a, b))
        wide = core.reshape(a, [n for s in sa for n in (s, 1)])
        deep = core.reshape(b, [n for s in sb for n in (1, s)])
        return core.reshape(wide * deep, [m * n for m, n in zip(sa, sb, strict=True)])

    made: Tensor = apply("UnsafeViewBackward0", compute, (input, other))
    return made


FUNCTIONS["kron"] = kron
PLAIN = {
    "trapezoid": trapezoid, "trapz": trapezoid, "cumulative_trapezoid": cumulative_trapezoid,
    "gradient": gradient, "cdist": cdist,
}  # fmt: skip
"""Functions that are no methods."""
