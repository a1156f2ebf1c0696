"""Modules: named parameters and buffers, and a forward function that uses them.

A module holds NumPy arrays.  ``functional_call`` lends it other values, traced ones
among them, for one forward pass and collects the buffers it leaves behind: that turns
any module into a pure function of (parameters, state, input).

Called with a tensor, or asked for ``parameters()``, a module turns its arrays into
tensors, which it keeps from then on: it is used as torch's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from symgrad.ir.errors import ShapeError, UsageError

Array = Any
"""A NumPy array, or a traced one inside a transformed function."""
M = TypeVar("M", bound="Module")
_lending = threading.RLock()


@dataclass(frozen=True, slots=True)
class Parameter:
    """Marks an array assigned to a module's attribute as one to be trained."""

    data: np.ndarray[Any, Any]


class Module:
    """Base of all layers and models; assign parameters, buffers and submodules in ``__init__``.

    ``self.weight = Parameter(array)`` registers a parameter, ``register_buffer`` state that is
    not trained, any ``Module`` value a submodule.  Reading the attribute gives the array.
    """

    training: bool

    def __init__(self) -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, kind, {})
        object.__setattr__(self, "training", True)
        object.__setattr__(self, "_holds_tensors", False)

    def forward(self, *inputs: Any) -> Any:
        """The computation; define it in the subclass."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *inputs: Any) -> Any:
        if not self._holds_tensors and any(hasattr(type(x), "__nn_function__") for x in inputs):
            self._take_tensors()
        return self.forward(*inputs)

    def _take_tensors(self) -> None:
        """Turns this module's own arrays into tensors; counters stay as they are."""
        from symgrad.tensors import Tensor

        object.__setattr__(self, "_holds_tensors", True)
        for members, learned in ((self._parameters, True), (self._buffers, False)):
            for name, value in members.items():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    members[name] = Tensor.of_array(value.copy(), requires_grad=learned)

    # -- attributes ----------------------------------------------------------------

    def register_parameter(self, name: str, value: np.ndarray[Any, Any] | None) -> None:
        """Adds a parameter; ``None`` says that there is none under this name."""
        self._parameters[name] = value

    def register_buffer(self, name: str, value: np.ndarray[Any, Any] | None) -> None:
        """Adds state that is saved but not trained, such as running statistics."""
        self._buffers[name] = value

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            raise UsageError(f"{type(self).__name__}: call super().__init__() first")
        if isinstance(value, Parameter | Module):
            self.__dict__.pop(name, None)  # a plain value, such as None, it had before
        if isinstance(value, Parameter):
            self._parameters[name] = value.data
            object.__setattr__(self, "_holds_tensors", False)  # this one is an array yet
        elif isinstance(value, Module):
            self._modules[name] = value
        elif name in self._parameters:
            self._parameters[name] = value
        elif name in self._buffers:
            self._buffers[name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        for kind in ("_parameters", "_buffers", "_modules"):
            members = self.__dict__.get(kind, {})
            if name in members:
                return members[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    # -- traversal -------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted names; its own name is ``prefix``."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Dotted names and arrays of all parameters."""
        return self._named("_parameters")

    def parameters(self) -> Iterator[Array]:
        """All parameters, as tensors to be trained."""
        for module in self.modules():
            if not module._holds_tensors:
                module._take_tensors()
        return (value for _, value in self.named_parameters())

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Freezes the parameters, or makes them be trained again."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters, or makes them zero."""
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Dotted names and arrays of all buffers."""
        return self._named("_buffers")

    def _named(self, kind: str) -> Iterator[tuple[str, Array]]:
        for prefix, module in self.named_modules():
            for name, value in module.__dict__[kind].items():
                if value is not None:
                    yield (f"{prefix}.{name}" if prefix else name), value

    def apply(self: M, function: Callable[[Module], None]) -> M:
        """Calls ``function`` on every module below this one, then on itself."""
        for module in self._modules.values():
            module.apply(function)
        function(self)
        return self

    # -- mode and state ---------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Switches to training mode: batch statistics, dropout."""
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self: M) -> M:
        """Switches to evaluation mode: running statistics, no dropout."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Parameters and buffers by dotted name, module by module."""
        return {
            (f"{prefix}.{name}" if prefix else name): value
            for prefix, module in self.named_modules()
            for members in (module._parameters, module._buffers)
            for name, value in members.items()
            if value is not None
        }

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Copies arrays by name, keeping the module's dtypes.

        Raises ``UsageError`` naming missing and unexpected entries (with ``strict``; the
        counters ``num_batches_tracked`` may be missing in old files) and ``ShapeError`` for a
        wrong shape.  Nothing is changed unless everything fits.
        """
        own = self.state_dict()
        missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
        unexpected = [k for k in state if k not in own]
        if strict and (missing or unexpected):
            raise UsageError(
                f"the state does not fit {type(self).__name__}: "
                f"missing {_listed(missing)}, unexpected {_listed(unexpected)}"
            )
        for name, value in state.items():
            if name in own and np.shape(value) != np.shape(own[name]):
                raise ShapeError(f"{name} has shape {np.shape(own[name])}, got {np.shape(value)}")
        for prefix, module in self.named_modules():
            for members in (module._parameters, module._buffers):
                for name, old in members.items():
                    key = f"{prefix}.{name}" if prefix else name
                    if old is not None and key in state:
                        new = state[key]
                        new = new.detach().numpy() if hasattr(new, "detach") else new
                        if isinstance(old, np.ndarray | np.generic):
                            members[name] = np.array(new, dtype=old.dtype)
                        else:
                            old.data = type(old).of_array(np.array(new, dtype=old.dtype.numpy))

    def to(self: M, dtype: Any) -> M:
        """Converts floating parameters and buffers to a dtype, in place."""
        for module in self.modules():
            for members in (module._parameters, module._buffers):
                for name, value in members.items():
                    if value is not None and value.dtype.kind == "f":
                        members[name] = value.astype(dtype)
        return self


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4]) or "nothing"
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def functional_call(
    model: Module, params: Mapping[str, Array], state: Mapping[str, Array], *inputs: Any
) -> tuple[Any, dict[str, Array]]:
    """A module as a pure function: ``(output, new_state)``.

    ``params`` and ``state`` are what ``named_parameters`` and ``named_buffers`` give, by
    name; the module itself is left as it was.  Raises ``UsageError`` unless the names are
    exactly the module's.
    """
    _check_names("params", params, dict(model.named_parameters()))
    _check_names("state", state, dict(model.named_buffers()))
    with _lent(model, params, state):
        output = model(*inputs)
        return output, dict(model.named_buffers())


def _check_names(what: str, given: Mapping[str, Array], own: Mapping[str, Array]) -> None:
    if given.keys() != own.keys():
        missing = [k for k in own if k not in given]
        unexpected = [k for k in given if k not in own]
        raise UsageError(
            f"functional_call: {what} lack {_listed(missing)} and have {_listed(unexpected)} "
            f"that the module does not know; pass dict(model.named_"
            f"{'parameters' if what == 'params' else 'buffers'}())"
        )


@contextmanager
def _lent(model: Module, params: Mapping[str, Array], state: Mapping[str, Array]) -> Iterator[None]:
    """Puts other values in the module's places for a while."""
    with _lending:
        own = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
        try:
            for prefix, module in model.named_modules():
                for members, values in ((module._parameters, params), (module._buffers, state)):
                    for name, value in members.items():
                        if value is not None:
                            members[name] = values[f"{prefix}.{name}" if prefix else name]
            yield
        finally:
            for module, parameters, buffers in own:
                module.__dict__["_parameters"] = parameters
                module.__dict__["_buffers"] = buffers
