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


class _Loan(weakref.ref[Array]):
    """An array whose memory comes back when it dies."""

    __slots__ = ("memory",)
    memory: Any


class _Pool:
    """Free memory by size, and the arrays whose memory will come back.

    What takes and returns memory is called for every large result of every run.
    """

    def __init__(self) -> None:
        self.free: defaultdict[int, list[Any]] = defaultdict(list)
        self.free_bytes = 0
        self._live: dict[int, _Loan] = {}
        self._return = self._take_back

    def lend(self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Array:
        """An array in ``size`` bytes of free memory, or in new memory."""
        free = self.free[size]
        if free:
            self.free_bytes -= size
            memory = free.pop()
        else:
            memory = _memory(size)
        # NumPy lets views of views refer to the array below them, down to the first whose
        # memory no array owns: this one.  It dies when no view is left.
        array: Array = np.ndarray(shape, dtype, memory)
        loan = _Loan(array, self._return)
        loan.memory = memory
        self._live[id(loan)] = loan
        return array

    def _take_back(self, loan: _Loan, limit: int = LIMIT) -> None:
        del self._live[id(loan)]
        size = len(loan.memory)
        if self.free_bytes + size <= limit:
            self.free_bytes += size
            self.free[size].append(loan.memory)


def _memory(size: int) -> Any:
    """New memory as a ctypes array, which is no NumPy array on purpose."""
    raw = aligned_bytes(size)
    memory: Any = (ctypes.c_char * size).from_address(raw.ctypes.data)
    memory.owner = raw  # keeps it alive
    return memory


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
    return functools.partial(_pool.lend, shape, dtype, -(-size // _PAGE) * _PAGE)
