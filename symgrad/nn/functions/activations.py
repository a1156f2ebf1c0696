"""Activation functions with torch's names, arguments and slopes at their kinks.

Formulas follow PyTorch's documentation.  With ``inplace`` the result is written into the
input: ``for_tensors`` sees to that.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import for_tensors
from symgrad.tensors import softmax as formulas
from symgrad.tensors.apply import RESULT
from symgrad.tensors.dtypes import named
from symgrad.tracing import emit

Array = Any

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


# -- kinks ---------------------------------------------------------------------------------


@for_tensors("ReluBackward0", saves=RESULT)
def relu(input: Array, inplace: bool = False) -> Array:
    """``max(x, 0)``, with slope 0 at 0."""
    return emit("relu", input) if input.dtype.kind in "fc" else snp.maximum(input, 0)


@for_tensors("HardtanhBackward0")
def hardtanh(
    input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Array:
    """``x`` limited to ``[min_val, max_val]``, with slope 0 at both ends."""
    return _limited(input, min_val, max_val)


@for_tensors("HardtanhBackward0")
def relu6(input: Array, inplace: bool = False) -> Array:
    """``min(max(x, 0), 6)``"""
    return _limited(input, 0.0, 6.0)


def _limited(x: Array, low: float, high: float) -> Array:
    return snp.where(x <= low, x * 0 + low, snp.where(x >= high, x * 0 + high, x))


@for_tensors("LeakyReluBackward0")
def leaky_relu(input: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    """``x`` where positive, else ``negative_slope x``."""
    return snp.where(input > 0, input, negative_slope * input)


@for_tensors("PreluKernelBackward0")
def prelu(input: Array, weight: Array) -> Array:
    """``x`` where positive, else ``weight x`` with one weight, or one per channel (axis 1)."""
    if weight.ndim and weight.shape[0] != 1 and input.ndim > 1:
        weight = snp.reshape(weight, (-1, *(1,) * (input.ndim - 2)))
    return snp.where(input > 0, input, weight * input)


@for_tensors("ThresholdBackward0")
def threshold(input: Array, threshold: float, value: float, inplace: bool = False) -> Array:
    """``x`` where above ``threshold``, else ``value``."""
    return snp.where(input > threshold, input, input * 0 + value)


@for_tensors("HardshrinkBackward0")
def hardshrink(input: Array, lambd: float = 0.5) -> Array:
    """``x`` where ``|x| > lambd``, else 0."""
    return snp.where(snp.abs(input) > lambd, input, input * 0)


@for_tensors("SoftshrinkBackward0")
def softshrink(input: Array, lambd: float = 0.5) -> Array:
    """``x`` moved towards 0 by ``lambd``, not beyond it."""
    return snp.where(
        input > lambd, input - lambd, snp.where(input < -lambd, input + lambd, input * 0)
    )


@for_tensors("HardsigmoidBackward0")
def hardsigmoid(input: Array, inplace: bool = False) -> Array:
    """``x / 6 + 1 / 2`` limited to [0, 1]."""
    return _limited(input, -3.0, 3.0) * (1 / 6) + 0.5


@for_tensors("HardswishBackward0")
def hardswish(input: Array, inplace: bool = False) -> Array:
    """``x hardsigmoid(x)``.  A. Howard et al., "Searching for MobileNetV3" (2019)."""
    inner = input * (input + 3) * (1 / 6)
    return snp.where(input <= -3, input * 0, snp.where(input >= 3, input, inner))


# -- exponential branches ------------------------------------------------------------------


def _elu(x: Array, alpha: float, scale: float, rate: float) -> Array:
    exponent = snp.where(x > 0, x * 0, x)  # the branch not taken shall not overflow
    below = (alpha * scale) * snp.expm1(exponent if rate == 1 else exponent * rate)
    return snp.where(x > 0, x if scale == 1 else scale * x, below)


@for_tensors("EluBackward0")
def elu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """``x`` where positive, else ``alpha (exp(x) - 1)``.

    D.-A. Clevert et al., "Fast and accurate deep network learning by exponential linear
    units" (2015).
    """
    return _elu(input, alpha, 1.0, 1.0)


@for_tensors("EluBackward0")
def selu(input: Array, inplace: bool = False) -> Array:
    """``elu`` scaled so that activations keep mean 0 and variance 1.

    G. Klambauer et al., "Self-normalizing neural networks" (2017).
    """
    return _elu(input, _SELU_ALPHA, _SELU_SCALE, 1.0)


@for_tensors("CeluBackward0")
def celu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """``x`` where positive, else ``alpha (exp(x / alpha) - 1)``."""
    return _elu(input, alpha, 1.0, 1 / alpha)


# -- smooth --------------------------------------------------------------------------------


@for_tensors("SigmoidBackward0", saves=RESULT)
def sigmoid(input: Array) -> Array:
    """``1 / (1 + exp(-x))``"""
    return emit("sigmoid", input)


@for_tensors("TanhBackward0", saves=RESULT)
def tanh(input: Array) -> Array:
    """Hyperbolic tangent."""
    return snp.tanh(input)


@for_tensors("SubBackward0")
def tanhshrink(input: Array) -> Array:
    """``x - tanh(x)``"""
    return input - snp.tanh(input)


@for_tensors("DivBackward0")
def softsign(input: Array) -> Array:
    """``x / (1 + |x|)``"""
    return input / (snp.abs(input) + 1)


@for_tensors("SiluBackward0")
def silu(input: Array, inplace: bool = False) -> Array:
    """``x sigmoid(x)``"""
    return input * emit("sigmoid", input)


@for_tensors("MishBackward0")
def mish(input: Array, inplace: bool = False) -> Array:
    """``x tanh(softplus(x))``.  D. Misra, "Mish" (2019)."""
    return input * snp.tanh(snp.logaddexp(input, input * 0))


@for_tensors("SoftplusBackward0")
def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """``log(1 + exp(beta x)) / beta``, and ``x`` itself where ``beta x > threshold``."""
    scaled = input if beta == 1 else beta * input
    smooth = snp.logaddexp(scaled, scaled * 0)
    return snp.where(scaled > threshold, input, smooth if beta == 1 else smooth * (1 / beta))


@for_tensors("LogSigmoidBackward0")
def logsigmoid(input: Array) -> Array:
    """``log(sigmoid(x))``, without underflow."""
    return -snp.logaddexp(-input, input * 0)


@for_tensors("GeluBackward0")
def gelu(input: Array, approximate: str = "none") -> Array:
    """``x Phi(x)`` with the normal distribution's Phi, or its tanh approximation.

    D. Hendrycks and K. Gimpel, "Gaussian error linear units" (2016).
    """
    x = input
    if approximate == "none":
        return x * (0.5 * (1 + emit("erf", x * math.sqrt(0.5))))
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (1 + snp.tanh(inner))
    raise UsageError("approximate argument must be either none or tanh.")


@for_tensors("GluBackward0")
def glu(input: Array, dim: int = -1) -> Array:
    """``a sigmoid(b)`` of the two halves of an axis.  Y. Dauphin et al. (2016)."""
    size = input.shape[dim]
    if size % 2:
        raise UsageError(f"Halving dimension must be even, but dimension {dim} is size {size}")
    lead = (slice(None),) * (dim % input.ndim)
    first, second = input[(*lead, slice(0, size // 2))], input[(*lead, slice(size // 2, size))]
    return first * emit("sigmoid", second)


# -- along an axis -------------------------------------------------------------------------


@for_tensors("SoftmaxBackward0", saves=RESULT)
def _softmax(input: Array, dim: int, dtype: Any) -> Array:
    return formulas.softmax(_converted(input, dtype), dim)


@for_tensors("LogSoftmaxBackward0", saves=RESULT)
def _log_softmax(input: Array, dim: int, dtype: Any) -> Array:
    return formulas.log_softmax(_converted(input, dtype), dim)


def softmax(input: Array, dim: int | None = None, *, dtype: Any = None) -> Array:
    """``exp(x) / sum(exp(x))`` along an axis, shifted by the maximum against overflow."""
    return _softmax(input, _axis("softmax", input, dim), dtype)


def softmin(input: Array, dim: int | None = None, *, dtype: Any = None) -> Array:
    """``softmax(-x)``"""
    return _softmax(-input, _axis("softmin", input, dim), dtype)


def log_softmax(input: Array, dim: int | None = None, *, dtype: Any = None) -> Array:
    """``x - log(sum(exp(x)))`` along an axis, shifted by the maximum against overflow."""
    return _log_softmax(input, _axis("log_softmax", input, dim), dtype)


def _converted(x: Array, dtype: Any) -> Array:
    return x if dtype is None else snp.astype(x, named(dtype).numpy)


def _axis(name: str, x: Array, dim: int | None) -> int:
    if dim is not None:
        return dim
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include "
        "dim=X as an argument.",
        stacklevel=3,
    )
    return 0 if x.ndim in (0, 1, 3) else 1
