"""From NumPy's callables to their traced forms.

``symgrad.numpy`` enters its functions in ``HANDLERS``; NumPy's protocols look them up there.
What a form need not know of a call, and must not overlook, is seen to here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.ir.errors import UnsupportedError

HANDLERS: dict[Any, Callable[..., Any]] = {}
"""NumPy callable, or ``(ufunc, method)``, to its traced form; what tensors add has names."""


def refuse_unknown(
    function: Callable[..., Any], handler: Callable[..., Any], given: dict[str, Any]
) -> None:
    """Raises for keywords that a traced form does not know."""
    known = _keywords_of(handler) if given else None
    for name in given.keys() - known if known is not None else ():
        raise UnsupportedError(f"np.{full_name(function)}: {name}= cannot be traced; leave it out")


@functools.cache
def _keywords_of(handler: Callable[..., Any]) -> frozenset[str] | None:
    """The keywords that a traced form takes; ``None`` for any."""
    parameters = inspect.signature(handler).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY)


def without_out(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], Any]:
    """The positional arguments without ``out``, and ``out``, wherever it was given."""
    out, place = kwargs.pop("out", None), _place_of_out(function)
    if place is not None and len(args) > place:
        return (*args[:place], *args[place + 1 :]), args[place]
    return args, out


@functools.cache
def _place_of_out(function: Callable[..., Any]) -> int | None:
    """Where ``out`` stands among the positional parameters of a NumPy function, if it does."""
    if isinstance(function, np.ufunc):
        return function.nin
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # C functions without a signature have no place for it either
        return None
    names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return names.index("out") if "out" in names else None


def full_name(function: Callable[..., Any]) -> str:
    """A NumPy function's name with that of its module: ``linalg.eig``."""
    _, _, module = getattr(function, "__module__", "numpy").partition(".")
    return f"{module}.{function.__name__}" if module else function.__name__


def nearest(name: str) -> str:
    """What to use in place of a NumPy function that has no traced form."""
    known = sorted({full_name(f) for f in HANDLERS if hasattr(f, "__name__")})
    close = difflib.get_close_matches(name, known, 3, 0.6)
    return f"nearest supported: {', '.join(close)}" if close else "see symgrad.numpy.SUPPORTED"
