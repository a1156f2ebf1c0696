"""Lowering: each op of a function becomes kernel calls on buffers."""

from __future__ import annotations

from collections.abc import Sequence

from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import conv, elementwise, index, linalg, scan, shape, window
from symgrad.codegen.lowering.epilogue import find_epilogues
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.storage import Buffer, Storage
from symgrad.ir.graph import Func

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
    """The kernel calls of a whole function, results written to the caller's memory."""
    for slot, param in enumerate(func.params):
        scope.define(param, scope.layouts.edge(param, Buffer(param.type.bytes, slot=slot)))
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
        edge = scope.layouts.edge(value, Buffer(value.type.bytes, slot=slot))
        if _is_whole(home, edge):
            home.buffer.slot = slot
        else:
            scope.copy(home, edge)
    return scope.finish()


def _is_whole(home: Storage, edge: Storage) -> bool:
    """Whether a value's buffer can be the caller's memory itself."""
    own = home.buffer.slot is None and home.buffer.data is None
    alike = home.tiling == edge.tiling and (home.is_dense or home.tiling is not None)
    return own and alike and home.access.offset == 0 and home.buffer.bytes == edge.buffer.bytes


def reuse_donated(
    func: Func, layouts: Layouts, calls: Sequence[Call], donated: Sequence[int]
) -> dict[int, int]:
    """Lets results overwrite donated parameters: ``{result slot: parameter slot}``.

    A result may when the parameter has its type and layout and is not read after the call
    that writes the result, which itself reads it element by element at most.
    """
    forms = [(v.type, layouts.is_weights(v)) for v in (*func.params, *func.results)]
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
    for slot in range(len(func.params), len(forms)):
        if slot not in written:
            continue
        first, buffer = written[slot]
        overwritten = {source.slot for target, source in calls[first].in_place if target is buffer}
        for param in sorted(free, key=lambda p: p not in overwritten):
            last = last_read.get(param, -1)
            harmless = last < first or (last == first and param in overwritten)
            if forms[param] == forms[slot] and harmless:
                homes[slot] = buffer.slot = param  # from here on they are one to the planner
                free.discard(param)
                break
    return homes
