"""Loops whose state is linear in itself: nearly all of their work, done for all steps at once.

A step of a loop's derivative multiplies the cotangents of the state by the Jacobian of the step.
That matrix follows from what the forward loop has left, and not from the cotangents.  So it need
not wait for the step before, and neither need all that is made of the cotangents in passing:

    s[t + 1] = A[t] s[t] + b[t]     step by step: nothing else depends on the step before
    y[t]     = g(s[t], x[t])        for all steps at once, and so are A and b
    total   += h(s[t], x[t])        a sum over all steps

What is left of the loop is a few multiplications a step, where hundreds may have had to wait for
each other; the rest are vectors over time.  Products with the matrix are grouped otherwise than
in the loop, and sums are taken in another order.

A step that chooses may leave the state behind, be it infinite or nan, as where a sequence starts
anew.  A coefficient of 0 would not: it comes with the steps in which the state counts at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op, Region, Value, insertion
from symgrad.ir.ops.elementwise import add, and_, logical_not, or_, scale, select, where
from symgrad.ir.ops.reduce import reduce_sum
from symgrad.ir.ops.shape import broadcast_to
from symgrad.ir.record import record
from symgrad.ir.types import TensorType

STEPS = range(16, (1 << 16) + 1)
"""Fewer steps make no vectors that are worth it; with more, what lies between the steps' parts
would leave the caches."""
MAX_STATE = 4
"""Numbers of a state: each is a column of the matrix, as costly as the linear part of the step."""
_WORK = 4
"""Ops of a step for each entry of A and b from which on these pay."""


@record
class Part:
    """A coefficient, and where its number of the state counts: an array of bool, or ``None``
    for everywhere.  Elsewhere the coefficient is 0 and the number may be infinite or nan."""

    factor: Value
    counts: Value | None = None

    @property
    def arrays(self) -> tuple[Value, ...]:
        """What the recurrence has to read for it."""
        return (self.factor,) if self.counts is None else (self.factor, self.counts)


Row = tuple[Part | None, ...]
"""A value as a function of the state: the part of each of its numbers, then what is added.

