"""bfloat16 numbers, which NumPy does not have, as the float32 numbers they are."""

from __future__ import annotations

from typing import Any

import numpy as np


def upcast_bfloat16(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 values of bfloat16 numbers given as their ``uint16`` bits; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
