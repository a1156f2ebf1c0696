"""Gathers, scatters and dynamic slices against the ops' NumPy references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.index import (
    lower_dynamic_slice,
    lower_dynamic_update_slice,
    lower_gather,
    lower_scatter,
)
from symgrad.ir.opdef import lookup
from symgrad.ir.types import dtype_of

from tests.codegen.harness import TARGETS, run_lowering, target_named

Array = np.ndarray[Any, Any]


def access(array: Array) -> Access:
    return Access(dtype_of(array.dtype).name, tuple(s // array.itemsize for s in array.strides))


def reference(name: str, *arrays: Array, **attrs: Any) -> Array:
    rule = lookup(name).evaluate_rule
    assert rule is not None
    return np.asarray(rule(*arrays, **attrs))


# Shape of the array, indexed axes, shape of the index arrays.
CASES = [
    ((10,), (0,), (25,)),
    ((10, 64), (0,), (7,)),
    ((10, 33), (0,), (3, 5)),
    ((6, 17), (1,), (9,)),
    ((4, 5, 6), (0, 2), (8,)),
    ((4, 5, 20), (0, 1), (3, 3)),
    ((3, 4, 5), (0, 1, 2), (30,)),
    ((300, 40), (0,), (500,)),
    ((5, 3), (0,), ()),
    ((5, 3), (0,), (0,)),
]


def make(
    shape: Any, axes: Any, index_shape: Any, dtype: Any, index: Any
) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(len(shape))
    x = rng.integers(-50, 50, shape).astype(dtype)
    low = -2 if np.dtype(index).kind == "i" else 0  # out of bounds on purpose: clamped
    return x, [rng.integers(low, shape[a] + 2, index_shape).astype(index) for a in axes]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("dtype", "index"), [("f4", "i8"), ("f8", "i4"), ("i2", "u1"), ("?", "i8")]
)
@pytest.mark.parametrize(("shape", "axes", "index_shape"), CASES)
def test_gather(
    shape: Any, axes: Any, index_shape: Any, dtype: Any, index: Any, target: str
) -> None:
    x, indices = make(shape, axes, index_shape, dtype, index)
    x = np.asfortranarray(x) if len(shape) == 3 else x
    want = reference("gather", x, *indices, axes=axes)
    out = np.zeros(want.shape, x.dtype)
    lowering = lower_gather(
        shape, access(x), axes, index_shape, [access(i) for i in indices], access(out),
        target_named(target), 2,
    )  # fmt: skip
    run_lowering(lowering, [x, *indices, out], 2, target_named(target))
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["scatter_add", "scatter"])
@pytest.mark.parametrize(("shape", "axes", "index_shape"), CASES)
def test_scatter(
    shape: Any, axes: Any, index_shape: Any, name: str, threads: int, target: str
) -> None:
    x, indices = make(shape, axes, index_shape, "f4", "i8")
    kept = [n for a, n in enumerate(shape) if a not in axes]
    updates = np.random.default_rng(3).integers(-9, 9, (*index_shape, *kept)).astype("f4")
    want = reference(name, x, updates, *indices, axes=axes)
    out = np.full(shape, np.nan, "f4")
    op = "add" if name == "scatter_add" else None
    lowering = lower_scatter(
        shape, access(x), axes, index_shape, access(updates), [access(i) for i in indices],
        access(out), threads, op,
    )  # fmt: skip
    run_lowering(lowering, [x, updates, *indices, out], threads, target_named(target))
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("starts", [(0, 0), (2, 30), (-3, 99), (4, 1)])
@pytest.mark.parametrize("sizes", [(2, 20), (5, 1), (1, 40)])
def test_dynamic_slices(sizes: tuple[int, int], starts: tuple[int, int], target: str) -> None:
    shape = (5, 40)
    x = np.arange(200, dtype="f4").reshape(shape)
    at = [np.array(s, "i8") for s in starts]
    block = np.zeros(sizes, "f4")
    lowering = lower_dynamic_slice(
        shape, access(x), sizes, [access(s) for s in at], access(block), target_named(target), 2
    )
    run_lowering(lowering, [x, *at, block], 2, target_named(target))
    np.testing.assert_array_equal(block, reference("dynamic_slice", x, *at, sizes=sizes))

    update, out = -np.ones(sizes, "f4"), np.zeros(shape, "f4")
    lowering = lower_dynamic_update_slice(
        shape, access(x), sizes, access(update), [access(s) for s in at], access(out), 2
    )
    run_lowering(lowering, [x, update, *at, out], 2, target_named(target))
    np.testing.assert_array_equal(out, reference("dynamic_update_slice", x, update, *at))
