"""Arrays and numbers a compiled function reads from its surroundings.

A captured array is passed by reference, so later changes in place are seen.  Where it
was reached through a closure cell, a global name, a container or an attribute, that
place is read at every call, so rebinding is seen too.  Python numbers found in such
places under names that the code mentions are watched: the trace holds while they are
what they were.  So it does for the contents of arrays that shaped it, masks and indices.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from symgrad.api_leaves import signature, signatures
from symgrad.codegen.runtime.source import ATTRIBUTE, CELL, ITEM, MISSING, Source, Together
from symgrad.ir.opdef import Array
from symgrad.operators import is_tensor
from symgrad.tracing import Capture, TensorCapture

_NEAR = 4  # steps within which functions are followed and numbers watched
_FAR = 24  # steps within which arrays are found: models are nested deeply
_WIDTH = 256  # containers larger than this are data, not places to look into
_NUMBERS = (bool, int, float, complex, str)
_FOREIGN = ("numpy", "scipy", "symgrad", "builtins")
_LAYERS = ("symgrad.nn", "symgrad.models")


_Extent = tuple[int, int, np.dtype[Any]]
"""Where an array's memory begins, how many elements it has, and of which type."""


class Place(NamedTuple):
    """Where a value was found, how to read it again, and what it was."""

    read: Callable[[], Any]
    value: Any
    name: str | None
    """The last name on the way, if the way ends in one."""


