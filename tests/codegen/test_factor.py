"""Factorisations and linear systems: the kernels against LAPACK, in every form they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.cholesky import CholeskySpec, lower_cholesky
from symgrad.codegen.kernels.elimination import EliminateSpec, lower_eliminate
from symgrad.codegen.kernels.triangle import SubstituteSpec, lower_substitute
from symgrad.codegen.lowering.factor import LARGEST

import symgrad as sg
from symgrad.tracing import emit
from tests.codegen.harness import TARGETS, Array, run_lowering, target_named

NAMES = {"f4": "f32", "f8": "f64"}
ROWS = [1, 2, 5, 8, 13, 17, 40]


def access(x: Array) -> Access:
    return Access(NAMES[x.dtype.str[1:]], tuple(s // x.itemsize for s in x.strides))


def matrices(dtype: str, *shape: int, transposed: bool = False) -> Array:
    """Random matrices, as they lie in memory or the other way round."""
    x = np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)
    if not transposed:
        return x
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)


def close(found: Array, wanted: Array, dtype: str) -> None:
    """To some hundred roundings of the largest element; not to one bit of LAPACK's."""
    scale = np.abs(wanted).max(initial=1)
    np.testing.assert_allclose(found / scale, wanted / scale, atol=500 * np.finfo(dtype).eps)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", ROWS)
