"""Memory of results is recycled, and what the C library keeps goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from symgrad.codegen.runtime.memory import SMALL, empty, give_back

_HAS_TRIM = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_memory_of_large_results_is_used_again() -> None:
    gc.collect()
    first = empty((SMALL, 2), np.dtype(np.uint8))
    address, part = first.ctypes.data, first[1:3]
    del first
    assert empty((SMALL, 2), np.dtype(np.uint8)).ctypes.data != address  # a view is left
    del part
    assert empty((2 * SMALL,), np.dtype(np.uint8)).ctypes.data == address


@pytest.mark.skipif(not _HAS_TRIM, reason="the C library gives memory back by itself, or never")
def test_free_memory_goes_back_to_the_system() -> None:
    np.ones(20 << 20, np.uint8)  # a freed block this large keeps later ones in the heap
    blocks = [np.ones(8 << 20, np.uint8) for _ in range(10)]
    keep = np.ones(8 << 20, np.uint8)  # lies behind them, or the heap would shrink by itself
    full = resident_bytes()
    del blocks
    give_back()
    assert resident_bytes() < full - (60 << 20)
    assert keep.all()
