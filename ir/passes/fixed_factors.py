"""Matrices that all steps of a loop multiply by, turned once so that the products need not.

A product wants the rows of its second factor side by side along the result.  One that contracts
the last axis in place of the first has to rearrange the factor: in a loop in every step, though
it is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op, Region, Value
from symgrad.ir.ops.linalg import dot_general
from symgrad.ir.ops.shape import transpose
from symgrad.ir.rewrite import region_params

_ROWS = 8
"""Rows of the other factor up to which dot products along the contraction are as quick."""


def turn_fixed_factors(
    builder: Builder, region: Region, operands: Sequence[Value], consts: int
) -> tuple[Region, list[Value]]:
    """The body and operands of a loop with such matrices, among the first ``consts`` operands,
    transposed."""
    turned = {
        param: transpose_of(builder, value)
        for param, value in zip(region.params[:consts], operands, strict=False)
        if param.rank == 2 and _is_always_turned(region, param)
    }
    if not turned:
        return region, list(operands)
    inner = Builder(locations=False)
    copies = dict(zip(region.params, region_params(inner, region), strict=True))
    params = dict(copies)
    for param, value in turned.items():
        params[param] = inner.param(value.type)
        params[param].facts = param.facts
    for op in region.ops:
        if op.operands and op.operands[-1] in turned:
            x, matrix = op.operands
            with inner, inner.at(op.loc):
                made = dot_general(copies[x], params[matrix], **{**op.attrs, "rhs_contract": (0,)})
        else:
            made = inner.copy(op, [copies[v] for v in op.operands])
        copies.update(zip(op.results, made if isinstance(made, tuple) else (made,), strict=True))
    body = inner.region([params[p] for p in region.params], [copies[v] for v in region.results])
    given = zip(region.params, operands, strict=True)
    return body, [turned.get(param, value) for param, value in given]


def transpose_of(builder: Builder, matrix: Value) -> Value:
    """The transpose; of one that is a transpose itself, what that was made of."""
    op = matrix.op
    if op is not None and op.name == "transpose":
        return op.operands[0]
    with builder:
        result: Value = transpose(matrix, axes=(1, 0))
    return result


def _is_always_turned(region: Region, matrix: Value) -> bool:
    users = [op for op in region.ops if matrix in op.operands]
    return bool(users) and matrix not in region.results and all(_turns(op, matrix) for op in users)


def _turns(op: Op, matrix: Value) -> bool:
    """Whether an op is a product that contracts the last axis of its second factor, of many rows
    with it."""
    if op.name != "dot_general" or op.operands[1] is not matrix or op.operands[0] is matrix:
        return False
    if op.attrs["rhs_contract"] != (1,) or op.attrs["rhs_batch"]:
        return False
    rows, columns = op.results[0].type.size // matrix.shape[0], matrix.shape[0]
    return rows > _ROWS and columns > _ROWS