class Surroundings:
    """Everything a function can see, noted before it is traced."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._seen: set[int] = set()
        self._names = {"training"}  # read by the layers themselves, whose code is not followed
        self._places = list(self._of_callable(function, 0))

    def arrays(self) -> dict[int, Callable[[], Any]]:
        """How to read each array and tensor again, by its identity."""
        found: dict[int, Callable[[], Any]] = {}
        for place in self._places:
            if not _is_number(place.value):
                found.setdefault(id(place.value), place.read)
        return found

    def tensors(self) -> list[Any]:
        """The tensors."""
        return [p.value for p in self._places if is_tensor(p.value)]

    def wholes(self) -> dict[_Extent, Place]:
        """The contiguous arrays by the memory they are."""
        arrays = [p for p in self._places if isinstance(p.value, np.ndarray)]
        return {_extent(p.value): p for p in arrays if p.value.size and p.value.flags.c_contiguous}

    def numbers(self) -> list[Place]:
        """The numbers under names that the code mentions, except those it changes itself."""
        return [
            p
            for p in self._places
            if _is_number(p.value) and p.name in self._names and _unchanged(p.read(), p.value)
        ]

    # -- the walk --------------------------------------------------------------------------

    def _of_callable(self, f: Any, depth: int) -> Iterator[Place]:
        if id(f) in self._seen or depth > _NEAR:
            return
        self._seen.add(id(f))
        for inner in ("__wrapped__", "func", "__func__"):
            value = getattr(f, inner, None)
            if callable(value):
                yield from self._of_callable(value, depth)
        if isinstance(f, functools.partial):
            for value in (*f.args, *f.keywords.values()):
                yield from self._of_value(Source(value), value, None, depth + 1)
        if isinstance(f, types.FunctionType):
            yield from self._of_function(f, depth)
        else:
            self._names.add("__call__")
            owner = getattr(f, "__self__", f)
            self._seen.discard(id(owner))
            yield from self._of_value(Source(owner), owner, None, depth + 1)

    def _of_function(self, f: types.FunctionType, depth: int) -> Iterator[Place]:
        names = set(_names(f.__code__))
        self._names |= names
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            read = Source(cell).then(CELL)
            yield from self._of_value(read, read(), name, depth)
        for name in names & f.__globals__.keys():
            read = Source(f.__globals__).then(ITEM, name)
            yield from self._of_value(read, read(), name, depth)

    def _of_value(self, read: Source, value: Any, name: str | None, depth: int) -> Iterator[Place]:
        number = type(value) in _NUMBERS and depth <= _NEAR
        if number or isinstance(value, np.ndarray) or is_tensor(value):
            yield Place(read, value, name)
        elif depth > _FAR or _is_foreign(value):
            return
        elif isinstance(value, (type, types.ModuleType)):
            yield from self._of_namespace(read, value, depth)
        elif isinstance(value, (dict, list, tuple)):
            if id(value) in self._seen or len(value) > _WIDTH:
                return
            self._seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in list(items):
                label = key if isinstance(key, str) else None
                yield from self._of_value(read.then(ITEM, key), item, label, depth + 1)
        elif isinstance(
            value, (types.FunctionType, types.MethodType, functools.partial)
        ) or hasattr(value, "__wrapped__"):
            yield from self._of_callable(value, depth + 1)
        elif hasattr(value, "__dict__") and id(value) not in self._seen:
            self._seen.add(id(value))
            yield from self._of_object(read, value, depth)

    def _of_object(self, read: Source, value: Any, depth: int) -> Iterator[Place]:
        for name, item in list(vars(value).items()):
            yield from self._of_value(read.then(ATTRIBUTE, name), item, name, depth + 1)
        defaults: dict[str, Any] = {}
        for kind in reversed(type(value).__mro__):
            defaults.update(vars(kind))
        for name, item in defaults.items():
            is_read = _is_number(item) or isinstance(item, np.ndarray) or is_tensor(item)
            if is_read and name not in vars(value):
                yield from self._of_value(read.then(ATTRIBUTE, name), item, name, depth + 1)
        for kind in type(value).__mro__:
            for name, method in vars(kind).items():
                if name in self._names and isinstance(method, types.FunctionType):
                    yield from self._of_callable(method, depth + 1)

    def _of_namespace(self, read: Source, value: Any, depth: int) -> Iterator[Place]:
        """What a class or a module has under names that the code mentions."""
        for name in self._names & vars(value).keys():
            item = vars(value)[name]
            if not isinstance(item, (type, types.ModuleType)):
                yield from self._of_value(read.then(ATTRIBUTE, name), item, name, depth + 1)


class Environment:
    """What one traced program depends on besides its arguments."""

    def __init__(
        self,
        surroundings: Surroundings,
        captures: Sequence[Capture | TensorCapture],
        guards: Sequence[tuple[weakref.ref[Array], Array]],
    ) -> None:
        self._watched = [(p.read, p.value) for p in surroundings.numbers()]
        self._guards = [(ref, contents) for ref, contents in guards if ref() is not None]
        self._reads: list[Callable[[], Any]] = []
        self._rebindable: list[int] = []
        """Numbers of the captured arrays that lie in places where others may come to lie."""
        self._kinds: list[type] = []
        self._signatures: list[Any] = []
        places = surroundings.arrays() if captures else {}
        wholes = surroundings.wholes() if captures else {}
        for capture in captures:
            array = capture.settle()
            read = places.get(id(array))
            if read is None and isinstance(array, np.ndarray):
                read = _of_whole_view(array, wholes)
            self._reads.append(read or Source(array))
            if read is not None:
                now = read()
                self._rebindable.append(len(self._reads) - 1)
                self._kinds.append(type(now))
                self._signatures.append(signature(now))
        self._together = Together([*(read for read, _ in self._watched), *self._reads])

    @property
    def is_empty(self) -> bool:
        """Whether the program depends on its arguments alone."""
        return not (self._watched or self._guards or self._reads)

    def sources(self) -> list[Source] | None:
        """Where the captured arrays are, for native code; ``None`` if it cannot follow."""
        if self._guards or not all(isinstance(read, Source) for read, _ in self._watched):
            return None
        found = [read for read in self._reads if isinstance(read, Source)]
        return found if len(found) == len(self._reads) else None

    def watched(self) -> list[tuple[Source, Any]]:
        """The numbers that must be what they were, where ``sources`` are known."""
        return [(read, value) for read, value in self._watched if isinstance(read, Source)]

    def arrays(self) -> list[Any]:
        """The captured arrays and tensors as they are now."""
        return self._together()[len(self._watched) :]

    def current(self, are_known: Callable[[list[Any]], bool] | None = None) -> list[Any] | None:
        """The same, unless the trace is no longer right: then ``None``.

        That is for numbers, guarded contents, dtypes and shapes to say.  The last need no look
        where ``are_known`` says that these objects are what they were at the last call.
        """
        found = self._together()
        for now, (_, value) in zip(found, self._watched, strict=False):
            if now is not value and not _unchanged(now, value):
                return None
        arrays = found[len(self._watched) :]
        if are_known is None or not are_known(arrays):
            here = [arrays[number] for number in self._rebindable]
            if list(map(type, here)) != self._kinds or signatures(here) != self._signatures:
                return None
        for ref, contents in self._guards:
            array = ref()
            if array is not None and not np.array_equal(array, contents):
                return None
        return arrays


def _of_whole_view(array: Array, wholes: dict[_Extent, Place]) -> Callable[[], Any] | None:
    """How to read an array again that is a known one in another shape, such as a bias."""
    place = wholes.get(_extent(array)) if array.flags.c_contiguous else None
    if place is None:
        return None
    return functools.partial(_reshaped, place.read, place.value.shape, array.shape)


def _extent(array: Array) -> _Extent:
    return array.ctypes.data, array.size, array.dtype


def _reshaped(read: Callable[[], Any], old: tuple[int, ...], new: tuple[int, ...]) -> Any:
    array = read()
    fits = type(array) is np.ndarray and array.shape == old and array.flags.c_contiguous
    return array.reshape(new) if fits else MISSING


def _unchanged(now: Any, before: Any) -> bool:
    return now is before or (type(now) is type(before) and bool(now == before))


def _is_number(value: Any) -> bool:
    return type(value) in _NUMBERS


def _names(code: types.CodeType) -> Iterator[str]:
    """Names and texts that code mentions: globals, attributes, keys, closure variables."""
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant


def _is_foreign(value: Any) -> bool:
    """Whether a value belongs to NumPy, SciPy or symgrad itself, and not to the user.

    Layers are the user's, though their code is not.
    """
    if isinstance(value, (dict, list, tuple)) or hasattr(value, "__wrapped__"):
        return False
    if isinstance(value, types.ModuleType):
        root = value.__name__.partition(".")[0]
        return root in _FOREIGN or root in sys.stdlib_module_names
    module = getattr(value, "__module__", None) or type(value).__module__
    if module.startswith(_LAYERS):
        return isinstance(value, types.FunctionType)
    return module.partition(".")[0] in _FOREIGN
