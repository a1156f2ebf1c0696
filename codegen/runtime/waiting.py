"""How threads wait for each other, in native code.

All waiting is waiting for a 32-bit word to change: first spinning, because the change is
usually a fraction of a microsecond away, then yielding the CPU, then asleep in the kernel.
Beside each word stands the number of its sleepers, so that a wake-up costs a system call
only where somebody sleeps.

A sleeper first announces itself, then lets the kernel compare the word and sleep in one
step; a waker first changes the word, then looks for sleepers.  Both orders are sequentially
consistent, so no wake-up is lost.
"""

from __future__ import annotations

import functools
import platform
import sys

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime.native import (
    LINE,
    atomic_add,
    atomic_load,
    atomic_store,
    field,
    repeat,
)
from symgrad.ir.record import record

ARRIVED, GENERATION = 0, LINE
"""The words of a gate: threads that have come so far, and how often it has opened."""
GATE_BYTES = 2 * LINE

YIELDS = 64
"""Times a thread yields its CPU before it sleeps."""

_FUTEX_CALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_EVERYBODY = 2**31 - 1


@record
class Waiting:
    """How a thread waits on this platform."""

    futex: int | None
    """Number of the system call that sleeps on a word; None: sleep a moment and look again."""
    give_way: str = "sched_yield"
    nap: tuple[str, int] = ("usleep", 50)
    """The C function that sleeps a moment, and its argument."""

    @staticmethod
    @functools.cache
    def here() -> Waiting:
        """The best this machine offers."""
        if sys.platform == "win32":
            return Waiting(None, "SwitchToThread", ("Sleep", 1))
        return Waiting(_FUTEX_CALLS.get(platform.machine()) if sys.platform == "linux" else None)


def emit_wait(k: Emitter, waiting: Waiting) -> None:
    """``wait(word, old, spin)`` returns once the word differs from ``old``."""
    k.declare(waiting.give_way, "i32", ())
    with k.function("wait", ("ptr", "i32", "i64"), internal=True) as (word, old, spin):
        tries = k.alloca("i64")
        k.store(k.as_reg(0), tries)
        with repeat(k) as leave:
            leave(k.icmp("ne", atomic_load(k, word), old))
            count = k.load("i64", tries)
            k.store(k.as_reg(k.add(count, 1)), tries)
            with k.if_else(k.icmp("slt", count, spin)) as (soon, later):
                with soon:
                    _emit_pause(k)
                with later:
                    patient = k.icmp("slt", count, k.add(spin, YIELDS))
                    with k.if_else(patient) as (running, sleeping):
                        with running:
                            k.call(waiting.give_way, "i32", [])
                        with sleeping:
                            _emit_sleep(k, waiting, word, old)


def _emit_pause(k: Emitter) -> None:
    """Tells the CPU that the thread spins."""
    if k.target.triple.startswith("x86_64"):
        k.declare("llvm.x86.sse2.pause", "void", ())
        k.line("call void @llvm.x86.sse2.pause()")
    elif k.target.triple.startswith(("aarch64", "arm64")):
        k.declare("llvm.aarch64.hint", "void", ("i32",))
        k.line("call void @llvm.aarch64.hint(i32 1)")  # yield


def _emit_sleep(k: Emitter, waiting: Waiting, word: Reg, old: Reg) -> None:
    """Sleeps as long as the word is ``old``, or a moment; may wake early."""
    if waiting.futex is None:
        nap, moment = waiting.nap
        k.declare(nap, "i32", ("i32",))
        k.call(nap, "i32", [Reg(str(moment), "i32")])
        return
    sleepers = field(k, word, 4)
    atomic_add(k, sleepers, 1)
    _emit_futex(k, waiting.futex, f"ptr {word}, i64 {_FUTEX_WAIT_PRIVATE}, i32 {old}, ptr null")
    atomic_add(k, sleepers, -1)


def _emit_futex(k: Emitter, number: int, arguments: str) -> None:
    k.declare("syscall", "i64", ("i64", "..."))
    k.op("i64", f"call i64 (i64, ...) @syscall(i64 {number}, {arguments})")


def emit_wake(k: Emitter, waiting: Waiting) -> None:
    """``wake(word)`` wakes all sleepers of a word that has just changed."""
    with k.function("wake", ("ptr",), internal=True) as (word,):
        if waiting.futex is None:
            return
        sleepers = k.op("i32", f"load atomic i32, ptr {field(k, word, 4)} seq_cst, align 4")
        with k.if_(k.icmp("ne", sleepers, 0)):
            arguments = f"ptr {word}, i64 {_FUTEX_WAKE_PRIVATE}, i32 {_EVERYBODY}"
            _emit_futex(k, waiting.futex, arguments)


def emit_barrier(k: Emitter) -> None:
    """``barrier(gate, size, spin)``: nobody leaves before all ``size`` threads have come."""
    with k.function("barrier", ("ptr", "i64", "i64"), internal=True) as (gate, size, spin):
        arrived, generation = field(k, gate, ARRIVED), field(k, gate, GENERATION)
        # Read before arriving: afterwards the last thread may already have moved it on.
        current = atomic_load(k, generation)
        before = k.cast("zext", atomic_add(k, arrived, 1), "i64")
        last = k.icmp("eq", k.add(before, 1), size)
        with k.if_else(last) as (open_gate, stand):
            with open_gate:
                atomic_store(k, 0, arrived)
                atomic_store(k, k.add(current, 1), generation)
                k.call("wake", "void", [generation])
            with stand:
                k.call("wait", "void", [generation, current, spin])
