"""LLVM text in, addresses of machine code out.

The object code is kept by content, on disk and in the process: the same text for the same
target is compiled once, whatever its function is called.  A ``Compilation`` is the way to
running code; ``objects`` does the work on a module.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import os
import re
import sys
import threading
from collections.abc import Container, Mapping, Sequence
from typing import Any

from symgrad.codegen.objects import (
    CompileError,
    emit_object,
    is_native,
    tools_for,
    unlocked_calls,
    version,
)
from symgrad.codegen.target import Target, available_cpus
from symgrad.ir.cache import Cache

_objects = Cache("objects")
_addresses: dict[str, int] = {}
_libraries: list[Any] = []  # keeps loaded code alive: it stays for the process's life
_library_names = (f"library{i}" for i in itertools.count())
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class Compilation:
    """Modules on their way to machine code, which is made while further ones are written.

    ``add`` takes a module as soon as its text is there; threads of the compilation's own begin
    with the longest.  ``load`` helps them to come to an end.  A context: what is left behind
    when it is left is not compiled.
    """

    def __init__(self, target: Target, loaded: Container[str] | None = None) -> None:
        self.target = target
        self.symbols: dict[str, str] = {}
        """Of each module, by its name."""
        self._loaded = _addresses if loaded is None else loaded
        self._waiting: list[tuple[int, str, str]] = []
        self._objects: dict[str, bytes] = {}
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._is_open = True
        self._threads: list[threading.Thread] = []
        self._spare = available_cpus() - 1 if unlocked_calls() else 0

    def add(self, name: str, text: str) -> None:
        """Takes the text of a module that defines a function ``name``.

        What is loaded already, was added before or lies in the object cache is not compiled.
        """
        symbol = symbol_of(name, text, self.target)
        is_known = symbol in self._loaded or symbol in self.symbols.values()
        self.symbols[name] = symbol
        if is_known:
            return
        with self._changed:
            heapq.heappush(self._waiting, (-len(text), symbol, _rename(name, symbol, text)))
            self._changed.notify()
        if len(self._threads) < self._spare:
            thread = threading.Thread(target=self._work, name="symgrad compiler")
            self._threads.append(thread)
            thread.start()

    def objects(self) -> dict[str, bytes]:
        """The object files of all modules that were not loaded, by symbol.

        Raises ``CompileError`` naming a file with the text of a module.
        """
        self._close()
        self._work()
        self._join()
        if self._error is not None:
            raise self._error
        return self._objects

    def load(self) -> dict[str, int]:
        """The address of each module's function, by its name, valid until the process ends."""
        load_objects(self.objects(), self.target)
        return {name: _addresses[symbol] for name, symbol in self.symbols.items()}

    def __enter__(self) -> Compilation:
        _quick_turns.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        self._close()
        self._join()
        _quick_turns.end()

    def _close(self) -> None:
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (module := self._next()) is not None:
            symbol, text = module
            try:
                self._objects[symbol] = _stored_or_made(symbol, text, self.target)
            except Exception as error:  # for whoever waits for the objects
                self._error = error
                self._waiting.clear()

    def _next(self) -> tuple[str, str] | None:
        """The longest module: so no thread ends with a long one alone.  ``None`` at the end."""
        with self._changed:
            while not self._waiting and self._is_open:
                self._changed.wait()
            if not self._waiting:
                return None
            _, symbol, text = heapq.heappop(self._waiting)
            return symbol, text


class _QuickTurns:
    """Threads take turns in the interpreter at short intervals, between ``begin`` and ``end``.

    One that compiles is out of it nearly all the time, and needs it for microseconds to go on
    to the next module.  It must not wait for those that run Python, as long as it usually would.
    """

    INTERVAL = 5e-4

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._usual = 0.0

    def begin(self) -> None:
        with self._lock:
            if not self._users:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, self.INTERVAL))
            self._users += 1

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.setswitchinterval(self._usual)


_quick_turns = _QuickTurns()


