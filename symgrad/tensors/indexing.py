"""Indices and masks under torch's names, with its error texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.dispatch import HANDLERS
from symgrad.ir import Value
from symgrad.ir.errors import ShapeError
from symgrad.numpy.core import astype
from symgrad.tensors.apply import NOTHING, apply, write
from symgrad.tensors.axes import one_axis
from symgrad.tensors.elementwise import broadcast_shape, cast, declared, is_number
from symgrad.tensors.handle import Tensor
from symgrad.tensors.parts import element
from symgrad.tensors.positions import along, flat
from symgrad.tensors.recorded import is_known
from symgrad.tensors.shapes import viewed
from symgrad.tracer import Tracer
from symgrad.tracing import stage

_KINDS = (
    "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid "
    "indices (got {})"
)


def _key(input: Tensor, key: Any) -> tuple[Any, list[Any], bool]:
    """An index as NumPy takes it, its items, and whether it makes a view."""
    if isinstance(key, range):
        key = list(key)
    if isinstance(key, list) and any(map(_is_index, key)):
        key = tuple(key)
    items = key if isinstance(key, tuple) else (key,)
    plain: list[Any] = []
    basic = True
    for item in items:
        if isinstance(item, Tensor):
            array = item._array()
            if array.dtype == np.uint8:  # bytes were masks before there were booleans
                array = array.astype(bool)
            number = array.ndim == 0 and array.dtype.kind in "iu"
            if not number and array.dtype.kind not in "biu":
                raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
            plain.append(array if array.ndim or array.dtype.kind not in "biu" else array.item())
            basic = basic and number
        elif isinstance(item, (list, np.ndarray)):
            array = np.asarray([int(x) if isinstance(x, Tensor) else x for x in item]
                               if isinstance(item, list) else item)  # fmt: skip
            array = array if array.size or array.dtype == bool else array.astype(np.int64)
            plain.append(array if array.ndim or array.dtype != bool else bool(array))
            basic = False
        elif isinstance(item, (bool, np.bool_)):
            plain.append(bool(item))
            basic = False
        elif isinstance(item, slice):
            plain.append(_slice(item))
        elif isinstance(item, str):
            raise TypeError(f"new(): invalid data type '{type(item).__name__}'")
        elif item is None or item is Ellipsis or hasattr(item, "__index__"):
            plain.append(item if item is None or item is Ellipsis else item.__index__())
        else:
            raise IndexError(_KINDS.format(type(item).__name__))
    _check_index(input, plain)
    return (tuple(plain) if isinstance(key, tuple) else plain[0]), plain, basic


def _is_index(item: Any) -> bool:
    """Whether an item of a list is an index of its own, which makes the list one of several."""
    kinds = (Tensor, np.ndarray, list, tuple, range, slice)
    return item is None or item is Ellipsis or isinstance(item, kinds)


def _slice(item: slice) -> slice:
    parts = [None if p is None else p.__index__() for p in (item.start, item.stop, item.step)]
    if parts[2] is not None and parts[2] <= 0:
        raise ValueError("step must be greater than zero")
    return slice(*parts)


def _is_int(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _used(item: Any) -> int:
    """Axes that an item of an index uses up."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, np.ndarray) and item.dtype == bool else 1


