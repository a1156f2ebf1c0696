"""Loops that are linear in their state, spread out over time, against the loops as they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir import Func, TensorType, dtype_of, interpret, verify
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Value
from symgrad.ir.passes import linear_loops
from symgrad.ir.passes.loops import rebuild_loops

import symgrad as sg

Array = np.ndarray[Any, Any]
LENGTH = 37  # no multiple of any vector


def spread(func: Func) -> Func:
    """The function with its loops spread out, and nothing else done to it."""
    return verify(rebuild_loops(func, lambda body: body))


def work(func: Func) -> list[int]:
    """Ops in the body of each loop."""
    return [len(op.regions[0].ops) for op in func.ops if op.name == "scan"]


# -- random loops ------------------------------------------------------------------------------


class RandomLoop:
    """A loop over numbers, linear in its state by construction, and arguments for it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.type = TensorType(dtype_of(np.float64))
        self.body = Builder(locations=False)
        states, sums = int(rng.integers(0, 5)), int(rng.integers(0, 3))
        fixed = [self.body.param(self.type) for _ in range(2)]
        state = [self.body.param(self.type) for _ in range(states)]
        totals = [self.body.param(self.type) for _ in range(sums)]
        each = [self.body.param(self.type) for _ in range(2)]
        with self.body:
            free = [*fixed, *each, self.body.constant(0.75, self.type)]
            for _ in range(8):
                free.append(self.free(free))
            linear = list(state) or [free[-1]]
            for _ in range(12):
                linear.append(self.linear(linear, free))
            after = [self.pick(linear) * 0.25 for _ in state]
            after += [self.summed(total, self.pick(linear)) for total in totals]
            gives = [self.pick(linear), self.pick(linear) * self.pick(linear), self.pick(free)]
            region = self.body.region([*fixed, *state, *totals, *each], [*after, *gives])
        outer = Builder(locations=False)
        count = 2 + states + sums
        params = [outer.param(self.type) for _ in range(count)]
        params += [outer.param(self.type.with_shape((LENGTH,))) for _ in each]
        made = outer.emit(
            "scan", *params, regions=(region,), consts=2, carries=states + sums, length=LENGTH,
            reverse=bool(rng.integers(2)),
        )  # fmt: skip
        asked = states + sums + len(gives) + states  # last states, gives, and how steps began
        self.func = outer.build(made[:asked])
        self.arguments = [rng.uniform(-1, 1, p.shape) for p in params]

    def with_nan(self) -> list[Array]:
        """Arguments where some of the state begins as nan, which a choice may leave behind."""
        return [
            np.array(np.nan) if 2 <= i < len(self.arguments) - 2 and self.rng.integers(2) else x
            for i, x in enumerate(self.arguments)
        ]

    def pick(self, values: list[Value]) -> Value:
        return values[int(self.rng.integers(len(values)))]

    def free(self, free: list[Value]) -> Value:
        """Something that does not depend on the state."""
        x, y = self.pick(free), self.pick(free)
        made: Value = [
            lambda: x * y, lambda: x - y, lambda: self.body.emit("sin", x),
            lambda: self.body.emit("exp", x) + 1.0,
        ][int(self.rng.integers(4))]()  # fmt: skip
        return made

    def linear(self, linear: list[Value], free: list[Value]) -> Value:
        """Something that is linear in the state."""
        x, y, c = self.pick(linear), self.pick(linear), self.pick(free)
        emit = self.body.emit
        made: Value = [
            lambda: x + y, lambda: x - y, lambda: -x, lambda: x * c, lambda: c * x,
            lambda: x + c, lambda: c - x, lambda: x / (c * c + 1.0),
            lambda: emit("scale", x, c), lambda: emit("scale", c, x),
            lambda: emit("select", emit("lt", c, self.pick(free)), x, y),
        ][int(self.rng.integers(11))]()  # fmt: skip
        return made

    def summed(self, total: Value, term: Value) -> Value:
        made: Value = [lambda: total + term, lambda: term + total, lambda: total - term][
            int(self.rng.integers(3))
        ]()
        return made


@pytest.mark.parametrize("seed", range(120))
def test_random_loops_keep_their_results(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_loops, "_WORK", 0)  # whether it pays or not
    loop = RandomLoop(seed)
    found = spread(loop.func)
    assert all(n <= 2 * 4 * 5 for n in work(found))
    for arguments in (loop.arguments, loop.with_nan()):
        results = interpret(found, arguments)
        for x, y in zip(results, interpret(loop.func, arguments), strict=True):
            np.testing.assert_allclose(x, y, 1e-12, 1e-12)


