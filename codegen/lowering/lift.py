"""Constants of fused regions as operands, so that regions that differ in them share code.

An unrolled loop with a coefficient per step, or batch norms over planes of different sizes,
give regions of one form.  Their numbers then lie in memory, where the kernel reads them
once: nests of few points or many ops do not notice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from symgrad.codegen.access import Access
from symgrad.codegen.storage import Storage, constant
from symgrad.ir.graph import Op, Region, Value, scalar_constant

_FEW_POINTS = 4096
_MANY_OPS = 64
_TAKERS = frozenset(("add", "sub", "mul"))
"""Ops that are the same instruction whether their operand is known or not."""
_SPECIAL = frozenset((0.0, 1.0, -1.0, 2.0, 0.5))
"""Numbers that instructions are saved for."""


def lift_constants(region: Region, points: int) -> tuple[Region, list[Storage]]:
    """The region with the numbers that are worth it as further parameters, and those."""
    if points > _FEW_POINTS and len(region.ops) < _MANY_OPS:
        return region, []
    lifted = _liftable(region)
    if not lifted:
        return region, []
    new = {id(value): Value(value.type) for value in (*region.params, *lifted)}
    params = tuple(new.values())
    ops = []
    for op in region.ops:
        (result,) = op.results
        if id(result) not in new:  # nothing folds where less is known: no builder is needed
            operands = tuple([new[id(v)] for v in op.operands])
            copy = Op(op.opdef, operands, op.attrs, (result.type,), loc=op.loc)
            new[id(result)] = copy.results[0]
            ops.append(copy)
    lifted_region = Region(params, tuple(ops), tuple([new[id(v)] for v in region.results]))
    return lifted_region, _stored(lifted)


def _liftable(region: Region) -> list[Value]:
    """Floating constants, other than special ones, that only ``_TAKERS`` read."""
    kept = {id(v) for op in region.ops if op.name not in _TAKERS for v in op.operands}
    kept.update(id(v) for v in region.results)
    values = [op.result for op in region.ops if op.name == "constant"]
    return [
        v
        for v in values
        if v.type.dtype.kind == "f" and id(v) not in kept and scalar_constant(v) not in _SPECIAL
    ]


def _stored(values: Sequence[Value]) -> list[Storage]:
    """A scalar each; those of a dtype lie in one buffer."""
    found: dict[int, Storage] = {}
    for dtype in dict.fromkeys(v.type.dtype for v in values):
        alike = [v for v in values if v.type.dtype == dtype]
        numbers = np.array([scalar_constant(v) for v in alike], dtype.numpy)
        row = constant(numbers, dtype.name)
        found.update(
            (id(v), Storage(row.buffer, (), Access(dtype.name, (), i))) for i, v in enumerate(alike)
        )
    return [found[id(v)] for v in values]
