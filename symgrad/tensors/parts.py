"""Views of parts of a tensor under torch's names: diagonals, windows, slices, pieces."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tensors.axes import one_axis
from symgrad.tensors.elementwise import FUNCTIONS, declared
from symgrad.tensors.handle import Tensor
from symgrad.tensors.layout import Layout, layout_of
from symgrad.tensors.shapes import viewed
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage


def _positions(input: Tensor, pick: Callable[[Array], Array]) -> Callable[[Any], Any]:
    """A view by element numbers: a gather to read, a scatter to write."""

    def compute(x: Any) -> Any:
        if not isinstance(x, Tracer):
            return pick(x)
        places = np.ascontiguousarray(pick(np.arange(x.size).reshape(x.shape)))
        distinct = np.unique(places).size == places.size

        def read(base: Tracer) -> Any:
            return stage("gather", stage("reshape", base, shape=(base.size,)), places, axes=(0,))

        def write(base: Tracer, new: Tracer) -> Any:
            flat = stage("reshape", base, shape=(base.size,))
            return stage(
                "reshape", stage("scatter", flat, new, places, axes=(0,)), shape=base.shape
            )

        return read(x).as_view_of(x, read, write if distinct else None)

    return compute


@declared
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements where two axes have the same index."""
    i, j = one_axis(dim1, input.ndim), one_axis(dim2, input.ndim)
    if i == j:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")

    def pick(a: Array) -> Array:
        found = a.diagonal(offset, i, j)
        found.flags.writeable = a.flags.writeable  # NumPy's own is for reading
        return found

    made: Tensor = viewed("Diagonal", _positions(input, pick), input)
    return made


