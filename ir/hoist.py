"""Takes out of a loop's body what is the same in every step.

A step may pick numbers out of an array from around the loop, or compute with such values
alone.  Done once before the loop that costs nothing, and a derivative of the body need not put
together the cotangent of the whole array in each step: each number has a sum of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op, Region, Value


def hoist(builder: Builder, region: Region, outer: Sequence[Value]) -> tuple[Region, list[Value]]:
    """A loop's body without the ops that see nothing but ``outer``, and what it takes instead.

    ``outer`` are the values of ``builder`` that the region's first parameters stand for.  The
    new region has parameters for what the rest of the body uses: some of these, or what has
    been made of them in ``builder``.  All stays as it is where that would be larger than
    ``outer``: a derivative of the loop keeps a sum for each of its elements.
    """
    moved = _fixed_ops(region, len(outer))
    fixed = {id(p): p for p in region.params[: len(outer)]}
    fixed |= {id(v): v for op in moved for v in op.results}
    gone = {id(op) for op in moved}
    rest = [op for op in region.ops if id(op) not in gone]
    read = [v for op in rest for v in op.operands] + list(region.results)
    taken = list({id(v): v for v in read if id(v) in fixed}.values())
    if not moved or _bytes(taken) > _bytes(outer):
        return region, list(outer)

    inner = Builder(locations=False)
    params = [*taken, *region.params[len(outer) :]]
    inside = {id(v): inner.param_like(v) for v in params}
    outside = {id(p): v for p, v in zip(region.params, outer, strict=False)}
    for op in region.ops:
        if not op.operands:
            _copy(inner, op, inside)
            _copy(builder, op, outside)
        elif id(op) in gone:
            _copy(builder, op, outside)
        else:
            _copy(inner, op, inside)
    new = inner.region([inside[id(v)] for v in params], [inside[id(v)] for v in region.results])
    return new, [outside[id(v)] for v in taken]


def _fixed_ops(region: Region, consts: int) -> list[Op]:
    """The ops that depend on nothing but constants and the first ``consts`` parameters.

    One that makes more of its operands stays: a broadcast is free where it is used.
    """
    fixed = {id(p) for p in region.params[:consts]}
    found = []
    for op in region.ops:
        if all(id(v) in fixed for v in op.operands):
            if op.operands and _bytes(op.results) <= _bytes(op.operands):
                found.append(op)
            elif op.operands:
                continue
            fixed.update(id(v) for v in op.results)
    return found


def _copy(builder: Builder, op: Op, mapping: dict[int, Value]) -> None:
    made = builder.copy(op, [mapping[id(v)] for v in op.operands])
    values = made if isinstance(made, tuple) else (made,)
    mapping.update((id(old), new) for old, new in zip(op.results, values, strict=True))


def _bytes(values: Iterable[Value]) -> int:
    return sum(v.type.bytes for v in values)
