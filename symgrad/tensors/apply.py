"""From a function on traced values to an operation on tensors.

``apply`` records the operation, decides whether the result is tracked, and leaves a node
saying what it was.  ``write`` is where every in-place operation ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from symgrad.ir import Value, dtype_of
from symgrad.tensors import anomaly, dtypes, templates
from symgrad.tensors.contents import Handle, alias, unseen_write
from symgrad.tensors.halves import HALVES, common_half, rounded
from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import Node, kind_of_node, make_node, saved
from symgrad.tensors.plans import OTHERS, Plan, note
from symgrad.tensors.record import RECORDER, recording
from symgrad.tensors.state import is_grad_enabled
from symgrad.tensors.templates import Fresh, Output, Template, View
from symgrad.tracer import Tracer
from symgrad.tracing import stage

NOTHING, INPUTS, RESULT = "", "inputs", "result"
"""What a derivative reads: nothing, the operands, of a product the ``OTHERS``, the result."""
Saves = str | tuple[Tensor, ...]
"""One of these, or the operands themselves."""


def apply(
    name: str,
    function: Callable[..., Any],
    operands: Sequence[Any],
    *,
    saves: Saves = INPUTS,
    parents: Sequence[Any] | None = None,
    state: Sequence[Any] | None = None,
    views: bool = False,
    wide: bool = True,
    dtype: Any = None,
) -> Any:
    """The result of ``function`` on the operands' values, with ``grad_fn`` ``name``.

    Operands that are tensors arrive as tracers, others as they are.  ``function`` must depend
    on nothing else that can change: it is run once for operands alike, see ``templates``.
    Results share the memory of an operand that they show only if they are ``views``.
    ``parents`` are the operands that ``next_functions`` shows (all tensors unless given).
    Where ``state`` is given, results after the first, such as the statistics of a batch, are
    not differentiable; the next program computes them with whatever else it does.  ``state``
    has the operands that take them over, in order.

    Half types are computed in float32, as ``halves`` says; operands arrive in float32 unless
    the function only moves elements or multiplies matrices, and is not ``wide``.  ``dtype`` is
    the NumPy dtype of floating results if it is not the operands' common one.
    """
    operation = _Operation(name, operands, saves, parents, state, views)
    if not views:
        function = operation.rounding(function, wide, dtype)
    template = operation.template(function)
    plan = None
    if template is None:
        with recording():
            made = function(*operation.inputs)
        results = operation.wrapped(made)
    elif (plan := operation.plan(template)) is not None:
        results = operation.planned(plan, template)
    else:
        results = operation.recorded(template)
    note(plan if template is not None and not template.lifted else None, operation.tensors, results)
    return results


def record(function: Callable[..., Any], operands: Sequence[Value]) -> Sequence[Value]:
    """Records what ``function``, from traced values to new ones, makes of ``operands``.

    No derivative passes through it; as in ``apply``, it is run once for operands alike.
    """
    template = templates.find_for(function, operands)
    if template is not None:
        return template.record(operands, operands)
    with recording():
        made = function(*[Tracer(RECORDER, v) for v in operands])
        return [RECORDER.builder.emit("stop_gradient", x.value) for x in made]


def update_state(target: Tensor, value: Value) -> None:
    """Gives state that is not differentiated, such as running statistics, its next value.

    It is computed with the next program.
    """
    target._take(value)
    Tensor._await((target,))


class _Operation:
    """One operation on tensors: its operands, and the node its results will have."""

    __slots__ = (
        "_name", "_node", "_saves", "_shown", "_state", "_tracked", "_views", "_wanted", "inputs",
        "tensors",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        operands: Sequence[Any],
        saves: Saves,
        shown: Sequence[Any] | None,
        state: Sequence[Any] | None,
        views: bool,
    ) -> None:
        self._views = views
        self._name, self._saves, self._shown, self._state = name, saves, shown, state
        self.tensors = [x for x in operands if isinstance(x, Tensor)]
        self.inputs = [x._tracer if isinstance(x, Tensor) else x for x in operands]
        self._wanted = any(t.requires_grad for t in self.tensors)
        self._tracked = self._wanted and is_grad_enabled()
        self._node: Node | None = None

    def rounding(self, function: Callable[..., Any], wide: bool, dtype: Any) -> Callable[..., Any]:
        """``function`` computing in float32 where these operands, or results, are of half types."""
        types = [x._tracer._value.type for x in self.tensors]
        if dtype is None:
            if not any(t.dtype in HALVES for t in types):
                return function
            dtype = dtypes.promote(self.tensors)
        result, wide = dtype_of(dtype), wide and common_half(types) is not None
        return rounded(function, result, wide) if wide or result in HALVES else function

    def template(self, function: Callable[..., Any]) -> Template | None:
        """What the function records for such operands, if that is known."""
        kinds = [x._value.type if isinstance(x, Tracer) else None for x in self.inputs]
        limit = None if self._state is None else 1
        tracked = 0 if self._wanted and not self._tracked else limit
        return templates.find(function, self.inputs, kinds, tracked)

    def plan(self, template: Template) -> Plan | None:
        """The operation without its operands; ``None`` if it is more than a template tells."""
        if not all(isinstance(output, Fresh) for output in template.outputs):
            return None
        places = {id(t): place for place, t in enumerate(self.tensors)}
        reads: Sequence[Any] = self._saves if isinstance(self._saves, tuple) else ()
        state = self._state or ()
        named = (*(self._shown or ()), *reads, *state)
        if any(isinstance(x, Tensor) and id(x) not in places for x in named):
            return None
        if self._saves == INPUTS:
            reads = self.tensors
        kinds = [v.type.dtype.kind for v in template.region.results]
        tracked = [
            self._tracked and kind in "fc" and not self._is_state(place)
            for place, kind in enumerate(kinds)
        ]
        rest = len(kinds) - 1 if self._state is not None else 0
        return Plan(
            template.region,
            template.constants,
            kind_of_node(self._name) if any(tracked) else None,
            tuple(tracked),
            None if self._shown is None else tuple([places.get(id(x)) for x in self._shown]),
            OTHERS if self._saves == OTHERS else tuple([places[id(x)] for x in reads]),
            reads_result=self._saves == RESULT,
            saves=self._saves != NOTHING,
            state=tuple([places.get(id(x)) for x in (*state, *[None] * rest)][:rest]),
            is_single=template.is_single,
        )

    def planned(self, plan: Plan, template: Template) -> Any:
        """The results by way of the plan."""
        values = [t._value() for t in self.tensors]
        return plan.record(self.tensors, template.with_numbers(values, self.inputs))

    def recorded(self, template: Template) -> Any:
        """The results by way of the template."""
        with recording():
            values = template.record([t._value() for t in self.tensors], self.inputs)
            results = [self._output(x, i, values) for i, x in enumerate(template.outputs)]
        self._take_over(results)
        return results[0] if template.is_single else tuple(results)

    def wrapped(self, made: Any) -> Any:
        """The results of having called the function itself."""
        if not isinstance(made, (tuple, list)):
            return self._wrap(made)
        results = [self._wrap(m, i) if isinstance(m, Tracer) else m for i, m in enumerate(made)]
        self._take_over(results)
        return tuple(results)

    def _take_over(self, results: list[Any]) -> None:
        """Gives operands the results that are their next values, and returns them instead."""
        if self._state is None:
            return
        for place in range(1, len(results)):
            new = results[place]
            taker = self._state[place - 1] if place <= len(self._state) else None
            if not isinstance(new, Tensor) or any(new is t for t in self.tensors):
                continue
            if isinstance(taker, Tensor):
                update_state(taker, new._value())
                results[place] = taker
            else:
                Tensor._await((new,))

    def _is_state(self, place: int) -> bool:
        return self._state is not None and place > 0

    def _output(self, output: Output, place: int, values: Sequence[Value]) -> Any:
        if isinstance(output, Fresh) or (isinstance(output, View) and not self._views):
            return self._finished(Tensor(Handle(values[output.index])), place)
        if isinstance(output, View):
            base = self.inputs[output.operand]
            read, write = output.read, output.write
            if self._wanted and not self._tracked:
                read, write = _detached(read), unseen_write(write)
            made = Tracer(RECORDER, values[output.index])
            made.as_view_of(base, read, write, output.key)
            return self._finished(self._view(made), place)
        if output.operand is None:
            return output.value
        given = self.inputs[output.operand]
        return self._wrap(given, place) if isinstance(given, Tracer) else given

    def _wrap(self, made: Tracer, place: int = 0) -> Tensor:
        """A result of the function, the one in this place, as a tensor."""
        if self._is_state(place):
            for tensor in self.tensors:
                if tensor._tracer is made:  # state that stays as it was
                    return tensor
        tracked = self._tracked and made._kind in "fc" and not self._is_state(place)
        with recording():
            if self._views and any(made is x for x in self.inputs):
                made = alias(made)
            view = made._view if self._views else None
            if view is not None:
                if self._wanted and not tracked:
                    view.read, view.write = _detached(view.read), unseen_write(view.write)
                    made._value = view.read(view.base)._value
                return self._finished(self._view(made), place)
            value = made.value
            if value.op is None or any(
                isinstance(x, Tracer) and value is x._value for x in self.inputs
            ):
                value = RECORDER.builder.emit("identity", value)
            if self._wanted and not tracked:
                value = RECORDER.builder.emit("stop_gradient", value)
            return self._finished(Tensor(Handle(value)), place)

    def _view(self, made: Tracer) -> Tensor:
        result = Tensor(made)
        shown = made._view.base if made._view is not None else None
        base = next((t for t in self.tensors if t._tracer is shown), None)
        if base is not None:
            if self._tracked or not self._wanted:  # else the view stays outside the graph
                result._base = base if base._base is None else base._base
                result._seen = base._version
                if base._by_hand is not None:
                    result._by_hand = base._by_hand
            else:
                result._is_left_out = True
        return result

    def _finished(self, result: Tensor, place: int) -> Tensor:
        """The tensor with its node, if it is tracked."""
        if self._tracked and result._kind in "fc" and not self._is_state(place):
            if self._node is None:
                shown = self.tensors if self._shown is None else self._shown
                edges = [x._edge() if isinstance(x, Tensor) else None for x in shown]
                self._node = make_node(self._name, edges, saves=self._saves != NOTHING)
                self._node.saved = saved(_read(self.tensors, self._saves))
            result._node = self._node
            if self._saves == RESULT:
                self._node.save(result)
            anomaly.note(self._node, result)
        return result


def _detached(read: Callable[[Tracer], Tracer]) -> Callable[[Tracer], Tracer]:
    """A way to read a view that no derivative passes through."""
    return lambda base: stage("stop_gradient", read(base))


def _read(tensors: Sequence[Tensor], saves: Saves) -> list[Tensor]:
    """The operands that the derivative reads."""
    if isinstance(saves, tuple):
        return list(saves)
    if saves == INPUTS:
        return list(tensors)
    if saves == OTHERS:
        tracked = [t.requires_grad for t in tensors]
        return [t for i, t in enumerate(tensors) if any(tracked[:i] + tracked[i + 1 :])]
    return []


def write(target: Tensor, new: Tensor, name: str = "") -> Tensor:
    """``target`` takes over the value of ``new``: dtype and shape must be fitting."""
    target._check_writable(new.requires_grad)
    if new.shape != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape "
            f"{list(new.shape)}"
        )
    tracked = is_grad_enabled() and (new.requires_grad or target.requires_grad)
    base, node = target._base, new._node
    before = target._edge() if base is None else base._edge()
    target._replace(new, seen=tracked)
    if not tracked:
        Tensor._await((target,) if base is None else (target, base))
        return target
    if node is None or name:
        node = make_node(name or "CopyBackwards", (before, new._edge()))
    if base is None:
        target._node = node
    else:
        base._node = make_node("CopySlices", (before, node))
        target._node = make_node("AsStridedBackward0", (base._node,))
        target._seen = base._version
        base._retain_anew()
    target._retain_anew()
    return target
