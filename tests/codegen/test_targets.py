"""The same programs for narrower machines: every op with its gradient agrees with the
interpreter on AVX2 and baseline x86-64, and compiles for NEON."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import samples
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.target import Target
from symgrad.ir import Builder, Func
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.builder import inline
from symgrad.ir.interp import interpret
from symgrad.ir.opdef import REGISTRY, OpDef
from symgrad.ir.passes import optimize

from tests.codegen.harness import target_named

SAMPLED = [d for d in REGISTRY.values() if d.samples]
TOLERANCE = {"f": 2e-5, "d": 1e-12}


def program_of(opdef: OpDef) -> tuple[Func, list[Any]]:
    """All samples of an op in all its dtypes, with gradients, as one function."""
    builder = Builder(locations=False)
    results: list[Any] = []
    arguments: list[Any] = []
    rng = np.random.default_rng(0)

    def call(func: Func, operands: list[Any]) -> None:
        params = [builder.param(t) for t in func.param_types]
        results.extend(inline(builder, func, params))
        arguments.extend(operands)

    for sample in opdef.samples:
        for dtype in samples.dtypes(opdef):
            operands = samples.arrays(sample, dtype, rng)
            func = samples.func_of(opdef, sample, operands)
            call(func, operands)
            smooth = opdef.differentiable is not False and (not opdef.kinds or "f" in opdef.kinds)
            wrt = [
                i
                for i, a in enumerate(operands)
                if smooth and a.dtype == dtype.numpy and opdef.is_differentiable(i)
            ]
            if dtype.is_float and wrt:
                total = samples.projected(func)
                weights = samples.random_like(total.param_types[len(operands) :], rng)
                call(value_and_grad(total, wrt), [*operands, *weights])
    return builder.build(results, opdef.name), arguments


@pytest.mark.parametrize("target", ["avx2", "x86-64"])
@pytest.mark.parametrize("opdef", SAMPLED, ids=lambda d: d.name)
def test_every_op(opdef: OpDef, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "threads_for", lambda self, flops, bytes: self.threads)
    func, arguments = program_of(opdef)
    run = compile_func(optimize(func), target=target_named(target), threads=2)
    for actual, expected in zip(run(arguments), interpret(func, arguments), strict=True):
        assert actual.dtype == expected.dtype
        bound = TOLERANCE.get(expected.dtype.char, 0.0)
        np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("opdef", SAMPLED, ids=lambda d: d.name)
def test_every_op_compiles_for_neon(opdef: OpDef) -> None:
    func, _ = program_of(opdef)
    assembly = lower(optimize(func), target=Target.named("neon"), threads=2).asm()
    own = set(re.findall(r"^(\w+):", assembly, re.MULTILINE))
    called = set(re.findall(r"\bbl\s+(\w+)", assembly))
    assert own
    assert called <= own, "no op may call a library"
