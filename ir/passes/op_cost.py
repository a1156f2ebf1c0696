"""What scalar code costs: cycles per vector of each op, and counts of arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable

from symgrad.ir.graph import Op, Region

CYCLES: dict[str, float] = {
    "constant": 0.0,
    "scale": 2.0,
    **dict.fromkeys(("div", "sqrt"), 6.0),
    "rsqrt": 12.0,
    **dict.fromkeys(("exp", "exp2"), 10.0),
    **dict.fromkeys(("log", "log2", "log10", "cbrt"), 12.0),
    **dict.fromkeys(("expm1", "log1p", "sin", "cos", "sinh", "cosh"), 14.0),
    **dict.fromkeys(("tanh", "tan", "atan", "asin", "acos", "sigmoid", "erf"), 18.0),
    **dict.fromkeys(("erfc", "asinh", "acosh", "atanh", "atan2", "hypot"), 24.0),
    **dict.fromkeys(("pow", "rem", "fmod", "floor_div", "logaddexp"), 40.0),
}
"""Measured reciprocal throughput of our vector code; everything else counts 1."""

TRANSCENDENTAL = frozenset(name for name, cycles in CYCLES.items() if cycles >= 10) - {"rsqrt"}

PAIRS = {"sin": "cos", "cos": "sin"}
"""Functions by those of the same number that are computed along with them ..."""
BESIDE = 5.0
"""... in so many cycles more."""

_PARTS = {"sigmoid": 6, "scale": 3, "logaddexp": 6}
"""Ops that stand for several: sigmoid is abs, neg, exp, add, select and a division."""


def cost(region: Region) -> float:
    """Cycles per vector of points."""
    return sum(CYCLES.get(op.name, 1.0) for op in region.ops)


def cycles(op: Op) -> float:
    """Cycles per vector of what an op makes, which may be tensors of any size."""
    if op.opdef.elementwise:
        return CYCLES.get(op.name, 1.0)
    if op.name == "dot_general":
        shape = op.operands[0].shape
        return float(math.prod(shape[i] for i in op.attrs["lhs_contract"]))
    read, made = (sum(v.type.size for v in values) for values in (op.operands, op.results))
    return max(1.0, read / max(made, 1))


def count(ops: Iterable[Op]) -> int:
    """Arithmetic operations, composite ones counted by their parts."""
    return sum(_PARTS.get(op.name, 1) for op in ops if op.name != "constant")


def transcendental(region: Region) -> int:
    """How many ops of the region are worth saving."""
    return sum(op.name in TRANSCENDENTAL for op in region.ops)
