"""One definition of a function for arrays, traced values and tensors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def for_tensors(name: str) -> Callable[[F], F]:
    """Lets tensors among the arguments take over the call, as an operation called ``name``.

    The hook is a method ``__nn_function__(name, function, arguments)`` of their type, so
    that this layer need not know of tensors.
    """

    def declare(function: F) -> F:
        parameters = inspect.signature(function).parameters
        names, defaults = tuple(parameters), {n: p.default for n, p in parameters.items()}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for x in (*args, *kwargs.values()):
                take_over = getattr(type(x), "__nn_function__", None)
                if take_over is not None:
                    rest = [kwargs.get(n, defaults[n]) for n in names[len(args) :]]
                    if len(args) > len(names) or not defaults.keys() >= kwargs.keys():
                        return function(*args, **kwargs)  # raises
                    return take_over(name, function, (*args, *rest))
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return declare