# -- derivatives of loops ------------------------------------------------------------------------


def runge_kutta(rates: Array) -> Callable[..., Any]:
    """A step of a method of order 2 for a predator and its prey, with what it counts."""

    def slopes(u: Any, v: Any) -> Any:
        return u * (rates[0] - rates[1] * v), v * (rates[2] * u - 1.0)

    def step(state: Any, drive: Any) -> Any:
        u, v, eaten = state
        k, m = slopes(u, v)
        k, m = slopes(u + 0.05 * k, v + 0.05 * m)
        return (u + 0.1 * k, v + 0.1 * m + 0.01 * drive, eaten + np.sin(u * v)), u * v

    return step


def loss(rates: Array, start: Array, drive: Array) -> Any:
    (u, v, eaten), meetings = sg.scan(runge_kutta(rates), (start[0], start[1], start[0]), drive)
    return u * v + eaten + (meetings * meetings).sum()


def python_loss(rates: Array, start: Array, drive: Array) -> Any:
    """The same, unrolled and never rolled up again: it is given as tangents in NumPy."""
    state, total = (start[0], start[1], start[0]), 0.0
    for x in drive:
        state, meeting = runge_kutta(rates)(state, x)
        total = total + meeting * meeting
    return state[0] * state[1] + state[2] + total


def arguments(dtype: str, length: int = LENGTH) -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    drive = rng.normal(size=length)
    return tuple(np.asarray(x, dtype) for x in ((0.9, 0.7, 0.8), (1.0, 0.6), drive))


def complex_step(f: Callable[..., Any], args: tuple[Array, ...]) -> list[Array]:
    """Derivatives to the last bit or so, of a function that NumPy runs on complex numbers."""
    found = []
    for n, x in enumerate(args):
        gradient = np.empty(x.shape)
        for i in np.ndindex(x.shape):
            shifted = x.astype(complex)
            shifted[i] += 1e-30j
            gradient[i] = f(*args[:n], shifted, *args[n + 1 :]).imag / 1e-30
        found.append(gradient)
    return found


@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 2e-5), ("f8", 1e-13)])
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_the_loops(dtype: str, rtol: float, threads: int) -> None:
    args = arguments(dtype)
    before = sg.get_num_threads()
    sg.set_num_threads(threads)
    try:
        value, found = sg.value_and_grad(loss, (0, 1, 2))(*args)
    finally:
        sg.set_num_threads(before)
    wide = tuple(x.astype("f8") for x in args)
    np.testing.assert_allclose(value, python_loss(*wide), rtol)
    for x, y in zip(found, complex_step(python_loss, wide), strict=True):
        assert x.dtype == dtype
        np.testing.assert_allclose(x, y, rtol, rtol)


def test_what_is_left_of_the_backward_loop_is_a_recurrence() -> None:
    args = arguments("f8")
    gradient = sg.grad(loss, (0, 1, 2))
    before, after = (work(f) for f in (gradient.adjoint(*args), gradient.optimized(*args)))
    assert len(before) == len(after) == 2
    assert before[1] > 50
    assert after[1] == 2  # a nest for each of two numbers; the third only added up


def test_second_derivatives() -> None:
    sg.check_grads(loss, arguments("f8", 18), order=2)


def test_a_loop_that_only_adds_up_is_none() -> None:
    def total(x: Array) -> Any:
        last, _ = sg.scan(lambda s, x: (s + np.exp(x) * np.sin(x * x) / (1 + x * x), None), 0.0, x)
        return last

    x = np.linspace(0, 1, LENGTH)
    compiled = sg.jit(total)
    np.testing.assert_allclose(compiled(x), (np.exp(x) * np.sin(x * x) / (1 + x * x)).sum())
    assert not work(compiled.optimized(x))


