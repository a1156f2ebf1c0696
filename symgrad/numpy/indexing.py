"""NumPy's indexing: basic, integer arrays and masks, for reading and for writing.

A key is first turned into a ``Plan``: the basic part (slices, as ops on whole axes)
and the advanced part (index arrays, as one gather), with the order and the shape of the
result's axes.  Reading runs the plan forwards; writing runs it backwards.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import DTypeError, ShapeError, TraceError, UnsupportedError
from symgrad.numpy.core import (
    along,
    astype,
    broadcast,
    common_shape,
    implements,
    one_axis,
    reshape,
    result_type,
    traced,
    transposed,
)
from symgrad.tracer import Tracer, describe, is_traced
from symgrad.tracing import constant, current_trace, stage


@dataclass(frozen=True)
class Plan:
    """How a key picks elements.

    ``slices`` gives (start, stop, step) per axis of the operand with positive steps;
    ``reversed`` the axes then run backwards; ``axes`` those indexed by ``indices``, all of
    one shape.  ``order`` are the result's axes among (index axes, then kept axes);
    ``shape`` is the result's shape, with new axes and without those of single integers.
    """

    slices: tuple[tuple[int, int, int], ...]
    reversed: tuple[int, ...]
    axes: tuple[int, ...]
    indices: tuple[Tracer, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def is_basic(self) -> bool:
        """Whether the result is a view in NumPy's sense."""
        return not self.indices


def make_plan(x: Tracer, key: Any) -> Plan:
    """Normalises an index; raises ``IndexError`` as NumPy does where it is out of range."""
    items = _expand(x, key if isinstance(key, tuple) else (key,))
    advanced = any(isinstance(item, (Tracer, np.ndarray)) for item in items)
    slices: list[tuple[int, int, int]] = []
    backwards: list[int] = []
    indexed: list[tuple[int, Any]] = []  # (axis, index array)
    kept: list[int | None] = []  # the result's axes outside the index: operand axis, None = new
    places: list[int] = []  # positions in the key that hold index arrays
    before = 0  # result axes in front of the first index array
    for position, item in enumerate(items):
        axis = len(slices)
        if item is Ellipsis:
            continue
        if item is None:
            kept.append(None)
        elif isinstance(item, slice):
            lo, hi, step = _bounds(item, x, axis)
            slices.append((lo, hi, abs(step)))
            kept.append(axis)
            if step < 0:
                backwards.append(axis)
        elif isinstance(item, int) and not advanced:
            slices.append((item, item + 1, 1))
        else:
            if not places:
                before = len(kept)
            places.append(position)
            indexed.append((axis, item))
            slices.append((0, x.shape[axis], 1))
    adjacent = places == list(range(places[0], places[0] + len(places))) if places else True
    indices = _aligned(x, indexed)
    return _layout(x, slices, backwards, indexed, indices, kept, before if adjacent else 0)


