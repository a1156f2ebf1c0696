"""A program: kernels over one arena, run in order by the thread team in one native call.

Every pointer that a kernel receives is *slot + offset*: a slot is an array of the caller, or
the program's own arena.  What never changes is filled into the kernels' argument tables
once; the rest is patched at the start of each run, in native code as well.
"""

from __future__ import annotations

import ctypes
import functools
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime import fastcall
from symgrad.codegen.runtime import threads as team_words
from symgrad.codegen.runtime.calltable import Interface, Table, call_table
from symgrad.codegen.runtime.entry import face_of, load_entry
from symgrad.codegen.runtime.native import (
    LINE,
    aligned_bytes,
    atomic_load,
    field,
    load_entries,
    loaded_once,
)
from symgrad.codegen.runtime.threads import process_team
from symgrad.codegen.runtime.waiting import Waiting
from symgrad.ir.record import record

if TYPE_CHECKING:
    from numpy.typing import NDArray

Slot = int | np.ndarray[Any, Any]

ARENA, TEAM = -1, -2
"""The slots of the program's own memory, and of the words of the thread team."""


@record
class Step:
    """One kernel call.

    A ``parallel`` kernel is called by all threads, each with its own number; any other by
    thread 0 alone.  Where a later step depends on this one, or reuses its memory, a
    ``barrier`` must stand between them.
    """

    kernel: str
    pointers: tuple[tuple[int, int], ...]
    """(slot, byte offset) of each pointer in the kernel's argument array."""
    parallel: bool = True
    barrier: bool = True


_PARALLEL, _BARRIER = 1, 2
_STEP = np.dtype([("kernel", np.uint64), ("pointers", np.uint64), ("flags", np.int64)])
_PATCH = np.dtype([("entry", np.uint64), ("slot", np.int64), ("offset", np.int64)])

# Layout of the program's block.
_LOCK = 0  # i32 and its sleepers: one run at a time, for the pointers and the arena are shared
_WORDS = 7
_TEAM, _THREADS, _STEPS, _STEP_COUNT, _PATCHES, _PATCH_COUNT, _TIMES = (
    LINE + 8 * i for i in range(_WORDS)
)
_BLOCK_BYTES = 2 * LINE

_DONE, _TEAM_NEEDED = 0, 1


# -- native code -----------------------------------------------------------


def _emit_driver(k: Emitter) -> Sequence[str]:
    team_words.emit_team(k, Waiting.here())
    _emit_execute(k)
    _emit_run(k)
    with k.function("ticks", (), "i64", internal=True):
        k.line(f"ret i64 {_emit_clock(k)}")
    return ("run", "ticks")


def _emit_execute(k: Emitter) -> None:
    """``execute(program, tid, size)``: one thread's way through all steps."""
    with k.function("execute", ("ptr", "i64", "i64"), internal=True) as (program, tid, size):
        team = k.load("ptr", field(k, program, _TEAM))
        times = k.load("ptr", field(k, program, _TIMES))
        timed = k.icmp("ne", times, Reg("null", "ptr"))
        # A team larger than the program was made for only waits at the barriers.
        used = k.min(size, k.load("i64", field(k, program, _THREADS)))
        steps = k.load("ptr", field(k, program, _STEPS))
        count = k.load("i64", field(k, program, _STEP_COUNT))
        with k.loop(0, count) as i:
            step = k.gep(steps, k.mul(i, _STEP.itemsize), "i8")
            kernel = k.load("ptr", step)
            pointers = k.load("ptr", field(k, step, 8))
            flags = k.load("i64", field(k, step, 16))
            parallel = k.icmp("ne", k.bits("and", flags, _PARALLEL), 0)
            team_size = k.select(parallel, k.as_reg(used), Reg("1", "i64"))
            with k.if_(k.icmp("slt", tid, team_size)):
                stamps = k.gep(times, k.mul(k.add(k.mul(tid, count), i), 2), "i64")
                with k.if_(timed):
                    k.store(_emit_clock(k), stamps)
                k.line(f"call void {kernel}(ptr {pointers}, i64 {tid}, i64 {team_size})")
                with k.if_(timed):
                    k.store(_emit_clock(k), k.gep(stamps, 1, "i64"))
            wanted = k.icmp("ne", k.bits("and", flags, _BARRIER), 0)
            with k.if_(k.bits("and", wanted, k.icmp("sgt", size, 1))):
                team_words.meet(k, team, size)


