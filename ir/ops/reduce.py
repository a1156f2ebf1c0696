"""Reductions over axes, running sums, and the first two moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value, insertion
from symgrad.ir.opdef import Array, OpDef, Sample, op
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import TensorType, i64

Axes = tuple[int, ...]


def _reduced(name: str, x: TensorType, axes: Axes) -> TensorType:
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < x.rank for a in axes):
        raise ShapeError(f"{name}: {x} has no axes {axes}")
    return x.with_shape(x.shape[a] for a in sh.other_axes(x.rank, axes))


def spread(y: Value, like: Value, axes: Axes) -> Value:
    """A reduction's result broadcast back over the axes it removed."""
    result: Value = sh.broadcast_to(y, shape=like.shape, axes=sh.other_axes(like.rank, axes))
    return result


def _check_kind(name: str, x: TensorType, kinds: str) -> None:
    if x.dtype.kind not in kinds:
        raise DTypeError(f"{name}: operands of dtype {x.dtype} are not supported")


def _declare(name: str, kinds: str, reducer: Any) -> OpDef:
    def infer(x: TensorType, *, axes: Axes) -> TensorType:
        _check_kind(name, x, kinds)
        return _reduced(name, x, axes)

    return _reduction(infer, name, kinds, reducer)


def _declare_extremum(name: str, reducer: Any) -> OpDef:
    def infer(x: TensorType, *, axes: Axes, ties: str = "split") -> TensorType:
        """``ties`` says who gets the cotangent of equal elements: all, or the ``first``."""
        _check_kind(name, x, "biuf")
        if ties not in ("split", "first") or (ties == "first" and len(axes) != 1):
            raise ShapeError(f"{name}: ties={ties!r} does not go with axes {axes}")
        return _reduced(name, x, axes)

    return _reduction(infer, name, "biuf", reducer)


def _reduction(infer: Any, name: str, kinds: str, reducer: Any) -> OpDef:
    samples = [
        Sample(((3, 4),), {"axes": (1,)}, ((0.5, 2),)),
        Sample(((2, 3, 4),), {"axes": (0, 2)}, ((0.5, 2),)),
    ]
    opdef = op(name, samples=samples)(infer)
    opdef.kinds = kinds
    # Sums accumulate in the operand's own dtype, pairwise as NumPy does.
    opdef.evaluate(lambda x, *, axes, **_: np.asarray(reducer(x, axis=axes, dtype=x.dtype)))

    @opdef.fold
    def _(x: Value, *, axes: Axes, **_: Any) -> Value | None:
        if all(x.shape[a] == 1 for a in axes):
            kept: Value = sh.reshape(x, shape=_reduced(name, x.type, axes).shape)
            return kept
        return None

    batch_shifted(opdef)
    return opdef


def batch_shifted(opdef: OpDef) -> None:
    """Batching for ops with one ``axes`` or ``axis`` attribute: it moves right by one."""

    @opdef.batch
    def _(size: int, operands: Sequence[Value], batched: Sequence[bool], **attrs: Any) -> Any:
        if "axes" in attrs:
            attrs["axes"] = tuple(a + 1 for a in attrs["axes"])
        else:
            attrs["axis"] += 1
        return opdef(*sh.add_batch(size, operands, batched), **attrs)


reduce_sum = _declare("reduce_sum", "iufc", np.add.reduce)
reduce_prod = _declare("reduce_prod", "iufc", np.multiply.reduce)
reduce_max = _declare_extremum("reduce_max", np.maximum.reduce)
reduce_min = _declare_extremum("reduce_min", np.minimum.reduce)
reduce_any = _declare("reduce_any", "b", np.logical_or.reduce)
reduce_all = _declare("reduce_all", "b", np.logical_and.reduce)
reduce_any.differentiable = reduce_all.differentiable = False

reduce_sum.adjoint(lambda ct, y, x, *, axes: (spread(ct, x, axes),))


