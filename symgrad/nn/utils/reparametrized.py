"""Weights of given norms in torch's older form: computed before each call of the layer.

``parametrizations`` has the newer one; the names in saved states differ.
"""

from __future__ import annotations

from typing import Any

from symgrad.nn.functions.normalization import norm_except, scaled_to_norm
from symgrad.nn.hooks import RemovableHandle
from symgrad.nn.module import Module
from symgrad.nn.parameter import Parameter
from symgrad.nn.utils.parametrizations import PowerMethod, axis_of_outputs

Handles = dict[tuple[str, str], RemovableHandle]


def _handles(module: Module) -> Handles:
    """The hooks that compute weights, by what they keep and the weight's name."""
    found: Handles = module.__dict__.setdefault("_computed_weights", {})
    return found


def _add(kind: str, module: Module, name: str, compute: Any) -> None:
    def hook(module: Module, inputs: Any) -> None:
        object.__setattr__(module, name, compute(module))

    if (kind, name) in _handles(module):
        raise RuntimeError(f"Cannot register two {kind} hooks on the same parameter {name}")
    hook(module, ())
    _handles(module)[kind, name] = module.register_forward_pre_hook(hook)


def _remove(kind: str, module: Module, name: str, sources: tuple[str, ...]) -> Module:
    handle = _handles(module).pop((kind, name), None)
    if handle is None:
        raise ValueError(f"{kind} of '{name}' not found in {module}")
    handle.remove()
    value = getattr(module, name).detach().clone()
    for source in sources:
        delattr(module, source)
    delattr(module, name)
    module.register_parameter(name, Parameter(value))
    return module


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Trains lengths ``<name>_g`` and directions ``<name>_v`` of a weight apart."""
    axis = -1 if dim is None else dim
    weight = getattr(module, name)
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(norm_except(weight.detach(), axis)))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))

    def compute(module: Module) -> Any:
        return scaled_to_norm(getattr(module, f"{name}_v"), getattr(module, f"{name}_g"), axis)

    _add("weight_norm", module, name, compute)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Makes the weight an ordinary parameter again."""
    return _remove("weight_norm", module, name, (f"{name}_g", f"{name}_v"))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Module:  # fmt: skip
    """Divides a weight, ``<name>_orig``, by an estimate of its largest singular value."""
    weight = getattr(module, name)
    method = PowerMethod(axis_of_outputs(module, dim), eps)
    u, v = method.begun(weight)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)

    def compute(module: Module) -> Any:
        original = getattr(module, f"{name}_orig")
        u, v = getattr(module, f"{name}_u"), getattr(module, f"{name}_v")
        if module.training:
            method.advance(original, u, v, n_power_iterations, v_first=True)
        return original / method.norm(original, u, v)

    _add("spectral_norm", module, name, compute)
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Makes the weight an ordinary parameter again."""
    return _remove("spectral_norm", module, name, (f"{name}_orig", f"{name}_u", f"{name}_v"))
