"""Example operands for every op of the table, so that a new op is tested by existing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from symgrad.ir import Builder, DType, Func, TensorType
from symgrad.ir.builder import inline
from symgrad.ir.opdef import REGISTRY, OpDef, Sample
from symgrad.ir.ops.reduce import reduce_sum
from symgrad.ir.types import f32, f64, i32

from symgrad import ir

Array = np.ndarray[Any, Any]


def cases(*, differentiable: bool = False) -> Iterator[tuple[OpDef, Sample]]:
    """Every op with each of its samples."""
    for opdef in REGISTRY.values():
        if differentiable and (
            opdef.differentiable is False or (opdef.kinds and "f" not in opdef.kinds)
        ):
            continue
        for sample in opdef.samples:
            yield opdef, sample


Case = tuple[OpDef, Sample]


def label(case: tuple[OpDef, Sample]) -> str:
    """A test id: the op and its operands' shapes."""
    opdef, sample = case
    return f"{opdef.name}-{'-'.join('x'.join(map(str, s)) or 'scalar' for s in sample.shapes)}"


def dtypes(opdef: OpDef) -> tuple[DType, ...]:
    """Dtypes an op is tested with."""
    kinds = opdef.kinds or "f"
    chosen = ((f64, f32) if "f" in kinds else ()) + ((i32,) if "i" in kinds else ())
    return chosen or (ir.dtype_of(bool),)


def arrays(sample: Sample, dtype: DType, rng: np.random.Generator) -> list[Array]:
    """Operands drawn from a sample's domains."""
    drawn = []
    for i, shape in enumerate(sample.shapes):
        low, high = sample.domains[i] if sample.domains else (-2.0, 2.0)
        own = sample.dtypes[i] if sample.dtypes else None
        values = np.asarray(rng.uniform(low, high, shape))
        kind = (own or dtype).kind
        drawn.append(np.asarray(values > 0 if kind == "b" else values).astype((own or dtype).numpy))
    return drawn


def func_of(opdef: OpDef, sample: Sample, operands: list[Array]) -> Func:
    """The function that is this one op."""
    builder = Builder()
    params = [builder.param(ir.types.type_of_array(a)) for a in operands]
    result = builder.emit(opdef.name, *params, **sample.attrs)
    return builder.build(result if isinstance(result, tuple) else (result,), opdef.name)


def projected(func: Func, keep: slice = slice(None)) -> Func:
    """The weighted sum of results; the weights are parameters behind the function's own."""
    builder = Builder()
    params = [builder.param(p.type, p.name) for p in func.params]
    results = inline(builder, func, params)[keep]
    weights = [builder.param(v.type, f"weight{i}") for i, v in enumerate(results)]
    total = None
    with builder:
        for value, weight in zip(results, weights, strict=True):
            part = reduce_sum(value * weight, axes=tuple(range(value.rank)))
            total = part if total is None else total + part
    assert total is not None
    return builder.build([total], func.name)


def random_like(types: tuple[TensorType, ...], rng: np.random.Generator) -> list[Array]:
    """Arrays of the given types with values around 1."""
    return [np.asarray(rng.uniform(0.5, 1.5, t.shape)).astype(t.dtype.numpy) for t in types]
