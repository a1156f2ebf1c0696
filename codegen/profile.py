"""Where the time of a program goes: kernel by kernel, thread by thread.

``Executable.profile`` runs a program several times and gives a ``Profile``; inside
``recording()`` every program that runs adds to one.  Threads note the clock before and
after each kernel and are not held up otherwise, so what is measured is the program as it
runs: a kernel takes as long as its slowest thread, and a thread waits where it has nothing
to do until the next barrier opens.
"""

from __future__ import annotations

import functools
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from symgrad.codegen.memory_report import describe_memory
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.executable import Executable
    from symgrad.codegen.runtime.roofline import Peaks

RUNS_KEPT = 64
"""Runs whose times a profile keeps: the latest."""
ROWS = 40
"""Kernel calls in a profile's text: those that take longest."""

Spans = np.ndarray[Any, np.dtype[np.float64]]


@record
class KernelTime:
    """One kernel call of a program and what it took."""

    kernel: str
    op: str
    """The op it computes, and which part of that."""
    line: str
    """The user's source line; empty where the op has none."""
    seconds: float
    """Median over the runs of the slowest thread's time."""
    flops: float
    bytes: float
    share: float
    """The part of the roofline it reaches: the time the machine needs at least, by its own."""
    threads: int
    chosen: str
    """The kernel family, where there was a choice."""
    refused: str
    """Why a better one was refused."""

    @property
    def flop_rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes read and written a second."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Run:
    """One run: when it started on ``time.perf_counter``, and its threads' spans."""

    start: float
    spans: Spans
    """Seconds from the start: ``[threads, steps, 2]``, NaN where a thread had no part."""

    @property
    def seconds(self) -> float:
        """From the first kernel's beginning to the last one's end."""
        return float(np.nanmax(self.spans)) if self.spans.size else 0.0


@dataclass
class Profile:
    """The runs of one program.  Its text is a table, ``save_trace`` writes a timeline."""

    executable: Executable = field(repr=False)
    count: int = 0
    """Runs in all."""
    total: float = 0.0
    """Seconds of all runs together."""
    runs: deque[Run] = field(default_factory=lambda: deque(maxlen=RUNS_KEPT))
    """The latest runs."""

    def add(self, run: Run) -> None:
        """Counts one more run."""
        self.count += 1
        self.total += run.seconds
        self.runs.append(run)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.executable.image.name

    @property
    def threads(self) -> int:
        """Threads the program runs on."""
        return self.executable.threads

    @property
    def seconds(self) -> float:
        """Median time of a run."""
        return float(np.median([run.seconds for run in self.runs])) if self.runs else 0.0

    @functools.cached_property
    def peaks(self) -> Peaks:
        """What the machine can do with as many threads."""
        from symgrad.codegen.runtime.roofline import measure

        return measure(self.executable.image.threads)

    @property
    def kernels(self) -> list[KernelTime]:
        """The kernel calls in the order in which they run."""
        lowered = self.executable.lowered
        every = [np.nan_to_num(run.spans[..., 1] - run.spans[..., 0]) for run in self.runs]
        times = np.median([spans.max(axis=0) for spans in every], axis=0)
        return [
            KernelTime(
                kernel=name,
                op=call.op,
                line="" if call.loc is None else str(call.loc),
                seconds=float(seconds),
                flops=call.flops,
                bytes=call.bytes,
                share=self.peaks.seconds(call.flops, call.bytes, call.scalar_bytes) / seconds
                if seconds
                else 0.0,
                threads=self.threads if call.parallel else 1,
                chosen=call.chosen,
                refused=call.refused,
            )
            for name, call, seconds in zip(lowered.names, lowered.calls, times, strict=True)
        ]

    @property
    def waiting(self) -> list[float]:
        """Per thread the part of the time it was in no kernel, over the runs kept."""
        whole = sum(run.seconds for run in self.runs)
        busy = sum(np.nansum(run.spans[..., 1] - run.spans[..., 0], axis=1) for run in self.runs)
        return [1 - float(b) / whole if whole else 0.0 for b in np.atleast_1d(busy)]

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of arena, parameters and results: together the peak of a run."""
        return self.executable.memory

    def __str__(self) -> str:
        waits = ", ".join(f"{100 * share:.0f} %" for share in self.waiting)
        lines = [
            f"@{self.name}: {_time(self.seconds)} a run (median of {self.count}), "
            f"{len(self.executable.image.steps)} kernel calls",
            f"threads waiting: {waits}; {describe_memory(self.memory)}",
            f"machine: {self.peaks.flops / 1e9:.0f} GF/s (f32), {self.peaks.bytes / 1e9:.0f} GB/s",
            "",
            f"{'time':>10} {'part':>6} {'GF/s':>7} {'GB/s':>7} {'roof':>5}  kernel",
        ]
        kernels = sorted(self.kernels, key=lambda one: -one.seconds)
        whole = sum(one.seconds for one in kernels) or 1.0
        lines += [_row(one, one.seconds / whole) for one in kernels[:ROWS]]
        if rest := kernels[ROWS:]:
            seconds = sum(one.seconds for one in rest)
            lines.append(f"{_time(seconds):>10} {100 * seconds / whole:5.1f} %  {len(rest)} others")
        return "\n".join(lines) + "\n"

    def events(self, origin: float | None = None) -> Iterator[dict[str, Any]]:
        """The runs kept as complete events of the Chrome trace format, in microseconds."""
        calls = self.executable.lowered.calls
        for run in self.runs:
            offset = 0.0 if origin is None else run.start - origin
            for thread, row in enumerate(run.spans):
                for call, (begin, end) in zip(calls, row, strict=True):
                    if not np.isnan(end):
                        yield {
                            "name": call.op, "cat": self.name, "ph": "X", "pid": 1, "tid": thread,
                            "ts": 1e6 * (offset + begin), "dur": 1e6 * (end - begin),
                            "args": {"kernel": call.phase.label, "line": str(call.loc or "")},
                        }  # fmt: skip

    def save_trace(self, path: str | Path) -> None:
        """Writes a timeline that chrome://tracing and Perfetto open."""
        write_trace(path, [self])


