"""Views under torch's names: what changes where elements are, not what they are."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.opdef import Array
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tensors.axes import many_axes, one_axis, sizes_of
from symgrad.tensors.elementwise import FUNCTIONS, declared
from symgrad.tensors.handle import Tensor
from symgrad.tensors.layout import Layout, layout_of
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage

_NO_VIEW = (
    "view size is not compatible with input tensor's size and stride (at least one dimension "
    "spans across two contiguous subspaces). Use .reshape(...) instead."
)


def viewed(name: str, compute: Callable[[Any], Any], input: Tensor) -> Any:
    """A view; ``compute`` makes it of a traced value and of a NumPy array alike."""
    label = name if name.endswith(("0", "1", "2", "3", "4")) else f"{name}Backward0"
    made = apply(label, compute, (input,), saves=NOTHING)
    if isinstance(made, tuple):
        for number, part in enumerate(made):
            part._layout = Layout(layout_of(input), _one_of(compute, number))
    elif made._tracer._view is not None:
        made._layout = Layout(layout_of(input), compute)
    return made


def _one_of(compute: Callable[[Any], Any], number: int) -> Callable[[Array], Array]:
    def step(a: Array) -> Array:
        part: Array = compute(a)[number]
        return part

    return step


def _resolved(input: Tensor, sizes: Sequence[Any]) -> tuple[int, ...]:
    given = sizes_of(tuple(sizes))
    shape = [operator.index(n) for n in given]
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and input.numel() % known == 0:
        shape[shape.index(-1)] = input.numel() // known
    if math.prod(shape) != input.numel() or -1 in shape:
        raise RuntimeError(f"shape '{list(given)}' is invalid for input of size {input.numel()}")
    return tuple(shape)


def _is_plain(input: Tensor) -> bool:
    return input._layout is None


def _as_shape(input: Tensor, target: tuple[int, ...], label: str = "View") -> Tensor:
    made: Tensor = viewed(label, lambda x: snp.reshape(x, target), input)
    return made


@declared
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements under another shape: a view where the memory allows one."""
    target = _resolved(input, shape)
    if _is_plain(input) or layout_of(input).allows(target):
        return _as_shape(input, target)
    made: Tensor = apply(
        "UnsafeViewBackward0",
        lambda x: stage("reshape", x, shape=target),
        (input,),
        saves=NOTHING,
    )
    return made


def view(input: Tensor, *shape: Any) -> Tensor:
    """The same memory under another shape, or read as another type of the same size."""
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list, np.integer, Tensor)):
        from symgrad.tensors.interchange import reinterpreted

        return reinterpreted(input, shape[0])
    target = _resolved(input, shape)
    if not _is_plain(input) and not layout_of(input).allows(target):
        raise RuntimeError(_NO_VIEW)
    return _as_shape(input, target)


@declared
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """The memory under the shape of another tensor."""
    return view(input, other.shape)


@declared
def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """The elements under the shape of another tensor."""
    return reshape(input, other.shape)


@declared
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes from ``start_dim`` to ``end_dim`` as one."""
    first, last = one_axis(start_dim, input.ndim), one_axis(end_dim, input.ndim)
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    sizes = input.shape or (1,)
    if first == last and input.ndim:
        return input
    return reshape(input, (*sizes[:first], math.prod(sizes[first : last + 1]), *sizes[last + 1 :]))


@declared
def ravel(input: Tensor) -> Tensor:
    """All elements along one axis."""
    return reshape(contiguous(input), -1)


@declared
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One axis as several."""
    axis = one_axis(dim, input.ndim)
    shape, n = list(sizes), input.shape[axis]
    known = math.prod(s for s in shape if s != -1)
    if -1 in shape and known and n % known == 0:
        shape[shape.index(-1)] = n // known
    if math.prod(shape) != n:
        raise RuntimeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {axis} "
            f"({n}) in the input tensor"
        )
    return view(input, (*input.shape[:axis], *shape, *input.shape[axis + 1 :]))


# -- order of axes -------------------------------------------------------------------------


def _transposed(x: Any) -> Any:
    return np.transpose(x)


@declared
def t(input: Tensor) -> Tensor:
    """A matrix transposed."""
    if input.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.ndim}D")
    made: Tensor = viewed("T", _transposed, input)
    return made


@declared
def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in another order."""
    given = sizes_of(dims)
    if len(given) != input.ndim:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the "
            f"length of the desired ordering of dimensions i.e. input.dim() = {input.ndim} is not "
            f"equal to len(dims) = {len(given)}"
        )
    order = tuple(one_axis(d, input.ndim) for d in given)
    if len(set(order)) < len(order):
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    made: Tensor = viewed("Permute", lambda x: np.transpose(x, order), input)
    return made


@declared
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged."""
    i, j = one_axis(dim0, input.ndim), one_axis(dim1, input.ndim)
    if not input.ndim:
        return alias(input)
    made: Tensor = viewed("Transpose", lambda x: np.swapaxes(x, i, j), input)
    return made


