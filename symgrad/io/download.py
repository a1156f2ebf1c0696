"""Downloads: resumed where they were interrupted, verified, and whole or not there at all.

What has come is kept in ``<name>.partial`` beside the target, under a lock, so that
processes that want the same file wait for one of them; the target appears by a rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BufferedRandom
from pathlib import Path
from typing import Any

from symgrad.io.errors import HubError

CHUNK = 1 << 17
TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as silent."""
ATTEMPTS = 4
"""How often a transfer that ended early is continued."""

Advance = Callable[[int], Any]
"""Told how many bytes there are by now."""


def download(url: str, path: Path, prefix: str = "", *, progress: bool = True) -> None:
    """Makes ``path`` the file at ``url``, whose sha256 must begin with ``prefix``.

    Continues what an interrupted download has left, where the server can.  Raises
    ``HubError`` when the server does not answer, does not have the file or stops, or when
    the file is not the right one; that one is deleted.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            if path.is_file():  # another process was faster
                _remove(partial)
                return
            if not prefix:
                file.truncate(0)  # nothing would tell whether the rest belongs to it
            resumed = file.seek(0, os.SEEK_END) > 0
            _fetch(url, path.name, file, progress=progress)
            if resumed and not _has_digest(file, prefix):
                file.truncate(0)  # what there was may have been of another file
                _fetch(url, path.name, file, progress=progress)
            if not _has_digest(file, prefix):
                _remove(partial)
                raise HubError(
                    f"{url}: damaged: its sha256 does not begin with {prefix}; the file is deleted"
                )
            os.fsync(file.fileno())
            os.replace(partial, path)
    except HubError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        raise HubError(f"{url}: cannot download: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise HubError(f"{url}: cannot download: {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        raise HubError(f"{url}: cannot download: {error or type(error).__name__}") from error
    except OSError as error:
        raise HubError.of(path, "cannot write", error) from error


def _fetch(url: str, name: str, file: BufferedRandom, *, progress: bool) -> None:
    """Appends what ``file`` lacks of ``url``; goes on a few times after an early end."""
    with _bar(name, shown=progress) as bar:
        for attempt in range(ATTEMPTS):
            before = file.seek(0, os.SEEK_END)
            expected = _transfer(url, file, bar)
            now = file.seek(0, os.SEEK_END)
            if expected is None or now == expected:
                return
            if now > expected:
                file.truncate(0)
            elif now <= before and attempt:
                break  # nothing more comes
    raise HubError(
        f"{url}: the server ended after {now} of {expected} bytes; call again to continue"
    )


def _transfer(url: str, file: BufferedRandom, bar: Callable[[int | None], Advance]) -> int | None:
    """One request; returns the size the whole file should have, where the server tells it."""
    have = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "symgrad.hub", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()
        total = _total(error.headers.get("Content-Range"))
        if total == have:  # nothing was missing
            return total
        file.truncate(0)
        return _transfer(url, file, bar)
    with answer:
        start, total = _span(answer)
        if start not in (0, have):
            raise HubError(f"{url}: asked for bytes from {have}, the server sends from {start}")
        file.truncate(start)
        file.seek(start)
        advance = bar(total)
        advance(start)
        while chunk := _read(answer, total):
            file.write(chunk)
            advance(file.tell())
    return total


def _read(answer: Any, total: int | None) -> bytes:
    """The next bytes; none when the connection broke, where the size will show that."""
    try:
        chunk: bytes = answer.read(CHUNK)
    except (OSError, http.client.HTTPException):
        if total is None:
            raise
        return b""
    return chunk


def _span(answer: Any) -> tuple[int, int | None]:
    """Where an answer starts in the file, and the size of the whole file."""
    if getattr(answer, "status", None) == http.client.PARTIAL_CONTENT:
        found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        start = int(found[1]) if found else -1
        return start, _total(answer.headers.get("Content-Range"))
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length else None


def _total(content_range: str | None) -> int | None:
    found = re.search(r"/(\d+)$", content_range or "")
    return int(found[1]) if found else None


def _has_digest(file: BufferedRandom, prefix: str) -> bool:
    if not prefix:
        return True
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest().startswith(prefix)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[BufferedRandom]:
    """The partial file, open for this process alone: others wait."""
    while True:
        with open(partial, "a+b") as file:
            _lock(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
                    try:
                        yield file
                    finally:
                        if file.seek(0, os.SEEK_END) == 0:
                            _remove(partial)
                    return
        # Renamed or deleted while we waited: what is there now is another file.


def _lock(file: BufferedRandom) -> None:
    """Waits until nobody else has the file; where locks are missing, does nothing."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


@contextlib.contextmanager
def _bar(name: str, *, shown: bool) -> Iterator[Callable[[int | None], Advance]]:
    """A progress bar on stderr: a function from the whole size to one that takes bytes so far."""
    if not shown:
        yield lambda total: lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TaskProgressColumn(), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(name, total=None)

    def of_size(total: int | None) -> Advance:
        progress.start()  # not before the server has answered
        progress.update(task, total=total)
        return lambda done: progress.update(task, completed=done)

    try:
        yield of_size
    finally:
        progress.stop()
