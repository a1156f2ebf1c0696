"""Neural-network functions with torch's names and semantics, on arrays or traced values.

Each is a composite of IR ops; fusion makes composites as fast as ops of their own.
Images are ``[N, C, *spatial]``.  Formulas follow PyTorch's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.nn.faces import for_tensors
from symgrad.nn.windows import Numbers, Pads, adaptive_windows, pads, per_axis, window_counts
from symgrad.tracing import emit

Array = Any

# -- activations -------------------------------------------------------------------


@for_tensors("ReluBackward0")
def relu(x: Array) -> Array:
    """``max(x, 0)``, with slope 0 at 0."""
    return emit("relu", x)


@for_tensors("SigmoidBackward0")
def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``"""
    return emit("sigmoid", x)


@for_tensors("TanhBackward0")
def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return snp.tanh(x)


@for_tensors("SiluBackward0")
def silu(x: Array) -> Array:
    """``x * sigmoid(x)``"""
    return x * sigmoid(x)


@for_tensors("SoftplusBackward0")
def softplus(x: Array) -> Array:
    """``log(1 + exp(x))``, without overflow."""
    return snp.logaddexp(x, x * 0)


@for_tensors("GeluBackward0")
def gelu(x: Array, approximate: str = "none") -> Array:
    """``x Phi(x)`` with the normal distribution's Phi, or its tanh approximation.

    D. Hendrycks and K. Gimpel, "Gaussian error linear units" (2016).
    """
    if approximate == "none":
        return x * (0.5 * (1 + emit("erf", x * math.sqrt(0.5))))
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (1 + snp.tanh(inner))
    raise UsageError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")


@for_tensors("LogSoftmaxBackward0")
def log_softmax(x: Array, axis: int = -1) -> Array:
    """``x - log(sum(exp(x)))`` along an axis, shifted by the maximum against overflow."""
    shifted = x - emit("stop_gradient", snp.max(x, axis=axis, keepdims=True))
    return shifted - snp.log(snp.sum(snp.exp(shifted), axis=axis, keepdims=True))


@for_tensors("SoftmaxBackward0")
def softmax(x: Array, axis: int = -1) -> Array:
    """``exp(x) / sum(exp(x))`` along an axis, shifted by the maximum against overflow."""
    e = snp.exp(x - emit("stop_gradient", snp.max(x, axis=axis, keepdims=True)))
    return e / snp.sum(e, axis=axis, keepdims=True)


# -- linear maps -----------------------------------------------------------------------


@for_tensors("AddmmBackward0")
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``x @ weight.T + bias`` for ``x[..., in]`` and ``weight[out, in]``."""
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: x[..., in] and weight[out, in] do not fit, got {x.shape} and {weight.shape}"
        )
    contract = {"lhs_contract": (x.ndim - 1,), "rhs_contract": (1,)}
    y = emit("dot_general", x, weight, **contract)
    return y if bias is None else y + bias


def _conv(name: str, rank: int, x: Array, weight: Array, bias: Array | None, options: Any) -> Array:
    stride, padding, dilation, groups = options
    if x.ndim != rank + 2 or weight.ndim != rank + 2:
        raise ShapeError(
            f"{name}: needs input [N, C, {rank} spatial axes] and weight [O, C / groups, ...], "
            f"got {x.shape} and {weight.shape}"
        )
    if x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(
            f"{name}: an input of {x.shape[1]} channels and groups={groups} needs a weight "
            f"[O, {x.shape[1] // groups}, ...], got {weight.shape}"
        )
    steps, spread = per_axis(stride, rank), per_axis(dilation, rank)
    y = emit(
        "conv",
        x,
        weight,
        stride=steps,
        padding=pads(padding, weight.shape[2:], steps, spread),
        dilation=spread,
        lhs_dilation=(1,) * rank,
        groups=groups,
    )
    return y if bias is None else y + snp.reshape(bias, (-1, *(1,) * rank))


@for_tensors("ConvolutionBackward0")
def conv1d(
    x: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Pads = 0, dilation: Numbers = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Convolution of ``[N, C, L]`` with ``[O, C / groups, K]``; see ``conv2d``."""
    return _conv("conv1d", 1, x, weight, bias, (stride, padding, dilation, groups))