def _emit_run(k: Emitter) -> None:
    """``run(program, slots, times)``: patches the pointers, then executes all steps."""
    with k.function("run", ("ptr", "ptr", "ptr"), "i32", internal=True) as (program, slots, times):
        lock = field(k, program, _LOCK)
        k.call("acquire", "void", [lock])
        k.store(times, field(k, program, _TIMES))
        patches = k.load("ptr", field(k, program, _PATCHES))
        with k.loop(0, k.load("i64", field(k, program, _PATCH_COUNT))) as i:
            patch = k.gep(patches, k.mul(i, _PATCH.itemsize), "i8")
            base = k.load("ptr", k.gep(slots, k.load("i64", field(k, patch, 8)), "ptr"))
            pointer = k.gep(base, k.load("i64", field(k, patch, 16)), "i8")
            k.store(pointer, k.load("ptr", patch))
        status = k.alloca("i32")
        k.store(Reg(str(_DONE), "i32"), status)
        team = k.load("ptr", field(k, program, _TEAM))
        serial = k.icmp("eq", k.load("i64", field(k, program, _THREADS)), 1)
        with k.if_else(serial) as (alone, together):
            with alone:
                _emit_alone(k, program)
            with together:
                _emit_together(k, program, team, status)
        k.call("release", "void", [lock])
        k.line(f"ret i32 {k.load('i32', status)}")


def _emit_alone(k: Emitter, program: Reg) -> None:
    k.call("execute", "void", [program, Reg("0", "i64"), Reg("1", "i64")])


def _emit_together(k: Emitter, program: Reg, team: Reg, status: Reg) -> None:
    """Runs the program on the team, or asks for a team where there is none.

    The first look comes before the lock: who stops the team holds it, and may be waiting
    for the interpreter's lock, which this thread may hold.
    """
    open_ = field(k, team, team_words.OPEN)
    k.store(Reg(str(_TEAM_NEEDED), "i32"), status)
    with k.if_(k.icmp("ne", atomic_load(k, open_), 0)):
        # A team of one has no use for the lock: programs may run side by side.
        single = k.icmp("eq", k.load("i64", field(k, team, team_words.SIZE)), 1)
        with k.if_else(single) as (alone, together):
            with alone:
                _emit_alone(k, program)
                k.store(Reg(str(_DONE), "i32"), status)
            with together:
                lock = field(k, team, team_words.LOCK)
                k.call("acquire", "void", [lock])
                with k.if_(k.icmp("ne", atomic_load(k, open_), 0)):
                    k.call("launch", "void", [team, Reg("@execute", "ptr"), program])
                    k.store(Reg(str(_DONE), "i32"), status)
                k.call("release", "void", [lock])


def _emit_clock(k: Emitter) -> Reg:
    """A counter that runs at a constant rate, in a few instructions."""
    x86 = k.target.triple.startswith("x86_64")
    name = "llvm.readcyclecounter" if x86 else "llvm.readsteadycounter"
    k.declare(name, "i64", ())
    return k.op("i64", f"call i64 @{name}()")


@loaded_once
def driver() -> tuple[int, int]:
    """Addresses of ``run`` and ``ticks``."""
    run, ticks = load_entries("symgrad_driver", _emit_driver)
    return run, ticks


@functools.cache
def _seconds_per_tick() -> float:
    """Length of one tick of the steps' clock, measured over a few milliseconds."""
    ticks = ctypes.CFUNCTYPE(ctypes.c_int64)(driver()[1])
    start, first = time.perf_counter(), int(ticks())
    while time.perf_counter() - start < 5e-3:
        pass
    return (time.perf_counter() - start) / (int(ticks()) - first)


