"""Which algorithm runs a convolution on channel-blocked activations.

Every algorithm that can compute it gives an estimate in cycles of the slowest thread, a
pure function of shapes, target and thread count; the least wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Generic, TypeVar

from symgrad.codegen.access import Epilogue
from symgrad.codegen.kernels import (
    Lowering,
    conv_direct,
    conv_direct_grad,
    conv_direct_spec,
    conv_lanes,
    conv_lanes_grad,
    conv_small,
    winograd_conv,
)
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair, Weights, lane_group
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec
from symgrad.codegen.kernels.winograd import POINTS, STRIDED_TAPS
from symgrad.codegen.kernels.winograd_grad import WinogradGradSpec
from symgrad.codegen.kernels.winograd_grad_schedule import grad_schedule, lower_winograd_grad
from symgrad.codegen.kernels.winograd_regions import Axis, axes
from symgrad.codegen.kernels.winograd_schedule import schedule
from symgrad.codegen.layout import channels
from symgrad.codegen.lowering.conv_fit import Problem, halos
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.target import Target
from symgrad.ir.graph import Op, Value
from symgrad.ir.record import record

SIZES = tuple(size for size in POINTS if size > 1)
"""Rows and columns that Winograd's algorithm transforms a tile to."""
LANES = "groups in lanes"
"""The algorithm for groups that are runs of lanes of a block."""


@record
class Setting:
    """What a choice depends on beside the convolution."""

    target: Target
    threads: int
    precision: str = "default"
    invariant_weights: bool = False
    """Whether the weights are the same in most runs."""

    @staticmethod
    def of(scope: Scope, weights: Value | None = None) -> Setting:
        """That of a function being lowered, for a convolution with given weights."""
        invariant_weights = weights is not None and scope.is_invariant(weights)
        return Setting(scope.target, scope.threads, scope.conv_precision, invariant_weights)


Made = TypeVar("Made")


@record
class Candidate(Generic[Made]):
    """An algorithm, what it would take, and how to get its kernels."""

    name: str
    cycles: float
    lower: Callable[[], Made]


Kernels = Candidate[Lowering]


def geometry(op: Op) -> dict[str, Any]:
    """The attributes that kernels on blocked activations take."""
    return {
        "stride": op.attrs["stride"],
        "padding": tuple(low for low, _ in op.attrs["padding"]),
        "dilation": op.attrs["dilation"],
        "groups": op.attrs["groups"],
    }


def nominal_work(op: Op) -> dict[str, Any]:
    """Nominal flops and bytes of a convolution or one of its gradients."""
    values = (*op.operands, op.result)
    kernel = op.attrs["kernel"] if op.name == "conv_weight_grad" else op.operands[1].shape[2:]
    inputs, outputs = channels(op)
    output = {"conv": op.result, "conv_input_grad": op.operands[0]}.get(op.name, op.operands[1])
    spatial = output.shape[2:]
    points = op.operands[0].shape[0] * prod(spatial)
    flops = 2.0 * points * inputs * outputs * prod(kernel) / op.attrs["groups"]
    return {"flops": flops, "bytes": float(sum(v.type.bytes for v in values))}


def convolution(
    scope: Scope,
    op: Op,
    source: Blocked,
    result: Blocked,
    weights: Weights,
    epilogue: Epilogue | None,
    form: str = "",
) -> Lowering:
    """The cheapest kernels of a convolution or of its gradient to the input.

    ``form`` says what was done to the operands, if anything.
    """
    setting = Setting.of(scope, op.operands[1])
    found, refused = candidates(setting, op, source, result, weights, epilogue)
    return cheapest(scope, _in_form(found, form), refused).lower()


def weight_gradient(
    scope: Scope,
    op: Op,
    x: Blocked,
    dy: Blocked,
    dw: Weights,
    epilogue: Epilogue | None,
    form: str = "",
) -> Lowering:
    """The cheapest kernels of a convolution's gradient to its weights; see ``convolution``."""
    setting = Setting.of(scope)
    found, refused = gradient_candidates(setting, op, x, dy, dw, epilogue)
    return cheapest(scope, _in_form(found, form), refused).lower()


