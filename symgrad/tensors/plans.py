"""Operations found again by the arguments of the functions that record them.

A tensor function checks its arguments, promotes types, chooses the name of ``grad_fn`` and
ends in one ``apply``.  What comes of all this depends on the kinds of its arguments: on the
types of the tensors and the values of the others.  ``remembered`` keeps it under these as a
``Plan``, so that a call with arguments alike records at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from symgrad.bounded import Bounded
from symgrad.ir import Value
from symgrad.ir.graph import Region
from symgrad.tensors import anomaly, dtypes
from symgrad.tensors.contents import Handle
from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import Node, saved
from symgrad.tensors.record import RECORDER
from symgrad.tensors.recorded import Recorded
from symgrad.tensors.several import edges_of
from symgrad.tensors.state import MODE

F = TypeVar("F", bound=Callable[..., Any])

LIMIT = 4096
"""Plans kept."""
OTHERS = "others"

FUNCTIONS_BEHIND: dict[Callable[..., Any], Callable[..., Any]] = {}
"""The functions that ``remembered`` ones stand for."""


@dataclass(slots=True)
class Plan:
    """What an operation on tensors of certain types records and returns.

    All its results have memory of their own.  Operands are told by their places among the
    tensors that it is given.
    """

    region: Region
    constants: tuple[Recorded, ...]
    """Operands of the region after the given ones."""
    kind: type[Node] | None
    """The node of results that are tracked, if any is."""
    tracked: tuple[bool, ...]
    """Which results are."""
    parents: tuple[int | None, ...] | None
    """What the node shows: these operands, ``None`` for a number; all unless given."""
    reads: tuple[int, ...] | str
    """The operands that the derivative reads; ``OTHERS``: of a product the other ones."""
    reads_result: bool
    saves: bool
    """Whether the derivative reads anything."""
    state: tuple[int | None, ...]
    """For each of the last results that are state the operand that takes it over, if any."""
    is_single: bool
    """Whether a bare result is returned in place of a tuple."""
    order: tuple[int, ...] | None = None
    """The places of the region's operands among a function's arguments, unless as they come."""

    def record(self, tensors: Sequence[Tensor], values: Sequence[Value]) -> Any:
        """Records the operation on tensors, which have these values; returns its results."""
        made = RECORDER.builder.record(self.region, (*values, *self.constants))
        node = None if self.kind is None else self._node(self.kind, tensors)
        if self.is_single:
            return self._result(made[0], node, self.tracked[0])
        count = len(made) - len(self.state)
        results = [self._result(made[i], node, self.tracked[i]) for i in range(count)]
        for value, taker in zip(made[count:], self.state, strict=True):
            if taker is None:
                results.append(Tensor.of_value(value))
            else:
                tensors[taker]._take(value)
                results.append(tensors[taker])
        Tensor._await(results[count:])
        return tuple(results)

    def _result(self, value: Value, node: Node | None, tracked: bool) -> Tensor:
        if node is None or not tracked:
            return Tensor.of_value(value)
        result = Tensor.of_value(value, node)
        if self.reads_result:
            node.save(result)
        if anomaly.is_anomaly_enabled():
            anomaly.note(node, result)
        return result

    def _node(self, kind: type[Node], tensors: Sequence[Tensor]) -> Node:
        edges = edges_of(tensors)
        parents: Sequence[Node | None] = edges
        if self.parents is not None:
            parents = [None if place is None else edges[place] for place in self.parents]
        if self.reads is OTHERS:
            needed = [e is not None for e in edges]
            read = [t for i, t in enumerate(tensors) if any(needed[:i]) or any(needed[i + 1 :])]
        else:
            read = [tensors[place] for place in self.reads]  # type: ignore[index]
        return kind(tuple(parents), self.saves, saved(read))


# -- by the arguments of functions ---------------------------------------------------------

_NONE = "none"
_plans: Bounded[Plan | str] = Bounded(LIMIT)
"""Plans by functions and their arguments; ``_NONE`` where more is done than one operation."""
_watching: list[list[tuple[Plan | None, Sequence[Tensor], Any]]] = []
"""What operations were recorded while functions run whose plans are not known."""

_PLAIN = frozenset({int, float, bool, str, type(None), dtypes.dtype})
"""Types of arguments that are told apart by value and type."""


def remembered(function: F) -> F:
    """Declares that what a function does depends on the kinds of its arguments alone.

    It must not look at the contents of tensors, where they lie or what they come from.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values()) if kwargs else args
        tensors: list[Tensor] = []
        values: list[Value] = []
        kinds: list[Any] = []
        wanted = False
        for x in given:
            if isinstance(x, Tensor):
                tracer = x._tracer
                is_plain = type(tracer) is Handle and tracer._shared is None
                value = tracer._value if is_plain else x._value()
                tensors.append(x)
                values.append(value)
                kinds.append(value.type)
                if not wanted:
                    wanted = x._node is not None or x._requires_grad
                    wanted = wanted or (x._base is not None and x.requires_grad)
            elif (kind := type(x)) in _PLAIN:
                kinds += (kind, x or str(x))  # tells 0.0 from -0.0
            elif kind is tuple:
                for item in x:
                    if type(item) is not int:
                        return function(*args, **kwargs)
                kinds.append(x)
            else:
                return function(*args, **kwargs)
        if not tensors or _watching:
            return function(*args, **kwargs)
        key = (
            function, wanted and (1 + MODE.tracking), dtypes.Default.dtype,
            *kinds, *kwargs,
        )  # fmt: skip
        plan = _plans.get(key) or _plans.get(key := _with_repeats(key, tensors))
        if plan is None:
            return _learnt(function, args, kwargs, key, tensors)
        if not isinstance(plan, Plan):
            return function(*args, **kwargs)
        if plan.order is not None:
            tensors = [tensors[place] for place in plan.order]
            values = [values[place] for place in plan.order]
        return plan.record(tensors, values)

    FUNCTIONS_BEHIND[call] = function
    return call  # type: ignore[return-value]


def note(plan: Plan | None, tensors: Sequence[Tensor], result: Any) -> None:
    """Tells of an operation that was recorded, by a plan or without one."""
    for seen in _watching:
        seen.append((plan, tensors, result))


def _learnt(
    function: Callable[..., Any], args: Any, kwargs: Any, key: Any, tensors: Sequence[Tensor]
) -> Any:
    """Calls a function, and keeps the plan of what it does if that is one operation."""
    seen: list[tuple[Plan | None, Sequence[Tensor], Any]] = []
    _watching.append(seen)
    try:
        result = function(*args, **kwargs)
    finally:
        _watching.remove(seen)
    plan, operands, made = seen[0] if len(seen) == 1 else (None, (), None)
    places = {id(t): place for place, t in enumerate(tensors)}
    # What depends on tensors that are no operands would be taken for a constant.
    if plan is None or made is not result or places.keys() != {id(t) for t in operands}:
        _plans[key] = _NONE
    else:
        order = tuple([places[id(t)] for t in operands])
        in_order = order == tuple(range(len(order)))
        _plans[key] = dataclasses.replace(plan, order=None if in_order else order)
    return result


def _with_repeats(key: Any, tensors: Sequence[Tensor]) -> Any:
    """``key``, and which arguments are one tensor where some are: operands are told by it."""
    first: dict[int, int] = {}
    pattern = tuple([first.setdefault(id(t), place) for place, t in enumerate(tensors)])
    return key if len(first) == len(tensors) else (key, pattern)
