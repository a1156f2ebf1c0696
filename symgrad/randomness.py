"""The source of random numbers that initialisers and random tensors share."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_SEED_BITS = 63


class Generator:
    """A stream of random numbers with a seed, as torch's."""

    def __init__(self, device: Any = "cpu") -> None:
        self.lock = threading.Lock()
        self.manual_seed(67280421310721)  # what torch's generators start from

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream that belongs to a seed; returns the generator."""
        self._seed = int(seed)
        self.numpy = np.random.default_rng(self._seed & (1 << 64) - 1)
        return self

    def seed(self) -> int:
        """Starts a stream from a seed that nobody can foresee, and returns that."""
        self.manual_seed(secrets.randbits(_SEED_BITS))
        return self._seed

    def initial_seed(self) -> int:
        """The seed of the present stream."""
        return self._seed

    @property
    def state(self) -> tuple[int, Any]:
        """All that the next numbers depend on."""
        return self._seed, self.numpy.bit_generator.state

    @state.setter
    def state(self, new: tuple[int, Any]) -> None:
        self._seed, self.numpy.bit_generator.state = new


class Source:
    """The stream used where none is given, and the lock under which threads draw from it."""

    default = Generator()
    default.seed()
    lock = default.lock

    generator = default.numpy
    """NumPy's generator of the default stream."""


@contextmanager
def drawing(generator: Generator | None = None) -> Iterator[np.random.Generator]:
    """NumPy's generator of a stream, nobody else's within the context."""
    chosen = Source.default if generator is None else generator
    with chosen.lock:
        yield chosen.numpy


def manual_seed(seed: int) -> Generator:
    """Makes random tensors and initial weights repeatable."""
    Source.default.manual_seed(seed)
    Source.generator = Source.default.numpy
    return Source.default


def seed() -> int:
    """Makes random tensors unforeseeable again; returns the seed chosen."""
    return manual_seed(secrets.randbits(_SEED_BITS)).initial_seed()


def initial_seed() -> int:
    """The seed of the default stream."""
    return Source.default.initial_seed()
