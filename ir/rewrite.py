"""Rewriting: rules by op name, applied while a function is rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Func, Op, Value

Rule = Callable[..., Any]
"""``rule(op, *operands)`` to replacement value(s), or ``None`` for no match.

``op`` gives attributes and result types; ``operands`` are the new ones.
"""


def rewrite(func: Func, rules: Mapping[str, Sequence[Rule]], *, rounds: int = 4) -> Func:
    """Rebuilds ``func`` with the first matching rule of each op, until nothing changes."""
    for _ in range(rounds):
        rebuilt, matches = _rewrite_once(func, rules)
        if not matches:
            return rebuilt
        func = rebuilt
    return func


def _rewrite_once(func: Func, rules: Mapping[str, Sequence[Rule]]) -> tuple[Func, int]:
    builder = Builder(locations=False)
    new: dict[int, Value] = {id(p): builder.param(p.type, p.name) for p in func.params}
    matches = 0
    with builder:
        for op in func.ops:
            operands = [new[id(v)] for v in op.operands]
            with builder.at(op.loc):
                replacement = _first_match(op, operands, rules.get(op.name, ()))
                if replacement is None:
                    replacement = builder.copy(op, operands)
                else:
                    matches += 1
            values = replacement if isinstance(replacement, tuple) else (replacement,)
            new.update((id(old), value) for old, value in zip(op.results, values, strict=True))
    return builder.build([new[id(v)] for v in func.results], func.name), matches


def _first_match(op: Op, operands: Sequence[Value], rules: Sequence[Rule]) -> Any:
    for rule in rules:
        if (replacement := rule(op, *operands)) is not None:
            return replacement
    return None
