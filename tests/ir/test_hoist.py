"""What leaves a loop's body because it is the same in all steps, and what stays there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.ir import Func

import symgrad as sg

Array = np.ndarray[Any, Any]
START, RATES = np.array([1.0, 0.5]), np.array([1.5, 1.0, 3.0])


def loop_of(func: Func) -> Any:
    (loop,) = [op for op in func.ops if op.name == "scan"]
    return loop


def body_ops(func: Func) -> list[str]:
    return [op.name for op in loop_of(func).regions[0].ops if op.name != "constant"]


def picked(start: Array, rates: Array, factor: float = 1.0) -> Any:
    """Steps that pick their rates out of an array."""

    def step(state: Array, _: None) -> Any:
        a, b = np.exp(rates[0]), rates[2] * factor
        return state - 0.01 * (state * a - state[::-1] * b), None

    last, _ = sg.scan(step, start, length=5)
    return (last * last).sum()


def test_what_is_the_same_in_all_steps_is_computed_before_the_loop() -> None:
    func = sg.jit(picked).ir(START, RATES)
    assert not {"slice", "exp"} & set(body_ops(func))
    assert [str(v.type) for v in loop_of(func).operands] == ["f64[]", "f64[]", "f64[2]"]
    before = [op.name for op in func.ops[: func.ops.index(loop_of(func))]]
    assert before.count("exp") == 1


def test_values_and_derivatives_stay() -> None:
    def written_out(start: Array, rates: Array) -> Any:
        state = start
        for _ in range(5):
            change = state * np.exp(rates[0]) - state[::-1] * rates[2]
            state = state - 0.01 * change
        return (state * state).sum()

    found, expected = (sg.value_and_grad(f, (0, 1))(START, RATES) for f in (picked, written_out))
    np.testing.assert_allclose(found[0], expected[0], 1e-14)
    for x, y in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(x, y, 1e-13)
    sg.check_grads(picked, (START, RATES), order=2)


def test_the_derivative_sums_up_numbers_not_the_array() -> None:
    func = sg.grad(picked, (0, 1)).adjoint(START, RATES)
    loops = [op for op in func.ops if op.name == "scan"]
    assert len(loops) == 2
    assert all(v.type.size < RATES.size for v in loops[1].regions[0].results)


def test_broadcasts_stay_in_the_body() -> None:
    def f(x: Array, scale: Array) -> Any:
        last, _ = sg.scan(lambda s, _: (np.sin(s) * np.broadcast_to(scale, s.shape), None), x,
                          length=3)  # fmt: skip
        return last

    func = sg.jit(f).ir(np.ones(7), np.array(2.0))
    assert [v.type.size for v in loop_of(func).operands] == [1, 7]
    assert "broadcast_to" in body_ops(func)


def test_what_would_become_larger_stays_in_the_body() -> None:
    def f(x: Array, w: Array) -> Any:
        last, _ = sg.scan(lambda s, _: (s * np.sin(w) + np.cos(w) / w, None), x, length=3)
        return last

    x, w = np.linspace(0, 1, 5), np.linspace(1, 2, 5)
    assert {"sin", "cos"} <= set(body_ops(sg.jit(f).ir(x, w)))
    expected = x
    for _ in range(3):
        expected = expected * np.sin(w) + np.cos(w) / w
    np.testing.assert_allclose(sg.jit(f)(x, w), expected, 1e-14)


def test_a_body_may_yield_what_never_changes() -> None:
    def f(x: Any, w: Array) -> Any:
        return sg.scan(lambda s, _: (s + w[1], w[0] * 2), x, length=3)

    last, given = sg.jit(f)(1.0, np.array([3.0, 4.0, 5.0]))
    assert last == 13.0
    np.testing.assert_array_equal(given, [6.0, 6.0, 6.0])


def test_no_steps() -> None:
    def f(x: Any, w: Array) -> Any:
        last, _ = sg.scan(lambda s, _: (s * np.log(w[0]), None), x, length=0)
        return last

    value, gradient = sg.value_and_grad(f, (0, 1))(2.0, np.array([-1.0, 1.0]))
    assert value == 2.0
    assert gradient[0] == 1.0
    np.testing.assert_array_equal(gradient[1], [0.0, 0.0])


def test_lines_of_the_user_stay() -> None:
    func = sg.jit(picked).ir(START, RATES)
    (exp,) = [op for op in func.ops if op.name == "exp"]
    assert exp.loc is not None
    assert exp.loc.file.endswith("test_hoist.py")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_dtypes(dtype: str) -> None:
    value, gradient = sg.value_and_grad(picked, (0, 1))(START.astype(dtype), RATES.astype(dtype))
    assert value.dtype == gradient[0].dtype == gradient[1].dtype == np.dtype(dtype)
