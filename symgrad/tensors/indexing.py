"""Indices, masks and order under torch's names, with its error texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError
from symgrad.tensors.apply import NOTHING, apply, write
from symgrad.tensors.elementwise import broadcast_shape, cast, declared, is_number
from symgrad.tensors.handle import Tensor
from symgrad.tensors.reductions import Extremes
from symgrad.tracer import HANDLERS, Tracer


def _key(key: Any) -> tuple[Any, list[Any], bool]:
    """An index as NumPy takes it, the tensors in it, and whether it makes a view."""
    items = key if isinstance(key, tuple) else (key,)
    plain: list[Any] = []
    basic = True
    for item in items:
        if isinstance(item, Tensor):
            array = item._array()
            plain.append(int(array) if array.ndim == 0 and array.dtype.kind in "iu" else array)
            basic = basic and array.ndim == 0 and array.dtype.kind in "iu"
        else:
            plain.append(np.asarray(item) if isinstance(item, list) else item)
            basic = basic and not isinstance(item, (list, np.ndarray))
    return (tuple(plain) if isinstance(key, tuple) else plain[0]), plain, basic


def _check_index(input: Tensor, items: Sequence[Any]) -> None:
    if not input.ndim and items and isinstance(items[0], int) and not isinstance(items[0], bool):
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` "
            "in C++ to convert a 0-dim tensor to a number"
        )
    axis = 0
    for item in items:
        if item is Ellipsis or axis >= input.ndim:
            return
        if isinstance(item, int) and not isinstance(item, bool):
            size = input.shape[axis]
            if not -size <= item < size:
                raise IndexError(
                    f"index {item} is out of bounds for dimension {axis} with size {size}"
                )
        axis += item is not None


def getitem(input: Tensor, key: Any) -> Tensor:
    """``input[key]``: a view for numbers and slices, a copy for arrays and masks."""
    plain, items, basic = _key(key)
    _check_index(input, items)
    if not basic:
        label = "IndexBackward0"
    elif any(isinstance(i, int) for i in items):
        label = "SelectBackward0"
    else:
        label = "UnsqueezeBackward0" if items == [None] else "SliceBackward0"
    made: Tensor = apply(label, lambda x: x[plain], (input,), saves=NOTHING)
    return made


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """``input[key] = value``"""
    plain, items, _ = _key(key)
    _check_index(input, items)
    operands = (input, value) if isinstance(value, Tensor) else (input,)

    def compute(x: Tracer, *new: Tracer) -> Any:
        stored = cast(new[0], x.dtype) if new else value
        try:
            return HANDLERS["setitem"](x, plain, stored)
        except ShapeError as error:
            raise RuntimeError(f"shape mismatch: {error}") from None

    write(input, apply("CopySlices", compute, operands, saves=NOTHING))


@declared
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along an axis that ``index`` numbers."""

    def compute(x: Tracer, i: Tracer) -> Any:
        return snp.take(x, i, axis=dim)

    made: Tensor = apply("IndexSelectBackward0", compute, (input, index), parents=(input,))
    return made


@declared
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The elements that ``index`` numbers along an axis."""
    made: Tensor = apply(
        "GatherBackward0",
        lambda x, i: snp.take_along_axis(x, i, axis=dim),
        (input, index),
        parents=(input,),
    )
    return made


@declared
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``value`` where the mask holds."""
    number = value if is_number(value) else value._array()
    shape = broadcast_shape(input._tracer.shape, mask._tracer.shape)

    def compute(x: Tracer, m: Tracer) -> Any:
        return snp.where(m, snp.broadcast_to(snp.array(number, dtype=x.dtype), shape), x)

    made: Tensor = apply("MaskedFillBackward0", compute, (input, mask), parents=(input,))
    return made


@declared
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, in one axis."""
    return getitem(input, mask)


@declared
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The places of the elements that are not zero."""
    places = np.nonzero(input._array())
    if as_tuple:
        return tuple(Tensor.of_array(p) for p in places)
    return Tensor.of_array(np.ascontiguousarray(np.stack(places, axis=-1)))


@declared
def sort(input: Tensor, dim: int = -1, descending: bool = False) -> Extremes:
    """The elements in order along an axis, with their positions."""
    keys = -input._array() if descending else input._array()
    order = np.argsort(keys, axis=dim, kind="stable")
    places = Tensor.of_array(np.ascontiguousarray(order))
    values = apply(
        "SortBackward0", lambda x: snp.take_along_axis(x, order, axis=dim), (input,), saves=NOTHING
    )
    return Extremes(values, places)


@declared
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return input.shape == other.shape and bool(np.array_equal(input._array(), other._array()))


@declared
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether all elements agree within tolerances."""
    return bool(np.allclose(input._array(), other._array(), rtol, atol, equal_nan))
