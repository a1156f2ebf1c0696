"""Copies: tensors joined, repeated, converted, and arranged anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.numpy import core
from symgrad.tensors import dtypes
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tensors.axes import many_axes, one_axis, sizes_of
from symgrad.tensors.elementwise import FUNCTIONS, declared, enter
from symgrad.tensors.handle import Tensor
from symgrad.tensors.parts import diagonal
from symgrad.tensors.shapes import expand, flatten, unsqueeze
from symgrad.tracer import Tracer
from symgrad.tracing import stage


def moved(label: str, compute: Callable[..., Any], *operands: Tensor, dtype: Any = None) -> Tensor:
    """A copy whose derivative reads no value."""
    made: Tensor = apply(
        f"{label}Backward0", compute, operands, saves=NOTHING, wide=False, dtype=dtype
    )
    return made


@declared
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy, tracked."""
    return moved("Clone", lambda x: stage("identity", x), input)


def _target(input: Tensor, args: tuple[Any, ...], dtype: Any) -> dtypes.dtype:
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif isinstance(arg, (dtypes.dtype, np.dtype)):
            dtype = arg
        elif not isinstance(arg, bool):
            dtypes.device(arg)  # raises for what is no device of ours
    return input.dtype if dtype is None else dtypes.named(dtype)


@declared
def to(
    input: Tensor, *args: Any, dtype: Any = None, device: Any = None, copy: bool = False,
    non_blocking: bool = False, memory_format: Any = None,
) -> Tensor:  # fmt: skip
    """Converted to a dtype, or that of another tensor.  The only device is the CPU."""
    wanted = _target(input, args, dtype)
    if device is not None:
        dtypes.device(device)
    if wanted is input.dtype:
        return clone(input) if copy else input
    kind = wanted.numpy
    return moved("ToCopy", lambda x: core.astype(x, kind), input, dtype=kind)


def _conversion(name: str) -> Callable[..., Tensor]:
    def convert(input: Tensor, memory_format: Any = None) -> Tensor:
        return to(input, dtypes.PUBLIC[name])

    convert.__doc__ = f"Converted to ``torch.{name}``."
    return convert


# Methods only: at the top level these names are dtypes.
for _name in ("float", "double", "half", "bfloat16", "int", "long", "short", "bool"):
    FUNCTIONS[f"_{_name}"] = _conversion(_name)
FUNCTIONS["_char"], FUNCTIONS["_byte"] = _conversion("int8"), _conversion("uint8")


@declared
def flip(input: Tensor, *dims: Any) -> Tensor:
    """Axes reversed."""
    axes = many_axes(sizes_of(dims), input.ndim)
    return moved("Flip", lambda x: stage("reverse", x, axes=axes), input)


@declared
def fliplr(input: Tensor) -> Tensor:
    """Axis 1 reversed."""
    return flip(input, 1)


@declared
def flipud(input: Tensor) -> Tensor:
    """Axis 0 reversed."""
    return flip(input, 0)


@declared
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Quarter turns in the plane of two axes."""
    plane = tuple(one_axis(d, input.ndim) for d in dims)
    return moved("Rot90", lambda x: snp.copy(snp.rot90(x, k, plane)), input)


@declared
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted around; what leaves at one end enters at the other."""
    return moved("Roll", lambda x: snp.roll(x, shifts, dims), input)


@declared
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """Copies side by side along each axis."""
    given = sizes_of(repeats)
    if len(given) < input.ndim:
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of "
            "tensor"
        )
    return moved("Repeat", lambda x: snp.tile(x, tuple(given)), input)


@declared
def tile(input: Tensor, *dims: Any) -> Tensor:
    """As ``repeat``; missing counts are 1."""
    given = sizes_of(dims)
    return repeat(input, (*(1,) * (input.ndim - len(given)), *given))


