"""From exceptions to exit codes and one line on stderr."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from symgrad.ir.errors import SymgradError

USER_ERROR, MISMATCH, INTERNAL, INTERRUPTED = 1, 3, 70, 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns what a command raises into an exit code; ``SYMGRAD_DEBUG`` shows the traceback."""
    from symgrad.ir.errors import InternalError, NoKernelError, SymgradError, VerifyError

    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except InternalError as error:
        _fail(error.message, INTERNAL)
    except (NoKernelError, VerifyError) as error:
        _fail_internally(error)
    except SymgradError as error:
        _fail(_located(error), USER_ERROR)
    except Exception as error:
        place = _user_frame(error)
        if place is None:
            _fail_internally(error)
        _fail(f"{place}: {type(error).__name__}: {error}", USER_ERROR)


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("SYMGRAD_DEBUG"):
        traceback.print_exc()
    print(f"symgrad: {message}", file=sys.stderr)
    raise typer.Exit(code) from None


def _fail_internally(error: Exception) -> NoReturn:
    """Writes the command and the traceback to a file and names it."""
    handle, name = tempfile.mkstemp(prefix="symgrad-crash-", suffix=".txt")
    command = " ".join(map(shlex.quote, ["symgrad", *sys.argv[1:]]))
    with os.fdopen(handle, "w") as file:
        file.write(f"# replay with: {command}\n# in: {Path.cwd()}\n\n")
        file.writelines(traceback.format_exception(error))
    reason = (str(error).splitlines() or [""])[0]
    text = f"internal error: {type(error).__name__}: {reason}\nreproducer: {name}"
    _fail(text, INTERNAL)


def _located(error: SymgradError) -> str:
    """The message, with the line of the user's file that it is about."""
    from symgrad.io.errors import FileError

    loc = error.loc
    if isinstance(error, FileError) or loc is None or loc.file.startswith(_libraries()):
        return error.message
    is_script = Path(loc.file).resolve() == Path(sys.argv[0]).resolve()  # the command itself
    return error.message if is_script else f"{error.message} ({loc})"


def _libraries() -> tuple[str, ...]:
    """Where files lie that are not the user's."""
    paths = sysconfig.get_paths()
    return (*(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")), "<frozen")


def _user_frame(error: Exception) -> str | None:
    """The line of the user's code that failed; ``None`` when the fault is not there.

    The innermost frame outside libraries decides: is it ours or the user's?
    """
    libraries, place = _libraries(), None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if frame.f_globals.get("__name__", "").partition(".")[0] == "symgrad":
            place = None
        elif not file.startswith(libraries):
            place = f"{Path(file).name}:{line}"
    return place
