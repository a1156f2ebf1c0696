"""NumPy functions at the edges of their domains: nan, infinities, integers, rare arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import SymgradError, UnsupportedError

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
        lambda n: (np.unwrap(n, period=4), np.unwrap(n, period=5), np.unwrap(n, period=6.0)),
        N,
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
    "initial of the result's dtype": (
        lambda n: (np.sum(n, initial=0.5), np.max(n, 1, initial=9.5), np.prod(n, initial=2.5)),
        N,
    ),
    "initial of truth values": (lambda b: np.min(b, 1, initial=-1, where=[True, False]), B),
    "absolute truth": (lambda b: (abs(b), np.abs(b)), B),
    "numbers beyond a dtype": (
        lambda n: (n < -2, n < 300, n == 256, n != -1, np.clip(n, -2, 9), np.clip(n, 5, 300)),
        BYTES,
    ),
    "nothing to integrate": (lambda x: (np.trapezoid(x[:0], axis=0), np.unwrap(x[:0], axis=0)), X),
    "dtypes of polynomials": (
        lambda n: (np.polyval(n[:2], n[0]), np.polyval(n[:0], n), np.vander(n.astype("f4"), 3)),
        BYTES,
    ),
    "no equations": (lambda x: np.linalg.lstsq(x[:0, :0], x[:0], rcond=None)[0], X),
    "matrices last": (
        lambda x: (np.linalg.diagonal(x, offset=1), np.linalg.trace(x), np.trace(x)),
        np.arange(24.0).reshape(2, 3, 4),
    ),
    "hermitian": (
        lambda x: (
            np.linalg.svd(x[:, :3], compute_uv=False, hermitian=True),
            np.linalg.pinv(x[:, :3], hermitian=True),
            np.linalg.matrix_rank(x[:, 1:] * [1, 0, 0], hermitian=True),
        ),
        X,
    ),
    "nanmedian": (
        lambda x: (np.nanmedian(x), np.nanmedian(x, 1), np.nanmedian(x, 0, keepdims=True)),
        HOLES,
    ),
    "out by position": (
        lambda x: (
            np.sum(x, 0, None, None, True),
            x.sum(1, None, None, True),
            np.max(x, 0, None, True),
            x.min(0, None, True),
            np.mean(x, 1, None, None, True),
            np.std(x, 1, None, None, 1),
            np.take(x, [7, 8], 1, None, "clip"),
            np.any(x > 2, 0, None, True),
        ),
        X,
    ),
    "moments without nan": (
        lambda x: (
            np.nanvar(x, 1, np.float32),
            np.nanstd(x, 0, correction=1, where=x > -1),
            np.nanmean(x, 1, where=[True, True, False, True]),
            np.nanvar(x, None, None, None, 1),
        ),
        HOLES,
    ),
    "ends of differences": (lambda x: np.ediff1d(x, to_begin=[[1, 2]], to_end=3), X),
    "equal with nan": (
        lambda x: [np.array_equal(x, x * 1, equal_nan=flag) for flag in (True, False)],
        HOLES,
    ),
    "methods": (lambda x: (np.sort(x[0]).searchsorted(x[1]), round(x[0, 0], 1)), X),
    "covariances of short numbers": (lambda x: (np.cov(x), np.corrcoef(x)), X.astype("f4")),
    "dtype of a product": (lambda x: np.matmul(x, x.T, dtype=np.float32), X),
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


@pytest.mark.parametrize(
    "fill",
    [
        lambda x, y: np.median(x, 0, y), lambda x, y: np.median(x, 0, out=y),
        lambda x, y: np.sum(x, 0, None, y), lambda x, y: x.max(0, y), lambda x, y: x.sum(0, out=y),
        lambda x, y: np.add(x[0], x[1], y), lambda x, y: np.concatenate([x[0, :2], x[0, 2:]], 0, y),
        lambda x, y: np.quantile(x, 0.3, 0, y), lambda x, y: x.take([0, 1, 1, 2], None, y),
    ],
)  # fmt: skip
def test_results_go_where_they_are_wanted(fill: Callable[..., Any]) -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x[0])
        assert fill(x, y) is y
        return y * 2

    np.testing.assert_allclose(sg.jit(f)(X), f(X), 1e-15)


@pytest.mark.parametrize(
    "method",
    """inverted_cdf averaged_inverted_cdf closest_observation interpolated_inverted_cdf hazen
    weibull linear median_unbiased normal_unbiased lower higher midpoint nearest""".split(),
)
def test_methods_of_quantiles(method: Any) -> None:
    def f(x: Any, q: Any) -> Any:
        return np.quantile(x, q, axis=1, method=method)

    for x in (X, X.astype("f4"), N, X[:, :1]):
        for q in (0.3, [0.0, 0.1, 0.25, 0.5, 0.77, 1.0], np.float32(0.5)):
            found, expected = sg.jit(lambda x, q=q: f(x, q))(x), f(x, q)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, 1e-6 if found.dtype == "f4" else 1e-13)


def test_a_copy_under_another_shape_is_no_view() -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x)
        y.reshape(2, 6, copy=True)[0] = 1
        np.reshape(y, (4, 3), "F", copy=True)[1] = 2
        y.reshape(-1, copy=False)[5] = 3
        return y

    np.testing.assert_array_equal(sg.jit(f)(X), f(X))
    with pytest.raises(ValueError, match="copy"):
        sg.jit(lambda x: x.T.reshape(-1, copy=False))(X)


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: np.add(x, 1, dtype=int, casting="unsafe"),
        lambda x: x.astype(int, casting="safe"), lambda x: np.concatenate([x, x], dtype=int),
        lambda x: np.matmul(x, x.T, casting="no"), lambda x: np.logical_and(x, x, dtype=float),
        lambda x: np.pad(x, 1, other=3), lambda x: np.cov(x, fweights=[1, 2, 1, 1]),
        lambda x: np.add(x, x, order="F"), lambda x: np.sort(x, order="a"),
        lambda x: np.copyto(np.zeros_like(x), x, casting="no"),
    ],
)  # fmt: skip
def test_no_keyword_is_ignored(refused: Callable[..., Any]) -> None:
    with pytest.raises(SymgradError, match=r"cast|dtype|other|fweights|order"):
        sg.jit(refused)(X)


TWICE = np.array([0, 2, 0, 0, 1]), np.array([1, 1, 1, 3, 0])
"""Rows and columns, among which one place is there twice."""


@pytest.mark.parametrize(
    "ufunc", [np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.fmax]
)
def test_places_that_are_there_twice(ufunc: Any) -> None:
    def f(x: Any, b: Any) -> Any:
        x = x.copy()
        ufunc.at(x, TWICE, b)
        ufunc.at(x.T, (slice(1, 3), TWICE[0]), b * 1.1)
        ufunc.at(x, slice(0, 2), b[:4] * 1.2)
        ufunc.at(x, X > 0, b[0] * 1.3)
        return x

    b = np.array([0.55, -1.45, 2.1, 0.7, -0.3])
    np.testing.assert_allclose(sg.jit(f)(X, b), f(X, b), 1e-15)
    sg.check_grads(lambda x, b: np.sum(np.tanh(f(x, b))), (X, b))


def test_places_that_may_be_there_twice_are_refused() -> None:
    def f(x: Any, i: Any) -> Any:
        x = x.copy()
        np.subtract.at(x, i, 2.0)
        np.maximum.at(x, i, 0.0)
        return x

    with pytest.raises(UnsupportedError, match=r"maximum\.at: positions must be known"):
        sg.jit(f)(X[0], TWICE[0])


def test_put() -> None:
    def f(x: Any, v: Any) -> Any:
        x = x.copy()
        np.put(x, [0, 5, -1], v)
        np.put(x, [[77, 3]], [1, 2], mode="clip")
        np.put(x.T, 14, v[1], mode="wrap")
        return x

    v = np.array([7.0, 8.0])
    np.testing.assert_array_equal(sg.jit(f)(X, v), f(X, v))
    sg.check_grads(lambda x, v: np.sum(np.sin(f(x, v))), (X, v))
    placed = sg.jit(lambda x, i: (np.put(x, i, [9.0, 8.0]), x)[1])(X, np.array([[1, 2], [4, 6]]))
    expected = X.copy()
    np.put(expected, [1, 2, 4, 6], [9.0, 8.0])
    np.testing.assert_array_equal(placed, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_slope_of_the_determinant_of_a_singular_matrix(n: int) -> None:
    """It is the matrix of cofactors, whatever the rank."""
    rng = np.random.default_rng(n)
    whole = rng.normal(size=(n, n))
    one_less, two_less = whole.copy(), whole.copy()
    one_less[-1] = one_less[:-1].sum(0)
    two_less[:2] = 0
    for m in (whole, one_less, two_less, np.eye(n)):
        minors = [
            [np.linalg.det(np.delete(np.delete(m, i, 0), j, 1)) * (-1) ** (i + j) for j in range(n)]
            for i in range(n)
        ]
        np.testing.assert_allclose(sg.grad(np.linalg.det)(m), minors, atol=1e-12)
        sg.check_grads(np.linalg.det, (m,), order=2)


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
