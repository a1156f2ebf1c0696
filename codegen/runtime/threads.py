"""The thread team: persistent workers that run one program together, step by step.

``launch`` hands all threads the same function; each does its share, and they meet at
barriers (see ``waiting``).

    epoch   counts launches: idle workers wait for it to change
    gates   where the threads meet: the outer one between kernels, the inner one inside of one
    lock    0 free, 1 held, 2 held and wanted: there is one launch at a time
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import signal
import threading
from collections.abc import Iterator, Sequence

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime.native import (
    LINE,
    aligned_bytes,
    atomic_load,
    atomic_store,
    atomic_swap,
    field,
    load_entries,
    repeat,
)
from symgrad.codegen.runtime.waiting import (
    GATE_BYTES,
    Waiting,
    emit_barrier,
    emit_wait,
    emit_wake,
)
from symgrad.codegen.target import available_cpus

# Layout of the team's block.  The words that threads wait for have a line each.
LOCK, EPOCH, LAUNCH = (i * LINE for i in range(3))
OUTER_GATE, INNER_GATE = (3 * LINE + i * GATE_BYTES for i in range(2))
OPEN = LAUNCH  # i32: the team is there; cleared to keep launches out while it stops
SIZE, SPIN, TASK, ARGUMENT = (LAUNCH + 8 * i for i in range(1, 5))  # i64, i64, ptr, ptr
BLOCK_BYTES = INNER_GATE + GATE_BYTES

SPINS = 1500
"""Pauses before a waiting thread yields its CPU: about 20 microseconds."""
# -- native code -----------------------------------------------------------


def emit_team(k: Emitter, waiting: Waiting) -> None:
    """Defines ``wait wake acquire release barrier launch`` in the module of ``k``."""
    _emit_waiting(k, waiting)
    _emit_lock(k)
    _emit_launch(k)


def _emit_waiting(k: Emitter, waiting: Waiting) -> None:
    """Defines ``wait wake barrier``."""
    emit_wait(k, waiting)
    emit_wake(k, waiting)
    emit_barrier(k)


def meet(k: Emitter, team: Reg, size: Reg) -> None:
    """Emits a barrier between kernels, for all threads of a launch."""
    spin = k.load("i64", field(k, team, SPIN))
    k.call("barrier", "void", [field(k, team, OUTER_GATE), size, spin])


def emit_inner_gate(k: Emitter) -> None:
    """Defines what ``meet_inside`` needs, unless the module of ``k`` has it."""
    if k.misses("barrier"):
        _emit_waiting(k, Waiting.here())


def meet_inside(k: Emitter, team: Reg, size: Reg) -> None:
    """Emits a barrier inside a kernel, for the ``size`` threads that run it."""
    with k.if_(k.icmp("ne", size, 1)):
        spin = k.load("i64", field(k, team, SPIN))
        k.call("barrier", "void", [field(k, team, INNER_GATE), size, spin])


def _emit_lock(k: Emitter) -> None:
    """``acquire(lock)`` and ``release(lock)``: a mutex that is one exchange when free.

    Source: U. Drepper, "Futexes Are Tricky", 2011, section 5.
    """
    with k.function("acquire", ("ptr",), internal=True) as (lock,):
        attempt = f"cmpxchg ptr {lock}, i32 0, i32 1 seq_cst seq_cst, align 4"
        taken = k.op("i1", f"extractvalue {{ i32, i1 }} {k.op('{ i32, i1 }', attempt)}, 1")
        with k.if_(k.icmp("eq", taken, 0)), repeat(k) as leave:
            leave(k.icmp("eq", atomic_swap(k, lock, 2), 0))
            k.call("wait", "void", [lock, Reg("2", "i32"), Reg("0", "i64")])
    with k.function("release", ("ptr",), internal=True) as (lock,):
        wanted = k.icmp("eq", atomic_swap(k, lock, 0), 2)
        with k.if_(wanted):
            k.call("wake", "void", [lock])


def _emit_launch(k: Emitter) -> None:
    """``launch(team, task, argument)``: all threads run ``task(argument, tid, size)``.

    The caller holds the lock and is thread 0.  A null task sends the workers home.
    """
    with k.function("launch", ("ptr", "ptr", "ptr"), internal=True) as (team, task, argument):
        k.store(task, field(k, team, TASK))
        k.store(argument, field(k, team, ARGUMENT))
        epoch = field(k, team, EPOCH)
        atomic_store(k, k.add(atomic_load(k, epoch), 1), epoch)
        k.call("wake", "void", [epoch])
        with k.if_(k.icmp("ne", task, Reg("null", "ptr"))):
            _emit_share(k, team, task, argument, Reg("0", "i64"))


def _emit_share(k: Emitter, team: Reg, task: Reg, argument: Reg, tid: Reg) -> None:
    """One thread's part of a launch; its end is a barrier too."""
    size = k.load("i64", field(k, team, SIZE))
    k.line(f"call void {task}(ptr {argument}, i64 {tid}, i64 {size})")
    meet(k, team, size)


