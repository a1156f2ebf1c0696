"""Views and copies under torch's names: what changes where elements are, not what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.tensors import dtypes
from symgrad.tensors.apply import NOTHING, apply, stage
from symgrad.tensors.elementwise import FUNCTIONS, cast, declared
from symgrad.tensors.handle import Tensor
from symgrad.tracer import Tracer


def _view(name: str, compute: Callable[[Tracer], Any], input: Tensor) -> Tensor:
    made: Tensor = apply(f"{name}Backward0", compute, (input,), saves=NOTHING)
    return made


def _resolved(input: Tensor, sizes: Sequence[Any]) -> tuple[int, ...]:
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    shape = [int(n) for n in given]
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and input.numel() % known == 0:
        shape[shape.index(-1)] = input.numel() // known
    if math.prod(shape) != input.numel() or -1 in shape:
        raise RuntimeError(f"shape '{list(given)}' is invalid for input of size {input.numel()}")
    return tuple(shape)


@declared
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements under another shape, as a view."""
    target = _resolved(input, shape)
    return _view("View", lambda x: snp.reshape(x, target), input)


@declared
def view(input: Tensor, *shape: Any) -> Tensor:
    """As ``reshape``."""
    return reshape(input, *shape)


@declared
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """The elements under the shape of another tensor."""
    return reshape(input, other.shape)


@declared
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes from ``start_dim`` to ``end_dim`` as one."""
    rank = max(input.ndim, 1)
    sizes, first, last = input.shape or (1,), start_dim % rank, end_dim % rank
    if first == last and input.ndim:
        return input
    return reshape(input, (*sizes[:first], math.prod(sizes[first : last + 1]), *sizes[last + 1 :]))


FUNCTIONS["ravel"] = flatten


@declared
def t(input: Tensor) -> Tensor:
    """A matrix transposed."""
    if input.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.ndim}D")
    return _view("T", snp.transpose, input)


@declared
def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in another order."""
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return _view("Permute", lambda x: snp.transpose(x, tuple(order)), input)


@declared
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged."""
    return _view("Transpose", lambda x: snp.swapaxes(x, dim0, dim1), input)


FUNCTIONS["swapaxes"] = transpose


@declared
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes moved to other positions."""
    return _view("Permute", lambda x: snp.moveaxis(x, source, destination), input)


@declared
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new axis of size 1."""
    return _view("Unsqueeze", lambda x: snp.expand_dims(x, dim), input)


@declared
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without axes of size 1: all of them, or those of ``dim`` that have it."""
    axes = range(input.ndim) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    gone = tuple(a for a in axes if input.ndim and input.shape[a] == 1)
    return _view("Squeeze", lambda x: snp.squeeze(x, axis=gone), input)


@declared
def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Axes of size 1 stretched; -1 keeps a size."""
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    new = len(given) - input.ndim
    shape = tuple(input.shape[i - new] if n == -1 else n for i, n in enumerate(given))
    return _view("Expand", lambda x: snp.broadcast_to(x, shape), input)


@declared
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Stretched to the shape of another tensor."""
    return expand(input, other.shape)


FUNCTIONS["broadcast_to"] = expand


@declared
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements where two axes have the same index."""
    return _view("Diagonal", lambda x: snp.diagonal(x, offset, dim1, dim2), input)


@declared
def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself: how it lies in memory is not the user's concern here."""
    return input


# -- copies --------------------------------------------------------------------------------


@declared
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy, tracked."""
    made: Tensor = apply("CloneBackward0", lambda x: stage("identity", x), (input,), saves=NOTHING)
    return made


@declared
def to(input: Tensor, *args: Any, dtype: Any = None, **_: Any) -> Tensor:
    """Converted to a dtype, or that of another tensor; devices are ignored: all is CPU."""
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif not isinstance(arg, (str, bool)):
            dtype = arg
    if dtype is None or dtypes.named(dtype) is input.dtype:
        return input
    wanted = dtypes.named(dtype).numpy
    made: Tensor = apply("ToCopyBackward0", lambda x: cast(x, wanted), (input,), saves=NOTHING)
    return made


def _conversion(name: str) -> Callable[[Tensor], Tensor]:
    return lambda input: to(input, dtypes.PUBLIC[name])


# Methods only: at the top level these names are dtypes.
for _name in ("float", "double", "half", "int", "long", "short", "bool"):
    FUNCTIONS[f"_{_name}"] = _conversion(_name)


@declared
def flip(input: Tensor, *dims: Any) -> Tensor:
    """Axes reversed."""
    axes = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    made: Tensor = apply(
        "FlipBackward0", lambda x: snp.copy(snp.flip(x, tuple(axes))), (input,), saves=NOTHING
    )
    return made


@declared
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted around."""
    made: Tensor = apply(
        "RollBackward0", lambda x: snp.roll(x, shifts, dims), (input,), saves=NOTHING
    )
    return made


@declared
def repeat(input: Tensor, *sizes: Any) -> Tensor:
    """Copies side by side along each axis."""
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    made: Tensor = apply(
        "RepeatBackward0", lambda x: snp.tile(x, tuple(given)), (input,), saves=NOTHING
    )
    return made


def _triangle(name: str) -> Callable[..., Tensor]:
    label, function = f"{name.title()}Backward0", getattr(snp, name)

    def triangle(input: Tensor, diagonal: int = 0) -> Tensor:
        made: Tensor = apply(label, lambda x: function(x, diagonal), (input,), saves=NOTHING)
        return made

    triangle.__name__ = name
    return triangle


FUNCTIONS["tril"], FUNCTIONS["triu"] = _triangle("tril"), _triangle("triu")


@declared
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along an axis."""
    dtype = dtypes.promote(tensors)

    def compute(*xs: Tracer) -> Any:
        return snp.concatenate([cast(x, dtype) for x in xs], axis=dim)

    made: Tensor = apply("CatBackward0", compute, tuple(tensors), saves=NOTHING)
    return made


FUNCTIONS["concat"] = cat


@declared
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors along a new axis."""
    dtype = dtypes.promote(tensors)

    def compute(*xs: Tracer) -> Any:
        return snp.stack([cast(x, dtype) for x in xs], axis=dim)

    made: Tensor = apply("StackBackward0", compute, tuple(tensors), saves=NOTHING)
    return made


@declared
def split(input: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of parts of the given size or sizes along an axis."""
    total = input.shape[dim]
    if isinstance(split_size, int):
        counts = [min(split_size, total - at) for at in range(0, total, split_size)]
    else:
        counts = list(split_size)
    ends = np.cumsum(counts)
    if ends[-1] != total:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {total} (input tensor's size "
            f"at dimension {dim}), but got split_sizes={counts}"
        )
    lead = (slice(None),) * (dim % input.ndim)

    def compute(x: Tracer) -> Any:
        return [x[(*lead, slice(int(e) - n, int(e)))] for n, e in zip(counts, ends, strict=True)]

    made: tuple[Tensor, ...] = apply("SplitBackward0", compute, (input,), saves=NOTHING)
    return made


@declared
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` parts of equal size, the last one maybe smaller."""
    return split(input, -(-input.shape[dim] // chunks), dim)


@declared
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis."""
    lead = (slice(None),) * (dim % input.ndim)

    def compute(x: Tracer) -> Any:
        return [x[(*lead, i)] for i in range(x.shape[dim])]

    made: tuple[Tensor, ...] = apply("UnbindBackward0", compute, (input,), saves=NOTHING)
    return made
