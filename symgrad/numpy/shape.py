"""Functions that rearrange one array: reshape, transpose, flip, roll, pad and their kin.

Where NumPy gives a view, so does tracing: a write to it reaches its base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import ShapeError, UnsupportedError
from symgrad.numpy.core import (
    astype,
    broadcast,
    common_shape,
    implements,
    many_axes,
    one_axis,
    refuse,
    sizes,
    sliced,
    traced,
    transposed,
)
from symgrad.numpy.core import reshape as plain_reshape
from symgrad.tracer import Tracer
from symgrad.tracing import stage


def _reshaped(x: Tracer, shape: Sequence[int]) -> Tracer:
    """A view under another shape, or a copy where the elements do not lie in that order."""
    target = tuple(shape)
    reshaped = plain_reshape(x, target).copy()
    try:
        memory = x.memory.reshape(target, copy=False)
    except ValueError:  # NumPy copies, too
        return reshaped
    return reshaped.as_view_of(
        x,
        lambda base: plain_reshape(base, target),
        lambda base, new: plain_reshape(new, base.shape),
        memory=memory,
    )


def _permuted(x: Tracer, axes: Sequence[int]) -> Tracer:
    """A view with its axes in another order."""
    back = tuple(np.argsort(axes).tolist())
    return (
        transposed(x, axes)
        .copy()
        .as_view_of(
            x,
            lambda base: transposed(base, axes),
            lambda base, new: transposed(new, back),
            memory=x.memory.transpose(axes),
        )
    )


# -- reshape -------------------------------------------------------------------------------


@implements(np.reshape)
def reshape(a: Any, shape: Any = None, order: Any = "C", *, copy: Any = None) -> Tracer:
    """Another shape for the same elements; one size may be -1."""
    x = traced(a)
    target = list(sizes(shape))
    if target.count(-1) == 1:
        known = math.prod(n for n in target if n != -1)
        if known and x.size % known == 0:
            target[target.index(-1)] = x.size // known
    if math.prod(target) != x.size or min(target, default=0) < 0:
        raise ShapeError(
            f"reshape: {x._value.type} has {x.size} elements and does not fit shape {sizes(shape)}"
        )
    if copy is False:
        x.memory.reshape(target, order=order, copy=False)  # raises where it is no view
    if copy:
        return reshape(x, target, order).copy()
    if order == "F":
        return transpose(_reshaped(transpose(x), target[::-1]))
    if order not in ("C", "A", "K") or (order != "C" and not x.memory.flags.c_contiguous):
        raise UnsupportedError(
            f"reshape: order={order!r} of {x._value.type} cannot be traced; use 'C' or 'F'"
        )
    return _reshaped(x, target)


@implements(np.ravel)
def ravel(a: Any, order: str = "C") -> Tracer:
    """All elements along one axis."""
    return reshape(a, -1, order)


@implements(np.squeeze)
def squeeze(a: Any, axis: Any = None) -> Tracer:
    """Without axes of size 1."""
    x = traced(a)
    if axis is None:
        return _reshaped(x, [n for n in x.shape if n != 1])
    axes = many_axes("squeeze", axis, x)
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"squeeze: axes {axes} of {x._value.type} are not all of size 1")
    return _reshaped(x, [n for a, n in enumerate(x.shape) if a not in axes])


@implements(np.expand_dims)
def expand_dims(a: Any, axis: Any) -> Tracer:
    """New axes of size 1 at the given positions of the result."""
    x = traced(a)
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    new = many_axes("expand_dims", tuple(given), x, x.ndim + len(given))
    old = iter(x.shape)
    return _reshaped(x, [1 if i in new else next(old) for i in range(x.ndim + len(given))])


def _declare_at_least(name: Callable[..., Any], place: Callable[[Tracer], Tracer]) -> None:
    @implements(name)
    def at_least(*arrays: Any) -> Any:
        results = tuple(place(traced(x)) for x in arrays)
        return results[0] if len(results) == 1 else results


def _at_least_3d(x: Tracer) -> Tracer:
    shapes = {0: (1, 1, 1), 1: (1, *x.shape, 1), 2: (*x.shape, 1)}
    return _reshaped(x, shapes.get(x.ndim, x.shape))


_declare_at_least(np.atleast_1d, lambda x: _reshaped(x, x.shape or (1,)))
_declare_at_least(np.atleast_2d, lambda x: _reshaped(x, (1,) * (2 - x.ndim) + x.shape))
_declare_at_least(np.atleast_3d, _at_least_3d)

# -- order of axes -------------------------------------------------------------------------


@implements(np.transpose, np.permute_dims)
def transpose(a: Any, axes: Any = None) -> Tracer:
    """The axes in another order, reversed by default."""
    x = traced(a)
    if axes is None:
        return _permuted(x, tuple(reversed(range(x.ndim))))
    order = [one_axis("transpose", i, x) for i in axes]
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"transpose: axes {tuple(axes)} are no permutation for {x._value.type}")
    return _permuted(x, order)


@implements(np.swapaxes)
def swapaxes(a: Any, axis1: int, axis2: int) -> Tracer:
    """Two axes exchanged."""
    x = traced(a)
    order = list(range(x.ndim))
    i, j = one_axis("swapaxes", axis1, x), one_axis("swapaxes", axis2, x)
    order[i], order[j] = j, i
    return _permuted(x, order)


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def matrix_transpose(x: Any) -> Tracer:
    """The last two axes exchanged."""
    return swapaxes(x, -1, -2)


@implements(np.moveaxis)
def moveaxis(a: Any, source: Any, destination: Any) -> Tracer:
    """Axes moved to new positions, the others keeping their order."""
    x = traced(a)
    source = source if isinstance(source, (tuple, list)) else (source,)
    destination = destination if isinstance(destination, (tuple, list)) else (destination,)
    moved = [one_axis("moveaxis", i, x) for i in source]
    places = [one_axis("moveaxis", i, x) for i in destination]
    if len(moved) != len(places) or len(set(moved)) < len(moved) or len(set(places)) < len(places):
        raise ShapeError(f"moveaxis: cannot move axes {source} of {x._value.type} to {destination}")
    order = [i for i in range(x.ndim) if i not in moved]
    for place, axis in sorted(zip(places, moved, strict=True)):
        order.insert(place, axis)
    return _permuted(x, order)


@implements(np.rollaxis)
def rollaxis(a: Any, axis: int, start: int = 0) -> Tracer:
    """One axis moved before another."""
    x = traced(a)
    i = one_axis("rollaxis", axis, x)
    j = start + x.ndim if start < 0 else start
    return moveaxis(x, i, j - 1 if i < j else j)


# -- broadcasting and copies ---------------------------------------------------------------


@implements(np.broadcast_to)
def broadcast_to(array: Any, shape: Any, subok: bool = False) -> Tracer:
    """A read-only view repeated to a shape."""
    x, target = traced(array), sizes(shape)
    offset = len(target) - x.ndim
    if offset < 0 or any(n not in (1, target[a + offset]) for a, n in enumerate(x.shape)):
        raise ShapeError(f"broadcast_to: {x._value.type} does not broadcast to shape {target}")
    memory = np.broadcast_to(x.memory, target)
    return (
        broadcast(x, target)
        .copy()
        .as_view_of(x, lambda base: broadcast(base, target), None, memory=memory)
    )


@implements(np.broadcast_arrays)
def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Tracer, ...]:
    """All operands repeated to their common shape."""
    operands = [traced(x) for x in args]
    shape = common_shape("broadcast_arrays", operands)
    return tuple(broadcast_to(x, shape) for x in operands)


@implements(np.copy)
def copy(a: Any, order: str = "K", subok: bool = False) -> Tracer:
    """An independent array of the same elements."""
    return traced(a).copy()


@implements(np.copyto)
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """Writes ``src`` into ``dst`` where a mask holds."""
    if not isinstance(dst, Tracer):
        source = traced(src)
        source.trace.concrete(source, "assign")
    refuse("copyto", casting=None if casting in ("same_kind", "unsafe") else casting)
    if casting == "unsafe":
        src = astype(src, dst.dtype)
    dst.assign(src if where is True else HANDLERS[np.where](where, src, dst), "copyto")


# -- reversal and rotation -----------------------------------------------------------------


@implements(np.flip)
def flip(m: Any, axis: Any = None) -> Tracer:
    """Runs axes backwards."""
    x = traced(m)
    axes = many_axes("flip", axis, x)

    def reverse(base: Tracer) -> Tracer:
        result: Tracer = stage("reverse", base, axes=axes)
        return result

    return (
        reverse(x)
        .copy()
        .as_view_of(x, reverse, lambda base, new: reverse(new), memory=np.flip(x.memory, axes))
    )


@implements(np.fliplr)
def fliplr(m: Any) -> Tracer:
    """Axis 1 reversed."""
    return flip(m, 1)


@implements(np.flipud)
def flipud(m: Any) -> Tracer:
    """Axis 0 reversed."""
    return flip(m, 0)


@implements(np.rot90)
def rot90(m: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tracer:
    """Quarter turns in the plane of two axes."""
    first, second = axes
    turns = (
        lambda x: x,
        lambda x: swapaxes(flip(x, second), first, second),
        lambda x: flip(x, axes),
        lambda x: flip(swapaxes(x, first, second), second),
    )
    return turns[k % 4](traced(m))


@implements(np.roll)
def roll(a: Any, shift: Any, axis: Any = None) -> Tracer:
    """Elements moved along axes, those leaving at one end entering at the other."""
    x = traced(a)
    if axis is None:
        return plain_reshape(roll(plain_reshape(x, (x.size,)), shift, 0), x.shape)
    for n, along in np.broadcast(shift, axis):
        at = one_axis("roll", int(along), x)
        size = x.shape[at]
        cut = (size - int(n)) % size if size else 0
        if cut:
            x = stage("concatenate", sliced(x, at, cut, size), sliced(x, at, 0, cut), axis=at)
    return x


# -- padding -------------------------------------------------------------------------------

_PAD_MODES = {"edge": "edge", "reflect": "reflect", "symmetric": "symmetric", "wrap": "wrap"}


@implements(np.pad)
def pad(array: Any, pad_width: Any, mode: str = "constant", **kwargs: Any) -> Tracer:
    """Widens axes by a constant or by repeating the array's own elements."""
    x = traced(array)
    if isinstance(pad_width, dict):
        pad_width = [pad_width.get(a, pad_width.get(a - x.ndim, 0)) for a in range(x.ndim)]
        pad_width = [(w, w) if isinstance(w, int) else w for w in pad_width]
    widths = [(int(lo), int(hi)) for lo, hi in np.broadcast_to(pad_width, (x.ndim, 2))]
    if mode == "constant":
        values = kwargs.pop("constant_values", 0)
        refuse("pad", **kwargs)
        return _pad_constant(x, widths, values)
    if mode not in _PAD_MODES or kwargs:
        raise UnsupportedError(
            f"pad: mode={mode!r} with {kwargs or 'no options'} cannot be traced; "
            f"supported: constant, {', '.join(_PAD_MODES)}"
        )
    for axis, (lo, hi) in enumerate(widths):  # where each element comes from, by NumPy itself
        if lo or hi:
            source = np.pad(np.arange(x.shape[axis]), (lo, hi), mode=mode)  # type: ignore[call-overload]
            x = HANDLERS[np.take](x, source, axis)
    return x


