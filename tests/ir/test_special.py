"""Special functions against mpmath, where the recurrences and reflections take over."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from symgrad.ir import Builder
from symgrad.ir.types import type_of_array

from symgrad.api_backend import compile_func

REAL = np.array(
    [-7.3, -2.5, -1.1, -0.3, 1e-3, 0.1, 0.49, 0.5, 0.51, 1, 1.5, 2, 7.9, 8.1, 20, 170, 1e5, 1e15]
)
UNIT = np.array([-0.9999999, -0.5, -0.1, 0, 1e-10, 0.3, 0.49, 0.51, 0.99, 1 - 1e-10, 1 - 1e-16])


def _run(name: str, x: Any, **attrs: Any) -> Any:
    builder = Builder()
    result = builder.emit(name, builder.param(type_of_array(x), "x"), **attrs)
    return compile_func(builder.build([result]))([x])[0]


def _check(name: str, x: Any, function: Any, **attrs: Any) -> None:
    expected = np.array([float(mpmath.re(function(mpmath.mpf(float(v))))) for v in x])
    for dtype, tolerance in ((np.float64, 5e-14), (np.float32, 2e-7)):
        got = _run(name, x.astype(dtype), **attrs)
        if dtype is np.float32:
            rounded = x.astype(dtype).astype(np.float64)
            expected = np.array([float(mpmath.re(function(mpmath.mpf(float(v))))) for v in rounded])
        assert got.dtype == dtype
        assert np.array_equal(np.isfinite(got), np.isfinite(expected))
        there = np.isfinite(got)
        error = np.abs(got[there] - expected[there]) / np.maximum(1, np.abs(expected[there]))
        assert error.max() < tolerance


def test_lgamma() -> None:
    _check("lgamma", REAL, mpmath.loggamma)
    special = _run("lgamma", np.array([0.0, -1.0, np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(special, [np.inf, np.inf, np.inf, np.inf, np.nan])


def test_gamma() -> None:
    """To some units in the last place, up to where it overflows."""
    x = np.array([*REAL[:-3], -20.5, -100.3, 33.3, 100.25, 170, 171.6])
    expected = np.array([float(mpmath.gamma(mpmath.mpf(v))) for v in x.tolist()])
    np.testing.assert_allclose(_run("gamma", x), expected, 4e-15)
    small = x[np.abs(np.log10(np.abs(expected))) < 30].astype(np.float32)
    rounded = [float(mpmath.gamma(mpmath.mpf(v))) for v in small.tolist()]
    np.testing.assert_allclose(_run("gamma", small), rounded, 1e-7)
    special = _run("gamma", np.array([0.0, 172.0, 1e5, 1e300, np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(special, [*[np.inf] * 5, np.nan, np.nan])


@pytest.mark.parametrize("order", range(5))
def test_polygamma(order: int) -> None:
    _check("polygamma", REAL, lambda v: mpmath.polygamma(order, v), order=order)


def test_erfinv() -> None:
    _check("erfinv", UNIT, mpmath.erfinv)
    special = _run("erfinv", np.array([1.0, -1.0, 2.0, np.nan]))
    np.testing.assert_array_equal(special, [np.inf, -np.inf, np.nan, np.nan])
