"""Functions called before and after a module's forward and backward pass."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from symgrad.tensors import Tensor
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tracing import emit

Hook = Callable[..., Any]
_numbers = itertools.count()


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook away again."""

    def __init__(self, hooks: OrderedDict[int, Any]) -> None:
        self._hooks = hooks
        self.id = next(_numbers)

    def remove(self) -> None:
        """Takes the hook away."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def register(hooks: OrderedDict[int, Any], entry: Any, *, prepend: bool = False) -> RemovableHandle:
    """Adds a hook at the end of ``hooks``, or with ``prepend`` at their beginning."""
    handle = RemovableHandle(hooks)
    hooks[handle.id] = entry
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


class ModuleHooks:
    """The hooks of a module, by what they are called around and when."""

    __slots__ = ("backward", "backward_pre", "forward", "forward_pre")

    def __init__(self) -> None:
        self.forward_pre: OrderedDict[int, Any] = OrderedDict()
        self.forward: OrderedDict[int, Any] = OrderedDict()
        self.backward_pre: OrderedDict[int, Any] = OrderedDict()
        self.backward: OrderedDict[int, Any] = OrderedDict()


class BackwardHooks:
    """The backward hooks of one call of a module, set off by the cotangents as they pass.

    Output and input pass through copies whose cotangents are watched.  The cotangents of
    several inputs become known at different times, while a hook sees and replaces all of them
    at once: so one input at most may be differentiated.
    """

    def __init__(self, module: Any, before: list[Hook], after: list[Hook]) -> None:
        self._module, self._before, self._after = module, before, after
        self._grad_output: tuple[Any, ...] = ()
        self._position: int | None = None
        self._count = 0

    def inputs(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs, watched."""
        watched = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
        self._count = len(inputs)
        if not (self._after and watched):
            return inputs
        if len(watched) > 1:
            raise RuntimeError(
                f"full backward hooks of {type(self._module).__name__}: {len(watched)} inputs "
                "require a gradient, one at most can be watched; use tensor.register_hook"
            )
        (self._position,) = watched
        copy = _watched(inputs[self._position], self._input_gradient)
        return (*inputs[: self._position], copy, *inputs[self._position + 1 :])

    def output(self, output: Any) -> Any:
        """The output, watched: a tensor, or a tuple with one that requires a gradient."""
        results = output if isinstance(output, tuple) else (output,)
        tracked = [i for i, y in enumerate(results) if isinstance(y, Tensor) and y.requires_grad]
        if not tracked:
            return output
        if len(tracked) > 1:
            raise RuntimeError(
                f"full backward hooks of {type(self._module).__name__}: {len(tracked)} outputs "
                "require a gradient, one at most can be watched; use tensor.register_hook"
            )
        place = tracked[0]

        def visit(gradient: Tensor) -> Any:
            self._grad_output = tuple(gradient if i == place else None for i in range(len(results)))
            for hook in self._before:
                changed = hook(self._module, self._grad_output)
                if changed is not None:
                    self._grad_output = changed if isinstance(changed, tuple) else (changed,)
            if self._after and self._position is None:
                for hook in self._after:
                    hook(self._module, (None,) * self._count, self._grad_output)
            return self._grad_output[place]

        copies = list(results)
        copies[place] = _watched(results[place], visit)
        return tuple(copies) if isinstance(output, tuple) else copies[0]

    def _input_gradient(self, gradient: Tensor) -> Any:
        place = self._position
        given: tuple[Any, ...] = tuple(gradient if i == place else None for i in range(self._count))
        for hook in self._after:
            changed = hook(self._module, given, self._grad_output)
            if changed is not None:
                given = changed if isinstance(changed, tuple) else (changed,)
        return given[place or 0]


def _identity(x: Any) -> Any:
    return emit("identity", x)


def _watched(tensor: Tensor, visit: Hook) -> Tensor:
    copy: Tensor = apply("BackwardHookFunctionBackward", _identity, (tensor,), saves=NOTHING)
    copy.register_hook(visit)
    return copy
