"""Identities of reductions and products: less to sum, no transposed copies."""

from __future__ import annotations

import math
from typing import Any

from symgrad.ir.graph import Op, Value, insertion, scalar_constant
from symgrad.ir.ops import linalg as la
from symgrad.ir.ops import shape as sh
from symgrad.ir.passes.algebra import made_by
from symgrad.ir.passes.movement import in_order
from symgrad.ir.rewrite import Rule, rule

_REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_any", "reduce_all")
_EXACT_COUNT = 1 << 24


@rule(*_REDUCTIONS)
def reduce_of_reduce(op: Op, x: Value) -> Value | None:
    """Reducing twice in one way is reducing once over all the axes."""
    inner = made_by(x, op.name)
    if inner is None:
        return None
    kept = sh.other_axes(inner.operands[0].rank, inner.attrs["axes"])
    axes = sorted((*inner.attrs["axes"], *(kept[a] for a in op.attrs["axes"])))
    result: Value = op.opdef(inner.operands[0], axes=tuple(axes))
    return result


@rule(*_REDUCTIONS)
def reduce_of_reshape(op: Op, x: Value) -> Value | None:
    """A reduction over all axes does not care about the shape."""
    inner = made_by(x, "reshape")
    if inner is None or len(op.attrs["axes"]) != x.rank:
        return None
    source = inner.operands[0]
    result: Value = op.opdef(source, axes=tuple(range(source.rank)))
    return result


@rule("reduce_max", "reduce_min", "reduce_any", "reduce_all")
def reduce_of_transpose(op: Op, x: Value) -> Value | None:
    """reduce(transpose(x)) = transpose(reduce(x)); sums keep their order of adding"""
    inner = made_by(x, "transpose")
    if inner is None:
        return None
    order = inner.attrs["axes"]
    gone = sorted(order[a] for a in op.attrs["axes"])
    small = op.opdef(inner.operands[0], axes=tuple(gone))
    kept = [order[a] for a in sh.other_axes(x.rank, op.attrs["axes"])]
    result: Value = sh.transpose(small, axes=tuple(sorted(kept).index(a) for a in kept))
    return result


@rule("reduce_sum", "reduce_max", "reduce_min", "reduce_any", "reduce_all")
def reduce_of_broadcast(op: Op, x: Value) -> Value | None:
    """Over the axes of a broadcast, n equal terms: sum = n x, max = min = any = all = x"""
    inner = made_by(x, "broadcast_to")
    if inner is None or not x.type.size:
        return None
    source, to = inner.operands[0], inner.attrs["axes"]
    repeats = math.prod(x.shape[a] for a in op.attrs["axes"] if a not in to)
    exact = repeats <= _EXACT_COUNT and x.type.dtype.bytes >= 4
    if repeats == 1 or (op.name == "reduce_sum" and not exact):
        return None
    small = op.opdef(source, axes=tuple(i for i, a in enumerate(to) if a in op.attrs["axes"]))
    kept = sh.other_axes(x.rank, op.attrs["axes"])
    axes = tuple(kept.index(a) for a in to if a in kept)
    if op.name == "reduce_sum":
        small = small * repeats
    result: Value = sh.broadcast_to(small, shape=op.result.shape, axes=axes)
    return result


@rule("reduce_sum")
def sum_of_constant(op: Op, x: Value) -> Value | None:
    """sum of n equal integers c = n c, where that is exact"""
    number = scalar_constant(x)
    if number is None or isinstance(number, complex) or not x.type.size:
        return None
    total = number * math.prod(x.shape[a] for a in op.attrs["axes"])
    if total != int(total) or abs(total) > _EXACT_COUNT or number != int(number):
        return None
    result: Value = insertion.builder.constant(total, op.result.type)
    return result


@rule("reduce_sum")
def sum_of_common_factor(op: Op, x: Value) -> Value | None:
    """sum(x s) = s sum(x) and sum(x / s) = sum(x) / s for s constant along the summed axes"""
    if not x.type.dtype.is_inexact:
        return None
    factors: list[tuple[str, Value]] = []
    core = _without_factors(x, op.attrs["axes"], factors)
    if not factors or core is None:
        return None
    total = op.opdef(core, axes=op.attrs["axes"])
    for kind, factor in factors:
        total = -total if kind == "neg" else insertion.builder.emit(kind, total, factor)
    result: Value = total
    return result


def _without_factors(
    x: Value, axes: tuple[int, ...], factors: list[tuple[str, Value]]
) -> Value | None:
    """``x`` without the factors that are constant along ``axes``, which are collected.

    ``None`` if nothing else is left.
    """
    if (inner := made_by(x, "neg")) is not None:
        factors.append(("neg", x))
        return _without_factors(inner.operands[0], axes, factors)
    if (inner := made_by(x, "div")) is not None:
        divisor = _along_kept(inner.operands[1], axes)
        if divisor is None:
            return x
        rest = _without_factors(inner.operands[0], axes, factors)
        factors.append(("div", divisor))
        return rest
    if (inner := made_by(x, "mul")) is None:
        return x
    kept: list[Value] = []
    for operand in inner.operands:
        factor = _along_kept(operand, axes)
        if factor is not None:
            factors.append(("mul", factor))
        elif (core := _without_factors(operand, axes, factors)) is not None:
            kept.append(core)
    if not kept:
        return None
    if all(a is b for a, b in zip(kept, inner.operands, strict=False)) and len(kept) == 2:
        return x
    return kept[0] if len(kept) == 1 else kept[0] * kept[1]


