"""The lazily recorded graph: operations now, programs when a value is looked at.

A ``PendingOp`` is owned by the values that need it, so the graph of a dropped tensor is
freed with it.  ``materialise`` collects what given values need, back to arrays that are
known, compiles that as one function (found again by the structure of the graph) and
keeps the results: those are where later programs start, though a derivative still sees
the ops behind them.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from symgrad.api_backend import register_owner
from symgrad.ir import Builder, Func, TensorType, Value
from symgrad.ir.builder import inline
from symgrad.ir.errors import Loc
from symgrad.ir.graph import Op, Region
from symgrad.ir.opdef import Array, OpDef
from symgrad.ir.types import type_of_array
from symgrad.tensors import recompiles
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, _active

CHAIN_LIMIT = 3000
"""Depth at which pending work is run unasked: it bounds memory when nobody looks."""
PROGRAM_LIMIT = 512
"""Compiled programs kept."""


class Memory:
    """The contents of a value: an array, or what a program left in a form of its own.

    Never written to, but by a program that is given it to reuse.
    """

    __slots__ = ("_array", "contents")

    def __init__(self, contents: Any) -> None:
        self.contents = contents
        """What programs are given: an array or a ``Resident``."""
        self._array: Array | None = None

    @property
    def array(self) -> Array:
        """The contents as an array, not to be written to."""
        if isinstance(self.contents, np.ndarray):
            return self.contents
        if self._array is None:
            self._array = self.contents.numpy()
        return self._array

    def copy(self) -> Memory:
        """The same contents in memory of their own."""
        return Memory(self.contents.copy())

    @property
    def is_shared(self) -> bool:
        """Whether anything else refers to the contents."""
        if references(self.contents) > 1:
            return True
        return not isinstance(self.contents, np.ndarray) and references(self.contents.memory) > 1


def _count(x: object) -> int:
    return sys.getrefcount(x)


_PROBE = [object()]
_OWN = _count(_PROBE[0]) - 1
"""What counting adds to the count, which differs between Python's versions."""


def references(x: object) -> int:
    """How many variables, attributes and containers refer to an object."""
    return sys.getrefcount(x) - _OWN


class Leaf(Value):
    """A value whose contents are known."""

    __slots__ = ("__weakref__", "memory")

    def __init__(self, contents: Memory | Array, type: TensorType | None = None) -> None:
        memory = contents if isinstance(contents, Memory) else Memory(contents)
        super().__init__(type or type_of_array(memory.array))
        self.memory = memory


class _Pending(Value):
    """A result of a recorded op."""

    __slots__ = ("__weakref__",)


CALL = OpDef("call", lambda *operands, region: tuple(v.type for v in region.results))
"""A recorded operation with its IR in a region: one op here, spliced in by programs.

It is not in the table of ops, for no function that is built has one.
"""


class PendingOp(Op):
    """A recorded op with the contents of its results, once computed.

    Values hold the op that makes them.  The op does not hold them: without cycles a graph
    is gone, and the arrays it started from are free, when the last tensor lets go of it.
    """

    __slots__ = ("_kind", "_made", "_types", "depth", "memories")

    def __init__(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        *,
        regions: tuple[Region, ...] = (),
        loc: Loc | None = None,
        seq: int = 0,
    ) -> None:
        self.opdef, self.name = opdef, opdef.name
        self.operands, self.attrs, self.regions = operands, attrs, regions
        self.loc, self.seq = loc, seq
        self._types = types
        self._made: list[weakref.ref[Value] | None] = [None] * len(types)
        self.memories: list[Memory | None] = [None] * len(types)
        self.depth = 1 + max(map(_depth, operands), default=0)
        self._kind: Any = None

    @property
    def results(self) -> tuple[Value, ...]:  # type: ignore[override]
        """The results; those that nobody holds are made anew."""
        return tuple(map(self._result, range(len(self._types))))

    def _result(self, index: int) -> Value:
        known = self._made[index]
        value = None if known is None else known()
        if value is None:
            value = _Pending(self._types[index], self, index)
            self._made[index] = weakref.ref(value)
        return value

    @property
    def kind(self) -> Any:
        """What it computes, as a key: equal for ops that differ in their operands at most."""
        if self._kind is None:
            # The repr of a constant tells 0.0 from -0.0 and makes nan equal to itself.
            value = repr(self.attrs["value"]) if self.name == "constant" else None
            rest = self.attrs["type"] if value else tuple(self.attrs.values())
            self._kind = self.name, value, rest, self.regions
        return self._kind

    def copy_into(self, builder: Builder, operands: Sequence[Value]) -> Sequence[Value]:
        """Emits the op, or what its region holds, on other operands."""
        if self.opdef is CALL:
            return inline(builder, self.regions[0], operands)
        made = builder.copy(self, operands)
        return made if isinstance(made, tuple) else (made,)


