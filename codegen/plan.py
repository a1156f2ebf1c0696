"""Places buffers in the arena and barriers between kernels.

Both follow from one fact: which calls read and write a buffer.  Buffers whose lives
do not overlap share memory; a barrier stands only where a call touches memory that
another touched since the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Call
    from symgrad.codegen.storage import Buffer

ALIGN = 64


@dataclass(slots=True)
class _Life:
    """Buffers that share one place (in-place updates) and the calls they live through."""

    bytes: int
    first: int
    last: int
    pool: object
    members: list[Buffer] = field(default_factory=list)

    def overlaps(self, other: _Life) -> bool:
        return self.first <= other.last and other.first <= self.last


def place_buffers(calls: Sequence[Call]) -> int:
    """Sets the offset of every arena buffer; returns the arena's size in bytes.

    Buffers of a pool share memory among themselves only, as their halos must stay
    zero; the rest is placed largest first, each at the lowest offset that is free
    during its life.
    """
    lives = _lives(calls)
    size = 0
    for members in _by_pool(lives).values():
        places: list[list[_Life]] = []
        for life in sorted(members, key=lambda life: life.first):
            free = next((p for p in places if not any(life.overlaps(o) for o in p)), None)
            if free is None:
                places.append(free := [])
            free.append(life)
        for place in places:
            for life in place:
                _settle(life, size)
            size += round_up(max(life.bytes for life in place))
    shelf = _Shelf(size)
    for life in sorted((x for x in lives if x.pool is None), key=lambda x: (-x.bytes, x.first)):
        _settle(life, shelf.place(life))
    return shelf.top


class _Shelf:
    """Memory from ``base`` on, and who holds which part of it when.

    The holders' columns (start, end, first call, last call) are kept in order of their
    starts in one array: programs have thousands, and each is compared with all others.
    """

    def __init__(self, base: int) -> None:
        self.base = self.top = base
        self._holders = np.empty((4, 0), np.int64)

    def place(self, life: _Life) -> int:
        """The lowest offset that is free for all of a life, which holds it from now on."""
        starts, ends, firsts, lasts = self._holders
        meanwhile = (firsts <= life.last) & (lasts >= life.first)
        taken = np.concatenate(([self.base], ends[meanwhile]))
        below = np.maximum.accumulate(taken)
        room = starts[meanwhile] - below[:-1] >= life.bytes
        at = int(below[room.argmax() if room.any() else -1])
        end = at + round_up(life.bytes)
        column = np.array([[at], [end], [life.first], [life.last]])
        rank = int(starts.searchsorted(at))
        self._holders = np.concatenate(
            (self._holders[:, :rank], column, self._holders[:, rank:]), axis=1
        )
        self.top = max(self.top, end)
        return at


def _settle(life: _Life, offset: int) -> None:
    for buffer in life.members:
        buffer.offset = offset


def _by_pool(lives: Sequence[_Life]) -> dict[object, list[_Life]]:
    pools: dict[object, list[_Life]] = {}
    for life in lives:
        if life.pool is not None:
            pools.setdefault(life.pool, []).append(life)
    return pools


def _lives(calls: Sequence[Call]) -> list[_Life]:
    found: dict[int, _Life] = {}
    for index, call in enumerate(calls):
        for buffer in (*call.reads, *call.writes):
            if buffer.slot is not None or buffer.data is not None or buffer.is_kept:
                continue
            life = found.get(id(buffer))
            if life is None:
                life = _Life(buffer.bytes, index, index, buffer.pool, [buffer])
                found[id(buffer)] = life
            life.last = index
    for index, call in enumerate(calls):
        taken: set[int] = set()  # a result that nobody reads dies here, too, but is written
        for target, source in call.in_place:
            old, new = found.get(id(source)), found.get(id(target))
            # The source dies here and the target is born here: they may be one.
            if old and new and old is not new and old.last == index == new.first:
                if (old.bytes, old.pool) == (new.bytes, new.pool) and id(old) not in taken:
                    taken.add(id(old))
                    old.last = new.last
                    old.members += new.members
                    for buffer in new.members:
                        found[id(buffer)] = old
    return list({id(life): life for life in found.values()}.values())


def round_up(size: int) -> int:
    """Bytes that a buffer takes, up to where the next one may begin."""
    return -(-size // ALIGN) * ALIGN


def barriers(calls: Sequence[Call]) -> list[bool]:
    """Whether a barrier must follow each call."""
    after = [False] * len(calls)
    written: list[tuple[object, int, int]] = []
    touched: list[tuple[object, int, int]] = []
    serial = True  # everything since the last barrier ran on thread 0, in order
    for index, call in enumerate(calls):
        reads = [_extent(b) for b in call.reads]
        writes = [_extent(b) for b in call.writes]
        alone = serial and not call.parallel
        if not alone and (_meet(reads, written) or _meet(writes, touched)):
            after[index - 1] = True
            written, touched, serial = [], [], True
        written += writes
        touched += reads + writes
        serial = serial and not call.parallel
    return after


def _extent(buffer: Buffer) -> tuple[object, int, int]:
    if buffer.slot is not None:
        return buffer.slot, 0, 1
    if buffer.data is not None:
        return id(buffer), 0, 1
    memory = "kept" if buffer.is_kept else "arena"
    return memory, buffer.offset, buffer.offset + max(buffer.bytes, 1)


def _meet(a: Sequence[tuple[object, int, int]], b: Sequence[tuple[object, int, int]]) -> bool:
    return any(
        p == q and lo < other_hi and other_lo < hi for p, lo, hi in a for q, other_lo, other_hi in b
    )


BRIEF_FLOPS, BRIEF_BYTES = 2e4, 1e5
"""Work of about ten microseconds, far less than Python lets a thread run before it asks it
for the interpreter's lock (5 ms)."""


def is_brief(calls: Sequence[Call]) -> bool:
    """Whether a run is over before another Python thread could use the interpreter meanwhile.

    Calls that do not say how much they compute count by the memory that they have to do with.
    """
    serial = not any(call.parallel or call.phase.is_bound for call in calls)
    flops = sum(call.flops for call in calls)
    moved = sum(max(call.bytes, sum(b.bytes for b in call.buffers)) for call in calls)
    return serial and flops < BRIEF_FLOPS and moved < BRIEF_BYTES
