"""Normalisation by means and variances, over the batch, a layer, groups or an instance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.nn.faces import FitError, for_tensors
from symgrad.tracer import Tracer
from symgrad.tracing import emit

Array = Any


def _factor(momentum: float | Array, dtype: Any) -> Any:
    """A momentum as a factor of arrays: a number, or a traced value of their dtype."""
    return momentum if isinstance(momentum, int | float) else snp.astype(momentum, dtype)


def _normalized_batch(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: float | Array,
    eps: float,
) -> tuple[Array, Array | None, Array | None]:
    """Batch normalisation by the batch's own statistics.

    Returns ``(y, new_running_mean, new_running_var)``: the running statistics move by
    ``momentum`` towards the batch's mean and unbiased variance.
    """
    check_batch(input.shape)
    axes = tuple(a for a in range(input.ndim) if a != 1)
    count = math.prod(input.shape[a] for a in axes)
    mean, variance = emit("moments", input, axes=axes)
    y = _normalized(input, mean, variance, weight, bias, eps)
    if running_mean is None or running_var is None:
        return y, None, None
    share = _factor(momentum, running_mean.dtype)
    unbiased = variance * (count / (count - 1))
    new_mean = (1 - share) * running_mean + share * mean
    return y, new_mean, (1 - share) * running_var + share * unbiased


_READ = ("input", "weight", "bias")
normalized_batch = for_tensors("NativeBatchNormBackward0", saves=_READ)(_normalized_batch)
"""``_normalized_batch`` as a pure function."""
updating_batch = for_tensors(
    "NativeBatchNormBackward0", saves=_READ, state=("running_mean", "running_var")
)(_normalized_batch)
"""``_normalized_batch`` whose running statistics, if they are tensors, take over the new ones."""


@for_tensors("NativeBatchNormBackward0")
def _by_running_statistics(
    input: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    return _normalized(input, mean, variance, weight, bias, eps)


def _normalized(
    x: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    factor = emit("rsqrt", variance + eps)
    if weight is not None:
        factor = factor * weight
    over_channels = (-1, *(1,) * (x.ndim - 2))
    y = (x - snp.reshape(mean, over_channels)) * snp.reshape(factor, over_channels)
    return y if bias is None else y + snp.reshape(bias, over_channels)


def check_batch(shape: Sequence[int]) -> None:
    """Refuses a batch of one value per channel, whose variance is no use."""
    if math.prod(shape) // max(1, shape[1]) <= 1:
        raise ShapeError(
            "Expected more than 1 value per channel when training, got input size "
            f"torch.Size({list(shape)})"
        )


def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float | Array = 0.1,
    eps: float = 1e-5,
) -> Array:
    """Normalises every channel: in training by the batch's mean and biased variance.

    The running statistics, if given, are then updated in place.  S. Ioffe and C. Szegedy,
    "Batch normalization" (2015).
    """
    for name, given in (("running_mean", running_mean), ("running_var", running_var)):
        if given is not None and given.shape[0] != input.shape[1]:
            raise FitError(f"{name} should contain {input.shape[1]} elements not {given.shape[0]}")
    if not training:
        if running_mean is None or running_var is None:
            raise UsageError("Expected running_mean and running_var to be defined in evaluation")
        return _by_running_statistics(input, running_mean, running_var, weight, bias, eps)
    y, mean, variance = updating_batch(
        input, running_mean, running_var, weight, bias, momentum, eps
    )
    _store("batch_norm", (running_mean, mean), (running_var, variance))
    return y


def _store(name: str, *pairs: tuple[Array | None, Array | None]) -> None:
    """Gives running statistics that did not take over their new values these."""
    for old, new in pairs:
        if isinstance(old, Tracer):
            old.assign(new, name)
        elif old is not None and old is not new:
            old[...] = new


def _standardized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """``x`` less its mean over axes, divided by its deviation."""
    mean, variance = emit("moments", x, axes=axes)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    factor = emit("rsqrt", variance + eps)
    return (x - snp.reshape(mean, kept)) * snp.reshape(factor, kept)


@for_tensors("NativeLayerNormBackward0")
def layer_norm(
    input: Array, normalized_shape: Sequence[int], weight: Array | None = None,
    bias: Array | None = None, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """Normalises over the last axes.  J. L. Ba et al., "Layer normalization" (2016)."""
    y = _standardized(input, _last_axes(input, normalized_shape), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _last_axes(x: Array, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    count = len(normalized_shape)
    if tuple(x.shape[x.ndim - count :]) != tuple(normalized_shape):
        wanted = ", ".join(map(str, normalized_shape))
        raise FitError(
            f"Given normalized_shape={list(normalized_shape)}, expected input with shape "
            f"[*, {wanted}], but got input of size{list(x.shape)}"
        )
    return tuple(range(x.ndim - count, x.ndim))


@for_tensors("MulBackward0")
def rms_norm(
    input: Array, normalized_shape: Sequence[int], weight: Array | None = None,
    eps: float | None = None,
) -> Array:  # fmt: skip
    """Divides by the root of the mean square over the last axes.

    ``eps`` is the dtype's own unless given.  B. Zhang and R. Sennrich, "Root mean square
    layer normalization" (2019).
    """
    axes = _last_axes(input, normalized_shape)
    small = float(np.finfo(input.dtype).eps) if eps is None else eps
    mean_square = snp.mean(input * input, axis=axes, keepdims=True)
    y = input * emit("rsqrt", mean_square + small)
    return y if weight is None else y * weight


@for_tensors("NativeGroupNormBackward0")
def group_norm(
    input: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None,
    eps: float = 1e-5,
) -> Array:  # fmt: skip
    """Normalises groups of channels of each example.  Y. Wu and K. He (2018)."""
    n, channels = input.shape[:2]
    if channels % num_groups:
        raise FitError(
            "Expected number of channels in input to be divisible by num_groups, but got input of "
            f"shape {list(input.shape)} and num_groups={num_groups}"
        )
    grouped = snp.reshape(input, (n, num_groups, -1))
    return _affine(snp.reshape(_standardized(grouped, (2,), eps), input.shape), weight, bias)


def _affine(y: Array, weight: Array | None, bias: Array | None) -> Array:
    over_channels = (-1, *(1,) * (y.ndim - 2))
    y = y if weight is None else y * snp.reshape(weight, over_channels)
    return y if bias is None else y + snp.reshape(bias, over_channels)


def _normalized_instances(
    input: Array, running_mean: Array | None, running_var: Array | None, weight: Array | None,
    bias: Array | None, momentum: float, eps: float,
) -> tuple[Array, Array | None, Array | None]:  # fmt: skip
    """As ``_normalized_batch``, by the statistics of each example, whose means the running
    ones move towards."""
    axes, count = tuple(range(2, input.ndim)), math.prod(input.shape[2:])
    if count <= 1:
        raise ShapeError(
            "Expected more than 1 spatial element when training, got input size "
            f"torch.Size({list(input.shape)})"
        )
    y = _affine(_standardized(input, axes, eps), weight, bias)
    if running_mean is None or running_var is None:
        return y, None, None
    mean, variance = (snp.mean(x, axis=0) for x in emit("moments", input, axes=axes))
    unbiased = variance * (count / (count - 1))
    new_mean = (1 - momentum) * running_mean + momentum * mean
    return y, new_mean, (1 - momentum) * running_var + momentum * unbiased


normalized_instances = for_tensors("ViewBackward0", saves=_READ)(_normalized_instances)
"""``_normalized_instances`` as a pure function."""
updating_instances = for_tensors(
    "ViewBackward0", saves=_READ, state=("running_mean", "running_var")
)(_normalized_instances)
"""``_normalized_instances`` whose running statistics, if they are tensors, take over the new."""


@for_tensors("ViewBackward0")
def _instances_by_running_statistics(
    input: Array, mean: Array, variance: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    return _normalized(input, mean, variance, weight, bias, eps)


def instance_norm(
    input: Array, running_mean: Array | None = None, running_var: Array | None = None,
    weight: Array | None = None, bias: Array | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Array:  # fmt: skip
    """Normalises each channel of each example by its own mean and variance.

    The running statistics, if given, are then updated in place; without ``use_input_stats``
    it is them that count.  D. Ulyanov et al., "Instance normalization" (2016).
    """
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise UsageError(
                "Expected running_mean and running_var to be defined when use_input_stats is false"
            )
        return _instances_by_running_statistics(input, running_mean, running_var, weight, bias, eps)
    y, mean, variance = updating_instances(
        input, running_mean, running_var, weight, bias, momentum, eps
    )
    _store("instance_norm", (running_mean, mean), (running_var, variance))
    return y


def normalize(input: Array, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Array:
    """``x`` divided by its ``p``-norm along an axis, where that is not below ``eps``."""
    return _unit(input, p, dim, eps)


@for_tensors("DivBackward0")
def _unit(input: Array, p: float, dim: int, eps: float) -> Array:
    norm = snp.linalg.vector_norm(input, ord=p, axis=dim, keepdims=True)
    return input / snp.maximum(norm, eps)


@for_tensors("DivBackward0")
def local_response_norm(
    input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """``x / (k + alpha m)^beta`` with the mean square ``m`` over ``size`` channels around each.

    A. Krizhevsky et al., "ImageNet classification with deep convolutional networks" (2012).
    """
    if input.ndim < 3:
        raise ShapeError(
            f"Expected 3D or higher dimensionality input (got {input.ndim} dimensions)"
        )
    n, channels = input.shape[:2]
    squares = snp.reshape(input * input, (n, 1, channels, -1))
    around = {
        "window": (size, 1), "stride": (1, 1), "dilation": (1, 1),
        "padding": ((size // 2, (size - 1) // 2), (0, 0)),
    }  # fmt: skip
    mean = snp.reshape(emit("window_sum", squares, **around), input.shape) * (1 / size)
    return input / (mean * alpha + k) ** beta


def _norm_except(x: Array, dim: int) -> Array:
    axes = None if dim == -1 else tuple(a for a in range(x.ndim) if a != dim)
    return snp.sqrt(snp.sum(x * x, axis=axes, keepdims=dim != -1))


@for_tensors("NormExceptDimBackward0")
def norm_except(x: Array, dim: int) -> Array:
    """The norms over all axes but ``dim``, which stay as axes of size 1; of all if that is -1."""
    return _norm_except(x, dim)


@for_tensors("WeightNormInterfaceBackward0")
def scaled_to_norm(v: Array, g: Array, dim: int) -> Array:
    """``g v / |v|`` with the norms of ``norm_except``."""
    return v * (g / _norm_except(v, dim))
