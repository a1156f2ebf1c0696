"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from symgrad.nn import functional as F
from symgrad.nn.functions.adaptive import Sizes
from symgrad.nn.module import Module
from symgrad.nn.windows import Numbers, per_axis

Array = Any


class _MaxPool(Module):
    """Maximum over windows."""

    _function: ClassVar[Any]

    def __init__(
        self, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
        dilation: Numbers = 1, return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation
        self.stride = kernel_size if stride is None else stride
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Array) -> Any:
        """``[N, C, *spatial]`` to ``[N, C, *spatial']``, also without N."""
        return type(self)._function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
            self.return_indices,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """All options."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Maximum over windows of ``[N, C, L]``; see ``functional.max_pool1d``."""

    _function = F.max_pool1d


class MaxPool2d(_MaxPool):
    """Maximum over windows of ``[N, C, H, W]``; see ``functional.max_pool2d``."""

    _function = F.max_pool2d


class MaxPool3d(_MaxPool):
    """Maximum over windows of ``[N, C, D, H, W]``; see ``functional.max_pool3d``."""

    _function = F.max_pool3d


class _MaxUnpool(Module):
    """Maxima back in the places where they were."""

    _function: ClassVar[Any]
    rank: ClassVar[int]

    def __init__(
        self, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0
    ) -> None:
        super().__init__()
        self.kernel_size = per_axis(kernel_size, self.rank)
        self.stride = self.kernel_size if stride is None else per_axis(stride, self.rank)
        self.padding = per_axis(padding, self.rank)

    def forward(
        self, input: Array, indices: Array, output_size: Sequence[int] | None = None
    ) -> Array:
        """What a pool with ``return_indices`` gave, to the shape that it was given."""
        return type(self)._function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """``MaxPool1d`` undone, as far as it can be; see ``functional.max_unpool1d``."""

    _function, rank = F.max_unpool1d, 1


class MaxUnpool2d(_MaxUnpool):
    """``MaxPool2d`` undone, as far as it can be; see ``functional.max_unpool2d``."""

    _function, rank = F.max_unpool2d, 2


class MaxUnpool3d(_MaxUnpool):
    """``MaxPool3d`` undone, as far as it can be; see ``functional.max_unpool3d``."""

    _function, rank = F.max_unpool3d, 3


class _AvgPool(Module):
    """Mean over windows."""

    _function: ClassVar[Any]

    def __init__(
        self, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
        ceil_mode: bool = False, count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to ``[N, C, *spatial']``, also without N."""
        return type(self)._function(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """Mean over windows of ``[N, C, L]``; see ``functional.avg_pool1d``."""

    def __init__(
        self, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0,
        ceil_mode: bool = False, count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        (kernel,), (low,) = _single(kernel_size), _single(padding)
        steps = (kernel,) if stride is None else _single(stride)
        super().__init__((kernel,), steps, (low,), ceil_mode, count_include_pad)

    def forward(self, input: Array) -> Array:
        """``[N, C, L]`` to ``[N, C, L']``, also without N."""
        return F.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad,
        )  # fmt: skip


def _single(value: Numbers) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


class AvgPool2d(_AvgPool):
    """Mean over windows of ``[N, C, H, W]``; see ``functional.avg_pool2d``."""

    _function = F.avg_pool2d


class AvgPool3d(_AvgPool):
    """Mean over windows of ``[N, C, D, H, W]``; see ``functional.avg_pool3d``."""

    _function = F.avg_pool3d


class _LPPool(Module):
    """Root of the sum of powers over windows."""

    _function: ClassVar[Any]

    def __init__(
        self, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm_type, self.kernel_size, self.stride = norm_type, kernel_size, stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to ``[N, C, *spatial']``, also without N."""
        return type(self)._function(
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )

    def extra_repr(self) -> str:
        """The power and the window."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """Root of the sum of powers over windows of ``[N, C, L]``."""

    _function = F.lp_pool1d


class LPPool2d(_LPPool):
    """Root of the sum of powers over windows of ``[N, C, H, W]``."""

    _function = F.lp_pool2d


class LPPool3d(_LPPool):
    """Root of the sum of powers over windows of ``[N, C, D, H, W]``."""

    _function = F.lp_pool3d


class _AdaptivePool(Module):
    """Windows that cut the image into a number of parts."""

    _function: ClassVar[Any]

    def __init__(self, output_size: Sizes) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to ``[N, C, *output_size]``, also without N."""
        return type(self)._function(input, self.output_size)

    def extra_repr(self) -> str:
        """The sizes wanted."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptivePool):
    """Mean over windows that cut the axis into parts."""

    _function = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptivePool):
    """Mean over windows that cut the image into parts."""

    _function = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptivePool):
    """Mean over windows that cut the image into parts."""

    _function = F.adaptive_avg_pool3d


class _AdaptiveMaxPool(_AdaptivePool):
    def __init__(self, output_size: Sizes, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Array) -> Any:
        """``[N, C, *spatial]`` to ``[N, C, *output_size]``, also without N."""
        return type(self)._function(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maximum over windows that cut the axis into parts."""

    _function = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maximum over windows that cut the image into parts."""

    _function = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maximum over windows that cut the image into parts."""

    _function = F.adaptive_max_pool3d
