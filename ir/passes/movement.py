"""Identities of ops that move elements: fewer of them, on smaller arrays, nearer the inputs."""

from __future__ import annotations

import math

from symgrad.ir.graph import Op, Value, insertion, scalar_constant
from symgrad.ir.opdef import REGISTRY
from symgrad.ir.ops import shape as sh
from symgrad.ir.passes.algebra import made_by
from symgrad.ir.rewrite import Rule, rule


def big_axes(shape: tuple[int, ...]) -> list[int]:
    """The axes that have more than one element."""
    return [a for a, n in enumerate(shape) if n != 1]


def in_order(axes: list[int] | tuple[int, ...]) -> bool:
    """Whether the axes increase."""
    return list(axes) == sorted(axes)


@rule("reshape", "transpose", "slice", "reverse", "reduce_max", "reduce_min")
def rearranged_constant(op: Op, x: Value) -> Value | None:
    """Moving the elements of an array of one number gives an array of that number."""
    number = scalar_constant(x)
    if number is None or not x.type.size:
        return None
    result: Value = insertion.builder.emit("constant", value=number, type=op.result.type)
    return result


@rule("pad")
def pad_of_constant(op: Op, x: Value) -> Value | None:
    """Padding a constant with its own number gives that constant, larger."""
    number = scalar_constant(x)
    if number is None or number != op.attrs["value"]:
        return None
    result: Value = insertion.builder.emit("constant", value=number, type=op.result.type)
    return result


@rule("reshape")
def reshape_of_broadcast(op: Op, x: Value) -> Value | None:
    """Reshaping a scalar's broadcast broadcasts the scalar to the new shape."""
    inner = made_by(x, "broadcast_to")
    if inner is None or inner.operands[0].type.size != 1:
        return None
    scalar = sh.reshape(inner.operands[0], shape=())
    result: Value = sh.broadcast_to(scalar, shape=op.attrs["shape"], axes=())
    return result


@rule("transpose")
def transpose_of_small_axes(op: Op, x: Value) -> Value | None:
    """A transpose that moves only axes of size 1 is a reshape."""
    moved = [a for a in op.attrs["axes"] if x.shape[a] != 1]
    result: Value | None = sh.reshape(x, shape=op.result.shape) if in_order(moved) else None
    return result


@rule("transpose")
def transpose_of_broadcast(op: Op, x: Value) -> Value | None:
    """transpose(broadcast(x)) = broadcast(transpose(x)), which moves fewer elements"""
    inner = made_by(x, "broadcast_to")
    if inner is None:
        return None
    to = sh.inverse(op.attrs["axes"])
    axes = [to[a] for a in inner.attrs["axes"]]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    small = sh.transpose(inner.operands[0], axes=tuple(order))
    result: Value = sh.broadcast_to(small, shape=op.result.shape, axes=tuple(sorted(axes)))
    return result


@rule("broadcast_to")
def broadcast_to_small_axes(op: Op, x: Value) -> Value | None:
    """A broadcast that adds only axes of size 1 is a reshape."""
    same = x.type.size == op.result.type.size and x.type.size > 0
    result: Value | None = sh.reshape(x, shape=op.result.shape) if same else None
    return result


@rule(*(name for name, opdef in REGISTRY.items() if opdef.elementwise))
def elementwise_of_broadcasts(op: Op, *operands: Value) -> Value | None:
    """f(broadcast(x), broadcast(y)) = broadcast(f(x, y)), computed for fewer elements"""
    shape = op.result.shape
    used: set[int] = set()
    for value in operands:
        inner = made_by(value, "broadcast_to")
        if inner is None and scalar_constant(value) is None:
            return None
        used.update(inner.attrs["axes"] if inner else ())
    axes = sorted(used)
    small = tuple(shape[a] for a in axes)
    if math.prod(small) >= math.prod(shape):
        return None
    shrunk = [_shrunk(value, small, axes) for value in operands]
    result: Value = sh.broadcast_to(op.opdef(*shrunk, **op.attrs), shape=shape, axes=tuple(axes))
    return result


def _shrunk(value: Value, shape: tuple[int, ...], axes: list[int]) -> Value:
    """A constant or broadcast value along some of its axes only."""
    inner = made_by(value, "broadcast_to")
    result: Value
    if inner is None:
        number = scalar_constant(value)
        result = insertion.builder.emit("constant", value=number, type=value.type.with_shape(shape))
    else:
        to = tuple(axes.index(a) for a in inner.attrs["axes"])
        result = sh.broadcast_to(inner.operands[0], shape=shape, axes=to)
    return result


@rule("iota")
def iota_of_one_axis(op: Op) -> Value | None:
    """iota over many axes = a broadcast of iota over its own"""
    shape, axis = op.attrs["shape"], op.attrs["axis"]
    if len(shape) == 1:
        return None
    line = sh.iota(shape=(shape[axis],), axis=0, dtype=op.attrs["dtype"])
    result: Value = sh.broadcast_to(line, shape=shape, axes=(axis,))
    return result


