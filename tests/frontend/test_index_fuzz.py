"""Random keys of every kind: reading, writing and updating agree with NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symgrad as sg


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")  # what is tested here is the IR


def positions(size: int) -> st.SearchStrategy[int]:
    return st.integers(-size, size - 1)


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Integers, slices, new axes, an ellipsis, index arrays of one shape and masks."""
    ends = st.none() | st.integers(-6, 6)
    steps = st.sampled_from([None, 1, 2, -1, -2, 3])
    common = draw(st.sampled_from([(), (1,), (2,), (3,), (2, 3)]))
    items: list[Any] = []
    axis = 0  # an ellipsis may shift it: positions are in bounds on every axis behind one
    for kind in draw(st.lists(st.sampled_from("isnamb."), max_size=len(shape) + 1)):
        if kind == "n":
            items.append(None)
        elif kind == "." and not any(i is Ellipsis for i in items):
            items.append(Ellipsis)
        elif kind == "b" and axis + 1 < len(shape):
            count = shape[axis] * shape[axis + 1]
            mask = draw(st.lists(st.booleans(), min_size=count, max_size=count))
            items.append(np.array(mask).reshape(shape[axis : axis + 2]))
            axis += 2
        elif kind in "isam" and axis < len(shape):
            size = shape[axis]
            low = min(shape) if any(i is Ellipsis for i in items) else size
            if kind == "i":
                items.append(draw(positions(low)))
            elif kind == "s":
                items.append(slice(draw(ends), draw(ends), draw(steps)))
            elif kind == "a":
                count = math.prod(common)
                index = draw(st.lists(positions(low), min_size=count, max_size=count))
                items.append(np.array(index, int).reshape(common))
            else:
                mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
                items.append(np.array(mask))
            axis += 1
    return tuple(items)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_indexing_agrees_with_numpy(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    key = data.draw(keys(shape))
    x = np.arange(float(math.prod(shape))).reshape(shape)

    def read(x: Any) -> Any:
        return x[key]

    def write(x: Any, value: Any) -> Any:
        x[key] = value
        return x

    def update(x: Any, value: Any) -> Any:
        x[key] *= value
        return x

    try:
        expected = read(x)
    except IndexError:  # masks and index arrays that do not fit each other
        with pytest.raises((IndexError, ValueError)):
            sg.jit(read)(x)
        return
    actual = sg.jit(read)(x)
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_array_equal(actual, expected)
    value = np.random.default_rng(0).uniform(2, 3, np.shape(expected))
    for f in (write, update):
        np.testing.assert_array_equal(sg.jit(f)(x, value), f(x.copy(), value))
