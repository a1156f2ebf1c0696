"""From a function on traced values to an operation on tensors.

``apply`` records the operation, decides whether the result is tracked, and leaves a node
saying what it was.  ``write`` is where every in-place operation ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from symgrad.tensors.handle import Handle, Tensor, alias
from symgrad.tensors.nodes import Node, Saved, make_node
from symgrad.tensors.record import RECORDER, recording
from symgrad.tensors.state import is_grad_enabled
from symgrad.tracer import Tracer

NOTHING, INPUTS, OTHERS, RESULT = "", "inputs", "others", "result"
"""What a derivative reads: nothing, the operands, of a product the others, the result."""


def stage(name: str, *operands: Any, **attrs: Any) -> Any:
    """One IR op on traced values."""
    return RECORDER.stage(name, *operands, **attrs)


def apply(
    name: str,
    function: Callable[..., Any],
    operands: Sequence[Any],
    *,
    saves: str = INPUTS,
    parents: Sequence[Any] | None = None,
) -> Any:
    """The result of ``function`` on the operands' values, with ``grad_fn`` ``name``.

    Operands that are tensors arrive as tracers, others as they are.  ``parents`` are the
    operands that ``next_functions`` shows (all tensors unless given).
    """
    tensors = [x for x in operands if isinstance(x, Tensor)]
    wanted = any(t.requires_grad for t in tensors)
    with recording():
        inputs = [x._tracer if isinstance(x, Tensor) else x for x in operands]
        made = function(*inputs)
    shown = tensors if parents is None else parents
    if isinstance(made, (tuple, list)):
        node = None
        results = []
        for m in made:
            if not isinstance(m, Tracer):
                results.append(m)
                continue
            result, node = _wrapped(m, name, inputs, tensors, shown, wanted, saves, node)
            results.append(result)
        return tuple(results)
    return _wrapped(made, name, inputs, tensors, shown, wanted, saves, None)[0]


def nn_function(name: str, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Records a function of ``symgrad.nn``.

    Of several results, such as a normalised batch and its statistics, the first is tracked.
    """
    results = apply(name, function, arguments)
    if not isinstance(results, tuple):
        return results
    first, *others = results
    for i, state in enumerate(others):
        if isinstance(state, Tensor):
            value = RECORDER.builder.emit("stop_gradient", state._value())
            others[i] = kept = Tensor(Handle(value))
            Tensor._ends.append(weakref.ref(kept))  # state: computed with the next program
    return first, *others


def _wrapped(
    made: Tracer,
    name: str,
    inputs: Sequence[Any],
    tensors: Sequence[Tensor],
    shown: Sequence[Any],
    wanted: bool,
    saves: str,
    node: Node | None,
) -> tuple[Tensor, Node | None]:
    view = made._view
    tracked = wanted and is_grad_enabled() and made.dtype.kind in "fc"
    with recording():
        if any(made is x for x in inputs):
            made = alias(made)
            view = made._view
        if view is not None:
            if wanted and not tracked:
                read = view.read
                view.read = lambda base: stage("stop_gradient", read(base))
                made._value = view.read(view.base)._value
            result = Tensor(made)
            base = next((t for t in tensors if t._tracer is view.base), None)
            if base is not None:
                result._origin = base._origin
                if tracked or not wanted:  # else the view stays outside the graph
                    result._base = base if base._base is None else base._base
                    result._seen = base._version
        else:
            value = made.value
            if value.op is None or any(isinstance(x, Tracer) and value is x._value for x in inputs):
                value = RECORDER.builder.emit("identity", value)
            if wanted and not tracked:
                value = RECORDER.builder.emit("stop_gradient", value)
            result = Tensor(Handle(value))
    if tracked:
        if node is None:
            edges = [x._edge() if isinstance(x, Tensor) else None for x in shown]
            node = make_node(name, edges, saves=saves != NOTHING)
            node.saved = tuple(Saved(t, _source(t)) for t in _read(tensors, saves))
        result._node = node
        if saves == RESULT:
            node.saved = (*node.saved, Saved(result, name))
    return result, node


def _source(tensor: Tensor) -> str:
    return "" if tensor._node is None else tensor._node.name()


def _read(tensors: Sequence[Tensor], saves: str) -> list[Tensor]:
    """The operands that the derivative reads."""
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
    before = None if base is None else base._edge()
    target._replace(new)
    if tracked:
        if node is None:  # a constant, or a leaf copied as it is
            node = make_node(name or "CopyBackwards", (new._edge(),))
        if base is None:
            target._node = node
        else:
            base._node = make_node("CopySlices", (before, node))
            target._node = make_node("AsStridedBackward0", (base._node,))
            target._seen = base._version
    return target
