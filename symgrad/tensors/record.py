"""Recording operations now, and running programs when a value is looked at.

``materialise`` collects what given values need, back to arrays that are known, compiles
that as one function (found again by the structure of the graph) and keeps the results:
those are where later programs start, though a derivative still sees the ops behind them.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from symgrad.api_backend import register_owner
from symgrad.bounded import Bounded
from symgrad.ir import Builder, Func, TensorType, Value
from symgrad.ir.errors import Loc
from symgrad.ir.graph import Region
from symgrad.ir.opdef import Array, OpDef
from symgrad.tensors import recompiles
from symgrad.tensors.graphs import Recording
from symgrad.tensors.recorded import (
    Contents,
    PendingOp,
    Recorded,
    are_shared,
    array_of,
    atom,
    contents_of,
    is_known,
    leaf_of,
    references_each,
)
from symgrad.tensors.standing import written
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, _active

CHAIN_LIMIT = 3000
"""Depth at which pending work is run unasked: it bounds memory when nobody looks."""
PROGRAM_LIMIT = 512
"""Compiled programs kept."""


class LazyBuilder(Builder):
    """Makes ops without keeping them.

    Nothing is folded or shared here: every recorded value stays one that a derivative can
    be taken by, and recording stays cheap.  Both happen when the program is built.
    """

    def __init__(self) -> None:
        super().__init__(locations=False)
        self._count = itertools.count()

    def record(self, region: Region, operands: Sequence[Value]) -> list[Recorded]:
        """Records what a region computes of operands as one op; returns its results."""
        op = PendingOp(region, tuple(operands), next(self._count))
        if op.depth > CHAIN_LIMIT:
            materialise([v for v in op.operands if not is_known(v)])
            op.depth = 1
        made = [Recorded(v.type, op, i) for i, v in enumerate(region.results)]
        return made

    def _insert(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        regions: tuple[Region, ...],
        loc: Loc | None,
        types: tuple[TensorType, ...] | None = None,
    ) -> Any:
        region = atom(opdef, [v.type for v in operands], attrs, regions, types)
        made = self.record(region, operands)
        return made[0] if len(made) == 1 else tuple(made)

    def mark(self) -> int:
        """A number between those of the ops so far and those to come."""
        return next(self._count)


class SweptBuilder(LazyBuilder):
    """Makes ops that know their results, as a sweep through them needs, until ``let_go``."""

    def __init__(self) -> None:
        super().__init__()
        self._count = RECORDER.builder._count
        self._made: list[PendingOp] = []

    def record(self, region: Region, operands: Sequence[Value]) -> list[Recorded]:
        """As any recorder does."""
        made = super().record(region, operands)
        op = made[0].op
        assert op is not None
        op.results = tuple(made)
        self._made.append(op)
        return made

    def let_go(self) -> None:
        """Ends the cycles between ops and results."""
        for op in self._made:
            op.results = ()


class LazyTrace(Trace):
    """The trace all tensors belong to: always open, and asked for a value it gives one."""

    builder: LazyBuilder
    rereads_views = True  # for its base may be a leaf, and now has another value

    def __init__(self) -> None:
        super().__init__("tensors")
        self.builder = LazyBuilder()
        self.parent = None

    def concrete(self, x: Tracer, wanted: str) -> Any:
        """The array of a recorded value."""
        return materialise([x.value])[0]

    def guard(self, array: Array) -> None:
        """Nothing to note: what is recorded is used once."""

    def distinct(self, x: Tracer, other: Tracer) -> Tracer:
        """``x``, of which a derivative can be taken that is not by ``other``."""
        value = x.value
        return x if value is not other.value else Tracer(self, self.builder.emit("identity", value))

    def _capture(self, array: Array) -> Value:
        return leaf_of(array.copy())


RECORDER = LazyTrace()


class recording:  # noqa: N801  (a context, as those of contextlib)
    """Functions of ``symgrad.numpy`` record within."""

    def __enter__(self) -> None:
        _active.push(RECORDER)

    def __exit__(self, *exc: object) -> None:
        _active.pop()


# -- running -------------------------------------------------------------------------------


class _Programs:
    """Compiled programs by what they compute."""

    def __init__(self) -> None:
        self.known: Bounded[Callable[[Sequence[Any]], Sequence[Any]]] = Bounded(PROGRAM_LIMIT)
        self.lock = threading.RLock()

    def forget(self) -> None:
        """Drops them all."""
        self.known.clear()

    def find(self, graph: Recording, results: Sequence[Value], donated: tuple[int, ...]) -> Any:
        """The program that computes ``results``; compiled if it is not known."""
        key = *graph.key, graph.numbered(results), donated
        found = self.known.get(key)
        if found is None:
            from symgrad.api_backend import compile_func

            recompiles.report(key, self.known)
            func = graph.function(results)
            everything = range(len(func.params)), range(len(func.results))
            found = self.known[key] = compile_func(func, donated, state=everything)
        return found


PROGRAMS = _Programs()
register_owner(PROGRAMS)


def materialise(values: Sequence[Value], spent: Sequence[Recorded] = ()) -> list[Array]:
    """The arrays of values; what is pending is computed by one program."""
    compute(values, spent)
    return [array_of(contents_of(v)) for v in values]  # type: ignore[arg-type]


def compute(values: Sequence[Value], spent: Sequence[Recorded] = ()) -> None:
    """Computes what is pending among values by one program.

    Results may take the memory of ``spent`` leaves, unless something but the handle, whose next
    value is among ``values``, still refers to these.
    """
    with PROGRAMS.lock:
        unique: Iterable[Any] = dict.fromkeys(values)
        pending = [v for v in unique if v.contents is None]
        if not pending:
            return
        graph = Recording.behind(pending)
        donated = _donated(graph, pending, spent)
        program = PROGRAMS.find(graph, pending, donated)
        results = run(program, graph.inputs)
        for number in donated:
            del graph.inputs[number].contents  # type: ignore[attr-defined]
        if donated:
            written()
        for value, contents in zip(pending, results, strict=True):
            value.contents = contents


def run(program: Any, values: Sequence[Any]) -> Sequence[Contents]:
    """What a program makes of values, whose contents stay in the form that it wants them in."""
    given = prepared(program, values)
    results: Sequence[Contents] = program.run(given, stamp_of(program, given))
    return results


def prepared(program: Any, values: Sequence[Any]) -> list[Any]:
    """The contents of a program's arguments, or of the first of them, which are values or contents.

    Values keep them in the form that the program wants them in.
    """
    given = [v.contents if isinstance(v, Recorded) else v for v in values]
    for number in program.unprepared(given):  # one by one: each frees what it was before
        given[number] = program.prepared(number, given[number])
        values[number].contents = given[number]
        written()
        program.give_back()
    return given


def stamp_of(program: Any, given: Sequence[Contents]) -> list[object]:
    """What tells whether the arguments of which a program keeps something are what they were.

    Contents are never written to, and an object has one weak reference as long as it lives: what
    comes after it, even at the same address, has another.
    """
    return [weakref.ref(given[i]) for i in program.invariant]


def _donated(
    graph: Recording, results: Sequence[Value], spent: Sequence[Recorded]
) -> tuple[int, ...]:
    """The inputs among ``spent`` that only a handle and the ops that make ``results`` refer to."""
    if not spent:
        return ()
    numbers = graph.used(spent)
    leaves: list[Any] = [graph.inputs[i] for i in numbers]
    counts = references_each(leaves)
    users = {v.op for v in results if v.op is not None}
    uses = Counter(itertools.chain.from_iterable([op.operands for op in users]))
    here = 4  # the graph's inputs and their numbers, spent, the handle
    own = [
        (number, leaf)
        for number, leaf, count in zip(numbers, leaves, counts, strict=True)
        if count == here + uses[leaf]
    ]
    shared = are_shared([leaf for _, leaf in own])
    return tuple([number for (number, _), other in zip(own, shared, strict=True) if not other])


def recorded_function(values: Sequence[Value]) -> Func:
    """What ``materialise`` would compile for these values, whatever is known of them."""
    wanted = [v for v in values if v.op is not None]
    return Recording.behind(wanted).function(values)
