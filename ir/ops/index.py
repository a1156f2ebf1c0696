"""Indexing by values known only at run time.

Indices are clamped to the array, like every access of compiled code; the front
ends wrap negative ones and check what they can before.
"""

from __future__ import annotations

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
_INDEX = (0.0, 2.99)


def _check_indices(name: str, x: TensorType, indices: Sequence[TensorType], axes: Axes) -> None:
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < x.rank for a in axes):
        raise ShapeError(f"{name}: {x} has no axes {axes}")
    if len(indices) != len(axes) or not axes:
        raise ShapeError(f"{name}: {len(indices)} index arrays for axes {axes}")
    for t in indices:
        if not t.dtype.is_integer:
            raise DTypeError(f"{name}: indices must be integers, got {t}")
        if t.shape != indices[0].shape:
            raise ShapeError(f"{name}: index shapes differ, got {', '.join(map(str, indices))}")


def _gathered(x: TensorType, index: TensorType, axes: Axes) -> tuple[int, ...]:
    return (*index.shape, *(x.shape[a] for a in sh.other_axes(x.rank, axes)))


def _locate(x: Array, indices: Sequence[Array], axes: Axes) -> Any:
    """NumPy index of the elements, on ``x`` with the indexed axes moved to the front."""
    return tuple(np.clip(i, 0, x.shape[a] - 1) for i, a in zip(indices, axes, strict=True))


@op(
    "gather",
    samples=[
        Sample(((3, 4), (5,)), {"axes": (0,)}, ((-2, 2), _INDEX), (None, i64)),
        Sample(
            ((3, 2, 4), (2, 2), (2, 2)),
            {"axes": (0, 2)},
            ((-2, 2), _INDEX, _INDEX),
            (None, i64, i64),
        ),
    ],
    differentiable=(True, False),
)
def gather(x: TensorType, *indices: TensorType, axes: Axes) -> TensorType:
    """Elements of ``x`` at integer positions along ``axes``, one index array per axis.

    The result has the index arrays' shape followed by the other axes of ``x``.
    """
    _check_indices("gather", x, indices, axes)
    return x.with_shape(_gathered(x, indices[0], axes))


@gather.evaluate
def _gather(x: Array, *indices: Array, axes: Axes) -> Array:
    front = np.moveaxis(x, axes, range(len(axes)))
    return np.asarray(front[_locate(x, indices, axes)])


@gather.adjoint
def _gather_adjoint(ct: Value, y: Value, x: Value, *indices: Value, axes: Axes) -> Any:
    return scatter_add(ew.zeros_like(x), ct, *indices, axes=axes), *(None for _ in indices)


@op(
    "scatter_add",
    samples=[
        Sample(
            ((3, 4), (5, 4), (5,)), {"axes": (0,)}, ((-2, 2), (-2, 2), _INDEX), (None, None, i64)
        )
    ],
    differentiable=(True, True, False),
)
def scatter_add(x: TensorType, updates: TensorType, *indices: TensorType, axes: Axes) -> TensorType:
    """``x`` with ``updates`` added at integer positions; repeated ones add up."""
    return _scatter_type("scatter_add", x, updates, indices, axes)


def _scatter_type(
    name: str, x: TensorType, updates: TensorType, indices: Sequence[TensorType], axes: Axes
) -> TensorType:
    _check_indices(name, x, indices, axes)
    expected = x.with_shape(_gathered(x, indices[0], axes))
    if updates != expected:
        raise ShapeError(f"{name}: updates must be {expected}, got {updates}")
    return x


@scatter_add.evaluate
def _scatter_add(x: Array, updates: Array, *indices: Array, axes: Axes) -> Array:
    result = x.copy()
    np.add.at(np.moveaxis(result, axes, range(len(axes))), _locate(x, indices, axes), updates)
    return result


@scatter_add.adjoint
def _scatter_add_adjoint(
    ct: Value, y: Value, x: Value, updates: Value, *indices: Value, axes: Axes
) -> Any:
    return ct, gather(ct, *indices, axes=axes), *(None for _ in indices)


@op(
    "scatter",
    samples=[
        Sample(
            ((3, 4), (5, 4), (5,)), {"axes": (0,)}, ((-2, 2), (-2, 2), _INDEX), (None, None, i64)
        )
    ],
    differentiable=(True, True, False),
)
def scatter(x: TensorType, updates: TensorType, *indices: TensorType, axes: Axes) -> TensorType:
    """``x`` with elements replaced at integer positions; of repeated ones the last wins."""
    return _scatter_type("scatter", x, updates, indices, axes)


@scatter.evaluate
def _scatter(x: Array, updates: Array, *indices: Array, axes: Axes) -> Array:
    result = x.copy()
    front = np.moveaxis(result, axes, range(len(axes)))
    where = _locate(x, indices, axes)
    for position in np.ndindex(indices[0].shape):  # in order, so that the last one wins
        front[tuple(i[position] for i in where)] = updates[position]
    return result


@scatter.adjoint
def _scatter_adjoint(
    ct: Value, y: Value, x: Value, updates: Value, *indices: Value, axes: Axes
) -> Any:
    # Of repeated positions only the update that won has a derivative: find it by
    # scattering the updates' numbers and looking who is there.
    nothing = (None for _ in indices)
    zeros = ew.zeros_like(updates)
    to_x = scatter(ct, zeros, *indices, axes=axes)
    number = sh.iota(shape=(updates.type.size,), axis=0, dtype=i64)
    number = sh.reshape(number, shape=updates.shape)
    blank = insertion.builder.emit("constant", value=-1, type=x.type.with_dtype(i64))
    winner = gather(scatter(blank, number, *indices, axes=axes), *indices, axes=axes)
    to_updates = ew.where(ew.eq(winner, number), gather(ct, *indices, axes=axes), 0.0)
    return to_x, to_updates, *nothing


