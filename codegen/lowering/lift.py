"""Constants of fused regions as operands, so that regions that differ in them share code.

An unrolled loop with a coefficient per step, or batch norms over planes of different sizes,
give regions of one form.  Their numbers then lie in memory, where the kernel reads them
once: nests of few points or many ops do not notice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from symgrad.codegen.storage import Storage, constant
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Region, Value, scalar_constant
from symgrad.ir.rewrite import region_params

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
    builder = Builder(locations=False)
    params = region_params(builder, region)
    new = dict(zip(map(id, region.params), params, strict=True))
    added = []
    for value in lifted:
        param = new[id(value)] = builder.param(value.type)
        param.facts = value.facts
        added.append(param)
    for op in region.ops:
        if id(op.results[0]) not in new:
            new[id(op.results[0])] = builder.copy(op, [new[id(v)] for v in op.operands])
    results = [new[id(v)] for v in region.results]
    return builder.region([*params, *added], results), _stored(lifted)


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
        found.update((id(v), row.view((), (), i)) for i, v in enumerate(alike))
    return [found[id(v)] for v in values]
