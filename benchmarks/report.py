"""The table and the chart of a comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cases import Case
from results import Result, disagreement, ratio
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50)
COLOURS = {"torch": "#d9622b", "torch channels_last": "#a8481c", "numpy": "#1f6fb4"}


def quantity(value: float, measure: str) -> str:
    """A figure with its unit, three digits."""
    if measure == "memory":
        return f"{value / 1e6:.0f} MB"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1 or unit == "µs":
            return f"{value * scale:.3g} {unit}"
    raise AssertionError


class Table:
    """A table that grows as cases finish."""

    def __init__(self) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            self.console.width = 120
        self.table = RichTable(title="symgrad beside its peers: ratios above 1 are in our favour")
        self.table.add_column("case")
        self.table.add_column("side", no_wrap=True)
        for title in ("median", "ratio", "least", "ratio", "first call"):
            self.table.add_column(title, justify="right", no_wrap=True)
        self.failures: list[str] = []

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

    def start(self, case: Case) -> None:
        """Say what runs now."""
        self.table.caption = f"measuring {case.title} …"

    def add(self, case: Case, results: Sequence[Result]) -> None:
        """One row per side."""
        self.table.caption = None
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
            first = quantity(result.first["first_call"], "time")
            if "warm_start" in result.first:
                first = f"{quantity(result.first['warm_start'], 'time')} again"
            median, least = (quantity(v, case.measure) for v in (result.median, result.least))
            self.table.add_row(title, result.side, median, factors[0], least, factors[1], first)
        self.table.add_section()


def write_chart(path: Path, cases: Sequence[Case], found: Mapping[str, Sequence[Result]]) -> None:
    """Bars of the ratios, one per case and peer, on a log scale around 1."""
    from matplotlib.figure import Figure

    bars = [
        (case.title, result.side, factor)
        for case in cases
        for result in found[case.name][1:]
        if (factor := ratio(found[case.name][0], result)) is not None
    ]
    figure = Figure(figsize=(9, 1 + 0.32 * max(len(bars), 1)), layout="constrained")
    axes = figure.subplots()
    for row, (_, side, factor) in enumerate(bars):
        axes.barh(row, factor - 1, left=1, color=COLOURS[side])
        axes.annotate(
            f"{factor:.2f}", (factor, row), (4 if factor >= 1 else -4, 0),
            textcoords="offset points", va="center", ha="left" if factor >= 1 else "right",
        )  # fmt: skip
    factors = [factor for *_, factor in bars]
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], minor=False)
    axes.minorticks_off()
    axes.set_xlim(0.8 * min([0.8, *factors]), 1.3 * max([2.0, *factors]))
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_yticks(range(len(bars)), [f"{title} — {side}" for title, side, _ in bars], fontsize=8)
    axes.set_xlabel("peer's figure by symgrad's (above 1: in our favour)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