def compile_modules(modules: Mapping[str, str], target: Target) -> dict[str, int]:
    """Compiles and loads functions; returns their addresses, valid until the process ends.

    Each entry is the text of an LLVM module that defines a function of the entry's name.
    """
    with Compilation(target) as compilation:
        for name, text in modules.items():
            compilation.add(name, text)
        return compilation.load()


def load_compiled(symbols: Sequence[str], target: Target) -> dict[str, int] | None:
    """Addresses of functions compiled earlier, by ``symbol_of``; ``None`` unless the process
    or the object cache has them all."""
    with _lock:
        objects = stored_objects([s for s in symbols if s not in _addresses])
        if objects is None:
            return None
        if objects:
            _addresses.update(_load(objects, target))
        return {symbol: _addresses[symbol] for symbol in symbols}


def objects_of(modules: Mapping[str, str], target: Target) -> dict[str, bytes]:
    """The object file of each module by its symbol, from the cache or compiled."""
    with Compilation(target, loaded=()) as compilation:
        for name, text in modules.items():
            compilation.add(name, text)
        return compilation.objects()


def stored_objects(symbols: Sequence[str]) -> dict[str, bytes] | None:
    """The object files of functions compiled earlier; ``None`` unless the cache has them all."""
    found = {symbol: _objects.get(symbol) for symbol in symbols}
    blobs = {symbol: blob for symbol, blob in found.items() if blob is not None}
    return blobs if len(blobs) == len(found) else None


def load_objects(objects: Mapping[str, bytes], target: Target) -> dict[str, int]:
    """Addresses of the symbols of object files that ``objects_of`` gave, maybe elsewhere."""
    with _lock:
        missing = {symbol: blob for symbol, blob in objects.items() if symbol not in _addresses}
        if missing:
            _addresses.update(_load(missing, target))
        return {symbol: _addresses[symbol] for symbol in objects}


# -- naming ----------------------------------------------------------------


def _rename(name: str, new: str, text: str) -> str:
    """``text`` with the function ``name`` called ``new``, and so its parts, ``name_part``."""
    before, *others = text.split(f"@{name}")  # a pattern of its own for each name would take longer
    return before + "".join([f"@{name if _goes_on(x) else new}{x}" for x in others])


_goes_on = re.compile("[a-zA-Z0-9.$-]").match
"""Whether text behind a name is a part of it, so that it is the name of something else."""


def symbol_of(name: str, text: str, target: Target) -> str:
    """A name made of everything the machine code depends on, unique in the process."""
    content = hashlib.sha256(f"{version()} {target.key} ".encode())
    content.update(_rename(name, "", text).encode())
    return "k" + content.hexdigest()[:40]


def _stored_or_made(symbol: str, text: str, target: Target) -> bytes:
    """The object file of a module, from the disk cache or compiled and put there."""
    blob = _objects.get(symbol)
    if blob is None:
        blob = emit_object(text, target)
        _objects.put(symbol, blob)
    return blob


# -- object to address -----------------------------------------------------


@functools.cache
def _linker() -> Any:
    """The process's one linker.  It lays all objects of a call out in one go, which takes
    a twentieth of the time that an engine for each would."""
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(
        tools_for(Target.host()).machine, use_jit_link=os.name == "posix"
    )


def _load(objects: Mapping[str, bytes], target: Target) -> dict[str, int]:
    """Addresses of the symbols after linking their objects into this process."""
    import llvmlite.binding as llvm

    if not is_native(target.triple):
        raise CompileError(f"code for {target.triple} cannot run here; emit it as an object file")
    library = llvm.JITLibraryBuilder().add_current_process()
    for symbol, blob in objects.items():
        library.add_object_img(blob).export_symbol(symbol)
    try:
        loaded = library.link(_linker(), next(_library_names))
    except RuntimeError as error:
        raise CompileError(f"generated code for {target.cpu} does not link: {error}") from error
    _libraries.append(loaded)
    return {symbol: loaded[symbol] for symbol in objects}