def _declare_extremum_adjoint(opdef: OpDef, position: str) -> None:
    @opdef.adjoint
    def _(ct: Value, y: Value, x: Value, *, axes: Axes, ties: str) -> tuple[Value]:
        if ties == "first":
            number = sh.iota(shape=x.shape, axis=axes[0], dtype=i64)
            first = insertion.builder.emit(position, x, axis=axes[0])
            hit = ew.eq(number, spread(first, x, axes))
            return (ew.where(hit, spread(ct, x, axes), 0.0),)
        hit = ew.eq(x, spread(y, x, axes))
        count = reduce_sum(ew.convert(hit, dtype=x.type.dtype), axes=axes)
        # NaN equals nothing, not even itself: then there is no hit and no share to divide.
        share = ct / ew.maximum(count, insertion.builder.operand_like(1, count))
        return (ew.where(hit, spread(share, x, axes), 0.0),)


_declare_extremum_adjoint(reduce_max, "argmax")
_declare_extremum_adjoint(reduce_min, "argmin")


@reduce_prod.adjoint
def _reduce_prod_adjoint(ct: Value, y: Value, x: Value, *, axes: Axes) -> tuple[Value]:
    # The product of the others, from exclusive running products of both directions:
    # exact where elements are 0, unlike y / x.
    kept = sh.other_axes(x.rank, axes)
    order = (*kept, *axes)
    moved = sh.transpose(x, axes=order)
    flat = sh.reshape(
        moved, shape=(*(x.shape[a] for a in kept), math.prod(x.shape[a] for a in axes))
    )
    last = flat.rank - 1
    before = cumprod(_shifted(flat, last), axis=last)
    after = sh.reverse(
        cumprod(_shifted(sh.reverse(flat, axes=(last,)), last), axis=last), axes=(last,)
    )
    others = sh.transpose(sh.reshape(before * after, shape=moved.shape), axes=sh.inverse(order))
    return (spread(ct, x, axes) * others,)


def _shifted(x: Value, axis: int, first: int = 1) -> Value:
    """``first`` followed by all but the last element along an axis."""
    n = x.shape[axis]
    if n == 0:
        return x
    none = (0,) * x.rank
    low = tuple(int(a == axis) for a in range(x.rank))
    kept = sh.take_range(x, axis, 0, n - 1)
    result: Value = sh.pad(kept, low=low, high=none, interior=none, value=first)
    return result


def _declare_arg(name: str, evaluate: Any) -> OpDef:
    def infer(x: TensorType, *, axis: int) -> TensorType:
        if x.dtype.kind not in "biuf" or not 0 <= axis < x.rank or x.shape[axis] == 0:
            raise ShapeError(f"{name}: no axis {axis} to search in {x}")
        return _reduced(name, x, (axis,)).with_dtype(i64)

    opdef = op(name, samples=[Sample(((3, 5),), {"axis": 1})], differentiable=False)(infer)
    opdef.evaluate(lambda x, *, axis: np.asarray(evaluate(x, axis=axis)))
    batch_shifted(opdef)
    return opdef


argmax = _declare_arg("argmax", np.argmax)
argmin = _declare_arg("argmin", np.argmin)


def _running(name: str, x: TensorType, axis: int) -> TensorType:
    if not 0 <= axis < x.rank:
        raise ShapeError(f"{name}: {x} has no axis {axis}")
    return x


@op("cumsum", samples=[Sample(((3, 4),), {"axis": 1}), Sample(((5,),), {"axis": 0})])
def cumsum(x: TensorType, *, axis: int) -> TensorType:
    """Running sum along an axis."""
    return _running("cumsum", x, axis)


cumsum.evaluate(lambda x, *, axis: np.cumsum(x, axis, dtype=x.dtype))
cumsum.adjoint(
    lambda ct, y, x, *, axis: (
        sh.reverse(cumsum(sh.reverse(ct, axes=(axis,)), axis=axis), axes=(axis,)),
    )
)
batch_shifted(cumsum)


@op("cumprod", samples=[Sample(((3, 4),), {"axis": 1}, ((0.5, 2),))])
def cumprod(x: TensorType, *, axis: int) -> TensorType:
    """Running product along an axis."""
    return _running("cumprod", x, axis)


cumprod.evaluate(lambda x, *, axis: np.cumprod(x, axis, dtype=x.dtype))
batch_shifted(cumprod)