@declared
def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of ``size`` elements every ``step`` along an axis, as a last axis."""
    axis = one_axis(dimension, input.ndim)
    if size > (input.shape[axis] if input.ndim else 1):
        raise RuntimeError(
            f"maximum size for tensor at dimension {axis} is {input.shape[axis]} but size is {size}"
        )

    def pick(a: Array) -> Array:
        n = (a.shape[axis] - size) // step + 1
        shape = (*a.shape[:axis], n, *a.shape[axis + 1 :], size)
        strides = (*a.strides[:axis], a.strides[axis] * step, *a.strides[axis + 1 :])
        return np.lib.stride_tricks.as_strided(a, shape, (*strides, a.strides[axis]))

    made: Tensor = viewed("Unfold", _positions(input, pick), input)
    return made


@declared
def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """The memory under any shape and strides, as far as ``input`` itself covers it."""
    layout = layout_of(input)
    start = layout.offset if storage_offset is None else storage_offset
    whole = np.arange(layout.root.shadow.size).reshape(layout.root.shadow.shape)
    own = layout.on(whole)
    places = np.full(tuple(size), start, np.int64)
    for axis, (n, by) in enumerate(zip(size, stride, strict=True)):
        places += (np.arange(n) * by).reshape([-1 if a == axis else 1 for a in range(len(size))])
    if places.size and not (places.min() >= 0 and places.max() < whole.size):
        raise RuntimeError(
            f"setStorage: sizes {list(size)}, strides {list(stride)}, storage offset {start}, and "
            f"itemsize {input.dtype.itemsize} requiring a storage size of "
            f"{(int(places.max()) + 1) * input.dtype.itemsize} are out of bounds for storage of "
            f"size {whole.size * input.dtype.itemsize}"
        )
    numbers = np.full(whole.size, -1)
    numbers[own.reshape(-1)] = np.arange(own.size)
    chosen = numbers[places]
    if (chosen < 0).any():
        raise NotImplementedError("as_strided of a view can only show elements of that view")

    made: Tensor = apply(
        "AsStridedBackward0", _positions(input, lambda a: a.reshape(-1)[chosen]), (input,),
        saves=NOTHING, views=True,
    )  # fmt: skip

    def on(memory: Array) -> Array:
        steps = tuple(by * memory.itemsize for by in stride)
        return np.lib.stride_tricks.as_strided(memory.reshape(-1)[start:], tuple(size), steps)

    made._layout = Layout(layout.root, on)
    return made


@declared
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """``length`` slices from ``start`` along an axis."""
    axis = one_axis(dim, input.ndim)
    n, first = input.shape[axis], int(start)
    if not -n <= first <= n:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-n}, {n}], but got {first})"
        )
    first += n if first < 0 else 0
    if first + length > n:
        raise RuntimeError(f"start ({first}) + length ({length}) exceeds dimension size ({n}).")
    key = (*(slice(None),) * axis, slice(first, first + length))
    made: Tensor = viewed("Slice", lambda x: x[key], input)
    return made


@declared
def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """One slice along an axis, without that axis."""
    if not input.ndim:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    axis, number = one_axis(dim, input.ndim), int(index)
    n = input.shape[axis]
    if not -n <= number < n:
        raise IndexError(
            f"select(): index {number} out of range for tensor of size {list(input.shape)} at "
            f"dimension {axis}"
        )
    key = (*(slice(None),) * axis, number)
    made: Tensor = viewed("Select", lambda x: element(x, key), input)
    return made


def element(x: Any, key: Any) -> Any:
    """``x[key]`` for a basic index, as a view even where no axis is left."""
    items = key if isinstance(key, tuple) else (key,)
    if not isinstance(x, Tracer):
        return x[items if Ellipsis in items else (*items, ...)]
    items = tuple([i for i in items if i is not Ellipsis])
    places = [i % max(n, 1) for i, n in zip(items, x.shape, strict=False) if isinstance(i, int)]
    if len(places) < len(items) or len(places) != x.ndim:
        return x[key]
    low, one = tuple(places), (1,) * x.ndim

    def read(base: Tracer) -> Any:
        high = tuple(i + 1 for i in low)
        return stage("reshape", stage("slice", base, start=low, stop=high, step=one), shape=())

    def write(base: Tracer, new: Tracer) -> Any:
        block = stage("reshape", new, shape=one)
        starts = [constant(i, np.int64) for i in low]
        return stage("dynamic_update_slice", base, block, *starts)

    return read(x).as_view_of(x, read, write, repr(key))


def parts(input: Tensor, ends: Sequence[int], dim: int, label: str) -> tuple[Tensor, ...]:
    """Views of the ranges between neighbouring ends, the first from 0."""
    lead = (slice(None),) * one_axis(dim, input.ndim)
    starts = [0, *ends[:-1]]

    def compute(x: Any) -> Any:
        return [x[(*lead, slice(a, b))] for a, b in zip(starts, ends, strict=True)]

    made: tuple[Tensor, ...] = viewed(label, compute, input)
    return made


@declared
def split(
    input: Tensor, split_size_or_sections: Any, dim: int = 0, *, label: str = "Split"
) -> tuple[Tensor, ...]:
    """Views of parts of the given size or sizes along an axis."""
    total = input.shape[one_axis(dim, input.ndim)]
    if not isinstance(split_size_or_sections, (tuple, list)):
        size = operator.index(split_size_or_sections)
        if size < 0:
            raise RuntimeError(
                f"split expects split_size be non-negative, but got split_size={size}"
            )
        if not size and total:
            raise RuntimeError(
                "split_size can only be 0 if dimension size is 0, but got dimension size of "
                f"{total}"
            )
        ends = [min(at + size, total) for at in range(0, total, size or 1)] or [0]
        return parts(input, ends, dim, label)
    counts = list(split_size_or_sections)
    if sum(counts) != total:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {total} (input tensor's size "
            f"at dimension {one_axis(dim, input.ndim)}), but got split_sizes={counts}"
        )
    return parts(input, np.cumsum(counts).tolist(), dim, "SplitWithSizes")


FUNCTIONS["split_with_sizes"] = split


@declared
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` parts of equal size, the last one maybe smaller."""
    if chunks < 1:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    n = input.shape[one_axis(dim, input.ndim)] if input.ndim else 1
    return split(input, -(-n // chunks) if n else [0] * chunks, dim)


FUNCTIONS["unsafe_chunk"] = lambda input, chunks, dim=0: split(
    input, -(-input.shape[dim] // chunks), dim, label="UnsafeSplit"
)
FUNCTIONS["unsafe_split"] = lambda input, size, dim=0: split(input, size, dim, label="UnsafeSplit")


@declared
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of so many nearly equal parts, or of the parts between given positions."""
    n = input.shape[one_axis(dim, input.ndim)]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        small, larger = divmod(n, indices_or_sections)
        ends = np.cumsum([small + 1] * larger + [small] * (indices_or_sections - larger)).tolist()
    else:
        ends = [*(slice(None, int(i)).indices(n)[1] for i in indices_or_sections), n]
    starts = [0, *ends[:-1]]
    return tuple(narrow(input, dim, a, max(b - a, 0)) for a, b in zip(starts, ends, strict=True))


def _split_along(name: str, axis: int, least: int) -> None:
    def along(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        if input.ndim < least:
            raise RuntimeError(
                f"torch.{name} requires a tensor with at least {least} dimension, but got a "
                f"tensor with {input.ndim} dimensions!"
            )
        return tensor_split(input, indices_or_sections, axis if input.ndim > 1 else 0)

    along.__name__ = name
    along.__doc__ = f"``tensor_split`` along axis {axis}."
    FUNCTIONS[name] = along


for _name, _axis, _least in (("hsplit", 1, 1), ("vsplit", 0, 2), ("dsplit", 2, 3)):
    _split_along(_name, _axis, _least)


@declared
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis."""
    lead = (slice(None),) * one_axis(dim, input.ndim)

    def compute(x: Any) -> Any:
        return [element(x, (*lead, i)) for i in range(x.shape[len(lead)])]

    made: tuple[Tensor, ...] = viewed("Unbind", compute, input)
    return made
