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
from symgrad.tracing import stage

_NO_VIEW = (
    "view size is not compatible with input tensor's size and stride (at least one dimension "
    "spans across two contiguous subspaces). Use .reshape(...) instead."
)


def viewed(name: str, compute: Callable[[Any], Any], input: Tensor) -> Any:
    """A view; ``compute`` makes it of a traced value and of a NumPy array alike."""
    label = name if name.endswith(("0", "1", "2", "3", "4")) else f"{name}Backward0"
    made = apply(label, compute, (input,), saves=NOTHING, views=True)
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
    made: Tensor = viewed("Transpose", lambda x: np.swapaxes(x, i, j) if x.ndim else x, input)
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
    if not input.ndim:
        return alias(input)
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
    if math.prod(shape) == input.numel():  # nothing is stretched, and may be written to
        return _as_shape(input, shape, "Expand")
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
