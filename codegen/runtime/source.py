"""Places outside a program's arguments that it reads at every call: a global, a cell, an attribute.

A ``Source`` is data rather than a closure, so that native code can follow it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from symgrad.ir.record import record

CELL, ITEM, ATTRIBUTE = range(3)
"""Steps of a ``Source``: the content of a closure's cell, ``thing[key]``, ``thing.key``."""

MISSING = object()
"""What is found where there is nothing."""


@record
class Source:
    """A thing to begin with, and the steps from there: pairs of a kind and a key."""

    root: Any
    steps: tuple[tuple[int, Any], ...] = ()

    def then(self, kind: int, key: Any = None) -> Source:
        """One step further."""
        return Source(self.root, (*self.steps, (kind, key)))

    def __call__(self) -> Any:
        """What is there now; ``MISSING`` if the way ends before."""
        thing = self.root
        try:
            for kind, key in self.steps:
                if kind == ITEM:
                    thing = thing[key]
                else:
                    thing = getattr(thing, "cell_contents" if kind == CELL else key)
        except (LookupError, TypeError, AttributeError, ValueError):
            return MISSING
        return thing


class Together:
    """Many places read at once: the way that several have in common is gone once.

    Those that are no ``Source`` are functions, and are called.
    """

    def __init__(self, reads: Sequence[Callable[[], Any]]) -> None:
        self._roots: list[Any] = []
        self._steps: list[tuple[int, bool, Any]] = []
        """Number of the thing to go on from, roots first; whether to an item; its key or name."""
        self._ends: list[int | Callable[[], Any]] = []
        sources = [read for read in reads if isinstance(read, Source)]
        roots = {id(s.root): s.root for s in sources}
        numbers: dict[Any, int] = {key: i for i, key in enumerate(roots)}
        self._roots = list(roots.values())
        for read in reads:
            self._ends.append(self._end(read, numbers) if isinstance(read, Source) else read)

    def _end(self, source: Source, numbers: dict[Any, int]) -> int:
        """The number of the thing at the end; ``numbers`` has those of the ways so far."""
        at = numbers[id(source.root)]
        for kind, key in source.steps:
            way = at, kind, type(key), key
            if way not in numbers:
                numbers[way] = len(self._roots) + len(self._steps)
                name = "cell_contents" if kind == CELL else key
                self._steps.append((at, kind == ITEM, name))
            at = numbers[way]
        return at

    def __call__(self) -> list[Any]:
        """What is there now, place by place."""
        things = list(self._roots)
        steps = iter(self._steps)
        while len(things) < len(self._roots) + len(self._steps):
            try:
                for at, is_item, key in steps:
                    things.append(things[at][key] if is_item else getattr(things[at], key))
            except (LookupError, TypeError, AttributeError, ValueError):
                things.append(MISSING)
        return [things[end] if isinstance(end, int) else end() for end in self._ends]
