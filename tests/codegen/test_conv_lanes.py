"""Convolutions of small groups on blocked activations, against sums over windows in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.compile import compile_func
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import conv_direct_spec
from symgrad.codegen.kernels.blocked import Blocked, Weights, lane_group
from symgrad.codegen.kernels.conv_direct_grad import WeightGradSpec
from symgrad.codegen.kernels.conv_lanes import LanesSpec, lower_conv_lanes
from symgrad.codegen.kernels.conv_lanes_grad import lower_lanes_grad, refusal
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec
from symgrad.codegen.lower import lower
from symgrad.codegen.target import Target
from symgrad.ir import Func, interpret
from symgrad.ir.builder import Builder
from symgrad.ir.passes import optimize
from symgrad.ir.types import TensorType, f32

import symgrad as sg
import symgrad.nn.functional as F
from tests.codegen.harness import TARGETS, Array, Kernel, run_lowering, target_named
from tests.codegen.test_conv_choice import PASSES, chosen, convolution
from tests.codegen.test_conv_direct import (
    DTYPES,
    BiasAddRelu,
    Case,
    blocked_weights,
    close,
    from_blocked,
    halo_is_zero,
    layouts,
    reference,
    to_blocked,
)


def random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)

    def pick(*values: int) -> int:
        return int(rng.choice(values))

    group = (1, 2, 4, 8)[seed % 4]
    channels = pick(16, 32, 48)
    kernel = (pick(1, 2, 3, 3, 5, 7), pick(1, 2, 3, 3, 5, 7)) if seed % 9 else (2, 25)
    stride = pick(1, 1, 2, 3), pick(1, 1, 2, 3)
    dilation = pick(1, 1, 2), pick(1, 1, 2)
    return Case(
        pick(1, 2, 3),
        channels,
        channels,
        (pick(1, 2, 5, 7, 9), pick(1, 2, 4, 7, 14, 19)),
        kernel,
        stride,
        (pick(*range(kernel[0] + 1)), pick(*range(kernel[1] + 1))),
        dilation,
        channels // group,
        ("f32", "f32", "f64")[seed % 3],
    )


CASES = [c for c in map(random_case, range(36)) if min(c.out_size) > 0]


def lanes_spec(case: Case, weights: Weights, *, to_input: bool) -> LanesSpec:
    x, y = layouts(case)
    if to_input:
        return LanesSpec(*conv_direct_spec.input_grad(y, x, weights, **case.window))  # type: ignore[arg-type]
    conv = conv_direct_spec.forward(x, y, case.kernel, **case.window)  # type: ignore[arg-type]
    return LanesSpec(conv, PackWeightsSpec(weights, case.groups))


def blocked_of(case: Case) -> Weights:
    return replace(case.weights(), strides=None)


def check(case: Case, target: Target, *, to_input: bool) -> None:
    x, w, dy = case.arrays()
    y, dx, _ = reference(case, x, w, dy)
    given, expected = (dy, dx) if to_input else (x, y)
    own = w.astype(DTYPES[case.dtype])
    for threads, weights, values in (
        (1, blocked_of(case), blocked_weights(own)),
        (3, case.weights(), own),
    ):
        spec = lanes_spec(case, weights, to_input=to_input)
        source, result = spec.conv.x, spec.conv.y
        out = np.zeros(result.buffer_shape, DTYPES[case.dtype])
        operands = [to_blocked(source, given), values, out]
        run_lowering(lower_conv_lanes(spec, threads), operands, threads, target)
        terms = math.prod(case.kernel) * case.channels // case.groups
        close(from_blocked(result, out), expected, case.dtype, terms)
        assert halo_is_zero(result, out)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("to_input", [False, True], ids=["forward", "to_input"])
def test_random_grid(to_input: bool, target_name: str) -> None:
    target = target_named(target_name)
    cases = CASES if target_name == "host" else CASES[::2]
    assert {c.channels // c.groups for c in cases} == {1, 2, 4, 8}
    for case in cases:
        check(case, target, to_input=to_input)


@pytest.mark.parametrize("target_name", TARGETS)
def test_weight_gradient_grid(target_name: str) -> None:
    target = target_named(target_name)
    for number, case in enumerate(CASES if target_name == "host" else CASES[::2]):
        x, w, dy = case.arrays()
        _, _, expected = reference(case, x, w, dy)
        layout_x, layout_y = layouts(case)
        blocked, threads = number % 2, (1, 2, 5)[number % 3]
        weights = blocked_of(case) if blocked else case.weights()
        spec = WeightGradSpec(layout_x, layout_y, weights, **case.window)  # type: ignore[arg-type]
        wanted = blocked_weights(expected) if blocked else expected
        out = np.full(wanted.shape, np.nan, DTYPES[case.dtype])
        operands = [to_blocked(layout_x, x), to_blocked(layout_y, dy), out]
        run_lowering(lower_lanes_grad(spec, target, threads), operands, threads, target)
        close(out, wanted, case.dtype, case.images * math.prod(case.out_size))


@pytest.mark.parametrize("target_name", TARGETS)
def test_epilogue(target_name: str) -> None:
    target = target_named(target_name)
    case = Case(2, 32, 32, (5, 9), (3, 2), (2, 1), groups=8)
    x, w, dy = case.arrays()
    y, _, _ = reference(case, x, w, dy)
    rng = np.random.default_rng(5)
    bias = rng.standard_normal(y.shape[1]).astype(np.float32)
    residual = rng.standard_normal(y.shape).astype(np.float32)
    other = Blocked.dense("f32", y.shape, ((0, 1), (2, 0)))
    epilogue = BiasAddRelu((Access("f32", (0, 16, 0, 0, 1)), other.access))
    spec = lanes_spec(case, blocked_of(case), to_input=False)
    spec = replace(spec, conv=replace(spec.conv, epilogue=epilogue))
    out = np.zeros(spec.conv.y.buffer_shape, np.float32)
    operands: list[Array] = [to_blocked(spec.conv.x, x), blocked_weights(w.astype(np.float32))]
    operands += [bias, to_blocked(other, residual), out]
    run_lowering(lower_conv_lanes(spec, 2), operands, 2, target)
    wanted = np.maximum(y + bias[:, None, None] + residual, 0)
    close(from_blocked(spec.conv.y, out), wanted, "f32", 6 * 4)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("group", [1, 4])
def test_compiled_is_interpreted(name: str, stride: int, group: int) -> None:
    """Chosen by the compiler, on any number of threads; equal bits every time."""
    options: dict[str, Any] = {"stride": (stride, stride), "groups": 48 // group}
    func = convolution(name, (3, 48, 11, 17), 48, (3, 3), **options)
    assert chosen(func)[0] == "groups in lanes"
    assert f"groups of {group} channels do not fill blocks of 16" in chosen(func)[1]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(t.shape, np.float32) for t in func.param_types]
    (expected,) = interpret(func, arrays)
    for threads in (1, 2, 3):
        run = compile_func(func, threads=threads)
        (actual,) = run(arrays)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(run(arrays)[0], actual)


def between_others(stride: int = 2) -> Func:
    """A depthwise convolution between two of 1 x 1, with relu after each."""
    b = Builder()
    shapes = (2, 16, 9, 9), (32, 16, 1, 1), (32, 1, 3, 3), (16, 32, 1, 1)
    x, first, deep, last = (b.param(TensorType(f32, s)) for s in shapes)
    attrs = {"dilation": (1, 1), "lhs_dilation": (1, 1)}
    none: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0),) * 2, "groups": 1, **attrs}
    some = {"stride": (stride, stride), "padding": ((1, 1),) * 2, "groups": 32, **attrs}
    value = x
    for weights, options in ((first, none), (deep, some), (last, none)):
        value = b.emit("conv", value, weights, **options)
        value = b.emit("maximum", value, b.emit("sub", value, value))
    return b.build([value], "bottleneck")


def test_it_shares_the_layout_of_its_neighbours() -> None:
    """Only the edges of a network are converted."""
    func = between_others()
    run = compile_func(optimize(func), threads=2)
    assert sum(call.op.endswith(":copy") for call in run.lowered.calls) == 2
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape, np.float32) for t in func.param_types]
    np.testing.assert_allclose(run(arrays)[0], interpret(func, arrays)[0], rtol=1e-4, atol=1e-4)


def emits(case: Case, target: Target) -> list[Callable[[Emitter, str], None]]:
    """The kernels of all three passes."""
    x, y = layouts(case)
    weights = blocked_of(case)
    grad = WeightGradSpec(x, y, weights, **case.window)  # type: ignore[arg-type]
    lowerings = [
        *(lower_conv_lanes(lanes_spec(case, weights, to_input=turn), 2) for turn in (False, True)),
        lower_lanes_grad(grad, target, 2),
    ]
    return [
        lambda k, name, p=phase: p.emit(k, name, p.spec)
        for lowering in lowerings
        for phase in lowering.phases
    ]


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_sums_stay_in_registers(target_name: str, stride: int) -> None:
    case = Case(1, 32, 32, (14, 28), (3, 3), (stride, stride), groups=32)
    target = target_named(target_name)
    for emit in emits(case, target):
        assembly = Kernel(emit, target).asm()
        assert re.findall(r"%[xyz]mm\d+, ", assembly)
        assert not re.findall(r"mov\w+\s+%[xyz]mm\d+, -?\d*\(%rsp\)", assembly)


def test_neon_compiles() -> None:
    target = Target.named("neon")
    func = convolution("conv", (2, 32, 9, 9), 32, (3, 3), groups=8)
    assert "fmla" in lower(optimize(func), target=target, threads=2).asm()


def test_refusals() -> None:
    assert lane_group(32, 32, 32) == 1
    assert lane_group(48, 48, 6) == 8
    for inputs, outputs, groups in ((32, 64, 32), (24, 24, 24), (48, 48, 16), (32, 32, 2)):
        assert lane_group(inputs, outputs, groups) is None
    case = Case(1, 32, 32, (5, 5), groups=16)
    x, y = layouts(case)
    spec = lanes_spec(case, case.weights(), to_input=False)
    bare = replace(x, halo=((0, 0), (0, 0)))
    over = "windows reach 1 and 1 rows over the edges of a halo of 0 and 0"
    assert replace(spec, conv=replace(spec.conv, x=bare)).refusal() == over
    grad = WeightGradSpec(bare, y, case.weights(), **case.window)  # type: ignore[arg-type]
    assert refusal(grad) == over
    wide = replace(spec, conv=replace(spec.conv, groups=2))
    assert wide.refusal() == "2 groups of 32 -> 32 channels are not runs of lanes"


@pytest.mark.parametrize("group", [1, 8])
def test_training_is_that_of_separate_groups(group: int) -> None:
    """Batch norm's sums, and weights and momentum updated where they lie blocked."""

    def trained(whole: bool) -> list[Array]:
        rng = np.random.default_rng(1)
        first, last = sg.nn.Conv2d(3, 16, 1), sg.nn.Conv2d(16, 32, 1)
        middle = sg.nn.Conv2d(16, 16, 3, 2, 1, groups=16 // group, bias=False)
        norm = sg.nn.BatchNorm2d(16)
        net = sg.nn.Sequential(first, middle, norm, last).double()
        with sg.no_grad():
            for p in net.parameters():
                p.copy_(sg.tensor(rng.standard_normal(p.shape)))
        x = sg.tensor(rng.standard_normal((2, 3, 8, 7)))
        optimizer = sg.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

        def convolve(value: sg.Tensor) -> sg.Tensor:
            if whole:
                return middle(value)
            runs = [slice(i, i + group) for i in range(0, 16, group)]
            weights = middle.weight
            parts = [F.conv2d(value[:, run], weights[run], None, 2, 1) for run in runs]
            return sg.cat(parts, 1)

        for _ in range(3):
            optimizer.zero_grad()
            last(norm(convolve(first(x)))).square().mean().backward()
            optimizer.step()
        return [p.detach().numpy() for p in net.parameters()]

    for actual, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)
