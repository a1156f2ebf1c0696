"""Dropout: elements or whole channels made zero at random, the others scaled up.

Which ones is decided by a counter-based generator inside the program; its key is drawn from
the source that ``manual_seed`` sets, anew at every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import for_tensors
from symgrad.randomness import Source
from symgrad.tensors import Tensor
from symgrad.tracer import Tracer
from symgrad.tracing import emit

Array = Any


def random_key() -> Array:
    """A fresh key for ``random_bits``."""
    with Source.lock:
        return Source.generator.integers(0, 2**32, 2, np.uint32)


def kept(key: Array, p: float, shape: Sequence[int], dtype: Any) -> Array:
    """Factors ``1 / (1 - p)`` with probability ``1 - p``, else 0."""
    bits = emit("random_bits", key, shape=tuple(shape))
    survives = bits >= np.uint32(min(round(p * 2**32), 2**32 - 1))
    return snp.astype(survives, dtype) * (1 / (1 - p))


@for_tensors("MulBackward0")
def _thinned(input: Array, key: Array, p: float, shape: tuple[int, ...]) -> Array:
    return input * kept(key, p, shape, input.dtype)


@for_tensors("MulBackward0")
def _nothing(input: Array) -> Array:
    return input * 0


def _dropped(name: str, x: Array, p: float, training: bool, inplace: bool, whole: int) -> Array:
    """Drops out elements that share their last ``whole`` indices together."""
    if not 0 <= p <= 1:
        raise UsageError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return x
    if isinstance(x, Tracer):
        raise UsageError(
            f"{name} in training draws random numbers, which a traced function would repeat; "
            "call model.eval(), or pass masks as arguments"
        )
    if p == 1:
        result = _nothing(x)
    else:
        lead = x.ndim - whole
        shape = (*x.shape[:lead], *(1,) * whole)
        key = random_key()
        result = _thinned(x, Tensor.of_array(key) if isinstance(x, Tensor) else key, p, shape)
    if not inplace:
        return result
    x[...] = result
    return x


def dropout(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    """Zeros elements with probability ``p``.

    N. Srivastava et al., "Dropout" (2014).
    """
    return _dropped("dropout", input, p, training, inplace, 0)


def dropout1d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    """Zeros whole channels of ``[N, C, L]`` with probability ``p``."""
    return _dropped("dropout1d", input, p, training, inplace, 1)


def dropout2d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    """Zeros whole channels of ``[N, C, H, W]`` with probability ``p``."""
    return _dropped("dropout2d", input, p, training, inplace, 2)


def dropout3d(input: Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> Array:
    """Zeros whole channels of ``[N, C, D, H, W]`` with probability ``p``."""
    return _dropped("dropout3d", input, p, training, inplace, 3)


def alpha_dropout(
    input: Array, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Array:
    """Sets elements to SELU's negative limit, keeping mean 0 and variance 1."""
    return _alpha_dropped("alpha_dropout", input, p, training, inplace, 0)


def feature_alpha_dropout(
    input: Array, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Array:
    """``alpha_dropout`` of whole channels of ``[N, C, *spatial]``."""
    return _alpha_dropped("feature_alpha_dropout", input, p, training, inplace, input.ndim - 2)


def _alpha_dropped(
    name: str, input: Array, p: float, training: bool, inplace: bool, whole: int
) -> Array:
    if not 0 <= p <= 1:
        raise UsageError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    if p == 1:
        return _dropped(name, input, p, training, inplace, whole)
    low = -1.7580993408473766  # -alpha scale of SELU
    survivors = _dropped(name, input * 0 + 1, p, training, False, whole) * (1 - p)
    a = ((1 - p) * (1 + p * low * low)) ** -0.5
    result = (input * survivors + low * (1 - survivors)) * a - a * low * p
    if not inplace:
        return result
    input[...] = result
    return input
