"""Bodies of loops and branches that all threads run together: against the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lower import lower
from symgrad.ir import interpret
from symgrad.ir.passes import optimize

import symgrad as sg

Array = np.ndarray[Any, Any]


def recurrent(w: Array, x: Array, h: Array) -> Any:
    def step(h: Array, x: Array) -> Any:
        h = np.tanh(h @ w + x)
        return h, h.sum(0)

    h, sums = sg.scan(step, h, x)
    return (h * h).sum() + (sums * sums).sum()


def heat(w: Array, x: Array, h: Array) -> Any:
    """Points that read their neighbours, in a loop within a loop."""

    def spread(u: Array, _: Any) -> Any:
        return u + 0.1 * (np.roll(u, 1, 0) + np.roll(u, -1, 1) - 2 * u), None

    def step(u: Array, x: Array) -> Any:
        u, _ = sg.scan(spread, u + x, length=3)
        return u, u[0]

    u, edges = sg.scan(step, h, x, reverse=True)
    return (u * u).sum() + (edges * x[:, 0]).sum()


def convolved(w: Array, x: Array, h: Array) -> Any:
    """Packed operands, temporaries and halos."""
    kernel = w[:16, :9].reshape(16, 1, 3, 3) * w[:16, 9:25].reshape(16, 16, 1, 1)

    def step(u: Array, x: Array) -> Any:
        u = np.maximum(sg.nn.functional.conv2d(u, kernel, padding=1), 0) + x.mean()
        return u, u.mean()

    u, means = sg.scan(step, h.reshape(-1)[: 2 * 16 * 6 * 7].reshape(2, 16, 6, 7), x)
    return (u * u).mean() + (means * means).sum()


def branching(w: Array, x: Array, h: Array) -> Any:
    """A branch in a loop: one body after the other is skipped."""

    def step(h: Array, x: Array) -> Any:
        h = sg.cond(x[0, 0] > 0, lambda h: np.tanh(h @ w), lambda h: h[::-1] * 0.5, h)
        return h + x, h[1]

    h, rows = sg.scan(step, h, x)
    return (h * h).sum() + (rows * rows).sum()


def searching(w: Array, x: Array, h: Array) -> Any:
    """A loop of unknown length, which has no derivative."""

    def step(state: Any) -> Any:
        i, h = state
        return i + 1, np.tanh(h @ w) + h[::-1] * 0.5 + x[0]

    count, h = sg.while_loop(lambda s: (s[0] < 5) & (np.abs(s[1]).max() < 1e3), step, (0, h))
    return (h * h).sum() + count


BODIES: list[Callable[..., Any]] = [
    recurrent, heat, convolved, branching, searching,
    sg.value_and_grad(recurrent, (0, 1, 2)), sg.value_and_grad(heat, (1, 2)),
    sg.value_and_grad(convolved, (0, 1, 2)), sg.value_and_grad(branching, (0, 1, 2)),
]  # fmt: skip


@pytest.fixture(params=[2, 3])
def team(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads, whatever the number of CPUs."""
    before = sg.get_num_threads()
    sg.set_num_threads(request.param)
    yield request.param
    sg.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 2e-4), ("f8", 1e-11)])
@pytest.mark.parametrize("function", BODIES)
def test_bodies(
    function: Callable[..., Any], dtype: str, rtol: float, threads: int, team: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Programs for a number of threads, on teams that are larger or smaller."""
    monkeypatch.setattr("symgrad.codegen.lowering.scope.SERIAL_BELOW", 0.0)
    rng = np.random.default_rng(2)
    n, rows, steps = 37, 37, 4
    args = [
        (rng.normal(size=(n, n)) / n**0.5).astype(dtype),
        rng.normal(size=(steps, rows, n)).astype(dtype),
        rng.normal(size=(rows, n)).astype(dtype),
    ]
    func = optimize(sg.jit(function).traced(*args).func)
    teams = [getattr(call.phase.spec, "team", None) for call in lower(func, threads=threads).calls]
    assert any(t is not None for t in teams) == (threads > 1)
    executable = compile_func(func, threads=threads)
    expected = interpret(func, args)
    for _ in range(3):  # nothing of a run is left over
        for got, want in zip(executable(args), expected, strict=True):
            scale = np.abs(want).max()
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale)
