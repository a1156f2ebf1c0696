"""Parts of a function with a way of their own to be differentiated.

Both ops carry a region and stand for plain values otherwise: the pass ``expand`` puts these in
their place once derivatives are taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from symgrad.ir.adjoint import pull_back
from symgrad.ir.builder import Builder, inline
from symgrad.ir.errors import DifferentiationError, ShapeError, UsageError
from symgrad.ir.graph import Region, Value, insertion
from symgrad.ir.interp import evaluate_region
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.types import TensorType


@op("barrier", samples=[Sample(((3, 4), (2,)), {"count": 1}), Sample(((3,), (2, 2)), {"count": 2})])
def barrier(*operands: TensorType, count: int) -> tuple[TensorType, ...]:
    """The first ``count`` operands, once all operands are there.

    No pass looks through it: what is computed from its results is not what was computed from
    its operands, and does not begin before the others are known.
    """
    if not 0 < count <= len(operands):
        raise UsageError(f"barrier: count={count} for {len(operands)} operands")
    return operands[:count]


@barrier.evaluate
def _barrier(*operands: Array, count: int) -> Any:
    return operands[:count] if count > 1 else operands[0]


@barrier.adjoint
def _barrier_adjoint(ct: Any, result: Any, *operands: Value, count: int) -> tuple[Any, ...]:
    cts = ct if count > 1 else (ct,)
    return (*cts, *(None,) * (len(operands) - count))


@barrier.batch
def _barrier_batch(size: int, operands: list[Value], batched: list[bool], *, count: int) -> Any:
    from symgrad.ir.ops.shape import add_batch

    return barrier(*add_batch(size, operands[:count], batched[:count]), *operands[count:],
                   count=count)  # fmt: skip


# -- checkpoint ----------------------------------------------------------------------------


@op("checkpoint")
def checkpoint(*operands: TensorType, region: Region) -> tuple[TensorType, ...]:
    """The results of a region, of which a derivative keeps the operands alone."""
    if tuple(p.type for p in region.params) != operands:
        found = ", ".join(str(p.type) for p in region.params)
        raise ShapeError(f"checkpoint: the body takes ({found}), got {operands}")
    return tuple(v.type for v in region.results)


@checkpoint.evaluate
def _checkpoint(*operands: Array, region: Region) -> Any:
    return tuple(evaluate_region(region, operands))


@checkpoint.expand
def _checkpoint_body(*operands: Value, region: Region) -> Any:
    made = inline(insertion.builder, region, operands)  # type: ignore[arg-type]
    return tuple(made) if len(made) > 1 else made[0]


@checkpoint.adjoint
def _checkpoint_adjoint(ct: Any, result: Any, *operands: Value) -> tuple[Value | None, ...]:
    """The body once more, behind a ``barrier`` that waits for the cotangents, pulled back."""
    (region,), cts = (result[0] if isinstance(result, tuple) else result).op.regions, ct
    if isinstance(result, Value):
        cts = (ct,)
    given = [c for c in cts if c is not None]
    builder = Builder(locations=False)
    inputs = [builder.param_like(p) for p in region.params]
    ct_params = [builder.param_like(c) for c in given]
    found = inline(builder, region, inputs)
    waiting = iter(ct_params)
    seeds = [None if c is None else next(waiting) for c in cts]
    parts = pull_back(builder, found, seeds, inputs)
    reached = [i for i, part in enumerate(parts) if part is not None]
    pulled = builder.region([*inputs, *ct_params], [v for v in parts if v is not None])
    held = barrier(*operands, *given, count=len(operands)) if operands else ()
    held = held if isinstance(held, tuple) else (held,)
    made = iter(inline(insertion.builder, pulled, [*held, *given]))  # type: ignore[arg-type]
    return tuple(next(made) if i in reached else None for i in range(len(operands)))


# -- custom_vjp ----------------------------------------------------------------------------


@op("custom_vjp")
def custom_vjp(
    *operands: TensorType, inputs: int, outputs: int, region: Region
) -> tuple[TensorType, ...]:
    """The last ``outputs`` operands, with a derivative by the first ``inputs`` that a region gives.

    The operands between them are residuals.  The region takes these and a cotangent for each
    floating output, and yields a cotangent for each input; without results, it says that there
    is no derivative.
    """
    first = len(operands) - outputs
    if min(inputs, outputs - 1, first - inputs) < 0:
        raise UsageError(f"custom_vjp: {inputs} inputs, {outputs} outputs of {len(operands)}")
    cts = (t for t in operands[first:] if t.dtype.is_inexact)
    expected = (*operands[inputs:first], *cts)
    if region.results and tuple(p.type for p in region.params) != expected:
        raise ShapeError(f"custom_vjp: the rule takes {tuple(p.type for p in region.params)}, "
                         f"not {expected}")  # fmt: skip
    given = tuple(v.type for v in region.results)
    if region.results and given != operands[:inputs]:
        raise ShapeError(f"custom_vjp: the rule gives {given} for inputs {operands[:inputs]}")
    return operands[first:]


@custom_vjp.evaluate
def _custom_vjp(*operands: Array, inputs: int, outputs: int, region: Region) -> Any:
    values = operands[len(operands) - outputs :]
    return tuple(map(np.asarray, values))


@custom_vjp.expand
def _custom_vjp_values(*operands: Value, inputs: int, outputs: int, region: Region) -> Any:
    values = operands[len(operands) - outputs :]
    return values if outputs > 1 else values[0]


@custom_vjp.adjoint
def _custom_vjp_adjoint(
    ct: Any, result: Any, *operands: Value, inputs: int, outputs: int
) -> tuple[Value | None, ...]:
    cts = ct if outputs > 1 else (ct,)
    (region,) = (result[0] if outputs > 1 else result).op.regions
    if not region.results:
        raise DifferentiationError(
            "custom_vjp: the rule of a function uses that function, which is differentiated by "
            "its rule again: derivatives of this order are not there; give the rule in other terms"
        )
    first = len(operands) - outputs
    builder = insertion.builder
    filled = [
        builder.constant(0, v.type) if c is None else c
        for c, v in zip(cts, operands[first:], strict=True)
        if v.type.dtype.is_inexact
    ]
    made = inline(builder, region, [*operands[inputs:first], *filled])  # type: ignore[arg-type]
    return (*made, *(None,) * (len(operands) - inputs))