def _in_form(found: Sequence[Kernels], form: str) -> list[Kernels]:
    """The candidates, named with what was done to their operands."""
    return [replace(c, name=f"{c.name} on {form}") if form else c for c in found]


def candidates(
    setting: Setting,
    op: Op,
    source: Blocked,
    result: Blocked,
    weights: Weights,
    epilogue: Epilogue | None = None,
) -> tuple[list[Kernels], list[str]]:
    """The algorithms for a convolution or its gradient to the input; why others are none."""
    target, threads = setting.target, setting.threads
    to_input = op.name == "conv_input_grad"
    build = conv_direct_spec.input_grad if to_input else _direct_forward
    direct, packing = build(source, result, weights, epilogue=epilogue, **geometry(op))
    if group := lane_group(*channels(op), op.attrs["groups"]):
        lanes = conv_lanes.LanesSpec(direct, packing)
        cycles = conv_lanes.cycles(lanes, target, threads)
        lower_lanes = partial(conv_lanes.lower_conv_lanes, lanes, threads)
        return [Candidate(LANES, cycles, lower_lanes)], [_only_lanes(group)]
    found = [
        Candidate(
            "direct blocked",
            conv_direct_spec.cycles(direct, packing, target, threads),
            partial(conv_direct.lower_conv, direct, packing, target, threads),
        )
    ]
    refused = []
    x, y = (result, source) if to_input else (source, result)
    small = conv_small.SmallConvSpec(
        x, y, weights, to_input=to_input, epilogue=epilogue, **geometry(op)
    )
    if reason := small.refusal(target):
        refused.append(f"small images: {reason}")
    else:
        cycles = conv_small.cycles(small, target, threads)
        lower = partial(conv_small.lower_small_conv, small, target, threads)
        found.append(Candidate("small images", cycles, lower))
    make = winograd_conv.input_grad if to_input else winograd_conv.forward
    for name, along, reason in _cuts(op, weights.kernel, (source, result), setting.precision):
        spec = make(source, result, weights, along, groups=op.attrs["groups"], epilogue=epilogue)
        if reason := reason or spec.refusal():
            refused.append(f"{name}: {reason}")
            continue
        spec = replace(spec, invariant_weights=setting.invariant_weights)
        cycles = schedule(spec, target, threads).cycles
        lower = partial(winograd_conv.lower_winograd, spec, target, threads)
        found.append(Candidate(name, cycles, lower))
    return found, refused


def gradient_candidates(
    setting: Setting,
    op: Op,
    x: Blocked,
    dy: Blocked,
    dw: Weights,
    epilogue: Epilogue | None = None,
) -> tuple[list[Kernels], list[str]]:
    """The algorithms for a gradient to the weights; why others are none."""
    target, threads = setting.target, setting.threads
    direct = conv_direct_grad.WeightGradSpec(x, dy, dw, epilogue=epilogue, **geometry(op))
    if group := lane_group(*channels(op), op.attrs["groups"]):
        cycles = conv_lanes_grad.cycles(direct, target, threads)
        lower_lanes = partial(conv_lanes_grad.lower_lanes_grad, direct, target, threads)
        return [Candidate(LANES, cycles, lower_lanes)], [_only_lanes(group)]
    found = [
        Candidate(
            "direct blocked",
            conv_direct_grad.cycles(direct, target, threads),
            partial(conv_direct_grad.lower_weight_grad, direct, target, threads),
        )
    ]
    refused = []
    for name, along, reason in _cuts(op, dw.kernel, (x, dy), setting.precision):
        spec = WinogradGradSpec(x, dy, dw, along, op.attrs["groups"], epilogue)
        if reason := reason or spec.refusal():
            refused.append(f"{name}: {reason}")
            continue
        cycles = grad_schedule(spec, target, threads).cycles
        lower = partial(lower_winograd_grad, spec, target, threads)
        found.append(Candidate(name, cycles, lower))
    return found, refused


