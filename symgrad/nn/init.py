"""Initial values of parameters: torch's functions, which fill a tensor and return it.

Numbers come from the source that ``manual_seed`` sets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from symgrad.ir.errors import UsageError
from symgrad.randomness import Source, manual_seed
from symgrad.tensors import Tensor

Array = np.ndarray[Any, Any]

_GAINS = {
    "linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75,
    **{f"conv{'_transpose' * t}{n}d": 1.0 for n in (1, 2, 3) for t in (0, 1)},
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """What keeps the variance through an activation; ``param`` is leaky ReLU's slope."""
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise UsageError(f"Unsupported nonlinearity {nonlinearity}")
    return _GAINS[nonlinearity]


def _drawn(tensor: Tensor, kind: str) -> Array:
    """Random numbers of a tensor's shape and type: standard ``uniform`` or ``normal``."""
    source = Source.generator.random if kind == "uniform" else Source.generator.standard_normal
    wide = tensor._dtype == np.float64
    with Source.lock:
        drawn = source(tuple(tensor.shape), np.float64 if wide else np.float32)
    return np.asarray(drawn, tensor._dtype)


def _filled(tensor: Tensor, array: Any) -> Tensor:
    tensor._set_array(np.array(array, tensor._dtype, order="C").reshape(tensor.shape))
    return tensor


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Weights of a convolution that keeps as many channels of each group as it can."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    weight = np.zeros(tuple(tensor.shape), tensor._dtype)
    outputs = tensor.shape[0] // groups
    middle = tuple(n // 2 for n in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(outputs, tensor.shape[1])):
            weight[(group * outputs + channel, channel, *middle)] = 1
    return _filled(tensor, weight)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01) -> Tensor:
    """A matrix of normal numbers, of which a part of each column, drawn at random, is zero."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor.shape
    weight = _drawn(tensor, "normal") * std
    with Source.lock:
        for column in range(columns):
            zeros = Source.generator.permutation(rows)[: math.ceil(sparsity * rows)]
            weight[zeros, column] = 0
    return _filled(tensor, weight)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in ``[a, b)``."""
    return _filled(tensor, _drawn(tensor, "uniform") * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with a mean and a standard deviation."""
    return _filled(tensor, _drawn(tensor, "normal") * std + mean)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Normal, drawn again where it lies outside ``[a, b]``."""
    low, high = (a - mean) / std, (b - mean) / std
    drawn = _drawn(tensor, "normal")
    while (outside := (drawn < low) | (drawn > high)).any():
        with Source.lock:
            drawn[outside] = Source.generator.standard_normal(int(outside.sum()))
    return _filled(tensor, drawn * std + mean)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere."""
    return _filled(tensor, np.full(tensor.shape, val, tensor._dtype))


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix."""
    if tensor.ndim != 2:
        raise UsageError("Only tensors with 2 dimensions are supported")
    return _filled(tensor, np.eye(*tensor.shape))


def fans(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs that one element of a weight ``[out, in, *kernel]`` connects."""
    if tensor.ndim < 2:
        raise UsageError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
        )
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform with the variance ``2 gain^2 / (fan_in + fan_out)``.

    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks" (2010).
    """
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with the variance ``2 gain^2 / (fan_in + fan_out)``."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise UsageError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, fan))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform with the variance ``gain^2 / fan``.

    K. He et al., "Delving deep into rectifiers" (2015).
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with the variance ``gain^2 / fan``."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1) -> Tensor:
    """Rows, or if there are more of them columns, of an orthogonal matrix.

    A. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks" (2013).
    """
    if tensor.ndim < 2:
        raise UsageError("Only tensors with 2 or more dimensions are supported")
    rows = tensor.shape[0]
    with Source.lock:
        drawn = Source.generator.standard_normal((rows, tensor.numel() // max(1, rows)))
    q, r = np.linalg.qr(drawn if drawn.shape[0] >= drawn.shape[1] else drawn.T)
    q = q * np.sign(np.diag(r))  # else the matrices were not uniformly distributed
    return _filled(tensor, gain * (q if drawn.shape[0] >= drawn.shape[1] else q.T))


def default_weight_(weight: Tensor, bias: Tensor | None) -> None:
    """What torch's linear and convolution layers begin with: all uniform within
    ``1 / sqrt(fan_in)``."""
    kaiming_uniform_(weight, math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(max(1, fans(weight)[0]))
        uniform_(bias, -bound, bound)


__all__ = [
    "calculate_gain", "constant_", "eye_", "fans", "kaiming_normal_", "kaiming_uniform_",
    "manual_seed", "normal_", "ones_", "orthogonal_", "trunc_normal_", "uniform_",
    "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip
