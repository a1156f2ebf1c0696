"""What compiled functions know of the tensors that they captured, until one is written to.

A compiled model captures a hundred tensors.  To find their contents at every call is to touch
thousands of places in memory, which the call before has driven out of the processor's caches.  So
a call leaves what it found to the next one.  That stands as long as nothing is ``written`` to any
of these tensors: whatever gives one other contents, or shares these with somebody who may, says
so.  Who looks at contents first marks the handles that are to say so (``Handle.stands``).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from symgrad.ir.record import record


class _Writes:
    count = 0
    are_awaited = False
    """Whether anything stands until the next one."""


@record
class Standing:
    """The contents of tensors, found when so many writes had been counted."""

    writes: int
    tensors: Sequence[Any]
    contents: Sequence[Any]
    stamp: Sequence[object]
    """Of the contents, as programs want it: see ``record.run``."""

    def is_of(self, tensors: Sequence[Any]) -> bool:
        """Whether these are the tensors, and still have these contents."""
        return self.writes == _Writes.count and all(map(operator.is_, tensors, self.tensors))


_standing: WeakKeyDictionary[Any, Standing] = WeakKeyDictionary()
"""By whoever captured the tensors.  Here nothing outlives a write: contents that are no longer a
tensor's are to be free."""


def written() -> None:
    """To be called after each change of what a tensor contains, or of who else can change that.

    Who found the contents before the change counted fewer writes.
    """
    _Writes.count += 1
    if _Writes.are_awaited:
        let_go()


def let_go() -> None:
    """Forgets what was found: nothing here shall keep memory from being given away."""
    _Writes.are_awaited = False
    _standing.clear()


def writes() -> int:
    """How many there were; to be asked for before the contents are found."""
    return _Writes.count


def leave(owner: Any, standing: Standing) -> None:
    """Leaves what was found to the next call of ``owner``."""
    _standing[owner] = standing
    _Writes.are_awaited = True


def left(owner: Any) -> Standing | None:
    """What the last call of ``owner`` left."""
    return _standing.get(owner) if _Writes.are_awaited else None
