"""Running sums, recurrences and argmax along an axis, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.running import RunningSpec, lower_running
from symgrad.ir.opdef import lookup
from symgrad.ir.types import dtype_of

from tests.codegen.harness import TARGETS, run_lowering, target_named

Array = np.ndarray[Any, Any]
SHAPES = [((1,), 0), ((17,), 0), ((1000,), 0), ((5, 33), 0), ((33, 5), 1), ((300, 64), 0),
          ((64, 300), 1), ((4, 3, 5), 1), ((7, 100, 19), 1), ((3, 2, 70), 2)]  # fmt: skip
DTYPES = ("f4", "f8", "i2", "i8", "u4")


def access(array: Array, axis: int | None = None) -> Access:
    strides = [s // array.itemsize for s in array.strides]
    if axis is not None:
        strides.insert(axis, 0)
    return Access(dtype_of(array.dtype).name, tuple(strides))


def random(shape: Any, dtype: str, *, few: bool = False) -> Array:
    rng = np.random.default_rng(len(shape))
    if np.dtype(dtype).kind == "f" and not few:
        return rng.uniform(0.5, 1.5, shape).astype(dtype)
    return rng.integers(0, 5, shape).astype(dtype)


def layouts(x: Array) -> list[Array]:
    """The same numbers in row-major, column-major and padded layout."""
    padded = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)[..., : x.shape[-1]]
    padded[...] = x
    return [x, np.asfortranarray(x), padded]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["sum", "prod"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_running(shape: Any, axis: int, kind: str, threads: int, target: str) -> None:
    for dtype in DTYPES if threads == 1 else DTYPES[:1]:
        numbers = random(shape, dtype)
        for x in layouts(numbers) if dtype == "f4" else [numbers]:
            want = (np.cumsum if kind == "sum" else np.cumprod)(x, axis, dtype=x.dtype)
            out = np.zeros(shape, dtype)
            spec = RunningSpec(kind, shape, axis, (access(x),), access(out), threads)
            run_lowering(lower_running(spec), [x, out], threads, target_named(target))
            rtol = {"f4": 2e-5, "f8": 1e-13}.get(dtype, 0)
            np.testing.assert_allclose(out, want, rtol=rtol)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_recurrence(shape: Any, axis: int, target: str) -> None:
    rng = np.random.default_rng(0)
    rule = lookup("recurrence").evaluate_rule
    assert rule is not None
    for a in layouts(rng.uniform(-1, 1, shape)):
        b = rng.normal(size=shape)
        out = np.zeros(shape)
        spec = RunningSpec("recurrence", shape, axis, (access(a), access(b)), access(out), 2)
        run_lowering(lower_running(spec), [a, b, out], 2, target_named(target))
        np.testing.assert_array_equal(out, rule(a, b, axis=axis))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "u8", "?"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_first_extremum(shape: Any, axis: int, dtype: str, kind: str, target: str) -> None:
    x = random(shape, dtype, few=True)  # few values: many ties
    find = np.argmax if kind == "argmax" else np.argmin
    for array in layouts(x) if dtype == "f4" else [x]:
        check_found(array, axis, kind, find(array, axis), target)
    if x.dtype.kind == "f":
        x[np.random.default_rng(1).random(shape) < 0.02] = np.nan
        check_found(x, axis, kind, find(x, axis), target)


def check_found(x: Array, axis: int, kind: str, want: Array, target: str) -> None:
    out = np.full(want.shape, -1, np.int64)
    spec = RunningSpec(kind, x.shape, axis, (access(x),), access(out, axis), 2)
    run_lowering(lower_running(spec), [x, out], 2, target_named(target))
    np.testing.assert_array_equal(out, want)
