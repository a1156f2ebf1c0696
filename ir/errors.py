"""Errors that name the operation, the types, the remedy and the user's own line.

User mistakes derive from ``SymgradError`` and from the built-in exception a NumPy
user would expect (``ShapeError`` is a ``ValueError``).  ``InternalError`` is ours.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from symgrad.ir.record import record


@record
class Loc:
    """A line of the user's source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


def user_location() -> Loc | None:
    """The innermost frame that is not symgrad's own; ``None`` when there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        if not _is_own(frame.f_globals.get("__name__", "")):
            return _loc(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


# Both are asked for at every op that is traced, and a line of the user's makes many.


@functools.cache
def _is_own(module: str) -> bool:
    return module in ("symgrad", "contextlib", "functools") or module.startswith("symgrad.")


@functools.lru_cache(maxsize=4096)
def _loc(file: str, line: int) -> Loc:
    return Loc(file, line)


class SymgradError(Exception):
    """Base of every error symgrad raises on purpose.

    The message ends with the user's line: the one given as ``loc``, or that of the
    innermost caller outside symgrad.
    """

    def __init__(self, message: str, *, loc: Loc | None = None) -> None:
        self.loc = loc or user_location()
        self.message = message
        super().__init__(f"{message} ({self.loc})" if self.loc else message)


class ShapeError(SymgradError, ValueError):
    """Operand shapes that do not fit the operation."""


class DTypeError(SymgradError, TypeError):
    """Operand dtypes that the operation does not take."""


class TraceError(SymgradError, TypeError):
    """A traced value used where only a concrete one can be."""


class UnsupportedError(SymgradError, NotImplementedError):
    """Something of NumPy's or PyTorch's that symgrad does not offer."""


class DifferentiationError(SymgradError, TypeError):
    """A derivative that does not exist or is not defined for this function."""


class ParseError(SymgradError, ValueError):
    """IR text that does not parse."""


class UsageError(SymgradError, ValueError):
    """Arguments that make no sense, whatever their shapes."""


class VerifyError(SymgradError):
    """An invalid ``Func``: a defect of the pass that made it."""


class NoKernelError(SymgradError, NotImplementedError):
    """An operation the code generator has no kernel for."""


class InternalError(SymgradError):
    """A defect of symgrad; the message says where the reproducer lies."""
