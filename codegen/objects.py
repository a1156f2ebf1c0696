"""Modules of LLVM text, and what LLVM makes of them: assembly, object files.

Each module is optimised by three passes only: SROA, InstCombine and SimplifyCFG give our
kernels O3's speed at a tenth of its time.  Those that are written in the shape they shall
have (``emitter.SHAPED``) do without InstCombine, and with less behind the selection of
instructions: that is a sixth of LLVM's time, and none of their speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from symgrad.codegen.emitter import SHAPED
from symgrad.codegen.target import Target
from symgrad.ir.errors import InternalError

_VERSION = 2
"""Part of every cache key: raise it when the same text must be compiled anew."""


class CompileError(InternalError):
    """LLVM refused a module: a fault of the code generator, not of the user's program."""


def optimised(text: str, target: Target) -> str:
    """The module's LLVM text after the optimisation passes."""
    with _reporting(text):
        return str(_optimise(text, target))


def emit_assembly(text: str, target: Target) -> str:
    """The module's assembly text, for this machine or a foreign one."""
    with _reporting(text):
        machine = tools_for(target, text).machine
        assembly: str = machine.emit_assembly(_optimise(text, target))
        return assembly


def emit_object(text: str, target: Target) -> bytes:
    """The module as a relocatable object file, position independent."""
    with _at_work(), _reporting(text):
        return _emit(tools_for(target, text).machine, _optimise(text, target))


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


def version() -> str:
    """What the way from text to machine code depends on, as text for cache keys."""
    import llvmlite
    import llvmlite.binding as llvm

    return f"{_VERSION} {llvmlite.__version__} {llvm.llvm_version_info}"


def is_native(triple: str) -> bool:
    """Whether ``triple`` has this machine's instruction set."""
    import llvmlite.binding as llvm

    here, there = (llvm.get_triple_parts(t).Arch for t in (llvm.get_process_triple(), triple))
    return bool(here == there)


@functools.cache
def _llvm_target(triple: str) -> Any:
    """LLVM's code generator for ``triple``; others than this machine's load on demand."""
    import llvmlite.binding as llvm

    if is_native(triple):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(triple)


class Tools(NamedTuple):
    """What makes an object of a module; all of it works on one module at a time."""

    machine: Any
    passes: Any
    builder: Any
    """Of what the passes know about the machine."""

    @staticmethod
    def made(target: Target, *, is_shaped: bool) -> Tools:
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
        return Tools(machine, passes, builder)


class _OfThread(threading.local):
    """Each thread's tools, by target and by whether they are for modules that are shaped."""

    def __init__(self) -> None:
        self.tools: dict[tuple[Target, bool], Tools] = {}


_of_thread = _OfThread()


def tools_for(target: Target, text: str = "") -> Tools:
    """The tools for a module."""
    is_shaped = text.startswith(SHAPED)
    found = _of_thread.tools.get((target, is_shaped))
    if found is None:
        found = _of_thread.tools[target, is_shaped] = Tools.made(target, is_shaped=is_shaped)
    return found


@functools.cache
def _header(target: Target) -> str:
    """The lines that tell a module what it is for."""
    machine = tools_for(target).machine
    layout, triple = str(machine.target_data), machine.triple
    return f'target datalayout = "{layout}"\ntarget triple = "{triple}"\n'


def _optimise(text: str, target: Target) -> Any:
    """The parsed module after the passes.  Each lives in a context of its own, so that
    several threads may work at once."""
    import llvmlite.binding as llvm

    _, passes, builder = tools_for(target, text)
    module = llvm.parse_assembly(_header(target) + text, llvm.create_context())
    if "verify" in os.environ.get("SYMGRAD_DEBUG", "").split(","):
        module.verify()
    if unlocked := unlocked_calls():
        unlocked["LLVMPY_RunNewModulePassManager"](passes, module, builder)
    else:
        passes.run(module, builder)
    return module


def _emit(machine: Any, module: Any) -> bytes:
    """Object code of an optimised module."""
    from llvmlite.binding import ffi

    unlocked = unlocked_calls()
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
def unlocked_calls() -> dict[str, Any]:
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
