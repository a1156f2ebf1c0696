"""Result arrays in recycled memory.

A fresh large array costs a page fault for every 4 KiB when it is first written, which for
a training step's parameters is as slow as the step itself.  So the memory of large results
returns to a free list when the last view of it is gone, and the next results are made there.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import defaultdict
from typing import Any

import numpy as np

from symgrad.codegen.runtime.native import aligned_bytes

Array = np.ndarray[Any, Any]

SMALL = 1 << 16
"""Bytes below which NumPy's own allocation is as fast."""
LIMIT = 1 << 30
"""Bytes of free memory kept at most."""
_PAGE = 1 << 12

_free: defaultdict[int, list[Any]] = defaultdict(list)
_live: dict[int, weakref.ref[Array]] = {}
_free_bytes = 0


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised C-contiguous array, 64-byte aligned where it is large."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    memory = _take(-(-size // _PAGE) * _PAGE)
    # NumPy lets views of views refer to the array below them, down to the first whose
    # memory no array owns: this one.  It dies when no view is left.
    owner = np.frombuffer(memory, np.uint8)
    _live[id(owner)] = weakref.ref(owner, _recycle(id(owner), memory))
    return owner[:size].view(dtype).reshape(shape)


def _take(size: int) -> Any:
    """Memory as a ctypes array, which is no NumPy array on purpose."""
    global _free_bytes
    if _free[size]:
        _free_bytes -= size
        return _free[size].pop()
    raw = aligned_bytes(size)
    memory: Any = (ctypes.c_char * size).from_address(raw.ctypes.data)
    memory.owner = raw  # keeps it alive
    return memory


def _recycle(key: int, memory: Any) -> Any:
    def recycle(_: object) -> None:
        global _free_bytes
        del _live[key]
        size = len(memory)
        if _free_bytes + size <= LIMIT:
            _free_bytes += size
            _free[size].append(memory)

    return recycle
