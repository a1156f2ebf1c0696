"""Functions that join, split and repeat arrays, and pick out triangles and diagonals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import DTypeError, ShapeError, UnsupportedError, UsageError
from symgrad.numpy.core import (
    along,
    astype,
    broadcast,
    implements,
    one_axis,
    reshape,
    result_type,
    sizes,
    traced,
    transposed,
    types_text,
)
from symgrad.numpy.indexing import guard
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage


def _matched(arrays: Any, dtype: Any, casting: Any) -> list[Tracer]:
    found = result_type(*arrays)
    common = found if dtype is None else np.dtype(dtype)
    if not np.can_cast(found, common, casting):
        raise DTypeError(f"arrays of dtype {found} do not cast to {common} under {casting!r}")
    return [astype(x, common) for x in arrays]


@implements(np.concatenate)
def concatenate(
    arrays: Any, axis: Any = 0, *, dtype: Any = None, casting: Any = "same_kind"
) -> Tracer:
    """Joins arrays along an axis."""
    parts = _matched(list(arrays), dtype, casting)
    if axis is None:
        parts, axis = [reshape(x, (x.size,)) for x in parts], 0
    if not all(x.ndim for x in parts):
        raise ShapeError("concatenate: 0-d arrays cannot be joined; use np.stack")
    result: Tracer = stage("concatenate", *parts, axis=one_axis("concatenate", axis, parts[0]))
    return result


@implements(np.stack)
def stack(arrays: Any, axis: int = 0, *, dtype: Any = None, casting: Any = "same_kind") -> Tracer:
    """Joins arrays of one shape along a new axis."""
    parts = _matched(list(arrays), dtype, casting)
    if any(x.shape != parts[0].shape for x in parts):
        raise ShapeError(f"stack: arrays must have one shape, got {types_text(parts)}")
    at = one_axis("stack", axis, parts[0], parts[0].ndim + 1)
    shape = (*parts[0].shape[:at], 1, *parts[0].shape[at:])
    result: Tracer = stage("concatenate", *(reshape(x, shape) for x in parts), axis=at)
    return result


def array(object: Any, dtype: Any = None, *, ndmin: int = 0, **kwargs: Any) -> Tracer:
    """Nested lists of traced values as one array, of ``ndmin`` axes at least."""
    if isinstance(object, (list, tuple)):
        x = stack([array(item) if isinstance(item, (list, tuple)) else item for item in object])
    else:
        x = traced(object).copy()
    if x.ndim < ndmin:
        x = reshape(x, (1,) * (ndmin - x.ndim) + x.shape)
    return x if dtype is None else astype(x, dtype)


HANDLERS["array"] = array


@implements(np.vstack)
def vstack(tup: Any, *, dtype: Any = None, casting: Any = "same_kind") -> Tracer:
    """Joins rows."""
    rows = [HANDLERS[np.atleast_2d](x) for x in tup]
    return concatenate(rows, 0, dtype=dtype, casting=casting)


@implements(np.hstack)
def hstack(tup: Any, *, dtype: Any = None, casting: Any = "same_kind") -> Tracer:
    """Joins along axis 1, or along the only axis."""
    parts = [HANDLERS[np.atleast_1d](x) for x in tup]
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1, dtype=dtype, casting=casting)


@implements(np.dstack)
def dstack(tup: Any) -> Tracer:
    """Joins along axis 2."""
    return concatenate([HANDLERS[np.atleast_3d](x) for x in tup], 2)


@implements(np.column_stack)
def column_stack(tup: Any) -> Tracer:
    """Joins 1-d arrays as columns."""
    parts = [traced(x) for x in tup]
    return concatenate([reshape(x, (x.size, 1)) if x.ndim < 2 else x for x in parts], 1)


@implements(np.append)
def append(arr: Any, values: Any, axis: Any = None) -> Tracer:
    """Joins two arrays, flattened unless an axis is given."""
    return concatenate([traced(arr), traced(values)], axis)


def _positions(name: str, obj: Any) -> Any:
    """Positions along an axis, which decide the shape of a result."""
    if isinstance(obj, Tracer):
        raise UnsupportedError(
            f"{name}: the positions decide the shape of the result and must be known while "
            "tracing; keep the shape and choose with np.where(condition, x, 0)"
        )
    guard(obj)
    return obj


def _picked(x: Tracer, source: np.ndarray[Any, Any], axis: int) -> Tracer:
    result: Tracer = HANDLERS[np.take](x, source, axis)
    return result


@implements(np.insert)
def insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> Tracer:
    """Values put in before positions, which must be known while tracing."""
    x, at = along("insert", arr, axis)
    n, where = x.shape[at], _positions("insert", obj)
    new = traced(values, x.dtype)
    new = reshape(new, (1,) * (x.ndim - new.ndim) + new.shape)
    if np.ndim(where) == 0 and not isinstance(where, slice):  # all of the values go there
        new = HANDLERS[np.moveaxis](new, 0, at)
        count = new.shape[at]
        where = [where] * count
    else:
        count = len(np.insert(np.arange(n), where, 0)) - n
    new = broadcast(new, (*x.shape[:at], count, *x.shape[at + 1 :]))
    source = np.insert(np.arange(n), where, np.arange(n, n + count))
    return _picked(concatenate([x, new], at), source, at)


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: Any = None) -> Tracer:
    """The array without positions, which must be known while tracing."""
    x, at = along("delete", arr, axis)
    return _picked(x, np.delete(np.arange(x.shape[at]), _positions("delete", obj)), at)


@implements(np.block)
def block(arrays: Any) -> Tracer:
    """Joins nested lists of blocks, the innermost along the last axis."""

    def depth(x: Any) -> int:
        return 1 + depth(x[0]) if isinstance(x, list) else 0

    levels = depth(arrays)

    def join(x: Any, level: int) -> Tracer:
        if not isinstance(x, list):
            part = traced(x)
            return reshape(part, (1,) * (levels - part.ndim) + part.shape)
        return concatenate([join(item, level + 1) for item in x], level - levels)

    return join(arrays, 0)


# -- splitting -----------------------------------------------------------------------------


def _declare_split(name: Callable[..., Any], default: int | None, *, equal: bool = True) -> Any:
    text = name.__name__

    def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Tracer]:
        x = traced(ary)
        at = one_axis(text, axis, x)
        size = x.shape[at]
        if isinstance(indices_or_sections, (int, np.integer)):
            parts = int(indices_or_sections)
            if parts < 1 or (equal and size % parts):
                raise ShapeError(f"{text}: {x._value.type} cannot be cut into {parts} equal parts")
            small, larger = divmod(size, parts)
            ends = np.cumsum([small + 1] * larger + [small] * (parts - larger)).tolist()
        else:
            ends = [slice(None, int(i)).indices(size)[1] for i in indices_or_sections] + [size]
        spans = zip([0, *ends[:-1]], ends, strict=True)
        return [x[(*(slice(None),) * at, slice(lo, hi))] for lo, hi in spans]  # views

    def along(ary: Any, indices_or_sections: Any) -> list[Tracer]:
        x = traced(ary)
        axis = 0 if text == "hsplit" and x.ndim == 1 else default
        return split(x, indices_or_sections, axis or 0)

    return implements(name)(split if default is None else along)


split = _declare_split(np.split, None)
_declare_split(np.array_split, None, equal=False)
_declare_split(np.vsplit, 0)
_declare_split(np.hsplit, 1)
_declare_split(np.dsplit, 2)


@implements(np.unstack)
def unstack(x: Any, /, *, axis: int = 0) -> tuple[Tracer, ...]:
    """The slices along an axis."""
    array = traced(x)
    at = one_axis("unstack", axis, array)
    return tuple(array[(*(slice(None),) * at, i)] for i in range(array.shape[at]))


# -- repetition ----------------------------------------------------------------------------


@implements(np.tile)
def tile(A: Any, reps: Any) -> Tracer:
    """The whole array repeated along each axis."""
    x, times = traced(A), sizes(reps)
    rank = max(x.ndim, len(times))
    times = (1,) * (rank - len(times)) + times
    shape = (1,) * (rank - x.ndim) + x.shape
    spread = tuple(k for n, m in zip(times, shape, strict=True) for k in (n, m))
    wide = stage("broadcast_to", reshape(x, shape), shape=spread, axes=tuple(range(1, 2 * rank, 2)))
    return reshape(wide, [n * m for n, m in zip(times, shape, strict=True)])


@implements(np.repeat)
def repeat(a: Any, repeats: Any, axis: Any = None) -> Tracer:
    """Each element repeated; the counts must be known while tracing."""
    x, at = along("repeat", a, axis)
    counts = np.asarray(_positions("repeat", repeats))
    if counts.size == 1:
        n = int(counts.reshape(()))
        shape = (*x.shape[: at + 1], n, *x.shape[at + 1 :])
        axes = tuple(i for i in range(x.ndim + 1) if i != at + 1)
        wide = stage("broadcast_to", x, shape=shape, axes=axes)
        return reshape(wide, (*x.shape[:at], x.shape[at] * n, *x.shape[at + 1 :]))
    source = np.repeat(np.arange(x.shape[at]), counts)
    result: Tracer = HANDLERS[np.take](x, source, at)
    return result


@implements(np.meshgrid)
def meshgrid(
    *xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy"
) -> tuple[Tracer, ...]:
    """Coordinate arrays of a grid."""
    if indexing not in ("xy", "ij"):
        raise UsageError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    lines = [traced(x) for x in xi]
    places = list(range(len(lines)))
    if indexing == "xy" and len(lines) > 1:
        places[:2] = 1, 0
    grid = [0] * len(lines)
    for place, line in zip(places, lines, strict=True):
        grid[place] = line.size
    results = []
    for place, line in zip(places, lines, strict=True):
        thin = reshape(line, [line.size if i == place else 1 for i in range(len(lines))])
        results.append(thin if sparse else broadcast(thin, tuple(grid)))
    return tuple(results)


# -- triangles and diagonals ---------------------------------------------------------------


def _keep(x: Tracer, mask: np.ndarray[Any, Any]) -> Tracer:
    result: Tracer = HANDLERS[np.where](mask, x, constant(0, x.dtype))
    return result


def _below(x: Tracer, k: int) -> np.ndarray[Any, Any]:
    """The places up to the diagonal ``k`` of matrices like ``x``; a vector counts for all rows."""
    rows, columns = x.shape[-2:] if x.ndim > 1 else (x.size, x.size)
    return np.tri(rows, columns, k, dtype=bool)


@implements(np.tril)
def tril(m: Any, k: int = 0) -> Tracer:
    """The lower triangle, zero above."""
    x = traced(m)
    return _keep(x, _below(x, k))


@implements(np.triu)
def triu(m: Any, k: int = 0) -> Tracer:
    """The upper triangle, zero below."""
    x = traced(m)
    return _keep(x, ~_below(x, k - 1))


@implements(np.diagonal)
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tracer:
    """The diagonals of the matrices along two axes, as the last axis: a read-only view."""
    x = traced(a)
    i, j = one_axis("diagonal", axis1, x), one_axis("diagonal", axis2, x)
    if i == j:
        raise ShapeError("diagonal: axis1 and axis2 must differ")
    rows, columns = x.shape[i], x.shape[j]
    n = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    key = (..., np.arange(n) + max(-offset, 0), np.arange(n) + max(offset, 0))
    others = [axis for axis in range(x.ndim) if axis not in (i, j)]

    def read(base: Tracer) -> Tracer:
        return transposed(base, [*others, i, j])[key]

    return read(x).as_view_of(x, read, None, memory=x.memory.diagonal(offset, i, j))


@implements(np.linalg.diagonal, name="linalg.diagonal")
def matrix_diagonal(x: Any, /, *, offset: int = 0) -> Tracer:
    """The diagonals of the matrices in the last two axes."""
    return diagonal(x, offset, -2, -1)


@implements(np.trace)
def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Tracer:
    """The sum of a diagonal."""
    result: Tracer = HANDLERS[np.sum](diagonal(a, offset, axis1, axis2), -1, dtype)
    return result


@implements(np.linalg.trace, name="linalg.trace")
def matrix_trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Tracer:
    """The sums of the diagonals of the matrices in the last two axes."""
    return trace(x, offset, -2, -1, dtype)


@implements(np.diag)
def diag(v: Any, k: int = 0) -> Tracer:
    """The diagonal of a matrix, or the matrix with a diagonal."""
    x = traced(v)
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ShapeError(f"diag: needs a vector or a matrix, got {x._value.type}")
    n = x.size + abs(k)
    rows = broadcast(reshape(x, (x.size, 1)), (x.size, x.size))
    square = _keep(rows, np.eye(x.size, dtype=bool))
    low, high = (max(-k, 0), max(k, 0)), (max(k, 0), max(-k, 0))
    assert n == x.size + low[0] + high[0]
    result: Tracer = stage("pad", square, low=low, high=high, interior=(0, 0), value=0)
    return result


@implements(np.diagflat)
def diagflat(v: Any, k: int = 0) -> Tracer:
    """The matrix with all elements of ``v`` on a diagonal."""
    x = traced(v)
    return diag(reshape(x, (x.size,)), k)


# -- what depends on the order of values ---------------------------------------------------


def _declare_refusal(name: Callable[..., Any], reason: str) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(f"np.{name.__name__} cannot be traced: {reason}")

    HANDLERS[name] = refuse


_SIZE = (
    "the shape of its result depends on the values; keep the shape and choose with "
    "np.where(condition, x, 0)"
)
_REFUSED: Sequence[tuple[Callable[..., Any], str]] = (
    (np.lexsort, "sort by one key after the other with np.argsort, the last key first"),
    *(
        (f, _SIZE)
        for f in (
            np.nonzero,
            np.unique,
            np.argwhere,
            np.flatnonzero,
            np.extract,
            np.compress,
        )
    ),
)
for _function, _reason in _REFUSED:
    _declare_refusal(_function, _reason)
