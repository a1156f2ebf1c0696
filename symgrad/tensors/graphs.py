"""Recorded graphs: their ops in order, with numbers that tell equal ones."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from symgrad.ir import Builder, Func, Value
from symgrad.ir.builder import inline
from symgrad.ir.graph import Op
from symgrad.tensors.recorded import PendingOp, Recorded, is_known


class Recording:
    """Recorded ops in order, the values they start from, and a number for every value.

    Results of the ops are numbered 0, 1, ... in order, inputs -1, -2, ... in the order in
    which they are used.  Two recordings whose ``key`` is equal compute the same of the values
    with the same numbers.
    """

    def __init__(
        self,
        ops: Iterable[PendingOp],
        also: Sequence[Value] = (),
        is_input: Callable[[Value], bool] | None = None,
    ) -> None:
        """``also`` are values to number though no op may use them; what ``ops`` make, unless
        ``is_input`` says otherwise, is no input."""
        self.ops = sorted(ops, key=_seq)
        self.inputs: list[Value] = []
        self.results: dict[int, Value] = {}
        """Those results that somebody holds, by number."""
        self._inputs: dict[Value, int] = {}
        self._first: dict[Op, int] = {}
        """The number of an op's first result."""
        operands: list[int] = []
        count = 0
        for op in self.ops:
            self._see(op.operands, is_input, operands)
            self._first[op] = count
            count += len(op.region.results)
        self._see(also, is_input, [])
        # A region tells how many of the operands' numbers are its own.
        regions = tuple([op.region for op in self.ops])
        self.key = tuple([v.type for v in self.inputs]), regions, array("i", operands).tobytes()

    def _see(
        self, values: Sequence[Value], is_input: Callable[[Value], bool] | None, line: list[int]
    ) -> None:
        """Adds the numbers of values, inputs unless an op seen before makes them, to ``line``."""
        inputs, results, first = self._inputs, self.results, self._first
        for value in values:
            maker = value.op
            start = None if maker is None else first.get(maker)
            if start is None or (is_input and is_input(value)):
                number = inputs.get(value)
                if number is None:
                    self.inputs.append(value)
                    number = inputs[value] = -len(self.inputs)
            else:
                number = start + value.index
                results[number] = value
            line.append(number)

    @classmethod
    def behind(cls, results: Sequence[Value]) -> Recording:
        """The pending ops that lead from known values to ``results``."""
        return cls(ancestors(results), is_input=is_known)

    def number(self, value: Value) -> int:
        """The number of a value."""
        known = self._inputs.get(value)
        return self._first[value.op] + value.index if known is None else known  # type: ignore[index]

    def numbered(self, values: Iterable[Value]) -> tuple[int, ...]:
        """The numbers of values."""
        inputs, first = self._inputs, self._first
        numbers = []
        for value in values:
            known = inputs.get(value)
            numbers.append(first[value.op] + value.index if known is None else known)  # type: ignore[index]
        return tuple(numbers)

    def used(self, values: Iterable[Value]) -> list[int]:
        """The places among the inputs of those values that are some, in order."""
        found = [self._inputs.get(v) for v in values]
        return sorted([~number for number in found if number is not None])

    def value(self, number: int) -> Value:
        """The value with a number; a result that nobody holds is made anew."""
        if number < 0:
            return self.inputs[~number]
        if number not in self.results:
            op = next(op for op in reversed(self.ops) if self._first[op] <= number)
            index = number - self._first[op]
            self.results[number] = Recorded(op.region.results[index].type, op, index)
        return self.results[number]

    def splice(
        self, builder: Builder, inputs: Iterable[Value], distinct: Collection[int] = ()
    ) -> dict[int, Value]:
        """Emits all ops on other inputs; returns inputs and results by number.

        Results numbered in ``distinct`` get a name of their own, which a derivative can be
        taken by.
        """
        values = {-i: value for i, value in enumerate(inputs, 1)}
        for op in self.ops:
            made = inline(builder, op.region, [values[self.number(v)] for v in op.operands])
            for number, new in enumerate(made, self._first[op]):
                values[number] = builder.emit("identity", new) if number in distinct else new
        return values

    def function(self, results: Sequence[Value]) -> Func:
        """The recording as a function of its inputs: here ops fold and are shared."""
        builder = Builder(locations=False)
        inputs = [builder.param(v.type, f"t{i}") for i, v in enumerate(self.inputs)]
        values = self.splice(builder, inputs)
        return builder.build([values[n] for n in self.numbered(results)], "tensors")


def ancestors(
    results: Iterable[Value], follow: Callable[[Value], bool] | None = None
) -> list[PendingOp]:
    """The ops that ``results`` come from, going back through values that ``follow`` admits, or
    through those that are pending."""
    found: dict[Any, None] = dict.fromkeys([v.op for v in results if v.op is not None])
    stack = list(found)
    while stack:
        for value in stack.pop().operands:
            maker = value.op
            if maker is None or maker in found:
                continue
            if value.contents is None if follow is None else follow(value):
                found[maker] = None
                stack.append(maker)
    return list(found)


def spliced(
    builder: Builder,
    ops: Iterable[PendingOp],
    values: Sequence[Value],
    is_input: Callable[[Value], bool],
    outside: Callable[[Value], Value],
) -> list[Value]:
    """``values``, made of inputs by ``ops``, in a builder in which inputs are ``outside`` them."""
    graph = Recording(ops, also=values, is_input=is_input)
    made = graph.splice(builder, map(outside, graph.inputs))
    return [made[n] for n in graph.numbered(values)]


def _seq(op: Op) -> int:
    return op.seq
