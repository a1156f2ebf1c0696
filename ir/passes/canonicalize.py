"""One normal form: exact algebraic identities and cleanup of ops that move elements.

The identities keep results bit for bit (see ``algebra``), except that sums may be taken
in another grouping where axes merge and a factor common to all terms leaves the sum.
"""

from __future__ import annotations

from collections import Counter

from symgrad.ir.graph import Func, Op, Value
from symgrad.ir.passes import algebra, contraction, movement
from symgrad.ir.rewrite import Rule, rewrite, rule


@rule("identity", "stop_gradient")
def identity_away(op: Op, x: Value) -> Value:
    """identity(x) = x: the names of values matter to differentiation only."""
    return x


RULES: tuple[Rule, ...] = (
    identity_away,
    *algebra.RULES,
    *movement.RULES,
    *contraction.RULES,
)


def canonicalize(func: Func, hits: Counter[str] | None = None) -> Func:
    """Returns ``func`` in normal form; ``hits`` counts the rules that applied."""
    return rewrite(func, RULES, hits)
