"""Static arguments: those that a compiled function takes as ordinary Python values."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from symgrad import tree
from symgrad.ir.errors import UsageError


class Statics:
    """Which arguments are static, by position and by name."""

    def __init__(
        self, f: Callable[..., Any], numbers: int | Iterable[int], names: str | Iterable[str]
    ) -> None:
        self.names = {names} if isinstance(names, str) else set(names)
        self.numbers = {numbers} if isinstance(numbers, int) else set(numbers)
        found: Mapping[str, inspect.Parameter] = {}
        with contextlib.suppress(TypeError, ValueError):
            found = inspect.signature(f).parameters
        self.parameters = list(found)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in found.values())
        self.leaves_out = "out" not in self.parameters and not takes_any
        """Whether the keyword ``out`` of a call is none of the function's own."""
        for n in list(self.numbers):
            if n < 0:
                self.numbers.remove(n)
                self.numbers.add(n + len(self.parameters))
        for name in list(self.names):
            if self.parameters and name not in self.parameters:
                raise UsageError(
                    f"static_argnames: {getattr(f, '__name__', f)} has no parameter {name!r}; "
                    f"it has {', '.join(self.parameters)}"
                )
            if name in self.parameters:
                self.numbers.add(self.parameters.index(name))
        self.names |= {self.parameters[n] for n in self.numbers if n < len(self.parameters)}

    def __bool__(self) -> bool:
        return bool(self.numbers or self.names)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The traced arguments, and a key for the static ones."""
        if not self:
            return (args, kwargs), ()
        fixed: list[tuple[Any, Any]] = [(i, args[i]) for i in sorted(self.numbers) if i < len(args)]
        fixed += [(k, v) for k, v in sorted(kwargs.items()) if k in self.names]
        key = tuple((where, type(value), value) for where, value in fixed)
        try:
            hash(key)
        except TypeError:
            listed = ", ".join(f"{where}: {type(value).__name__}" for where, value in fixed)
            raise UsageError(f"static arguments must be hashable, got {listed}") from None
        dynamic = tuple(x for i, x in enumerate(args) if i not in self.numbers)
        return (dynamic, {k: v for k, v in kwargs.items() if k not in self.names}), key

    def join(self, dynamic: Sequence[Any], args: tuple[Any, ...]) -> list[Any]:
        """All positional arguments: the given dynamic ones among the static ones of ``args``."""
        rest = iter(dynamic)
        return [x if i in self.numbers else next(rest) for i, x in enumerate(args)]

    def leaf_names(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        """How to write each leaf of the traced arguments."""
        texts: list[str] = []
        for i, x in enumerate(args):
            if i not in self.numbers:
                name = self.parameters[i] if i < len(self.parameters) else f"arg{i}"
                texts += tree.names(x, name)
        for k in sorted(kwargs):
            if k not in self.names:
                texts += tree.names(kwargs[k], k)
        return texts
