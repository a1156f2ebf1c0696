"""Replaces composite ops (moments, random_bits) by the basic ops they stand for."""

from __future__ import annotations

from typing import Any

from symgrad.ir.graph import Func, Op, Value
from symgrad.ir.opdef import REGISTRY
from symgrad.ir.rewrite import Rule, rewrite


def expand(func: Func) -> Func:
    """Returns ``func`` with every op that declares an expansion replaced by it."""
    composite = {name for name, opdef in REGISTRY.items() if opdef.expand_rule is not None}
    if not any(op.name in composite for op in func.ops):
        return func
    return rewrite(func, [Rule(tuple(composite), expansion)])


def open_regions(func: Func) -> Func:
    """Returns ``func`` with the regions of composite ops in their places: loops may be there."""
    closed = {op.name for op in func.ops if op.regions and op.opdef.expand_rule is not None}
    return rewrite(func, [Rule(tuple(closed), expansion)]) if closed else func


def expansion(op: Op, *operands: Value) -> Any:
    """The value of a composite op in basic ops."""
    expand_rule = op.opdef.expand_rule
    extra = {"region": op.regions[0]} if op.regions else {}
    return expand_rule(*operands, **op.attrs, **extra) if expand_rule is not None else None
