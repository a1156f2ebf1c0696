"""Convolutions of small images against sums over windows in float64, on a random grid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.kernels.conv_small import SmallConvSpec, lower_small_conv, shares
from symgrad.codegen.target import Target

from tests.codegen.harness import (
    TARGETS,
    Array,
    Kernel,
    addresses,
    run_lowering,
    scratch_area,
    target_named,
)
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
        if not spec_of(c, to_input=to_input).refusal(target) and not (to_input and c.channels % 16)
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


SHARED = Case(2, 32, 64, (2, 2), dtype="f32")
"""Few pixels and many weights: to the input, every thread has a share of the outputs."""


def shared_spec() -> SmallConvSpec:
    spec = spec_of(SHARED, to_input=True)
    halo = Blocked.dense("f32", spec.x.shape, ((0, 1), (2, 1)))
    return replace(spec, x=halo)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_shares_of_a_gradient(threads: int) -> None:
    """With an epilogue, into a tensor with a halo; a smaller team gives the same bits."""
    target = Target.host()
    x, w, dy = SHARED.arrays()
    _, dx, _ = reference(SHARED, x, w, dy)
    rng = np.random.default_rng(6)
    bias = rng.standard_normal(dx.shape[1]).astype(np.float32)
    residual = rng.standard_normal(dx.shape).astype(np.float32)
    other = Blocked.dense("f32", dx.shape, ((1, 1), (0, 2)))
    epilogue = BiasAddRelu((Access("f32", (0, 16, 0, 0, 1)), other.access))
    spec = replace(shared_spec(), epilogue=epilogue)
    if reason := spec.refusal(target):
        pytest.skip(reason)
    lowering = lower_small_conv(spec, target, threads)
    assert [phase.label for phase in lowering.phases] == ["small_conv", "add_shares"]
    results = []
    for team in (threads, 1):
        out = np.zeros(spec.x.buffer_shape, np.float32)
        operands = [to_blocked(spec.y, dy), blocked_weights(w.astype(np.float32)), bias]
        operands += [to_blocked(other, residual), out]
        run_lowering(lowering, operands, team, target)
        results.append(out)
    wanted = np.maximum(dx + bias[:, None, None] + residual, 0)
    close(from_blocked(spec.x, results[0]), wanted, "f32", 9 * SHARED.outputs)
    assert halo_is_zero(spec.x, results[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("to_input", [False, True], ids=["forward", "to_input"])
def test_a_thread_reads_its_own_weights(to_input: bool) -> None:
    """In both directions those of its output channels: all others are nan."""
    target, threads = Target.host(), 3
    x, w, dy = SHARED.arrays()
    spec = shared_spec() if to_input else spec_of(SHARED)
    if reason := spec.refusal(target):
        pytest.skip(reason)
    phase = lower_small_conv(spec, target, threads).phases[0]
    kernel = Kernel(lambda k, name: phase.emit(k, name, phase.spec), target)
    source = to_blocked(*((spec.y, dy) if to_input else (spec.x, x)))
    size = spec.share.elements if to_input else spec.y.elements
    for tid in range(threads):
        own = slice(*(16 * (4 * n // threads) for n in (tid, tid + 1)))  # of four blocks
        weights = np.full_like(w, np.nan)
        weights[own] = w[own]
        out = np.full((threads if to_input else 1, size), 7, np.float32)
        arrays = [source, blocked_weights(weights.astype(np.float32)), out]
        arrays.append(scratch_area(phase.scratch_bytes))
        kernel.share(addresses(arrays), tid, threads)
        assert np.isfinite(out).all()
        written = out != 7
        if to_input:
            assert written[tid].all() and not written[np.arange(threads) != tid].any()
        else:
            assert from_blocked(spec.y, written.reshape(spec.y.buffer_shape))[:, own].all()


def test_where_shares_do_not_pay() -> None:
    assert shares(shared_spec(), 3) == 3
    assert shares(shared_spec(), 5) == 1  # four blocks of output channels
    assert shares(spec_of(SHARED), 3) == 1
    assert shares(spec_of(replace(SHARED, images=32), to_input=True), 3) == 1
    grouped = replace(SHARED, channels=64, outputs=128, groups=2)
    assert shares(spec_of(grouped, to_input=True), 3) == 1


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
