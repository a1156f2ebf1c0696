"""torch's switches for libraries of other devices: they may be set, and change nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

__all__ = ["cuda", "cudnn", "mps"]


def _absent(**switches: Any) -> SimpleNamespace:
    return SimpleNamespace(is_available=lambda: False, is_built=lambda: False, **switches)


cudnn = _absent(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)
mps = _absent()
cuda = _absent(matmul=SimpleNamespace(allow_tf32=False))
