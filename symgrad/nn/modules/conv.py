"""Convolution layers."""

from __future__ import annotations

from typing import Any, ClassVar

from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.module import Module
from symgrad.nn.parameter import Parameter
from symgrad.nn.windows import Numbers, Pads, pads, per_axis

Array = Any

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What all convolutions share: options, weight ``[out, in / groups, *kernel]``, bias."""

    rank: ClassVar[int]
    transposed: ClassVar[bool] = False
    padding: Any

    def _declare(
        self, channels: tuple[int, int], kernel_size: Numbers, stride: Numbers, padding: Pads,
        dilation: Numbers, output_padding: Numbers, groups: int, bias: bool, padding_mode: str,
        dtype: Any,
    ) -> None:  # fmt: skip
        inner, outer = channels
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if inner % groups:
            raise ValueError("in_channels must be divisible by groups")
        if outer % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {set(_PADDING_MODES)}, but got "
                f"padding_mode='{padding_mode}'"
            )
        self.in_channels, self.out_channels, self.groups = inner, outer, groups
        self.kernel_size = per_axis(kernel_size, self.rank)
        self.stride = per_axis(stride, self.rank)
        self.padding = padding if isinstance(padding, str) else per_axis(padding, self.rank)
        self.dilation = per_axis(dilation, self.rank)
        self.output_padding = per_axis(output_padding, self.rank)
        self.padding_mode = padding_mode
        pads(self.padding, self.kernel_size, self.stride, self.dilation)  # raises if it is wrong
        first, second = (inner, outer) if self.transposed else (outer, inner)
        self.weight = Parameter.blank((first, second // groups, *self.kernel_size), dtype)
        self.register_parameter("bias", Parameter.blank((outer,), dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias anew, uniform within ``1 / sqrt(fan_in)``."""
        init.default_weight_(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, and the options that are not the defaults."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        none, one = (0,) * self.rank, (1,) * self.rank
        for name, default in (("padding", none), ("dilation", one), ("output_padding", none)):
            if (value := getattr(self, name)) != default:
                text += f", {name}={value}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


_CONVOLVE = F.conv1d, F.conv2d, F.conv3d


class _Convolution(_Conv):
    """A convolution that is not transposed."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Numbers, stride: Numbers = 1,
        padding: Pads = 0, dilation: Numbers = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._declare(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, 0, groups, bias,
            padding_mode, dtype,
        )  # fmt: skip

    def forward(self, input: Array) -> Array:
        """``[N, in, *spatial]`` to ``[N, out, *spatial']``, also without N."""
        padding: Pads = self.padding
        if self.padding_mode != "zeros":
            widths = pads(padding, self.kernel_size, self.stride, self.dilation)
            input = F.pad(input, [n for pair in reversed(widths) for n in pair], self.padding_mode)
            padding = 0
        return _CONVOLVE[self.rank - 1](
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )


class Conv1d(_Convolution):
    """One-dimensional convolution; see ``functional.conv1d``."""

    rank = 1


class Conv2d(_Convolution):
    """Two-dimensional convolution; see ``functional.conv2d``."""

    rank = 2


class Conv3d(_Convolution):
    """Three-dimensional convolution; see ``functional.conv3d``."""

    rank = 3


class _Transposed(_Conv):
    """A transposed convolution."""

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Numbers, stride: Numbers = 1,
        padding: Numbers = 0, output_padding: Numbers = 0, groups: int = 1, bias: bool = True,
        dilation: Numbers = 1, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        self._declare(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, output_padding,
            groups, bias, padding_mode, dtype,
        )  # fmt: skip

    def forward(self, input: Array, output_size: Any = None) -> Array:
        """``[N, in, *spatial]`` to ``[N, out, *spatial']``; ``output_size`` chooses the latter."""
        extra = self.output_padding
        if output_size is not None:
            extra = self._output_padding(input, tuple(output_size)[-self.rank :])
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.rank - 1]
        return convolve(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups,
            self.dilation,
        )  # fmt: skip

    def _output_padding(self, input: Array, wanted: tuple[int, ...]) -> tuple[int, ...]:
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self.rank :], self.stride, self.padding, self.dilation,
                self.kernel_size, strict=True,
            )
        ]  # fmt: skip
        most = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
        if any(not a <= n <= b for n, a, b in zip(wanted, least, most, strict=True)):
            raise ValueError(
                f"requested an output size of {list(wanted)}, but valid sizes range from {least} "
                f"to {most} (for an input of {tuple(input.shape[2:])})"
            )
        return tuple(n - a for n, a in zip(wanted, least, strict=True))


class ConvTranspose1d(_Transposed):
    """One-dimensional transposed convolution; see ``functional.conv_transpose1d``."""

    rank = 1


class ConvTranspose2d(_Transposed):
    """Two-dimensional transposed convolution; see ``functional.conv_transpose2d``."""

    rank = 2


class ConvTranspose3d(_Transposed):
    """Three-dimensional transposed convolution; see ``functional.conv_transpose3d``."""

    rank = 3
