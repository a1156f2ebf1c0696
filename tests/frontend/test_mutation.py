"""In-place operations on traced arrays mean what they mean in NumPy, views included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import TraceError, UnsupportedError

import symgrad as sg

X = np.random.default_rng(1).uniform(-1.0, 1.0, (4, 5))
V = np.arange(5.0)


def basic(x: Any, v: Any) -> Any:
    x[0] = v
    x[1, 2] = 7.0
    x[2:, 1:3] = 0.0
    x[:, -1] = v[:4]
    return x


def stepped(x: Any, v: Any) -> Any:
    x[::2, ::-1] = v
    x[3, 4::-2] = v[:3]
    return x


def new_axes(x: Any, v: Any) -> Any:
    x[1:3, None] = v
    x[..., 0] = 5
    return x


def arrays(x: Any, v: Any) -> Any:
    x[[0, 2]] = v
    x[[1, 3], [0, -1]] = v[:2]
    x[:, [1, 2]] = 9.0
    return x


def arrays_and_slices(x: Any, v: Any) -> Any:
    x[1:, [4, 0]] = v[:2]
    x[[0, 1], 1:4:2] = 3.0
    x[::-1, [1]] = v[:4, None]
    return x


def repeated(x: Any, v: Any) -> Any:
    x[[1, 1, 1]] = v * np.arange(3.0)[:, None]
    return x


def masks(x: Any, v: Any) -> Any:
    x[x < 0] = 0.5
    x[np.array([True, False, True, False])] *= 2
    x[x.sum(axis=1) > 2.5] = v
    return x


def traced_positions(x: Any, v: Any) -> Any:
    i = np.argmax(x, axis=1)
    x[np.arange(4), i] = -1.0
    x[i[0]] = v
    return x


def augmented(x: Any, v: Any) -> Any:
    x[0] += v
    x[1:3, 1] *= 2
    x[3, 3] -= 1
    x[[0, 2]] /= 2.0
    x += 1
    x **= 2
    return x


def row_view(x: Any, v: Any) -> Any:
    row = x[1]
    row[:] = v
    row += 1
    x[1, 0] = 99.0
    return x, row


def chain_of_views(x: Any, v: Any) -> Any:
    corner = x.T[1:3][:, ::2]
    corner[...] = 8.0
    flat = x.reshape(-1)
    flat[::7] = -1.0
    swapped = x.swapaxes(0, 1)
    swapped[0] = v[:4]
    return x, corner, flat, swapped


def alias(x: Any, v: Any) -> Any:
    y = x
    y += 1
    z = x.copy()
    z *= 0
    return x, y, z


def results_are_fresh(x: Any, v: Any) -> Any:
    for make in (lambda a: a.astype(float), np.positive, np.copy, abs, lambda a: np.clip(a, -9, 9)):
        y = make(x)
        y += 1
    return x


def buffer(x: Any, v: Any) -> Any:
    out = np.zeros_like(x)
    for i in range(4):
        out[i] = x[i] * i
    return out


def scalars_do_not_alias(x: Any, v: Any) -> Any:
    total = x[0, 0]
    first = total
    total += v.sum()
    return first, total


def out_argument(x: Any, v: Any) -> Any:
    np.add(x, 1, out=x)
    np.multiply(x, v, out=x)
    return x


def add_at(x: Any, v: Any) -> Any:
    np.add.at(x, [1, 1, 0], v)
    np.add.at(x, ([2, 2], [3, 3]), 0.5)
    return x


def copy_to(x: Any, v: Any) -> Any:
    np.copyto(x[0], v)
    np.copyto(x, 0.0, where=x < 0)
    return x


def writing_functions(x: Any, v: Any) -> Any:
    np.fill_diagonal(x, 9.0)
    np.putmask(x, x < 0, 0.25)
    np.put_along_axis(x, np.argmin(x, 1, keepdims=True), -5.0, 1)
    return x


def fill(x: Any, v: Any) -> Any:
    x[1].fill(3)
    x.fill(2)
    return x


def integers(x: Any, v: Any) -> Any:
    n = np.zeros_like(x, dtype=int)
    n[1] = v
    n += 2
    return n


def sorting(x: Any, v: Any) -> Any:
    x.sort()
    x[1:3].sort(0)
    v[:3].sort()
    return x, v


def parts_in_order(x: Any, v: Any) -> Any:
    x.partition(2)
    return x[:, 2]


def split_views(x: Any, v: Any) -> Any:
    first, second = np.split(x, 2)
    first += v
    second[0] = 0
    np.array_split(x, [2, 4], axis=1)[2][...] = 3.0
    np.unstack(x, axis=1)[1][:] *= 2
    return x, first


def copies_of_views(x: Any, v: Any) -> Any:
    """What does not lie in the order asked for is copied, there and back."""
    across, block = x.T.ravel(), x[:, :2].reshape(-1)
    turned, columns = np.flip(x, 0).reshape(20), x.reshape(-1, order="F")
    x[0] = v
    for copied in (across, block, turned, columns):
        copied[:3] = 7
    x[1].reshape(5, 1)[0] = 4
    x.T[:, None].squeeze()[0, 1] = 5
    x[1:3].reshape(2, 5, 1)[1, 1] = 6
    return x, across, block, turned, columns


def views_of_diagonals(x: Any, v: Any) -> Any:
    before, above = np.diagonal(x), np.diag(x[:4, :4], 1)
    x += 1
    return before.copy(), above.copy()


def without_copy(x: Any, v: Any) -> Any:
    x[0, 0] = np.inf
    np.nan_to_num(x, copy=False)
    same = x.astype(x.dtype, copy=False)
    same[1] = v
    return x


def added_at_slices(x: Any, v: Any) -> Any:
    np.add.at(x, ([0, 1, 1], slice(None, None, -1)), v)
    np.add.at(x, (slice(1, None, 2), [0, 0]), v[:2])
    return x


def diagonals(x: Any, v: Any) -> Any:
    tall = np.vstack([x, x]) * 0
    np.fill_diagonal(tall, 7.0, wrap=True)
    np.fill_diagonal(x, v[:2])
    cube = np.zeros_like(x, shape=(3, 3, 3))
    np.fill_diagonal(cube, v)
    return x, tall, cube


def put_masked_repeated(x: Any, v: Any) -> Any:
    np.putmask(x, x < 0, v[1:3])
    return x


CASES = [
    basic, stepped, new_axes, arrays, arrays_and_slices, repeated, masks, traced_positions,
    augmented, row_view, chain_of_views, alias, results_are_fresh, buffer,
    scalars_do_not_alias, out_argument, add_at, copy_to, writing_functions, fill, integers,
    sorting, parts_in_order, split_views, copies_of_views, views_of_diagonals, without_copy,
    added_at_slices, diagonals, put_masked_repeated,
]  # fmt: skip


@pytest.mark.parametrize("f", CASES)
def test_as_numpy(f: Callable[..., Any]) -> None:
    before = X.copy()
    actual, expected = sg.jit(f)(X, V), f(X.copy(), V.copy())
    assert (before == X).all(), "the caller's array must not change"
    for a, e in zip(
        actual if isinstance(actual, tuple) else [actual],
        expected if isinstance(expected, tuple) else [expected],
        strict=True,
    ):
        assert np.asarray(a).dtype == np.asarray(e).dtype
        np.testing.assert_allclose(a, e, 1e-14)


@pytest.mark.parametrize(
    "f",
    [
        basic, stepped, arrays, arrays_and_slices, repeated, augmented, row_view, buffer, add_at,
        sorting, split_views, copies_of_views, added_at_slices, diagonals,
    ],
)  # fmt: skip
def test_gradients(f: Callable[..., Any]) -> None:
    def g(x: Any, v: Any) -> Any:
        y = f(x * 1.0, v * 1.0)
        return y[0] if isinstance(y, tuple) else y

    sg.check_grads(g, (X, V), order=2)


@pytest.mark.parametrize(
    "write",
    [
        lambda y, x: np.put_along_axis(y, np.zeros((4, 1), int), x[:, :1], 1),
        lambda y, x: np.putmask(y, x > 0, x), np.copyto,
        lambda y, x: np.fill_diagonal(y, x[0]),
    ],
)  # fmt: skip
def test_plain_arrays_do_not_take_traced_values(write: Callable[..., Any]) -> None:
    def f(x: Any) -> Any:
        y = np.zeros((4, 5))
        write(y, x)
        return y + x

    with pytest.raises(TraceError, match="cannot be assigned into a plain NumPy array"):
        sg.jit(f)(X)


def test_an_order_of_memory_that_is_not_known() -> None:
    np.testing.assert_array_equal(sg.jit(lambda x: x.ravel("K"))(X), X.ravel())
    with pytest.raises(UnsupportedError, match="use 'C' or 'F'"):
        sg.jit(lambda x: x.T.ravel("K"))(X)


def test_stale_view_read_in_an_inner_trace() -> None:
    def f(x: Any) -> Any:
        y = x.copy()
        row = y[0]
        y[0] = 7.0
        return sg.vmap(lambda v: v + row)(x), row

    sums, row = sg.jit(f)(X)
    np.testing.assert_array_equal(row, np.full(5, 7.0))
    np.testing.assert_array_equal(sums, X + 7.0)


def test_numpy_zeros_inside_a_trace_can_be_written_to() -> None:
    def f(x: Any) -> Any:
        out = sg.numpy.zeros((3, 2))
        out[1] = x
        return out

    np.testing.assert_array_equal(sg.jit(f)(np.ones(2)), [[0, 0], [1, 1], [0, 0]])
    assert type(sg.numpy.zeros(3)) is np.ndarray
