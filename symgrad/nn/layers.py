"""The layers networks are built of, with torch's names, parameters and defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.module import Module, Parameter
from symgrad.nn.windows import Numbers, Pads, per_axis

Array = Any


class Linear(Module):
    """``x @ weight.T + bias``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.kaiming_uniform((out_features, in_features)))
        bound = 1 / math.sqrt(max(1, in_features))
        self.register_parameter("bias", init.uniform((out_features,), bound) if bias else None)

    def forward(self, x: Array) -> Array:
        """``[..., in]`` to ``[..., out]``."""
        return F.linear(x, self.weight, self.bias)


class Conv2d(Module):
    """Two-dimensional convolution; see ``functional.conv2d``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Pads = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = (out_channels, in_channels // groups, *per_axis(kernel_size, 2))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = Parameter(init.kaiming_uniform(shape))
        bound = 1 / math.sqrt(max(1, init.fans(shape)[0]))
        self.register_parameter("bias", init.uniform((out_channels,), bound) if bias else None)

    def forward(self, x: Array) -> Array:
        """``[N, in, H, W]`` to ``[N, out, H', W']``."""
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class BatchNorm2d(Module):
    """Batch normalisation of ``[N, C, H, W]`` with running statistics for evaluation."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        one, zero = np.ones(num_features, np.float32), np.zeros(num_features, np.float32)
        self.register_parameter("weight", one.copy() if affine else None)
        self.register_parameter("bias", zero.copy() if affine else None)
        self.register_buffer("running_mean", zero.copy() if track_running_stats else None)
        self.register_buffer("running_var", one.copy() if track_running_stats else None)
        counter = np.array(0, np.int64) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)

    def forward(self, x: Array) -> Array:
        """Normalises each channel; in training mode updates the running statistics."""
        y, mean, variance = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training, self.momentum, self.eps,
        )  # fmt: skip
        if self.training and mean is not None:
            self._buffers["running_mean"], self._buffers["running_var"] = mean, variance
            self._buffers["num_batches_tracked"] = self._buffers["num_batches_tracked"] + 1
        return y


class ReLU(Module):
    """``max(x, 0)``."""

    def forward(self, x: Array) -> Array:
        """Elementwise."""
        return F.relu(x)


class MaxPool2d(Module):
    """Maximum over windows; see ``functional.max_pool2d``."""

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Array) -> Array:
        """``[N, C, H, W]`` to ``[N, C, H', W']``."""
        return F.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AdaptiveAvgPool2d(Module):
    """Mean over windows that cut the image into ``output_size`` parts."""

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Array) -> Array:
        """``[N, C, H, W]`` to ``[N, C, *output_size]``."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class Identity(Module):
    """Returns its input."""

    def forward(self, x: Array) -> Array:
        """The input."""
        return x


class Sequential(Module):
    """Modules applied one after the other, named "0", "1", ..."""

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for number, module in enumerate(modules):
            self._modules[str(number)] = module

    def forward(self, x: Array) -> Array:
        """Through all modules."""
        for module in self._modules.values():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int) -> Module:
        module: Module = list(self._modules.values())[index]
        return module
