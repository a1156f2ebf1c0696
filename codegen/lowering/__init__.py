"""Lowering: each op of a function becomes kernel calls on buffers."""

from __future__ import annotations

from symgrad.codegen.lowering import conv, elementwise, index, scan, shape, window
from symgrad.codegen.lowering.epilogue import find_epilogues
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.storage import Buffer, dense
from symgrad.ir.graph import Func

__all__ = [
    "conv",
    "elementwise",
    "find_epilogues",
    "index",
    "linalg",
    "lower_func",
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
    taken: set[int] = set()
    for number, value in enumerate(func.results):
        slot = len(func.params) + number
        home = scope.storage(value)
        buffer = home.buffer
        own = buffer.slot is None and buffer.data is None and id(buffer) not in taken
        whole = home.is_dense and home.access.offset == 0 and buffer.bytes == value.type.bytes
        if own and whole:
            buffer.slot = slot
        else:
            scope.copy(home, dense(value.type, Buffer(value.type.bytes, slot=slot)))
        taken.add(id(buffer))
    return scope.calls
