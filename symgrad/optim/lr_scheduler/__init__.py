"""Schedules of learning rates, as torch's: ``step()`` once per epoch, or per batch."""

from symgrad.optim.lr_scheduler.base import LRScheduler
from symgrad.optim.lr_scheduler.combined import ChainedScheduler, SequentialLR
from symgrad.optim.lr_scheduler.cyclic import CyclicLR, OneCycleLR
from symgrad.optim.lr_scheduler.decay import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from symgrad.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts",
    "CyclicLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR",
    "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR",
    "StepLR",
]  # fmt: skip

_LRScheduler = LRScheduler
"""What schedules were derived from before torch 2.0."""
