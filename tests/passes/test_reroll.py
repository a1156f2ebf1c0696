"""Unrolled loops put back into loops: what is found, what is left alone, and the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.ir import Func, interpret, parse, verify
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.passes import optimize
from symgrad.ir.reroll import MIN_STEPS, reroll

import symgrad as sg
from tests.passes.programs import arguments, assert_same, build, op_names

Step = Callable[..., Any]
N = 40
RNG = np.random.default_rng(3)
NUMBERS = RNG.uniform(0.5, 1.5, N).tolist()


def unrolled(step: Step, *, length: int = N, dtype: str = "f64", width: int = 70) -> Func:
    """``x, y = step(i, x, y, w)`` so many times."""

    def make(x: Any, y: Any, w: Any) -> Any:
        for i in range(length):
            x, y = step(i, x, y, w)
        return x + y

    return build(make, dtype=dtype, x=(width,), y=(width,), w=(width,))


def loops(func: Func) -> list[Any]:
    return [op for op in func.ops if op.name == "scan"]


def sines(i: int, x: Any, y: Any, w: Any) -> Any:
    return ew.sin(x * NUMBERS[i] + w), y


def two_states(i: int, x: Any, y: Any, w: Any) -> Any:
    """A leapfrog step: each state from the other, the same number twice, one for all steps."""
    y = y + NUMBERS[i] * ew.sin(x) * w
    return x + 0.25 * y * NUMBERS[i], y


def two_back(i: int, x: Any, y: Any, w: Any) -> Any:
    """What the step before the last made is needed as well."""
    return ew.tanh(1.5 * x - y * NUMBERS[i]) + w * 0.125, x


def inner_loop(i: int, x: Any, y: Any, w: Any) -> Any:
    """A step with a period of its own inside."""
    for c in (0.5, 0.25, 0.125):
        x = ew.sin(x * c + w)
    return x + NUMBERS[i] * w, y


def with_masks(i: int, x: Any, y: Any, w: Any) -> Any:
    """Values of several dtypes, one of which is carried."""
    return ew.select(ew.gt(x, y), ew.exp(-x * x), x * NUMBERS[i]), ew.maximum(x, y)


STEPS = [sines, two_states, two_back, inner_loop, with_masks]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", ["f64", "f32"])
def test_a_loop_is_found_and_computes_the_same(step: Step, dtype: str) -> None:
    func = unrolled(step, dtype=dtype)
    rolled = reroll(func)
    (loop,) = loops(rolled)
    assert loop.attrs["length"] >= N // 2 - 2
    assert len(list(rolled.walk())) < len(func.ops) / 4
    assert_same(func, rolled)
    assert parse(str(rolled)) == rolled


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_loops_equal_the_unrolled_program(step: Step, threads: int) -> None:
    func = unrolled(step, width=201)
    args = arguments(func, seed=5)
    for derived in (func, value_and_grad(summed(func), (0, 1, 2))):
        with_loops = value_and_grad(summed(reroll(func)), (0, 1, 2)) if derived != func else func
        assert loops(verify(reroll(with_loops)))
        executable = compile_func(optimize(with_loops), threads=threads)
        for got, expected in zip(executable(args), interpret(derived, args), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def summed(func: Func) -> Func:
    """The sum of a function's one result."""

    def make(*params: Any) -> Any:
        from symgrad.ir.builder import inline
        from symgrad.ir.graph import insertion
        from symgrad.ir.ops.reduce import reduce_sum

        (result,) = inline(insertion.builder, func, params)
        return reduce_sum(result, axes=(0,))

    return build(make, **{p.name: p.shape for p in func.params})


ODD = 25


def other_array(i: int, x: Any, y: Any, w: Any) -> Any:
    return ew.sin(x * NUMBERS[i] + (y if i == ODD else w)), y


def older_state(i: int, x: Any, y: Any, w: Any) -> Any:
    """Once, the state of another step is read."""
    state = x.op.operands[0].op.operands[0].op.operands[0] if i == ODD else x
    return ew.sin(state * NUMBERS[i] + w), y


def other_op(i: int, x: Any, y: Any, w: Any) -> Any:
    u, v = x * 0.5, x * 0.25
    return (ew.sin(v) + u if i == ODD else ew.sin(u) + v) * w, y


def two_beginnings(i: int, x: Any, y: Any, w: Any) -> Any:
    """The first step reads two arrays where all others read one."""
    return ew.sin(x * NUMBERS[i]) + (y if i == 0 else x), y


@pytest.mark.parametrize("step", [other_array, older_state, other_op, two_beginnings])
def test_one_odd_step_is_no_step_of_the_loop(step: Step) -> None:
    """All of its ops are of the same kinds; only what they read is something else."""
    func = unrolled(step)
    rolled = reroll(func)
    assert 0 < sum(loop.attrs["length"] for loop in loops(rolled)) < N
    assert_same(func, rolled)


def test_the_first_step_may_begin_from_anything() -> None:
    def make(x: Any) -> Any:
        y = ew.exp(x)
        for i in range(N):
            y = ew.sin(y * NUMBERS[i] + x)
        return ew.cos(y)

    rolled = reroll(build(make, x=(64,)))
    assert op_names(rolled) == ["exp", "scan", "cos"]
    assert loops(rolled)[0].attrs["length"] == N


