"""A disk cache of byte blobs: what is costly to make once is found again by every process.

An entry is a file ``<folder>/<namespace>/<key>.blob`` holding a digest and the blob.  The
rules that keep it safe: an entry appears by an atomic rename, so readers in other
processes see all of it or nothing; a digest that does not match makes the entry vanish
as if it had never been; the least recently used entries leave when a namespace outgrows
its bound; and no failure of the file system ever reaches the caller.

The folder is ``SYMGRAD_CACHE_DIR`` (``off`` disables caching), else the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_SUFFIX = ".blob"
_UNFINISHED = ".blob.tmp"
_DIGEST_BYTES = 16
_KEEP = 0.75
"""Share of the bound that an eviction leaves, so that it does not come at every entry."""
_TOUCH_SECONDS = 3600.0
"""Age from which a hit refreshes an entry's time: reads seldom cause a write."""


def folder() -> Path | None:
    """Where the cache lies, or None where caching is off."""
    chosen = os.environ.get("SYMGRAD_CACHE_DIR")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("symgrad", appauthor=False))


class Usage(NamedTuple):
    """What one namespace holds on disk."""

    namespace: str
    entries: int
    bytes: int


@dataclass(slots=True)
class Cache:
    """Blobs of one kind, found by key.  Keys are file names: use hex digests.

    Everything a blob depends on belongs into its key; an entry is never updated.
    """

    namespace: str
    limit: int = 512 << 20
    """Bound on the bytes of this namespace."""
    _written: int | None = field(default=None, repr=False)
    """Bytes believed to be on disk; None before the first look."""

    def get(self, key: str) -> bytes | None:
        """The blob stored under ``key``; None when there is none, or only a damaged one."""
        path = self._path(key)
        if path is None:
            return None
        try:
            entry = path.read_bytes()
            if time.time() - path.stat().st_mtime > _TOUCH_SECONDS:
                with suppress(OSError):
                    os.utime(path)
        except OSError:
            return None
        blob = entry[_DIGEST_BYTES:]
        if entry[:_DIGEST_BYTES] == _digest(blob):
            return blob
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, blob: bytes) -> None:
        """Stores ``blob`` under ``key``, or does nothing where it cannot."""
        path = self._path(key)
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{key}-{os.urandom(8).hex()}{_UNFINISHED}")
            try:
                temporary.write_bytes(_digest(blob) + blob)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError:
            return
        self._bound(path.parent, len(blob) + _DIGEST_BYTES)

    def _path(self, key: str) -> Path | None:
        root = folder()
        return None if root is None else root / self.namespace / (key + _SUFFIX)

    def _bound(self, directory: Path, added: int) -> None:
        """Drops the least recently used entries once the namespace outgrows its limit."""
        if self._written is None:
            self._written = sum(size for _, size, _ in _entries(directory))
        else:
            self._written += added
        if self._written <= self.limit:
            return
        # Other processes write too: only a fresh look tells the true size.
        entries = sorted(_entries(directory))
        self._written = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self._written <= self.limit * _KEEP:
                break
            with suppress(OSError):
                path.unlink()
                self._written -= size


def info() -> list[Usage]:
    """What every namespace holds, by name."""
    sizes = {path.name: [size for _, size, _ in _entries(path)] for path in _namespaces()}
    return [Usage(name, len(found), sum(found)) for name, found in sizes.items() if found]


def clear() -> None:
    """Removes every entry of every namespace."""
    for directory in _namespaces():
        for _, _, path in _entries(directory):
            with suppress(OSError):
                path.unlink()


def _digest(blob: bytes) -> bytes:
    return hashlib.blake2b(blob, digest_size=_DIGEST_BYTES).digest()


def _namespaces() -> list[Path]:
    root = folder()
    try:
        return sorted(path for path in root.iterdir() if path.is_dir()) if root else []
    except OSError:
        return []


def _entries(directory: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of each of our files, half-written ones included."""
    try:
        found = list(os.scandir(directory))
    except OSError:
        return
    for entry in found:
        if not entry.name.endswith((_SUFFIX, _UNFINISHED)):
            continue
        with suppress(OSError):  # another process may have removed it meanwhile
            status = entry.stat()
            yield status.st_mtime, status.st_size, Path(entry.path)