@declared
def repeat_interleave(
    input: Tensor, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element repeated: by one count, or by one for each slice."""
    x = flatten(input) if dim is None else input
    axis = 0 if dim is None else one_axis(dim, input.ndim)
    if isinstance(repeats, Tensor) and repeats.numel() > 1:
        places = np.repeat(np.arange(x.shape[axis]), repeats._array())
        chosen: Tensor = FUNCTIONS["index_select"](x, axis, Tensor.of_array(places))
        return chosen
    count = int(repeats)
    return moved("View", lambda v: snp.repeat(v, count, axis), x)


# -- several tensors -----------------------------------------------------------------------


@declared
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along an axis."""
    if not tensors:
        raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
    dtype = dtypes.promote(tensors)
    shown = [t for t in tensors if t.shape != (0,)] or list(tensors)
    first = shown[0]
    if not all(t.ndim for t in shown):
        at = next(i for i, t in enumerate(shown) if not t.ndim)
        raise RuntimeError(f"zero-dimensional tensor (at position {at}) cannot be concatenated")
    axis = one_axis(dim, first.ndim)
    for number, other in enumerate(shown):
        if other.ndim != first.ndim:
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {first.ndim} and {other.ndim}"
            )
        for d, (n, m) in enumerate(zip(first.shape, other.shape, strict=True)):
            if d != axis and n != m:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {axis}. Expected size {n} "
                    f"but got size {m} for tensor number {number} in the list."
                )

    def compute(*xs: Tracer) -> Any:
        return snp.concatenate([core.astype(x, dtype) for x in xs], axis=axis)

    return moved("Cat", compute, *shown, dtype=dtype)


FUNCTIONS["concat"] = FUNCTIONS["concatenate"] = cat


