"""Places outside a program's arguments that it reads at every call: a global, a cell, an attribute.

A ``Source`` is data rather than a closure, so that native code can follow it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CELL, ITEM, ATTRIBUTE = range(3)
"""Steps of a ``Source``: the content of a closure's cell, ``thing[key]``, ``thing.key``."""

MISSING = object()
"""What is found where there is nothing."""


@dataclass(frozen=True, slots=True)
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