# -- the program -----------------------------------------------------------

_RUN, _HOLDING_RUN = (
    make(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    for make in (ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE)
)
"""``run`` as Python calls it: without the interpreter's lock, or with it."""
_programs: weakref.WeakSet[NativeProgram] = weakref.WeakSet()


def _unlock_all() -> None:
    """In the child of a fork: the threads that were running a program are not here."""
    for program in _programs:
        program._block[:LINE] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)


class NativeProgram:
    """Kernels in order, ready to run.

    ``addresses`` has the address of each step's kernel.  A run is given the addresses of
    the slots ``0 .. num_slots - 1``; ``fixed`` has those that never change, under other
    numbers.  ``arena_bytes`` of zeroed memory, 64-byte aligned, lie behind the slot
    ``ARENA``.  The kernels' scratch is made for ``threads`` threads: no run uses more.

    Runs from several Python threads wait for each other: they share the arena.  While one
    is under way the interpreter's other threads go on, unless ``release_gil`` is cleared,
    which saves a very short program a part of its time: no run of it lets go of that lock.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        addresses: Mapping[str, int],
        num_slots: int,
        *,
        arena_bytes: int = 0,
        fixed: Mapping[int, int] | None = None,
        threads: int | None = None,
        release_gil: bool = True,
    ) -> None:
        self.num_slots = num_slots
        self._arena = aligned_bytes(arena_bytes)
        self._team = process_team()
        own = {ARENA: self._arena.ctypes.data, TEAM: self._team.block}
        self._lay_out(steps, addresses, {**(fixed or {}), **own})
        limit = threads or self._team.size
        self.threads = limit if any(step.parallel for step in steps) else 1
        """Threads that a run uses at most."""
        self._block = aligned_bytes(_BLOCK_BYTES)
        self.block: int = self._block.ctypes.data
        self._block[LINE:].view(np.int64)[:_WORDS] = (
            self._team.block,
            self.threads,
            self._steps.ctypes.data,
            len(self._steps),
            self._patches.ctypes.data,
            len(self._patches),
            0,
        )
        run, _ = driver()
        self._native_run = (_RUN if release_gil else _HOLDING_RUN)(run)
        self._entry_point = (run, self.block, release_gil)
        self._invoke = self._first_invoke
        _programs.add(self)

    def _lay_out(
        self, steps: Sequence[Step], addresses: Mapping[str, int], fixed: Mapping[int, int]
    ) -> None:
        """Fills the kernels' argument arrays, the list of steps and that of the patches."""
        self._pointers = np.zeros(sum(len(step.pointers) for step in steps), np.uint64)
        self._steps = np.zeros(len(steps), _STEP)
        patches: list[tuple[int, int, int]] = []
        self._patched: list[list[tuple[int, int, int]]] = []
        """For each step the pointers that a run fills in: number, slot and offset."""
        entry = 0
        for i, step in enumerate(steps):
            self._patched.append([])
            flags = _PARALLEL * step.parallel | _BARRIER * step.barrier
            self._steps[i] = addresses[step.kernel], self._pointer_entry(entry), flags
            for number, (slot, offset) in enumerate(step.pointers):
                if slot in fixed:
                    self._pointers[entry] = fixed[slot] + offset
                elif 0 <= slot < self.num_slots:
                    patches.append((self._pointer_entry(entry), slot, offset))
                    self._patched[-1].append((number, slot, offset))
                else:
                    raise ValueError(
                        f"step {i} ({step.kernel}): slot {slot} is neither fixed "
                        f"nor one of the {self.num_slots} slots of a run"
                    )
                entry += 1
        if steps:  # the end of a launch is a barrier anyway
            self._steps["flags"][-1] &= ~_BARRIER
        self._patches = np.array(patches, _PATCH)

    def _pointer_entry(self, index: int) -> int:
        """Address of an entry of the argument arrays."""
        return self._pointers.ctypes.data + 8 * index

    def run(self, slots: Sequence[Slot]) -> None:
        """Executes all steps on ``slots``: arrays, or the addresses of such.

        The caller sees to their layout and size, and keeps alive what an address points to.
        """
        self._check_count(slots)
        try:
            self._until_done(self._invoke, slots)
        except TypeError:  # the native side does not look into subclasses of ndarray
            self._until_done(self._invoke, _addresses(slots))

    def run_timed(self, slots: Sequence[Slot]) -> NDArray[np.float64]:
        """As ``run``; seconds at which each thread began and ended each step.

        ``[threads, steps, 2]``, counted from the first beginning; NaN for a step that a
        thread had no part in.  What lies between two steps of a thread is waiting.
        """
        self._check_count(slots)
        ticks = np.zeros((self.threads, len(self._steps), 2), np.int64)
        timed = functools.partial(self._slow_invoke, times=ticks.ctypes.data)
        self._until_done(timed, slots)
        ran = ticks != 0
        first = ticks[ran].min() if ran.any() else 0
        return np.where(ran, (ticks - first) * _seconds_per_tick(), np.nan)

    def call_table(self, interface: Interface, *, with_entry: bool = False) -> Table | None:
        """What native code needs to answer calls of this form; ``None`` if it cannot.

        ``with_entry``: it may have code of the program's own, which takes milliseconds to make.
        """
        if len(interface.params) + len(interface.results) != self.num_slots:
            raise ValueError(
                f"the program has {self.num_slots} slots, got {len(interface.params)} "
                f"parameters and {len(interface.results)} results"
            )
        if not fastcall.supported():
            return None
        entry = self._load_entry(interface) if with_entry else 0
        addresses = entry, self._steps.ctypes.data
        return call_table(*self._entry_point, interface, self, addresses)

    def _load_entry(self, interface: Interface) -> int:
        """The address of the program's own entry (``entry``), 0 if it has none."""
        *_, release_gil = self._entry_point
        face = None if release_gil or self.threads > 1 else face_of(interface, self._patched)
        return 0 if face is None else load_entry(face)

    def bind(self, interface: Interface) -> Callable[..., Any]:
        """The program as a builtin function of arrays: tens of nanoseconds a call.

        Called with the parameters it returns fresh results (NumPy scalars where 0-d);
        called with parameters and result arrays, which must not overlap, it fills those
        and returns them (``None`` in place of one asks for a fresh one).  Whatever it
        cannot take directly gives ``NotImplemented``: then convert the arguments and ``run``.
        """
        table = self.call_table(interface)
        return (lambda *_: NotImplemented) if table is None else fastcall.make_call(table)

    def _check_count(self, slots: Sequence[Slot]) -> None:
        if len(slots) != self.num_slots:
            raise ValueError(f"the program has {self.num_slots} slots, got {len(slots)}")

    def _until_done(self, invoke: Callable[..., int], slots: Sequence[Slot]) -> None:
        while invoke(*slots) == _TEAM_NEEDED:
            self._team.start()

    def _first_invoke(self, *slots: Slot) -> int:
        """The first run waits for nothing but the driver: native calls may still be loading."""
        self._invoke = self._second_invoke
        return self._slow_invoke(*slots)

    def _second_invoke(self, *slots: Slot) -> int:
        can = fastcall.supported()
        self._invoke = fastcall.make_invoke(*self._entry_point) if can else self._slow_invoke
        return self._invoke(*slots)

    def _slow_invoke(self, *slots: Slot, times: int | None = None) -> int:
        table = (ctypes.c_void_p * self.num_slots)(*_addresses(slots))
        status: int = self._native_run(self.block, table, times)
        return status


def _addresses(slots: Sequence[Slot]) -> list[int]:
    return [s.ctypes.data if isinstance(s, np.ndarray) else s for s in slots]
