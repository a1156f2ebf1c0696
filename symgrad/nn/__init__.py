"""Building blocks of neural networks, usable as pure functions by ``functional_call``."""

from symgrad.nn import functional, init
from symgrad.nn.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Identity,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from symgrad.nn.module import Module, Parameter, functional_call

__all__ = [
    "AdaptiveAvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "Identity",
    "Linear",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "functional",
    "functional_call",
    "init",
]
