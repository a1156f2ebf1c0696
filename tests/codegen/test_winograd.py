"""Winograd's algorithm: its matrices exactly, its convolutions against sums in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.jit import emit_assembly
from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.blocked import Blocked
from symgrad.codegen.kernels.winograd import POINTS, TAPS, matrices
from symgrad.codegen.kernels.winograd_conv import (
    KernelSpec,
    forward,
    input_grad,
    lower_filters_first,
    lower_tiles_first,
    lower_winograd,
)
from symgrad.codegen.kernels.winograd_regions import Cut
from symgrad.codegen.kernels.winograd_schedule import schedule
from symgrad.codegen.kernels.winograd_tiles import Tiling, WinogradSpec
from symgrad.codegen.lower import kernel_text
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_lowering, target_named
from tests.codegen.test_conv_direct import (
    DTYPES,
    BiasAddRelu,
    Case,
    blocked_weights,
    from_blocked,
    halo_is_zero,
    layouts,
    reference,
    to_blocked,
)

ROUNDINGS = {2: 8, 4: 40}
"""Errors relative to the largest result, in units of the dtype's eps, by outputs m."""

CASES = [
    Case(2, 32, 48, (5, 5)),
    Case(1, 64, 32, (16, 12)),
    Case(3, 16, 32, (7, 9), padding=(0, 2)),
    Case(2, 64, 32, (6, 7), groups=2),
    Case(1, 48, 96, (9, 6), groups=3),
    Case(1, 32, 16, (3, 4), padding=(3, 1)),
    Case(5, 16, 64, (1, 2)),
    Case(1, 32, 32, (7, 7), dtype="f64"),
]
STRIDED = [
    Case(2, 32, 48, (9, 11), stride=(2, 2)),
    Case(1, 64, 32, (16, 14), stride=(2, 2)),
    Case(3, 16, 32, (7, 10), stride=(2, 2), padding=(0, 2)),
    Case(2, 64, 32, (12, 9), stride=(2, 2), groups=2),
    Case(5, 16, 64, (2, 4), stride=(2, 2)),
    Case(1, 32, 32, (14, 14), stride=(2, 2), dtype="f64"),
]
FORMS = {"tiles": lower_tiles_first, "filters": lower_filters_first}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("outputs", POINTS)
def test_matrices_compute_the_correlation_exactly(outputs: int, stride: int) -> None:
    """``A^T[(G g) * (B^T d)]`` is sum over t of ``g[t] d[stride i + t]``, coefficient by
    coefficient, and so it is for the first outputs with the first elements of the same
    ``G g``."""
    filters = matrices(outputs, stride=stride).filter
    for part in range(1, outputs + 1):
        m, size = matrices(outputs, part, stride), stride * (part - 1) + TAPS
        assert m.filter == filters[:size]
        for i, t, at in itertools.product(range(part), range(TAPS), range(size)):
            total = sum(m.output[i][j] * m.filter[j][t] * m.input[j][at] for j in range(size))
            assert total == (at == stride * i + t)


PLANES = [(8, 12), (5, 7), (6, 8), (4, 9), (3, 9), (9, 2), (1, 3)]


@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_regions_cover_the_plane_once(plane: tuple[int, int]) -> None:
    cut, seen = Cut(2, plane, 4), np.zeros((2, *plane), int)
    numbers = []
    for region in cut.regions:
        numbers += range(region.first, region.first + region.count)
        axes = zip(region.origin, region.grid, strict=True)
        for row, column in itertools.product(*(range(o, o + 4 * n, 4) for o, n in axes)):
            seen[:, row : row + region.outputs[0], column : column + region.outputs[1]] += 1
    assert numbers == list(range(cut.tiles))
    assert (seen == 1).all()
    whole = all(size % 4 == 0 for size in plane)
    assert cut.needed == 1 if whole else cut.needed < 1


