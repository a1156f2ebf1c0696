"""Tensor functions and methods on traced values, in functions that ``jit`` or ``grad`` trace.

Such a function runs on stand-ins: tensors of the same types whose contents nobody can see.
What it records of them is then put into the trace.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from symgrad import tree
from symgrad.dispatch import HANDLERS
from symgrad.ir import Value
from symgrad.ir.errors import UsageError
from symgrad.tensors.contents import Handle
from symgrad.tensors.graphs import ancestors, spliced
from symgrad.tensors.handle import Tensor
from symgrad.tensors.namespaces import Namespace
from symgrad.tensors.nodes import make_node
from symgrad.tensors.plans import FUNCTIONS_BEHIND, remembered
from symgrad.tensors.record import RECORDER
from symgrad.tensors.recorded import Unknown, array_of, contents_of, leaf_of
from symgrad.tensors.state import is_grad_enabled
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, _active, current_trace

_LOOKED_AT = (
    "a value was looked at that is not known while tracing; choose with torch.where, or keep this "
    "out of the function that is traced"
)
_REFUSED = frozenset(
    "backward requires_grad requires_grad_ retain_grad retains_grad register_hook grad grad_fn "
    "is_leaf register_post_accumulate_grad_hook".split()
)


def on_traced(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function`` of tensors on arguments among which there are traced values; so are its
    results."""
    trace = current_trace()
    if trace is None:
        raise UsageError(
            "a traced value was used when the function it belongs to had been traced already"
        )
    return _Call(trace)(function, args, kwargs)


class _Call:
    """One call: its stand-ins, and what they stand for."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._tracers: dict[int, tuple[Tracer, Tensor]] = {}
        """Stand-ins by the traced values that they stand for."""
        self._inputs: dict[int, tuple[Value, Any]] = {}
        """What a recorded value is in the trace: a traced value, or a tensor that it captures."""

    def __call__(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        new_args, new_kwargs = tree.map_leaves(self._given, (args, kwargs))
        result = function(*new_args, **new_kwargs)
        written = [(x, t) for x, t in self._tracers.values() if self._seen(t) is not x]
        leaves, spec = tree.flatten(result)
        tensors = [y for y in leaves if isinstance(y, Tensor)]
        traced = self._traced([y._value() for y in (*tensors, *[t for _, t in written])])
        for (x, _), value in zip(written, traced[len(tensors) :], strict=True):
            x.rebind(Tracer(self._trace, value))
        values = iter(traced)
        return tree.unflatten(
            spec, [self._result(y, next(values)) if isinstance(y, Tensor) else y for y in leaves]
        )

    def _given(self, x: Any) -> Any:
        """What stands for an argument."""
        if isinstance(x, Tensor):
            value = x._value()
            self._inputs[id(value)] = value, x
        if not isinstance(x, Tracer):
            return x
        if id(x) not in self._tracers:
            value = leaf_of(Unknown(_LOOKED_AT), x.value.type)
            stand_in = Tensor(Handle(value))
            if x._kind == "f" and is_grad_enabled():  # else writes to it would go unseen
                stand_in._node = make_node("", ())
            self._tracers[id(x)] = x, stand_in
            self._inputs[id(value)] = value, x
        return self._tracers[id(x)][1]

    def _seen(self, tensor: Tensor) -> Any:
        """What a tensor's value is in the trace, if it came with an argument."""
        return self._inputs.get(id(tensor._value()), (None, None))[1]

    def _is_input(self, value: Value) -> bool:
        return value.op is None or id(value) in self._inputs

    def _traced(self, values: Sequence[Value]) -> list[Value]:
        """The values in the trace."""
        ops = ancestors(values, follow=lambda v: not self._is_input(v))
        made = spliced(
            self._trace.builder, ops, values, self._is_input,
            lambda v: self._trace.lift(self._outside(v)),
        )  # fmt: skip
        return [self._trace.untracked(v) for v in made]

    def _outside(self, value: Value) -> Any:
        _, known = self._inputs.get(id(value), (value, None))
        return array_of(contents_of(value)) if known is None else known  # type: ignore[arg-type]

    def _result(self, made: Tensor, value: Value) -> Tracer:
        """A traced result: an argument itself, a view of one, or new."""
        shown, view = made._tracer, made._tracer._view
        for x, stand_in in self._tracers.values():
            if made is stand_in:
                return x
        result = Tracer(self._trace, value)
        for x, stand_in in self._tracers.values():
            if view is not None and view.base is stand_in._tracer:
                return result.as_view_of(x, view.read, view.write, view.key)
            if made._root() is stand_in._tracer and shown is not stand_in._tracer:
                return result.as_view_of(x, _through(made._tracer, stand_in._tracer), None)
        return result


def _through(tracer: Tracer, base: Tracer) -> Callable[[Tracer], Tracer]:
    """Reads a view of a view, from the memory that they show."""
    reads = []
    while tracer is not base and (view := tracer._view) is not None:
        reads.append(view.read)
        tracer = view.base
    return lambda x: functools.reduce(lambda y, read: read(y), reversed(reads), x)


def takes_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of tensors, for traced values, too."""
    if function in FUNCTIONS_BEHIND:  # its plans let no traced value pass
        return remembered(takes_traced(FUNCTIONS_BEHIND[function]))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _active.traces and _holds_traced((*args, *kwargs.values())):
            return on_traced(function, *args, **kwargs)
        return function(*args, **kwargs)

    return call


def _holds_traced(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_holds_traced, x))
    return isinstance(x, Tracer) and x.trace is not RECORDER


def with_traced(names: dict[str, Any]) -> dict[str, Any]:
    """Names of functions, and of namespaces of such, which take traced values then, too."""
    return {
        name: type(x)(**with_traced(vars(x))) if isinstance(x, Namespace)
        else takes_traced(x) if isinstance(x, FunctionType)
        else x
        for name, x in names.items()
    }  # fmt: skip


def attribute(tracer: Tracer, name: str) -> Any:
    """An attribute of tensors that arrays do not have, of a traced value.

    Raises ``AttributeError`` where tensors have none, and ``UsageError`` where a traced value
    cannot have it.
    """
    found = getattr(Tensor, name, None)
    if found is None:
        raise AttributeError(f"'{type(tracer).__name__}' object has no attribute '{name}'")
    if name in _REFUSED:
        raise UsageError(
            f"{name}: derivatives in functions that are traced are asked for by their transforms, "
            "symgrad.grad and the like"
        )
    if name in ("detach", "detach_", "data"):
        outside = Tracer(tracer.trace, tracer.trace.builder.emit("stop_gradient", tracer.value))
        return outside if name == "data" else lambda: outside
    if isinstance(found, property):
        return on_traced(found.fget, tracer)  # type: ignore[arg-type]
    return functools.partial(on_traced, found, tracer)


HANDLERS["on tensors"] = on_traced
HANDLERS["attribute of tensors"] = attribute
HANDLERS["is_grad_enabled"] = is_grad_enabled