@cumprod.adjoint
def _cumprod_adjoint(ct: Value, y: Value, x: Value, *, axis: int) -> tuple[Value]:
    # dx_j = (x_1 ... x_{j-1}) r_j  with  r_j = ct_j + x_{j+1} r_{j+1}: no division by x.
    before = cumprod(_shifted(x, axis), axis=axis)
    factors = _shifted(sh.reverse(x, axes=(axis,)), axis)
    tail = recurrence(factors, sh.reverse(ct, axes=(axis,)), axis=axis)
    return (before * sh.reverse(tail, axes=(axis,)),)


@op("recurrence", samples=[Sample(((2, 4), (2, 4)), {"axis": 1}, ((0.5, 1.5), (-1, 1)))])
def recurrence(a: TensorType, b: TensorType, *, axis: int) -> TensorType:
    """The linear recurrence ``r[j] = b[j] + a[j] * r[j-1]`` with ``r[-1] = 0``."""
    if a != b:
        raise ShapeError(f"recurrence: operands must have one type, got {a}, {b}")
    return _running("recurrence", a, axis)


@recurrence.evaluate
def _recurrence(a: Array, b: Array, *, axis: int) -> Array:
    a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    r = b.copy()
    for j in range(1, len(r)):
        r[j] = b[j] + a[j] * r[j - 1]
    return np.moveaxis(r, 0, axis)


@recurrence.adjoint
def _recurrence_adjoint(
    ct: Value, r: Value, a: Value, b: Value, *, axis: int
) -> tuple[Value, Value]:
    flip = {"axes": (axis,)}
    # The cotangent runs the other way: g[j] = ct[j] + a[j+1] g[j+1].
    g = sh.reverse(
        recurrence(_shifted(sh.reverse(a, **flip), axis), sh.reverse(ct, **flip), axis=axis), **flip
    )
    previous = _shifted(r, axis, first=0)
    return g * previous, g


batch_shifted(recurrence)


@op("moments", samples=[Sample(((3, 4),), {"axes": (1,)}), Sample(((2, 3, 4),), {"axes": (0, 2)})])
def moments(x: TensorType, *, axes: Axes) -> tuple[TensorType, TensorType]:
    """Mean and (biased) variance over ``axes``.

    One op because its adjoint is simpler than its parts': the variance does not
    depend on the mean to first order, the deviations summing to zero.
    """
    if x.dtype.kind != "f":
        raise DTypeError(f"moments: operands of dtype {x.dtype} are not supported")
    reduced = _reduced("moments", x, axes)
    return reduced, reduced


@moments.evaluate
def _moments(x: Array, *, axes: Axes) -> tuple[Array, Array]:
    mean = np.mean(x, axis=axes, keepdims=True, dtype=np.float64)
    variance = np.mean(np.square(x - mean), axis=axes)
    return np.squeeze(mean, axes).astype(x.dtype), np.asarray(variance).astype(x.dtype)


@moments.adjoint
def _moments_adjoint(
    cts: Sequence[Value | None], ys: Sequence[Value], x: Value, *, axes: Axes
) -> tuple[Value | None]:
    n = math.prod(x.shape[a] for a in axes)
    total: Value | None = None
    if cts[0] is not None:
        total = spread(cts[0] * (1 / n), x, axes)
    if cts[1] is not None:
        part = spread(cts[1] * (2 / n), x, axes) * (x - spread(ys[0], x, axes))
        total = part if total is None else total + part
    return (total,)


@moments.expand
def _moments_expand(x: Value, *, axes: Axes) -> tuple[Value, Value]:
    # Sums of x - s and its square for a shift s near the mean, the first element:
    # one pass over x without the cancellation of E[x^2] - E[x]^2.
    n = math.prod(x.shape[a] for a in axes)
    kept = sh.other_axes(x.rank, axes)
    stop = tuple(1 if a in axes else m for a, m in enumerate(x.shape))
    first = sh.slice_(x, start=(0,) * x.rank, stop=stop, step=(1,) * x.rank)
    shift = sh.reshape(first, shape=tuple(x.shape[a] for a in kept))
    deviation = x - spread(shift, x, axes)
    offset = reduce_sum(deviation, axes=axes) * (1 / n)
    square = reduce_sum(deviation * deviation, axes=axes) * (1 / n)
    return shift + offset, ew.relu(square - offset * offset)


batch_shifted(moments)
