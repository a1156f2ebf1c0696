"""One normal form: exact algebraic identities and cleanup of shape ops.

Every rule keeps results bit for bit, except that a factor common to all terms of a sum
may leave the sum.
"""

from __future__ import annotations

from symgrad.ir.graph import Func, Op, Value
from symgrad.ir.rewrite import Rule, rewrite


def identity_away(op: Op, x: Value) -> Value:
    """identity(x) = x: names of values matter to differentiation only."""
    return x


RULES: dict[str, tuple[Rule, ...]] = {
    "identity": (identity_away,),
    "stop_gradient": (identity_away,),
}


def canonicalize(func: Func) -> Func:
    """Returns ``func`` in normal form."""
    return rewrite(func, RULES)
