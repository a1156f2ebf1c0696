"""What follows from parameters that seldom change is computed when they do.

A network's weights are the same in call after call, and with them all that is made of weights
alone: filters transformed by Winograd's algorithm, packed matrices, factors of a
normalisation.  Whoever compiles a function says which parameters are *invariant*
(``State.invariant``).  Kernel calls that depend on these and on constants alone are split
off, in their order, as the *prologue*; the buffers that the other calls read of it form one
piece of memory, which is *kept* from run to run.  (This is partial evaluation, with the
division into static and dynamic made on kernel calls, so that it sees what lowering itself
adds to the program.)

``Executable`` runs the prologue again whenever it cannot tell that the invariant parameters
are what they were.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from symgrad.codegen.plan import place_buffers, round_up
from symgrad.ir.graph import Func
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Call


@record
class Prologue:
    """The calls that fill the kept memory."""

    invariant: tuple[int, ...]
    """The parameters that they may read."""
    calls: tuple[Call, ...]
    arena_bytes: int
    kept_bytes: int
    names: tuple[str, ...] = ()
    """Kernel of each call."""


def invariant_values(func: Func, params: Collection[int]) -> frozenset[int]:
    """Values, by id, that depend on the numbered parameters and on constants alone."""
    found = {id(v) for i, v in enumerate(func.params) if i in params}
    if found:
        for op in func.ops:
            if all(id(v) in found for v in op.operands):
                found.update(map(id, op.results))
    return frozenset(found)


def split(calls: Sequence[Call], invariant: Collection[int]) -> tuple[list[Call], Prologue | None]:
    """The calls of every run, and the prologue if there is one.

    Buffers that are kept get their place; all others are still to be placed.
    """
    if not invariant:
        return list(calls), None
    varying = _varying(calls, invariant)
    every = [call for call in calls if id(call) in varying]
    before = [call for call in calls if id(call) not in varying]
    made = {id(b): b for call in before for b in call.writes}
    read = {id(b): b for call in every for b in call.buffers if id(b) in made}
    if not read:
        return list(calls), None
    size = 0
    for buffer in read.values():
        buffer.is_kept, buffer.offset = True, size
        size += round_up(buffer.bytes)
    numbers = tuple(sorted(invariant))
    return every, Prologue(numbers, tuple(before), place_buffers(before), size)


def _varying(calls: Sequence[Call], invariant: Collection[int]) -> set[int]:
    """Calls, by id, that touch what may differ from run to run."""
    buffers: set[int] = {
        id(b)
        for call in calls
        for b in call.buffers
        if b.slot is not None and b.slot not in invariant
    }
    found: set[int] = set()
    while True:  # a later call may write to a buffer that an earlier one writes to, too
        more = [
            call
            for call in calls
            if id(call) not in found and any(id(b) in buffers for b in call.buffers)
        ]
        if not more:
            return found
        found.update(map(id, more))
        buffers.update(id(b) for call in more for b in call.writes)
