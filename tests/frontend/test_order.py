"""Sorting, medians and quantiles of traced arrays: NumPy's values, and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import ShapeError

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


def test_nan_is_searched_for_behind_all_numbers() -> None:
    line, values = np.array([0.0, 1.0, 2.0, np.nan]), np.array([np.nan, 1.0, 9.0, -1.0])
    for side in ("left", "right"):
        for a in (line, line[:3], np.arange(3)):
            got = sg.jit(lambda a, v, side=side: np.searchsorted(a, v, side=side))(a, values)
            np.testing.assert_array_equal(got, np.searchsorted(a, values, side=side))
    got = sg.jit(lambda v: (np.digitize(v, [0, 1]), np.digitize(v, [1, 0], right=True)))(values)
    for found, expected in zip(
        got, (np.digitize(values, [0, 1]), np.digitize(values, [1, 0], right=True)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_quantiles_that_do_not_exist() -> None:
    for f in (lambda x: np.quantile(x, 1.5), lambda x: np.percentile(x, [50, -3])):
        with pytest.raises(ValueError, match="not in the range"):
            sg.jit(f)(X)
    with pytest.raises(ShapeError, match="no elements"):
        sg.jit(np.median)(X[:0])


def test_infinity_in_a_median() -> None:
    x = np.array([[1.0, np.inf, np.inf, np.inf], [-np.inf, -np.inf, -np.inf, 0.0]])
    np.testing.assert_array_equal(sg.jit(lambda x: np.median(x, axis=1))(x), np.median(x, axis=1))


def test_nan_in_a_median() -> None:
    x = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(sg.jit(lambda x: np.median(x, axis=1))(x), [np.nan, 2.0])
