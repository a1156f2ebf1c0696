"""Derivatives of IR functions for the commands: of any order, by named parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symgrad.ir import Builder, Func, Value
from symgrad.ir.adjoint import pull_back, value_and_grad
from symgrad.ir.builder import inline
from symgrad.ir.errors import DifferentiationError, UsageError


def differentiate(func: Func, wrt: str | None, order: int = 1) -> Func:
    """Value and gradient by the parameters ``wrt`` ("x,w"; all floating ones by default).

    Order n+1 differentiates the gradient of order n along directions, which become
    parameters: order 2 gives Hessian-vector products.  Results are the value that is
    differentiated, what came before it, and one gradient per parameter.
    """
    numbers = parameters(func, wrt)
    return value_and_grad(primal_of_order(func, numbers, order), numbers)


def contracted(func: Func) -> Func:
    """``func``, with ``<result, cotangent>`` as a new first result where its own is no scalar.

    The cotangent becomes a parameter, so the gradient is the pull-back of any cotangent.
    """
    type_ = func.result_types[0]
    if not type_.shape or not type_.dtype.is_float:
        return func
    builder = Builder(locations=False)
    params = [builder.param(p.type, p.name) for p in func.params]
    results = inline(builder, func, params)
    with builder:
        product = results[0] * builder.param(type_, "cotangent")
        total = builder.emit("reduce_sum", product, axes=tuple(range(type_.rank)))
    return builder.build([total, *results], func.name)


def parameters(func: Func, wrt: str | None) -> list[int]:
    """The numbers of the parameters to differentiate by; raises ``UsageError``."""
    names = [p.name for p in func.params]
    if wrt is None:
        floating = [i for i, p in enumerate(func.params) if p.type.dtype.is_float]
        numbers = [i for i in floating if not names[i].startswith(("captured", "cotangent"))]
        if not numbers:
            raise DifferentiationError(f"@{func.name} has no floating parameter")
        return numbers
    numbers = []
    for name in wrt.replace("%", "").split(","):
        if name.strip() not in names:
            listed = ", ".join(names) or "none"
            raise UsageError(f"--wrt: @{func.name} has no parameter {name!r}; it has {listed}")
        number = names.index(name.strip())
        if not func.params[number].type.dtype.is_float:
            raise UsageError(f"--wrt: %{name} is {func.params[number].type}; it must be floating")
        numbers.append(number)
    return numbers


def primal_of_order(func: Func, numbers: Sequence[int], order: int) -> Func:
    """The function whose gradient is the derivative of this order: ``func`` itself for 1."""
    for level in range(1, order):
        func = _directional(func, numbers, level)
    return func


def _directional(func: Func, numbers: Sequence[int], level: int) -> Func:
    """``<gradient, direction>`` as the first result, then the gradient's function's results."""
    builder = Builder(locations=False)
    params = [builder.param(p.type, p.name) for p in func.params]
    results = inline(builder, func, params)
    if results[0].shape or not results[0].type.dtype.is_float:
        return value_and_grad(func, numbers)  # raises the error that says why
    inputs = [params[i] for i in numbers]
    seed = builder.constant(1, results[0].type)
    grads = pull_back(builder, results[:1], [seed], inputs)
    filled = [g or builder.constant(0, v.type) for g, v in zip(grads, inputs, strict=True)]
    with builder:
        slope: Value | None = None
        for g, v in zip(filled, inputs, strict=True):
            direction = builder.param(v.type, f"direction{level}_{v.name}")
            part = g * direction
            if v.rank:
                part = builder.emit("reduce_sum", part, axes=tuple(range(v.rank)))
            slope = part if slope is None else slope + part
    assert slope is not None  # there is at least one parameter
    return builder.build([slope, *results, *filled], func.name)


def with_directions(func: Func, values: Sequence[object]) -> list[object]:
    """The values of a function's parameters, fixed directions for those that were added."""
    rng = np.random.default_rng(1)
    added = func.params[len(values) :]
    return [*values, *(rng.standard_normal(p.type.shape).astype(p.type.dtype.numpy) for p in added)]
