"""Substitution in triangular systems, which goes block by block."""

from __future__ import annotations

import numpy as np
import pytest
from symgrad.ir.ops.factor import _BLOCK, _substitute


@pytest.mark.parametrize("n", [1, 3, _BLOCK - 1, _BLOCK, _BLOCK + 1, 3 * _BLOCK + 8])
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_only_the_triangle_counts(n: int, lead: tuple[int, ...], lower: bool, unit: bool) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(*lead, n, n)) * 0.1, rng.normal(size=(*lead, n, 4))
    a[..., np.arange(n), np.arange(n)] = rng.uniform(1, 2, n)
    triangle = np.tril(a) if lower else np.triu(a)
    if unit:
        triangle[..., np.arange(n), np.arange(n)] = 1
    np.testing.assert_allclose(triangle @ _substitute(a, b, lower, unit), b, atol=1e-11)


def test_divisions_by_zero_spoil_what_depends_on_them() -> None:
    a = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    b = np.array([[1.0], [2.0], [3.0]])
    found = _substitute(a, b, lower=True, unit=False)
    np.testing.assert_array_equal(found[:2], [[1.0], [np.inf]])
    assert np.isnan(found[2])
