"""Convolutions of small images against sums over windows in float64, on a random grid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.kernels.conv_small import SmallConvSpec, lower_small_conv
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_lowering, target_named
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

    groups = pick(1, 1, 1, 2)
    inputs = pick(3, 16, 32, 48) if groups == 1 else 32
    kernel = pick(1, 2, 3, 3), pick(1, 2, 3, 3)
    return Case(
        pick(1, 2, 3, 6, 8),
        inputs,
        pick(16, 32, 64) * groups,
        (pick(1, 2, 3, 4, 5), pick(1, 2, 3, 4)),
        kernel,
        (pick(1, 1, 2), pick(1, 1, 2)),
        (kernel[0] - 1, pick(*range(kernel[1]))),
        (pick(1, 1, 2), 1),
        groups,
        ("f32", "f64")[seed % 2],
    )


def spec_of(case: Case, *, to_input: bool = False) -> SmallConvSpec:
    x, y = layouts(case)
    shape = (case.outputs, case.channels // case.groups, *case.kernel)
    weights = Weights.blocked(case.dtype, shape)
    return SmallConvSpec(x, y, weights, to_input=to_input, **case.window)


CASES = [c for c in map(random_case, range(44)) if min(c.out_size) > 0]


def fitting(to_input: bool, target: Target) -> list[Case]:
    return [
        c
        for c in CASES
        if not spec_of(c, to_input=to_input).refusal(target)
        and not (to_input and c.channels % 16)
    ]


def check(case: Case, target: Target, *, to_input: bool) -> None:
    x, w, dy = case.arrays()
    y, dx, _ = reference(case, x, w, dy)
    spec = spec_of(case, to_input=to_input)
    source, result = (spec.y, spec.x) if to_input else (spec.x, spec.y)
    given, expected = (dy, dx) if to_input else (x, y)
    weights = blocked_weights(w.astype(DTYPES[case.dtype]))
    for threads in (1, 3):
        out = np.zeros(result.buffer_shape, DTYPES[case.dtype])
        lowering = lower_small_conv(spec, target, threads)
        run_lowering(lowering, [to_blocked(source, given), weights, out], threads, target)
        terms = math.prod(case.kernel) * (case.outputs if to_input else case.channels)
        close(from_blocked(result, out), expected, case.dtype, terms)
        assert halo_is_zero(result, out)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("to_input", [False, True], ids=["forward", "to_input"])
def test_random_grid(to_input: bool, target_name: str) -> None:
    target = target_named(target_name)
    cases = fitting(to_input, target)
    assert len(cases) > 12
    for case in cases:
        check(case, target, to_input=to_input)


@pytest.mark.parametrize("target_name", TARGETS)
def test_epilogue(target_name: str) -> None:
    target = target_named(target_name)
    case = Case(3, 16, 32, (4, 2), (3, 2), (2, 1))
    x, w, dy = case.arrays()
    y, _, _ = reference(case, x, w, dy)
    rng = np.random.default_rng(5)
    bias = rng.standard_normal(y.shape[1]).astype(np.float32)
    residual = rng.standard_normal(y.shape).astype(np.float32)
    other = Blocked.dense("f32", y.shape, ((0, 1), (2, 0)))
    epilogue = BiasAddRelu((Access("f32", (0, 16, 0, 0, 1)), other.access))
    spec = replace(spec_of(case), epilogue=epilogue)
    out = np.zeros(spec.y.buffer_shape, np.float32)
    operands: list[Array] = [to_blocked(spec.x, x), blocked_weights(w.astype(np.float32)), bias]
    operands += [to_blocked(other, residual), out]
    run_lowering(lower_small_conv(spec, target, 2), operands, 2, target)
    wanted = np.maximum(y + bias[:, None, None] + residual, 0)
    close(from_blocked(spec.y, out), wanted, "f32", 9 * 16)


def test_refusals() -> None:
    target = Target.named("avx512")
    fits = spec_of(Case(1, 16, 16, (4, 4)))
    assert fits.refusal(target) is None
    large = spec_of(Case(1, 16, 16, (8, 8))).refusal(target)
    assert large == "64 pixels and 9 taps do not fit the registers"
    plain = Weights.plain("f32", 16, 16, (3, 3))
    unblocked = replace(fits, weights=plain).refusal(target)
    assert unblocked == "small images need weights in the blocked layout"
    few = spec_of(Case(1, 3, 16, (4, 4)), to_input=True).refusal(target)
    assert few == "3 input channels do not fill a block of 16"
    assert fits.refusal(Target.named("avx2")) is not None
