"""Rolls up unrolled loops: a long run of equal steps becomes one ``scan``.

A Python loop is traced once per step, so that a recurrence such as ``y = sin(x * c + y)`` is
written as often as it has steps.  Here such a run is found by its period and put back into the
form of a loop: everything behind this (the adjoint, the passes, the code) is then as long as
one step.  The operations stay the same in the same order, and so do the results.

A step may read, besides what it computes itself,

- what the step before it computed: the state that the loop carries,
- values from before the loop, the same in all steps,
- numbers, which may be others in each step: they become an array that the loop runs along.

Only elementwise steps over the same points are rolled up, for they run as fast in a loop: where
each point does transcendental work, and where there are enough points for whole vectors, but
not so many that the state leaves the cache between steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Func, Op, Value, scalar_constant
from symgrad.ir.types import TensorType

MIN_STEPS = 16
"""Shorter runs stay as they are."""
POINTS = range(16, 1 << 15)
MAX_PERIOD = 512
"""Ops of the longest step looked for."""
_WINDOW = 8
"""Ops in a row that must come again for their distance to be taken for a period."""
_CANDIDATES = 6
_COSTLY = frozenset(
    "exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan atan2 asinh"
    " acosh atanh sigmoid erf erfc pow cbrt hypot logaddexp".split()
)

Place = tuple[int, int]
"""An op's position in a step, and the number of a result of it."""


def reroll(func: Func) -> Func:
    """Returns ``func`` with its long runs of equal steps as loops."""
    builder = Builder.resuming(func)
    results = rolled(builder, func.results)
    return func if results == func.results else builder.build(results, func.name)


def rolled(builder: Builder, values: Sequence[Value]) -> tuple[Value, ...]:
    """``values`` as loops in ``builder`` make them, which are added where runs are found.

    The ops that made them before stay, for whoever else reads these.
    """
    wanted = tuple(values)
    while (loop := _find(builder.ops_behind(wanted), wanted)) is not None:
        wanted = _replaced(builder, loop, wanted)
    return wanted


# -- what a loop is --------------------------------------------------------------------------


class Made(NamedTuple):
    """An operand that this step makes."""

    place: Place


class Carried(NamedTuple):
    """An operand that the step before makes."""

    place: Place


class Outer(NamedTuple):
    """An operand from before the loop."""

    value: Value


class Number(NamedTuple):
    """A number, maybe another in each step."""

    type: TensorType


Source = Made | Carried | Outer | Number


@dataclass(eq=False)
class _Loop:
    """Steps of ``period`` ops each, ``ops[start:stop]``; ``sources`` has the operands of a step."""

    ops: Sequence[Op]
    sources: Sequence[Sequence[Source]]
    start: int
    stop: int
    first: dict[Place, Value] = field(default_factory=dict)
    """The state before the loop."""

    @property
    def period(self) -> int:
        return len(self.sources)

    @property
    def steps(self) -> int:
        return (self.stop - self.start) // self.period

    def step(self, number: int) -> Sequence[Op]:
        """The ops of one step; a negative number counts from the last."""
        begin = (self.start if number >= 0 else self.stop) + number * self.period
        return self.ops[begin : begin + self.period]

    def value(self, place: Place, step: int) -> Value:
        """What a step has at a place."""
        at, result = place
        return self.step(step)[at].results[result]

    def operands(self) -> Iterator[tuple[int, int, Source]]:
        """Position in the step, number and source of each operand."""
        for at, row in enumerate(self.sources):
            for number, source in enumerate(row):
                yield at, number, source


# -- finding one -----------------------------------------------------------------------------


def _find(ops: Sequence[Op], wanted: Sequence[Value]) -> _Loop | None:
    """The longest loop among ``ops``; constants do not count as its ops."""
    ops = [op for op in ops if op.name != "constant"]
    if len(ops) < 2 * MIN_STEPS:
        return None
    kinds = _kinds(ops)
    for period, start, stop in _repetitions(kinds):
        loop = _loop_of(ops, period, start, stop)
        if loop is not None and loop.steps >= MIN_STEPS and _pays(loop.step(0)):
            if (loop := _closed(loop, wanted)) is not None:
                return loop
    return None


