"""Arrays a compiled function reads from its surroundings, found again at every call.

A captured array is passed by reference, so later changes in place are seen.  Where it
was reached through a closure cell, a global name, a container or an attribute, that
place is read at every call, so rebinding is seen too; Python numbers found in such
places are watched.  What cannot be followed makes the function trace again.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.tracing import Capture

Place = Callable[[], Any]
_DEPTH = 4
_WIDTH = 256  # containers larger than this are data, not places to look into
_MISSING = object()
_WATCHED = (bool, int, float, complex, str)


class Environment:
    """The surroundings one traced program depends on."""

    def __init__(
        self,
        function: Callable[..., Any],
        captures: Sequence[Capture],
        guards: Sequence[tuple[weakref.ref[Array], Array]],
    ) -> None:
        wanted = {id(c.array) for c in captures}
        places: dict[int, Place] = {}
        watched: list[tuple[Place, Any]] = []
        for place, value in surroundings(function):
            if id(value) in wanted:
                places.setdefault(id(value), place)
            elif type(value) in _WATCHED:
                watched.append((place, value))
        self._watched = watched
        self._guards = [(ref, contents) for ref, contents in guards if ref() is not None]
        self._reads: list[Place] = []
        self._rebindable: list[tuple[Place, np.dtype[Any], tuple[int, ...]]] = []
        for capture in captures:
            array = capture.current()
            if id(array) in places:
                self._reads.append(places[id(array)])
                self._rebindable.append((places[id(array)], array.dtype, array.shape))
            else:
                self._reads.append(functools.partial(_itself, array))

    @property
    def is_empty(self) -> bool:
        """Whether the program depends on its arguments alone."""
        return not (self._watched or self._guards or self._reads)

    def arrays(self) -> list[Array]:
        """The captured arrays as they are now."""
        return [read() for read in self._reads]

    def holds(self) -> bool:
        """Whether the trace is still right: numbers, guarded contents, dtypes and shapes."""
        for place, value in self._watched:
            now = place()
            if now is not value and (type(now) is not type(value) or now != value):
                return False
        for place, dtype, shape in self._rebindable:
            now = place()
            if type(now) is not np.ndarray or now.dtype != dtype or now.shape != shape:
                return False
        for ref, contents in self._guards:
            array = ref()
            if array is not None and not np.array_equal(array, contents):
                return False
        return True


def _itself(array: Array) -> Array:
    return array


def surroundings(function: Callable[..., Any]) -> Iterator[tuple[Place, Any]]:
    """Every place a function reads values from, with the present value.

    Follows wrappers, bound methods, and the user's own functions it refers to, and looks
    into containers and objects a few levels deep.
    """
    seen: set[int] = set()
    yield from _of_callable(function, seen, _DEPTH)


def _of_callable(f: Any, seen: set[int], depth: int) -> Iterator[tuple[Place, Any]]:
    if id(f) in seen or not depth:
        return
    seen.add(id(f))
    for inner in ("__wrapped__", "func", "__func__", "wrapped"):
        if isinstance(value := getattr(f, inner, None), Callable):  # type: ignore[arg-type]
            yield from _of_callable(value, seen, depth)
    if isinstance(f, functools.partial):
        for value in (*f.args, *f.keywords.values()):
            yield from _of_value(functools.partial(_itself, value), value, seen, depth - 1)
    if (owner := getattr(f, "__self__", None)) is not None:
        yield from _of_value(lambda: owner, owner, seen, depth - 1)
    if not isinstance(f, types.FunctionType):
        if callable(f) and not isinstance(f, type) and hasattr(f, "__dict__"):
            yield from _of_value(lambda: f, f, seen, depth - 1)
        return
    for cell in f.__closure__ or ():
        place = functools.partial(getattr, cell, "cell_contents", _MISSING)
        yield from _of_value(place, place(), seen, depth)
    for name in _global_names(f.__code__):
        if name in f.__globals__:
            place = functools.partial(f.__globals__.get, name)
            yield from _of_value(place, place(), seen, depth)


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _of_value(place: Place, value: Any, seen: set[int], depth: int) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, np.ndarray) or type(value) in _WATCHED:
        yield place, value
    elif not depth or id(value) in seen or isinstance(value, (type, types.ModuleType)) or (isinstance(value, (dict, list, tuple)) and len(value) > _WIDTH):
        return
    elif isinstance(value, dict):
        seen.add(id(value))
        for key, item in value.items():
            yield from _of_value(functools.partial(_item, place, key), item, seen, depth - 1)
    elif isinstance(value, (list, tuple)):
        seen.add(id(value))
        for key, item in enumerate(value):
            yield from _of_value(functools.partial(_item, place, key), item, seen, depth - 1)
    elif _is_foreign(value):
        return
    elif callable(value):
        yield from _of_callable(value, seen, depth - 1)
    elif hasattr(value, "__dict__"):
        seen.add(id(value))
        for name, item in vars(value).items():
            yield from _of_value(functools.partial(_attribute, place, name), item, seen, depth - 1)


def _is_foreign(value: Any) -> bool:
    """Whether a value belongs to NumPy, SciPy or symgrad itself."""
    module = getattr(value, "__module__", None) or type(value).__module__
    is_wrapper = hasattr(value, "__wrapped__")
    return module.partition(".")[0] in ("numpy", "scipy", "symgrad", "builtins") and not is_wrapper


def _item(place: Place, key: Any) -> Any:
    try:
        return place()[key]
    except (KeyError, IndexError, TypeError):
        return _MISSING


def _attribute(place: Place, name: str) -> Any:
    return getattr(place(), name, _MISSING)
