"""Functions that backward passes call with gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from symgrad.ir import Value
from symgrad.tensors.record import RECORDER

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor
    from symgrad.tensors.nodes import Node

Hook = Callable[[Any], Any]
Hooks = dict[object, Hook]
"""The hooks of a tensor in their order; the keys mean nothing."""


class Removable:
    """What ``register_hook`` returns."""

    def __init__(self, remove: Callable[[], Any]) -> None:
        self._remove = remove

    def remove(self) -> None:
        """Takes the hook away."""
        self._remove()


def registered(hooks: Hooks, hook: Hook) -> Removable:
    """Adds a hook, which is called as often as it was added; returns how to take it away."""
    key = object()
    hooks[key] = hook
    return Removable(lambda: hooks.pop(key, None))


class Retaining:
    """Keeps the gradient by a tensor's present value: the last of all that watch it."""

    __slots__ = ("_entry", "_node", "_tensor")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._node: Node | None = None
        self._entry: tuple[Value, Callable[[Value], Value]] | None = None

    def watch(self, node: Node, value: Value) -> None:
        """From now on watches ``value``, which ``node`` made."""
        if self._node is not None and self._entry is not None:
            self._node.watchers.remove(self._entry)
        self._node, self._entry = node, (value, self)
        node.watchers.append(self._entry)

    def __call__(self, cotangent: Value) -> Value:
        tensor = self._tensor()
        if tensor is not None:
            new = type(tensor).of_value(RECORDER.builder.emit("stop_gradient", cotangent))
            tensor._grad = new if tensor._grad is None else tensor._grad + new
        return cotangent
