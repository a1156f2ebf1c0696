"""Compiled equals interpreted: every op of the table with its gradient, odd sizes,
strides and broadcasts, dtypes, thread counts.  The cases come from the op table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import samples
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lowering.scope import Scope
from symgrad.ir import Builder, DType, Func, TensorType
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.opdef import REGISTRY, OpDef, Sample
from symgrad.ir.passes import optimize
from symgrad.ir.types import f32, f64

from symgrad import ir

TOLERANCE = {f32: 2e-5, f64: 1e-12}
Case = tuple[OpDef, Sample]


def check(func: Func, operands: list[Any], threads: int) -> None:
    """The compiled results against the interpreter's, dtype and shape included."""
    got = compile_func(optimize(func), threads=threads)(operands)
    for actual, expected in zip(got, ir.interpret(func, operands), strict=True):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        bound = TOLERANCE.get(ir.dtype_of(expected.dtype), 0.0)
        np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound)


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares even tiny work among the threads."""
    monkeypatch.setattr(Scope, "threads_for", lambda self, flops, bytes: self.threads)


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", list(samples.cases()), ids=samples.label)
def test_every_op_and_its_gradient(case: Case, threads: int) -> None:
    opdef, sample = case
    for dtype in samples.dtypes(opdef):
        rng = np.random.default_rng(0)
        operands = samples.arrays(sample, dtype, rng)
        func = samples.func_of(opdef, sample, operands)
        check(func, operands, threads)
        smooth = opdef.differentiable is not False and (not opdef.kinds or "f" in opdef.kinds)
        if dtype.is_float and smooth:
            total = samples.projected(func)
            wrt = [
                i
                for i, a in enumerate(operands)
                if a.dtype == dtype.numpy and opdef.is_differentiable(i)
            ]
            weights = samples.random_like(total.param_types[len(operands) :], rng)
            check(value_and_grad(total, wrt), [*operands, *weights], threads)


ELEMENTWISE = [d for d in REGISTRY.values() if d.elementwise and d.samples]


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("opdef", ELEMENTWISE, ids=lambda d: d.name)
def test_elementwise_on_odd_sizes(opdef: OpDef) -> None:
    """Sizes around the vector widths, several rows of them in one program."""
    (sample,) = opdef.samples
    for dtype in samples.dtypes(opdef):
        builder = Builder(locations=False)
        results, operands = [], []
        for n in (1, 5, 17, 33, 100):
            resized = Sample(((n,),) * len(sample.shapes), {}, sample.domains, sample.dtypes)
            arrays = samples.arrays(resized, dtype, np.random.default_rng(n))
            params = [builder.param(ir.types.type_of_array(a)) for a in arrays]
            results.append(builder.emit(opdef.name, *params))
            operands += arrays
        check(builder.build(results, opdef.name), operands, 2)


def _patterns(builder: Builder, dtype: DType) -> list[ir.Value]:
    """Reads through transposes, slices, reversals and broadcasts, and a reduction of each."""
    from symgrad.ir.ops import elementwise as ew
    from symgrad.ir.ops import reduce as rd
    from symgrad.ir.ops import shape as sh

    x = builder.param(TensorType(dtype, (5, 7, 33)), "x")
    row = builder.param(TensorType(dtype, (33,)), "row")
    column = builder.param(TensorType(dtype, (7,)), "column")
    with builder:
        wide = sh.broadcast_to(row, shape=x.shape, axes=(2,))
        tall = sh.broadcast_to(column, shape=x.shape, axes=(1,))
        turned = sh.transpose(x, axes=(2, 0, 1))
        backwards = sh.reverse(x, axes=(0, 2))
        every_other = sh.slice_(x, start=(0, 1, 2), stop=(5, 7, 31), step=(2, 3, 4))
        mixed = x * wide + tall - backwards
        moved = turned * sh.broadcast_to(column, shape=turned.shape, axes=(2,))
        values = [mixed, moved, every_other * 3, ew.maximum(mixed, x)]
        axes: list[tuple[int, ...]] = [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)]
        values += [rd.reduce_sum(mixed, axes=a) for a in axes]
        values += [rd.reduce_max(moved, axes=a) for a in axes]
        first, second = rd.moments(mixed, axes=(0, 2))
        return [*values, first, second, sh.reshape(turned, shape=(33, 35))]


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_strides_broadcasts_and_reductions(dtype: DType, threads: int) -> None:
    builder = Builder(locations=False)
    results = _patterns(builder, dtype)
    func = builder.build(results)
    rng = np.random.default_rng(5)
    check(func, samples.random_like(func.param_types, rng), threads)


def test_results_may_be_parameters_constants_and_each_other() -> None:
    builder = Builder(locations=False)
    x = builder.param(TensorType(f64, (4, 3)), "x")
    with builder:
        from symgrad.ir.ops import shape as sh

        y = x + 1
        turned = sh.transpose(x, axes=(1, 0))
        results = [x, y, y, turned, builder.constant(2.0, x.type), sh.reshape(y, shape=(12,))]
    check(builder.build(results), [np.arange(12.0).reshape(4, 3)], 2)


def test_non_contiguous_and_wrong_arguments() -> None:
    builder = Builder(locations=False)
    x = builder.param(TensorType(f64, (4, 3)), "x")
    with builder:
        y = x * 2
    program = compile_func(optimize(builder.build([y])))
    strided = np.arange(24.0).reshape(3, 8)[:, ::2].T
    np.testing.assert_array_equal(program([strided])[0], strided * 2)
    with pytest.raises(ir.errors.UsageError, match=r"compiled for \(f64\[4,3\]\), got f32"):
        program([strided.astype(np.float32)])
