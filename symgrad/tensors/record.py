"""The lazily recorded graph: operations now, programs when a value is looked at.

A ``PendingOp`` is owned by the values that need it, so the graph of a dropped tensor is
freed with it.  ``materialise`` collects what given values need, back to arrays that are
known, compiles that as one function (found again by the structure of the graph) and
keeps the results: those are where later programs start, though a derivative still sees
the ops behind them.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from symgrad.ir import Builder, Func, TensorType, Value
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

    def __init__(self, array: Array) -> None:
        super().__init__(type_of_array(array))
        self.array = array


class PendingOp(Op):
    """A recorded op with the arrays of its results, once computed."""

    __slots__ = ("arrays", "depth")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arrays: list[Array | None] = [None] * len(self.results)
        self.depth = 1 + max((_depth(v) for v in self.operands), default=0)


def known_array(value: Value) -> Array | None:
    """The array of a value, if it has been computed."""
    if isinstance(value, Leaf):
        return value.array
    return value.op.arrays[value.index] if isinstance(value.op, PendingOp) else None


def _depth(value: Value) -> int:
    if not isinstance(value.op, PendingOp) or value.op.arrays[value.index] is not None:
        return 0
    return value.op.depth


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

    @staticmethod
    def _key(*_: Any) -> Any:
        return None

    def _fold(self, *_: Any) -> Value | None:
        return None


class LazyTrace(Trace):
    """The trace all tensors belong to: always open, and asked for a value it gives one."""

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


RECORDER = LazyTrace()


@contextmanager
def recording() -> Iterator[None]:
    """Functions of ``symgrad.numpy`` record within."""
    _active.traces.append(RECORDER)
    try:
        yield
    finally:
        _active.traces.pop()


# -- running -------------------------------------------------------------------------------

_programs: OrderedDict[Any, Callable[[Sequence[Array]], Sequence[Any]]] = OrderedDict()
_lock = threading.RLock()


def materialise(values: Sequence[Value]) -> list[Array]:
    """The arrays of values; what is pending is computed by one program."""
    with _lock:
        pending = list({id(v): v for v in values if known_array(v) is None}.values())
        if pending:
            ops, inputs = _needed(pending)
            arrays = _program(ops, inputs, pending)([known_array(v) for v in inputs])
            for value, result in zip(pending, arrays, strict=True):
                value.op.arrays[value.index] = np.asarray(result)  # type: ignore[union-attr]
    return [known_array(v) for v in values]  # type: ignore[misc]


def _needed(results: Sequence[Value]) -> tuple[list[Op], list[Value]]:
    """Ops that lead from known arrays to ``results``, in order, and the values known."""
    ops: dict[int, Op] = {}
    inputs: dict[int, Value] = {}
    stack = [v.op for v in results if v.op is not None]
    while stack:
        op = stack.pop()
        if op.seq in ops:
            continue
        ops[op.seq] = op
        for value in op.operands:
            if known_array(value) is not None:
                inputs[id(value)] = value
            elif value.op is not None:
                stack.append(value.op)
    ordered = [ops[seq] for seq in sorted(ops)]
    operands = {id(v): v for op in ordered for v in op.operands if id(v) in inputs}
    return ordered, list(operands.values())


def _program(ops: Sequence[Op], inputs: Sequence[Value], results: Sequence[Value]) -> Any:
    key = _structure(ops, inputs, results)
    found = _programs.get(key)
    if found is None:
        from symgrad.api_backend import compile_func

        found = _programs[key] = compile_func(_function(ops, inputs, results))
        if len(_programs) > PROGRAM_LIMIT:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
    return found


def _structure(ops: Sequence[Op], inputs: Sequence[Value], results: Sequence[Value]) -> Any:
    """What two recordings share when one program computes both."""
    numbers = {id(v): i for i, v in enumerate(inputs)}
    lines: list[Any] = [tuple(v.type for v in inputs)]
    for op in ops:
        # The repr of a constant tells 0.0 from -0.0 and makes nan equal to itself.
        attrs = repr(op.attrs["value"]) if op.name == "constant" else None
        rest = op.attrs["type"] if attrs else tuple(op.attrs.values())
        lines.append((op.name, *(numbers[id(v)] for v in op.operands), attrs, rest, op.regions))
        for v in op.results:
            numbers[id(v)] = len(numbers)
    lines.append(tuple(numbers[id(v)] for v in results))
    return tuple(lines)


def _function(ops: Sequence[Op], inputs: Sequence[Value], results: Sequence[Value]) -> Func:
    """The recorded ops as a function of the known values: here they fold and are shared."""
    builder = Builder(locations=False)
    mapping = {id(v): builder.param(v.type, f"t{i}") for i, v in enumerate(inputs)}
    for op in ops:
        made = builder.copy(op, [mapping[id(v)] for v in op.operands])
        news = made if isinstance(made, tuple) else (made,)
        mapping.update((id(old), new) for old, new in zip(op.results, news, strict=True))
    return builder.build([mapping[id(v)] for v in results], "tensors")


def recorded_function(values: Sequence[Value]) -> Func:
    """What ``materialise`` would compile for these values, whatever is known of them."""
    ops, inputs = _needed([v for v in values if v.op is not None])
    return _function(ops, inputs, values)
