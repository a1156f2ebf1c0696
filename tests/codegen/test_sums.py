"""Sums over channels that convolutions take of what they store, against NumPy in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.kernels import Lowering, conv_direct, conv_direct_spec, winograd_conv
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec
from symgrad.codegen.kernels.conv_small import SmallConvSpec, lower_small_conv
from symgrad.codegen.kernels.tally import TallySpec, lower_join, partial_sums
from symgrad.codegen.kernels.winograd_conv import KernelSpec
from symgrad.codegen.kernels.winograd_tiles import Tiling
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering import conv_choice
from symgrad.codegen.lowering.epilogue import RegionEpilogue
from symgrad.codegen.lowering.sums import RegionSums
from symgrad.codegen.target import Target
from symgrad.ir import Func, TensorType, dtype_of, interpret
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.builder import Builder
from symgrad.ir.ops import conv as cv
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import reduce as rd
from symgrad.ir.passes import optimize

from tests.codegen.harness import TARGETS, run_lowering, target_named
from tests.codegen.regions import region
from tests.codegen.test_conv_direct import (
    DTYPES,
    Case,
    blocked_weights,
    from_blocked,
    layouts,
    to_blocked,
)
from tests.codegen.test_winograd import cut

# -- kernels -------------------------------------------------------------------------

Build = Callable[[RegionEpilogue, Target, int], Lowering]


@dataclass(frozen=True)
class Job:
    """One kernel: what it takes and gives, and how its lowering is made for an epilogue."""

    name: str
    source: Blocked
    result: Blocked
    weights: Weights
    build: Build


def jobs(case: Case) -> Iterator[Job]:
    """All kernels that can compute a case."""
    x, y = layouts(case)
    weights = Weights.blocked(case.dtype, (case.outputs, case.channels, *case.kernel))
    forward = PackWeightsSpec(weights, 1)

    def direct(e: RegionEpilogue, t: Target, n: int) -> Lowering:
        spec = conv_direct_spec.forward(x, y, case.kernel, **case.window, epilogue=e)
        return conv_direct.lower_conv(spec, forward, t, n)

    def direct_grad(e: RegionEpilogue, t: Target, n: int) -> Lowering:
        spec, packing = conv_direct_spec.input_grad(y, x, weights, **case.window, epilogue=e)
        return conv_direct.lower_conv(spec, packing, t, n)

    yield Job("direct", x, y, weights, direct)
    yield Job("direct_grad", y, x, weights, direct_grad)
    for to_input in (False, True):
        small = SmallConvSpec(x, y, weights, to_input=to_input, **case.window)
        if not small.refusal(Target.host()):
            yield Job(
                f"small{'_grad' * to_input}", *((y, x) if to_input else (x, y)), weights,
                lambda e, t, n, s=small: lower_small_conv(replace(s, epilogue=e), t, n),
            )  # fmt: skip
    if case.kernel != (3, 3) or case.stride != (1, 1):
        return
    sizes = (4, 6) if case.dtype == "f32" else (4,)
    for size, tiles_first in itertools.product(sizes, (True, False)):
        make = winograd_conv.lower_tiles_first if tiles_first else winograd_conv.lower_filters_first
        name = f"winograd{size}_{'tiles' if tiles_first else 'filters'}"
        for grad, transform in enumerate((winograd_conv.forward, winograd_conv.input_grad)):
            source, result = (y, x) if grad else (x, y)
            along = cut(case, size, source, result, to_input=bool(grad))
            spec = transform(source, result, weights, along)
            yield Job(
                name + "_grad" * grad, source, result, weights,
                lambda e, t, n, s=spec, make=make: make(
                    KernelSpec(replace(s, epilogue=e), Tiling(4, 1, 8, 1)), t, n
                ),
            )  # fmt: skip


CASES = [
    Case(2, 32, 48, (7, 9)),
    Case(3, 16, 32, (9, 5), stride=(2, 2)),
    Case(1, 32, 16, (6, 5), kernel=(1, 1), stride=(2, 2), padding=(0, 0)),
    Case(3, 16, 32, (2, 2)),
    Case(2, 16, 32, (5, 4), dtype="f64"),
]


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.size}{case.kernel}{case.dtype}")
def test_kernels(case: Case, target_name: str) -> None:
    """Stored: relu(result + other).  Summed: that, and its product with a third tensor."""
    target, dtype = target_named(target_name), DTYPES[case.dtype]
    rng = np.random.default_rng(1)
    for job in jobs(case):
        source, result = job.source, job.result
        if "small" in job.name and target_name != "host":
            continue  # other targets may have too few registers
        channels = result.shape[1]
        given = rng.standard_normal(source.shape)
        w = rng.standard_normal((case.outputs, case.channels, *case.kernel))
        other, third = (rng.standard_normal(result.shape).astype(dtype) for _ in range(2))
        plain = Blocked.dense(case.dtype, result.shape)
        spec = TallySpec(("sum", "sum"), channels)
        d = case.dtype
        epilogue = RegionEpilogue(
            (plain.access,), region(lambda b, a, o: ew.relu(a + o), d, d), 0, d, (),
            RegionSums(
                (plain.access,), region(lambda b, t, a: (a, a * t), d, d), 1, spec,
                partial_sums(spec, 4, 16),
            ),
        )  # fmt: skip
        for threads in (1, 3) if target_name == "host" else (2,):
            sums = np.full((threads, 2, channels), np.nan)
            out = np.zeros(result.buffer_shape, dtype)
            operands = [
                to_blocked(source, given), blocked_weights(w.astype(dtype)),
                to_blocked(plain, other), to_blocked(plain, third), sums, out,
            ]  # fmt: skip
            run_lowering(job.build(epilogue, target, threads), operands, threads, target)
            stored = from_blocked(result, out).astype(np.float64)
            totals = [np.full(channels, np.nan, dtype) for _ in range(2)]
            join = lower_join(spec, case.dtype)
            run_lowering(join, [sums, *totals], threads, target)
            axes = (0, 2, 3)
            wanted = stored.sum(axes), (stored * third).sum(axes)
            scale = 4 * np.finfo(dtype).eps
            for total, expected, terms in zip(
                totals, wanted, (stored, stored * third), strict=True
            ):
                bound = scale * np.abs(terms).sum(axes).max()
                np.testing.assert_allclose(total, expected, rtol=0, atol=bound, err_msg=job.name)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES[:3:2], ids=lambda case: f"{case.size}{case.kernel}")
def test_moments_do_not_cancel(case: Case, target_name: str) -> None:
    """A mean a thousand times the deviation: E[x^2] - E[x]^2 in f32 would be noise."""
    target, rng = target_named(target_name), np.random.default_rng(2)
    for job in jobs(case):
        if "grad" in job.name or ("small" in job.name and target_name != "host"):
            continue
        source, result = job.source, job.result
        given = rng.standard_normal(source.shape)
        w = rng.standard_normal((case.outputs, case.channels, *case.kernel)) * 0.1
        channels = result.shape[1]
        far = np.full(channels, 3000, np.float32)
        spec = TallySpec(("moments",), channels)
        epilogue = RegionEpilogue(
            (replace(result.access, strides=(0, 16, 0, 0, 1), offset=0),),
            region(lambda b, a, o: a + o, "f32", "f32"), 0, "f32", (),
            RegionSums(
                (), region(lambda b, a: a, "f32"), 0, spec, partial_sums(spec, 4, 16)
            ),
        )  # fmt: skip
        for threads in (1, 2) if target_name == "host" else (3,):
            sums = np.full((threads, 2, channels), np.nan)
            out = np.zeros(result.buffer_shape, np.float32)
            operands = [
                to_blocked(source, given), blocked_weights(w.astype(np.float32)), far, sums, out,
            ]  # fmt: skip
            run_lowering(job.build(epilogue, target, threads), operands, threads, target)
            stored = from_blocked(result, out).astype(np.float64)
            shift = stored[0, :, 0, 0]
            count = stored[:, 0].size
            totals = [np.full(channels, np.nan, np.float32) for _ in range(2)]
            join = lower_join(spec, "f32", count, ("square", "deviation"))
            run_lowering(join, [sums, shift.astype(np.float32), *totals], threads, target)
            square, deviation = (t.astype(np.float64) for t in totals)
            variance = square / count - (deviation / count) ** 2
            mean = shift + deviation / count
            axes = (0, 2, 3)
            np.testing.assert_allclose(mean, stored.mean(axes), rtol=1e-7, err_msg=job.name)
            np.testing.assert_allclose(variance, stored.var(axes), rtol=2e-6, err_msg=job.name)


# -- whole functions -------------------------------------------------------------------

CONV = {"dilation": (1, 1), "lhs_dilation": (1, 1), "groups": 1}


def block(
    dtype: str, n: int, channels: int, size: tuple[int, int], kernel: int, stride: int
) -> Func:
    """Two convolutions, each normalised over the batch, with a shortcut around the second,
    as a loss with its gradients."""
    b = Builder(locations=False)
    kind = dtype_of(dtype)
    window = {
        "stride": (stride, stride), "padding": ((kernel // 2, kernel // 2),) * 2, **CONV
    }  # fmt: skip
    same = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), **CONV}
    x = b.param(TensorType(kind, (n, channels, *size)), "x")
    w = b.param(TensorType(kind, (32, channels, kernel, kernel)), "w")
    v = b.param(TensorType(kind, (32, 32, 3, 3)), "v")
    scale = b.param(TensorType(kind, (32,)), "scale")

    def normalised(y: Any) -> Any:
        mean, variance = rd.moments(y, axes=(0, 2, 3))
        factor = ew.rsqrt(variance + 1e-3) * scale
        return (y - rd.spread(mean, y, (0, 2, 3))) * rd.spread(factor, y, (0, 2, 3))

    with b:
        y = ew.tanh(normalised(cv.conv(x, w, **window)))  # smooth: no signs that rounding flips
        z = ew.tanh(normalised(cv.conv(y, v, **same)) + y)
        loss = rd.reduce_sum(z * z, axes=(0, 1, 2, 3))
    return optimize(value_and_grad(b.build([loss], "block"), wrt=(0, 1, 2, 3)))


def random_blocks() -> Iterator[tuple[Any, ...]]:
    rng = np.random.default_rng(7)
    for at in range(5):
        n, height, width = rng.integers(1, 4), *rng.integers(2, 12, 2)
        yield (
            ("f32", "f64")[at % 2], int(n), int(rng.choice([16, 48])),
            (int(height), int(width)), int(rng.choice([1, 3, 5])), 1 + at // 2 % 2,
        )  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("algorithm", [None, "direct", "Winograd F(2", "Winograd F(4"], ids=str)
def test_batch_norm_network(
    algorithm: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled equals interpreted, whichever kernels take the sums, on odd sizes."""
    cheapest = conv_choice.cheapest

    def forced(scope: Any, found: Any, refused: Any) -> Any:
        wanted = [c for c in found if algorithm and c.name.startswith(algorithm)]
        return cheapest(scope, wanted or found, refused)

    monkeypatch.setattr(conv_choice, "cheapest", forced)
    rng = np.random.default_rng(3)
    for shape in list(random_blocks())[:: 1 if algorithm is None else 2]:
        func = block(*shape)
        lowered = lower(func, threads=threads)
        joins = sum(call.phase.label == "join_sums" for call in lowered.calls)
        assert joins >= (2 if shape[0] == "f32" else 1), shape
        numbers = [rng.standard_normal(p.type.shape) for p in func.params]
        numbers[1:3] = [w / 4 for w in numbers[1:3]]
        args = [a.astype(DTYPES[shape[0]]) for a in numbers]
        actual = compile_func(func, threads=threads)(args)
        expected = interpret(block("f64", *shape[1:]), [a.astype(np.float64) for a in args])
        tolerance = {"f32": 2e-3, "f64": 1e-9}[shape[0]]
        for got, wanted in zip(actual, expected, strict=True):
            size = np.abs(wanted).max() + 1e-30
            np.testing.assert_allclose(
                got, wanted, rtol=0, atol=tolerance * size, err_msg=str(shape)
            )