def _direct_forward(
    x: Blocked, y: Blocked, weights: Weights, **options: Any
) -> tuple[conv_direct_spec.ConvSpec, PackWeightsSpec]:
    packing = PackWeightsSpec(weights, options["groups"])
    return conv_direct_spec.forward(x, y, weights.kernel, **options), packing


def _only_lanes(group: int) -> str:
    return f"others: groups of {group} channels do not fill blocks of {BLOCK}"


def _cuts(
    op: Op, kernel: Pair, operands: tuple[Blocked, Blocked], precision: str
) -> Iterator[tuple[str, tuple[Axis, Axis], str | None]]:
    """Ways to cut planes into Winograd's tiles: the algorithm's name, the axes, and why it does
    not compute the convolution, if so.

    ``operands`` are what tiles read and what has as many tiles.
    """
    source, result = ((t.shape[2], t.shape[3]) for t in operands)
    window = op.attrs["stride"], geometry(op)["padding"]
    seen = set()
    for size in SIZES:
        along = axes(size, kernel, *window, (source, result), to_input=op.name == "conv_input_grad")
        if along not in seen:
            seen.add(along)
            rows, columns = (max(1, axis.outputs) for axis in along)
            name = f"Winograd F({rows} x {columns}, {kernel[0]} x {kernel[1]})"
            yield name, along, _winograd_refusal(op, along, size, precision)


def _winograd_refusal(op: Op, along: tuple[Axis, Axis], size: int, precision: str) -> str | None:
    """Why tiles transformed to ``size`` elements do not compute a convolution, if so."""
    kernel = [axis.taps for axis in along]
    if max(kernel) == 1:
        return "a filter of one tap has no fewer products"
    if any(axis.outputs < 2 and axis.taps > 1 and not axis.plane for axis in along):
        return f"filters of {max(kernel)} taps leave no two outputs to {size} points"
    if set(op.attrs["stride"]) != {1}:
        if set(op.attrs["stride"]) != {2}:
            return "it takes a stride of 1 or 2 along both axes"
        if set(kernel) != {STRIDED_TAPS}:
            return f"with a stride, it takes filters of {STRIDED_TAPS} x {STRIDED_TAPS}"
    if any(n != 1 for n in op.attrs["dilation"]):
        return "it takes no dilation"
    if size > min(SIZES):
        if precision == "high":
            return 'conv_precision is "high"'
        if op.result.type.dtype.name != "f32":
            return "it is exact enough for f32 only"
    return None


def fitted(setting: Setting, problem: Problem) -> Kernels:
    """The cheapest kernels of a fitted convolution, on operands with the halos they need."""
    op, dtype = problem.op, problem.op.result.type.dtype.name
    x_halo, y_halo = halos(op)
    x = Blocked.dense(dtype, problem.x.shape, x_halo)
    y = Blocked.dense(dtype, problem.y.shape, y_halo)
    w = Weights.plain(dtype, problem.w.shape[0], problem.w.shape[1], problem.w.plane)
    if op.name == "conv_weight_grad":
        found, _ = gradient_candidates(setting, op, x, y, w)
    elif op.name == "conv":
        found, _ = candidates(setting, op, x, y, w)
    else:
        found, _ = candidates(setting, op, y, x, w)
    return best_of(found)


def best_of(found: Sequence[Candidate[Made]]) -> Candidate[Made]:
    """The candidate of least estimate."""
    return min(found, key=lambda c: c.cycles)


def cheapest(
    scope: Scope, found: Sequence[Candidate[Made]], refused: Sequence[str]
) -> Candidate[Made]:
    """``best_of`` the candidates; records it, and what is said of the others."""
    best = best_of(found)
    others = [
        f"{c.name}: {c.cycles / max(best.cycles, 1.0):.2f} times the time"
        for c in found
        if c is not best
    ]
    scope.choose(best.name, "; ".join([*others, *refused]))
    return best
