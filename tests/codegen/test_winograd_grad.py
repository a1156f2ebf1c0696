"""Weight gradients by Winograd's algorithm against sums in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.winograd_grad import (
    GradKernelSpec,
    WinogradGradSpec,
    lower_filters_first,
    lower_tiles_first,
)
from symgrad.codegen.kernels.winograd_grad_schedule import grad_schedule, lower_winograd_grad
from symgrad.codegen.kernels.winograd_regions import axes
from symgrad.codegen.lower import kernel_text
from symgrad.codegen.objects import emit_assembly
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_lowering, target_named
from tests.codegen.test_conv_direct import (
    BiasAddRelu,
    Case,
    blocked_weights,
    layouts,
    reference,
    to_blocked,
)
from tests.codegen.test_winograd import (
    CASES,
    FAR,
    FEW,
    FILTERED,
    LARGE,
    SIZES,
    SMALL,
    STRIDED,
    check,
    cut,
    too_large,
    whole_vectors,
)


def build(case: Case, size: int) -> tuple[WinogradGradSpec, list[Array], Array]:
    """The spec, x and dy blocked, and the exact gradient."""
    x, w, dy = case.arrays()
    x_layout, y_layout = whole_vectors(*layouts(case))
    _, _, dw = reference(case, x, w, dy)
    along = cut(case, size, x_layout, y_layout)
    spec = WinogradGradSpec(x_layout, y_layout, case.weights(), along, case.groups)
    return spec, [to_blocked(x_layout, x), to_blocked(y_layout, dy)], dw


def run(
    lowering: Lowering, operands: list[Array], like: Array, threads: int, target: Target
) -> Array:
    out = np.full(like.shape, np.nan, operands[0].dtype)
    run_lowering(lowering, [*operands, out], threads, target)
    return out


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", [*CASES, *STRIDED, *FILTERED, *FEW, *SMALL], ids=str)
def test_gradient(case: Case, size: int, target_name: str) -> None:
    target = target_named(target_name)
    if too_large(case, size):
        pytest.skip("the filter leaves no two outputs")
    spec, operands, dw = build(case, size)
    for threads in (1, 3):
        lowering = lower_winograd_grad(spec, target, threads)
        check(run(lowering, operands, dw, threads, target), dw, case.dtype, size)


@pytest.mark.parametrize("blocks", [(0, 1), (1, 1), (4, 3), (64, 5)])
@pytest.mark.parametrize("tile", [(2, 1, 1), (8, 2, 2), (4, 4, 4), (16, 1, 1)])
def test_every_tiling(tile: tuple[int, int, int], blocks: tuple[int, int]) -> None:
    """Partial blocks and shares of tiles, any register tile, more and fewer threads, where
    tensors are so large that they are asked for ahead."""
    case, target = Case(3, 48, 64, (6, 9)), FAR
    spec, operands, dw = build(case, 6)
    kernel = GradKernelSpec(spec, *tile, *blocks)
    lower = lower_tiles_first if blocks[0] else lower_filters_first
    for threads in (1, 2, 7):
        check(run(lower(kernel, target, threads), operands, dw, threads, target), dw, "f32", 6)


@pytest.mark.parametrize("tiles_first", [False, True])
@pytest.mark.parametrize("target_name", TARGETS)
def test_epilogue_on_blocked_weights(target_name: str, tiles_first: bool) -> None:
    """What an optimiser does: reads weights and momentum where the gradient goes."""
    case, target = Case(2, 32, 48, (5, 7)), target_named(target_name)
    spec, operands, dw = build(case, 6)
    dense = Access("f32", (32 * 16 * 9, 16 * 16 * 9, 3 * 256, 256, 16, 1))
    spec = replace(spec, dw=replace(spec.dw, strides=None), epilogue=BiasAddRelu((dense, dense)))
    kernel = GradKernelSpec(spec, 4, 1, 1, 3 if tiles_first else 0, 2 if tiles_first else 1)
    lowering = (lower_tiles_first if tiles_first else lower_filters_first)(kernel, target, 2)
    rng = np.random.default_rng(1)
    others = [rng.standard_normal(dw.shape).astype(np.float32) for _ in range(2)]
    operands += [blocked_weights(a) for a in others]
    expected = blocked_weights(np.maximum(dw + sum(others), 0))
    check(run(lowering, operands, expected, 2, target), expected, "f32", 6)


@pytest.mark.parametrize("size", SIZES)
def test_error_of_many_pixels(size: int) -> None:
    case, target = Case(4, 16, 16, (48, 48)), Target.host()
    spec, operands, dw = build(case, size)
    actual = run(lower_winograd_grad(spec, target, 2), operands, dw, 2, target)
    worst = np.abs(actual - dw).max() / np.abs(dw).max()
    assert worst < {4: 2e-6, 6: 5e-6}[size]


@pytest.mark.parametrize("name", ["avx512", "avx2", "x86-64", "neon"])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_fit_the_registers(size: int, name: str) -> None:
    target = Target.named(name)
    for images, plane in itertools.product((1, 8), (2, 7, 56)):
        case = Case(images, 64, 128, (plane, plane))
        along = cut(case, size, *layouts(case))
        spec = WinogradGradSpec(*layouts(case), case.weights(), along)
        for threads in (1, 2, 64):
            best = grad_schedule(spec, target, threads)
            kernel = best.kernel
            assert kernel.vectors * (kernel.channels + 1) < target.vector_registers
            assert kernel.shares <= min(threads, spec.tiles)
            assert math.isfinite(best.cycles)


def test_compiles_for_neon() -> None:
    target = Target.named("neon")
    spec, *_ = build(Case(2, 32, 48, (5, 5)), 6)
    for kernel in (GradKernelSpec(spec, 4, 1, 4), GradKernelSpec(spec, 4, 1, 4, 4, 2)):
        lower = lower_tiles_first if kernel.block else lower_filters_first
        for phase in lower(kernel, target, 2).phases:
            text = kernel_text(phase.emit, phase.spec, "kernel", target)
            assert "fmla" in emit_assembly(text, target)


def test_refusals_say_why() -> None:
    def refusal(case: Case) -> str | None:
        along = axes(6, (3, 3), (1, 1), (1, 1), LARGE)
        return WinogradGradSpec(*layouts(case), case.weights(), along, case.groups).refusal()

    assert refusal(Case(1, 16, 16, (4, 4))) is None
    assert refusal(Case(1, 16, 16, (6, 6), (5, 5))) == "the filter is not 3 x 3"
    assert "3 channels" in str(refusal(Case(1, 3, 16, (4, 4))))
    assert "4 groups" in str(refusal(Case(1, 32, 32, (4, 4), groups=4)))