def _batch_indexed(opdef: OpDef, arrays: int) -> None:
    @opdef.batch
    def _(size: int, operands: Sequence[Value], batched: Sequence[bool], *, axes: Axes) -> Any:
        if not any(batched[arrays:]) and arrays == 1:
            # Only x is batched: its batch axis becomes a kept axis, behind the index axes.
            lead = operands[1].rank
            out = opdef(operands[0], *operands[1:], axes=tuple(a + 1 for a in axes))
            order = (lead, *(a for a in range(out.rank) if a != lead))
            return sh.transpose(out, axes=order)
        full = sh.add_batch(size, operands, batched)
        index_shape = full[arrays].shape
        lane = sh.broadcast_to(
            sh.iota(shape=(size,), axis=0, dtype=full[arrays].type.dtype),
            shape=index_shape,
            axes=(0,),
        )
        return opdef(*full[:arrays], lane, *full[arrays:], axes=(0, *(a + 1 for a in axes)))


_batch_indexed(gather, 1)
_batch_indexed(scatter_add, 2)
_batch_indexed(scatter, 2)


def _starts(x: TensorType, starts: Sequence[TensorType], name: str) -> None:
    if len(starts) != x.rank or any(s.shape or not s.dtype.is_integer for s in starts):
        raise ShapeError(f"{name}: needs {x.rank} scalar integer starts, got {starts}")


@op(
    "dynamic_slice",
    samples=[
        Sample(((4, 5), (), ()), {"sizes": (2, 3)}, ((-2, 2), _INDEX, _INDEX), (None, i64, i64))
    ],
    differentiable=(True, False),
)
def dynamic_slice(x: TensorType, *starts: TensorType, sizes: Axes) -> TensorType:
    """A block of fixed size at a position known at run time, moved inside ``x``."""
    _starts(x, starts, "dynamic_slice")
    if len(sizes) != x.rank or any(not 0 <= s <= n for s, n in zip(sizes, x.shape, strict=True)):
        raise ShapeError(f"dynamic_slice: sizes {sizes} do not fit {x}")
    return x.with_shape(sizes)


def _block(x: Array, starts: Sequence[Array], sizes: Sequence[int]) -> Any:
    lows = [int(np.clip(s, 0, n - m)) for s, n, m in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(lo, lo + m) for lo, m in zip(lows, sizes, strict=True))


dynamic_slice.evaluate(lambda x, *starts, sizes: x[_block(x, starts, sizes)])


@dynamic_slice.adjoint
def _dynamic_slice_adjoint(ct: Value, y: Value, x: Value, *starts: Value, sizes: Axes) -> Any:
    return dynamic_update_slice(ew.zeros_like(x), ct, *starts), *(None for _ in starts)


@op(
    "dynamic_update_slice",
    samples=[
        Sample(
            ((4, 5), (2, 3), (), ()), {}, ((-2, 2), (-2, 2), _INDEX, _INDEX), (None, None, i64, i64)
        )
    ],
    differentiable=(True, True, False),
)
def dynamic_update_slice(x: TensorType, update: TensorType, *starts: TensorType) -> TensorType:
    """``x`` with a block replaced at a position known at run time."""
    _starts(x, starts, "dynamic_update_slice")
    fits = update.rank == x.rank and update.dtype == x.dtype
    if not fits or any(m > n for m, n in zip(update.shape, x.shape, strict=True)):
        raise ShapeError(f"dynamic_update_slice: {update} does not fit into {x}")
    return x


@dynamic_update_slice.evaluate
def _dynamic_update_slice(x: Array, update: Array, *starts: Array) -> Array:
    result = x.copy()
    result[_block(x, starts, update.shape)] = update
    return result


@dynamic_update_slice.adjoint
def _dynamic_update_slice_adjoint(
    ct: Value, y: Value, x: Value, update: Value, *starts: Value
) -> Any:
    to_x = dynamic_update_slice(ct, ew.zeros_like(update), *starts)
    return to_x, dynamic_slice(ct, *starts, sizes=update.shape), *(None for _ in starts)


def _batch_block(opdef: OpDef, arrays: int) -> None:
    """One block across the batch axis, or, where each example has a place of its own, elements
    one by one."""

    @opdef.batch
    def _(size: int, operands: Sequence[Value], batched: Sequence[bool], **attrs: Axes) -> Any:
        values = sh.add_batch(size, operands[:arrays], batched[:arrays])
        block = attrs["sizes"] if attrs else values[1].shape[1:]
        starts, moved = operands[arrays:], batched[arrays:]
        if not any(moved):
            kind = starts[0].type if starts else TensorType(i64, ())
            first = insertion.builder.emit("constant", value=0, type=kind)
            whole = {"sizes": (size, *block)} if attrs else {}
            return opdef(*values, first, *starts, **whole)
        shape = (size, *block)
        places = [sh.iota(shape=shape, axis=0, dtype=i64)]
        for axis, start in enumerate(sh.add_batch(size, starts, moved), 1):
            last = values[0].shape[axis] - shape[axis]
            least, most = (insertion.builder.constant(n, TensorType(i64, (size,)))
                           for n in (0, last))  # fmt: skip
            low = ew.minimum(ew.maximum(ew.convert(start, dtype=i64), least), most)
            places.append(
                sh.broadcast_to(low, shape=shape, axes=(0,))
                + sh.iota(shape=shape, axis=axis, dtype=i64)
            )
        indexed = gather if attrs else scatter
        return indexed(*values, *places, axes=tuple(range(len(shape))))


_batch_block(dynamic_slice, 1)
_batch_block(dynamic_update_slice, 2)
