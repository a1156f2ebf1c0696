"""Compiles and calls single kernels, without the planner and the thread team.

The threads of a kernel never wait for each other, so calling it for every
thread id in turn on one Python thread is an honest test of its partition.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.target import Target

TARGETS = ("host", "avx2", "x86-64")

Array = np.ndarray[Any, Any]
Emit = Callable[[Emitter, str], None]


def target_named(name: str) -> Target:
    """A target of this machine's architecture; skips the test where it cannot run."""
    host = Target.host()
    if name == "host":
        return host
    target = Target.named(name)
    if target.vector_bytes > host.vector_bytes or target.triple[:6] != host.triple[:6]:
        pytest.skip(f"this machine cannot run {name} code")
    return target


class Kernel:
    """A compiled kernel ``void (ptr args, i64 tid, i64 nth)``."""

    def __init__(self, emit: Emit, target: Target | None = None) -> None:
        target = target or Target.host()
        k = Emitter(target)
        emit(k, "kernel")
        self.text = k.module()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(target.triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=2
        )
        module = llvm.parse_assembly(self.text)
        module.verify()
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        passes.run(module, builder)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.assembly = machine.emit_assembly
        self._module = module
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self._call = signature(self._engine.get_function_address("kernel"))

    def asm(self) -> str:
        """The machine code as text."""
        return str(self.assembly(self._module))

    def __call__(self, pointers: Array, threads: int = 1) -> None:
        """Runs every thread's share in turn; ``pointers`` holds the addresses (u64)."""
        for tid in range(threads):
            self.share(pointers, tid, threads)

    def share(self, pointers: Array, tid: int, threads: int) -> None:
        """Runs one thread's share."""
        self._call(pointers.ctypes.data, tid, threads)


def addresses(arrays: Sequence[Array]) -> Array:
    """The pointer array of a kernel call.  A view's pointer is that of its first element."""
    return np.array([a.ctypes.data for a in arrays] or [0], np.uint64)


def scratch_area(size: int) -> Array:
    """A 64-byte aligned scratch area filled with garbage."""
    raw = np.full(size + 128, 0xFF, np.uint8)  # nan, read as any float
    return raw[-raw.ctypes.data % 64 :][: size + 64]


def run_kernel(
    emit: Emit,
    arrays: Sequence[Array],
    threads: int = 1,
    scratch: int = 0,
    target: Target | None = None,
) -> None:
    """Emits, compiles and calls a kernel on ``arrays`` (operands, then results).

    With ``scratch`` a garbage-filled area of so many bytes is the last argument.
    """
    if scratch:
        arrays = [*arrays, scratch_area(scratch)]
    Kernel(emit, target)(addresses(arrays), threads)


def run_lowering(
    lowering: Lowering,
    arrays: Sequence[Array],
    threads: int = 1,
    target: Target | None = None,
) -> None:
    """Runs every phase of an op's lowering on ``arrays`` (operands, then results)."""
    buffers = [*arrays, *(scratch_area(size) for size in lowering.temporaries)]
    for phase in lowering.phases:

        def emit(k: Emitter, name: str, phase: Phase = phase) -> None:
            phase.emit(k, name, phase.spec)

        operands = [buffers[i] for i in phase.buffers]
        if phase.numbers:
            operands.append(np.array(phase.numbers, np.int64))
        run_kernel(emit, operands, threads, phase.scratch_bytes, target)
