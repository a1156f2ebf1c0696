"""Functions that backward passes call with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