@rule("slice")
def slice_of_slice(op: Op, x: Value) -> Value | None:
    """x[a:b:c][d:e:f] = x[a+dc : a+ec : cf]"""
    inner = made_by(x, "slice")
    if inner is None:
        return None
    outer, start, stop, step = op.attrs, [], [], []
    for axis, (a, b, c) in enumerate(
        zip(inner.attrs["start"], inner.attrs["stop"], inner.attrs["step"], strict=True)
    ):
        d, e, f = (outer[key][axis] for key in ("start", "stop", "step"))
        start.append(min(a + d * c, b))
        stop.append(max(start[-1], min(b, a + (e - 1) * c + 1)))
        step.append(c * f)
    result: Value = sh.slice_(
        inner.operands[0], start=tuple(start), stop=tuple(stop), step=tuple(step)
    )
    return result


@rule("slice")
def slice_of_broadcast(op: Op, x: Value) -> Value | None:
    """slice(broadcast(x)) = broadcast(slice(x))"""
    inner = made_by(x, "broadcast_to")
    if inner is None:
        return None
    axes = inner.attrs["axes"]
    picked = {key: tuple(op.attrs[key][a] for a in axes) for key in ("start", "stop", "step")}
    small = sh.slice_(inner.operands[0], **picked)
    result: Value = sh.broadcast_to(small, shape=op.result.shape, axes=axes)
    return result


@rule("slice")
def slice_of_pad(op: Op, x: Value) -> Value | None:
    """A slice that takes exactly what a pad put around gives back the operand."""
    inner = made_by(x, "pad")
    if inner is None or inner.operands[0].shape != op.result.shape or not x.type.size:
        return None
    steps = tuple(gap + 1 for gap in inner.attrs["interior"])
    begins = op.attrs["start"] == inner.attrs["low"]
    spaced = all(
        a == b or n == 1 for a, b, n in zip(op.attrs["step"], steps, op.result.shape, strict=True)
    )
    return inner.operands[0] if begins and spaced else None


@rule("slice")
def slice_of_concatenate(op: Op, x: Value) -> Value | None:
    """A slice within one part of a concatenation is a slice of that part."""
    inner = made_by(x, "concatenate")
    if inner is None or not op.result.type.size:
        return None
    axis, at = inner.attrs["axis"], 0
    start, stop = op.attrs["start"][axis], op.attrs["stop"][axis]
    for part in inner.operands:
        end = at + part.shape[axis]
        if at <= start and stop <= end:
            lo, hi = list(op.attrs["start"]), list(op.attrs["stop"])
            lo[axis], hi[axis] = start - at, stop - at
            result: Value = sh.slice_(part, start=tuple(lo), stop=tuple(hi), step=op.attrs["step"])
            return result
        at = end
    return None


@rule("reverse")
def reverse_of_reverse(op: Op, x: Value) -> Value | None:
    """Reversing the same axes twice changes nothing."""
    inner = made_by(x, "reverse")
    if inner is None or sorted(inner.attrs["axes"]) != sorted(op.attrs["axes"]):
        return None
    return inner.operands[0]


@rule("add")
def add_of_neighbouring_pads(op: Op, x: Value, y: Value) -> Value | None:
    """pad(x, 0) + pad(y, 0) = pad(concatenate(x, y), 0) where the two meet end to end"""
    first, second = made_by(x, "pad"), made_by(y, "pad")
    if first is None or second is None:
        return None
    for left, right in ((first, second), (second, first)):
        a, b = left.attrs, right.attrs
        if a["value"] != 0 or b["value"] != 0 or any(a["interior"]) or any(b["interior"]):
            return None
        differ = [
            i for i in range(x.rank) if (a["low"][i], a["high"][i]) != (b["low"][i], b["high"][i])
        ]
        if len(differ) != 1:
            return None
        (axis,) = differ
        if a["low"][axis] + left.operands[0].shape[axis] == b["low"][axis]:
            both = sh.concatenate(left.operands[0], right.operands[0], axis=axis)
            high = tuple(b["high"][i] if i == axis else n for i, n in enumerate(a["high"]))
            result: Value = sh.pad(both, low=a["low"], high=high, interior=a["interior"], value=0)
            return result
    return None


@rule("concatenate")
def concatenate_of_concatenate(op: Op, *parts: Value) -> Value | None:
    """Concatenations along one axis join into one."""
    axis = op.attrs["axis"]
    flat: list[Value] = []
    for part in parts:
        inner = made_by(part, "concatenate")
        flat += inner.operands if inner and inner.attrs["axis"] == axis else [part]
    result: Value | None = sh.concatenate(*flat, axis=axis) if len(flat) > len(parts) else None
    return result


RULES: tuple[Rule, ...] = (
    rearranged_constant,
    pad_of_constant,
    reshape_of_broadcast,
    transpose_of_small_axes,
    transpose_of_broadcast,
    broadcast_to_small_axes,
    elementwise_of_broadcasts,
    iota_of_one_axis,
    slice_of_slice,
    slice_of_broadcast,
    slice_of_pad,
    slice_of_concatenate,
    reverse_of_reverse,
    add_of_neighbouring_pads,
    concatenate_of_concatenate,
)
