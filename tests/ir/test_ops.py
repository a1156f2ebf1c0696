"""What must hold of every op, derived from the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import samples
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.batching import batch_into
from symgrad.ir.builder import Builder
from symgrad.ir.opdef import REGISTRY, OpDef, Sample
from symgrad.ir.types import TensorType, f64

from symgrad import ir

ALL = list(samples.cases())
SMOOTH = list(samples.cases(differentiable=True))
Case = tuple[OpDef, Sample]


def test_every_op_has_samples_and_a_reference() -> None:
    # Tested by name elsewhere.
    exempt = {"constant", "iota", "fused", "convert", "custom", "scan", "straight_through"}
    exempt |= {"checkpoint", "custom_vjp", "when", "while_loop"}
    assert {n for n, d in REGISTRY.items() if not d.samples} <= exempt
    assert not [n for n, d in REGISTRY.items() if d.evaluate_rule is None]
    assert not [n for n, d in REGISTRY.items() if d.differentiable and d.adjoint_rule is None]


@pytest.mark.parametrize("case", ALL, ids=samples.label)
def test_round_trip_and_types(case: Case) -> None:
    """Text parses back to an equal function, and references give the types of the rules."""
    opdef, sample = case
    rng = np.random.default_rng(0)
    for dtype in samples.dtypes(opdef):
        operands = samples.arrays(sample, dtype, rng)
        func = ir.verify(samples.func_of(opdef, sample, operands))
        again = ir.parse(str(func))
        assert again == func
        assert str(again) == str(func), "locations survive"
        ir.interpret(func, operands)  # raises where a reference gives another type


def check_gradient(func: ir.Func, operands: list[Any], wrt: list[int], seed: int = 0) -> ir.Func:
    """Compares one random directional derivative with a fourth-order difference."""
    gradient = ir.verify(value_and_grad(func, wrt))
    assert ir.parse(str(gradient)) == gradient
    rng = np.random.default_rng(seed)
    directions = [rng.normal(size=np.shape(operands[i])) for i in wrt]

    def along(step: float) -> float:
        moved = list(operands)
        for i, direction in zip(wrt, directions, strict=True):
            moved[i] = np.asarray(operands[i] + step * direction)
        return float(ir.interpret(func, moved)[0])

    h = 1e-5
    expected = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    grads = ir.interpret(gradient, operands)[1:]
    actual = sum(float(np.sum(g * d)) for g, d in zip(grads, directions, strict=True))
    assert abs(actual - expected) <= 1e-7 * (1 + abs(expected)), (actual, expected)
    return gradient


@pytest.mark.parametrize("case", SMOOTH, ids=samples.label)
def test_gradients_to_second_order(case: Case) -> None:
    opdef, sample = case
    rng = np.random.default_rng(1)
    operands = samples.arrays(sample, f64, rng)
    func = samples.projected(samples.func_of(opdef, sample, operands))
    operands += samples.random_like(func.param_types[len(operands) :], rng)
    wrt = [
        i
        for i, p in enumerate(func.params)
        if p.type.dtype == f64 and (i >= len(sample.shapes) or opdef.is_differentiable(i))
    ]
    inner = [i for i in wrt if i < len(sample.shapes)]
    gradient = check_gradient(func, operands, inner)
    second = samples.projected(gradient, slice(1, None))
    operands += samples.random_like(second.param_types[len(operands) :], rng)
    check_gradient(second, operands, wrt)


@pytest.mark.parametrize("case", ALL, ids=samples.label)
def test_batching_equals_a_loop(case: Case) -> None:
    opdef, sample = case
    if opdef.batch_rule is None and not opdef.elementwise:
        pytest.skip(f"{opdef.name} has no batching rule")
    if opdef.name == "random_bits":
        pytest.skip("keys are not vectorised")
    rng = np.random.default_rng(2)
    size, count = 3, len(sample.shapes)
    for flags in {
        (True,) * count,
        (True, *(False,) * (count - 1)),
        (*(False,) * (count - 1), True),
    }:
        stacks = [samples.arrays(sample, samples.dtypes(opdef)[0], rng) for _ in range(size)]
        func = samples.func_of(opdef, sample, stacks[0])
        arguments = [
            np.stack([s[i] for s in stacks]) if flag else stacks[0][i]
            for i, flag in enumerate(flags)
        ]
        builder = Builder()
        params = [builder.param(ir.types.type_of_array(a)) for a in arguments]
        batched = builder.build(batch_into(builder, func, params, flags, size))
        results = ir.interpret(ir.verify(batched), arguments)
        for n in range(size):
            one = [a[n] if flag else a for a, flag in zip(arguments, flags, strict=True)]
            for got, want in zip(results, ir.interpret(func, one), strict=True):
                np.testing.assert_allclose(got[n], want, rtol=1e-12, atol=1e-12)


def test_the_gradient_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = REGISTRY["sin"].adjoint_rule
    assert rule is not None
    monkeypatch.setattr(
        REGISTRY["sin"], "adjoint_rule", lambda ct, y, x: (rule(ct, y, x)[0] * 1.0005,)
    )
    sample = REGISTRY["sin"].samples[0]
    operands = samples.arrays(sample, f64, np.random.default_rng(3))
    func = samples.projected(samples.func_of(REGISTRY["sin"], sample, operands))
    operands += samples.random_like(func.param_types[1:], np.random.default_rng(4))
    with pytest.raises(AssertionError):
        check_gradient(func, operands, [0])


def test_a_zero_cotangent_stays_zero() -> None:
    """The branch a ``select`` leaves out contributes nothing, even with infinite slope."""
    builder = Builder()
    x = builder.param(TensorType(f64, (3,)), "x")
    with builder:
        from symgrad.ir.ops import elementwise as ew

        safe = ew.where(ew.gt(x, ew.zeros_like(x)), x * ew.log(x) + ew.sqrt(x) + 1 / x, 0.0)
        total = ew.where(ew.gt(x, ew.zeros_like(x)), safe, 0.0)
        from symgrad.ir.ops.reduce import reduce_sum

        loss = reduce_sum(total, axes=(0,))
    gradient = value_and_grad(builder.build([loss]))
    got = ir.interpret(gradient, [np.array([0.0, -1.0, 4.0])])[1]
    np.testing.assert_allclose(got, [0.0, 0.0, np.log(4) + 1 + 0.25 - 1 / 16])
