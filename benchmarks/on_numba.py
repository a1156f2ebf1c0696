"""Numba's side of the comparison: gradients written by hand, as a floor for all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cases
import numba
import numpy as np
import science
from numba import njit, prange

Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"Numba {numba.__version__}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """Threads of a parallel loop."""
    numba.set_num_threads(threads)


def arrays(result: Any) -> list[Any]:
    """The arrays of a result."""
    return list(result)


def rosenbrock() -> Call:
    """Value and gradient."""
    return partial(_rosenbrock, cases.rosenbrock_input())


def nested() -> Call:
    """Value and gradient of sin(sin(...(x)))."""
    return partial(_nested, cases.NESTED_INPUT, cases.NESTED_DEPTH)


def greeks(dtype: str) -> Call:
    """The price of each call option, and its derivatives by all five inputs."""
    inputs = cases.option_inputs(dtype)
    real = inputs[0].dtype.type
    constants = real(0.5), real(math.sqrt(0.5)), real(1 / math.sqrt(2 * math.pi))

    def call() -> tuple[Any, ...]:
        found = [np.empty_like(x) for x in inputs]
        return _greeks(*inputs, *found, *constants), *found

    return call


def lotka_volterra() -> Call:
    """Value and gradient by the initial populations and the rates."""
    start, rates = science.populations()

    def call() -> tuple[Any, ...]:
        value, gradient = _lotka_volterra(start, rates, science.STEPS, science.STEP)
        return value, gradient[:2], gradient[2:]

    return call


@njit(fastmath=True)
def _rosenbrock(x: Any) -> Any:
    value, gradient = 0.0, np.zeros_like(x)
    for i in range(x.size - 1):
        bend, slope = x[i + 1] - x[i] * x[i], 1.0 - x[i]
        value += 100.0 * bend * bend + slope * slope
        gradient[i] -= 400.0 * bend * x[i] + 2.0 * slope
        gradient[i + 1] += 200.0 * bend
    return value, gradient


@njit
def _nested(x: float, depth: int) -> Any:
    gradient = 1.0
    for _ in range(depth):
        gradient *= math.cos(x)
        x = math.sin(x)
    return x, gradient


@njit(parallel=True, fastmath=True)
def _greeks(s, k, t, r, v, by_s, by_k, by_t, by_r, by_v, half, root_half, density):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in prange(s.size):
        root = math.sqrt(t[i])
        width = v[i] * root
        d = (math.log(s[i] / k[i]) + (r[i] + half * v[i] * v[i]) * t[i]) / width
        first = half + half * math.erf(d * root_half)
        second = half + half * math.erf((d - width) * root_half)
        discount = math.exp(-r[i] * t[i])
        vega = s[i] * density * math.exp(-half * d * d) * root
        owed = k[i] * discount * second
        total += s[i] * first - owed
        by_s[i], by_k[i] = first, -discount * second
        by_t[i] = half * vega * v[i] / t[i] + r[i] * owed
        by_r[i], by_v[i] = t[i] * owed, vega
    return total


@njit(fastmath=True)
def _slopes(u: float, v: float, rates: Any) -> Any:
    return u * (rates[0] - rates[1] * v), v * (rates[3] * u - rates[2])


@njit(fastmath=True)
def _lotka_volterra(start: Any, rates: Any, steps: int, h: float) -> Any:
    """Keeps the state of each step and computes the stages again on the way back."""
    us, vs = np.empty(steps + 1), np.empty(steps + 1)
    us[0], vs[0] = start[0], start[1]
    for i in range(steps):
        u, v = us[i], vs[i]
        k1, l1 = _slopes(u, v, rates)
        k2, l2 = _slopes(u + 0.5 * h * k1, v + 0.5 * h * l1, rates)
        k3, l3 = _slopes(u + 0.5 * h * k2, v + 0.5 * h * l2, rates)
        k4, l4 = _slopes(u + h * k3, v + h * l3, rates)
        us[i + 1] = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        vs[i + 1] = v + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    a, b, c, d = rates
    by_a = by_b = by_c = by_d = 0.0
    ut, vt = 1.0, 1.0  # cotangents of the state after the step
    for i in range(steps - 1, -1, -1):
        u1, v1 = us[i], vs[i]
        k, m = _slopes(u1, v1, rates)
        u2, v2 = u1 + 0.5 * h * k, v1 + 0.5 * h * m
        k, m = _slopes(u2, v2, rates)
        u3, v3 = u1 + 0.5 * h * k, v1 + 0.5 * h * m
        k, m = _slopes(u3, v3, rates)
        u4, v4 = u1 + h * k, v1 + h * m
        un, vn = ut, vt
        kt, lt = h / 6 * ut, h / 6 * vt  # cotangents of the slopes, last stage first
        for stage in range(4):
            if stage == 0:
                x, y, weight, step = u4, v4, h / 3, h
            elif stage == 1:
                x, y, weight, step = u3, v3, h / 3, 0.5 * h
            elif stage == 2:
                x, y, weight, step = u2, v2, h / 6, 0.5 * h
            else:
                x, y, weight, step = u1, v1, 0.0, 0.0
            by_a += kt * x
            by_b -= kt * x * y
            by_c -= lt * y
            by_d += lt * x * y
            xt, yt = kt * (a - b * y) + lt * d * y, lt * (d * x - c) - kt * b * x
            un += xt
            vn += yt
            kt, lt = weight * ut + step * xt, weight * vt + step * yt
        ut, vt = un, vn
    return us[steps] + vs[steps], np.array([ut, vt, by_a, by_b, by_c, by_d])
