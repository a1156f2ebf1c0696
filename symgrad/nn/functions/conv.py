"""Convolutions and transposed convolutions of ``[N, C, *spatial]``, or unbatched ``[C, ...]``."""

from __future__ import annotations

from typing import Any

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import FitError, for_tensors
from symgrad.nn.windows import Numbers, Pads, pads, per_axis
from symgrad.tracing import emit

Array = Any


def _conv(rank: int, x: Array, weight: Array, bias: Array | None, options: Any) -> Array:
    stride, padding, dilation, groups = options
    name = f"conv{rank}d"
    if weight.ndim != rank + 2:
        raise FitError(
            f"weight should have {rank + 2} dimensions for {name}, got {list(weight.shape)}"
        )
    batched = _batched(name, rank, x)
    if batched.shape[1] != weight.shape[1] * groups:
        raise FitError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected "
            f"input{list(x.shape)} to have {weight.shape[1] * groups} channels, but got "
            f"{batched.shape[1]} channels instead"
        )
    steps, spread = per_axis(stride, rank), per_axis(dilation, rank)
    widths = pads(padding, weight.shape[2:], steps, spread)
    _check_reach(batched.shape[2:], weight.shape[2:], widths, spread)
    y = emit(
        "conv", batched, weight, stride=steps, padding=widths, dilation=spread,
        lhs_dilation=(1,) * rank, groups=groups,
    )  # fmt: skip
    return _finished(y, bias, rank, x)


def _batched(name: str, rank: int, x: Array) -> Array:
    if x.ndim not in (rank + 1, rank + 2):
        raise FitError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {name}, but got "
            f"input of size: {list(x.shape)}"
        )
    return x if x.ndim == rank + 2 else snp.expand_dims(x, 0)


def _finished(y: Array, bias: Array | None, rank: int, x: Array) -> Array:
    if bias is not None:
        y = y + snp.reshape(bias, (-1, *(1,) * rank))
    return y if x.ndim == rank + 2 else snp.squeeze(y, axis=0)


def _check_reach(sizes: Any, kernel: Any, widths: Any, dilation: Any) -> None:
    padded = [n + low + high for n, (low, high) in zip(sizes, widths, strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(n < r for n, r in zip(padded, reach, strict=True)):
        raise FitError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). Kernel "
            f"size: ({' x '.join(map(str, reach))}). Kernel size can't be greater than actual "
            "input size"
        )


def _name(given: dict[str, Any]) -> str:
    batched = given["input"].ndim == given["weight"].ndim
    return "ConvolutionBackward0" if batched else "SqueezeBackward1"


@for_tensors(_name)
def conv1d(
    input: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Pads = 0, dilation: Numbers = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Convolution of ``[N, C, L]`` with ``[O, C / groups, K]``; see ``conv2d``."""
    return _conv(1, input, weight, bias, (stride, padding, dilation, groups))


@for_tensors(_name)
def conv2d(
    input: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Pads = 0, dilation: Numbers = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Convolution of ``[N, C, H, W]`` with ``[O, C / groups, KH, KW]``.

    ``padding`` is a number, one per axis, ``"valid"`` or ``"same"`` (stride 1 only).
    """
    return _conv(2, input, weight, bias, (stride, padding, dilation, groups))


@for_tensors(_name)
def conv3d(
    input: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Pads = 0, dilation: Numbers = 1, groups: int = 1,
) -> Array:  # fmt: skip
    """Convolution of ``[N, C, D, H, W]``; see ``conv2d``."""
    return _conv(3, input, weight, bias, (stride, padding, dilation, groups))


# -- transposed ------------------------------------------------------------------------------


def _conv_transpose(rank: int, x: Array, weight: Array, bias: Array | None, options: Any) -> Array:
    stride, padding, output_padding, groups, dilation = options
    name = f"conv_transpose{rank}d"
    batched = _batched(name, rank, x)
    if weight.ndim != rank + 2 or batched.shape[1] != weight.shape[0]:
        raise FitError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected "
            f"input{list(x.shape)} to have {weight.shape[0]} channels, but got "
            f"{batched.shape[1]} channels instead"
        )
    steps, spread = per_axis(stride, rank), per_axis(dilation, rank)
    low, extra = per_axis(padding, rank), per_axis(output_padding, rank)
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, spread, strict=True)):
        raise UsageError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding {extra}, stride {steps}, dilation {spread}"
        )
    sizes = tuple(
        (n - 1) * s - 2 * p + (k - 1) * d + e + 1
        for n, k, s, p, d, e in zip(
            batched.shape[2:], weight.shape[2:], steps, low, spread, extra, strict=True
        )
    )
    y = emit(
        "conv_input_grad", batched, weight, spatial=sizes, stride=steps,
        padding=tuple((p, p) for p in low), dilation=spread, lhs_dilation=(1,) * rank,
        groups=groups,
    )  # fmt: skip
    return _finished(y, bias, rank, x)


@for_tensors(_name)
def conv_transpose1d(
    input: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Numbers = 0, output_padding: Numbers = 0, groups: int = 1, dilation: Numbers = 1,
) -> Array:  # fmt: skip
    """Transposed convolution of ``[N, C, L]`` with ``[C, O / groups, K]``."""
    options = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(1, input, weight, bias, options)


@for_tensors(_name)
def conv_transpose2d(
    input: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Numbers = 0, output_padding: Numbers = 0, groups: int = 1, dilation: Numbers = 1,
) -> Array:  # fmt: skip
    """Transposed convolution of ``[N, C, H, W]`` with ``[C, O / groups, KH, KW]``.

    The adjoint of ``conv2d`` with the same weight: ``output_padding`` chooses among the image
    sizes that a stride makes equal.
    """
    options = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(2, input, weight, bias, options)


@for_tensors(_name)
def conv_transpose3d(
    input: Array, weight: Array, bias: Array | None = None, stride: Numbers = 1,
    padding: Numbers = 0, output_padding: Numbers = 0, groups: int = 1, dilation: Numbers = 1,
) -> Array:  # fmt: skip
    """Transposed convolution of ``[N, C, D, H, W]``; see ``conv_transpose2d``."""
    options = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(3, input, weight, bias, options)
