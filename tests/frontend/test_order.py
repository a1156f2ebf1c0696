"""Sorting, medians and quantiles of traced arrays: NumPy's values, and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as sg

X = np.random.default_rng(0).permutation(60).reshape(3, 4, 5) / 7 - 4

CASES: dict[str, Callable[[Any], Any]] = {
    "sort": np.sort,
    "sort axis": lambda x: np.sort(x, axis=0),
    "sort all": lambda x: np.sort(x, axis=None),
    "median": np.median,
    "median axis": lambda x: np.median(x, axis=1, keepdims=True),
    "median axes": lambda x: np.median(x, axis=(0, 2)),
    "percentile": lambda x: np.percentile(x, [10, 50, 99], axis=1),
    "quantile": lambda x: np.quantile(x, 0.3),
    "quantiles": lambda x: np.quantile(x, [[0.0, 0.25], [0.7, 1.0]], axis=(1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name: str) -> None:
    f = CASES[name]
    np.testing.assert_allclose(sg.jit(f)(X), f(X), rtol=1e-13)
    sg.check_grads(lambda x: (f(x) ** 2).sum(), (X,), order=2)


def test_positions() -> None:
    ties = np.array([[2, 1, 2, 0], [5, 5, 5, 5]])
    got = sg.jit(lambda x: np.argsort(x, axis=1, stable=True))(ties)
    np.testing.assert_array_equal(got, np.argsort(ties, axis=1, stable=True))
    parted = sg.jit(lambda x: np.partition(x, 2, axis=1))(X)
    np.testing.assert_array_equal(parted[:, 2], np.partition(X, 2, axis=1)[:, 2])
    for side in ("left", "right"):
        line, values = np.sort(X[0, 0]), np.concatenate([X[0, 0], [-9.0, 9.0]])
        got = sg.jit(lambda a, v, side=side: np.searchsorted(a, v, side=side))(line, values)
        np.testing.assert_array_equal(got, np.searchsorted(line, values, side=side))


def test_nan_in_a_median() -> None:
    x = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(sg.jit(lambda x: np.median(x, axis=1))(x), [np.nan, 2.0])