def build(
    case: Case, outputs: int, *, grad: bool, epilogue: BiasAddRelu | None = None
) -> tuple[WinogradSpec, Array, Array, Array]:
    """The spec, its input, the weights, and what must come out."""
    x, w, dy = case.arrays()
    y, dx, _ = reference(case, x, w, dy)
    x_layout, y_layout = layouts(case)
    options = {"padding": case.padding, "groups": case.groups, "epilogue": epilogue}
    if grad:
        spec = input_grad(y_layout, x_layout, case.weights(), outputs, **options)  # type: ignore[arg-type]
    else:
        options["stride"] = case.stride[0]
        spec = forward(x_layout, y_layout, case.weights(), outputs, **options)  # type: ignore[arg-type]
    return spec, dy if grad else x, w.astype(DTYPES[case.dtype]), dx if grad else y


def run(
    spec: WinogradSpec,
    lowering: Lowering,
    x: Array,
    operands: list[Array],
    threads: int,
    target: Target,
) -> Array:
    out = np.zeros(spec.y.buffer_shape, DTYPES[spec.y.dtype])
    run_lowering(lowering, [to_blocked(spec.x, x), *operands, out], threads, target)
    assert halo_is_zero(spec.y, out)
    return from_blocked(spec.y, out)


def check(actual: Array, expected: Array, dtype: str, outputs: int) -> None:
    tolerance = ROUNDINGS[outputs] * float(np.finfo(DTYPES[dtype]).eps)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("outputs", POINTS)
