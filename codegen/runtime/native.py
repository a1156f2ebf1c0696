"""Building blocks of the runtime's own native code: atomics, endless loops, entry tables.

An atomic here is a plain ``i32``.  ``acquire`` loads see what was written before the
matching store; stores and read-modify-writes are sequentially consistent, which the
protocols of ``threads`` rely on.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.jit import load_objects, objects_of
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.target import Target, huge_page_bytes

if TYPE_CHECKING:  # numpy.typing takes milliseconds to import
    from numpy.typing import NDArray

LINE = 128
"""Bytes between words that different threads write: no two share a cache line, not even
where lines are 128 bytes or fetched in pairs."""


def atomic_load(k: Emitter, word: Reg) -> Reg:
    """The value of ``word`` and, with it, everything written before it was stored."""
    return k.op("i32", f"load atomic i32, ptr {word} acquire, align 4")


def atomic_store(k: Emitter, value: Int, word: Reg) -> None:
    """Stores ``value`` after everything written before, in one order seen by all."""
    k.line(f"store atomic i32 {value}, ptr {word} seq_cst, align 4")


def atomic_add(k: Emitter, word: Reg, amount: int) -> Reg:
    """Adds to ``word``; the value before."""
    return k.op("i32", f"atomicrmw add ptr {word}, i32 {amount} seq_cst, align 4")


def atomic_swap(k: Emitter, word: Reg, value: int) -> Reg:
    """Stores ``value``; the value before."""
    return k.op("i32", f"atomicrmw xchg ptr {word}, i32 {value} seq_cst, align 4")


@contextmanager
def repeat(k: Emitter) -> Iterator[Callable[[Reg], None]]:
    """An endless loop; the function it yields leaves it where a condition holds."""
    again, done = k.label(), k.label()

    def leave(condition: Reg) -> None:
        onward = k.label()
        k.line(f"br i1 {condition}, label %{done}, label %{onward}")
        k.place(onward)

    k.line(f"br label %{again}")
    k.place(again)
    yield leave
    k.line(f"br label %{again}")
    k.place(done)


def field(k: Emitter, block: Reg, offset: int) -> Reg:
    """Address of the field ``offset`` bytes into a block."""
    return k.gep(block, offset, "i8")


_loading = threading.RLock()
"""Held while entries are compiled: who wants the same ones waits, and so does a fork."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release
    )

R = TypeVar("R")


def loaded_once(load: Callable[[], R]) -> Callable[[], R]:
    """Decorator of a function that loads entries: the first caller does, others wait for it."""
    cached = functools.cache(load)

    @functools.wraps(load)
    def get() -> R:
        with _loading:
            return cached()

    return get


def load_entries(
    name: str, emit: Callable[[Emitter], Sequence[str]], target: Target | None = None
) -> list[int]:
    """Compiles the module that ``emit`` writes; the addresses of the functions it names.

    The module's one visible symbol returns a table of them, so that all may stay internal.
    """
    k = Emitter(target or Target.host())
    entries = emit(k)
    with k.function(name, (), "ptr"):
        k.line(f"ret ptr {k.constant_table('entries', 'ptr', [f'@{entry}' for entry in entries])}")
    with _loading:
        objects = objects_of({name: k.module()}, k.target)
        (address,) = load_objects(objects, k.target).values()
    table: int = ctypes.CFUNCTYPE(ctypes.c_size_t)(address)()
    return list((ctypes.c_size_t * len(entries)).from_address(table))


def aligned_bytes(size: int, align: int = LINE) -> NDArray[np.uint8]:
    """Zeroed memory that starts at a multiple of ``align``; untouched pages cost nothing.

    Large memory lies in huge pages where the system has them.  Weights that stream by once
    in a run miss the TLB at every small page, and hardware fetches ahead within a page only.
    """
    page = huge_page_bytes()
    if not page or size < page:
        raw = np.zeros(size + align, np.uint8)
        start = -raw.ctypes.data % align
        return raw[start : start + size]
    pages = mmap.mmap(-1, size + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw = np.frombuffer(pages, np.uint8)  # keeps the pages as long as there is a view
    start = -raw.ctypes.data % page
    with suppress(OSError):  # a kernel without them refuses
        pages.madvise(mmap.MADV_HUGEPAGE, start, size // page * page)
    return raw[start : start + size]
