"""Concatenation, padding and layout copies against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels.movement import lower_concatenate, lower_copy, lower_pad
from symgrad.ir.opdef import lookup
from symgrad.ir.types import dtype_of

from tests.codegen.harness import TARGETS, run_lowering, target_named

Array = np.ndarray[Any, Any]


def dense(array: Array) -> Access:
    return Access(dtype_of(array.dtype).name, tuple(s // array.itemsize for s in array.strides))


def numbers(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.bool_])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenate(axis: int, dtype: Any, target: str) -> None:
    shapes = [tuple(n if a == axis else s for a, s in enumerate((3, 5, 33))) for n in (1, 17, 0, 4)]
    parts = [numbers(*shape, dtype=dtype) for shape in shapes]
    parts[1] = np.asfortranarray(parts[1])
    want = np.concatenate(parts, axis)
    out = np.zeros_like(want, order="C")
    low = lower_concatenate(
        [p.shape for p in parts], [dense(p) for p in parts], axis, dense(out), 2
    )
    run_lowering(low, [*parts, out], 2, target_named(target))
    np.testing.assert_array_equal(out, want)


def test_arrays_that_are_there_are_left_alone() -> None:
    parts = [numbers(n) for n in (3, 17, 5)]
    want = np.concatenate(parts)
    out = np.full_like(want, -1)
    out[3:20] = parts[1]
    given = [dense(parts[0]), None, dense(parts[2])]
    low = lower_concatenate([p.shape for p in parts], given, 0, dense(out), 2)
    run_lowering(low, [parts[0], parts[2], out], 2, target_named("host"))
    np.testing.assert_array_equal(out, want)
    out[:] = 7
    run_lowering(lower_pad((17,), None, (3,), (5,), (0,), -2.0, dense(out), 2), [out], 2)
    np.testing.assert_array_equal(out, [-2] * 3 + [7] * 17 + [-2] * 5)


PADS = [
    ((9,), (2,), (3,), (0,)),
    ((0,), (2,), (3,), (0,)),
    ((5, 7), (1, 0), (0, 4), (0, 0)),
    ((5, 7), (0, 0), (0, 0), (0, 0)),
    ((2, 3, 40), (1, 2, 3), (3, 0, 1), (0, 0, 0)),
    ((4, 33), (1, 0), (2, 1), (1, 2)),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "low", "high", "interior"), PADS)
def test_pad(shape: Any, low: Any, high: Any, interior: Any, threads: int, target: str) -> None:
    x = numbers(*shape)
    rule = lookup("pad").evaluate_rule
    assert rule is not None
    want = rule(x, low=low, high=high, interior=interior, value=-1.5)
    out = np.full(want.shape, np.nan, np.float32)
    lowering = lower_pad(shape, dense(x), low, high, interior, -1.5, dense(out), threads)
    run_lowering(lowering, [x, out], threads, target_named(target))
    np.testing.assert_array_equal(out, want)


def test_padding_without_gaps_is_one_kernel() -> None:
    a = Access("f32", row_major((4, 4)))
    lowering = lower_pad((4, 4), a, (1, 1), (1, 1), (0, 0), 0.0, Access("f32", (6, 1)), 2)
    assert len(lowering.phases) == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("axes", [(2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)])
def test_layout_copies(axes: tuple[int, ...], target: str) -> None:
    x = numbers(3, 20, 35).transpose(axes)
    out = np.zeros(x.shape, np.float32)
    lowering = lower_copy(x.shape, dense(x), dense(out), target_named(target), 2)
    run_lowering(lowering, [x, out], 2, target_named(target))
    np.testing.assert_array_equal(out, x)
