"""Gradients of many parameters at once: their norm, and limits to it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Any

from symgrad.tensors import NAMES, Tensor
from symgrad.tensors.state import no_grad

_torch: dict[str, Any] = NAMES


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in given if p.grad is not None]


def get_total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all tensors' elements together."""
    given = list(tensors)
    if not given:
        return _torch["tensor"](0.0)  # type: ignore[no-any-return]
    if norm_type == float("inf"):
        largest = _torch["stack"]([t.abs().max() for t in given])
        return largest.max()  # type: ignore[no-any-return]
    if norm_type == 2:
        squares = [(t * t).sum() for t in given]
        return functools.reduce(operator.add, squares).sqrt()  # type: ignore[no-any-return]
    powers = [(t.abs() ** norm_type).sum() for t in given]
    return functools.reduce(operator.add, powers) ** (1.0 / norm_type)  # type: ignore[no-any-return]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:  # fmt: skip
    """Scales all gradients so that their norm together is at most ``max_norm``.

    Returns the norm before.  Nothing is computed until somebody looks or the optimiser steps,
    unless ``error_if_nonfinite`` asks for a check.
    """
    with no_grad():
        gradients = _gradients(parameters)
        total = get_total_norm(gradients, norm_type)
        if error_if_nonfinite and not _torch["isfinite"](total).item():
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is "
                "non-finite, so it cannot be clipped. To disable this error and scale the "
                "gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
            )
        factor = _torch["clamp"]((total + 1e-6).reciprocal() * max_norm, max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.to(gradient.dtype))
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limits every element of the gradients to ``[-clip_value, clip_value]``."""
    with no_grad():
        for gradient in _gradients(parameters):
            gradient.clamp_(min=-float(clip_value), max=float(clip_value))
