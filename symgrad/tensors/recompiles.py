"""Says why a program is compiled: ``SYMGRAD_DEBUG=recompiles``."""

from __future__ import annotations

import itertools
import os
import sys
from array import array
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
        f"[recompiles] program {len(known) + 1}, {len(_operations(key))} operations"
        f"{f', wanted at {where}' if where else ''}: {difference(key, known)}",
        file=sys.stderr,
    )


def difference(key: Any, known: Collection[Any]) -> str:
    """What sets ``key`` apart from the most similar key among ``known``, in words.

    Keys are (types of the inputs, regions of the operations, the numbers of all their operands,
    results, donated).
    """
    if not known:
        return "it is the first"
    types, _, _, results, donated = key
    ops = _operations(key)
    latest = {id(k): i for i, k in enumerate(known)}
    split = {id(k): _operations(k) for k in known}
    other = max(
        known,
        key=lambda k: (
            _alike(ops, split[id(k)]), len(ops) == len(split[id(k)]), latest[id(k)]
        ),
    )  # fmt: skip
    before = split[id(other)]
    if len(ops) == len(before) and types != other[0]:
        return _inputs(types, other[0])
    at = _alike(ops, before)
    if at < min(len(ops), len(before)):
        return f"operation {at + 1} is {_named(ops[at])}, it was {_named(before[at])}"
    more = len(ops) - len(before)
    if more:
        return f"{abs(more)} operations {'more' if more > 0 else 'less'} than a known program"
    if results != other[3]:
        return f"other values are looked at ({len(results)}, they were {len(other[3])})"
    return f"other memory is given up ({len(donated)} inputs, they were {len(other[4])})"


def _operations(key: Any) -> list[tuple[Any, ...]]:
    """The operations of a key: a region and the numbers of its operands."""
    _, regions, numbers, *_ = key
    rest = iter(array("i", numbers))
    return [(region, *itertools.islice(rest, len(region.params))) for region in regions]


def _alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many operations at the beginning agree."""
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


def _named(operation: tuple[Any, ...]) -> str:
    """An operation as text: its op and attributes, or the ops in its region."""
    region, *operands = operation
    ops = [op for op in region.ops if op.name not in ("constant", "stop_gradient")] or region.ops
    if len(ops) > 1:
        names = "+".join([op.name for op in ops[:6]]) + ("..." if len(ops) > 6 else "")
        return f"{names} of {region.results[0].type}"
    details = " ".join([f"{name}={value}" for name, value in ops[0].attrs.items()])
    numbers = ", ".join(map(str, operands))
    return f"{ops[0].name}{f' {details}' if details else ''} of values {numbers}"
