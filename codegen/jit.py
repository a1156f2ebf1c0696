"""LLVM text in, addresses of machine code out.

Each module is optimised by three passes only: SROA, InstCombine and SimplifyCFG give our
kernels O3's speed at a tenth of its time.  Those that are written in the shape they shall
have (``emitter.SHAPED``) do without InstCombine, and with less behind the selection of
instructions: that is a sixth of LLVM's time, and none of their speed.  The object code is kept
by content, on disk and in the process: the same text for the same target is compiled once,
whatever its function is called.

A ``Compilation`` is the way to running code; ``optimised``, ``emit_assembly`` and
``emit_object`` show or export the stages, for any target LLVM knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import heapq
import itertools
import os
import re
import sys
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from symgrad.codegen.emitter import SHAPED
from symgrad.codegen.target import Target
from symgrad.ir.cache import Cache
from symgrad.ir.errors import InternalError

_VERSION = 2
"""Part of every cache key: raise it when the same text must be compiled anew."""
_objects = Cache("objects")
_addresses: dict[str, int] = {}
_libraries: list[Any] = []  # keeps loaded code alive: it stays for the process's life
_library_names = (f"library{i}" for i in itertools.count())
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class CompileError(InternalError):
    """LLVM refused a module: a fault of the code generator, not of the user's program."""


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
        self._spare = available_cpus() - 1 if _unlocked() else 0

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


def optimised(text: str, target: Target) -> str:
    """The module's LLVM text after the optimisation passes."""
    with _reporting(text):
        return str(_optimise(text, target))


def emit_assembly(text: str, target: Target) -> str:
    """The module's assembly text, for this machine or a foreign one."""
    with _reporting(text):
        machine = _tools_for(target, text).machine
        assembly: str = machine.emit_assembly(_optimise(text, target))
        return assembly


def emit_object(text: str, target: Target) -> bytes:
    """The module as a relocatable object file, position independent."""
    with _at_work(), _reporting(text):
        return _emit(_tools_for(target, text).machine, _optimise(text, target))


def linked(texts: Sequence[str], entry: str) -> str:
    """Modules as one in which only the function ``entry`` can be seen from outside."""
    import llvmlite.binding as llvm

    context = llvm.create_context()
    first, *rest = (llvm.parse_assembly(text, context) for text in texts)
    for module in rest:
        first.link_in(module)
    for function in first.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
    return str(first)


# -- naming ----------------------------------------------------------------


def _rename(name: str, new: str, text: str) -> str:
    """``text`` with the function ``name`` called ``new``, and so its parts, ``name_part``."""
    before, *others = text.split(f"@{name}")  # a pattern of its own for each name would take longer
    return before + "".join([f"@{name if _goes_on(x) else new}{x}" for x in others])


_goes_on = re.compile("[a-zA-Z0-9.$-]").match
"""Whether text behind a name is a part of it, so that it is the name of something else."""


def version() -> str:
    """What the way from text to machine code depends on, as text for cache keys."""
    import llvmlite
    import llvmlite.binding as llvm

    return f"{_VERSION} {llvmlite.__version__} {llvm.llvm_version_info}"


def symbol_of(name: str, text: str, target: Target) -> str:
    """A name made of everything the machine code depends on, unique in the process."""
    content = hashlib.sha256(f"{version()} {target.key} ".encode())
    content.update(_rename(name, "", text).encode())
    return "k" + content.hexdigest()[:40]


# -- text to object --------------------------------------------------------


def _stored_or_made(symbol: str, text: str, target: Target) -> bytes:
    """The object file of a module, from the disk cache or compiled and put there."""
    blob = _objects.get(symbol)
    if blob is None:
        blob = emit_object(text, target)
        _objects.put(symbol, blob)
    return blob


def available_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_native(triple: str) -> bool:
    """Whether ``triple`` has this machine's instruction set."""
    import llvmlite.binding as llvm

    here, there = (llvm.get_triple_parts(t).Arch for t in (llvm.get_process_triple(), triple))
    return bool(here == there)


@functools.cache
def _llvm_target(triple: str) -> Any:
    """LLVM's code generator for ``triple``; others than this machine's load on demand."""
    import llvmlite.binding as llvm

    if _is_native(triple):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(triple)


class _Tools(NamedTuple):
    """What makes an object of a module; all of it works on one module at a time."""

    machine: Any
    passes: Any
    builder: Any
    """Of what the passes know about the machine."""

    @staticmethod
    def made(target: Target, *, is_shaped: bool) -> _Tools:
        """Those for modules that are shaped, or for others."""
        import llvmlite.binding as llvm

        # The small model reaches constants by short displacements, which fold into operands.
        # Level 1 leaves out the second scheduling of instructions, behind register allocation.
        machine = _llvm_target(target.triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=1 if is_shaped else 2, reloc="pic",
            codemodel="small",
        )  # fmt: skip
        passes = llvm.create_new_module_pass_manager()
        passes.add_always_inliner_pass()
        passes.add_sroa_pass()
        if not is_shaped:
            passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1))
        return _Tools(machine, passes, builder)


