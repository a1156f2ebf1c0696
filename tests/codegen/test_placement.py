"""Values that are made in their part of a larger array: no copies, and the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lower import lower
from symgrad.ir import Func, interpret
from symgrad.ir.passes import optimize

import symgrad as sg

Array = np.ndarray[Any, Any]


def made(f: Callable[..., Any], *args: Array, threads: int = 1) -> list[str]:
    """The kernels of ``f``; the compiled results are those of the interpreter."""
    func: Func = sg.trace(f, *args)
    optimised = optimize(func)
    executable = compile_func(optimised, threads=threads)
    for _ in range(2):  # nothing of a run is left over
        for got, want in zip(executable(list(args)), interpret(func, list(args)), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    return [call.phase.label for call in lower(optimised, threads=threads).calls]


def inputs(dtype: str, *shapes: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(3)
    found = (rng.integers(-50, 50, shape) for shape in shapes)
    return [x.astype(np.bool_) if dtype == "?" else x.astype(dtype) for x in found]


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i1"])
@pytest.mark.parametrize("size", [1, 3, 17, 5000])
@pytest.mark.parametrize("threads", [1, 3])
def test_concatenation_of_computed_arrays(dtype: str, size: int, threads: int) -> None:
    def f(x: Array, y: Array) -> Any:
        return np.concatenate([x + y, x * y, x[:1] - y[:1]])

    assert "concatenate" not in made(f, *inputs(dtype, (size,), (size,)), threads=threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_of_parts_and_what_else_reads_them(threads: int) -> None:
    def f(x: Array, y: Array) -> Any:
        total, product = x + y, x * y
        inner = np.concatenate([total, product])
        rows = np.stack([inner, np.concatenate([total[::-1] * product, x - y])])
        return rows[None], inner.reshape(2, -1).sum(1) + total[0], product

    kernels = made(f, *inputs("f8", (1001,), (1001,)), threads=threads)
    assert "concatenate" not in kernels


def test_a_value_in_several_arrays_is_copied_to_all_but_one() -> None:
    def f(x: Array) -> Any:
        y = x * x
        return np.concatenate([x, y]), np.concatenate([y, y, x, y])

    made(f, *inputs("f4", (37,)))


def test_parameters_and_sums_are_copied() -> None:
    def f(x: Array) -> Any:
        return np.concatenate([x, x + 1, x.reshape(5, 7).sum(0)])

    assert "concatenate" in made(f, *inputs("f4", (35,)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_contiguous_parts_are_made_in_place(axis: int) -> None:
    def f(x: Array, y: Array) -> Any:
        return np.concatenate([x + x, y + y, x * 3], axis)

    for shape in ((2, 3, 5), (1, 3, 5), (1, 1, 5)):
        other = tuple(n + 2 if a == axis else n for a, n in enumerate(shape))
        kernels = made(f, *inputs("f8", shape, other))
        assert ("concatenate" in kernels) == any(n != 1 for n in shape[:axis])


@pytest.mark.parametrize("widths", [((0, 1),), ((2, 0),), ((3, 4),)])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "?"])
def test_padding_around_computed_arrays(widths: Any, dtype: str) -> None:
    def f(x: Array, y: Array) -> Any:
        both = x ^ y if dtype == "?" else x * y
        return np.pad(both, widths), np.pad(x, widths)

    made(f, *inputs(dtype, (9,), (9,)))


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_padding_of_rows(value: float) -> None:
    def f(x: Array) -> Any:
        padded = np.pad(x + 1, ((2, 1), (0, 0)), constant_values=value)
        return padded * 2, np.pad(x - 1, ((0, 0), (1, 2)), constant_values=value), padded

    made(f, *inputs("f4", (5, 7)))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [2, 9, 33, 2000])
def test_small_padding_of_zeros_needs_no_kernel(threads: int, size: int) -> None:
    """Nothing else may use its memory, neither what is computed later nor the next run."""

    def f(x: Array, y: Array) -> Any:
        product, total = x * y, x + y
        both = np.pad(product, (0, 1)) + np.pad(total, (1, 0))
        again = np.pad(both * both - 7, (3, 2)) * 2
        return both + 1, again.reshape(1, -1) + np.pad(again[1:-1] + 3, (1, 1)), again

    kernels = made(f, *inputs("f8", (size,), (size,)), threads=threads)
    assert ("pad" in kernels) == (size == 2000)


def test_memory_that_results_take_over() -> None:
    """A donated parameter is read until its last reader has run."""

    def f(x: Array, y: Array) -> Any:
        left, right = x[:8] * y, x[8:] + y
        return np.concatenate([right, left]), x[::-1] * 2

    x, y = inputs("f8", (16,), (8,))
    expected = [np.array(r) for r in interpret(sg.trace(f, x, y), [x, y])]
    run = sg.jit(f, donate_argnums=(0,))
    for _ in range(3):
        for got, want in zip(run(x.copy(), y), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_into_given_arrays() -> None:
    def f(x: Array) -> Any:
        return np.concatenate([np.sin(x), np.cos(x)])

    x, out = np.linspace(0, 1, 13), np.full(26, np.nan)
    assert sg.jit(f)(x, out=out) is out
    np.testing.assert_allclose(out, f(x), 1e-15)


def test_parts_in_loops() -> None:
    def f(x: Array, z: Array) -> Any:
        def step(state: Array, row: Array) -> Any:
            new = np.concatenate([state[3:] + row, state[:3] * row])
            return new, np.pad(new[:2] - row[:2], (1, 2))

        return sg.scan(step, x, z)

    made(f, *inputs("f8", (6,), (5, 3)))


def test_epilogues_of_products_keep_their_place() -> None:
    def f(x: Array, w: Array) -> Any:
        hidden = np.maximum(x @ w, 0)
        return np.concatenate([hidden, hidden * 2 + x])

    made(f, *inputs("f4", (16, 16), (16, 16)))
