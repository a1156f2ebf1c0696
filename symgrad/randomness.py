"""The source of random numbers that initialisers and random tensors share."""

from __future__ import annotations

import threading

import numpy as np


class Source:
    """A generator and the lock under which threads draw from it."""

    generator = np.random.default_rng()
    lock = threading.Lock()


def manual_seed(seed: int) -> None:
    """Makes random tensors and initial weights repeatable."""
    Source.generator = np.random.default_rng(seed)
