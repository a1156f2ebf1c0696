"""Records: immutable values with named fields.

``@record`` makes of a class what ``@dataclass(frozen=True, slots=True)`` does.  The methods of
a dataclass are source text that is compiled for each class; there are more than a hundred such
classes here, and that was the larger part of importing the code generator.  Those of a record
are ready functions, which know the fields of their class.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from typing import Any, NoReturn, TypeVar, dataclass_transform

R = TypeVar("R")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[R]) -> type[R]:
    """Makes ``cls`` a record of its annotated fields.

    What the class defines itself stays: ``__eq__`` and ``__hash__`` of its own, say.
    ``__post_init__`` is called with the fields set.  To the standard library a record is a
    dataclass: ``dataclasses.replace`` and ``fields`` take it.
    """
    given = frozenset(vars(cls))
    made = dataclass(init=False, repr=False, eq=False, slots=True)(cls)  # with slots, by fields
    names = tuple(f.name for f in fields(made) if f.init)  # type: ignore[arg-type]
    methods = _methods(names, _values_of(names))
    methods["__init__"] = _constructor(made, names)
    for name, method in methods.items():
        if name not in given:
            setattr(made, name, method)
    return made


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that gives the fields of a record as a tuple."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _constructor(cls: Any, names: tuple[str, ...]) -> Callable[..., None]:
    count, setters = len(names), [getattr(cls, name).__set__ for name in names]
    then = getattr(cls, "__post_init__", None)
    every = [f for f in fields(cls) if f.init]

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs or len(args) != count:
            args = _bound(cls, every, args, kwargs)
        for set_slot, value in zip(setters, args, strict=True):
            set_slot(self, value)
        if then is not None:
            then(self)

    return initialise


def _bound(
    cls: Any, every: Sequence[Field[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The value of ``every`` field, by position, by name or by default."""
    values = list(args)
    for f in every[len(args) :]:
        if f.name in kwargs:
            values.append(kwargs.pop(f.name))
        elif f.default is not MISSING:
            values.append(f.default)
        elif f.default_factory is not MISSING:
            values.append(f.default_factory())
        else:
            raise TypeError(f"{cls.__name__}: the field {f.name!r} is missing")
    if kwargs:
        name = next(iter(kwargs))
        twice = any(f.name == name for f in every)
        raise TypeError(f"{cls.__name__}: {'two values for' if twice else 'no'} field {name!r}")
    if len(values) > len(every):
        raise TypeError(f"{cls.__name__} has {len(every)} fields, got {len(values)} values")
    return tuple(values)


def _methods(
    names: tuple[str, ...], values: Callable[[Any], tuple[Any, ...]]
) -> dict[str, Callable[..., Any]]:
    def equals(self: Any, other: object) -> Any:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    def text(self: Any) -> str:
        shown = (f"{name}={value!r}" for name, value in zip(names, values(self), strict=True))
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def made_again(self: Any) -> Any:
        return type(self), values(self)

    return {
        "__eq__": equals, "__hash__": hashed, "__repr__": text, "__reduce__": made_again,
        "__setattr__": _refuse, "__delattr__": _refuse,
    }  # fmt: skip


def _refuse(self: object, name: str, *value: object) -> NoReturn:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
