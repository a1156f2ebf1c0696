"""What a case must reach, and whether it did.

Goals compare least figures, which noise disturbs least.  A verdict stands in the table in the row
of the peer that had to be beaten, or in ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from results import Result, quantity, ratio

OURS = "symgrad"


@dataclass(frozen=True)
class AtLeast:
    """We are so many ``times`` as fast as ``side``; without one, as the best peer.

    A peer with a goal of its own in the same case is not among those.
    """

    times: float
    side: str | None = None


@dataclass(frozen=True)
class AtMost:
    """Our figure, in seconds or bytes, is at most ``figure``, or that above the one of ``side``.

    ``warm`` judges the first call of a process that finds the cache filled.
    """

    figure: float
    side: str | None = None
    warm: bool = False


Goal = AtLeast | AtMost


@dataclass(frozen=True)
class Verdict:
    """A goal as the table shows it, in the row of ``side``."""

    side: str
    text: str
    met: bool


def verdicts(goals: Sequence[Goal], results: Sequence[Result], measure: str) -> list[Verdict]:
    """Judge what can be judged: a side that is missing or failed leaves its goals out."""
    ran = {result.side: result for result in results if result.rounds}
    if OURS not in ran:
        return []
    named = {goal.side for goal in goals if isinstance(goal, AtLeast)}
    found: list[Verdict | None] = []
    for goal in goals:
        if isinstance(goal, AtMost):
            found.append(_at_most(goal, ran, measure))
        elif goal.side is None:
            found.append(_at_least(goal, ran, [s for s in ran if s != OURS and s not in named]))
        else:
            found.append(_at_least(goal, ran, [s for s in ran if s == goal.side]))
    return [verdict for verdict in found if verdict is not None]


def _at_least(goal: AtLeast, ran: Mapping[str, Result], peers: Sequence[str]) -> Verdict | None:
    factors = {side: ratio(ran[OURS], ran[side], least=True) for side in peers}
    known = {side: factor for side, factor in factors.items() if factor is not None}
    if not known:
        return None
    best = min(known, key=lambda side: known[side])
    return Verdict(best, f"≥ {goal.times:g}×", known[best] >= goal.times)


def _at_most(goal: AtMost, ran: Mapping[str, Result], measure: str) -> Verdict | None:
    if goal.side is not None and goal.side not in ran:
        return None
    ours = ran[OURS].first["warm_start"] if goal.warm else ran[OURS].least
    base = ran[goal.side].least if goal.side is not None else 0.0
    text = f"≤ {quantity(goal.figure, measure)}"
    text += f" + {goal.side}" if goal.side is not None else " again" if goal.warm else ""
    return Verdict(OURS, text, ours - base <= goal.figure)
