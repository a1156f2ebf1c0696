"""Folding pixels into channels, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import BLOCK, Blocked
from symgrad.codegen.kernels.fold_pixels import FoldSpec, cycles, emit_fold, lower_fold
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_lowering, target_named

Grid = tuple[int, tuple[int, int, int, int], tuple[int, int], str]
CASES: list[Grid] = [
    # stride, shape of x, rows and columns that are folded, dtype
    (2, (2, 3, 8, 64), (8, 64), "f32"),
    (2, (3, 3, 5, 33), (5, 33), "f32"),
    (2, (1, 4, 7, 70), (6, 68), "f32"),
    (2, (2, 1, 1, 3), (1, 3), "f64"),
    (3, (2, 1, 10, 101), (10, 101), "f32"),
    (3, (1, 1, 11, 50), (9, 48), "f64"),
    (4, (2, 1, 9, 131), (9, 129), "f32"),
    (1, (2, 5, 3, 37), (3, 37), "f32"),
]


def spec_of(
    stride: int, shape: tuple[int, int, int, int], size: tuple[int, int], dtype: str, **more: Any
) -> FoldSpec:
    images, channels, *_ = shape
    folded = (images, stride**2 * channels, -(-size[0] // stride), -(-size[1] // stride))
    y = Blocked.dense(dtype, folded, ((1, 2), (3, 0)), BLOCK)
    return FoldSpec(Access(dtype, row_major(shape), **more), channels, size, stride, y)


def expected(spec: FoldSpec, x: Array) -> Array:
    """Folded pixels [N, H, W, BLOCK], by assignments of every s-th pixel."""
    s, channels, (height, width) = spec.stride, spec.channels, spec.size
    n, _, rows, columns = spec.y.shape
    out = np.zeros((n, rows, columns, BLOCK), x.dtype)
    used = x[:, :, :height, :width]
    for r in range(s):
        for c in range(s):
            part = used[:, :, r::s, c::s].transpose(0, 2, 3, 1)
            first = (r * s + c) * channels
            out[:, : part.shape[1], : part.shape[2], first : first + channels] = part
    return out


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pixels_become_channels(case: Grid, target_name: str) -> None:
    """Odd sizes, pixels left out behind the last, and a halo that stays as it is."""
    target, rng = target_named(target_name), np.random.default_rng(3)
    spec = spec_of(*case, offset=5)
    dtype = {"f32": np.float32, "f64": np.float64}[case[3]]
    memory = rng.standard_normal(5 + np.prod(case[1]).item()).astype(dtype)
    wanted = np.full(spec.y.buffer_shape, 7, dtype)
    (top, bottom), (left, _) = spec.y.halo
    wanted[:, 0, top:-bottom, left:] = expected(spec, memory[5:].reshape(case[1]))
    for threads in (1, 3):
        out = np.full(spec.y.buffer_shape, 7, dtype)
        run_lowering(lower_fold(spec), [memory, out], threads, target)
        np.testing.assert_array_equal(out, wanted)


def test_what_it_does_not_fold() -> None:
    x = Access("f32", (60, 1, 12, 3))
    y = Blocked.dense("f32", (1, 12, 3, 2), pitch=BLOCK)
    assert "side by side" in str(FoldSpec(x, 3, (5, 4), 2, y).refusal())
    with pytest.raises(ValueError, match="side by side"):
        emit_fold(Emitter(Target.host()), "kernel", FoldSpec(x, 3, (5, 4), 2, y))
    assert "more than 16 channels" in str(spec_of(2, (1, 5, 4, 4), (4, 4), "f32").refusal())
    narrow = Blocked.dense("f32", (1, 12, 2, 2))
    spec = FoldSpec(Access("f32", (48, 16, 4, 1)), 3, (4, 4), 2, narrow)
    assert "whole vectors" in str(spec.refusal())


def test_estimates_grow_with_the_pixels() -> None:
    target = Target.named("avx512")
    few, many = (spec_of(2, (n, 3, 64, 64), (64, 64), "f32") for n in (1, 8))
    assert 7.9 * cycles(few, target, 1) < cycles(many, target, 1)
    assert cycles(many, target, 2) == cycles(many, target, 1) / 2