def _along_kept(value: Value, axes: tuple[int, ...]) -> Value | None:
    """A value that is the same along ``axes``, without them; else ``None``."""
    kept = sh.other_axes(value.rank, axes)
    shape = tuple(value.shape[a] for a in kept)
    if (number := scalar_constant(value)) is not None:
        constant: Value = insertion.builder.constant(number, value.type.with_shape(shape))
        return constant
    inner = made_by(value, "broadcast_to")
    if inner is None or any(a in axes and value.shape[a] != 1 for a in inner.attrs["axes"]):
        return None
    source, to = inner.operands[0], inner.attrs["axes"]
    small = sh.reshape(
        source, shape=tuple(n for n, a in zip(source.shape, to, strict=True) if a in kept)
    )
    result: Value = sh.broadcast_to(
        small, shape=shape, axes=tuple(kept.index(a) for a in to if a in kept)
    )
    return result


# -- products ------------------------------------------------------------------------------


def _free(x: Value, contract: tuple[int, ...], batch: tuple[int, ...]) -> tuple[int, ...]:
    return sh.other_axes(x.rank, (*contract, *batch))


@rule("dot_general")
def dot_of_transpose(op: Op, x: Value, y: Value) -> Value | None:
    """dot(transpose(x), y) = dot(x, y) with the axes renamed, where free axes keep their order"""
    attrs: dict[str, Any] = dict(op.attrs)
    operands = [x, y]
    for i, side in enumerate(("lhs", "rhs")):
        inner = made_by(operands[i], "transpose")
        if inner is None:
            continue
        order = inner.attrs["axes"]
        contract, batch = attrs[f"{side}_contract"], attrs[f"{side}_batch"]
        if in_order([order[a] for a in _free(operands[i], contract, batch)]):
            operands[i] = inner.operands[0]
            attrs[f"{side}_contract"] = tuple(order[a] for a in contract)
            attrs[f"{side}_batch"] = tuple(order[a] for a in batch)
    if operands == [x, y]:
        return None
    result: Value = la.dot_general(*operands, **attrs)
    return result


@rule("transpose")
def transpose_of_dot(op: Op, x: Value) -> Value | None:
    """transpose(dot(x, y)) = dot(y, x) where it swaps the free axes of both sides"""
    inner = made_by(x, "dot_general")
    if inner is None:
        return None
    left, right = inner.operands
    a = inner.attrs
    batch = len(a["lhs_batch"])
    middle = batch + len(_free(left, a["lhs_contract"], a["lhs_batch"]))
    if op.attrs["axes"] != (*range(batch), *range(middle, x.rank), *range(batch, middle)):
        return None
    result: Value = la.dot_general(
        right,
        left,
        lhs_contract=a["rhs_contract"],
        rhs_contract=a["lhs_contract"],
        lhs_batch=a["rhs_batch"],
        rhs_batch=a["lhs_batch"],
    )
    return result


@rule("dot_general")
def dot_of_one_term(op: Op, x: Value, y: Value) -> Value | None:
    """A contraction over axes of size 1 is a broadcast product."""
    a = op.attrs
    if math.prod(x.shape[i] for i in a["lhs_contract"]) != 1 or not op.result.type.size:
        return None
    batch = tuple(range(len(a["lhs_batch"])))
    left_free = _free(x, a["lhs_contract"], a["lhs_batch"])
    middle = len(batch) + len(left_free)
    left = _spread(x, (*a["lhs_batch"], *left_free), op, tuple(range(middle)))
    right_free = _free(y, a["rhs_contract"], a["rhs_batch"])
    to = (*batch, *range(middle, op.result.rank))
    return left * _spread(y, (*a["rhs_batch"], *right_free), op, to)


@rule("conv", "conv_input_grad")
def conv_of_one_term(op: Op, x: Value, w: Value) -> Value | None:
    """A convolution with windows of one point over one channel is a broadcast product."""
    a, groups, channels = op.attrs, op.attrs["groups"], op.result.shape[1]
    moves = any(n != 1 for n in (*a["stride"], *a["lhs_dilation"])) or any(map(any, a["padding"]))
    if moves or math.prod(w.shape[2:]) != 1 or not op.result.type.size:
        return None
    if x.shape[1] != groups or groups not in (1, channels):
        return None
    if groups == 1:
        axes = (0, *range(2, x.rank))
        x = _spread(x, axes, op, axes)
    weights: Value = sh.reshape(w, shape=(channels,))
    result: Value = x * sh.broadcast_to(weights, shape=op.result.shape, axes=(1,))
    return result


def _spread(x: Value, axes: tuple[int, ...], op: Op, to: tuple[int, ...]) -> Value:
    """The given axes of ``x``, the others having size 1, along ``to`` of the result."""
    gone = sh.other_axes(x.rank, axes)
    ordered = sh.transpose(x, axes=(*axes, *gone))
    small = sh.reshape(ordered, shape=tuple(x.shape[a] for a in axes))
    result: Value = sh.broadcast_to(small, shape=op.result.shape, axes=to)
    return result


RULES: tuple[Rule, ...] = (
    reduce_of_reduce,
    reduce_of_reshape,
    reduce_of_transpose,
    reduce_of_broadcast,
    sum_of_constant,
    sum_of_common_factor,
    dot_of_transpose,
    transpose_of_dot,
    dot_of_one_term,
    conv_of_one_term,
)
