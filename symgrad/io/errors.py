"""What goes wrong with files of weights."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Self

from symgrad.ir.errors import SymgradError


class RefusedError(Exception):
    """Why a file was not read: it asks for more than data.  Part of a sentence."""


class DamagedError(Exception):
    """Why a file was not read: it contradicts itself or ends early.  Part of a sentence."""


class FileError(SymgradError):
    """A file that cannot be used; the text is one line for the user, without a code location."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.args = (message,)

    @classmethod
    def of(cls, path: Path, action: str, error: OSError) -> Self:
        """The error of an operating-system call on ``path``; ``action`` as in "cannot read"."""
        remedy = {
            errno.ENOSPC: "the disk is full: free some space or choose another path",
            errno.EDQUOT: "the disk quota is used up: free some space or choose another path",
            errno.ENOENT: "no such file or directory",
            errno.EACCES: "permission denied",
            errno.EISDIR: "it is a directory",
            errno.ENOTDIR: "it is not a directory",
        }.get(error.errno or 0, error.strerror or str(error))
        return cls(f"{path}: {action}: {remedy}")


class WeightsError(FileError):
    """A file of weights that cannot be read or written."""


class HubError(WeightsError):
    """A file of trained weights that is in no cache and cannot be downloaded."""