def memory_of(value: Value) -> Memory | None:
    """The contents of a value, if it has been computed."""
    if type(value) is Leaf:
        return value.memory
    return value.op.memories[value.index] if isinstance(value.op, PendingOp) else None


def is_known(value: Value) -> bool:
    """Whether a value has been computed."""
    return memory_of(value) is not None


def _is_pending(value: Value) -> bool:
    return memory_of(value) is None


def _depth(value: Value) -> int:
    op = value.op
    if not isinstance(op, PendingOp) or op.memories[value.index] is not None:
        return 0
    return op.depth


class LazyBuilder(Builder):
    """Makes ops without keeping them.

    Nothing is folded or shared here: every recorded value stays one that a derivative can
    be taken by, and recording stays cheap.  Both happen when the program is built.
    """

    def __init__(self) -> None:
        super().__init__(locations=False)
        self._count = itertools.count()

    def _append(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        *,
        regions: tuple[Region, ...],
        loc: Loc | None,
    ) -> Op:
        op = PendingOp(
            opdef, operands, attrs, types, regions=regions, loc=loc, seq=next(self._count)
        )
        if op.depth > CHAIN_LIMIT:
            materialise([v for v in operands if not is_known(v)])
            op.depth = 1
        return op

    def append(
        self,
        opdef: OpDef,
        operands: Sequence[Value],
        attrs: Mapping[str, Any],
        like: Region,
        *,
        regions: tuple[Region, ...] = (),
    ) -> Op:
        """An op whose results are known to have the types of a region's."""
        types = tuple([v.type for v in like.results])
        return self._append(opdef, tuple(operands), attrs, types, regions=regions, loc=None)

    def mark(self) -> int:
        """A number between those of the ops so far and those to come."""
        return next(self._count)

    @staticmethod
    def _key(*_: Any) -> Any:
        return None

    def _fold(self, *_: Any) -> Value | None:
        return None


class LazyTrace(Trace):
    """The trace all tensors belong to: always open, and asked for a value it gives one."""

    builder: LazyBuilder

    def __init__(self) -> None:
        super().__init__("tensors")
        self.builder = LazyBuilder()
        self.parent = None

    def concrete(self, x: Tracer, wanted: str) -> Any:
        """The array of a recorded value."""
        return materialise([x.value])[0]

    def guard(self, array: Array) -> None:
        """Nothing to note: what is recorded is used once."""

    def _capture(self, array: Array) -> Value:
        return Leaf(array.copy())

    def call(self, region: Region, operands: Sequence[Value]) -> tuple[Value, ...]:
        """Records all that a region holds as one op.

        A region of a single op is recorded as that op.
        """
        (only,) = region.ops if len(region.ops) == 1 else (None,)
        if only is not None and only.operands == region.params and only.results == region.results:
            return self.builder.append(only.opdef, operands, only.attrs, region).results
        return self.builder.append(CALL, operands, {}, region, regions=(region,)).results


RECORDER = LazyTrace()


class recording:  # noqa: N801  (a context, as those of contextlib)
    """Functions of ``symgrad.numpy`` record within."""

    def __enter__(self) -> None:
        _active.push(RECORDER)

    def __exit__(self, *exc: object) -> None:
        _active.pop()


# -- running -------------------------------------------------------------------------------

class _Programs:
    """Compiled programs by what they compute, the latest last."""

    def __init__(self) -> None:
        self.known: OrderedDict[Any, Callable[[Sequence[Any]], Sequence[Any]]] = OrderedDict()
        self.lock = threading.RLock()

    def forget(self) -> None:
        """Drops them all."""
        self.known.clear()

    def find(self, graph: Recording, results: Sequence[Value], donated: tuple[int, ...]) -> Any:
        """The program that computes ``results``; compiled if it is not known."""
        key = graph.key, graph.numbered(results), donated
        found = self.known.get(key)
        if found is None:
            from symgrad.api_backend import compile_func

            recompiles.report(key, self.known)
            func = graph.function(results)
            everything = range(len(func.params)), range(len(func.results))
            found = self.known[key] = compile_func(func, donated, state=everything)
            while len(self.known) > PROGRAM_LIMIT:
                self.known.popitem(last=False)
        else:
            self.known.move_to_end(key)
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
        pending = list({id(v): v for v in values if not is_known(v)}.values())
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
            value.op.memories[value.index] = memory  # type: ignore[union-attr]


