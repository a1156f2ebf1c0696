"""bfloat16 arrays: storage of two bytes, arithmetic in float32, one rounding a store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as sg

ml_dtypes = pytest.importorskip("ml_dtypes")
bfloat16 = ml_dtypes.bfloat16
Array = np.ndarray[Any, Any]
EPS = 2.0**-8


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(bfloat16)


def wide(x: Any) -> Array:
    return np.asarray(x).astype(np.float32)


@pytest.mark.parametrize("size", [(3, 4, 5), (33, 20, 47), (64, 96, 128)], ids=str)
def test_products_accumulate_in_float32(size: tuple[int, int, int]) -> None:
    m, n, k = size
    a, b = numbers(m, k), numbers(k, n)
    expected = wide(a) @ wide(b)
    result = sg.jit(lambda a, b: a @ b)(a, b)
    assert result.dtype == bfloat16
    np.testing.assert_allclose(wide(result), expected, rtol=EPS, atol=EPS * 1e-2)
    exact = sg.jit(lambda a, b: (a @ b).astype(np.float32))(a, b)
    np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-4)


def test_rounded_operands_of_float32_code() -> None:
    """Mixed precision: float32 outside, products in bfloat16, gradients through both."""
    a, b = wide(numbers(24, 40)), wide(numbers(40, 32))

    def loss(a: Any, b: Any) -> Any:
        product = (a.astype(bfloat16) @ b.astype(bfloat16)).astype(np.float32)
        return np.sum(product * product)

    value, (da, db) = sg.value_and_grad(loss, argnums=(0, 1))(a, b)
    c = a @ b
    np.testing.assert_allclose(value, np.sum(c * c), rtol=1e-4)
    for got, expected in ((da, 2 * c @ b.T), (db, 2 * a.T @ c)):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=4 * EPS * np.abs(expected).max())


def test_gradients_have_the_operands_dtype() -> None:
    a, b = numbers(9, 20), numbers(20, 10)
    grad = sg.grad(lambda a, b: (a @ b).astype(np.float32).sum())(a, b)
    assert grad.dtype == bfloat16
    expected = np.broadcast_to(wide(b).sum(1), a.shape)
    np.testing.assert_allclose(wide(grad), expected, rtol=2 * EPS, atol=2 * EPS)


def test_fused_arithmetic_rounds_once() -> None:
    x = numbers(1000)
    result = sg.jit(lambda x: np.exp(x) * x - x * x)(x)
    assert result.dtype == bfloat16
    exact = np.exp(wide(x)) * wide(x) - wide(x) * wide(x)
    np.testing.assert_array_equal(wide(result), wide(exact.astype(bfloat16)))


def test_reductions_accumulate_in_float32() -> None:
    x = numbers(7, 4000)
    for reduce in (np.sum, np.mean):
        result = sg.jit(lambda x, reduce=reduce: reduce(x, axis=1))(x)
        assert result.dtype == bfloat16
        expected = reduce(wide(x).astype(np.float64), axis=1)
        np.testing.assert_allclose(wide(result), expected, rtol=2 * EPS, atol=1e-3)
