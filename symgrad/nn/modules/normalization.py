"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.functions.normalization import (
    normalized_batch,
    normalized_instances,
    updating_batch,
    updating_instances,
)
from symgrad.nn.module import Module
from symgrad.nn.parameter import Parameter
from symgrad.nn.pure import is_lent
from symgrad.tensors import Tensor
from symgrad.tensors.counters import advance
from symgrad.tensors.creation import zeros

Array = Any


class _BatchNorm(Module):
    """Batch normalisation with running statistics for evaluation."""

    ranks: ClassVar[tuple[int, ...]]

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
        affine: bool = True, track_running_stats: bool = True, device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        shape = (num_features,)
        _declare_affine(self, shape, affine, bias, dtype)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, zeros(shape, dtype=dtype) if track_running_stats else None)
        counter = Tensor.of_array(np.array(0, np.int64)) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forgets the running statistics: mean 0, variance 1."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            self.num_batches_tracked._set_array(np.array(0, np.int64))

    def reset_parameters(self) -> None:
        """Sets weight to 1, bias to 0, and forgets the running statistics."""
        self.reset_running_stats()
        _reset_affine(self)

    def forward(self, input: Array) -> Array:
        """Normalises each channel; in training mode updates the running statistics."""
        if input.ndim not in self.ranks:
            expected = " or ".join(f"{n}D" for n in self.ranks)
            raise ValueError(f"expected {expected} input (got {input.ndim}D input)")
        mean, variance = self.running_mean, self.running_var
        if not self.training and mean is not None and variance is not None:
            return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        if not (self.training and self.track_running_stats):
            mean = variance = None
        momentum = self._momentum() if mean is not None else 0.0
        normalize = normalized_batch if is_lent() else updating_batch
        return self._updated(normalize, input, mean, variance, momentum)

    def _updated(
        self, normalize: Any, input: Array, mean: Array | None, variance: Array | None,
        momentum: Any,
    ) -> Array:  # fmt: skip
        """What ``normalize`` gives, the running statistics taking their new values."""
        y, new_mean, new_variance = normalize(
            input, mean, variance, self.weight, self.bias, momentum, self.eps
        )
        if new_mean is not mean:  # of a module that is lent other values
            self.__dict__.update(running_mean=new_mean, running_var=new_variance)
        return y

    def _momentum(self) -> Any:
        """Counts the batch; the share that its statistics get of the running ones."""
        counter = self.num_batches_tracked
        if counter is not None:
            if isinstance(counter, Tensor) and not is_lent():
                advance(counter)
            else:
                self.__dict__["num_batches_tracked"] = counter + 1
        if self.momentum is not None:
            return self.momentum
        return 1 / self.num_batches_tracked if counter is not None else 0.0

    def extra_repr(self) -> str:
        """All options."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of ``[N, C]`` or ``[N, C, L]``; see ``functional.batch_norm``."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of ``[N, C, H, W]``; see ``functional.batch_norm``."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of ``[N, C, D, H, W]``; see ``functional.batch_norm``."""

    ranks = (5,)


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


class LayerNorm(Module):
    """Normalisation over the last axes; see ``functional.layer_norm``."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5,
        elementwise_affine: bool = True, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = shape = _shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        _declare_affine(self, shape, elementwise_affine, bias, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        _reset_affine(self)

    def forward(self, input: Array) -> Array:
        """``[..., *normalized_shape]`` to the same."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """All options."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Division by the root mean square over the last axes; see ``functional.rms_norm``."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None,
        elementwise_affine: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = shape = _shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        blank = Parameter.blank(shape, dtype) if elementwise_affine else None
        self.register_parameter("weight", blank)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the weight to 1."""
        _reset_affine(self)

    def forward(self, input: Array) -> Array:
        """``[..., *normalized_shape]`` to the same."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """All options."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class GroupNorm(Module):
    """Normalisation of groups of channels; see ``functional.group_norm``."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
        device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(
                f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})"
            )
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.affine = affine
        _declare_affine(self, (num_channels,), affine, bias, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        _reset_affine(self)

    def forward(self, input: Array) -> Array:
        """``[N, C, ...]`` to the same."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """All options."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class _InstanceNorm(_BatchNorm):
    """Normalisation of each channel of each example."""

    rank: ClassVar[int]

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *,
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to the same; also without N."""
        if input.ndim not in (self.rank + 1, self.rank + 2):
            raise ValueError(
                f"expected {self.rank + 1}D or {self.rank + 2}D input (got {input.ndim}D input)"
            )
        if input.ndim == self.rank + 1:
            return self.forward(input[None])[0]
        mean, variance = self.running_mean, self.running_var
        if mean is not None and not self.training:
            return F.instance_norm(
                input, mean, variance, self.weight, self.bias, use_input_stats=False, eps=self.eps
            )
        normalize = normalized_instances if is_lent() else updating_instances
        return self._updated(normalize, input, mean, variance, self.momentum)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of ``[N, C, L]``; see ``functional.instance_norm``."""

    rank = 1


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of ``[N, C, H, W]``; see ``functional.instance_norm``."""

    rank = 2


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of ``[N, C, D, H, W]``; see ``functional.instance_norm``."""

    rank = 3


class LocalResponseNorm(Module):
    """Division by what neighbouring channels have; see ``functional.local_response_norm``."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to the same."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """All options."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _declare_affine(
    module: Module, shape: tuple[int, ...], affine: bool, bias: bool, dtype: Any
) -> None:
    module.register_parameter("weight", Parameter.blank(shape, dtype) if affine else None)
    module.register_parameter("bias", Parameter.blank(shape, dtype) if affine and bias else None)


def _reset_affine(module: Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        (init.ones_ if name == "weight" else init.zeros_)(parameter)