def _emit_worker(k: Emitter) -> None:
    """``worker({team, tid, epoch})``: the life of a thread started at ``epoch``."""
    with k.function("worker", ("ptr",), "ptr", internal=True) as (start,):
        team, tid = k.load("ptr", start), k.load("i64", field(k, start, 8))
        seen = k.alloca("i32")
        k.store(k.load("i32", field(k, start, 16)), seen)
        epoch = field(k, team, EPOCH)
        with repeat(k) as leave:
            spin = k.load("i64", field(k, team, SPIN))
            k.call("wait", "void", [epoch, k.load("i32", seen), spin])
            k.store(atomic_load(k, epoch), seen)
            task = k.load("ptr", field(k, team, TASK))
            leave(k.icmp("eq", task, Reg("null", "ptr")))
            _emit_share(k, team, task, k.load("ptr", field(k, team, ARGUMENT)), tid)
        k.line("ret ptr null")


@functools.cache
def _entries(waiting: Waiting) -> tuple[int, ...]:
    """Addresses of ``worker acquire release launch``."""

    def emit(k: Emitter) -> Sequence[str]:
        emit_team(k, waiting)
        _emit_worker(k)
        return ("worker", "acquire", "release", "launch")

    return tuple(load_entries("symgrad_team", emit))


# -- the team --------------------------------------------------------------


