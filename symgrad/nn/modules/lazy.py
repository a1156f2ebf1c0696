"""Layers that learn the number of their input's features from the first input.

Until then their parameters have no shape.  The first call makes an ordinary layer of the size
that it sees, takes over its values, and turns the lazy layer into one of that class.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from symgrad.nn.members import BUFFERS, PARAMETERS
from symgrad.nn.module import Module
from symgrad.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from symgrad.nn.modules.linear import Linear
from symgrad.nn.modules.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from symgrad.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

Array = Any


class LazyModule(Module):
    """What lazy layers share: ``becomes`` is the class of ordinary ones, whose first argument
    is the number of features, an attribute called ``size``."""

    becomes: ClassVar[Any]
    size: ClassVar[str]

    def __init__(self, *options: Any, **named: Any) -> None:
        init = type(self).becomes.__init__
        least = inspect.signature(init).bind(self, 1, *options, **named).arguments.get("groups", 1)
        init(self, least, *options, **named)
        self._made_with = (options, named)
        setattr(self, self.size, 0)
        for name, own in self._of_kind(PARAMETERS):
            self.__dict__[name] = UninitializedParameter(dtype=own.dtype)
        for name, own in self._of_kind(BUFFERS):
            if own.ndim:
                self.__dict__[name] = UninitializedBuffer(dtype=own.dtype)

    def has_uninitialized_params(self) -> bool:
        """Whether there are parameters or buffers without a shape."""
        return any(is_lazy(own) for kind in (PARAMETERS, BUFFERS) for _, own in self._of_kind(kind))

    def _features(self, input: Array) -> int:
        """How many features the input has."""
        return int(input.shape[-1])

    def initialize_parameters(self, input: Array) -> None:
        """Gives all parameters the shapes that fit the input, and initial values."""
        options, named = self._made_with
        made = type(self).becomes(self._features(input), *options, **named)
        for kind in (PARAMETERS, BUFFERS):
            for name, new in made._of_kind(kind):
                own = self.__dict__[name]
                if is_lazy(own):
                    own.materialize(new.shape)
                    own._set_array(new._array().astype(own._dtype))
        setattr(self, self.size, getattr(made, self.size))
        del self._made_with
        self.__class__ = type(self).becomes

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        self.initialize_parameters(*inputs)
        return self(*inputs, **options)


class LazyLinear(LazyModule, Linear):
    """``Linear`` of as many features as the first input has."""

    becomes, size = Linear, "in_features"


class _LazyImages(LazyModule):
    """Layers of ``[N, C, *spatial]``, also without N."""

    size = "num_features"
    rank: ClassVar[int]

    def _features(self, input: Array) -> int:
        if input.ndim not in (self.rank + 1, self.rank + 2):
            raise RuntimeError(
                f"Expected {self.rank + 1}D (unbatched) or {self.rank + 2}D (batched) input to "
                f"{type(self).__name__}, but got input of size: {tuple(input.shape)}"
            )
        return int(input.shape[-self.rank - 1])


class LazyConv1d(_LazyImages, Conv1d):
    """``Conv1d`` of as many channels as the first input has."""

    becomes, size = Conv1d, "in_channels"


class LazyConv2d(_LazyImages, Conv2d):
    """``Conv2d`` of as many channels as the first input has."""

    becomes, size = Conv2d, "in_channels"


class LazyConv3d(_LazyImages, Conv3d):
    """``Conv3d`` of as many channels as the first input has."""

    becomes, size = Conv3d, "in_channels"


class LazyConvTranspose1d(_LazyImages, ConvTranspose1d):
    """``ConvTranspose1d`` of as many channels as the first input has."""

    becomes, size = ConvTranspose1d, "in_channels"


class LazyConvTranspose2d(_LazyImages, ConvTranspose2d):
    """``ConvTranspose2d`` of as many channels as the first input has."""

    becomes, size = ConvTranspose2d, "in_channels"


class LazyConvTranspose3d(_LazyImages, ConvTranspose3d):
    """``ConvTranspose3d`` of as many channels as the first input has."""

    becomes, size = ConvTranspose3d, "in_channels"


class _LazyBatchNorm(LazyModule):
    size = "num_features"

    def _features(self, input: Array) -> int:
        return int(input.shape[1])


class LazyBatchNorm1d(_LazyBatchNorm, BatchNorm1d):
    """``BatchNorm1d`` of as many channels as the first input has."""

    becomes = BatchNorm1d


class LazyBatchNorm2d(_LazyBatchNorm, BatchNorm2d):
    """``BatchNorm2d`` of as many channels as the first input has."""

    becomes = BatchNorm2d


class LazyBatchNorm3d(_LazyBatchNorm, BatchNorm3d):
    """``BatchNorm3d`` of as many channels as the first input has."""

    becomes = BatchNorm3d


class _LazyInstanceNorm(_LazyImages):
    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True,
        track_running_stats: bool = True, **named: Any,
    ) -> None:  # fmt: skip
        super().__init__(eps, momentum, affine, track_running_stats, **named)


class LazyInstanceNorm1d(_LazyInstanceNorm, InstanceNorm1d):
    """``InstanceNorm1d`` of as many channels as the first input has."""

    becomes = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNorm, InstanceNorm2d):
    """``InstanceNorm2d`` of as many channels as the first input has."""

    becomes = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNorm, InstanceNorm3d):
    """``InstanceNorm3d`` of as many channels as the first input has."""

    becomes = InstanceNorm3d