def _check_index(input: Tensor, items: Sequence[Any]) -> None:
    if not input.ndim and items and _is_int(items[0]):
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` "
            "in C++ to convert a 0-dim tensor to a number"
        )
    if sum(map(_used, items)) > input.ndim:
        raise IndexError(f"too many indices for tensor of dimension {input.ndim}")
    axis = 0
    for number, item in enumerate(items):
        if item is Ellipsis:
            axis = input.ndim - sum(map(_used, items[number + 1 :]))
            continue
        if isinstance(item, np.ndarray) and item.dtype == bool:
            covered = list(input.shape[axis : axis + item.ndim])
            if list(item.shape) != covered:
                raise IndexError(
                    f"The shape of the mask {list(item.shape)} at index {number} does not match "
                    f"the shape of the indexed tensor {list(input.shape)} at index {number}"
                )
        elif _is_int(item) or isinstance(item, np.ndarray):
            size, places = input.shape[axis], np.asarray(item)
            outside = (places < -size) | (places >= size)
            if outside.any():
                worst = int(places[outside].flat[0]) if places.ndim else int(places)
                raise IndexError(
                    f"index {worst} is out of bounds for dimension {axis} with size {size}"
                )
        axis += _used(item)


def _split(items: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """An index as one that makes a view and one of that view, by arrays and whole axes only.

    Numbers pick slices before arrays pick elements: NumPy counts them among the arrays, which
    moves axes.  A single boolean is a mask of a new axis.  ``None`` if one index does.
    """
    if not any(_is_int(i) or isinstance(i, bool) for i in items):
        return None
    first: list[Any] = []
    then: list[Any] = []
    for item in items:
        if isinstance(item, bool):
            first.append(None)
            then.append(np.array([item]))
        elif isinstance(item, np.ndarray):
            first += [slice(None)] * _used(item)
            then.append(item)
        else:
            first.append(item)
            if not _is_int(item):
                then.append(item if item is Ellipsis else slice(None))
    return tuple(first), tuple(then)


def _or_whole(key: Any) -> Any:
    return ... if isinstance(key, tuple) and not key else key


def getitem(input: Tensor, key: Any) -> Tensor:
    """``input[key]``: a view for numbers and slices, a copy for arrays and masks."""
    plain, items, basic = _key(input, key)
    if not basic:
        if (split := _split(items)) is not None:
            input, plain = getitem(input, split[0]), split[1]
        made: Tensor = apply(
            "IndexBackward0", lambda x: x[plain], (input,), saves=NOTHING, wide=False
        )
        return made
    last = next((i for i in reversed(items) if i is not Ellipsis and i != slice(None)), ...)
    label = "Select" if _is_int(last) else "Unsqueeze" if last is None else "Slice"
    if last is Ellipsis:
        label = "Slice" if any(isinstance(i, slice) for i in items) else "Alias"
    result: Tensor = viewed(label, lambda x: element(x, _or_whole(plain)), input)
    return result


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """``input[key] = value``"""
    plain, items, basic = _key(input, key)
    operands = (input, value) if isinstance(value, Tensor) else (input,)
    if len(items) == 1 and isinstance(items[0], bool):  # a mask of a new axis, of size 1
        if not items[0]:
            input._check_writable(isinstance(value, Tensor) and value.requires_grad)
            return
        plain = ()
    elif not basic and (split := _split(items)) is not None:
        setitem(getitem(input, split[0]), split[1], value)
        return

    def compute(x: Tracer, *new: Tracer) -> Any:
        stored = astype(new[0], x.dtype) if new else value
        try:
            return HANDLERS["setitem"](x, _or_whole(plain), stored)
        except ShapeError:
            shape = new[0].shape if new else np.shape(value)
            chosen = np.empty(input._tracer.shape, np.int8)[plain].shape
            raise RuntimeError(
                f"shape mismatch: value tensor of shape {list(shape)} cannot be broadcast to "
                f"indexing result of shape {list(chosen)}"
            ) from None

    write(input, apply("CopySlices", compute, operands, saves=NOTHING, wide=False,
                       dtype=input._dtype))  # fmt: skip


# -- checks --------------------------------------------------------------------------------

_IN_RANGE = {"argmax", "argmin", "argsort"}
_MOVING = {"reshape", "transpose", "slice", "broadcast_to", "identity", "stop_gradient", "gather",
           "reverse", "concatenate"}  # fmt: skip


def _is_position(value: Value, operands: Mapping[int, Value] | None = None) -> bool:
    """Whether a pending value is known to be a position, whatever is computed.

    ``operands`` stand for the parameters of the region that the value belongs to.
    """
    op = value.op
    if op is None:
        outer = (operands or {}).get(id(value))
        return outer is not None and _is_position(outer)
    if op.regions:
        (region,) = op.regions
        given = dict(zip(map(id, region.params), op.operands, strict=True))
        return _is_position(region.results[value.index], given)
    moved = op.name in _MOVING and bool(op.operands)
    return op.name in _IN_RANGE or (moved and _is_position(op.operands[0], operands))


def check_positions(index: Tensor, size: int, axis: int, name: str) -> None:
    """Raises for positions out of range: what is not known yet is computed for that.

    Compiled code clamps positions, so an unchecked one would silently read another element.
    """
    if index._dtype not in (np.int64, np.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    value = index._value()
    if not is_known(value) and _is_position(value):
        return
    places = index._array()
    outside = (places < 0) | (places >= size)
    if outside.any():
        worst = int(places[outside].flat[0]) if places.ndim else int(places)
        error = IndexError if name == "index_select" else RuntimeError
        raise error(
            "index out of range in self"
            if name == "index_select"
            else f"index {worst} is out of bounds for dimension {axis} with size {size}"
        )


def size_along(input: Tensor, axis: int) -> int:
    """The size of an axis; a tensor without axes has one of size 1."""
    return input.shape[axis] if input.ndim else 1


# -- reading -------------------------------------------------------------------------------


@declared
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along an axis that ``index`` numbers."""
    axis = one_axis(dim, input.ndim)
    if index.ndim > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    check_positions(index, size_along(input, axis), axis, "index_select")

    def compute(x: Tracer, i: Tracer) -> Any:
        return snp.take(x, snp.reshape(i, (-1,)), axis=axis) if x.ndim else x

    made: Tensor = apply(
        "IndexSelectBackward0", compute, (input, index), parents=(input,), saves=NOTHING,
        wide=False,
    )  # fmt: skip
    return made


@declared
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """The elements that ``index`` numbers along an axis."""
    axis = one_axis(dim, input.ndim)
    if index.ndim != input.ndim and index.ndim and input.ndim:
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    check_positions(index, size_along(input, axis), axis, "gather")
    for a, (n, m) in enumerate(zip(index.shape, input.shape, strict=False)):
        if a != axis and n > m:
            raise RuntimeError(
                f"Size does not match at dimension {a} expected index {list(index.shape)} to be no "
                f"larger than self {list(input.shape)} apart from dimension {axis}"
            )
    made: Tensor = apply(
        "GatherBackward0", lambda x, i: along(x, i, axis), (input, index), parents=(input,),
        saves=NOTHING, wide=False,
    )  # fmt: skip
    return made


@declared
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor."""
    n = input.numel()
    wrapped = _wrapped(index, n, "take")
    made: Tensor = apply(
        "TakeBackward0", lambda x, i: snp.take(flat(x), i), (input, wrapped), parents=(input,),
        saves=NOTHING, wide=False,
    )  # fmt: skip
    return made


def _wrapped(index: Tensor, size: int, name: str) -> Tensor:
    """Positions of which negative ones count from the end, checked."""
    if index._dtype != np.int64:
        raise RuntimeError(f"{name}(): Expected a long tensor for index, but got "
                           f"{index.dtype.scalar_name}")  # fmt: skip
    places = index._array()
    outside = (places < -size) | (places >= size)
    if outside.any():
        raise IndexError("out of range: tried to access index "
                         f"{int(np.asarray(places)[outside].flat[0])} on a tensor of {size} "
                         "elements.")  # fmt: skip
    return Tensor.of_array(np.where(places < 0, places + size, places))


@declared
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """As ``gather``, with the shapes broadcast; without an axis of the flattened tensor."""
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    axis = one_axis(dim, input.ndim)
    shape = list(broadcast_shape(
        *(tuple(1 if a == axis else n for a, n in enumerate(x.shape)) for x in (input, indices))
    ))  # fmt: skip
    spread = []
    for x in (input, indices):
        shape[axis] = x.shape[axis]
        spread.append(x if list(x.shape) == shape else x.expand(shape))
    return gather(spread[0], axis, spread[1])


@declared
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``value`` where the mask holds."""
    if mask._dtype.kind != "b":
        raise RuntimeError(
            f"masked_fill_ only supports boolean masks, but got mask with dtype {_native(mask)}"
        )
    number = is_number(value)
    if not number and value.ndim:
        raise RuntimeError(
            "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value.ndim} dimension(s)."
        )
    operands = (input, mask) if number else (input, mask, value)
    shape = broadcast_shape(input._tracer.shape, mask._tracer.shape)

    def compute(x: Tracer, m: Tracer, *v: Tracer) -> Any:
        new = cast(v[0], x.dtype) if v else snp.array(value, dtype=x.dtype)
        return snp.where(m, snp.broadcast_to(new, shape), x)

    shown = (input,) if number else (input, value)
    label = f"MaskedFillBackward{int(not number)}"
    made: Tensor = apply(label, compute, operands, parents=shown, saves=NOTHING)
    return made


def _native(x: Tensor) -> str:
    return {"Long": "long int", "Byte": "unsigned char"}.get(
        x.dtype.scalar_name, x.dtype.scalar_name.lower()
    )


@declared
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, in one axis."""
    if mask._dtype.kind != "b":
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = broadcast_shape(input._tracer.shape, mask._tracer.shape)
    chosen = np.flatnonzero(np.broadcast_to(mask._array(), shape))

    def compute(x: Tracer) -> Any:
        return snp.take(flat(snp.broadcast_to(x, shape)), chosen)

    made: Tensor = apply("MaskedSelectBackward0", compute, (input,), saves=NOTHING, wide=False)
    return made


@declared
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The places of the elements that are not zero."""
    places = np.nonzero(np.atleast_1d(input._array()))
    if as_tuple:
        return tuple(Tensor.of_array(p) for p in places)
    rows = np.ascontiguousarray(np.stack(places, axis=-1))
    return Tensor.of_array(rows if input.ndim else rows[:, :0])


@declared
def argwhere(input: Tensor) -> Tensor:
    """The places of the elements that are not zero, a row each."""
    return nonzero(input)  # type: ignore[no-any-return]


def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of a matrix by number; row ``padding_idx`` gets no cotangent."""
    check_positions(indices, weight.shape[0], 0, "index_select")

    def compute(w: Tracer, i: Tracer) -> Any:
        rows = snp.take(w, i, axis=0)
        if padding_idx < 0:
            return rows
        padded = snp.expand_dims(i == padding_idx, -1)
        return snp.where(padded, stage("stop_gradient", rows), rows)

    made: Tensor = apply("EmbeddingBackward0", compute, (weight, indices), parents=(weight,),
                         saves=NOTHING, wide=False)  # fmt: skip
    return made


PLAIN = {"embedding": embedding}
"""Functions that are no methods."""
