"""Lowering: each op of a function becomes kernel calls on buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering.epilogue import AttachedRegion, find_epilogues
from symgrad.codegen.lowering.placement import find_parts
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.storage import Buffer, Storage
from symgrad.ir.graph import Func, Op

__all__ = ["find_epilogues", "lower_func", "reuse_donated"]


def lower_func(scope: Scope, func: Func) -> list[Call]:
    """The kernel calls of a whole function, results written to the caller's memory."""
    scope.read.update(id(v) for v in (*func.results, *(v for op in func.ops for v in op.operands)))
    for slot, param in enumerate(func.params):
        scope.define(param, scope.layouts.edge(param, Buffer(param.type.bytes, slot=slot)))
    scope.parts = find_parts(func, scope.layouts, scope.epilogues)
    for op in _in_order(func, scope.epilogues):
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


def _in_order(func: Func, epilogues: Mapping[int, AttachedRegion]) -> list[Op]:
    """The ops to lower: an anchor stands for the fused op that it takes, as early as it may.

    That is when all operands are there, and parameters that it may overwrite (weights and
    momentum, in an optimiser's update) have been read by all others: a gradient is used
    up at once, before the next layer's.
    """
    Key = tuple[int, ...]
    keys: dict[int, Key] = {id(op): (at,) for at, op in enumerate(func.ops)}
    anchors: dict[int, AttachedRegion] = {}
    anchor_of: dict[int, Op] = {}
    for key, attached in epilogues.items():
        if attached.op is not None:
            anchors[key], anchor_of[id(attached.op)] = attached, attached.anchor
            keys[key] = keys[id(attached.op)]
    readers: dict[int, list[Op]] = {}
    for op in func.ops:
        for value in op.operands if id(op) not in anchor_of else ():
            if value.op is None:
                readers.setdefault(id(value), []).append(op)
    for op in func.ops:
        anchor = anchor_of.get(id(op))
        if anchor is None:
            continue
        needed = (*anchor.operands, *anchors[id(anchor)].needed)
        before = [id(v.op) for v in needed if v.op is not None]
        before += [id(r) for v in op.operands for r in readers.get(id(v), ())]
        earlier = [keys[b] for b in before if b != id(anchor) and keys[b] < keys[id(op)]]
        keys[id(op)] = keys[id(anchor)] = (*max(earlier, default=(-1,)), 1)
    lowered = [op for op in func.ops if id(op) not in anchors]
    lowered.sort(key=lambda op: keys[id(op)])
    return [anchor_of.get(id(op), op) for op in lowered]


def _is_whole(home: Storage, edge: Storage) -> bool:
    """Whether a value's buffer can be the caller's memory itself."""
    buffer = home.buffer
    own = buffer.slot is None and buffer.data is None and buffer.pool is not buffer
    alike = home.tiling == edge.tiling and (home.is_dense or home.tiling is not None)
    return own and alike and home.access.offset == 0 and buffer.bytes == edge.buffer.bytes


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