def run(program: Any, memories: Sequence[Memory]) -> list[Memory]:
    """What a program makes of contents, which stay in the form that it wants them in."""
    given = [m.contents for m in memories]
    if getattr(program, "has_forms", False):
        for number in program.unprepared(given):  # one by one: each frees what it was before
            memories[number].contents = given[number] = program.prepared(number, given[number])
            program.give_back()
    results = program(given)
    return [Memory(np.asarray(r) if isinstance(r, np.generic) else r) for r in results]


def _donated(
    graph: Recording, results: Sequence[Value], spent: Sequence[Leaf]
) -> tuple[int, ...]:
    """The inputs among ``spent`` that only the ops which make ``results`` refer to."""
    users = {v.op.seq: v.op for v in results if v.op is not None}.values()
    uses = Counter(id(v) for op in users for v in op.operands)
    inputs, held = graph.inputs, {id(v) for v in spent}
    candidates = [i for i in range(len(inputs)) if id(inputs[i]) in held]
    here = 3  # graph.inputs, graph.values, spent
    return tuple(
        [
            i
            for i in candidates
            if references(inputs[i]) == here + uses[id(inputs[i])]
            and references(inputs[i].memory) == 1  # type: ignore[attr-defined]
            and not inputs[i].memory.is_shared  # type: ignore[attr-defined]
        ]
    )


class Recording:
    """Recorded ops in order, the values they start from, and a number for every value.

    Two recordings whose ``key`` is equal compute the same of the values with the same
    numbers: inputs come first, in the order in which they are used.
    """

    def __init__(
        self,
        ops: Iterable[PendingOp],
        also: Sequence[Value] = (),
        is_input: Callable[[Value], bool] = lambda value: False,
    ) -> None:
        """``also`` are values to number though no op may use them; what ``ops`` make, unless
        ``is_input`` says otherwise, is no input."""
        self.ops = sorted(ops, key=_seq)
        self.inputs: list[Value] = []
        self.values: list[Value] = []
        self.numbers: dict[int, int] = {}
        made = {op.seq for op in self.ops}
        for operands in (*[op.operands for op in self.ops], also):
            for value in operands:
                outside = value.op is None or value.op.seq not in made or is_input(value)
                if outside and id(value) not in self.numbers:
                    self._number(value)
                    self.inputs.append(value)
        numbers = self.numbers
        lines: list[Any] = [tuple([v.type for v in self.inputs])]
        for op in self.ops:
            lines.append((op.kind, *[numbers[id(v)] for v in op.operands]))
            for value in op.results:
                if id(value) not in numbers:
                    self._number(value)
        self.key = tuple(lines)

    def _number(self, value: Value) -> None:
        self.numbers[id(value)] = len(self.values)
        self.values.append(value)

    @classmethod
    def behind(cls, results: Sequence[Value]) -> Recording:
        """The pending ops that lead from known values to ``results``."""
        return cls(ancestors(results, _is_pending), is_input=is_known)

    def numbered(self, values: Iterable[Value]) -> tuple[int, ...]:
        """The numbers of values."""
        return tuple([self.numbers[id(v)] for v in values])

    def splice(
        self, builder: Builder, values: dict[int, Value], distinct: Container[int] = ()
    ) -> None:
        """Emits all ops; ``values`` maps the inputs' ids, and then those of all results.

        Values with ids in ``distinct`` get a name of their own, which a derivative can be
        taken by.
        """
        for op in self.ops:
            made = op.copy_into(builder, [values[id(v)] for v in op.operands])
            for old, new in zip(op.results, made, strict=True):
                named = builder.emit("identity", new) if id(old) in distinct else new
                values.setdefault(id(old), named)

    def function(self, results: Sequence[Value]) -> Func:
        """The recording as a function of its inputs: here ops fold and are shared."""
        builder = Builder(locations=False)
        values = {id(v): builder.param(v.type, f"t{i}") for i, v in enumerate(self.inputs)}
        self.splice(builder, values)
        return builder.build([values[id(v)] for v in results], "tensors")


def ancestors(results: Iterable[Value], follow: Callable[[Value], bool]) -> list[PendingOp]:
    """The ops that ``results`` come from, going back through values that ``follow`` admits."""
    found: dict[int, PendingOp] = {}
    stack = [v.op for v in results if v.op is not None]
    while stack:
        op: Any = stack.pop()
        if op.seq not in found:
            found[op.seq] = op
            stack += [v.op for v in op.operands if v.op is not None and follow(v)]
    return list(found.values())


def _seq(op: Op) -> int:
    return op.seq


def recorded_function(values: Sequence[Value]) -> Func:
    """What ``materialise`` would compile for these values, whatever is known of them."""
    wanted = [v for v in values if v.op is not None]
    return Recording.behind(wanted).function(values)
