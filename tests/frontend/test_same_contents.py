"""Whether an array is what it was: by bits, for all dtypes and layouts."""

from __future__ import annotations

import numpy as np
import pytest

from symgrad.tracing import same_contents


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "f2", "f4", "f8", "c8", "c16", ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5)])
def test_equal_copies_are_the_same(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    assert same_contents(array, array.copy())
    assert same_contents(array.T, np.array(array.T, order="C"))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_nan_is_what_it_was(dtype: str) -> None:
    array = np.array([1, np.nan, 2], dtype)
    assert same_contents(array[::2], array[::2].copy()) and same_contents(array, array.copy())
    other = array.copy()
    other[0] = np.nan
    assert not same_contents(array, other)


@pytest.mark.parametrize("other", [[1, 2], [1, 2, 4], [1, 2, 3, 0]])
def test_another_number_or_shape_is_another(other: list[int]) -> None:
    for dtype in ("i4", "f8", "c16"):
        assert not same_contents(np.array([1, 2, 3], dtype), np.array(other, dtype))


def test_another_dtype_or_sign_of_zero_is_another() -> None:
    assert not same_contents(np.zeros(2, "f4"), np.zeros(2, "i4"))
    assert not same_contents(np.array([0.0]), np.array([-0.0]))
