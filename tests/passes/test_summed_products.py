"""Loops with matrices that all steps multiply by: their derivatives, rebuilt, against the loops as
they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir import Func, TensorType, dtype_of, interpret, verify
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.builder import Builder, inline
from symgrad.ir.graph import Value
from symgrad.ir.ops import reduce
from symgrad.ir.ops.elementwise import tanh
from symgrad.ir.ops.linalg import dot_general
from symgrad.ir.ops.shape import broadcast_to, reshape, slice_, transpose
from symgrad.ir.passes.loops import rebuild_loops

Array = np.ndarray[Any, Any]
LENGTH, ROWS, SIZE = 5, 9, 19
Step = Callable[[Value, Value, Value], tuple[Value, ...]]


def product(x: Value, y: Value, i: int, j: int) -> Value:
    made: Value = dot_general(x, y, lhs_contract=(i,), rhs_contract=(j,))
    return made


def reduce_sum(x: Value) -> Value:
    made: Value = reduce.reduce_sum(x, axes=tuple(range(x.rank)))
    return made


def w_sum(w: Value, like: Value) -> Value:
    made: Value = broadcast_to(reduce_sum(w), shape=like.shape, axes=())
    return made


def turned(w: Value) -> Value:
    made: Value = transpose(w, axes=(1, 0))
    return made


def gates(w: Value, h: Value, x: Value) -> tuple[Value, ...]:
    """Gives what a derivative wants to know."""
    a, b = tanh(product(h, w, 1, 0)), tanh(x * h)
    return a * b + x, b, a


# From the matrix, the state and a step's input: the next state, and what the step gives.
STEPS: dict[str, Step] = {
    "once": lambda w, h, x: (h1 := tanh(product(h, w, 1, 0) + x), h1),
    "turned": lambda w, h, x: (h1 := tanh(product(h, w, 1, 1) + x), h1 * x),
    "first": lambda w, h, x: (turned(tanh(product(w, turned(h), 0, 0))) * x, h),
    "twice": lambda w, h, x: (tanh(product(tanh(product(h, w, 1, 0)), w, 1, 1) + x), x),
    "both": lambda w, h, x: (h * x + tanh(product(h, product(w, w, 0, 1), 1, 0)), h),
    "gates": gates,
    "also": lambda w, h, x: (tanh(product(h, w, 1, 0) + x * w_sum(w, x)), h),
    "more": lambda w, h, x: (tanh(product(h, w * w, 1, 0) + x * w_sum(w, x)), h),
}


def loop_func(step: Step, reverse: bool, unrolled: bool = False) -> Func:
    """``sum(state^3)``, and ``sum(given^2)`` of all that steps give, after a loop, by matrix, first
    state and inputs."""
    f64 = dtype_of(np.float64)
    square, state = TensorType(f64, (SIZE, SIZE)), TensorType(f64, (ROWS, SIZE))
    body = Builder(locations=False)
    inside = [body.param(t) for t in (square, state, state)]
    with body:
        region = body.region(inside, step(*inside))
    outer = Builder(locations=False)
    types = square, state, state.with_shape((LENGTH, ROWS, SIZE))
    w, h, xs = (outer.param(t) for t in types)
    with outer:
        if unrolled:
            given: list[Value] = []
            for t in reversed(range(LENGTH)) if reverse else range(LENGTH):
                x = slice_(xs, start=(t, 0, 0), stop=(t + 1, ROWS, SIZE), step=(1, 1, 1))
                h, *more = inline(outer, region, [w, h, reshape(x, shape=(ROWS, SIZE))])
                given += more
        else:
            h, *given = outer.emit(
                "scan", w, h, xs, regions=(region,), consts=1, carries=1, length=LENGTH,
                reverse=reverse,
            )[:-1]  # fmt: skip
        loss = reduce_sum(h * h * h)
        for part in given:
            loss = loss + reduce_sum(part * part)
    return outer.build([loss])


def arguments() -> list[Array]:
    rng = np.random.default_rng(0)
    shapes = (SIZE, SIZE), (ROWS, SIZE), (LENGTH, ROWS, SIZE)
    return [rng.standard_normal(s) * 0.4 for s in shapes]


def loops(func: Func) -> list[Any]:
    return [op for op in func.ops if op.name == "scan"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_loops_and_rebuilt_ones_compute_what_unrolled_ones_do(name: str, reverse: bool) -> None:
    func, unrolled = (
        value_and_grad(loop_func(STEPS[name], reverse, unrolled), (0, 1, 2))
        for unrolled in (False, True)
    )
    rebuilt = verify(rebuild_loops(func, lambda body: body))
    expected = interpret(unrolled, arguments())
    for made in (func, rebuilt):
        for got, wanted in zip(interpret(made, arguments()), expected, strict=True):
            np.testing.assert_allclose(got, wanted, 1e-11, 1e-11)


@pytest.mark.parametrize("name", ["once", "turned", "twice"])
def test_no_step_adds_up_what_a_matrix_gets(name: str) -> None:
    func = value_and_grad(loop_func(STEPS[name], reverse=False), (0, 1, 2))
    rebuilt = rebuild_loops(func, lambda body: body)
    assert [op.attrs["carries"] for op in loops(func)] == [1, 2]
    assert [op.attrs["carries"] for op in loops(rebuilt)] == [1, 1]


def test_factors_larger_than_the_sum_stay_in_the_loop() -> None:
    """A step would write more than the sum, and all of it would be kept."""
    f64 = dtype_of(np.float64)
    body, thin, small = Builder(), TensorType(f64, (400, 3)), TensorType(f64, (3, 3))
    total, x = body.param(small), body.param(thin)
    with body:
        y = tanh(x)
        region = body.region([total, x], [total + product(y, y * x, 0, 0)])
    outer = Builder()
    params = [outer.param(small), outer.param(TensorType(f64, (LENGTH, 400, 3)))]
    made = outer.emit("scan", *params, regions=(region,), consts=0, carries=1, length=LENGTH)
    rebuilt = rebuild_loops(outer.build(made[:1]), lambda body: body)
    assert [op.attrs["carries"] for op in loops(rebuilt)] == [1]


def test_a_matrix_lies_as_the_products_want_it() -> None:
    """A transpose before the loop in place of one in every step, and none where there was one."""
    func = loop_func(STEPS["turned"], reverse=False)
    rebuilt = verify(rebuild_loops(func, lambda body: body))
    (loop,) = loops(rebuilt)
    (inside,) = [op for op in loop.regions[0].ops if op.name == "dot_general"]
    assert inside.attrs["rhs_contract"] == (0,)
    assert loop.operands[0].op.name == "transpose"
    np.testing.assert_allclose(
        interpret(rebuilt, arguments())[0], interpret(func, arguments())[0], 1e-12
    )
    gradient = rebuild_loops(value_and_grad(rebuilt, (0,)), lambda body: body)
    assert sum(op.name == "transpose" for op in gradient.ops) <= 2


def test_what_steps_gave_is_not_computed_again() -> None:
    func = value_and_grad(loop_func(STEPS["once"], reverse=False), (0, 1, 2))
    forward, backward = loops(func)
    assert any(op.name == "tanh" for op in forward.regions[0].ops)
    assert not any(op.name == "tanh" for op in backward.regions[0].ops)


def test_equal_loops_are_one() -> None:
    func = loop_func(STEPS["once"], reverse=False)
    (op,) = loops(func)
    builder = Builder.resuming(func)
    again = builder.copy(op, op.operands)
    assert again is not op.results
    assert builder.copy(op, op.operands) == again
