"""``symgrad bench``: how long a compiled function takes, and something else beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from symgrad.api_backend import compile_func
from symgrad.cli.derivative import differentiate
from symgrad.cli.execute import arrays_for
from symgrad.cli.target import Subject
from symgrad.ir import Func, interpret
from symgrad.ir.errors import UsageError

GROUP = 1e-3
"""Seconds; calls shorter than this are timed in groups."""
FEWEST = 5
"""Samples taken even of a slow function."""


@dataclass(frozen=True)
class Times:
    """Seconds of the first call, which compiles, and of the calls after it."""

    name: str
    first: float
    median: float
    least: float


def bench(
    subject: Subject,
    other: tuple[str, Subject] | None,
    wrt: str | None,
    seconds: float,
    *,
    gradient: bool,
) -> None:
    """Times the function, or its gradient, and the interpreter or another function."""
    func = differentiate(subject.own, wrt) if gradient else subject.own
    arguments = arrays_for(func, subject.values)
    ours = measure(f"@{func.name}", lambda: compile_func(func), arguments, seconds)
    if other is None:
        theirs = measure("interpreter", lambda: _interpreter(func), arguments, seconds)
    else:
        name, second = other
        peer = differentiate(second.own, wrt) if gradient else second.own
        if peer.param_types != func.param_types:
            raise UsageError(f"--against {name}: takes {peer.param_types}, not {func.param_types}")
        theirs = measure(name, lambda: compile_func(peer), arguments, seconds)
    width = max(len(ours.name), len(theirs.name))
    typer.echo(f"{'':{width}} {'first call':>12} {'median':>12} {'least':>12}")
    for row in (ours, theirs):
        times = "".join(f" {_time(t):>12}" for t in (row.first, row.median, row.least))
        typer.echo(f"{row.name:{width}}{times}")
    typer.echo(f"{theirs.name} takes {theirs.median / ours.median:.2f} times as long")


def measure(
    name: str,
    make: Callable[[], Callable[[Sequence[Any]], Any]],
    arguments: Sequence[Any],
    seconds: float,
) -> Times:
    """Makes a callable, calls it, then samples it for about so many seconds."""
    clock = time.perf_counter
    start = clock()
    call = make()
    call(arguments)
    first = clock() - start
    start = clock()
    call(arguments)
    group = max(1, round(GROUP / max(clock() - start, 1e-9)))
    samples: list[float] = []
    end = clock() + seconds
    while len(samples) < FEWEST or clock() < end:
        start = clock()
        for _ in range(group):
            call(arguments)
        samples.append((clock() - start) / group)
    return Times(name, first, statistics.median(samples), min(samples))


def _interpreter(func: Func) -> Callable[[Sequence[Any]], Any]:
    return lambda arguments: interpret(func, arguments)


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
