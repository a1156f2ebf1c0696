"""Dropout layers: random in training mode, nothing in evaluation mode."""

from __future__ import annotations

from typing import Any, ClassVar

from symgrad.nn import functional as F
from symgrad.nn.module import Module

Array = Any


class _Dropout(Module):
    """What the dropout layers share."""

    _function: ClassVar[Any]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Array) -> Array:
        """The shape stays."""
        return type(self)._function(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """All options."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Zeros elements with probability ``p``; see ``functional.dropout``."""

    _function = F.dropout


class Dropout1d(_Dropout):
    """Zeros channels of ``[N, C, L]`` with probability ``p``."""

    _function = F.dropout1d


class Dropout2d(_Dropout):
    """Zeros channels of ``[N, C, H, W]`` with probability ``p``."""

    _function = F.dropout2d


class Dropout3d(_Dropout):
    """Zeros channels of ``[N, C, D, H, W]`` with probability ``p``."""

    _function = F.dropout3d


class AlphaDropout(_Dropout):
    """Dropout that keeps the statistics of SELU networks; see ``functional.alpha_dropout``."""

    _function = F.alpha_dropout


class FeatureAlphaDropout(_Dropout):
    """``AlphaDropout`` of whole channels of ``[N, C, *spatial]``."""

    _function = F.feature_alpha_dropout
