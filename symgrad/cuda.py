"""What programs ask of ``torch.cuda`` before they choose a device: there is none but the CPU."""

from __future__ import annotations

__all__ = ["device_count", "empty_cache", "is_available", "manual_seed", "manual_seed_all"]


def is_available() -> bool:
    """``False``: programs run on the CPU."""
    return False


def device_count() -> int:
    """0"""
    return 0


def manual_seed(seed: int) -> None:
    """Nothing: no device has a generator of its own."""


def manual_seed_all(seed: int) -> None:
    """Nothing, as ``manual_seed``."""


def empty_cache() -> None:
    """Nothing: there is no device memory."""
