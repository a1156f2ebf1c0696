"""Caches that forget what was not used for longest."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class _Entry(Generic[V]):
    __slots__ = ("used", "value")

    def __init__(self, value: V, used: int) -> None:
        self.value, self.used = value, used


class Bounded(Generic[V]):
    """Values by key: at most ``limit`` of them, those used last.

    Keys may be long.  Hashing one is most of the work of finding its value, so that it is done
    once: each entry notes when it was used, and who makes room for a new one looks at them all.
    """

    __slots__ = ("_entries", "_lock", "_time", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: dict[Hashable, _Entry[V]] = {}
        self._time = 0
        self._lock = threading.Lock()  # of changes: reading needs none

    def get(self, key: Hashable) -> V | None:
        """The value of a key, if it is there."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._time += 1
        found.used = self._time
        return found.value

    def __setitem__(self, key: Hashable, value: V) -> None:
        self._time += 1
        with self._lock:
            self._entries[key] = _Entry(value, self._time)
            while len(self._entries) > self.limit:
                del self._entries[min(self._entries, key=self._used)]

    def _used(self, key: Hashable) -> int:
        return self._entries[key].used

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Hashable]:
        """The keys, the one used last at the end."""
        return iter(sorted(self._entries, key=self._used))

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
