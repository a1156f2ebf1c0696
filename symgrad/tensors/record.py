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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from symgrad.api_backend import register_owner
from symgrad.bounded import Bounded
from symgrad.ir import Builder, Func, TensorType, Value
from symgrad.ir.errors import Loc
from symgrad.ir.graph import Region
from symgrad.ir.opdef import Array, OpDef
from symgrad.tensors import recompiles
from symgrad.tensors.graphs import Recording
from symgrad.tensors.recorded import (
    Leaf,
    Memory,
    PendingOp,
    Result,
    atom,
    is_known,
    memory_of,
    references,
)
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

    def record(self, region: Region, operands: Sequence[Value]) -> list[Result]:
        """Records what a region computes of operands as one op; returns its results."""
        op = PendingOp(region, tuple(operands), next(self._count))
        if op.depth > CHAIN_LIMIT:
            materialise([v for v in op.operands if not is_known(v)])
            op.depth = 1
        made = [Result(v.type, op, i) for i, v in enumerate(region.results)]
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

    def record(self, region: Region, operands: Sequence[Value]) -> list[Result]:
        """As any recorder does."""
        made = super().record(region, operands)
        op = made[0].op
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
        return Leaf(array.copy())


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


def materialise(values: Sequence[Value], spent: Sequence[Leaf] = ()) -> list[Array]:
    """The arrays of values; what is pending is computed by one program."""
    compute(values, spent)
    return [memory_of(v).array for v in values]  # type: ignore[union-attr]


def compute(values: Sequence[Value], spent: Sequence[Leaf] = ()) -> None:
    """Computes what is pending among values by one program.

    Results may take the memory of ``spent`` leaves, which ``values`` replace, unless
    something else still refers to these.
    """
    with PROGRAMS.lock:
        pending: list[Any] = list({id(v): v for v in values if not is_known(v)}.values())
        if not pending:
            return
        graph = Recording.behind(pending)
        donated = _donated(graph, pending, spent)
        program = PROGRAMS.find(graph, pending, donated)
        memories: list[Any] = [memory_of(v) for v in graph.inputs]
        results = run(program, memories)
        del memories
        for number in donated:
            del graph.inputs[number].memory  # type: ignore[attr-defined]
        for value, memory in zip(pending, results, strict=True):
            value.memory = memory


def run(program: Any, memories: Sequence[Memory]) -> list[Memory]:
    """What a program makes of contents, which stay in the form that it wants them in."""
    given = [m.contents for m in memories]
    if getattr(program, "has_forms", False):
        for number in program.unprepared(given):  # one by one: each frees what it was before
            memories[number].contents = given[number] = program.prepared(number, given[number])
            program.give_back()
    invariant = getattr(program, "invariant", ())
    if invariant:
        # Contents are never written to, and an object has one weak reference as long as it
        # lives: what comes after it, even at the same address, has another.
        results = program(given, stamp=[weakref.ref(given[i]) for i in invariant])
    else:
        results = program(given)
    return [Memory(np.asarray(r) if isinstance(r, np.generic) else r) for r in results]


def _donated(
    graph: Recording, results: Sequence[Value], spent: Sequence[Leaf]
) -> tuple[int, ...]:
    """The inputs among ``spent`` that only the ops which make ``results`` refer to."""
    if not spent:
        return ()
    users = {v.op.seq: v.op for v in results if v.op is not None}.values()
    uses = Counter([id(v) for op in users for v in op.operands])
    inputs, held = graph.inputs, {id(v) for v in spent}
    candidates = [i for i in range(len(inputs)) if id(inputs[i]) in held]
    here = 2  # graph.inputs, spent
    return tuple(
        [
            i
            for i in candidates
            if references(inputs[i]) == here + uses[id(inputs[i])]
            and references(inputs[i].memory) == 1  # type: ignore[attr-defined]
            and not inputs[i].memory.is_shared  # type: ignore[attr-defined]
        ]
    )


def recorded_function(values: Sequence[Value]) -> Func:
    """What ``materialise`` would compile for these values, whatever is known of them."""
    wanted = [v for v in values if v.op is not None]
    return Recording.behind(wanted).function(values)
