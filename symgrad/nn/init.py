"""Initial values of parameters, with torch's distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from symgrad.randomness import Source, manual_seed

Array = np.ndarray[Any, Any]


def uniform(shape: tuple[int, ...], bound: float, dtype: Any = np.float32) -> Array:
    """Uniform in [-bound, bound)."""
    return Source.generator.uniform(-bound, bound, shape).astype(dtype)


def normal(shape: tuple[int, ...], std: float, dtype: Any = np.float32) -> Array:
    """Normal with mean 0."""
    return (Source.generator.standard_normal(shape) * std).astype(dtype)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs that one element of a weight ``[out, in, *kernel]`` connects."""
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def kaiming_uniform(
    shape: tuple[int, ...], a: float = math.sqrt(5), dtype: Any = np.float32
) -> Array:
    """Uniform with the variance ``2 / ((1 + a^2) fan_in)``; torch's default for layers.

    K. He et al., "Delving deep into rectifiers" (2015).
    """
    fan_in, _ = fans(shape)
    return uniform(shape, math.sqrt(6 / ((1 + a * a) * max(1, fan_in))), dtype)


def kaiming_normal_fan_out(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Normal with the variance ``2 / fan_out``, for convolutions before ReLU."""
    _, fan_out = fans(shape)
    return normal(shape, math.sqrt(2 / max(1, fan_out)), dtype)


__all__ = ["fans", "kaiming_normal_fan_out", "kaiming_uniform", "manual_seed", "normal", "uniform"]
