"""State that stays in the layout a program computes in.

A training step reads its parameters and gives new ones, and nobody looks at them between
two steps.  Whoever compiles it says so: ``compile_func(func, state=State(params, results))``
lets the program choose a *form* for each of these, so that nothing is converted at its
edges.  It then takes such a parameter as an array or as a ``Resident``, and gives the
result as a ``Resident`` where its form is not plain:

    state = State(frozenset({0, 1}), frozenset({1, 2}))
    program = compile_func(func, donate=(0, 1), state=state)
    weight, momentum = program.prepare([weight, momentum, x])[:2]   # once
    for x in batches:
        loss, weight, momentum = program([weight, momentum, x])
    array = weight.numpy()                                           # when somebody looks

``program.forms`` tells the form of every parameter, then every result (``None``: plain).
Equal forms mean equal memory, whichever program made it: a resident of the wanted form is
passed by its pointer, one of another form is converted, and so is an array, at every call;
``prepare`` gives what to keep instead.  A donated resident must not be used again.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from symgrad.codegen.runtime.memory import SMALL, empty
from symgrad.codegen.runtime.threads import get_num_threads
from symgrad.codegen.tiling import Tiling
from symgrad.ir.errors import UsageError
from symgrad.ir.graph import Func, Value
from symgrad.ir.record import record
from symgrad.ir.types import TensorType, parse_type

Array = np.ndarray[Any, Any]


@record
class Form(ABC):
    """How the elements of a tensor lie in memory; equal forms have equal memory."""

    type: TensorType

    def __init_subclass__(cls) -> None:
        _KINDS[cls.__name__] = cls

    def describe(self) -> str:
        """The form as text that ``parse`` reads."""
        return json.dumps([type(self).__name__, str(self.type), self._details()])

    @staticmethod
    def parse(text: str) -> Form:
        """The form that ``describe`` wrote."""
        kind, type, details = json.loads(text)
        return _KINDS[kind]._restored(parse_type(type), details)

    def _details(self) -> Any:
        """What JSON must keep of the form beside its type."""
        return None

    @classmethod
    def _restored(cls, type: TensorType, details: Any) -> Form:
        """The form of a type with such details."""
        return cls(type)

    @property
    def size(self) -> int:
        """Elements of the memory."""
        return self.type.size

    @abstractmethod
    def prepare(self, array: Array) -> Array:
        """Fresh memory, one-dimensional, with the contents of an array of the type."""

    def restore(self, memory: Array) -> Array:
        """The array whose contents lie in the memory; a form may be one-way."""
        raise UsageError(f"{self.type} in the form {self} cannot be brought back to an array")


_KINDS: dict[str, type[Form]] = {}
"""The classes of forms by name."""


@record
class TiledForm(Form):
    """The elements in the order of a tiling's dimensions."""

    tiling: Tiling

    def prepare(self, array: Array) -> Array:
        """The array's elements, permuted."""
        memory = empty((self.size,), self.type.dtype.numpy)
        _copy(self.tiling.view(array), memory.reshape(self.tiling.extents))
        return memory

    def _details(self) -> Any:
        return self.tiling.extents, self.tiling.axes, self.tiling.steps

    @classmethod
    def _restored(cls, type: TensorType, details: Any) -> Form:
        return cls(type, Tiling(*map(tuple, details)))

    def restore(self, memory: Array) -> Array:
        """The inverse permutation."""
        array = empty(self.type.shape, self.type.dtype.numpy)
        _copy(memory.reshape(self.tiling.extents), self.tiling.view(array))
        return array


def _copy(source: Array, target: Array) -> None:
    """Copies between arrays of the same shape; of large ones each thread takes a part.

    The system has more work with pages that are written for the first time than NumPy has
    with copying, and does it for several threads at once.
    """
    if target.nbytes < SMALL:
        target[...] = source
        return
    count = min(get_num_threads(), len(target))
    bounds = [len(target) * i // count for i in range(1, count)]
    first, *others = zip(np.split(target, bounds), np.split(source, bounds), strict=True)
    threads = [threading.Thread(target=np.copyto, args=parts) for parts in others]
    for thread in threads:
        thread.start()
    np.copyto(*first)
    for thread in threads:
        thread.join()


class Resident:
    """A tensor in the form that a program left it in.

    A training step leaves one for every parameter, so it is made with as little as there is.
    """

    __slots__ = ("__weakref__", "_array", "form", "memory")

    def __init__(self, form: Form, memory: Array) -> None:
        self.form = form
        self.memory = memory
        self._array: Array | None = None

    @property
    def type(self) -> TensorType:
        """Dtype and shape of the tensor."""
        return self.form.type

    @property
    def array(self) -> Array:
        """The tensor as a C-contiguous array that is kept, and not to be written to."""
        if self._array is None:
            self._array = self.numpy()
        return self._array

    def copy(self) -> Resident:
        """The same tensor in memory of its own."""
        return Resident(self.form, self.memory.copy())

    def numpy(self) -> Array:
        """The tensor as a new C-contiguous array."""
        return self.form.restore(self.memory)


@record
class State:
    """Numbers of the parameters and results whose layout the program may choose, and of the
    parameters that seldom change."""

    params: frozenset[int] = frozenset()
    results: frozenset[int] = frozenset()
    invariant: frozenset[int] = frozenset()
    """Numbers of parameters that are the same in most calls; see ``codegen.prologue``."""

    def __repr__(self) -> str:
        numbers = self.params, self.results, self.invariant
        return f"State({', '.join(str(sorted(n)) for n in numbers)})"

    def chosen(self, func: Func) -> Iterator[Value]:
        """The parameters and results that are state."""
        return self._edges(func, state=True)

    def given(self, func: Func) -> Iterator[Value]:
        """The parameters and results that are plain arrays."""
        return self._edges(func, state=False)

    def _edges(self, func: Func, *, state: bool) -> Iterator[Value]:
        for values, numbers in ((func.params, self.params), (func.results, self.results)):
            yield from (v for i, v in enumerate(values) if (i in numbers) == state)


STATELESS = State()
"""Plain arrays in, plain arrays out."""
