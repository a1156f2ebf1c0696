"""The table and the chart of a comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cases import Case
from goals import OURS, AtLeast, Verdict, verdicts
from results import Result, disagreement, quantity, ratio
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000, 10_000)
COLOURS = {
    "torch": "#d9622b", "jax": "#2a8f6a", "numpy": "#1f6fb4", "numba": "#8a5fbf",
    "casadi": "#b08a1e", "heyoka": "#c2447f", "autograd": "#7a7a7a", OURS: "#333333",
}  # fmt: skip
"""By library."""


class Table:
    """A table that grows as cases finish; ``missing`` sides are explained below it."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            self.console.width = 140
        self.table = RichTable(title="symgrad beside its peers: ratios above 1 are in our favour")
        self.table.add_column("case")
        self.table.add_column("side", no_wrap=True)
        for title in ("median", "ratio", "least", "ratio", "first call"):
            self.table.add_column(title, justify="right", no_wrap=True)
        self.table.add_column("goal", no_wrap=True)
        self.failures: list[str] = []
        self.notes = [f"left out: {side}: {why}" for side, why in sorted(missing.items())]
        self.goals: list[Verdict] = []

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the table while it grows."""
        live = Live(
            self.table, console=self.console, refresh_per_second=2, vertical_overflow="visible"
        )
        with live:
            yield
        for failure in self.failures:
            self.console.print(failure, style="red", markup=False, highlight=False)
        for note in self.notes:
            self.console.print(note, markup=False, highlight=False)
        met = sum(verdict.met for verdict in self.goals)
        self.console.print(f"{met} of {len(self.goals)} goals met", highlight=False)

    def start(self, case: Case) -> None:
        """Say what runs now."""
        self.table.caption = f"measuring {case.title} …"

    def add(self, case: Case, results: Sequence[Result]) -> None:
        """One row per side."""
        self.table.caption = None
        judged = verdicts(case.goals, results, case.measure)
        self.goals += judged
        for result in results:
            title = case.title if result is results[0] else ""
            if result.error or not result.rounds:
                self.table.add_row(title, result.side, "[red]failed[/]")
                self.failures.append(f"{case.name}, {result.side}: {result.error or 'not run'}")
                continue
            if disagreement(results[0], result):
                self.failures.append(f"{case.name}: {result.side} computed something else")
            ratios = [ratio(results[0], result), ratio(results[0], result, least=True)]
            factors = ["" if r is None or result is results[0] else f"{r:.2f}" for r in ratios]
            first = quantity(result.first["first_call"], "time") if result.first else ""
            if "warm_start" in result.first:
                first = f"{quantity(result.first['warm_start'], 'time')} again"
            median, least = (quantity(v, case.measure) for v in (result.median, result.least))
            goal = "; ".join(map(_shown, (v for v in judged if v.side == result.side)))
            row = title, result.side, median, factors[0], least, factors[1], first, goal
            self.table.add_row(*row)
        self.table.add_section()


def _shown(verdict: Verdict) -> str:
    return f"{verdict.text} " + ("[green]met[/]" if verdict.met else "[red]missed[/]")


def write_chart(path: Path, cases: Sequence[Case], found: Mapping[str, Sequence[Result]]) -> None:
    """A row per case on a log scale: a dot per peer, a bar to the best one, a tick at the goal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.24 * max(len(cases), 1)), layout="constrained")
    axes = figure.subplots()
    drawn: set[str] = set()
    for row, case in enumerate(cases):
        ours, *others = found[case.name]
        factors = {o.side: f for o in others if (f := ratio(ours, o, least=True)) is not None}
        if not factors:
            continue
        best = min(factors, key=lambda side: factors[side])
        axes.barh(row, factors[best] - 1, left=1, color=_colour(best), alpha=0.35)
        for side, factor in factors.items():
            library = _library(side)
            axes.plot(
                factor, row, "o", markersize=4, color=_colour(side),
                label=None if library in drawn else library,
            )  # fmt: skip
            drawn.add(library)
        for goal in case.goals:
            if isinstance(goal, AtLeast):
                colour = "black" if goal.side is None else _colour(goal.side)
                axes.plot(goal.times, row, "|", markersize=9, color=colour)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_yticks(range(len(cases)), [case.title for case in cases], fontsize=7)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel("peer's figure by symgrad's (right of 1: in our favour; |: the goal)")
    if drawn:
        axes.legend(loc="lower right", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _colour(side: str) -> str:
    return COLOURS[_library(side)]


def _library(side: str) -> str:
    return side.split(maxsplit=1)[0]
