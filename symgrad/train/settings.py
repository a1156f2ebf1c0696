"""The options of a training run, and the learning rate they imply."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from symgrad.ir.errors import UsageError
from symgrad.train.data import DataSet, digits, image_folder

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
WARM_UP = 0.25
"""Share of the run in which the learning rate rises to its peak."""
HELD_OUT = 0.2
SMALL = 48
"""Image size up to which the network takes the stem for small images."""


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes: equal settings give equal weights, bit by bit.

    ``data`` is a folder of images per class, ``None`` for scikit-learn's digits; ``weights`` a
    file to start from; ``lr`` the peak of the learning rate; ``size`` the side of an image in
    pixels.  ``threads`` counts because sums are split between them.
    """

    data: str | None = None
    weights: str | None = None
    epochs: int = 5
    batch_size: int = 32
    lr: float = 0.02
    seed: int = 0
    size: int = 16
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} must be at least 1, got {getattr(self, name)}")
        if not 8 <= self.size <= 1024:
            raise UsageError(f"--size must lie between 8 and 1024 pixels, got {self.size}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr must be positive and finite, got {self.lr}")
        if self.seed < 0:
            raise UsageError(f"--seed must not be negative, got {self.seed}")

    @property
    def name(self) -> str:
        """What the run is called: after its data."""
        return "digits" if self.data is None else Path(self.data).resolve().name

    @property
    def shift(self) -> int:
        """The largest random translation of a training image, in pixels."""
        return self.size // 16

    def read_data(self) -> DataSet:
        """The images; raises ``DataError`` where there is something wrong with them."""
        if self.data is None:
            return digits(self.size, held_out=HELD_OUT, seed=self.seed)
        return image_folder(Path(self.data), self.size, held_out=HELD_OUT, seed=self.seed)

    def learning_rate(self, done: float) -> float:
        """The rate after the share ``done`` of the run: a linear rise, then half a cosine.

        L. Smith and N. Topin, "Super-convergence" (2018).
        """
        if done < WARM_UP:
            return self.lr * (0.02 + 0.98 * done / WARM_UP)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
