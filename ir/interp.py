"""Evaluates a ``Func`` op by op from the NumPy references: the oracle of compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.builder import Builder
from symgrad.ir.errors import UsageError, VerifyError
from symgrad.ir.graph import Func, Op, Region
from symgrad.ir.opdef import Array
from symgrad.ir.types import bf16, type_of_array


def interpret(func: Func, arguments: Sequence[Any]) -> list[Array]:
    """The results of ``func`` on arrays of exactly its parameters' types.

    Raises ``UsageError`` when the arguments do not fit.
    """
    arrays = [np.asarray(a) for a in arguments]
    types = tuple(type_of_array(a) for a in arrays)
    if types != func.param_types:
        raise UsageError(f"{func.name} takes {func.param_types}, got {types}")
    with np.errstate(all="ignore"):
        return evaluate_region(func, arrays)


def evaluate_region(region: Region, arguments: Sequence[Array]) -> list[Array]:
    """The results of a region, or of a whole function, on arrays of its parameters' types."""
    env: dict[int, Array] = dict(zip(map(id, region.params), arguments, strict=True))
    for op in region.ops:
        results = evaluate(op, [env[id(v)] for v in op.operands])
        for value, array in zip(op.results, results, strict=True):
            if type_of_array(array) != value.type:
                raise VerifyError(
                    f"{op.name}: the reference gave {type_of_array(array)}, not {value.type}"
                )
            env[id(value)] = array
    return [env[id(v)] for v in region.results]


def evaluate(op: Op, operands: Sequence[Array]) -> tuple[Array, ...]:
    """The results of one op by its NumPy reference."""
    rule = op.opdef.evaluate_rule
    if rule is None:
        return _by_expansion(op, operands)
    if op.regions:
        result = rule(*operands, **op.attrs, region=op.regions[0])
    elif any(v.type.dtype == bf16 for v in op.operands) and op.opdef.name != "convert":
        # NumPy knows too little of this type: in float32, and rounded once.
        wide = [x.astype(np.float32) if x.dtype == bf16.numpy else x for x in operands]
        made = rule(*wide, **op.attrs)
        given = made if isinstance(made, tuple) else (made,)
        result = tuple(
            np.asarray(r).astype(v.type.dtype.numpy) for r, v in zip(given, op.results, strict=True)
        )
    else:
        result = rule(*operands, **op.attrs)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(r) for r in results)


def _by_expansion(op: Op, operands: Sequence[Array]) -> tuple[Array, ...]:
    if op.opdef.expand_rule is None:
        raise VerifyError(f"{op.name} has neither a NumPy reference nor an expansion")
    builder = Builder(locations=False)
    params = [builder.param_like(v) for v in op.operands]
    with builder:
        result = op.opdef.expand_rule(*params, **op.attrs)
    values = result if isinstance(result, tuple) else (result,)
    return tuple(interpret(builder.build(values, op.name), operands))
