"""Replaces composite ops (moments, random_bits) by the basic ops they stand for."""

from __future__ import annotations

from typing import Any

from symgrad.ir.graph import Func, Op, Value
from symgrad.ir.opdef import REGISTRY
from symgrad.ir.rewrite import rewrite


def expand(func: Func) -> Func:
    """Returns ``func`` with every op that declares an expansion replaced by it."""
    composite = [name for name, opdef in REGISTRY.items() if opdef.expand_rule is not None]
    return rewrite(func, dict.fromkeys(composite, (_expanded,)))


def _expanded(op: Op, *operands: Value) -> Any:
    rule = op.opdef.expand_rule
    return rule(*operands, **op.attrs) if rule is not None else None
