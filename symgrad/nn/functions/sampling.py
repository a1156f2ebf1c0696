"""Functions that draw random numbers beside those of dropout."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import for_tensors
from symgrad.nn.functions.dropout import random_key
from symgrad.tensors import Tensor
from symgrad.tensors import softmax as formulas
from symgrad.tensors.apply import RESULT
from symgrad.tracer import Tracer
from symgrad.tracing import emit

Array = Any
_BITS = 23
"""Of a random number: so many that ``(n + 1/2) / 2^bits`` is exact in float32."""


def _key(name: str, like: Array) -> Array:
    """A fresh key of the kind of ``like``."""
    if isinstance(like, Tracer):
        raise UsageError(
            f"{name} draws random numbers, which a traced function would repeat; draw them "
            "outside and pass them as arguments"
        )
    key = random_key()
    return Tensor.of_array(key) if isinstance(like, Tensor) else key


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers between 0 and 1, neither of which they are."""
    bits = emit("random_bits", key, shape=shape) >> np.uint32(32 - _BITS)
    return (snp.astype(bits, dtype) + 0.5) * 2.0**-_BITS


def _noisy(logits: Array, key: Array, tau: float, dim: int) -> Array:
    uniform = _uniform(key, tuple(logits.shape), logits.dtype)
    return formulas.softmax((logits - snp.log(-snp.log(uniform))) * (1 / tau), dim)


_soft_choice = for_tensors("SoftmaxBackward0", saves=RESULT)(_noisy)


@for_tensors("AddBackward0")
def _hard_choice(logits: Array, key: Array, tau: float, dim: int) -> Array:
    soft = _noisy(logits, key, tau, dim)
    classes = snp.reshape(
        snp.arange(logits.shape[dim]),
        [-1 if axis == dim % logits.ndim else 1 for axis in range(logits.ndim)],
    )
    hit = snp.expand_dims(snp.argmax(soft, axis=dim), dim) == classes
    return snp.astype(hit, logits.dtype) - emit("stop_gradient", soft) + soft


def gumbel_softmax(
    logits: Array, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Array:
    """A random choice along an axis, by the odds that logits give, as a softmax that is the
    sharper the smaller ``tau`` is; ``hard`` makes it 0 or 1, with the derivative of the softmax.

    E. Jang et al., "Categorical reparameterization with Gumbel-softmax" (2016).
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    choose = _hard_choice if hard else _soft_choice
    return choose(logits, _key("gumbel_softmax", logits), tau, dim)


@for_tensors("RreluWithNoiseBackward0")
def _leaky(
    input: Array, key: Array | None, lower: float, upper: float, inplace: bool = False
) -> Array:
    if key is None:
        slope: Array = (lower + upper) / 2
    else:
        slope = lower + (upper - lower) * _uniform(key, tuple(input.shape), input.dtype)
    return snp.where(input >= 0, input, input * slope)


def rrelu(
    input: Array, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    inplace: bool = False,
) -> Array:  # fmt: skip
    """``x`` where positive, else ``x`` times a slope: in training a random one for each element.

    B. Xu et al., "Empirical evaluation of rectified activations" (2015).
    """
    key = _key("rrelu", input) if training else None
    return _leaky(input, key, lower, upper, inplace)