@declared
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors along a new axis."""
    for number, other in enumerate(tensors):
        if other.shape != tensors[0].shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(tensors[0].shape)} at "
                f"entry 0 and {list(other.shape)} at entry {number}"
            )
    dtype = dtypes.promote(tensors)
    axis = one_axis(dim, tensors[0].ndim + 1)

    def compute(*xs: Tracer) -> Any:
        return snp.stack([core.astype(x, dtype) for x in xs], axis=axis)

    return moved("Stack", compute, *tensors, dtype=dtype)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors side by side: along axis 1, vectors along their only axis."""
    given = FUNCTIONS["atleast_1d"](list(tensors))
    return cat(given, 0 if given[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors below each other along axis 0; vectors are rows."""
    return cat(FUNCTIONS["atleast_2d"](list(tensors)), 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors behind each other along axis 2."""
    return cat(FUNCTIONS["atleast_3d"](list(tensors)), 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors side by side; vectors are columns."""
    return cat([unsqueeze(t, 1) if t.ndim == 1 else t for t in tensors], 1)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of the grid that vectors span."""
    lines = sizes_of(tensors)
    order = list(range(len(lines)))
    if indexing == "xy" and len(lines) > 1:
        order[:2] = 1, 0
    shape = [0] * len(lines)
    for place, line in zip(order, lines, strict=True):
        shape[place] = line.numel()
    grids = []
    for place, line in zip(order, lines, strict=True):
        thin = FUNCTIONS["reshape"](line, [-1 if i == place else 1 for i in range(len(lines))])
        grids.append(expand(thin, shape))
    return tuple(grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of the elements of vectors, a row each."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([flatten(g) for g in meshgrid(*tensors)], 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of ``r`` elements of a vector, a row each."""
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(choose(range(input.numel()), r)), np.int64).reshape(-1, r)
    columns = [
        FUNCTIONS["index_select"](input, 0, Tensor.of_array(np.ascontiguousarray(rows[:, c])))
        for c in range(r)
    ]
    return stack(columns, 1)


def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix with the given ones along its diagonal."""
    matrices = [FUNCTIONS["atleast_2d"](t) for t in tensors]
    rows = sum(m.shape[0] for m in matrices)
    columns = sum(m.shape[1] for m in matrices)

    def compute(*xs: Tracer) -> Any:
        total: Any = None
        at = [0, 0]
        for x in xs:
            high = (rows - at[0] - x.shape[0], columns - at[1] - x.shape[1])
            placed = stage("pad", x, low=tuple(at), high=high, interior=(0, 0), value=0)
            total = placed if total is None else total + placed
            at = [at[0] + x.shape[0], at[1] + x.shape[1]]
        return total

    return moved("BlockDiag", compute, *matrices)


# -- triangles and diagonals ---------------------------------------------------------------


def _triangle(name: str) -> None:
    function = getattr(snp, name)

    def triangle(input: Tensor, diagonal: int = 0) -> Tensor:
        return moved(name.title(), lambda x: function(x, diagonal), input)

    enter(triangle, name, "The triangle of matrices on one side of a diagonal, zeros elsewhere.")


_triangle("tril")
_triangle("triu")


@declared
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices, in two new axes, with the last axis as a diagonal."""
    rank = input.ndim + 1
    i, j = one_axis(dim1, rank), one_axis(dim2, rank)
    n = input.shape[-1]

    def compute(x: Tracer) -> Any:
        wide = core.broadcast(core.reshape(x, (*x.shape, 1)), (*x.shape, n))
        square = snp.where(np.eye(n, dtype=bool), wide, snp.array(0, dtype=x.dtype))
        none = (0,) * (rank - 2)
        low, high = (max(-offset, 0), max(offset, 0)), (max(offset, 0), max(-offset, 0))
        padded = stage(
            "pad", square, low=(*none, *low), high=(*none, *high), interior=(0,) * rank, value=0
        )
        return snp.copy(snp.moveaxis(padded, (-2, -1), (i, j)))

    return moved("DiagEmbed", compute, input)


@declared
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix with a diagonal."""
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input.ndim}D")
    made: Tensor = apply(
        "DiagonalBackward0_copy", lambda x: snp.diagonal(x, diagonal), (input,), saves=NOTHING
    )
    return made


@declared
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with all elements on a diagonal."""
    return diag_embed(flatten(input), offset)


# -- a part replaced -----------------------------------------------------------------------


def _replaced(label: str, view: Callable[..., Tensor], input: Tensor, src: Tensor) -> Tensor:
    copy = snp_positions(input, view)

    def compute(x: Tracer, new: Tracer) -> Any:
        flat = stage("reshape", x, shape=(x.size,))
        put = stage("scatter", flat, core.astype(new, x.dtype), copy, axes=(0,))
        return stage("reshape", put, shape=x.shape)

    return moved(label, compute, input, src)


def snp_positions(input: Tensor, view: Callable[[Tensor], Tensor]) -> Any:
    """The element numbers of what a view shows."""
    numbers = Tensor.of_array(np.arange(input.numel()).reshape(tuple(input.shape)))
    return np.ascontiguousarray(view(numbers)._array())


@declared
def diagonal_scatter(
    input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """A copy with a diagonal replaced."""
    return _replaced("DiagonalScatter", lambda x: diagonal(x, offset, dim1, dim2), input, src)


@declared
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy with one slice replaced."""
    return _replaced("SelectScatter", lambda x: FUNCTIONS["select"](x, dim, index), input, src)


@declared
def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """A copy with a range of slices replaced."""
    key = (*(slice(None),) * one_axis(dim, input.ndim), slice(start, end, step))
    return _replaced("SliceScatter", lambda x: x[key], input, src)


@declared
def narrow_copy(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A copy of ``narrow``."""
    key = (*(slice(None),) * one_axis(dim, input.ndim), slice(start, start + length))
    return moved("NarrowCopy", lambda x: snp.copy(x[key]), input)


def constant_pad_nd(input: Tensor, pad: Sequence[int], value: Any = 0) -> Tensor:
    """Widened by a constant: pairs of widths from the last axis on; negative ones cut."""
    low, high = [0] * input.ndim, [0] * input.ndim
    for i, (a, b) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        low[input.ndim - 1 - i], high[input.ndim - 1 - i] = a, b

    def compute(x: Tracer) -> Any:
        key = tuple(
            slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(low, high, x.shape, strict=True)
        )
        widths = {"low": tuple(max(a, 0) for a in low), "high": tuple(max(b, 0) for b in high)}
        number = np.asarray(value, x.dtype).item()
        return stage("pad", x[key], **widths, interior=(0,) * x.ndim, value=number)

    return moved("ConstantPadNd", compute, input)


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of the elements of a vector, a row each."""
    powers = np.arange(x.numel() if N is None else N)
    exponents = Tensor.of_array(powers if increasing else powers[::-1].copy())
    made: Tensor = FUNCTIONS["pow"](unsqueeze(x, -1), exponents)
    return made


PLAIN = {
    f.__name__: f
    for f in (
        hstack, vstack, dstack, column_stack, meshgrid, cartesian_prod, combinations, block_diag,
        constant_pad_nd, vander,
    )
} | {"row_stack": vstack}  # fmt: skip
"""Functions that are no methods."""
