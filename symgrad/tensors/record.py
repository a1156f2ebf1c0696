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

from symgrad.ir import Builder, Func, TensorType, Value
from symgrad.ir.builder import inline
from symgrad.ir.errors import Loc
from symgrad.ir.graph import Op, Region
from symgrad.ir.opdef import Array, OpDef
from symgrad.ir.types import type_of_array
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, _active

CHAIN_LIMIT = 3000
"""Depth at which pending work is run unasked: it bounds memory when nobody looks."""
PROGRAM_LIMIT = 512
"""Compiled programs kept."""


class Leaf(Value):
    """A value whose array is known; the array is never written to."""

    __slots__ = ("__weakref__", "array")

    def __init__(self, array: Array, type: TensorType | None = None) -> None:
        super().__init__(type or type_of_array(array))
        self.array = array


class _Pending(Value):
    """A result of a recorded op."""

    __slots__ = ("__weakref__",)


CALL = OpDef("call", lambda *operands, region: tuple(v.type for v in region.results))
"""A recorded operation with its IR in a region: one op here, spliced in by programs.

It is not in the table of ops, for no function that is built has one.
"""


class PendingOp(Op):
    """A recorded op with the arrays of its results, once computed.

    Values hold the op that makes them.  The op does not hold them: without cycles a graph
    is gone, and the arrays it started from are free, when the last tensor lets go of it.
    """

    __slots__ = ("_kind", "_made", "_types", "arrays", "depth")

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
        self.opdef, self.operands, self.attrs, self.regions = opdef, operands, attrs, regions
        self.loc, self.seq = loc, seq
        self._types = types
        self._made: list[weakref.ref[Value] | None] = [None] * len(types)
        self.arrays: list[Array | None] = [None] * len(types)
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


def known_array(value: Value) -> Array | None:
    """The array of a value, if it has been computed."""
    if type(value) is Leaf:
        return value.array
    return value.op.arrays[value.index] if isinstance(value.op, PendingOp) else None


def _depth(value: Value) -> int:
    op = value.op
    if not isinstance(op, PendingOp) or op.arrays[value.index] is not None:
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
            materialise([v for v in operands if known_array(v) is None])
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
        _active.traces.append(RECORDER)

    def __exit__(self, *exc: object) -> None:
        _active.traces.pop()


# -- running -------------------------------------------------------------------------------

_programs: OrderedDict[Any, Callable[[Sequence[Array]], Sequence[Any]]] = OrderedDict()
_lock = threading.RLock()


def materialise(values: Sequence[Value], spent: Sequence[Leaf] = ()) -> list[Array]:
    """The arrays of values; what is pending is computed by one program.

    Results may take the memory of ``spent`` leaves, which ``values`` replace, unless
    something else still refers to these.
    """
    with _lock:
        pending = list({id(v): v for v in values if known_array(v) is None}.values())
        if pending:
            graph = Recording.behind(pending)
            donated = _donated(graph, pending, spent)
            program = _program(graph, pending, donated)
            arrays = program([known_array(v) for v in graph.inputs])
            for number in donated:
                del graph.inputs[number].array  # type: ignore[attr-defined]
            for value, result in zip(pending, arrays, strict=True):
                value.op.arrays[value.index] = np.asarray(result)  # type: ignore[union-attr]
    return [known_array(v) for v in values]  # type: ignore[misc]


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
        ops = ancestors(results, lambda v: known_array(v) is None)
        return cls(ops, is_input=lambda v: known_array(v) is not None)

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


def _donated(
    graph: Recording, results: Sequence[Value], spent: Sequence[Leaf]
) -> tuple[int, ...]:
    """The inputs among ``spent`` that only the ops which make ``results`` refer to."""
    users = {v.op.seq: v.op for v in results if v.op is not None}.values()
    uses = Counter(id(v) for op in users for v in op.operands)
    held = {id(v) for v in spent}
    here = 4  # graph.inputs, graph.values, spent, and the argument of getrefcount
    return tuple(
        i
        for i in range(len(graph.inputs))
        if id(graph.inputs[i]) in held
        and sys.getrefcount(graph.inputs[i]) == here + uses[id(graph.inputs[i])]
        and sys.getrefcount(graph.inputs[i].array) == 2  # type: ignore[attr-defined]
    )


def _program(graph: Recording, results: Sequence[Value], donated: tuple[int, ...]) -> Any:
    key = graph.key, graph.numbered(results), donated
    found = _programs.get(key)
    if found is None:
        from symgrad.api_backend import compile_func

        found = _programs[key] = compile_func(graph.function(results), donated)
        if len(_programs) > PROGRAM_LIMIT:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
    return found


def recorded_function(values: Sequence[Value]) -> Func:
    """What ``materialise`` would compile for these values, whatever is known of them."""
    wanted = [v for v in values if v.op is not None]
    return Recording.behind(wanted).function(values)
