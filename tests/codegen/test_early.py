"""Regions of one point begin long computations early, and stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.lowering.early import begun_early
from symgrad.ir.interp import evaluate_region

import symgrad as sg
from tests.codegen.regions import region


def test_what_hangs_on_the_same_begins_together() -> None:
    def build(b: Any, x: Any) -> Any:
        values = [x]
        for _ in range(3):
            values.append(b.emit("sin", values[-1]))
        slope = b.emit("cos", values[2]) * b.emit("cos", values[1]) * b.emit("cos", values[0])
        return values[-1], slope

    before = region(build, "f64")
    assert [op.name for op in before.ops] == ["sin"] * 3 + ["cos", "cos", "mul", "cos", "mul"]
    after = begun_early(before)
    assert [op.name for op in after.ops] == ["sin", "cos"] * 3 + ["mul", "mul"]


@pytest.mark.parametrize("seed", range(20))
def test_operands_come_first_and_results_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def build(b: Any, x: Any, y: Any) -> Any:
        values = [x, y, b.constant(0.25, x.type)]
        for _ in range(60):
            a, c = (values[int(i)] for i in rng.integers(len(values), size=2))
            name = ("sin", "exp", "tanh", "mul", "add", "sub", "atan2")[int(rng.integers(7))]
            operands = (a, c) if name in ("mul", "add", "sub", "atan2") else (a,)
            values.append(b.emit(name, *operands))
        return tuple(values[-9:])

    before = region(build, "f64", "f64")
    after = begun_early(before)
    known = {id(p) for p in after.params}
    for op in after.ops:
        assert all(id(v) in known for v in op.operands)
        known.update(id(v) for v in op.results)
    assert sorted(map(id, after.ops)) == sorted(map(id, before.ops))
    arguments = [np.array(0.3), np.array(-0.7)]
    pairs = zip(*(evaluate_region(r, arguments) for r in (before, after)), strict=True)
    assert all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_nested_functions_of_a_number(dtype: str) -> None:
    def f(x: Any) -> Any:
        for _ in range(4):
            x = np.sin(np.exp(x) * x) + np.tanh(x)
        return x

    x = np.array(0.4, dtype)
    value, slope = sg.value_and_grad(f)(x)
    tolerance = 1e-5 if dtype == "f4" else 1e-13
    np.testing.assert_allclose(value, f(np.float64(x)), tolerance)
    np.testing.assert_allclose(slope, f(np.float64(x) + 1e-30j).imag / 1e-30, tolerance)
