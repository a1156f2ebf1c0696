"""NumPy functions at the edges of their domains: nan, infinities, integers, rare arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as sg

inf, nan = np.inf, np.nan
X = np.array([[0.5, -1.5, 2.5, 0.25], [3.0, -0.5, 1.0, -2.0], [1.5, 0.75, -1.0, 4.0]])
HOLES = np.array([[nan, 1.0, -2.0, 0.5], [nan, nan, nan, nan], [3.0, nan, 1.0, nan]])
WILD = np.array([inf, -inf, nan, 2.5, -0.75, 0.0])
N = np.array([[155, -155, 1, -1], [2, -2, 249, 0]])
B = np.array([[True, False], [False, False]])
BYTES = np.array([3, 250, 0, 255], np.uint8)

CASES: dict[str, tuple[Callable[..., Any], Any]] = {
    "any of ufunc, initial": (lambda b: np.logical_or.reduce(b, 1, initial=True), B),
    "all of ufunc, where": (lambda b: np.logical_and.reduce(b, 0, where=[[True], [False]]), B),
    "nanmax": (lambda x: (np.nanmax(x, 1), np.nanmin(x, 1, keepdims=True)), HOLES),
    "nanmax, initial": (lambda x: np.nanmax(x, 1, initial=-7.0), HOLES),
    "nanmax of integers": (lambda n: (np.nanmax(n, 0), np.nansum(n), np.nanmin(n)), N),
    "nanvar": (lambda x: (np.nanvar(x, 1, ddof=2), np.nanstd(x, 1, ddof=1, keepdims=True)), HOLES),
    "clip to nan": (lambda x: (np.clip(x, nan, 1), np.clip(x, -1, HOLES[0]), np.clip(x, 0, 1)), X),
    "clip nan": (lambda x: np.clip(x, -1, np.array(2.0)), HOLES),
    "round": (lambda n: (np.round(n, -1), np.round(n, -2), np.round(n, 2)), N),
    "round bytes": (lambda n: np.round(n[:3], -1), BYTES),
    "reciprocal": (lambda n: np.reciprocal(n[:, :3]), N),
    "reciprocal of bytes": (lambda n: np.reciprocal(n[:2]), BYTES),
    "modf": (np.modf, WILD),
    "isclose of bytes": (lambda n: np.isclose(n, n + 3, atol=3), BYTES[:3] % 200),
    "isclose of bools": (lambda b: np.isclose(b, ~b), B),
    "unwrap integers": (
        lambda n: (np.unwrap(n, period=4), np.unwrap(n, period=5), np.unwrap(n, period=6.0)), N
    ),
    "piecewise, stacked": (
        lambda x: np.piecewise(x, np.array([[True, False] * 2, [False] * 3 + [True]]), [1.0, 2.0]),
        X[0],
    ),
    "linspace": (lambda x: np.linspace(-3.5, x[0, 3], 6, dtype=int), X),
    "triangle of a vector": (lambda x: (np.triu(x[0]), np.tril(x[0], 1)), X),
    "norm along": (lambda x: np.linalg.norm(x, axis=np.int64(1)), X),
    "interp": (lambda x: np.interp(x, [0.0, 1.0, 1.0], [2.0, 3.0, 5.0]), WILD),
    "gradient": (lambda n: np.gradient(n, axis=1), N),
}


@pytest.mark.parametrize("name", CASES)
def test_as_numpy(name: str) -> None:
    f, x = CASES[name]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slices without numbers
        expected = f(x)
    found = sg.jit(f)(x)
    for a, e in zip(_all(found), _all(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(e).dtype
        np.testing.assert_allclose(a, e, 1e-6 if np.asarray(e).dtype == "f4" else 1e-14)


def test_more_axes_for_an_array() -> None:
    made = sg.jit(lambda x: sg.numpy.array(x, ndmin=4))(X)
    np.testing.assert_array_equal(made, X[None, None])


def test_extrema_without_numbers_have_no_slope() -> None:
    found = sg.grad(lambda x: np.sum(np.nan_to_num(np.nanmax(x, 1))))(HOLES)
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize("axis", [1, np.int64(1)])
def test_ties_along_an_axis(axis: Any) -> None:
    found = sg.grad(lambda x: np.sum(np.max(x, axis)))(np.ones((2, 3)))
    np.testing.assert_array_equal(found, [[1, 0, 0], [1, 0, 0]])


def test_counts_decide_a_shape_anew() -> None:
    counts = np.array([1, 0, 2])
    repeated = sg.jit(lambda x: np.repeat(x, counts, axis=0))
    np.testing.assert_array_equal(repeated(X), np.repeat(X, counts, axis=0))
    counts[1] = 3
    np.testing.assert_array_equal(repeated(X), np.repeat(X, counts, axis=0))


@pytest.mark.parametrize(
    "function",
    [
        np.linalg.cholesky, lambda p: np.linalg.cholesky(p, upper=True),
        np.linalg.eigvalsh, lambda p: np.linalg.eigvalsh(p, UPLO="U"),
        lambda p: np.linalg.eigh(p)[1] ** 2, lambda p: np.linalg.eigh(p, "U").eigenvectors ** 2,
    ],
)  # fmt: skip
def test_a_triangle_that_is_not_read_has_no_slope(function: Callable[..., Any]) -> None:
    """What is read of a matrix that is not symmetric has the whole slope."""
    p = np.array([[4.0, 1.0, 0.5], [0.3, 3.0, 0.2], [0.7, 0.1, 5.0]])
    np.testing.assert_allclose(sg.jit(function)(p), function(p), 1e-12)
    sg.check_grads(lambda p: np.sum(np.sin(function(p))), (p,), order=2)


def _all(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
