"""Result arrays in recycled memory.

A fresh large array costs a page fault for every 4 KiB when it is first written, which for
a training step's parameters is as slow as the step itself.  So the memory of large results
returns to a free list when the last view of it is gone, and the next results are made there.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from symgrad.codegen.runtime.native import aligned_bytes

Array = np.ndarray[Any, Any]

SMALL = 1 << 20
"""Bytes below which NumPy's own allocation is as fast."""
LIMIT = 1 << 30
"""Bytes of free memory kept at most."""
_PAGE = 1 << 12


class _Pool:
    """Free memory by size, and the arrays whose memory will come back."""

    def __init__(self) -> None:
        self.free: defaultdict[int, list[Any]] = defaultdict(list)
        self.free_bytes = 0
        self.live: dict[int, weakref.ref[Array]] = {}

    def take(self, size: int) -> Any:
        """Memory as a ctypes array, which is no NumPy array on purpose."""
        if self.free[size]:
            self.free_bytes -= size
            return self.free[size].pop()
        raw = aligned_bytes(size)
        memory: Any = (ctypes.c_char * size).from_address(raw.ctypes.data)
        memory.owner = raw  # keeps it alive
        return memory

    def recycle(self, memory: Any, owner: Array) -> None:
        """Takes the memory back when its array dies."""
        key, size = id(owner), len(memory)

        def back(_: object) -> None:
            del self.live[key]
            if self.free_bytes + size <= LIMIT:
                self.free_bytes += size
                self.free[size].append(memory)

        self.live[key] = weakref.ref(owner, back)


_pool = _Pool()


def give_back() -> None:
    """Returns memory that is free to the system, where the C library keeps it (glibc's does).

    Worth its milliseconds after work that has left much of it, such as compiling.
    """
    trim = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "malloc_trim", None)
    if trim is not None:
        trim(0)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised C-contiguous array, 64-byte aligned where it is large."""
    return allocator(shape, dtype)()


def allocator(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[], Array]:
    """What makes such arrays, see ``empty``, one after the other."""
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return functools.partial(np.empty, shape, dtype)
    return functools.partial(_recycled, shape, dtype, size)


def _recycled(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Array:
    memory = _pool.take(-(-size // _PAGE) * _PAGE)
    # NumPy lets views of views refer to the array below them, down to the first whose
    # memory no array owns: this one.  It dies when no view is left.
    owner = np.frombuffer(memory, np.uint8)
    _pool.recycle(memory, owner)
    return owner[:size].view(dtype).reshape(shape)
