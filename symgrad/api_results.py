"""What a compiled function returns: how it is put together, and results in given arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.codegen.runtime.calltable import DICT, LEAF, LIST, TUPLE, Order
from symgrad.ir.errors import DTypeError, ShapeError, UsageError

Array = np.ndarray[Any, Any]


class Constant:
    """A leaf of a result that does not depend on any array."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class _Leaf:
    """Stands for a leaf of what is returned."""

    number: int


_CONTAINERS: dict[type, int] = {tuple: TUPLE, list: LIST, dict: DICT}
"""What native code puts together."""


class Returned:
    """The structure of what a function returns.

    ``outputs`` has per leaf of ``spec`` its number among the results, or a constant.
    """

    def __init__(self, spec: tree.Spec, outputs: Sequence[int | Constant]) -> None:
        self.spec = spec
        self.outputs = outputs
        self.is_single = outputs == [0] and spec.is_leaf()

    def put_together(self, results: Sequence[Any]) -> Any:
        """What is returned for these results."""
        if self.is_single:
            return results[0]
        filled = [x.value if isinstance(x, Constant) else results[x] for x in self.outputs]
        return tree.unflatten(self.spec, filled)

    def recipe(self, results: int) -> tuple[list[Order], list[Any]] | None:
        """``Interface.recipe`` and its constants; ``None`` if native code knows it not."""
        orders: list[Order] = []
        constants: list[Any] = []

        def constant(value: Any) -> None:
            orders.append(Order(LEAF, results + len(constants)))
            constants.append(value)

        def visit(thing: Any) -> bool:
            if type(thing) is _Leaf:
                leaf = self.outputs[thing.number]
                if isinstance(leaf, Constant):
                    constant(leaf.value)
                else:
                    orders.append(Order(LEAF, leaf))
                return True
            if thing is None:
                constant(None)
                return True
            kind = _CONTAINERS.get(type(thing))
            things = list(thing.values()) if kind == DICT else thing
            if kind is None or not all(map(visit, things)):
                return False
            orders.append(Order(kind, len(things), tuple(thing) if kind == DICT else ()))
            return True

        form = tree.unflatten(self.spec, [_Leaf(i) for i in range(len(self.outputs))])
        return (orders, constants) if visit(form) else None

    # -- results in given arrays -----------------------------------------------------------

    def places(self, name: str, out: Any, count: int) -> list[Array | None]:
        """The arrays of ``out`` by the number of the result, ``None`` for a fresh one.

        ``out`` has the structure of what is returned, with ``None`` where nothing is given;
        a plain ``None`` gives nothing at all.  Raises ``UsageError`` for any other structure.
        """
        found: list[Array | None] = [None] * count
        if out is None:
            return found
        try:
            given = self.spec.flatten_up_to(out)
        except ValueError:
            raise UsageError(
                f"{name}: out must have the structure of the result, {self.text()}, with an array "
                f"or None in each place; got {tree.flatten(out)[1]}"
            ) from None
        for leaf, place in zip(self.outputs, given, strict=True):
            if place is None:
                continue
            if isinstance(leaf, Constant):
                raise UsageError(
                    f"{name}: out has an array where the result is always {leaf.value!r}; "
                    "pass None there"
                )
            if not isinstance(place, np.ndarray):
                raise UsageError(
                    f"{name}: out must hold arrays or None, got a {type(place).__name__}"
                )
            found[leaf] = place
        return found

    def text(self) -> str:
        """The structure in Python's notation."""
        return str(self.spec).removeprefix("PyTreeSpec(").removesuffix(", namespace='symgrad')")


def check_places(name: str, places: Sequence[Array | None], types: Sequence[Any]) -> None:
    """Raises unless every given array can take its result: dtype, shape, writeable, its own."""
    for number, (array, type_) in enumerate(zip(places, types, strict=True)):
        if array is None:
            continue
        where = f"{name}: result {number} is {type_}, but out"
        if array.dtype != type_.dtype.numpy:
            raise DTypeError(f"{where} has an array of {array.dtype}; pass one of the same dtype")
        if array.shape != type_.shape:
            raise ShapeError(f"{where} has an array of shape {array.shape}; pass one of its shape")
        if not array.flags.writeable:
            raise UsageError(f"{where} has an array that is read-only; pass one to write to")
        for other in places[:number]:
            if other is not None and np.shares_memory(array, other):
                raise UsageError(f"{where} has an array that overlaps with one for another result")


def filled(places: Sequence[Array | None], results: Sequence[Any]) -> list[Any]:
    """The results, those with a place copied there."""
    made = list(results)
    for number, place in enumerate(places):
        if place is not None:
            place[...] = made[number]
            made[number] = place
    return made