class Team:
    """Workers that wait for programs.  They start when the first launch needs them.

    ``block`` is the address of the team's words, valid as long as the team.  A launch needs
    ``OPEN`` set; where it is not, ``start`` helps.  ``size`` defaults to ``default_threads``.
    """

    def __init__(self, size: int | None = None, waiting: Waiting | None = None) -> None:
        self._waiting = waiting or Waiting.here()
        self._memory = aligned_bytes(BLOCK_BYTES)
        self.block: int = self._memory.ctypes.data
        self._size = size
        self._started = False
        self._closed = False
        self._guard = threading.RLock()  # held while the team starts or stops
        self._workers: list[_Worker] = []

    @property
    def size(self) -> int:
        """Threads of a launch, the calling one included."""
        if self._size is None:
            self._size = default_threads()
        return self._size

    def resize(self, size: int) -> None:
        """Changes the number of threads, from the next launch on."""
        with self._guard:
            if size != self._size:
                self.stop()
                self._size = size

    def start(self) -> None:
        """Opens the team for launches.  A system short of threads gives a smaller team."""
        with self._guard:
            if self._word(OPEN).value:
                return
            self._started = True
            with self._locked():
                size = 1 if self._closed else self.size
                self._long(SPIN).value = SPINS if available_cpus() >= size else 0
                epoch = self._word(EPOCH).value
                with _signals_blocked(), contextlib.suppress(RuntimeError):
                    for tid in range(1, size):
                        self._workers.append(_Worker(self._waiting, self.block, tid, epoch))
                self._long(SIZE).value = len(self._workers) + 1
            # Only now: who finds the team open may wait for the lock with the interpreter's
            # lock in hand, which this thread needs as long as it is inside.
            self._word(OPEN).value = 1

    def stop(self) -> None:
        """Ends the workers after the current launch; the next launch starts new ones."""
        with self.stopped():
            pass

    def close(self) -> None:
        """Stops for good: later launches run on the calling thread alone."""
        with self._guard:
            self._closed = True
            self.stop()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """No worker lives, and no launch begins, inside this context."""
        with self._guard:
            if not self._started:
                yield
                return
            # A loop of launches finds the team closed and then waits for the guard.
            self._word(OPEN).value = 0
            with self._locked():
                if self._workers:
                    *_, launch = _entries(self._waiting)
                    _call(launch, self.block, None, None)
                for worker in self._workers:
                    worker.join()
                self._workers.clear()
                yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No launch is under way or begins inside this context."""
        _, acquire, release, _ = _entries(self._waiting)
        _call(acquire, self.block + LOCK)
        try:
            yield
        finally:
            _call(release, self.block + LOCK)

    def _word(self, offset: int) -> ctypes.c_int32:
        return ctypes.c_int32.from_address(self.block + offset)

    def _long(self, offset: int) -> ctypes.c_int64:
        return ctypes.c_int64.from_address(self.block + offset)


class _Worker:
    """One thread of a team: a POSIX thread, or a Python thread in native code."""

    def __init__(self, waiting: Waiting, block: int, tid: int, epoch: int) -> None:
        run, *_ = _entries(waiting)
        # The thread reads this at its start, which may be late: it lives until `join` is over.
        self._start = (ctypes.c_int64 * 3)(block, tid, epoch)
        self._thread: threading.Thread | ctypes.c_ulong
        if waiting.futex is None:
            body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(run)
            self._thread = threading.Thread(target=body, args=(self._start,), daemon=True)
            self._thread.start()
            return
        self._thread = ctypes.c_ulong()
        start = (ctypes.byref(self._thread), None, ctypes.c_void_p(run), self._start)
        if error := ctypes.CDLL(None).pthread_create(*start):
            raise RuntimeError(os.strerror(error))

    def join(self) -> None:
        """Waits for the thread to end."""
        if isinstance(self._thread, threading.Thread):
            self._thread.join()
        else:
            ctypes.CDLL(None).pthread_join(self._thread, None)


def _call(address: int, *arguments: int | None) -> None:
    """Calls a native function of pointers without holding the interpreter's lock."""
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arguments))(address)(*arguments)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Threads created inside leave Ctrl-C and the like to the interpreter's threads."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- the process's team ----------------------------------------------------

_team = Team()
atexit.register(_team.close)
if hasattr(os, "register_at_fork"):
    _forking = contextlib.ExitStack()
    os.register_at_fork(
        before=lambda: _forking.enter_context(_team.stopped()),
        after_in_parent=_forking.close,
        after_in_child=_forking.close,
    )


def process_team() -> Team:
    """The team that runs this process's programs.  It stops around a fork, so that neither
    side inherits half of it, and for good at exit."""
    return _team


def get_num_threads() -> int:
    """Threads that run a program."""
    return _team.size


def set_num_threads(threads: int) -> None:
    """Sets the number of threads that run a program, from the next run on."""
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"set_num_threads: needs an integer of at least 1, got {threads!r}")
    _team.resize(threads)


def default_threads() -> int:
    """``SYMGRAD_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs we may run on."""
    for variable in ("SYMGRAD_NUM_THREADS", "OMP_NUM_THREADS"):
        # OpenMP allows a list, one number for each level of nesting.
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
        if text and variable.startswith("SYMGRAD"):
            raise ValueError(f"{variable}: needs an integer of at least 1, got {text!r}")
    return available_cpus()
