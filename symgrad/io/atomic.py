"""Replacing a file's content all at once or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from symgrad.io.errors import FileError, WeightsError


def write_bytes(path: Path, data: bytes, error_type: type[FileError] = WeightsError) -> None:
    """Make ``data`` the content of ``path``; on failure the old file stays as it was.

    The data goes to a temporary file beside ``path``, to the disk, and only then under its
    name.  Raises ``error_type`` when that fails (full disk, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise error_type.of(path, "cannot write", error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power failure, where directories can be synced at all."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