def test_numbers_that_agree_stay_numbers_and_signs_of_zero_are_kept() -> None:
    def make(x: Any) -> Any:
        for i in range(N):
            x = ew.sin(x * 0.5) * (0.0 if i % 2 else -0.0)
        return x

    func = build(make, x=(64,))
    (loop,) = loops(reroll(func))
    assert (loop.attrs["consts"], loop.attrs["carries"], len(loop.operands)) == (0, 1, 2)
    got, expected = (interpret(f, [np.ones(64)])[0] for f in (reroll(func), func))
    assert (np.signbit(got) == np.signbit(expected)).all()


def test_the_last_step_stays_where_more_than_its_state_is_read() -> None:
    def make(x: Any) -> Any:
        for i in range(N):
            inner = x * NUMBERS[i]
            x = ew.sin(inner)
        return x, inner

    func = build(make, x=(64,))
    rolled = reroll(func)
    assert loops(rolled)[0].attrs["length"] == N - 1
    assert_same(func, rolled)


def test_two_runs_become_two_loops() -> None:
    def make(x: Any) -> Any:
        for i in range(N):
            x = ew.sin(x * NUMBERS[i])
        x = ew.exp(x)
        for i in range(N + 3):
            x = ew.tanh(x) + NUMBERS[i % N] * x
        return x

    func = build(make, x=(64,))
    rolled = reroll(func)
    assert [loop.attrs["length"] for loop in loops(rolled)] == [N, N + 3]
    assert_same(func, rolled)


def every_state(i: int, x: Any, y: Any, w: Any) -> Any:
    """All steps are read at the end, too."""
    x = ew.sin(x * NUMBERS[i])
    return x, y + x if i % 3 else y * x


LEFT_ALONE: dict[str, Func] = {
    "too short": unrolled(sines, length=MIN_STEPS - 1),
    "too few points": unrolled(sines, width=3),
    "too many points": unrolled(sines, width=1 << 16),
    "cheap steps": unrolled(lambda i, x, y, w: (x * NUMBERS[i] + w, y)),
    "irregular": unrolled(every_state),
    "another array in each step": unrolled(
        lambda i, x, y, w: (ew.sin(x + (w if i % 2 else y)), y * 1.5 if i % 5 == 0 else y)
    ),
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_what_is_left_alone(why: str) -> None:
    func = LEFT_ALONE[why]
    rolled = reroll(func)
    assert sum(loop.attrs["length"] for loop in loops(rolled)) == 0 or why == "irregular"
    assert why == "irregular" or rolled is func


def test_states_read_on_the_way_keep_the_steps() -> None:
    def make(x: Any) -> Any:
        states = []
        for i in range(N):
            x = ew.sin(x * NUMBERS[i])
            states.append(x)
        return states

    func = build(make, x=(64,))
    assert reroll(func) is func


# -- through the public interface --------------------------------------------------------------


def chain(x: Any) -> Any:
    y = np.zeros_like(x)
    for c in NUMBERS:
        y = np.sin(x * c + y)
    return (y * y).sum()


def test_gradients_and_second_derivatives_of_rolled_chains() -> None:
    x = RNG.uniform(-1, 1, 20)
    assert loops(sg.trace(sg.grad(chain), x))
    sg.check_grads(chain, (x,), order=2)

    def by_hand(x: Any) -> Any:
        y, slope = np.zeros_like(x), np.zeros_like(x)
        for c in NUMBERS:
            z = x * c + y
            y, slope = np.sin(z), np.cos(z) * (c + slope)
        return 2 * y * slope

    np.testing.assert_allclose(sg.grad(chain)(x), by_hand(x), rtol=1e-12, atol=1e-14)
    batch = RNG.uniform(-1, 1, (3, 20))
    rows = [by_hand(row) for row in batch]
    np.testing.assert_allclose(sg.vmap(sg.grad(chain))(batch), rows, rtol=1e-12, atol=1e-14)
    hessian = sg.hessian(chain)(x)
    step = 1e-5 * np.eye(20)
    rows = [(by_hand(x + h) - by_hand(x - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(hessian, rows, rtol=1e-6, atol=1e-7)


def test_parts_of_a_result_beside_the_value() -> None:
    def f(x: Any) -> Any:
        for c in NUMBERS:
            x = np.sin(x * c)
        return x.sum(), {"last": x, "name": 3}

    x = RNG.uniform(-1, 1, 20)
    (value, aux), _ = sg.value_and_grad(f, has_aux=True)(x)
    np.testing.assert_allclose(value, aux["last"].sum())
    assert aux["name"] == 3
    assert len(loops(sg.trace(sg.value_and_grad(f, has_aux=True), x))) == 2


def test_untaken_branches_of_infinite_slope_stay_harmless() -> None:
    """``0 * inf``: what is known of the state must hold in the loop as well."""

    def f(x: Any) -> Any:
        for c in NUMBERS:
            x = np.where(x > 0, np.sqrt(np.abs(x)) * c, np.sin(x) * 0)
        return x.sum()

    x = np.linspace(-1, 1, 21)
    gradient = sg.grad(f)(x)
    assert np.isfinite(gradient).all()
    assert (gradient[:10] == 0).all()


def test_what_is_known_of_the_first_state_need_not_hold_for_others() -> None:
    """It begins positive, where the slope of the logarithm is harmless, and becomes 0."""

    def f(x: Any) -> Any:
        y = x * x + 1
        for c in NUMBERS:
            y = np.where(y > 0.5, np.log(y), np.sin(y) * c)
        return y.sum()

    x = np.linspace(-0.1, 0.1, 21)
    assert loops(sg.trace(sg.grad(f), x))
    assert np.isfinite(sg.grad(f)(x)).all()
