"""Memory of results is recycled, and what the C library keeps goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from symgrad.codegen.runtime.memory import SMALL, empty, give_back
from symgrad.codegen.runtime.native import aligned_bytes
from symgrad.codegen.target import huge_page_bytes

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


@pytest.mark.skipif(not huge_page_bytes(), reason="this system has no huge pages to ask for")
def test_large_memory_lies_in_huge_pages_while_there_is_a_view() -> None:
    page = huge_page_bytes()
    size = 12 * page + 4321
    memory = aligned_bytes(size)
    assert memory.ctypes.data % page == 0
    assert memory.shape == (size,)
    assert not memory.any()
    before = resident_bytes()
    memory[:] = 1
    part = memory[-5:]
    del memory
    assert part.all()
    assert resident_bytes() > before
    del part
    gc.collect()
    assert resident_bytes() < before + 2 * page


@pytest.mark.parametrize("size", [0, 1, 4321, (1 << 20) + 1])
def test_small_memory_is_aligned_and_zero(size: int) -> None:
    memory = aligned_bytes(size, 256)
    assert memory.shape == (size,)
    assert size == 0 or memory.ctypes.data % 256 == 0
    assert not memory.any()