class _OfThread(threading.local):
    """Each thread's tools, by target and by whether they are for modules that are shaped."""

    def __init__(self) -> None:
        self.tools: dict[tuple[Target, bool], _Tools] = {}


_of_thread = _OfThread()


def _tools_for(target: Target, text: str = "") -> _Tools:
    """The tools for a module."""
    is_shaped = text.startswith(SHAPED)
    found = _of_thread.tools.get((target, is_shaped))
    if found is None:
        found = _of_thread.tools[target, is_shaped] = _Tools.made(target, is_shaped=is_shaped)
    return found


@functools.cache
def _header(target: Target) -> str:
    """The lines that tell a module what it is for."""
    machine = _tools_for(target).machine
    layout, triple = str(machine.target_data), machine.triple
    return f'target datalayout = "{layout}"\ntarget triple = "{triple}"\n'


def _optimise(text: str, target: Target) -> Any:
    """The parsed module after the passes.  Each lives in a context of its own, so that
    several threads may work at once."""
    import llvmlite.binding as llvm

    _, passes, builder = _tools_for(target, text)
    module = llvm.parse_assembly(_header(target) + text, llvm.create_context())
    if "verify" in os.environ.get("SYMGRAD_DEBUG", "").split(","):
        module.verify()
    if unlocked := _unlocked():
        unlocked["LLVMPY_RunNewModulePassManager"](passes, module, builder)
    else:
        passes.run(module, builder)
    return module


def _emit(machine: Any, module: Any) -> bytes:
    """Object code of an optimised module."""
    from llvmlite.binding import ffi

    unlocked = _unlocked()
    if not unlocked:
        blob: bytes = machine.emit_object(module)
        return blob
    with ffi.OutputString() as error:
        buffer = unlocked["LLVMPY_TargetMachineEmitToMemory"](machine, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


@functools.cache
def _unlocked() -> dict[str, Any]:
    """LLVM's two slow calls without the lock that llvmlite holds around every call.

    That lock makes compiling threads wait for each other, while LLVM only asks that they
    share no context.  A second handle on the same library has no lock and changes nothing
    for other users of llvmlite.  Empty where llvmlite is not built as expected: then
    everything goes through its public interface, one module after the other.
    """
    from llvmlite.binding import ffi

    calls = {}
    try:
        library = ctypes.CDLL(ffi.lib._name)
        for name in ("LLVMPY_RunNewModulePassManager", "LLVMPY_TargetMachineEmitToMemory"):
            locked, calls[name] = getattr(ffi.lib, name), getattr(library, name)
            if locked.argtypes is None:
                return {}
            calls[name].argtypes, calls[name].restype = locked.argtypes, locked.restype
    except (AttributeError, OSError):
        return {}
    return calls


_gate = threading.Condition()
_working: list[None] = []
"""An entry for each thread that LLVM is working for."""


@contextlib.contextmanager
def _at_work() -> Iterator[None]:
    """LLVM works within, on whatever thread: a fork waits, for the child would find it halfway."""
    with _gate:
        _working.append(None)
    try:
        yield
    finally:
        with _gate:
            _working.pop()
            _gate.notify_all()


def _stop_work() -> None:
    _gate.acquire()
    _gate.wait_for(lambda: not _working)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_stop_work, after_in_parent=_gate.release, after_in_child=_gate.release
    )


@contextlib.contextmanager
def _reporting(text: str) -> Iterator[None]:
    """Turns LLVM's errors into ``CompileError`` and keeps the module for whoever looks."""
    try:
        yield
    except RuntimeError as error:
        import tempfile

        handle, path = tempfile.mkstemp(prefix="symgrad-", suffix=".ll")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        raise CompileError(
            f"LLVM refused a generated module: {error}\nThis is a fault of symgrad; "
            f"the module's text is in {path}"
        ) from error


# -- object to address -----------------------------------------------------


@functools.cache
def _linker() -> Any:
    """The process's one linker.  It lays all objects of a call out in one go, which takes
    a twentieth of the time that an engine for each would."""
    import llvmlite.binding as llvm

    return llvm.create_lljit_compiler(
        _tools_for(Target.host()).machine, use_jit_link=os.name == "posix"
    )


def _load(objects: Mapping[str, bytes], target: Target) -> dict[str, int]:
    """Addresses of the symbols after linking their objects into this process."""
    import llvmlite.binding as llvm

    if not _is_native(target.triple):
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