@pytest.mark.parametrize("case", [*CASES, *STRIDED], ids=str)
def test_convolution_and_gradient(case: Case, outputs: int, target_name: str) -> None:
    target = target_named(target_name)
    for grad, threads in ((False, 1), (False, 3), (True, 2)):
        if grad and case.stride != (1, 1):
            continue
        spec, x, w, expected = build(case, outputs, grad=grad)
        lowering = lower_winograd(spec, target, threads)
        check(run(spec, lowering, x, [w], threads, target), expected, case.dtype, outputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tiling", [Tiling(3, 1, 6, 1), Tiling(5, 2, 5, 2), Tiling(2, 4, 64, 8)])
@pytest.mark.parametrize("halo", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_tiling(form: str, tiling: Tiling, halo: int, stride: int) -> None:
    """Partial blocks of tiles and of input channels, and halos of any width."""
    size = 6 * stride, 9 * stride
    case, target = Case(3, 48, 64, size, stride=(stride, stride)), Target.host()
    spec, x, w, expected = build(case, 4, grad=False)
    around = ((halo, halo), (halo, halo))
    spec = replace(spec, x=Blocked.dense("f32", spec.x.shape, around))
    lower: Callable[..., Lowering] = FORMS[form]
    for threads in (2, 50):  # so many take parts of a pair of filters
        lowering = lower(KernelSpec(spec, tiling), target, threads)
        check(run(spec, lowering, x, [w], threads, target), expected, "f32", 4)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_epilogue(form: str, target_name: str) -> None:
    case, target = Case(2, 32, 48, (7, 9)), target_named(target_name)
    rng = np.random.default_rng(5)
    for outputs, grad in itertools.product(POINTS, (False, True)):
        spec, x, w, expected = build(case, outputs, grad=grad)
        bias = rng.standard_normal(spec.y.shape[1]).astype(np.float32)
        residual = rng.standard_normal(spec.y.shape).astype(np.float32)
        other = Blocked.dense("f32", spec.y.shape, ((0, 1), (2, 0)))
        spec = replace(
            spec, epilogue=BiasAddRelu((Access("f32", (0, 16, 0, 0, 1)), other.access))
        )
        best = schedule(spec, target, 2)
        lowering = FORMS[form](KernelSpec(spec, replace(best.tiling, depth=2)), target, 2)
        operands = [w, bias, to_blocked(other, residual)]
        wanted = np.maximum(expected + bias[:, None, None] + residual, 0)
        check(run(spec, lowering, x, operands, 2, target), wanted, "f32", outputs)


@pytest.mark.parametrize("form", FORMS)
def test_weights_may_live_blocked(form: str) -> None:
    case, target = Case(2, 32, 48, (5, 6)), Target.host()
    for grad in (False, True):
        spec, x, w, expected = build(case, 4, grad=grad)
        source = replace(spec.weights.source, strides=None)
        spec = replace(spec, weights=replace(spec.weights, source=source))
        lowering = FORMS[form](KernelSpec(spec, Tiling(4, 1, 8, 1)), target, 2)
        check(run(spec, lowering, x, [blocked_weights(w)], 2, target), expected, "f32", 4)


@pytest.mark.parametrize("outputs", POINTS)
def test_error_of_many_channels(outputs: int) -> None:
    """The root of a sum's length times what the transforms lose."""
    case, target = Case(1, 256, 32, (12, 12)), Target.host()
    spec, x, w, expected = build(case, outputs, grad=False)
    actual = run(spec, lower_winograd(spec, target, 2), x, [w], 2, target)
    worst = np.abs(actual - expected).max() / np.abs(expected).max()
    assert worst < {2: 8e-7, 4: 3e-6}[outputs]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("outputs", POINTS)
def test_rests_and_strides_err_no_more(outputs: int, stride: int) -> None:
    """Tiles of fewer outputs and the halves of a strided filter take fewer points."""
    target = Target.host()
    for rows in (12, 13, 14, 15):
        case = Case(1, 256, 32, (stride * rows, stride * 12), stride=(stride, stride))
        spec, x, w, expected = build(case, outputs, grad=False)
        actual = run(spec, lower_winograd(spec, target, 2), x, [w], 2, target)
        error = (actual - expected) / np.abs(expected).max()
        for part in (error, error[:, :, 12:]):  # all rows, those in the rest
            if part.size:
                assert np.sqrt(np.mean(part**2)) < {2: 1.6e-7, 4: 5e-7}[outputs]


def test_nonsense_outside_the_plane_does_not_matter() -> None:
    """Buffers behind the image may hold NaN: partial tiles must not read them."""
    case, target = Case(1, 16, 16, (5, 5)), Target.host()
    spec, x, w, expected = build(case, 4, grad=False)
    buffer = to_blocked(spec.x, x)
    room = np.full(buffer.size + 4096, np.nan, np.float32)
    room[: buffer.size] = buffer.ravel()
    out = np.zeros(spec.y.buffer_shape, np.float32)
    run_lowering(lower_winograd(spec, target, 1), [room, w, out], 1, target)
    check(from_blocked(spec.y, out), expected, "f32", 4)


@pytest.mark.parametrize("name", ["avx512", "avx2", "x86-64", "neon"])
@pytest.mark.parametrize("outputs", POINTS)
def test_tiles_fit_the_registers(outputs: int, name: str) -> None:
    target = Target.named(name)
    for images, size in itertools.product((1, 8), (2, 7, 16, 56)):
        case = Case(images, 64, 128, (size, size))
        spec, *_ = (forward(*layouts(case), case.weights(), outputs, padding=(1, 1)),)
        for threads in (1, 2, 64):
            best = schedule(spec, target, threads)
            tiling = best.tiling
            assert tiling.tiles * tiling.vectors + tiling.vectors < target.vector_registers
            assert tiling.block % tiling.tiles == 0
            assert math.isfinite(best.cycles)


def test_compiles_for_neon() -> None:
    target = Target.named("neon")
    spec, *_ = build(Case(2, 32, 48, (5, 5)), 4, grad=False)
    for form in FORMS.values():
        for phase in form(KernelSpec(spec, Tiling(4, 4, 8, 2)), target, 2).phases:
            text = kernel_text(phase.emit, phase.spec, "kernel", target)
            assert "fmla" in emit_assembly(text, target)


def test_refusals_say_why() -> None:
    def refusal(case: Case) -> str | None:
        return forward(*layouts(case), case.weights(), 4, groups=case.groups).refusal()

    assert refusal(Case(1, 16, 16, (4, 4))) is None
    assert refusal(Case(1, 16, 16, (6, 6), (5, 5))) == "the filter is not 3 x 3"
    assert "3 channels" in str(refusal(Case(1, 3, 16, (4, 4))))
    assert "4 groups" in str(refusal(Case(1, 32, 32, (4, 4), groups=4)))
