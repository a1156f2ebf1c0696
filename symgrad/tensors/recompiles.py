"""Says why a program is compiled: ``SYMGRAD_DEBUG=recompiles``."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

from symgrad.ir.errors import user_location

_SHOWN = 3
"""Changed inputs named at the most."""


def report(key: Any, known: Collection[Any]) -> None:
    """Prints what sets a new program apart from the one most like it, if that is wanted."""
    if "recompiles" not in os.environ.get("SYMGRAD_DEBUG", "").replace(" ", "").split(","):
        return
    where = user_location()
    print(
        f"[recompiles] program {len(known) + 1}, {len(key[0]) - 1} operations"
        f"{f', wanted at {where}' if where else ''}: {difference(key, known)}",
        file=sys.stderr,
    )


def difference(key: Any, known: Collection[Any]) -> str:
    """What sets ``key`` apart from the most similar key among ``known``, in words.

    Keys are (lines, results, donated); the first line has the inputs' types, each other one
    what an operation computes and the numbers of its operands.
    """
    if not known:
        return "it is the first"
    lines, results, donated = key
    latest = {id(k): i for i, k in enumerate(known)}
    other = max(
        known,
        key=lambda k: (_alike(lines[1:], k[0][1:]), len(lines) == len(k[0]), latest[id(k)]),
    )
    before = other[0]
    if len(lines) == len(before) and lines[0] != before[0]:
        return _inputs(lines[0], before[0])
    at = _alike(lines[1:], before[1:])
    if at < min(len(lines), len(before)) - 1:
        return f"operation {at + 1} is {_named(lines[at + 1])}, it was {_named(before[at + 1])}"
    more = len(lines) - len(before)
    if more:
        return f"{abs(more)} operations {'more' if more > 0 else 'less'} than a known program"
    if results != other[1]:
        return f"other values are looked at ({len(results)}, they were {len(other[1])})"
    return f"other memory is given up ({len(donated)} inputs, they were {len(other[2])})"


def _alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many lines at the beginning agree."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _inputs(types: Sequence[Any], before: Sequence[Any]) -> str:
    if len(types) != len(before):
        return f"it has {len(types)} inputs, it had {len(before)}"
    changed = [
        f"input {i} is {now}, it was {was}"
        for i, (now, was) in enumerate(zip(types, before, strict=True))
        if now != was
    ]
    rest = len(changed) - _SHOWN
    return "; ".join(changed[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _named(line: Any) -> str:
    """An operation as text: its op, or the ops in its region, and its attributes."""
    (name, value, attrs, regions), *operands = line
    if regions:
        ops = [op.name for op in regions[0].ops if op.name not in ("constant", "stop_gradient")]
        return f"{'+'.join(ops[:6])}{'...' if len(ops) > 6 else ''} of {regions[0].results[0].type}"
    details = value if value is not None else attrs
    return f"{name}{f' {details}' if details else ''} of values {', '.join(map(str, operands))}"