def _kinds(ops: Sequence[Op]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A number for each op, equal for ops that may stand for each other in two steps."""
    known: dict[object, int] = {}
    kinds = np.empty(len(ops), np.int64)
    for i, op in enumerate(ops):
        if op.opdef.elementwise:
            kinds[i] = known.setdefault((op.name, op.results[0].type, *op.attrs.values()), i)
        else:
            kinds[i] = -1 - i
    return kinds


def _repetitions(
    kinds: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[tuple[int, int, int]]:
    """Stretches that repeat themselves, longest first: period, start, stop.

    A period shows as the distance between the same few kinds in a row, over and over.
    """
    count = len(kinds) - _WINDOW + 1
    windows = np.zeros(count, np.int64)
    for i in range(_WINDOW):  # a hash: what is equal by accident is sorted out later
        windows = windows * 1_000_003 + kinds[i : i + count]
    order = np.argsort(windows, kind="stable")
    again = windows[order[1:]] == windows[order[:-1]]
    distances = np.diff(order)[again]
    counts = np.bincount(distances[distances <= MAX_PERIOD], minlength=1)
    found = []
    for period in counts.argsort()[::-1][:_CANDIDATES].tolist():
        if counts[period]:
            same = np.concatenate(([0], kinds[period:] == kinds[:-period], [0]))
            starts, stops = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
                if stop - start >= period * (MIN_STEPS - 2):
                    found.append((period, start, stop + period))
    return sorted(found, key=lambda each: (each[1] - each[2], each[0]))


def _loop_of(ops: Sequence[Op], period: int, start: int, stop: int) -> _Loop | None:
    """The loop that runs through the middle of a stretch of equal kinds."""
    index = {op: i for i, op in enumerate(ops)}
    base = start + (stop - start) // period // 2 * period
    if base < start + period or base + period > stop:
        return None

    # How far what an op makes is from its last use says where a step best begins, that is
    # where the least is carried across.  Over more than a period?  Then steps are longer.
    reach: dict[Place, int] = {}
    for i in range(base, base + period):
        for v in ops[i].operands:
            made = index.get(v.op, -1) if v.op is not None else -1
            if made >= start:
                place = made % period, v.index
                reach[place] = max(reach.get(place, 0), i - made)
    longest = max(reach.values(), default=0)
    if longest > period:
        times = -(-longest // period)
        fits = period * times * MIN_STEPS <= stop - start and period * times <= MAX_PERIOD
        return _loop_of(ops, period * times, start, stop) if fits else None
    crossing = [0] * period
    for (at, _), length in reach.items():
        for boundary in range(at + 1, at + length + 1):
            crossing[boundary % period] += 1
    base += min(range(period), key=lambda i: crossing[(base + i) % period]) - period
    base = base if base - period >= start else base + period
    if base - period < start or base + period > stop:
        return None

    sources: list[list[Source]] = []
    for op in ops[base : base + period]:
        row: list[Source] = []
        for v in op.operands:
            made = index.get(v.op, -1) if v.op is not None else -1
            if scalar_constant(v) is not None:
                row.append(Number(v.type))
            elif made >= base:
                row.append(Made((made - base, v.index)))
            elif made >= base - period:
                row.append(Carried((made - base + period, v.index)))
            elif made < start:
                row.append(Outer(v))
            else:
                return None
        sources.append(row)
    loop = _Loop(ops, sources, base, base + period)
    while loop.stop + period <= stop and _fits(loop, loop.stop):
        loop.stop += period
    while loop.start - period >= start and _fits(loop, loop.start - period):
        loop.start -= period
    # The first step begins from anything.
    if loop.start - period >= start and _fits(loop, loop.start - period, first=loop.first):
        loop.start -= period
    else:
        loop.first.clear()
        _fits(loop, loop.start, first=loop.first)
    return loop


def _fits(loop: _Loop, begin: int, first: dict[Place, Value] | None = None) -> bool:
    """Whether the ops from ``begin`` on are a step of the loop.

    With ``first`` they may take any state, which is put there.
    """
    ops, before = loop.ops[begin : begin + loop.period], begin - loop.period
    for op, row in zip(ops, loop.sources, strict=True):
        if len(op.operands) != len(row):
            return False
        for v, source in zip(op.operands, row, strict=True):
            match source:
                case Number(type):
                    fits = v.type is type and scalar_constant(v) is not None
                case Made((at, result)):
                    fits = v is ops[at].results[result]
                case Outer(value):
                    fits = v is value
                case Carried((at, result)) if first is not None:
                    alike = v.type is ops[at].results[result].type
                    fits = alike and first.setdefault((at, result), v) is v
                case Carried((at, result)):
                    fits = before >= 0 and v is loop.ops[before + at].results[result]
            if not fits:
                return False
    return True


def _pays(step: Sequence[Op]) -> bool:
    """Whether a step runs as fast in a loop."""
    shapes = {v.shape for op in step for v in (*op.operands, *op.results)}
    if len(shapes) != 1 or step[0].results[0].type.size not in POINTS:
        return False
    return any(op.name in _COSTLY for op in step)


def _closed(loop: _Loop, wanted: Sequence[Value]) -> _Loop | None:
    """The loop, maybe without its last step, if others read but its last state."""
    for _ in range(2):
        inside = {op: i for i, op in enumerate(loop.ops[loop.start : loop.stop])}
        read = [v for op in loop.ops if op not in inside for v in op.operands]
        last = {id(loop.value(place, -1)) for place in loop.first}
        if all(id(v) in last for v in (*read, *wanted) if v.op in inside):
            return loop
        loop.stop -= loop.period
    return None


# -- putting it in place ---------------------------------------------------------------------


def _replaced(builder: Builder, loop: _Loop, wanted: Sequence[Value]) -> tuple[Value, ...]:
    """Adds the loop and all that hangs on it; the wanted values as they are then."""
    behind = builder.ops_behind(wanted)
    inside = set(loop.ops[loop.start : loop.stop])
    new = _emitted(builder, loop)
    for op in behind:
        if op not in inside and any(id(v) in new for v in op.operands):
            made = builder.copy(op, [new.get(id(v), v) for v in op.operands])
            results = made if isinstance(made, tuple) else (made,)
            new.update((id(old), v) for old, v in zip(op.results, results, strict=True))
    return tuple([new.get(id(v), v) for v in wanted])


def _emitted(builder: Builder, loop: _Loop) -> dict[int, Value]:
    """Adds the ``scan``; what it makes by what that stands for."""
    body = Builder(locations=False)
    outer = {id(s.value): s.value for _, _, s in loop.operands() if isinstance(s, Outer)}
    consts = [body.param_like(v) for v in outer.values()]
    state: dict[Place, Value] = {}
    for place, v in loop.first.items():
        state[place] = body.param(v.type)
        starts = [v, *(loop.value(place, n) for n in range(loop.steps - 1))]
        state[place].facts = _common_facts(starts)
    numbers = _numbers(loop)
    arrays: dict[tuple[int, ...], tuple[Value, Value]] = {}
    """By the numbers' ids: the array of them, and the element that a step sees."""
    places = dict(zip(outer, consts, strict=True))
    made: list[tuple[Value, ...]] = []
    for at, (op, row) in enumerate(zip(loop.step(0), loop.sources, strict=True)):
        operands = []
        for number, source in enumerate(row):
            match source:
                case Made((before, result)):
                    operands.append(made[before][result])
                case Carried(place):
                    operands.append(state[place])
                case Outer(value):
                    operands.append(places[id(value)])
                case Number(type):
                    operands.append(_number(builder, body, arrays, numbers[at, number], type))
        results = body.copy(op, operands)
        made.append(results if isinstance(results, tuple) else (results,))
    elements = [element for _, element in arrays.values()]
    region = body.region(
        [*consts, *state.values(), *elements], [made[at][result] for at, result in state]
    )
    found = builder.emit(
        "scan", *outer.values(), *loop.first.values(), *(array for array, _ in arrays.values()),
        loc=loop.step(0)[0].loc, regions=(region,),
        consts=len(outer), carries=len(state), length=loop.steps, reverse=False,
    )  # fmt: skip
    return {id(loop.value(place, -1)): v for place, v in zip(state, found, strict=False)}


def _numbers(loop: _Loop) -> dict[tuple[int, int], list[Value]]:
    """The constants that each operand of kind ``Number`` is in turn."""
    steps = [loop.step(n) for n in range(loop.steps)]
    return {
        (at, number): [step[at].operands[number] for step in steps]
        for at, number, source in loop.operands()
        if isinstance(source, Number)
    }


def _number(
    builder: Builder, body: Builder, arrays: dict[tuple[int, ...], tuple[Value, Value]],
    values: Sequence[Value], type: TensorType,
) -> Value:  # fmt: skip
    """An operand in the body for a number of each step."""
    constant: Value
    if all(v is values[0] for v in values):
        constant = body.constant(scalar_constant(values[0]), type)
        return constant
    key = tuple(map(id, values))
    if key not in arrays:
        element = body.param(type.with_shape(()))
        element.facts = _common_facts(values)
        payload = [scalar_constant(v) for v in values]
        arrays[key] = builder.constant(payload, type.with_shape((len(values),))), element
    _, element = arrays[key]
    wide: Value = body.emit("broadcast_to", element, shape=type.shape, axes=())
    return wide


def _common_facts(values: Sequence[Value]) -> int:
    """What is known of all of these."""
    facts = ~0
    for v in values:
        facts &= v.facts
    return facts