def test_an_infinite_slope_vanishes_with_its_cotangent() -> None:
    """A root's slope at 0 is infinite, and nothing flows there: through the branch that was not
    taken, and through a step whose result the next one does not use."""

    def f(x: Array, c: Array) -> Any:
        def step(s: Any, x: Any) -> Any:
            roots = x * np.sqrt(s) + np.sqrt(np.exp(-s) * np.abs(x)) * x
            waves = np.sin(s) * x * x * np.cos(x * c[1]) / (1 + c[0] * s * s)
            return np.where(x < 0, 0.25, roots + waves), None

        return sg.scan(step, x[0] + 1, x)[0]

    x = np.linspace(0.1, 1, LENGTH)
    x[15], x[17] = 0, -1  # the state is 0 before step 16, and its cotangent is 0 behind it
    args = x, np.array([0.3, 0.8])
    gradient = sg.grad(f, (0, 1))
    found = np.concatenate(gradient(*args))
    assert work(gradient.optimized(*args))[1] == 1
    *_, by_x, by_c = interpret(gradient.adjoint(*args), args)
    np.testing.assert_allclose(found, np.concatenate((by_x, by_c)), 1e-12, 1e-12)
    assert np.isfinite(found).all() and np.count_nonzero(found) > 10


@pytest.mark.parametrize("start", [np.nan, np.inf, 1.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_choice_leaves_a_state_behind_that_is_no_number(start: float, threads: int) -> None:
    """The last value that was measured, carried over gaps; the second only reads the first."""

    def step(state: Any, x: Any) -> Any:
        held, follower = state
        seen = np.sin(np.cos(np.tanh(x * 2 + 1))) * np.exp(-x * x) + np.log1p(x * x) * np.cos(x)
        gap = np.isnan(x)
        after = np.where(gap, held, seen), np.where(gap, 2 * follower, 3 * held - follower)
        return after, np.where(gap, 0.0, after[0])

    def f(start: Array, x: Array) -> Any:
        return sg.scan(step, (start, start), x)

    x = np.random.default_rng(0).normal(size=LENGTH)
    x[::3] = x[4] = np.nan
    args = np.array(start), x
    before = sg.get_num_threads()
    sg.set_num_threads(threads)
    try:
        compiled = sg.jit(f)
        (held, follower), gives = compiled(*args)
    finally:
        sg.set_num_threads(before)
    state, expected = (start, start), []
    with np.errstate(invalid="ignore"):
        for number in x:
            state, give = step(state, number)
            expected.append(give)
    assert max(work(compiled.optimized(*args))) <= 2
    np.testing.assert_allclose((held, follower), state, 1e-12)
    np.testing.assert_allclose(gives, expected, 1e-12)
    assert np.isfinite(held)


@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_short_loops(length: int) -> None:
    args = arguments("f8", length)
    found = sg.grad(loss, (0, 1, 2))(*args)
    for x, y in zip(found, complex_step(python_loss, args), strict=True):
        np.testing.assert_allclose(x, y, 1e-12, 1e-12)


def test_what_is_not_linear_stays() -> None:
    def f(x: Array) -> Any:
        def step(s: Any, x: Any) -> Any:
            return np.sin(s * x) * s + np.exp(x) * np.cos(s) / 2, None

        return sg.scan(step, 0.5, x)[0]

    compiled, x = sg.jit(f), np.linspace(0, 1, LENGTH)
    state = 0.5
    for number in x:
        state = np.sin(state * number) * state + np.exp(number) * np.cos(state) / 2
    np.testing.assert_allclose(compiled(x), state)
    assert work(compiled.optimized(x)) == [1]


def test_state_that_no_step_changes_is_none() -> None:
    def f(a: Array, b: Array, xs: Array) -> Any:
        def step(s: Any, x: Any) -> Any:
            return (s[0], s[1], np.tanh(s[2] * s[0][1] + s[1] * x)), s[0] * x

        (first, second, third), gives = sg.scan(step, (a, b, b), xs)
        return first.sum() * second * third + gives.sum()

    args = np.array([0.5, 0.25, 2.0]), np.array(0.7), np.linspace(-1, 1, LENGTH)
    _, tuned = sg.jit(f).ir(*args), sg.jit(f).optimized(*args)
    (loop,) = (op for op in tuned.ops if op.name == "scan")
    assert loop.attrs["carries"] == 1
    a, b, xs = args
    state = b
    for x in xs:
        state = np.tanh(state * a[1] + b * x)
    np.testing.assert_allclose(
        sg.jit(f)(*args), a.sum() * b * state + (a * xs[:, None]).sum(), 1e-13
    )
    sg.check_grads(f, args, order=2)


def test_a_loop_that_changes_nothing_is_none() -> None:
    run = sg.jit(lambda x: sg.fori_loop(0, LENGTH, lambda _, s: (s[0], s[1]), (x, 2 * x)))
    x = np.arange(3.0)
    for found, expected in zip(run(x), (x, 2 * x), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not work(run.optimized(x))