FUNCTIONS["swapaxes"] = FUNCTIONS["swapdims"] = transpose


@declared
def adjoint(input: Tensor) -> Tensor:
    """The last two axes exchanged."""
    return transpose(input, -2, -1)


@declared
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes moved to other positions."""
    pairs = [
        [one_axis(d, input.ndim) for d in (given if isinstance(given, (tuple, list)) else [given])]
        for given in (source, destination)
    ]
    made: Tensor = viewed("Permute", lambda x: np.moveaxis(x, *pairs), input)
    return made


FUNCTIONS["moveaxis"] = movedim


@declared
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new axis of size 1."""
    axis = one_axis(dim, input.ndim + 1)
    made: Tensor = viewed("Unsqueeze", lambda x: np.expand_dims(x, axis), input)
    return made


@declared
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without axes of size 1: all of them, or those of ``dim`` that have it."""
    axes = range(input.ndim) if dim is None else many_axes(dim, input.ndim)
    gone = tuple(a for a in axes if input.ndim and input.shape[a] == 1)
    number = 0 if dim is None else 2 if isinstance(dim, (tuple, list)) else 1
    made: Tensor = viewed(f"SqueezeBackward{number}", lambda x: np.squeeze(x, axis=gone), input)
    return made


@declared
def alias(input: Tensor) -> Tensor:
    """A view of everything."""
    made: Tensor = viewed("Alias", lambda x: x.reshape(x.shape), input)
    return made


# -- stretching ----------------------------------------------------------------------------


@declared
def expand(input: Tensor, *sizes: Any, implicit: bool = False) -> Tensor:
    """Axes of size 1 stretched; -1 keeps a size."""
    given = sizes_of(sizes)
    new = len(given) - input.ndim
    if new < 0:
        raise RuntimeError(
            f"expand(torch.{input.dtype.scalar_name}Tensor{{{list(input.shape)}}}, "
            f"size={list(given)}): the number of sizes provided ({len(given)}) must be greater or "
            f"equal to the number of dimensions in the tensor ({input.ndim})"
        )
    for axis, n in reversed(list(enumerate(given))):
        own = input.shape[axis - new] if axis >= new else 1
        if n == -1 and axis < new:
            raise RuntimeError(
                f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
                f"dimension {axis}"
            )
        if n not in (-1, own) and own != 1:
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size ({own}) at "
                f"non-singleton dimension {axis}.  Target sizes: {list(given)}.  Tensor sizes: "
                f"{list(input.shape)}"
            )
    shape = tuple(input.shape[i - new] if n == -1 else int(n) for i, n in enumerate(given))
    made: Tensor = viewed("Expand", lambda x: np.broadcast_to(x, shape), input)
    return made


@declared
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Stretched to the shape of another tensor."""
    return expand(input, other.shape)


FUNCTIONS["broadcast_to"] = expand


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """All operands stretched to their common shape."""
    from symgrad.tensors.elementwise import broadcast_shape

    given = sizes_of(tensors)
    shape = broadcast_shape(*(tuple(x.shape) for x in given))
    return tuple(x if x.shape == shape else expand(x, shape) for x in given)


# -- parts ---------------------------------------------------------------------------------


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
    pick = _positions(input, lambda a: a.diagonal(offset, i, j))
    made: Tensor = viewed("Diagonal", pick, input)
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
        saves=NOTHING,
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
    if not isinstance(x, Tracer):
        return x[(*key, ...)] if isinstance(key, tuple) and Ellipsis not in key else x[key]
    items = key if isinstance(key, tuple) else (key,)
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
    return split(input, max(1, -(-input.shape[dim] // chunks)), dim)


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


@declared
def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself where its elements lie in row-major order, else a copy."""
    if _is_plain(input) or layout_of(input).is_contiguous:
        return input
    return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]


def _declare_at_least(rank: int, view: Callable[[Tensor], Tensor]) -> None:
    def at_least(*tensors: Any) -> Any:
        results = tuple(view(x) for x in sizes_of(tensors))
        return results[0] if len(results) == 1 and isinstance(tensors[0], Tensor) else results

    at_least.__name__ = f"atleast_{rank}d"
    at_least.__doc__ = f"The tensors with at least {rank} axes."
    FUNCTIONS[at_least.__name__] = at_least


def _to_third(x: Tensor) -> Tensor:
    if x.ndim < 2:
        return view(x, (1, -1, 1)) if not x.ndim else unsqueeze(unsqueeze(x, 0), -1)
    return unsqueeze(x, -1) if x.ndim == 2 else x


_declare_at_least(1, lambda x: x if x.ndim else view(x, 1))
_declare_at_least(2, lambda x: x if x.ndim > 1 else unsqueeze(x, 0) if x.ndim else view(x, 1, 1))
_declare_at_least(3, _to_third)
FUNCTIONS["_view"] = view
