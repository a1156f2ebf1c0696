"""The thread team and the native step driver: every step once, in order, however it is called."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from symgrad.codegen import jit
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime import threads
from symgrad.codegen.runtime.native import load_entries
from symgrad.codegen.runtime.program import ARENA, NativeProgram, Step
from symgrad.codegen.runtime.threads import Team, get_num_threads, set_num_threads
from symgrad.codegen.runtime.waiting import Waiting
from symgrad.codegen.target import Target, available_cpus

import symgrad

ROOT = Path(symgrad.__file__).parent.parent
Longs = np.ndarray[tuple[int], np.dtype[np.int64]]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


def kernels() -> dict[str, int]:
    """``shift(y, x, n)``: y[i] = x[(i + 1) % n] + 1, so that a share reads its neighbour's;
    ``who(out)``: out[tid] = nth; ``scale(x, n)``: x[i] *= 3."""
    modules = {}
    k = Emitter(Target.host())
    with k.function("shift", ("ptr", "i64", "i64")) as (args, tid, nth):
        y, x = k.load("ptr", args), k.load("ptr", k.gep(args, 1, "ptr"))
        n = k.load("i64", k.load("ptr", k.gep(args, 2, "ptr")))
        low, high = k.slice(n, tid, nth)
        with k.loop(low, high) as i:
            value = k.load("i64", k.gep(x, k.urem(k.add(i, 1), n), "i64"))
            k.store(k.as_reg(k.add(value, 1)), k.gep(y, i, "i64"))
    modules["shift"] = k.module()
    k = Emitter(Target.host())
    with k.function("who", ("ptr", "i64", "i64")) as (args, tid, nth):
        k.store(nth, k.gep(k.load("ptr", args), tid, "i64"))
    modules["who"] = k.module()
    k = Emitter(Target.host())
    with k.function("scale", ("ptr", "i64", "i64")) as (args, tid, nth):
        x, n = k.load("ptr", args), k.load("i64", k.load("ptr", k.gep(args, 1, "ptr")))
        with k.loop(0, n) as i:
            p = k.gep(x, i, "i64")
            k.store(k.as_reg(k.mul(k.load("i64", p), 3)), p)
    modules["scale"] = k.module()
    return jit.compile_modules(modules, Target.host())


class Ring:
    """A program of many dependent steps through the arena, and what it must give."""

    def __init__(
        self, n: int, steps: int, limit: int | None = None, *, release: bool = True
    ) -> None:
        self.n = np.array([n])
        # slots: 0 input, 1 output, 2 length; odd steps write the arena's second half
        parts = [(0, 0), (ARENA, 0), (ARENA, 8 * n), (1, 0)]
        chain = [Step("shift", (parts[1], parts[0], (2, 0)))]
        for i in range(steps):
            a, b = parts[1 + i % 2], parts[2 - i % 2]
            chain.append(Step("shift", (b, a, (2, 0))))
            if i % 3 == 0:
                chain.append(Step("scale", (b, (2, 0)), parallel=False))
        chain.append(Step("shift", (parts[3], parts[1 + steps % 2], (2, 0))))
        self.steps, self.count = chain, steps
        self.program = NativeProgram(
            chain, kernels(), 3, arena_bytes=16 * n, threads=limit, release_gil=release
        )

    def __call__(self, x: Longs) -> Longs:
        out = np.full_like(x, -1)
        self.program.run([x.ctypes.data, out.ctypes.data, self.n.ctypes.data])
        return out

    def expected(self, x: Longs) -> Longs:
        x = np.roll(x, -1) + 1
        for i in range(self.count):
            x = np.roll(x, -1) + 1
            x = x * 3 if i % 3 == 0 else x
        return np.roll(x, -1) + 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 5, 17, 33, 1000])
def test_steps_run_in_order_over_the_whole_range(n: int, size: int) -> None:
    set_num_threads(size)
    ring = Ring(n, 9)
    for seed in range(20):
        x = np.arange(n) * 7 + seed
        np.testing.assert_array_equal(ring(x), ring.expected(x))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ten_thousand_launches(size: int) -> None:
    set_num_threads(size)
    ring = Ring(40, 2)
    x = np.arange(40)
    expected = ring.expected(x)
    for _ in range(10_000 if size <= 2 else 2_000):
        assert (ring(x) == expected).all()


@pytest.mark.parametrize(("size", "limit"), [(1, 4), (2, 1), (3, 2), (4, 3), (2, 8)])
def test_no_run_uses_more_threads_than_it_was_made_for(size: int, limit: int) -> None:
    set_num_threads(size)
    seen = np.zeros(9, np.int64)
    program = NativeProgram([Step("who", ((0, 0),))], kernels(), 1, threads=limit)
    program.run([seen.ctypes.data])
    used = min(size, limit)
    np.testing.assert_array_equal(seen, [used] * used + [0] * (9 - used))
    ring = Ring(33, 5, limit)
    np.testing.assert_array_equal(ring(np.arange(33)), ring.expected(np.arange(33)))


def test_serial_steps_run_once_and_wake_nobody() -> None:
    set_num_threads(3)
    threads.process_team().stop()
    seen = np.zeros(3, np.int64)
    steps = [Step("who", ((0, 0),), parallel=False)]
    NativeProgram(steps, kernels(), 1).run([seen.ctypes.data])
    assert seen.tolist() == [1, 0, 0]
    assert threads.process_team()._workers == []
    together = [*steps, Step("who", ((0, 24),))]
    seen = np.zeros(6, np.int64)
    NativeProgram(together, kernels(), 1).run([seen.ctypes.data])
    assert seen.tolist() == [1, 0, 0, 3, 3, 3]


def test_a_program_without_steps() -> None:
    NativeProgram([], {}, 0).run([])
    assert NativeProgram([], {}, 0).run_timed([]).shape == (1, 0, 2)


def test_fixed_slots_and_offsets() -> None:
    constant, seen = np.array([4]), np.zeros(8, np.int64)
    steps = [Step("scale", ((0, 16), (7, 0)), parallel=False)]
    seen[:] = 1
    NativeProgram(steps, kernels(), 1, fixed={7: constant.ctypes.data}).run([seen.ctypes.data])
    assert seen.tolist() == [1, 1, 3, 3, 3, 3, 1, 1]


def test_the_arena_is_aligned_and_zero() -> None:
    for size in (1, 63, 4097):
        arena = NativeProgram([], {}, 0, arena_bytes=size)._arena
        assert arena.ctypes.data % 64 == 0
        assert arena.size == size
        assert not arena.any()


def test_wrong_slots_are_told() -> None:
    with pytest.raises(ValueError, match=r"step 0 \(who\): slot 2 is neither fixed nor one of"):
        NativeProgram([Step("who", ((2, 0),))], kernels(), 2)
    with pytest.raises(ValueError, match="the program has 1 slots, got 2"):
        NativeProgram([Step("who", ((0, 0),))], kernels(), 1).run([1, 2])


@pytest.mark.parametrize("size", [1, 2])
def test_timed_runs_give_the_same_and_a_time_for_each_step(size: int) -> None:
    set_num_threads(size)
    ring = Ring(3000, 6)
    x, out = np.arange(3000), np.zeros(3000, np.int64)
    slots = [x.ctypes.data, out.ctypes.data, ring.n.ctypes.data]
    spans = ring.program.run_timed(slots)
    np.testing.assert_array_equal(out, ring.expected(x))
    assert spans.shape == (size, len(ring.steps), 2)
    parts = np.array([[step.parallel or t == 0 for step in ring.steps] for t in range(size)])
    np.testing.assert_array_equal(np.isfinite(spans).all(axis=2), parts)
    order = [row[mine].ravel() for row, mine in zip(spans, parts, strict=True)]
    assert all((np.diff(stamps) >= 0).all() for stamps in order)
    assert np.nanmin(spans) == 0 < np.nanmax(spans) < 10
    np.testing.assert_array_equal(ring(x), ring.expected(x))


@pytest.mark.parametrize("release", [True, False])
def test_python_threads_share_the_team_and_a_program(release: bool) -> None:
    set_num_threads(2)
    ring, others = Ring(50, 4), [Ring(30 + i, 3, release=release) for i in range(4)]
    failures = []

    def work(seed: int) -> None:
        for i in range(300):
            for each in (ring, others[seed]):
                x = np.arange(each.n[0]) + i * seed
                if not (each(x) == each.expected(x)).all():
                    failures.append((seed, i))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for worker in workers:
        worker.start()
    sizes = itertools.cycle((3, 1, 2, 4, 2))  # the team may change its size under way
    while any(worker.is_alive() for worker in workers):
        set_num_threads(next(sizes))
        time.sleep(1e-4)
    for worker in workers:
        worker.join()
    sys.setswitchinterval(interval)
    assert failures == []


@pytest.mark.parametrize("waiting", [Waiting.here(), Waiting(None)])
@pytest.mark.parametrize("size", [2, 4])
def test_a_team_with_and_without_the_kernels_help(waiting: Waiting, size: int) -> None:
    """Every thread adds its number at each of many barriers; all must agree on the sums."""

    def emit(k: Emitter) -> tuple[str, ...]:
        threads.emit_team(k, waiting)
        with k.function("task", ("ptr", "i64", "i64"), internal=True) as (args, tid, nth):
            team = k.load("ptr", args)
            with k.loop(0, 200) as i:
                mine = k.gep(args, k.add(k.add(k.mul(i, nth), tid), 1), "i64")
                k.store(k.as_reg(k.add(i, tid)), mine)
                threads.meet(k, team, nth)
                neighbour = k.urem(k.add(tid, 1), nth)
                theirs = k.gep(args, k.add(k.add(k.mul(i, nth), neighbour), 1), "i64")
                wrong = k.icmp("ne", k.load("i64", theirs), k.add(i, neighbour))
                with k.if_(wrong):
                    k.store(Reg("-1", "i64"), mine)
        return ("launch", "task")

    launch, task = load_entries("team_test", emit)
    team = Team(size, waiting)
    words = np.zeros(1 + 200 * size, np.int64)
    words[0] = team.block
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(launch)
    for round_ in range(20):
        team.start()
        for _ in range(5):
            words[1:] = 0
            call(team.block, task, words.ctypes.data)
            table = words[1:].reshape(200, size)
            np.testing.assert_array_equal(table, np.add.outer(np.arange(200), np.arange(size)))
        if round_ % 4 == 0:
            team.stop()
    team.close()
    assert team._workers == []


@pytest.mark.parametrize("waiting", [Waiting.here(), Waiting(None)])
def test_a_team_stops_before_its_workers_have_begun(waiting: Waiting) -> None:
    team = Team(4, waiting)
    for i in range(200):
        team.start()
        team.stop()
        assert np.full(3 + i % 5, 1 << 34).size  # what a worker must not find where it looks
    team.close()
    assert team._workers == []


def test_workers_leave_signals_to_python() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    set_num_threads(3)
    ring = Ring(10, 1)
    before = set(os.listdir("/proc/self/task"))
    threads.process_team().stop()
    ring(np.arange(10))
    workers = set(os.listdir("/proc/self/task")) - before
    for worker in workers:
        status = Path(f"/proc/self/task/{worker}/status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        assert blocked & 1 << 1  # SIGINT is number 2
        assert not blocked & 1 << 10  # SIGSEGV must still stop the process


def test_num_threads_is_checked() -> None:
    for wrong in (0, -1, 2.0, "2"):
        with pytest.raises(ValueError, match="set_num_threads: needs an integer of at least 1"):
            set_num_threads(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SYMGRAD_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"OMP_NUM_THREADS": "many"}, available_cpus()),
        ({}, available_cpus()),
    ],
)
def test_default_threads(
    variables: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SYMGRAD_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads.default_threads() == expected


def test_a_wrong_default_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_NUM_THREADS", "two")
    with pytest.raises(ValueError, match="SYMGRAD_NUM_THREADS: needs an integer"):
        threads.default_threads()


# -- whole processes ---------------------------------------------------------

SETUP = """
import importlib.util, os, sys, threading, time
import numpy as np
spec = importlib.util.spec_from_file_location("test_threads", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from symgrad.codegen.runtime import threads
ring = module.Ring(40, 5)
x = np.arange(40)
def check(times):
    for _ in range(times):
        assert (ring(x) == ring.expected(x)).all()
"""


def run_script(body: str, *, prefix: tuple[str, ...] = (), size: int = 2) -> str:
    """Runs a script in a process of its own; it must end by itself, without a complaint."""
    code = SETUP.format(path=__file__) + body
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "SYMGRAD_NUM_THREADS": str(size)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("size", [1, 2, 4])
def test_more_threads_than_cpus(size: int) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs CPU affinity")
    run_script("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\ncheck(2000)", size=size)


def test_the_interpreter_ends_with_idle_workers() -> None:
    assert run_script("check(10)\nprint('done')", size=3) == "done\n"


def test_the_interpreter_ends_while_a_daemon_runs_programs() -> None:
    body = """
def forever():
    while True:
        check(10)
for _ in range(2):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
print("done")
"""
    assert run_script(body) == "done\n"


def test_the_interpreter_ends_from_sys_exit_and_other_threads() -> None:
    run_script("t = threading.Thread(target=check, args=(50,)); t.start(); sys.exit(0)")


FORK = """
check(10)
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        check(50)
        sys.exit(0)
    children.append(child)
    check(20)
assert [os.waitpid(c, 0)[1] for c in children] == [0] * 8
check(20)
"""


def test_parent_and_child_of_a_fork() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    run_script(FORK)


def test_a_fork_while_other_threads_run_programs() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    body = """
stop = []
def work(each):
    while not stop:
        assert (each(x) == each.expected(x)).all()
others = [threading.Thread(target=work, args=(r,)) for r in (ring, module.Ring(40, 3))]
if sys.version_info >= (3, 12):
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # these are Python's own threads
for t in others:
    t.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        check(5)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.append(1)
for t in others:
    t.join()
check(5)
"""
    run_script(body)


def test_ctrl_c_between_calls() -> None:
    body = """
import signal
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    while True:
        check(1)
except KeyboardInterrupt:
    check(10)
    print("stopped")
"""
    assert run_script(body) == "stopped\n"


def test_threadpoolctl_sees_and_limits_the_team() -> None:
    pytest.importorskip("threadpoolctl")  # comes with scikit-learn
    body = """
import threadpoolctl
import numpy as np
import symgrad as sg

f = sg.jit(lambda x: np.sum(np.sin(x)))
x = np.linspace(0, 1, 100_000)
expected = f(x)

def ours():
    info = threadpoolctl.threadpool_info()
    return [p["num_threads"] for p in info if p["user_api"] == "symgrad"]

assert ours() == [2], ours()
with threadpoolctl.threadpool_limits(1, user_api="symgrad"):
    assert ours() == [1] and sg.get_num_threads() == 1
    assert np.isclose(f(x), expected)
assert ours() == [2] and f(x) == expected
print("limited")
"""
    assert run_script(body) == "limited\n"


def test_threadpoolctl_is_not_imported_for_it() -> None:
    body = """
import numpy as np
import symgrad as sg

sg.jit(np.sin)(np.ones(3))
print("threadpoolctl" in sys.modules)
"""
    assert run_script(body) == "False\n"


@pytest.mark.parametrize(("cpus", "spins"), [(1, 0), (2, threads.SPINS), (3, threads.SPINS)])
def test_nobody_spins_where_there_are_fewer_cpus_than_threads(
    cpus: int, spins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "available_cpus", lambda: cpus)
    team = Team(2)
    team.start()
    assert team._long(threads.SPIN).value == spins
    team.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_default_honours_affinity() -> None:
    body = """
import symgrad as sg
os.environ.pop("SYMGRAD_NUM_THREADS")
os.environ.pop("OMP_NUM_THREADS", None)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from symgrad.codegen.runtime.threads import Team
print(Team().size)
"""
    assert run_script(body) == "1\n"
