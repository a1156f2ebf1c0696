"""LLVM text in, addresses of machine code out.

Each module is optimised by three passes only: the kernels are written in the shape they
shall have, and SROA, InstCombine and SimplifyCFG give them O3's speed at a tenth of its
time.  The object code is kept by content, on disk and in the process: the same text for
the same target is compiled once, whatever its function is called.

``compile_modules`` is the way to running code; ``optimised``, ``emit_assembly`` and
``emit_object`` show or export the stages, for any target LLVM knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from symgrad.codegen.target import Target
from symgrad.ir.cache import Cache
from symgrad.ir.errors import InternalError

_VERSION = 1
"""Part of every cache key: raise it when the same text must be compiled anew."""
_THREADS_PAY = 50_000
"""Characters of LLVM text from which compiling on several threads pays."""

_objects = Cache("objects")
_addresses: dict[str, int] = {}
_libraries: list[Any] = []  # keeps loaded code alive: it stays for the process's life
_library_names = (f"library{i}" for i in itertools.count())
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not inherit LLVM halfway through its work
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class CompileError(InternalError):
    """LLVM refused a module: a fault of the code generator, not of the user's program."""


def compile_modules(modules: Mapping[str, str], target: Target) -> dict[str, int]:
    """Compiles and loads functions; returns their addresses, valid until the process ends.

    Each entry is the text of an LLVM module that defines a function of the entry's name.
    What is loaded already, or lies in the object cache, is not compiled again; the rest
    is compiled in parallel.  Raises ``CompileError`` naming a file with the module's text.
    """
    symbols = {name: symbol_of(name, text, target) for name, text in modules.items()}
    with _lock:
        missing: dict[str, str] = {}
        for name, text in modules.items():
            if symbols[name] not in _addresses:
                missing[symbols[name]] = _rename(name, symbols[name], text)
        if missing:
            _addresses.update(_load(build(missing, target), target))
        return {name: _addresses[symbol] for name, symbol in symbols.items()}


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
    with _lock:
        return build(renamed(modules, target), target)


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
        return str(_optimise(text, _machine(target)))


def emit_assembly(text: str, target: Target) -> str:
    """The module's assembly text, for this machine or a foreign one."""
    with _reporting(text):
        machine = _machine(target)
        assembly: str = machine.emit_assembly(_optimise(text, machine))
        return assembly


def emit_object(text: str, target: Target) -> bytes:
    """The module as a relocatable object file, position independent."""
    with _reporting(text):
        machine = _machine(target)
        return _emit(machine, _optimise(text, machine))


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


def renamed(modules: Mapping[str, str], target: Target) -> dict[str, str]:
    """The modules by symbol, with their functions called by these."""
    symbols = {name: symbol_of(name, text, target) for name, text in modules.items()}
    return {symbols[name]: _rename(name, symbols[name], text) for name, text in modules.items()}


def _rename(name: str, new: str, text: str) -> str:
    """``text`` with the function ``name`` called ``new``."""
    return re.sub(rf"@{re.escape(name)}(?![\w.$-])", f"@{new}", text)


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


def build(modules: Mapping[str, str], target: Target) -> dict[str, bytes]:
    """One object file per module, from the disk cache or compiled and put there.

    Several threads may build at once; a fork must wait until they are done.
    """
    stored = {symbol: _objects.get(symbol) for symbol in modules}
    built = {symbol: blob for symbol, blob in stored.items() if blob is not None}
    # The longest first, so that no thread ends with a long one alone.
    missing = sorted(modules.keys() - built, key=lambda symbol: -len(modules[symbol]))
    texts = [modules[symbol] for symbol in missing]
    compile_one = functools.partial(emit_object, target=target)
    threads = min(len(texts), available_cpus())
    if threads > 1 and _unlocked() and sum(map(len, texts)) > _THREADS_PAY:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:
            made = list(pool.map(compile_one, texts))
    else:
        made = list(map(compile_one, texts))
    for symbol, blob in zip(missing, made, strict=True):
        _objects.put(symbol, blob)
        built[symbol] = blob
    return built


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


class _Machines(threading.local):
    """LLVM's target machines: each thread has its own, as one works on one module at a time."""

    def __init__(self) -> None:
        self.known: dict[Target, Any] = {}


_machines = _Machines()


def _machine(target: Target) -> Any:
    known = _machines.known
    if target not in known:
        # The small model reaches constants by short displacements, which fold into operands.
        known[target] = _llvm_target(target.triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small"
        )
    return known[target]


def _optimise(text: str, machine: Any) -> Any:
    """The parsed module after the passes.  Each lives in a context of its own, so that
    several threads may work at once."""
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text, llvm.create_context())
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    if "verify" in os.environ.get("SYMGRAD_DEBUG", "").split(","):
        module.verify()
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1))
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

    return llvm.create_lljit_compiler(_machine(Target.host()), use_jit_link=os.name == "posix")


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
