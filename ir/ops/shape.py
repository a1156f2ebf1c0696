"""Operations that only move elements: reshape, transpose, broadcast, slice, pad...

``broadcast_to`` names the axes its operand runs along, so no rule ever has to
undo an implicit broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value, insertion
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.types import DType, TensorType

Shape = tuple[int, ...]


@op("reshape", samples=[Sample(((3, 4),), {"shape": (2, 6)}), Sample(((),), {"shape": (1, 1)})])
def reshape(x: TensorType, *, shape: Shape) -> TensorType:
    """The same elements in row-major order under another shape."""
    if math.prod(shape) != x.size:
        raise ShapeError(f"reshape: {x} has {x.size} elements, shape {shape} {math.prod(shape)}")
    return x.with_shape(shape)


reshape.evaluate(lambda x, *, shape: np.reshape(x, shape))
reshape.adjoint(lambda ct, y, x, *, shape: (reshape(ct, shape=x.shape),))


@reshape.fold
def _reshape_fold(x: Value, *, shape: Shape) -> Value | None:
    if x.shape == shape:
        return x
    if x.op is not None and x.op.name == "reshape":
        inner: Value = reshape(x.op.operands[0], shape=shape)
        return inner
    return None


@reshape.batch
def _reshape_batch(size: int, operands: Sequence[Value], batched: Any, *, shape: Shape) -> Any:
    return reshape(operands[0], shape=(size, *shape))


@op("transpose", samples=[Sample(((2, 3, 4),), {"axes": (2, 0, 1)})])
def transpose(x: TensorType, *, axes: Shape) -> TensorType:
    """Result axis i is operand axis ``axes[i]``."""
    if sorted(axes) != list(range(x.rank)):
        raise ShapeError(f"transpose: axes {axes} are no permutation of the axes of {x}")
    return x.with_shape(x.shape[a] for a in axes)


def inverse(axes: Sequence[int]) -> Shape:
    """The permutation that undoes ``axes``."""
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i]))


transpose.evaluate(lambda x, *, axes: np.transpose(x, axes))
transpose.adjoint(lambda ct, y, x, *, axes: (transpose(ct, axes=inverse(axes)),))


@transpose.fold
def _transpose_fold(x: Value, *, axes: Shape) -> Value | None:
    if axes == tuple(range(x.rank)):
        return x
    if x.op is not None and x.op.name == "transpose":
        inner = x.op.attrs["axes"]
        result: Value = transpose(x.op.operands[0], axes=tuple(inner[a] for a in axes))
        return result
    return None


@transpose.batch
def _transpose_batch(size: int, operands: Sequence[Value], batched: Any, *, axes: Shape) -> Any:
    return transpose(operands[0], axes=(0, *(a + 1 for a in axes)))


@op(
    "broadcast_to",
    samples=[
        Sample(((3,),), {"shape": (2, 3, 4), "axes": (1,)}),
        Sample(((),), {"shape": (5,), "axes": ()}),
    ],
)
def broadcast_to(x: TensorType, *, shape: Shape, axes: Shape) -> TensorType:
    """Repeats the operand along new axes: its axis i becomes axis ``axes[i]``."""
    fits = len(axes) == x.rank and list(axes) == sorted(set(axes))
    if not fits or any(shape[a] != n for a, n in zip(axes, x.shape, strict=True)):
        raise ShapeError(f"broadcast_to: {x} does not fit axes {axes} of shape {shape}")
    return x.with_shape(shape)


def other_axes(rank: int, axes: Sequence[int]) -> Shape:
    """The axes of ``range(rank)`` that are not in ``axes``."""
    return tuple(a for a in range(rank) if a not in axes)


@broadcast_to.evaluate
def _broadcast_to(x: Array, *, shape: Shape, axes: Shape) -> Array:
    full = [1] * len(shape)
    for a, n in zip(axes, x.shape, strict=True):
        full[a] = n
    return np.broadcast_to(x.reshape(full), shape)


@broadcast_to.adjoint
def _broadcast_to_adjoint(ct: Value, y: Value, x: Value, *, shape: Shape, axes: Shape) -> Any:
    summed = other_axes(len(shape), axes)
    return (insertion.builder.emit("reduce_sum", ct, axes=summed),)


@broadcast_to.fold
def _broadcast_to_fold(x: Value, *, shape: Shape, axes: Shape) -> Value | None:
    if x.shape == shape:
        return x
    if x.op is None:
        return None
    if x.op.name == "constant" and not isinstance(x.op.attrs["value"], tuple):
        number: Value = insertion.builder.emit(
            "constant", value=x.op.attrs["value"], type=x.type.with_shape(shape)
        )
        return number
    if x.op.name == "broadcast_to":
        inner = x.op.attrs["axes"]
        result: Value = broadcast_to(
            x.op.operands[0], shape=shape, axes=tuple(axes[a] for a in inner)
        )
        return result
    return None


@broadcast_to.batch
def _broadcast_to_batch(
    size: int, operands: Sequence[Value], batched: Any, *, shape: Shape, axes: Shape
) -> Any:
    return broadcast_to(operands[0], shape=(size, *shape), axes=(0, *(a + 1 for a in axes)))


@op(
    "slice",
    samples=[Sample(((5, 6),), {"start": (1, 0), "stop": (4, 6), "step": (1, 2)})],
)
def slice_(x: TensorType, *, start: Shape, stop: Shape, step: Shape) -> TensorType:
    """``x[start:stop:step]`` per axis with ``0 <= start <= stop <= size``, ``step >= 1``."""
    for lo, hi, by, n in zip(start, stop, step, x.shape, strict=True):
        if not (0 <= lo <= hi <= n and by >= 1):
            raise ShapeError(f"slice: {start}:{stop}:{step} is out of bounds for {x}")
    return x.with_shape(-(-(hi - lo) // by) for lo, hi, by in zip(start, stop, step, strict=True))


@slice_.evaluate
def _slice(x: Array, *, start: Shape, stop: Shape, step: Shape) -> Array:
    return x[tuple(map(slice, start, stop, step))]


@slice_.adjoint
def _slice_adjoint(
    ct: Value, y: Value, x: Value, *, start: Shape, stop: Shape, step: Shape
) -> tuple[Value]:
    ends = [
        lo + (n - 1) * by + 1 if n else lo for lo, n, by in zip(start, y.shape, step, strict=True)
    ]
    high = tuple(n - end for n, end in zip(x.shape, ends, strict=True))
    interior = tuple(by - 1 for by in step)
    return (pad(ct, low=start, high=high, interior=interior, value=0),)


@slice_.fold
def _slice_fold(x: Value, *, start: Shape, stop: Shape, step: Shape) -> Value | None:
    whole = all(lo == 0 and by == 1 for lo, by in zip(start, step, strict=True))
    return x if whole and stop == x.shape else None


@slice_.batch
def _slice_batch(
    size: int, operands: Sequence[Value], batched: Any, *, start: Shape, stop: Shape, step: Shape
) -> Any:
    return slice_(operands[0], start=(0, *start), stop=(size, *stop), step=(1, *step))


@op(
    "pad",
    samples=[Sample(((2, 3),), {"low": (1, 0), "high": (0, 2), "interior": (1, 0), "value": 0.5})],
)
def pad(x: TensorType, *, low: Shape, high: Shape, interior: Shape, value: float = 0) -> TensorType:
    """Puts ``value`` before, after and between the elements of each axis."""
    if min((*low, *high, *interior, 0)) < 0 or not len(low) == len(high) == len(interior) == x.rank:
        raise ShapeError(f"pad: widths {low}, {high}, {interior} do not fit {x}")
    return x.with_shape(
        lo + n + max(n - 1, 0) * gap + hi
        for lo, n, gap, hi in zip(low, x.shape, interior, high, strict=True)
    )


@pad.evaluate
def _pad(x: Array, *, low: Shape, high: Shape, interior: Shape, value: float) -> Array:
    shape = pad.infer(_type(x), low=low, high=high, interior=interior).shape  # type: ignore[union-attr]
    result = np.full(shape, value, x.dtype)
    index = tuple(
        slice(lo, lo + max((n - 1) * (gap + 1) + 1, 0) if n else lo, gap + 1)
        for lo, n, gap in zip(low, x.shape, interior, strict=True)
    )
    result[index] = x
    return result


def _type(x: Array) -> TensorType:
    from symgrad.ir.types import type_of_array

    return type_of_array(x)


@pad.adjoint
def _pad_adjoint(
    ct: Value, y: Value, x: Value, *, low: Shape, high: Shape, interior: Shape, value: float
) -> Any:
    stop = tuple(
        lo + ((n - 1) * (gap + 1) + 1 if n else 0)
        for lo, n, gap in zip(low, x.shape, interior, strict=True)
    )
    return (slice_(ct, start=low, stop=stop, step=tuple(gap + 1 for gap in interior)),)


@pad.fold
def _pad_fold(x: Value, *, low: Shape, high: Shape, interior: Shape, value: float) -> Value | None:
    return None if any((*low, *high, *interior)) else x


@pad.batch
def _pad_batch(
    size: int,
    operands: Sequence[Value],
    batched: Any,
    *,
    low: Shape,
    high: Shape,
    interior: Shape,
    value: float,
) -> Any:
    return pad(operands[0], low=(0, *low), high=(0, *high), interior=(0, *interior), value=value)


@op("concatenate", samples=[Sample(((2, 3), (2, 1), (2, 4)), {"axis": 1})])
def concatenate(*parts: TensorType, axis: int) -> TensorType:
    """Joins the operands along an axis."""
    first = parts[0]
    if not 0 <= axis < first.rank:
        raise ShapeError(f"concatenate: {first} has no axis {axis}")
    for t in parts:
        if t.dtype != first.dtype:
            raise DTypeError(f"concatenate: dtypes differ, got {', '.join(map(str, parts))}")
        if t.rank != first.rank or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != axis
        ):
            listed = ", ".join(map(str, parts))
            raise ShapeError(f"concatenate: shapes differ off axis {axis}, got {listed}")
    total = sum(t.shape[axis] for t in parts)
    return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))


concatenate.evaluate(lambda *parts, axis: np.concatenate(parts, axis))


@concatenate.adjoint
def _concatenate_adjoint(ct: Value, y: Value, *parts: Value, axis: int) -> list[Value]:
    pieces, at = [], 0
    for part in parts:
        pieces.append(take_range(ct, axis, at, at + part.shape[axis]))
        at += part.shape[axis]
    return pieces


def take_range(x: Value, axis: int, start: int, stop: int) -> Value:
    """``x[..., start:stop, ...]`` along one axis."""
    lo, hi = [0] * x.rank, list(x.shape)
    lo[axis], hi[axis] = start, stop
    result: Value = slice_(x, start=tuple(lo), stop=tuple(hi), step=(1,) * x.rank)
    return result


@concatenate.fold
def _concatenate_fold(*parts: Value, axis: int) -> Value | None:
    kept = [p for p in parts if p.shape[axis]] or parts[:1]
    if len(kept) == len(parts) > 1:
        return None
    result: Value = kept[0] if len(kept) == 1 else concatenate(*kept, axis=axis)
    return result


@concatenate.batch
def _concatenate_batch(
    size: int, operands: Sequence[Value], batched: Sequence[bool], *, axis: int
) -> Any:
    return concatenate(*add_batch(size, operands, batched), axis=axis + 1)


def add_batch(size: int, operands: Sequence[Value], batched: Sequence[bool]) -> list[Value]:
    """Gives every operand the leading batch axis."""
    return [
        v if b else broadcast_to(v, shape=(size, *v.shape), axes=tuple(range(1, v.rank + 1)))
        for v, b in zip(operands, batched, strict=True)
    ]


@op("reverse", samples=[Sample(((3, 4),), {"axes": (1,)})])
def reverse(x: TensorType, *, axes: Shape) -> TensorType:
    """Runs the given axes backwards."""
    if any(not 0 <= a < x.rank for a in axes):
        raise ShapeError(f"reverse: {x} has no axes {axes}")
    return x


reverse.evaluate(lambda x, *, axes: np.flip(x, axes))
reverse.adjoint(lambda ct, y, x, *, axes: (reverse(ct, axes=axes),))


@reverse.fold
def _reverse_fold(x: Value, *, axes: Shape) -> Value | None:
    return None if any(x.shape[a] > 1 for a in axes) else x


@reverse.batch
def _reverse_batch(size: int, operands: Sequence[Value], batched: Any, *, axes: Shape) -> Any:
    return reverse(operands[0], axes=tuple(a + 1 for a in axes))


@op("iota", differentiable=False)
def iota(*, shape: Shape, axis: int, dtype: DType) -> TensorType:
    """The index along one axis: 0, 1, 2, ..."""
    if not 0 <= axis < len(shape):
        raise ShapeError(f"iota: shape {shape} has no axis {axis}")
    return TensorType(dtype, shape)


@iota.evaluate
def _iota(*, shape: Shape, axis: int, dtype: DType) -> Array:
    line = np.arange(shape[axis]).astype(dtype.numpy)
    return np.broadcast_to(line.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)
