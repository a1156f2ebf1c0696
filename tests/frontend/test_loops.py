"""``scan`` and ``fori_loop`` against the same loop in Python: values, derivatives, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import ShapeError, UsageError

import symgrad as sg
from symgrad import ir, tree

Array = np.ndarray[Any, Any]


def unrolled(f: Callable[..., Any], init: Any, xs: Any, reverse: bool = False) -> Any:
    """What ``scan`` stands for."""
    leaves, spec = tree.flatten(xs)
    order = range(len(leaves[0]))
    state, ys = init, {}
    for t in reversed(order) if reverse else order:
        state, ys[t] = f(state, tree.unflatten(spec, [x[t] for x in leaves]))
    flat = [tree.flatten(ys[t])[0] for t in order]
    stacked = [np.stack(parts) for parts in zip(*flat, strict=True)]
    return state, tree.unflatten(tree.flatten(ys[0])[1], stacked)


def oscillator(w: Array) -> Callable[..., Any]:
    """A step with a state of two shapes, that uses ``w`` from around it.  Seven of them make
    roundings thirty times as large."""

    def step(state: dict[str, Array], x: tuple[Array, Array]) -> Any:
        position, speed = state["position"], state["speed"]
        speed = speed * 0.9 + np.sin(position * w).sum() + x[0]
        position = np.tanh(position + x[1] * speed) * np.concatenate([w[1:], w[:1]])
        return {"position": position, "speed": speed}, (position[::2], speed * x[0])

    return step


def oscillator_inputs(dtype: str, length: int = 7, width: int = 5) -> tuple[Any, ...]:
    rng = np.random.default_rng(1)
    state = {"position": rng.normal(size=width), "speed": rng.normal(size=())}
    xs = rng.normal(size=length), rng.normal(size=(length, width))
    inputs = rng.uniform(0.5, 1.5, width), state, xs
    cast: tuple[Any, ...] = tree.map_leaves(lambda x: np.asarray(x, dtype), inputs)
    return cast


def loss_by(loop: Callable[..., Any], reverse: bool) -> Callable[..., Any]:
    def loss(w: Array, state: Any, xs: Any) -> Any:
        last, (positions, rest) = loop(oscillator(w), state, xs, reverse=reverse)
        return (positions * positions).sum() + (rest * last["speed"]).sum() + last["position"][1]

    return loss


def assert_alike(a: Any, b: Any, rtol: float) -> None:
    leaves, spec = tree.flatten(a)
    others, other_spec = tree.flatten(b)
    assert spec == other_spec
    for x, y in zip(leaves, others, strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_allclose(x, y, rtol, rtol)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 2e-5), ("f8", 1e-13)])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_are_those_of_the_loop(reverse: bool, dtype: str, rtol: float, threads: int) -> None:
    w, state, xs = oscillator_inputs(dtype)
    before = sg.get_num_threads()
    sg.set_num_threads(threads)
    try:
        expected = unrolled(oscillator(w), state, xs, reverse)
        run = sg.jit(lambda w, s, xs: sg.scan(oscillator(w), s, xs, reverse=reverse))
        assert_alike(run(w, state, xs), expected, rtol)
        assert_alike(sg.scan(oscillator(w), state, xs, reverse=reverse), expected, rtol)
    finally:
        sg.set_num_threads(before)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 2e-4), ("f8", 1e-12)])
def test_gradients_are_those_of_the_loop(reverse: bool, dtype: str, rtol: float) -> None:
    inputs = oscillator_inputs(dtype)
    loops = sg.scan, unrolled
    found, expected = (
        sg.value_and_grad(loss_by(loop, reverse), (0, 1, 2))(*inputs) for loop in loops
    )
    assert_alike(found, expected, rtol)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_second_order(reverse: bool) -> None:
    sg.check_grads(loss_by(sg.scan, reverse), oscillator_inputs("f8", length=3), order=2)


def test_compiled_is_interpreted_and_text_parses_back() -> None:
    inputs = oscillator_inputs("f8")
    gradient = sg.grad(loss_by(sg.scan, False), (0, 1, 2))
    leaves, _ = tree.flatten(inputs)
    for func in (gradient.adjoint(*inputs), gradient.optimized(*inputs)):
        assert ir.parse(str(func)) == ir.verify(func)
        expected = ir.interpret(func, leaves)
        found, _ = tree.flatten(gradient(*inputs))
        for x, y in zip(found, expected[-len(found) :], strict=True):
            np.testing.assert_allclose(x, y, 1e-12, 1e-12)


def test_states_are_kept_for_derivatives_only_and_unused_ones_go() -> None:
    def last(x: Array) -> Any:
        (state, _, _), _ = sg.scan(lambda s, x: ((s[0] * x, s[1] + x, s[1]), s[2]), (x[0],) * 3, x)
        return state

    x = np.linspace(0.5, 1.5, 6)
    (loop,) = [op for op in sg.jit(last).optimized(x).ops if op.name == "scan"]
    assert loop.attrs["carries"] == 1
    assert len(loop.regions[0].results) == 1
    np.testing.assert_allclose(sg.grad(last)(x)[1:], x[0] * x.prod() / x[1:])


def test_whole_numbers_are_carried_and_not_differentiated() -> None:
    def power(x: Any) -> Any:
        (n, y), _ = sg.scan(lambda s, _: ((s[0] + 1, s[1] * x * s[0]), None), (1, 1.0), length=4)
        return y * n

    value, slope = sg.value_and_grad(power)(1.5)
    assert value == 5 * 24 * 1.5**4
    assert slope == 5 * 24 * 4 * 1.5**3


def test_fori_loop_counts() -> None:
    x = np.linspace(0, 1, 3)
    found = sg.jit(lambda x: sg.fori_loop(2, 5, lambda i, s: s * x + i, np.zeros(3)))(x)
    np.testing.assert_allclose(found, (2 * x + 3) * x + 4)


def test_loops_in_loops() -> None:
    def total(x: Array, rows: Callable[..., Any], columns: Callable[..., Any]) -> Any:
        def row(s: Any, r: Array) -> Any:
            s, ys = columns(lambda t, a: (np.sin(t) + a * s, t * a), s, r)
            return s, ys.sum()

        last, sums = rows(row, x[0, 0], x)
        return last * sums.sum()

    x = np.random.default_rng(2).normal(size=(4, 3))
    found = sg.value_and_grad(lambda x: total(x, sg.scan, sg.scan))(x)
    expected = sg.value_and_grad(lambda x: total(x, unrolled, unrolled))(x)
    assert_alike(found, expected, 1e-12)


def test_vmap_and_jacobian() -> None:
    w, state, xs = oscillator_inputs("f8", length=4)
    rng = np.random.default_rng(3)
    ws, speeds = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))

    def run(w: Array, x: Array) -> Any:
        return sg.scan(oscillator(w), state, (x, xs[1]))

    expected = [run(w, x) for w, x in zip(ws, speeds, strict=True)]
    found = sg.vmap(run)(ws, speeds)
    for i, one in enumerate(expected):
        assert_alike(tree.map_leaves(lambda a, i=i: a[i], found), one, 1e-12)
    by_w = sg.jacobian(lambda w: run(w, xs[0])[1][0])(w)
    loop = sg.jacobian(lambda w: unrolled(oscillator(w), state, xs)[1][0])(w)
    np.testing.assert_allclose(by_w, loop, 1e-11, 1e-12)


def test_bodies_of_products_and_convolutions() -> None:
    """Kernels with packed operands, temporaries and halos run in a loop, too."""
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(2, 16, 6, 6)), rng.normal(size=(16, 16, 3, 3)) / 12
    m = rng.normal(size=(3, 36, 36)) / 6

    def loss(loop: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Array, w: Array, m: Array) -> Any:
            def step(x: Array, m: Array) -> Any:
                y = np.maximum(sg.nn.functional.conv2d(x, w, padding=1), 0)
                return (y.reshape(32, 36) @ m).reshape(x.shape), y.sum()

            last, sums = loop(step, x, m)
            return (last * last).sum() + (sums * sums).sum()

        return run

    found, expected = (
        sg.value_and_grad(loss(loop), (0, 1, 2))(x, w, m) for loop in (sg.scan, unrolled)
    )
    assert_alike(found, expected, 1e-10)


def test_no_derivative_flows_from_infinite_slopes_that_nothing_asks_for() -> None:
    """The state turns infinite in the first step; from there on nothing depends on it."""

    def chosen(x: Array) -> Any:
        def step(s: Array, a: Array) -> Any:
            return s / a, np.where(s > 10, 1.0, s * a)

        return sg.scan(step, x[0], x[1:])[1].sum()

    value, slope = sg.value_and_grad(chosen)(np.array([3.0, 0.0, 2.0]))
    assert value == 1
    np.testing.assert_array_equal(slope, [0.0, 3.0, 0.0])


def test_no_steps() -> None:
    last, ys = sg.scan(lambda s, x: (s * x, s), np.arange(3.0), np.empty((0, 3)))
    np.testing.assert_array_equal(last, np.arange(3.0))
    assert ys.shape == (0, 3)


@pytest.mark.parametrize(
    ("kind", "run", "text"),
    [
        (ShapeError, lambda x: sg.scan(lambda s, x: (s + x, s), 1.0, np.ones((3, 2))),
         r"scan: init is f64\[\] before a step of <lambda> and f64\[2\] after it"),
        (UsageError, lambda x: sg.scan(lambda s, x: s, x, x), "must return a pair"),
        (UsageError, lambda x: sg.scan(lambda s, x: ((s, s), x), x, x), "structure"),
        (ShapeError, lambda x: sg.scan(lambda s, x: (s, x), x, (x, np.ones(4))), r"lengths \[3, 4"),
        (ShapeError, lambda x: sg.scan(lambda s, x: (s, x), x), "pass arrays xs"),
        (ShapeError, lambda x: sg.scan(lambda s, x: (s, x), x, 1.0), "a number"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(kind: type[Exception], run: Callable[..., Any], text: str) -> None:
    with pytest.raises(kind, match=text):
        sg.jit(run)(np.ones(3))
