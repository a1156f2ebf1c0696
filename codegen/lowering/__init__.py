"""Lowering: each op of a function becomes kernel calls on buffers."""

from __future__ import annotations

from collections.abc import Sequence

from symgrad.codegen.lowering import conv, elementwise, index, linalg, scan, shape, window
from symgrad.codegen.lowering.epilogue import find_epilogues
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.storage import Buffer, Storage, dense
from symgrad.ir.graph import Func, Value

__all__ = [
    "conv",
    "elementwise",
    "find_epilogues",
    "index",
    "linalg",
    "lower_func",
    "reuse_donated",
    "scan",
    "shape",
    "window",
]


def lower_func(scope: Scope, func: Func) -> list[Call]:
    """The kernel calls of a whole function, results written to the caller's arrays."""
    for slot, param in enumerate(func.params):
        scope.define(param, dense(param.type, Buffer(param.type.bytes, slot=slot)))
    anchored = {id(region.op): anchor for anchor, region in scope.epilogues.items()}
    anchors = {id(op): op for op in func.ops if id(op) in scope.epilogues}
    for op in func.ops:
        if id(op) in anchored:  # the anchor waited until all operands are there
            scope.lower(anchors[anchored[id(op)]])
        elif id(op) not in anchors:
            scope.lower(op)
    for number, value in enumerate(func.results):
        slot = len(func.params) + number
        home = scope.storage(value)
        if _is_whole(home, value):
            home.buffer.slot = slot
        else:
            scope.copy(home, dense(value.type, Buffer(value.type.bytes, slot=slot)))
    return scope.finish()


def _is_whole(home: Storage, value: Value) -> bool:
    """Whether a value's buffer can be the caller's result array itself."""
    own = home.buffer.slot is None and home.buffer.data is None
    return (
        own and home.is_dense and home.access.offset == 0 and home.buffer.bytes == value.type.bytes
    )


def reuse_donated(func: Func, calls: Sequence[Call], donated: Sequence[int]) -> dict[int, int]:
    """Lets results overwrite donated parameters: ``{result slot: parameter slot}``.

    A result may when the parameter has its type and is not read after the call that
    writes the result, which itself reads it element by element at most.
    """
    last_read: dict[int, int] = {}
    written: dict[int, tuple[int, Buffer]] = {}
    for at, call in enumerate(calls):
        for buffer in call.reads:
            if buffer.slot is not None and buffer not in call.writes:
                last_read[buffer.slot] = at
        for buffer in call.writes:
            if buffer.slot is not None:
                written.setdefault(buffer.slot, (at, buffer))
    homes: dict[int, int] = {}
    free = set(donated)
    for number, type in enumerate(func.result_types):
        slot = len(func.params) + number
        if slot not in written:
            continue
        first, buffer = written[slot]
        overwritten = {source.slot for target, source in calls[first].in_place if target is buffer}
        for param in sorted(free, key=lambda p: p not in overwritten):
            last = last_read.get(param, -1)
            harmless = last < first or (last == first and param in overwritten)
            if func.params[param].type == type and harmless:
                homes[slot] = buffer.slot = param  # from here on they are one to the planner
                free.discard(param)
                break
    return homes
