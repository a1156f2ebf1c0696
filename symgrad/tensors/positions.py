"""Elements by position on traced values: along one axis, or in the flattened array."""

from __future__ import annotations

from typing import Any

from symgrad.ir.types import i64
from symgrad.numpy import core
from symgrad.tensors.elementwise import cast
from symgrad.tracer import Tracer
from symgrad.tracing import stage


def iota(shape: tuple[int, ...], axis: int) -> Any:
    """The number of each element along an axis."""
    return stage("iota", shape=shape, axis=axis, dtype=i64)


def _coordinates(index: Tracer, axis: int) -> list[Any]:
    return [index if a == axis else iota(index.shape, a) for a in range(index.ndim)]


def along(x: Tracer, index: Tracer, axis: int) -> Any:
    """For each place of ``index`` the element of ``x`` it numbers along an axis."""
    index = cast(index, i64.numpy)
    if not x.ndim:
        return core.broadcast(x, index.shape)
    return stage("gather", x, *_coordinates(index, axis), axes=tuple(range(x.ndim)))


def put_along(x: Tracer, index: Tracer, new: Tracer, axis: int, op: str = "scatter") -> Any:
    """``x`` with, for each place of ``index``, the element it numbers replaced or added to."""
    if not x.ndim:
        x, index, new = (core.reshape(v, (1,)) for v in (x, index, new))
        return core.reshape(put_along(x, index, new, 0, op), ())
    index = cast(index, i64.numpy)
    return stage(op, x, new, *_coordinates(index, axis), axes=tuple(range(x.ndim)))


def flat(x: Tracer) -> Any:
    """All elements along one axis."""
    return core.reshape(x, (x.size,))


def pick_one(x: Tracer, index: Tracer, axis: int) -> Any:
    """The element that ``index``, which lacks the axis, numbers along it."""
    shape = (*index.shape[:axis], 1, *index.shape[axis:])
    return core.reshape(along(x, core.reshape(index, shape), axis), index.shape)
