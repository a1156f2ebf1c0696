"""Compiled functions for programs without Python: objects, shared libraries, C headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from symgrad.api import value_and_grad
from symgrad.api_backend import optimize
from symgrad.api_function import Function
from symgrad.ir import Func
from symgrad.ir.errors import UsageError


def export(
    f: Callable[..., Any], *args: Any, wrt: int | Sequence[int] | None = None, path: str | Path
) -> None:
    """Writes ``f``, compiled for arguments of these types, as native code to ``path``.

    The suffix says what is written: ``.o`` an object file, ``.so`` or ``.dylib`` a shared
    library, ``.h`` its C header.  With ``wrt``, positions of arguments, it is value and
    gradient.  The function runs on the calling thread; captured arrays become parameters.
    """
    from symgrad.codegen.export import SUFFIXES

    formats = {suffix: name for name, suffix in SUFFIXES.items()} | {".dylib": "so"}
    suffix = Path(path).suffix
    if suffix not in formats:
        raise UsageError(f"export: {path} must end in one of {', '.join(formats)}")
    function = f if wrt is None else value_and_grad(f, argnums=wrt)
    if not isinstance(function, Function):
        function = Function(function, function)
    write(function.traced(*args).func, formats[suffix], Path(path))


def write(func: Func, format: str, path: Path) -> None:
    """Writes a traced function in a format of ``codegen.export``."""
    from symgrad.codegen.export import FORMATS

    path.write_bytes(FORMATS[format](optimize(func)))