def _layout(
    x: Tracer, slices: Any, backwards: Any, indexed: Any, indices: Any, kept: Any, before: int
) -> Plan:
    """Order and shape of the result: the index axes stand at ``before`` among the kept ones."""
    lengths = [max(0, -(-(hi - lo) // step)) for lo, hi, step in slices]
    index_shape = indices[0].shape if indices else ()
    rank = len(index_shape)
    axes = tuple(axis for axis, _ in indexed)
    survivors = [a for a in range(x.ndim) if a not in axes]  # what gather leaves behind
    dropped = [a for a in survivors if a not in kept]  # single integers: size 1
    place = {a: rank + i for i, a in enumerate(survivors)}
    ahead = [place[a] for a in kept[:before] if a is not None]
    behind = [place[a] for a in kept[before:] if a is not None]
    order = (*ahead, *range(rank), *behind, *(place[a] for a in dropped))
    if not indices:  # axes of size 1 fall away where they stand
        order = tuple(range(x.ndim))
    sizes = [1 if a is None else lengths[a] for a in kept]
    shape = (*sizes[:before], *index_shape, *sizes[before:])
    return Plan(tuple(slices), tuple(backwards), axes, indices, order, shape)


def _expand(x: Tracer, key: tuple[Any, ...]) -> list[Any]:
    """The key with integers wrapped, masks as index arrays and the ellipsis spelled out."""
    items: list[Any] = []
    consumed = 0
    ellipsis = None
    total = sum(_consumes(item) for item in key)
    if total > x.ndim:
        raise IndexError(
            f"too many indices: {x._value.type} has {x.ndim} axes, but {total} were indexed"
        )
    for item in key:
        if item is Ellipsis:
            if ellipsis is not None:
                raise IndexError("an index can only have a single ellipsis ('...')")
            ellipsis = len(items)
            consumed += x.ndim - total
            continue
        for part in _item(x, item, consumed):
            items.append(part)
            consumed += part is not None
    at = len(items) if ellipsis is None else ellipsis
    # The ellipsis stays: even an empty one separates index arrays.
    return [*items[:at], Ellipsis, *[slice(None)] * (x.ndim - total), *items[at:]]


def _consumes(item: Any) -> int:
    """Axes of the operand an item of the key uses up."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, (list, np.ndarray)) and not is_traced(item):
        array = np.asarray(item)
        return array.ndim if array.dtype == bool else 1
    if isinstance(item, Tracer) and item.dtype.kind == "b":
        return item.ndim
    return 1


def _item(x: Tracer, item: Any, axis: int) -> list[Any]:
    if item is None or isinstance(item, slice):
        return [item]
    if isinstance(item, (bool, np.bool_)):
        raise UnsupportedError("indexing with a single bool cannot be traced; use np.where")
    if isinstance(item, (int, np.integer)):
        return [_wrapped(x, np.asarray(operator.index(item)), axis).item()]
    if isinstance(item, Tracer) or (isinstance(item, (list, tuple)) and is_traced(item)):
        return [_traced_index(x, traced(item), axis)]
    array = np.asarray(item)
    if array.dtype == bool:
        return _mask(x, array, axis)
    if array.size == 0 and not isinstance(item, np.ndarray):
        array = array.astype(np.int64)  # an empty list indexes nothing
    if array.dtype.kind not in "iu":
        raise DTypeError(
            f"{describe(x)} cannot be indexed with {array.dtype} values; use integers, slices or "
            "masks"
        )
    guard(item)
    return [_wrapped(x, array, axis)]


def guard(array: Any) -> None:
    """Has the function traced again when an array that decided a shape has changed."""
    trace = current_trace()
    if trace is not None and isinstance(array, np.ndarray):
        trace.guard(array)


def _mask(x: Tracer, mask: np.ndarray[Any, Any], axis: int) -> list[Any]:
    covered = x.shape[axis : axis + mask.ndim]
    if mask.shape != covered:
        raise IndexError(
            f"boolean index of shape {mask.shape} does not match {covered} of {x._value.type}"
        )
    guard(mask)
    return list(np.nonzero(mask))


def _wrapped(x: Tracer, index: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    size = x.shape[axis] if axis < x.ndim else 0
    if index.size and not (-size <= index.min() and index.max() < size):
        worst = index[(index < -size) | (index >= size)].flat[0] if index.ndim else index
        raise IndexError(f"index {worst} is out of bounds for axis {axis} of {x._value.type}")
    return np.where(index < 0, index + size, index).astype(np.int64)


def _traced_index(x: Tracer, index: Tracer, axis: int) -> Tracer:
    if index.dtype.kind == "b":
        raise TraceError(
            f"{describe(index)} cannot be used as a mask here: the shape of the result would "
            "depend on its values. Keep the shape and choose with np.where(mask, x, 0)"
        )
    if index.dtype.kind not in "iu":
        raise DTypeError(f"{describe(index)} cannot be an index; convert it with astype(int)")
    index = astype(index, np.int64)
    wrapped: Tracer = HANDLERS[np.where](index < 0, index + x.shape[axis], index)
    return wrapped


def _bounds(item: slice, x: Tracer, axis: int) -> tuple[int, int, int]:
    """A slice as ``start, stop, step`` of the same elements with ``start <= stop``.

    A negative step keeps its sign: the elements are then to be reversed.
    """
    for part in (item.start, item.stop, item.step):
        if isinstance(part, Tracer):
            raise TraceError(
                f"slice bounds cannot be traced values, got {describe(part)}: the shape of the "
                "result would depend on it. Index with x[start + np.arange(length)] instead"
            )
    positions = range(*item.indices(x.shape[axis]))
    if len(positions) == 0:
        return 0, 0, 1
    step = positions.step
    lo, hi = min(positions[0], positions[-1]), max(positions[0], positions[-1])
    return lo, hi + 1, step


def _aligned(x: Tracer, indexed: list[tuple[int, Any]]) -> tuple[Tracer, ...]:
    arrays = [traced(np.asarray(i) if isinstance(i, int) else i) for _, i in indexed]
    if not arrays:
        return ()
    shape = common_shape("indexing", arrays)
    return tuple(broadcast(i, shape) for i in arrays)


# -- reading -------------------------------------------------------------------------------


def _basic(x: Tracer, plan: Plan) -> Tracer:
    start, stop, step = zip(*plan.slices, strict=True) if plan.slices else ((), (), ())
    block: Tracer = stage("slice", x, start=start, stop=stop, step=step)
    if plan.reversed:
        block = stage("reverse", block, axes=plan.reversed)
    return block


def _read(x: Tracer, plan: Plan) -> Tracer:
    x = _basic(x, plan)
    if plan.indices:
        x = stage("gather", x, *plan.indices, axes=plan.axes)
    return reshape(transposed(x, plan.order), plan.shape)


def getitem(x: Tracer, key: Any) -> Tracer:
    """``x[key]``; with only integers, slices and new axes a view of ``x``."""
    plan = make_plan(x, key)
    result = _read(x, plan)
    if not plan.is_basic or not plan.shape:
        return result
    return result.copy().as_view_of(
        x,
        lambda base: _read(base, plan),
        lambda base, new: _write(base, plan, new),
        repr(key),
        x.memory[key],
    )


HANDLERS["getitem"] = getitem


# -- writing -------------------------------------------------------------------------------


def setitem(x: Tracer, key: Any, value: Any) -> Tracer:
    """``x`` after ``x[key] = value``."""
    dtype = result_type(value, x)
    if not np.can_cast(dtype, x.dtype, "same_kind") and x.dtype.kind not in "biuf":
        raise DTypeError(f"values of dtype {dtype} cannot be stored in {describe(x)}")
    new = astype(value, x.dtype)
    if isinstance(key, Tracer) and key.dtype.kind == "b":
        return _write_masked(x, key, new)
    plan = make_plan(x, key)
    return _write(x, plan, _fitted(x, new, plan.shape))


HANDLERS["setitem"] = setitem


def _fitted(x: Tracer, new: Tracer, shape: tuple[int, ...]) -> Tracer:
    extra = new.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in new.shape[:extra]):
        new = reshape(new, new.shape[extra:])
    offset = len(shape) - new.ndim
    if offset < 0 or any(n not in (1, shape[a + offset]) for a, n in enumerate(new.shape)):
        raise ShapeError(
            f"assignment: {new._value.type} does not broadcast to the {shape} chosen from "
            f"{x._value.type}"
        )
    return broadcast(new, shape)


def _write_masked(x: Tracer, mask: Tracer, new: Tracer) -> Tracer:
    """``x[mask] = v``: a choice element by element, as long as ``v`` is the same for all."""
    if mask.shape != x.shape[: mask.ndim]:
        raise IndexError(f"mask of shape {mask.shape} does not fit {x._value.type}")
    if new.ndim > x.ndim - mask.ndim:
        raise TraceError(
            f"{describe(mask)} as a mask takes one value for all its elements, got "
            f"{new._value.type}: which element goes where would depend on the mask. Use "
            "x = np.where(mask, values, x)"
        )
    full = reshape(mask, (*mask.shape, *(1,) * (x.ndim - mask.ndim)))
    result: Tracer = stage("select", broadcast(full, x.shape), broadcast(new, x.shape), x)
    return result


def _write(x: Tracer, plan: Plan, new: Tracer, how: str = "scatter") -> Tracer:
    """``x`` with the planned elements replaced by ``new``, which has the plan's shape.

    With ``how="scatter_add"`` elements chosen by index arrays are added to instead.
    """
    block = _basic(x, plan) if plan.indices else None
    rank = len(plan.order)
    back = tuple(np.argsort(plan.order).tolist())
    if block is None:
        full = [max(0, -(-(hi - lo) // step)) for lo, hi, step in plan.slices]
    else:
        gathered = [n for a, n in enumerate(block.shape) if a not in plan.axes]
        full = [*plan.indices[0].shape, *gathered]
    inner = transposed(reshape(new, [full[a] for a in plan.order]), back) if rank else new
    if block is not None:
        inner = stage(how, block, reshape(inner, full), *plan.indices, axes=plan.axes)
    if plan.reversed:
        inner = stage("reverse", inner, axes=plan.reversed)
    return _write_block(x, plan, reshape(inner, block.shape if block is not None else full))


def _write_block(x: Tracer, plan: Plan, new: Tracer) -> Tracer:
    """``x`` with a strided block replaced."""
    if new.shape == x.shape:
        return new
    if not new.size:
        return x
    if all(step == 1 for *_, step in plan.slices):
        starts = [constant(lo, np.int64) for lo, *_ in plan.slices]
        result: Tracer = stage("dynamic_update_slice", x, new, *starts)
        return result
    spread = {
        "low": tuple(lo for lo, *_ in plan.slices),
        "interior": tuple(step - 1 for *_, step in plan.slices),
    }
    ends = [
        lo + (m - 1) * step + 1 for (lo, _, step), m in zip(plan.slices, new.shape, strict=True)
    ]
    spread["high"] = tuple(n - end for n, end in zip(x.shape, ends, strict=True))
    inside = stage("pad", constant(True, bool, new.shape), value=False, **spread)
    result = stage("select", inside, stage("pad", new, value=0, **spread), x)
    return result


def _add_at(a: Any, indices: Any, b: Any) -> None:
    """``np.add.at``: repeated positions add up."""
    plan = make_plan(a, indices)
    if plan.is_basic:
        a[indices] += b
        return
    new = _fitted(a, astype(b, a.dtype), plan.shape)
    a.rebind(_write(a, plan, new, "scatter_add"))


HANDLERS[np.add, "at"] = _add_at
HANDLERS[np.subtract, "at"] = lambda a, indices, b: _add_at(a, indices, -traced(b))


def _declare_at(ufunc: np.ufunc) -> None:
    def at(a: Any, indices: Any, b: Any) -> None:
        """In rounds: what comes first at each position, then what comes second, and so on."""
        if is_traced(indices):
            raise UnsupportedError(
                f"{ufunc.__name__}.at: positions must be known while tracing, as some may be there "
                "twice; np.add.at and np.subtract.at take any, and a[i] = f(a[i], b) distinct ones"
            )
        shape = make_plan(a, indices).shape  # checked, and guarded
        places = np.arange(a.size).reshape(a.shape)[indices].reshape(-1)
        flat, new = reshape(a, (a.size,)), _fitted(a, astype(b, a.dtype), shape)
        new = reshape(new, places.shape)
        for chosen in _rounds(places):
            old = take(flat, places[chosen])
            flat = setitem(flat, places[chosen], HANDLERS[ufunc](old, take(new, chosen)))
        a.rebind(reshape(flat, a.shape))

    HANDLERS[ufunc, "at"] = at


def _rounds(places: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The numbers of all places, those of distinct ones at a time, in the order of each."""
    left = np.arange(places.size)
    while left.size:
        _, first = np.unique(places[left], return_index=True)
        yield left[first]
        left = np.delete(left, first)


for _ufunc in (np.multiply, np.divide, np.maximum, np.minimum, np.power, np.fmax, np.fmin):
    _declare_at(_ufunc)


# -- functions -----------------------------------------------------------------------------


def _written(a: Any, values: Any) -> Tracer:
    """What a function writes to in place: a plain NumPy array cannot take traced values."""
    if not isinstance(a, Tracer):
        new = traced(values)
        a = new.trace.concrete(new, "assign")
    return a  # type: ignore[no-any-return]


@implements(np.take)
def take(a: Any, indices: Any, axis: Any = None, mode: str = "raise") -> Tracer:
    """Elements at integer positions along an axis."""
    x, at = along("take", a, axis)
    indices = _within(indices, x.shape[at], mode)
    if isinstance(indices, (tuple, list)):
        indices = list(indices)
    return x[(*(slice(None),) * at, indices)]


def _within(indices: Any, n: int, mode: str) -> Any:
    """Positions along an axis of ``n``, those beyond its ends moved as ``mode`` says."""
    if mode == "raise":
        return indices
    index = indices if is_traced(indices) else np.asarray(indices)
    return np.clip(index, 0, n - 1) if mode == "clip" else index % n


@implements(np.take_along_axis)
def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Tracer:
    """Elements at one position along an axis for each place on the others."""
    (x, at), index = along("take_along_axis", arr, axis), traced(indices)
    return x[tuple(_along_axis(x, indices if isinstance(indices, np.ndarray) else index, at))]


def _along_axis(x: Tracer, index: Any, axis: int) -> list[Any]:
    """Index arrays that pair each place with itself, except along one axis."""
    keys: list[Any] = [
        np.arange(n).reshape([-1 if i == a else 1 for i in range(x.ndim)])
        for a, n in enumerate(x.shape)
    ]
    keys[axis] = index
    return keys


@implements(np.choose)
def choose(a: Any, choices: Any) -> Tracer:
    """For each element the array chosen by number."""
    stacked = HANDLERS[np.stack](HANDLERS[np.broadcast_arrays](a, *choices)[1:])
    index = broadcast(traced(a), stacked.shape[1:])
    return take_along_axis(stacked, reshape(index, (1, *index.shape)), 0)[0]


@implements(np.put_along_axis)
def put_along_axis(arr: Any, indices: Any, values: Any, axis: Any) -> None:
    """Writes one element along an axis for each place on the others."""
    x, index = _written(arr, values), traced(indices)
    at = one_axis("put_along_axis", axis, x)
    x[tuple(_along_axis(x, indices if isinstance(indices, np.ndarray) else index, at))] = values


@implements(np.put)
def put(a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    """Writes to positions of the flattened array, over and over if ``v`` has fewer elements."""
    x, index = _written(a, v), _within(ind, a.size, mode)
    index = HANDLERS[np.ravel](index) if is_traced(index) else np.ravel(index)
    new = _repeated(traced(v, x.dtype), index.size)
    x.rebind(reshape(setitem(reshape(x, (x.size,)), index, new), x.shape))


@implements(np.putmask)
def putmask(a: Any, mask: Any, values: Any) -> None:
    """Writes ``values`` where a mask holds, in place, over and over if they are fewer."""
    x, new = _written(a, values), traced(values)
    if new.shape != x.shape:
        new = reshape(_repeated(new, x.size), x.shape)
    x.assign(HANDLERS[np.where](mask, new, x), "putmask")


def _repeated(values: Tracer, count: int) -> Tracer:
    """So many elements, those of ``values`` over and over."""
    flat = reshape(values, (values.size,))
    return take(flat, np.arange(count) % max(flat.size, 1))


@implements(np.fill_diagonal)
def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """Writes the main diagonal in place."""
    x = _written(a, val)
    if x.ndim < 2 or (x.ndim > 2 and len(set(x.shape)) > 1):
        raise ShapeError(f"fill_diagonal: {x._value.type} has no diagonal; all sizes must agree")
    step = 1 + int(np.cumprod(x.shape[:0:-1]).sum())
    end = x.shape[1] ** 2 if x.ndim == 2 and not wrap else x.size
    places = np.arange(x.size)[:end:step]
    x[np.unravel_index(places, x.shape)] = _repeated(traced(val), places.size)
