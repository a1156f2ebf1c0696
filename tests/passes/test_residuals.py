"""What loops leave for their derivatives: the same values bit by bit, and the least work."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir import Func, interpret, verify
from symgrad.ir.passes import optimize, residuals
from symgrad.ir.passes.loops import rebuild_loops
from symgrad.ir.passes.min_cut import Network

import symgrad as sg

Array = np.ndarray[Any, Any]
Step = Callable[[Any, Any, Any], Any]
LENGTH, SIZE = 7, 24
RNG = np.random.default_rng(5)
MATRIX, XS = RNG.standard_normal((SIZE, SIZE)) * 0.2, RNG.standard_normal((LENGTH, 3, SIZE))


def gated(w: Any, h: Any, x: Any) -> Any:
    """Two functions of products with a matrix that is made anew of fixed ones."""
    gate = 1 / (1 + np.exp(-(h @ (w @ w) + x)))
    return gate * np.tanh(h @ w) + (1 - gate) * h


STEPS: dict[str, Step] = {
    "sine": lambda w, h, x: np.sin(h + x),
    "cheap": lambda w, h, x: h * x + w[0],
    "expensive": lambda w, h, x: np.tanh(np.exp(-h * h) + x),
    "product": lambda w, h, x: np.tanh(h @ w + x),
    "gated": gated,
    "fixed": lambda w, h, x: h * np.exp(w[0]) + np.tanh(np.log1p(np.exp(w[1]))) * x * h,
    "kept": lambda w, h, x: sg.checkpoint(lambda h: np.tanh(np.exp(-h * h) + x))(h),
    "chosen": lambda w, h, x: np.where(h > 0, np.exp(np.sin(h)) * x, np.cos(h @ w)),
    "inner": lambda w, h, x: sg.scan(lambda h, _: (np.tanh(np.exp(-h * h) + x), None), h, length=3)[
        0
    ],
}


def loss(step: Step, reverse: bool = False, gives: bool = False) -> Callable[..., Any]:
    """Of a matrix and inputs: of the last state, and of what some steps gave if they do."""

    def f(w: Any, xs: Any) -> Any:
        first = xs[0] * 0.5
        h, given = sg.scan(lambda h, x: (step(w, h, x), h * x), first, xs, reverse=reverse)
        return (h * h).sum() + ((given[2:] ** 3).sum() if gives else 0)

    return f


def traced(name: str, order: int = 1, reverse: bool = False, gives: bool = False) -> Func:
    """The derivative as it is recorded, by the second argument alone."""
    f = loss(STEPS[name], reverse, gives)
    for _ in range(order):
        f = _summed(sg.grad(f, argnums=1))
    return sg.trace(f, MATRIX, XS)


def _summed(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda w, xs: (f(w, xs) * np.cos(xs)).sum()


def bodies(func: Func) -> list[list[str]]:
    """The ops in the body of each loop."""
    return [[o.name for o in op.regions[0].ops] for op in func.ops if op.name == "scan"]


def pruned(func: Func) -> Func:
    return verify(rebuild_loops(func, lambda body: body))


@pytest.mark.parametrize(("reverse", "gives"), [(False, False), (True, True)])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", STEPS)
def test_nothing_else_is_computed(name: str, order: int, reverse: bool, gives: bool) -> None:
    func = traced(name, order, reverse, gives)
    made = verify(residuals.leave_residuals(func))
    for got, expected in zip(*(interpret(f, [MATRIX, XS]) for f in (made, func)), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", STEPS)
def test_compiled_derivatives_are_those_of_unrolled_loops(name: str) -> None:
    def unrolled(w: Any, xs: Any) -> Any:
        h, given = xs[0] * 0.5, []
        for t in range(LENGTH):
            x = xs[t]
            h, y = STEPS[name](w, h, x), h * x
            given.append(y)
        return (h * h).sum() + (np.stack(given)[2:] ** 3).sum()

    loop, flat = loss(STEPS[name], gives=True), unrolled
    for got, expected in zip(
        *(sg.jit(sg.grad(f, argnums=(0, 1)))(MATRIX, XS) for f in (loop, flat)), strict=True
    ):
        np.testing.assert_allclose(got, expected, 1e-9, 1e-11)


def test_sine_leaves_its_cosine() -> None:
    """In place of the state: the derivative then needs neither that nor the inputs."""
    forward, backward = bodies(pruned(traced("sine")))
    assert "cos" in forward
    assert "cos" not in backward
    before, after = (_stacked(f) for f in (traced("sine"), pruned(traced("sine"))))
    assert after <= before


def _stacked(func: Func) -> int:
    """Arrays over time that loops read."""
    loops = [op for op in func.ops if op.name == "scan"]
    return sum(v.op in loops for op in loops for v in op.operands)


@pytest.mark.parametrize("name", ["product", "gated"])
def test_no_product_is_computed_again(name: str) -> None:
    forward, backward = bodies(pruned(traced(name)))
    assert backward.count("dot_general") <= forward.count("dot_general")
    assert not {"tanh", "exp"} & set(backward)


@pytest.mark.parametrize("name", ["cheap", "kept"])
def test_what_is_cheap_or_is_not_to_be_kept_is_computed_again(name: str) -> None:
    func = pruned(traced(name))
    assert residuals.leave_residuals(func) is func
    before = [sorted(names) for names in bodies(func)]
    assert ("tanh" in before[1]) == (name == "kept")


@pytest.mark.parametrize("name", ["fixed", "gated"])
def test_what_is_the_same_in_all_steps_is_not_left(name: str) -> None:
    """An array over time would have it as often as there are steps."""
    func = pruned(traced(name))
    forward = next(op for op in func.ops if op.name == "scan")
    region, carries = forward.regions[0], forward.attrs["carries"]
    fixed = set(region.params[: forward.attrs["consts"]])
    for op in region.ops:
        if all(v in fixed for v in op.operands):
            fixed.update(op.results)
    assert not fixed & set(region.results[carries:])


def test_what_others_read_is_there_for_nothing() -> None:
    """The states are a result, too: the cosine would be one more array."""
    func = traced("sine")
    states = next(op for op in func.ops if op.name == "scan").results[-1]
    func = Func("f", func.params, func.ops, (*func.results, states))
    assert residuals.leave_residuals(func) is func


def test_loops_over_numbers_stay() -> None:
    """They are computed for all steps at once."""

    def f(xs: Any) -> Any:
        return sg.scan(lambda h, x: (np.sin(h + x), None), 0.25, xs)[0]

    func = sg.trace(sg.grad(f), XS[:, 0, 0])
    assert residuals.leave_residuals(func) is func
    assert len(optimize(func).ops) > 2


# -- minimum cuts ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_cuts_are_least(seed: int) -> None:
    """Against all cuts of small networks, of which one in a hundred needs flow to be taken back."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        inner = range(int(rng.integers(0, 7)))
        edges = {
            pair: float(rng.integers(1, 9))
            for pair in itertools.permutations(["source", *inner, "sink"], 2)
            if rng.random() < 0.4
        }
        sides = [
            {"source", *chosen}
            for size in range(len(inner) + 1)
            for chosen in itertools.combinations(inner, size)
        ]
        costs = [
            sum(c for (start, end), c in edges.items() if start in side and end not in side)
            for side in sides
        ]
        network: Network[Any] = Network()
        for (start, end), capacity in edges.items():
            network.add(start, end, capacity)
        assert network.cut("source", "sink") == sides[costs.index(min(costs))]  # the smallest


def test_an_edge_may_be_uncuttable() -> None:
    network: Network[str] = Network()
    network.add("source", "a", 3.0)
    network.add("a", "b", float("inf"))
    network.add("b", "sink", 5.0)
    assert network.cut("source", "sink") == {"source"}