All are arrays over time; ``None`` is zero.
"""


def spread_out(
    builder: Builder, region: Region, operands: Sequence[Value], wanted: Sequence[bool],
    attrs: Mapping[str, Any], optimise: Callable[[Region], Region],
) -> list[Value | None] | None:  # fmt: skip
    """The results of a ``scan`` over numbers whose state is linear in itself, made as above.

    ``attrs`` are those of the op; ``wanted`` tells which of its results are used, others may be
    ``None``; ``optimise`` is for the body that is left.  Returns ``None`` where the loop has
    another form or would gain too little.
    """
    length, consts, carries = attrs["length"], attrs["consts"], attrs["carries"]
    first, kept = consts + carries, len(region.results)
    before, after = region.params[consts:first], region.results[:carries]
    if length not in STEPS or not is_scalar_work(region):
        return None
    sums = _sums(region, before, wanted[kept:])
    state = [i for i in range(carries) if i not in sums]
    if len(state) > MAX_STATE or not all(before[i].type.dtype.is_float for i in state):
        return None
    with builder:
        steps = _Steps(builder, region, length)
        for param, value in zip(region.params[:consts], operands, strict=False):
            steps.put(param, broadcast_to(value, shape=(length,), axes=()))
        for param, value in zip(region.params[first:], operands[first:], strict=True):
            steps.put(param, value)
        steps.compute()
        rows = steps.rows([before[i] for i in state], [after[i] for i in state])
        if rows is None:
            return None
        arrays = [array for row in rows for part in row if part for array in part.arrays]
        if _work(region) < _WORK * len(arrays):
            return None
        results: list[Value | None] = [None] * len(wanted)
        if state:
            vanishes = any(op.name == "scale" for op in region.ops)
            initial = [operands[consts + i] for i in state]
            made = builder.emit(
                "scan", *initial, *arrays,
                regions=(_recurrence([v.type for v in initial], rows, vanishes, optimise),),
                consts=0, carries=len(state), length=length, reverse=attrs["reverse"],
            )  # fmt: skip
            for i, last, began in zip(state, made, made[len(state) :], strict=False):
                results[i] = last
                results[kept + i] = began
                steps.put(before[i], began)
            steps.compute()
        for i, (term, is_added) in sums.items():
            total, start = reduce_sum(steps.of(term), axes=(0,)), operands[consts + i]
            results[i] = start + total if is_added else start - total
        for i in range(carries, kept):
            results[i] = steps.of(region.results[i]) if wanted[i] else None
        return results


def is_scalar_work(region: Region) -> bool:
    """Whether a region has nothing but numbers, and ops that are the same on arrays of them."""
    values = [*region.params, *(v for op in region.ops for v in op.results)]
    ops = all(op.name == "constant" or op.opdef.elementwise for op in region.ops)
    return ops and all(v.shape == () for v in values)


def _work(region: Region) -> int:
    return sum(op.name != "constant" for op in region.ops)


def _sums(
    region: Region, state: Sequence[Value], asked: Sequence[bool]
) -> dict[int, tuple[Value, bool]]:
    """The numbers of the state that only add something up: what, and whether it is added.

    What such a sum was before each step must not be ``asked`` for.
    """
    read = [id(v) for op in region.ops for v in op.operands] + [id(v) for v in region.results]
    found: dict[int, tuple[Value, bool]] = {}
    for i, (before, after) in enumerate(zip(state, region.results, strict=False)):
        op = after.op
        if op is None or op.name not in ("add", "sub") or asked[i] or after.type.dtype.kind == "b":
            continue
        x, y = op.operands
        if read.count(id(before)) == read.count(id(after)) == 1:
            if x is before:
                found[i] = y, op.name == "add"
            elif y is before and op.name == "add":
                found[i] = x, True
    return found


def _recurrence(
    types: Sequence[TensorType], rows: Sequence[Row], vanishes: bool,
    optimise: Callable[[Region], Region],
) -> Region:  # fmt: skip
    """The step that is left, from the state and the coefficients of the rows to the next state.

    ``vanishes``: zero times an infinite coefficient is zero, as it is for cotangents.
    """
    builder = Builder(locations=False)
    state = [builder.param(type) for type in types]
    params, after = list(state), list[Value]()
    for param in state:
        param.facts = 0
    with builder:
        for type, row in zip(types, rows, strict=True):
            terms = []
            for s, part in zip((*state, None), row, strict=True):
                if part is None:
                    continue
                c, *counts = (builder.param(v.type.with_shape(())) for v in part.arrays)
                c.facts = part.factor.facts
                params += [c, *counts]
                term = c if s is None else scale(s, c) if vanishes else s * c
                terms.append(where(counts[0], term, 0.0) if counts else term)
            after.append(functools.reduce(add, terms) if terms else builder.constant(0, type))
    return optimise(builder.region(params, after))


class _Steps:
    """The values of all steps at once, each an array over time."""

    def __init__(self, builder: Builder, region: Region, length: int) -> None:
        self._builder, self._ops, self._length = builder, region.ops, length
        self._known: dict[int, Value] = {}

    def put(self, value: Value, array: Value) -> None:
        """Says what a parameter of a step is in all of them."""
        self._known[id(value)] = array

    def of(self, value: Value) -> Value:
        """What a computed value of a step is in all of them."""
        return self._known[id(value)]

    def compute(self) -> None:
        """Emits all ops whose operands are known by now."""
        known, builder = self._known, self._builder
        for op in self._ops:
            (result,) = op.results
            if id(result) not in known and all(id(v) in known for v in op.operands):
                with builder.at(op.loc):
                    if op.name == "constant":
                        made = builder.constant(op.attrs["value"], self._over_time(result.type))
                    else:
                        made = op.opdef(*(known[id(v)] for v in op.operands), **op.attrs)
                known[id(result)] = made

    def _over_time(self, type: TensorType) -> TensorType:
        return type.with_shape((self._length,))

    def rows(self, state: Sequence[Value], values: Sequence[Value]) -> list[Row] | None:
        """``values`` as functions of the ``state``; ``None`` if one is not linear in it."""
        none: Row = (None,) * len(state)
        rows: dict[int, Row | None] = {}
        for i, s in enumerate(state):
            one = self._builder.constant(1, self._over_time(s.type))
            rows[id(s)] = (*none[:i], Part(one), *none[i:])

        def row_of(value: Value) -> Row | None:
            known = self._known.get(id(value))
            return rows.get(id(value)) if known is None else (*none, Part(known))

        for op in self._ops:
            (result,) = op.results
            if id(result) not in self._known:
                with self._builder.at(op.loc):
                    rows[id(result)] = _linear(op, [row_of(v) for v in op.operands])
        return _all_or_none([row_of(v) for v in values])


def _linear(op: Op, operands: Sequence[Row | None]) -> Row | None:
    """What an op makes of functions of the state; ``None`` if that is not linear in it."""
    rows = _all_or_none(operands)
    if rows is None:
        return None
    *others, last = rows
    if op.name in ("add", "sub"):
        return tuple(_combined(op, *pair) for pair in zip(*rows, strict=True))
    if op.name in ("neg", "identity") or (op.name in ("mul", "scale", "div") and _is_fixed(last)):
        return _mapped(lambda c: op.opdef(c, *_fixed(rows[1:])), rows[0])
    if op.name in ("mul", "scale") and _is_fixed(rows[0]):
        return _mapped(lambda c: op.opdef(*_fixed(others), c), last)
    if op.name == "select" and _is_fixed(rows[0]):
        (condition,) = _fixed(rows[:1])
        *chosen, added = (_chosen(condition, *pair) for pair in zip(*rows[1:], strict=True))
        return (*chosen, added and Part(added.factor))  # what is added does so everywhere
    return None


def _mapped(function: Callable[[Value], Value], row: Row) -> Row:
    """A linear function of a row."""
    return tuple(part and Part(function(part.factor), part.counts) for part in row)


def _combined(op: Op, x: Part | None, y: Part | None) -> Part | None:
    """``x + y`` or ``x - y``."""
    if y is None:
        return x
    if x is None:
        return Part(-y.factor, y.counts) if op.name == "sub" else y
    factor = op.opdef(x.factor, y.factor)
    if x.counts is None or y.counts is None:
        return Part(factor)
    return Part(factor, or_(x.counts, y.counts))


def _chosen(condition: Value, x: Part | None, y: Part | None) -> Part | None:
    """The one or the other."""
    if x is None and y is None:
        return None
    factor = where(condition, x.factor if x else 0.0, y.factor if y else 0.0)
    if x is None or y is None:
        part, here = (x, condition) if x else (y, logical_not(condition))
        known = part.counts if part else None
        return Part(factor, here if known is None else and_(here, known))
    if x.counts is None and y.counts is None:
        return Part(factor)
    yes = insertion.builder.constant(True, condition.type)
    return Part(factor, select(condition, x.counts or yes, y.counts or yes))


def _is_fixed(row: Row) -> bool:
    """Whether a value does not depend on the state."""
    return all(c is None for c in row[:-1])


def _fixed(rows: Sequence[Row]) -> list[Value]:
    """Values that do not depend on the state."""
    return [row[-1].factor for row in rows if row[-1] is not None]


def _all_or_none(rows: Sequence[Row | None]) -> list[Row] | None:
    known = [row for row in rows if row is not None]
    return known if len(known) == len(rows) else None