@for_tensors("ConvolutionBackward0")
def conv2d(
    x: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Pads = 0, dilation: Numbers = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Convolution of ``[N, C, H, W]`` with ``[O, C / groups, KH, KW]``.

    ``padding`` is a number, one per axis, ``"valid"`` or ``"same"`` (stride 1 only).
    """
    return _conv("conv2d", 2, x, weight, bias, (stride, padding, dilation, groups))


@for_tensors("ConvolutionBackward0")
def conv3d(
    x: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Pads = 0, dilation: Numbers = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Convolution of ``[N, C, D, H, W]``; see ``conv2d``."""
    return _conv("conv3d", 3, x, weight, bias, (stride, padding, dilation, groups))


# -- normalisation -----------------------------------------------------------------------


@for_tensors("NativeBatchNormBackward0")
def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """Normalises every channel; returns ``(y, new_running_mean, new_running_var)``.

    In training, by the mean and biased variance of the batch; the running statistics move
    by ``momentum`` towards the batch's mean and unbiased variance.  S. Ioffe and
    C. Szegedy, "Batch normalization" (2015).
    """
    axes = tuple(a for a in range(x.ndim) if a != 1)
    count = math.prod(x.shape[a] for a in axes)
    if training or running_mean is None or running_var is None:
        if count <= 1:
            raise ShapeError(
                "Expected more than 1 value per channel when training, got input size "
                f"{list(x.shape)}; use a larger batch or image, or model.eval()"
            )
        mean, variance = emit("moments", x, axes=axes)
        if training and running_mean is not None and running_var is not None:
            unbiased = variance * (count / (count - 1))
            running_mean = (1 - momentum) * running_mean + momentum * mean
            running_var = (1 - momentum) * running_var + momentum * unbiased
    else:
        mean, variance = running_mean, running_var
    factor = emit("rsqrt", variance + eps)
    if weight is not None:
        factor = factor * weight
    over_channels = (-1, *(1,) * (x.ndim - 2))
    y = (x - snp.reshape(mean, over_channels)) * snp.reshape(factor, over_channels)
    if bias is not None:
        y = y + snp.reshape(bias, over_channels)
    return y, running_mean, running_var


# -- pooling ----------------------------------------------------------------------------------


@for_tensors("MaxPool2DWithIndicesBackward0")
def max_pool2d(
    x: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False,
) -> Array:  # fmt: skip
    """Maximum over windows; the cotangent goes to the first maximum of each."""
    window, steps, spread, widths = _pool_geometry(
        "max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode
    )
    return emit("window_max", x, window=window, stride=steps, padding=widths, dilation=spread)


@for_tensors("AvgPool2DBackward0")
def avg_pool2d(
    x: Array, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Array:  # fmt: skip
    """Mean over windows; padding counts as zeros unless ``count_include_pad`` is off."""
    window, steps, spread, widths = _pool_geometry(
        "avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode
    )
    total = emit("window_sum", x, window=window, stride=steps, padding=widths, dilation=spread)
    if divisor_override is not None:
        return total * (1 / divisor_override)
    given = per_axis(padding, 2)
    counted = [(n, p if count_include_pad else 0) for n, p in zip(x.shape[2:], given, strict=True)]
    counts = window_counts(counted, total.shape[2:], window, steps, given)
    if (counts == counts.flat[0]).all():
        return total * (1 / float(counts.flat[0]))
    return total * (1 / counts).astype(x.dtype)


def _pool_geometry(
    name: str, x: Array, kernel: Numbers, stride: Numbers | None, padding: Numbers,
    dilation: Numbers, ceil_mode: bool,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    if x.ndim != 4:
        raise ShapeError(f"{name}: needs [N, C, H, W], got {x.shape}")
    window, spread = per_axis(kernel, 2), per_axis(dilation, 2)
    steps = window if stride is None else per_axis(stride, 2)
    low = per_axis(padding, 2)
    if any(2 * p > k for p, k in zip(low, window, strict=True)):
        raise ShapeError(f"{name}: padding {low} is more than half of the window {window}")
    widths = []
    for n, k, s, p, d in zip(x.shape[2:], window, steps, low, spread, strict=True):
        span = n + 2 * p - (k - 1) * d - 1
        if span < 0:
            raise ShapeError(f"{name}: window {window} does not fit into {x.shape} padded by {low}")
        out = -(-span // s) if ceil_mode else span // s
        if ceil_mode and out * s >= n + p:  # a window must begin inside the image
            out -= 1
        widths.append((p, max(p, out * s + (k - 1) * d + 1 - n - p)))
    return window, steps, spread, tuple(widths)


@for_tensors("MeanBackward1")
def adaptive_avg_pool2d(x: Array, output_size: int | Sequence[int | None]) -> Array:
    """Mean over the windows that cut the image into ``output_size`` parts.

    ``None`` keeps an axis as it is.
    """
    if x.ndim != 4:
        raise ShapeError(f"adaptive_avg_pool2d: needs [N, C, H, W], got {x.shape}")
    wanted = (output_size,) * 2 if isinstance(output_size, int) else output_size
    out = tuple(n if m is None else m for m, n in zip(wanted, x.shape[2:], strict=True))
    if out == (1, 1):
        return snp.mean(x, axis=(2, 3), keepdims=True)
    if all(n % m == 0 for n, m in zip(x.shape[2:], out, strict=True)):
        return avg_pool2d(x, tuple(n // m for n, m in zip(x.shape[2:], out, strict=True)))
    # Uneven windows are a product with a matrix of weights along each axis.
    for axis, m in enumerate(out):
        weights = adaptive_windows(x.shape[2 + axis], m).astype(x.dtype)
        moved = emit("dot_general", x, weights, lhs_contract=(2 + axis,), rhs_contract=(1,))
        x = snp.moveaxis(moved, -1, 2 + axis)
    return x


# -- losses ---------------------------------------------------------------------------------------


@for_tensors("NllLossBackward0")
def cross_entropy(
    logits: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Cross-entropy of ``logits[N, C, ...]`` against class numbers ``[N, ...]`` or
    probabilities of the logits' shape.

    ``mean`` divides by the sum of the targets' class weights, ignored ones left out.
    """
    axis = min(1, logits.ndim - 1)
    classes = logits.shape[axis]
    log_p = log_softmax(logits, axis)
    by_class = [-1 if a == axis else 1 for a in range(logits.ndim)]
    weights = None if weight is None else snp.reshape(weight, by_class)
    if target.dtype.kind == "f":
        if target.shape != logits.shape:
            raise ShapeError(
                f"cross_entropy: probabilities must have the logits' shape {logits.shape}, "
                f"got {target.shape}"
            )
        smoothed = target * (1 - label_smoothing) + label_smoothing / classes
        scaled = log_p if weights is None else log_p * weights
        losses = -snp.sum(smoothed * scaled, axis=axis)
        count: Array | float = max(1, math.prod(losses.shape))
        return _reduced("cross_entropy", losses, reduction, count)
    expected = (*logits.shape[:axis], *logits.shape[axis + 1 :])
    if target.shape != expected:
        raise ShapeError(
            f"cross_entropy: logits {logits.shape} need class numbers of shape {expected}, "
            f"got {target.shape}"
        )
    hit = snp.arange(classes).reshape(by_class) == snp.expand_dims(target, axis)
    kept = target != ignore_index
    share = snp.where(hit, log_p if weights is None else log_p * weights, 0)
    losses = -snp.sum(share, axis=axis)
    if weights is None:
        each = kept.astype(logits.dtype)
    else:
        each = snp.sum(snp.where(hit & snp.expand_dims(kept, axis), weights, 0), axis=axis)
    if label_smoothing:
        spread = -snp.sum(log_p if weights is None else log_p * weights, axis=axis)
        losses = (1 - label_smoothing) * losses + (label_smoothing / classes) * spread
    losses = snp.where(kept, losses, 0)
    return _reduced("cross_entropy", losses, reduction, snp.sum(each))


@for_tensors("MseLossBackward0")
def mse_loss(x: Array, target: Array, reduction: str = "mean") -> Array:
    """Squared difference."""
    losses = snp.square(x - target)
    return _reduced("mse_loss", losses, reduction, max(1, math.prod(losses.shape)))


def _reduced(name: str, losses: Array, reduction: str, count: Array | float) -> Array:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return snp.sum(losses)
    if reduction == "mean":
        return snp.sum(losses) / count
    raise UsageError(f"{name}: reduction must be 'none', 'sum' or 'mean', got {reduction!r}")


@for_tensors("ViewBackward0")
def flatten(x: Array, start: int = 0) -> Array:
    """Joins all axes from ``start`` on."""
    return snp.reshape(x, (*x.shape[:start], math.prod(x.shape[start:])))


__all__ = [
    "adaptive_avg_pool2d", "avg_pool2d", "batch_norm", "conv1d", "conv2d", "conv3d",
    "cross_entropy", "flatten", "gelu", "linear", "log_softmax", "max_pool2d", "mse_loss",
    "relu", "sigmoid", "silu", "softmax", "softplus", "tanh",
]  # fmt: skip
