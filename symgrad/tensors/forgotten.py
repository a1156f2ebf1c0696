"""Methods that notice that they were not called: ``loss = x.sum`` and then ``loss.backward()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hinting:
    """A method, as a descriptor, whose bound form knows what a tensor would have had."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        return self._function if instance is None else BoundMethod(self._function, instance)


class BoundMethod:
    """A method of one tensor, to be called."""

    __slots__ = ("__func__", "__self__")

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        self.__func__, self.__self__ = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __name__, __doc__ and the like
            return getattr(self.__func__, name)
        missing = f"'builtin_function_or_method' object has no attribute {name!r}"
        if hasattr(type(self.__self__), name):
            method = self.__func__.__name__
            call = "()" if callable(getattr(type(self.__self__), name)) else ""
            missing += f"; did you forget ()? {method} is a method: x.{method}().{name}{call}"
        raise AttributeError(missing, name=name, obj=self)

    def __repr__(self) -> str:
        kind = type(self.__self__).__name__
        return f"<bound method {self.__func__.__name__} of {kind} object>"
