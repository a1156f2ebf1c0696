"""Parameters that are functions of others: reading one computes it from what is trained.

A module with such a parameter is of a class of its own, on which the parameter's name is a
property.  What is trained lies in ``module.parametrizations.<name>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from symgrad.nn.members import BUFFERS, PARAMETERS
from symgrad.nn.module import Module
from symgrad.nn.modules.containers import ModuleDict, ModuleList
from symgrad.nn.parameter import Parameter
from symgrad.tensors import Tensor
from symgrad.tensors.state import no_grad


class _Cache:
    """Parameters that were computed within ``cached``, by module and name."""

    depth = 0
    values: dict[tuple[int, str], Any] = {}  # noqa: RUF012


@contextmanager
def cached() -> Iterator[None]:
    """Computes each parameter once only, however often it is read within the context."""
    _Cache.depth += 1
    try:
        yield
    finally:
        _Cache.depth -= 1
        if not _Cache.depth:
            _Cache.values.clear()


class ParametrizationList(ModuleList):
    """The functions that make one parameter, applied in turn, and what they make it of:
    ``original``, or ``original0``, ``original1`` ... where the first takes several tensors."""

    def __init__(self, modules: list[Module], original: Tensor) -> None:
        super().__init__(modules)
        found: Any = original
        with no_grad():
            for module in reversed(modules):
                if hasattr(module, "right_inverse"):
                    found = module.right_inverse(found)
        self.is_tensor = isinstance(found, Tensor)
        self.ntensors = 1 if self.is_tensor else len(found)
        trained = isinstance(original, Parameter)
        for name, tensor in zip(self._names(), (found,) if self.is_tensor else found, strict=True):
            if tensor is original:  # an optimiser may know it
                setattr(self, name, tensor) if trained else self.register_buffer(name, tensor)
            elif trained:
                setattr(self, name, Parameter(tensor, requires_grad=original.requires_grad))
            else:
                self.register_buffer(name, tensor)

    def _names(self) -> list[str]:
        if self.is_tensor:
            return ["original"]
        return [f"original{i}" for i in range(self.ntensors)]

    def _originals(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names()]

    def right_inverse(self, value: Tensor) -> None:
        """Changes the originals such that the parameter becomes ``value``, as far as it can."""
        found: Any = value
        with no_grad():
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"parametrization {type(module).__name__} does not implement right_inverse."
                    )
                found = module.right_inverse(found)
            given = (found,) if self.is_tensor else found
            for own, new in zip(self._originals(), given, strict=True):
                own.copy_(new)

    def forward(self) -> Any:
        """The parameter."""
        first, *rest = self
        value = first(*self._originals())
        for module in rest:
            value = module(value)
        return value


def _property(name: str) -> property:
    def get(self: Any) -> Any:
        if not _Cache.depth:
            return self.parametrizations[name]()
        key = id(self), name
        if key not in _Cache.values:
            _Cache.values[key] = self.parametrizations[name]()
        return _Cache.values[key]

    def put(self: Any, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, put)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Makes a parameter or buffer what ``parametrization`` makes of it; returns the module.

    With a method ``right_inverse`` the parametrization says what to begin with, and what to do
    if the parameter is assigned.  A second one is applied to the result of the first.  Unless
    ``unsafe`` shape and type must stay.
    """
    if is_parametrized(module, tensor_name):
        made = module.parametrizations[tensor_name]
        with no_grad():
            before = getattr(module, tensor_name)
            if not unsafe:
                _check(parametrization(before), before)
        made.append(parametrization)
        return module
    original = module.__dict__.get(tensor_name)
    if module._members.get(tensor_name) not in (PARAMETERS, BUFFERS) or original is None:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element "
            f"with name '{tensor_name}'"
        )
    made = ParametrizationList([parametrization], original)
    if not unsafe:
        with no_grad():
            _check(made(), original)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        own = type(module)
        module.__class__ = type(f"Parametrized{own.__name__}", (own,), {"_plain_class": own})
        module.parametrizations = ModuleDict()
    setattr(type(module), tensor_name, _property(tensor_name))
    module.parametrizations[tensor_name] = made
    made.train(module.training)
    return module


def _check(made: Any, original: Tensor) -> None:
    if not isinstance(made, Tensor):
        raise ValueError(f"A parametrization must return a tensor. Got {type(made).__name__}.")
    if made.dtype is not original.dtype or made.shape != original.shape:
        raise ValueError(
            "Registering a parametrization may not change the shape or the type of the tensor, "
            f"unless the `unsafe` flag is enabled: {tuple(original.shape)} {original.dtype} became "
            f"{tuple(made.shape)} {made.dtype}"
        )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module has parametrizations, of a certain parameter if that is named."""
    found = module.__dict__.get("parametrizations")
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Makes a parameter an ordinary one again: of its present value, or its original."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    made = module.parametrizations[tensor_name]
    originals = made._originals()
    if leave_parametrized:
        with no_grad():
            value = made().detach().clone()
        result = Parameter(value, originals[0].requires_grad)
        if made.is_tensor and isinstance(originals[0], Parameter):
            result = originals[0]  # an optimiser may know it
            result.data = value
    elif made.is_tensor:
        result = originals[0]
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is "
            "parametrized in terms of a sequence of tensors."
        )
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(originals[0], Parameter):
        module.register_parameter(tensor_name, result)
    else:
        module.register_buffer(tensor_name, result)
    if not len(module.parametrizations):
        delattr(module, "parametrizations")
        module.__class__ = type_before_parametrizations(module)
    return module


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class that a module had before its parametrizations."""
    found: type[Module] = getattr(type(module), "_plain_class", type(module))
    return found