def _row(one: KernelTime, part: float) -> str:
    why = f"  [{one.chosen}{f': {one.refused}' if one.refused else ''}]" if one.chosen else ""
    rates = f"{one.flop_rate / 1e9:7.1f} {one.byte_rate / 1e9:7.1f} {100 * one.share:3.0f} %"
    text = f"{_time(one.seconds):>10} {100 * part:4.1f} % {rates}  {one.kernel} {one.op}"
    return f"{text}  {one.line}{why}".rstrip()


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.2f} us"


def write_trace(path: str | Path, profiles: Sequence[Profile]) -> None:
    """Writes the runs of some programs as one timeline in the Chrome trace format."""
    starts = [run.start for profile in profiles for run in profile.runs]
    origin = min(starts, default=0.0)
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": t, "args": {"name": f"thread {t}"}}
        for t in range(max((p.threads for p in profiles), default=0))
    ]
    for profile in profiles:
        events += profile.events(origin)
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    Path(path).write_text(text, encoding="utf-8")


# -- everything that runs --------------------------------------------------------------------


@dataclass
class Recording:
    """All programs that ran inside ``recording()``."""

    profiles: list[Profile] = field(default_factory=list)
    """By program, in the order of their first runs."""

    def add(self, executable: Executable, run: Run) -> None:
        """Notes a run."""
        known = next((p for p in self.profiles if p.executable is executable), None)
        if known is None:
            self.profiles.append(known := Profile(executable))
        known.add(run)

    @property
    def seconds(self) -> float:
        """Time inside programs, of all runs."""
        return sum(profile.total for profile in self.profiles)

    def __str__(self) -> str:
        ordered = sorted(self.profiles, key=lambda profile: -profile.total)
        runs = sum(profile.count for profile in ordered)
        lines = [f"{len(ordered)} programs, {runs} runs, {_time(self.seconds)}"]
        lines += [
            f"{_time(p.total):>10} {100 * p.total / (self.seconds or 1.0):5.1f} % "
            f"{p.count:6} x {_time(p.seconds):>9}  @{p.name}"
            for p in ordered
        ]
        return "\n".join([*lines, "", *map(str, ordered[:1])])

    def save_trace(self, path: str | Path) -> None:
        """Writes a timeline that chrome://tracing and Perfetto open."""
        write_trace(path, self.profiles)


active: list[Recording] = []
"""The recordings under way."""


@contextmanager
def recording() -> Iterator[Recording]:
    """Within, every run of an ``Executable`` is timed and noted."""
    record = Recording()
    active.append(record)
    try:
        yield record
    finally:
        active.remove(record)


def timed(executable: Executable, slots: Sequence[Any]) -> Run:
    """Runs a program on its slots once, with times."""
    start = time.perf_counter()
    return Run(start, executable.run_timed(slots))
