"""What compiling costs, in counts: kernels shared, and text that grows no faster than programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering.lift import lift_constants
from symgrad.ir import Func, interpret, parse
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.passes import optimize

import symgrad as sg

COEFFICIENTS = np.random.default_rng(9).uniform(0.5, 1.5, 800).tolist()


def chain(n: int) -> Callable[[Any], Any]:
    """``y = sin(x c_i + y)``, ``n`` times, each with its own ``c_i``."""

    def f(x: Any) -> Any:
        y = np.zeros_like(x)
        for c in COEFFICIENTS[:n]:
            y = np.sin(x * c + y)
        return y.sum()

    return f


def straight(n: int) -> Func:
    """Value and gradient of the chain as straight code."""
    return value_and_grad(sg.trace(chain(n), np.ones(1024)))


def rolled(n: int) -> Func:
    """The same through the public interface, which makes a loop of it."""
    return sg.trace(sg.value_and_grad(chain(n)), np.ones(1024))


def orbit(n: int) -> Func:
    """Value and gradient of Lotka-Volterra through ``n`` steps of Runge-Kutta."""

    def f(y: Any, p: Any) -> Any:
        def slope(y: Any) -> Any:
            u, v = y[0], y[1]
            return np.stack([p[0] * u - p[1] * u * v, p[3] * u * v - p[2] * v])

        for _ in range(n):
            k1 = slope(y)
            k2 = slope(y + 0.005 * k1)
            k3 = slope(y + 0.005 * k2)
            k4 = slope(y + 0.01 * k3)
            y = y + 0.01 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y.sum()

    return sg.value_and_grad(f, argnums=(0, 1)).traced(np.ones(2), np.ones(4)).func


@pytest.mark.parametrize("program", [straight, orbit])
def test_ops_grow_linearly(program: Callable[[int], Func]) -> None:
    small, large = program(30), program(120)
    assert len(large.ops) <= 4.1 * len(small.ops)
    # Where a nest is cut, cheap ops are computed on both sides.
    assert len(list(optimize(large).walk())) <= 4.6 * len(list(optimize(small).walk()))


def test_a_chain_of_costly_steps_is_as_long_as_one_step() -> None:
    small, large = (rolled(n) for n in (200, 800))
    assert len(small.ops) == len(large.ops) < 20
    programs = [lower(optimize(func), threads=2) for func in (small, large)]
    assert len(programs[0].calls) == len(programs[1].calls) <= 5
    text = [sum(map(len, lowered.modules.values())) for lowered in programs]
    assert text[1] <= 1.01 * text[0]


def test_a_long_chain_needs_no_more_kernels_than_a_shorter_one() -> None:
    small, large = (lower(optimize(straight(n)), threads=2) for n in (200, 800))
    assert len(large.calls) <= 4.1 * len(small.calls)
    assert len(large.modules) <= len(small.modules) + 4 <= 16
    text = [sum(map(len, lowered.modules.values())) for lowered in (small, large)]
    assert text[1] <= 1.5 * text[0]


def test_parts_of_a_repeated_program_share_kernels() -> None:
    """Nests are cut at one place of the period, so that only the ends differ."""
    small, large = (lower(optimize(straight(n)), threads=1) for n in (400, 401))
    assert len(large.calls) > 2 * len(large.modules)
    assert max(len(small.modules), len(large.modules)) <= 6


def test_steps_of_a_solver_share_text() -> None:
    small, large = (lower(optimize(orbit(n)), threads=1) for n in (8, 24))
    text = [sum(map(len, lowered.modules.values())) for lowered in (small, large)]
    assert text[1] <= 3.2 * text[0]


# -- constants as operands ---------------------------------------------------------------------

NORMALISE = """
func @f(%x: {t}[3,9], %y: {t}[3,9]) -> ({t}[3,9], {t}[3]) {{
  %0: {t}[3,9] = constant {a}
  %1: {t}[3,9] = constant {b}
  %2: {t}[3,9] = mul %x, %0
  %3: {t}[3,9] = add %2, %1
  %4: {t}[3,9] = mul %3, %y
  %5: {t}[3] = reduce_sum %4 {{axes=(1,)}}
  return %4, %5
}}
"""


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
def test_lifted_constants_give_the_same(dtype: str) -> None:
    func = parse(NORMALISE.format(t=dtype, a=0.375, b=-3.5))
    executable = compile_func(optimize(func), threads=1)
    numpy_dtype = func.params[0].type.dtype.numpy
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=(3, 9)).astype(numpy_dtype) for _ in range(2)]
    rtol = {"f64": 1e-12, "f32": 1e-5, "f16": 1e-2}[dtype]
    for got, expected in zip(executable(arguments), interpret(func, arguments), strict=True):
        np.testing.assert_allclose(
            np.asarray(got, np.float64), np.asarray(expected, np.float64), rtol=rtol, atol=rtol
        )


def test_functions_that_differ_in_numbers_share_kernels() -> None:
    first, second = (
        lower(optimize(parse(NORMALISE.format(t="f32", a=a, b=b))), threads=1)
        for a, b in ((0.375, -3.5), (0.125, 7.25))
    )
    assert list(first.modules.values()) == list(second.modules.values())
    special = lower(optimize(parse(NORMALISE.format(t="f32", a=2.0, b=-3.5))), threads=1)
    assert list(special.modules.values()) != list(first.modules.values())


def test_what_stays_a_constant() -> None:
    func = optimize(
        parse(
            """
            func @f(%x: f32[50]) -> (f32[50], f32[50]) {
              %0: f32[50] = constant 2.0
              %1: f32[50] = constant 0.3
              %2: f32[50] = mul %x, %0
              %3: f32[50] = div %2, %1
              %4: f32[50] = constant 0.7
              %5: f32[50] = mul %3, %4
              return %5, %4
            }
            """
        )
    )
    (region,) = (op.regions[0] for op in func.ops if op.name == "fused")
    (number,) = lift_constants(region, points=50)[1]
    assert number.buffer.data == np.float32(0.7)  # what divides, and what is special, stays
    assert lift_constants(region, points=1 << 20)[0] is region


# -- parts of arrays -------------------------------------------------------------------------


def layers(n: int) -> Callable[[Any, Any], Any]:
    """``n`` layers, whose weights lie one behind the other."""

    def f(x: Any, w: Any) -> Any:
        for i in range(n):
            x = np.tanh(x @ w[i, ::-1, :5])
        return (x * x).sum()

    return f


def reversals(n: int) -> Callable[[Any, Any], Any]:
    """``n`` steps that each read a row, some backwards and not every element."""

    def f(x: Any, w: Any) -> Any:
        for i in range(n):
            x = np.sin(x[::-1] * w[i, 0, ::-2])
        return (x * x).sum(), x

    return f


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("steps", [layers, reversals])
def test_kernels_for_parts_of_an_array_are_shared(
    steps: Callable[[int], Any], dtype: str, threads: int
) -> None:
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(7, 5)).astype(dtype), rng.normal(size=(9, 5, 9)).astype(dtype)

    def kernels(f: Any, n: int) -> int:
        func = optimize(f(steps(n)).traced(x, w[:n].copy()).func)
        tolerance = 1e-11 if dtype == "float64" else 1e-4
        found = compile_func(func, threads=threads)([x, w[:n].copy()])
        for a, b in zip(found, interpret(func, [x, w[:n]]), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        return len(lower(func, threads=threads).modules)

    assert kernels(sg.jit, 9) <= kernels(sg.jit, 5) + 1
    if steps is layers:
        kernels(lambda f: sg.value_and_grad(f, argnums=(0, 1)), 9)
