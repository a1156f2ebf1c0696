"""What a comparison finds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

AGREEMENT = 1e-3
"""Relative difference between two sides' first results that counts as the same job."""


@dataclass
class Result:
    """One side of one case: seconds (or bytes) per round, and what its first call gave."""

    case: str
    side: str
    rounds: list[float] = field(default_factory=list)
    least: float = float("inf")
    first: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def add(self, *samples: float) -> None:
        """One round."""
        self.rounds.append(statistics.median(samples))
        self.least = min(self.least, *samples)

    @property
    def median(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.rounds) if self.rounds else float("nan")


def ratio(ours: Result, other: Result, least: bool = False) -> float | None:
    """How many times the other side's figure is ours: round by round, or of the least ones."""
    if least:
        pairs = [(ours.least, other.least)] if ours.rounds and other.rounds else []
    else:
        pairs = list(zip(ours.rounds, other.rounds, strict=False))
    return statistics.median(b / a for a, b in pairs) if pairs else None


def disagreement(ours: Result, other: Result) -> bool:
    """Whether two sides computed different things: the norms of their results say so."""
    a, b = ours.first.get("norms", []), other.first.get("norms", [])
    pairs = list(zip(a, b, strict=False))
    return len(a) != len(b) or not all(abs(p - q) <= AGREEMENT * max(p, q) for p, q in pairs)


def quantity(value: float, measure: str) -> str:
    """A figure with its unit, three digits."""
    if measure == "memory":
        return f"{value / 1e6:.0f} MB"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