def test_cholesky(target: str, dtype: str, n: int) -> None:
    machine, threads = target_named(target), 1 + n % 3
    g = matrices("f8", 2, 2, n, n)
    a = (g @ np.swapaxes(g, -1, -2) + n * np.eye(n)).astype(dtype)
    wanted = np.linalg.cholesky(a.astype("f8"))
    a[..., np.triu(np.ones((n, n), bool), 1)] = np.nan  # is not read
    a[1, 0, -1, -1] = -1 if n % 2 else np.nan
    found = np.zeros_like(a)
    spec = CholeskySpec((2, 2), n, access(a), access(found))
    run_lowering(lower_cholesky(spec, machine, threads), [a, found], threads, machine)
    for place in np.ndindex(2, 2):
        if place == (1, 0):
            np.testing.assert_array_equal(found[place], np.tril(np.full((n, n), np.nan)))
        else:
            close(found[place], wanted[place], dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", ROWS)
def test_substitution(target: str, dtype: str, n: int) -> None:
    machine, threads = target_named(target), 1 + n % 3
    lower, unit, columns = n % 2 == 0, n % 3 == 1, {1: 3, 2: 1, 5: 37, 8: 8, 13: 1, 17: 16}
    m = columns.get(n, 5)
    a = matrices(dtype, 3, n, n, transposed=unit) / n + 2 * np.eye(n, dtype=dtype)
    b, found = matrices(dtype, 3, n, m, transposed=lower), np.zeros((3, n, m), dtype)
    part = np.tril if lower else np.triu
    triangle = part(a.astype("f8"))
    if unit:
        triangle[..., np.arange(n), np.arange(n)] = 1
        a[..., np.arange(n), np.arange(n)] = np.nan
    wanted = np.linalg.solve(triangle, b.astype("f8"))
    a = np.where(part(np.ones((n, n), bool)), a, np.nan)
    spec = SubstituteSpec((3,), n, m, access(a), access(b), access(found), lower, unit)
    run_lowering(lower_substitute(spec, machine, threads), [a, b, found], threads, machine)
    close(found, wanted, dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", ROWS)
def test_elimination(target: str, dtype: str, n: int) -> None:
    machine, threads, m = target_named(target), 1 + n % 3, 1 + 7 * (n % 4)
    a = np.linalg.qr(matrices("f8", 3, n, n))[0].astype(dtype)
    a[0] *= 1 - np.eye(n, dtype=dtype) if n > 2 else 1  # no pivot where it stands
    a[1, :, n // 2] = 0  # singular
    b, found = matrices(dtype, 3, n, m, transposed=True), np.zeros((3, n, m), dtype)
    spec = EliminateSpec((3,), n, access(a), access(b), (access(found),), m)
    run_lowering(lower_eliminate(spec, machine, threads), [a, b, found], threads, machine)
    assert np.isnan(found[1]).all()
    for i in (0, 2):
        size = np.linalg.cond(a[i].astype("f8"))
        close(found[i] / size, np.linalg.solve(a[i].astype("f8"), b[i]) / size, dtype)
    signs, logarithms = np.zeros(3, dtype), np.zeros(3, dtype)
    spec = EliminateSpec((3,), n, access(a), None, (access(signs), access(logarithms)))
    run_lowering(lower_eliminate(spec, machine, threads), [a, signs, logarithms], threads, machine)
    wanted = np.linalg.slogdet(a.astype("f8"))
    np.testing.assert_array_equal(signs, wanted[0])
    assert logarithms[1] == -np.inf
    close(logarithms[[0, 2]], wanted[1][[0, 2]], dtype)


def test_pivots_are_the_largest_of_their_columns() -> None:
    """Without this a matrix with a tiny corner loses all digits."""
    a, b = np.array([[1e-18, 1, 2], [1, 1, -1], [3, 1, 1]]), np.array([[3.0], [1], [5]])
    found = sg.jit(np.linalg.solve)(a, b)
    np.testing.assert_allclose(found, np.linalg.solve(a, b), rtol=1e-14)


def test_nan_is_not_hidden() -> None:
    for place in ((0, 0), (2, 1), (4, 4)):
        a = np.eye(5) * 2
        a[place] = np.nan
        assert np.isnan(sg.jit(np.linalg.solve)(a, np.ones((5, 1)))).any()
        assert np.isnan(sg.jit(lambda a: np.linalg.slogdet(a)[1])(a))


def test_division_by_zero_spoils_what_depends_on_it() -> None:
    a = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    b = np.array([[1.0], [2.0], [3.0]])
    found = sg.jit(lambda a, b: emit("solve", a, b, structure="lower"))(a, b)
    np.testing.assert_array_equal(found[:2], [[1.0], [np.inf]])
    assert np.isnan(found[2])


@pytest.mark.parametrize("n", [LARGEST, LARGEST + 1])
def test_large_matrices_and_small_ones_agree(n: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n)) / n + np.eye(n)
    f = sg.jit(lambda a: np.linalg.solve(a, a.T) + np.linalg.cholesky(a @ a.T))
    np.testing.assert_allclose(f(a), np.linalg.solve(a, a.T) + np.linalg.cholesky(a @ a.T))
    called = any(call.phase.is_bound for call in f.lowered(a).calls)
    assert called == (n > LARGEST)


def test_a_gaussian_process_is_native_and_differentiable() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(11, 2)), rng.normal(size=11)

    def likelihood(p: Any, solved: Any) -> Any:
        distance = ((x[:, None, :] - x[None, :, :]) ** 2).sum(-1)
        k = np.exp(p[0] - distance * np.exp(-2 * p[1])) + np.exp(p[2]) * np.eye(11)
        return (y * solved(k, y)).sum() + np.linalg.slogdet(k)[1]

    def by_factor(k: Any, y: Any) -> Any:
        factor = np.linalg.cholesky(k)
        half = emit("solve", factor, y[:, None], structure="lower")
        return emit("solve", factor.T, half, structure="upper")[:, 0]

    p, steps = np.array([0.3, -0.2, -1.0]), 1e-6 * np.eye(3)
    slopes = [
        (likelihood(p + d, np.linalg.solve) - likelihood(p - d, np.linalg.solve)) / 2e-6
        for d in steps
    ]
    for solved in (np.linalg.solve, by_factor):
        f = sg.value_and_grad(lambda p, solved=solved: likelihood(p, solved))
        value, gradient = f(p)
        np.testing.assert_allclose(value, likelihood(p, np.linalg.solve))
        np.testing.assert_allclose(gradient, slopes, rtol=1e-6)
        assert not any(call.phase.is_bound for call in f.lowered(p).calls)