def test_bits_repeat() -> None:
    func = block("f32", 3, 16, (9, 7), 3, 1)
    rng = np.random.default_rng(4)
    args = [rng.standard_normal(p.type.shape).astype(np.float32) for p in func.params]
    run = compile_func(func, threads=2)
    first = [a.tobytes() for a in run(args)]
    assert all([a.tobytes() for a in run(args)] == first for _ in range(5))


def test_what_depends_on_the_result_is_not_summed_early() -> None:
    """The two-pass variance: its second sum needs the first."""
    b = Builder(locations=False)
    x = b.param(TensorType(dtype_of("f32"), (2, 16, 5, 5)), "x")
    w = b.param(TensorType(dtype_of("f32"), (16, 16, 3, 3)), "w")
    with b:
        y = cv.conv(x, w, stride=(1, 1), padding=((1, 1), (1, 1)), **CONV)
        mean = rd.reduce_sum(y, axes=(0, 2, 3)) * (1 / 50)
        deviation = y - rd.spread(mean, y, (0, 2, 3))
        variance = rd.reduce_sum(deviation * deviation, axes=(0, 2, 3))
    func = optimize(b.build([mean, variance], "two_pass"))
    calls = lower(func, threads=2).calls
    assert [c.phase.label for c in calls].count("join_sums") == 1
    rng = np.random.default_rng(5)
    args = [rng.standard_normal(p.type.shape).astype(np.float32) for p in func.params]
    for got, wanted in zip(compile_func(func)(args), interpret(func, args), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