def _pad_constant(x: Tracer, widths: Sequence[tuple[int, int]], values: Any) -> Tracer:
    if any(n < 0 for pair in widths for n in pair):
        raise ShapeError(f"pad: widths must not be negative, got {widths}")
    pairs = np.broadcast_to(values, (x.ndim, 2))
    if (pairs == pairs[:1, :1]).all():
        return (
            _pad_once(x, [w[0] for w in widths], [w[1] for w in widths], pairs.flat[0])
            if widths
            else x
        )
    for axis in range(x.ndim):
        for side in (0, 1):
            low, high = [0] * x.ndim, [0] * x.ndim
            (high if side else low)[axis] = widths[axis][side]
            x = _pad_once(x, low, high, pairs[axis, side])
    return x


def _pad_once(x: Tracer, low: Sequence[int], high: Sequence[int], number: Any) -> Tracer:
    value = np.asarray(number, x.dtype).item()
    none = (0,) * x.ndim
    result: Tracer = stage("pad", x, low=tuple(low), high=tuple(high), interior=none, value=value)
    return result


# -- what is known without the elements ----------------------------------------------------


@implements(np.shape)
def shape(a: Any) -> tuple[int, ...]:
    """Sizes of the axes."""
    return traced(a).shape


@implements(np.ndim)
def ndim(a: Any) -> int:
    """Number of axes."""
    return traced(a).ndim


@implements(np.size)
def size(a: Any, axis: Any = None) -> int:
    """Number of elements, in all or along axes."""
    x = traced(a)
    return math.prod(x.shape[i] for i in many_axes("size", axis, x))


@implements(np.iscomplexobj)
def iscomplexobj(x: Any) -> bool:
    """Whether the dtype is complex."""
    return traced(x).dtype.kind == "c"


@implements(np.isrealobj)
def isrealobj(x: Any) -> bool:
    """Whether the dtype is real."""
    return traced(x).dtype.kind != "c"
