"""Reductions: what each kind starts from, how it combines, and its accumulators.

Float sums run in many independent short runs (lanes, unrolled accumulators, and
levels of at most ``SUM_RUN`` additions each), so that their error is about that
of pairwise summation.  Half types accumulate in f32, everything else in the
result's type.
"""

from __future__ import annotations

from collections.abc import Mapping

from symgrad.codegen.access import REGISTER_TYPES
from symgrad.codegen.conversions import constant
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, lanes_of, vec
from symgrad.codegen.scalar import emit_op

COMBINE: Mapping[str, str] = {
    "sum": "add",
    "prod": "mul",
    "max": "maximum",
    "min": "minimum",
    "any": "or",
    "all": "and",
}
"""The elementwise op that joins two partial results, by kind of reduction."""


def accumulator_dtype(dtype: str) -> str:
    """IR dtype in which results of ``dtype`` are accumulated."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def identity(kind: str, dtype: str) -> float | int:
    """The value that changes nothing."""
    if kind not in ("max", "min"):
        return int(kind in ("prod", "all"))
    if dtype == "bool":
        return int(kind == "min")
    if dtype[0] == "f":
        return float("-inf") if kind == "max" else float("inf")
    bits, signed = int(dtype[1:]), dtype[0] == "i"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return low if kind == "max" else high


def combine(k: Emitter, kind: str, dtype: str, a: Reg, b: Reg) -> Reg:
    """Joins two partial results, lane by lane."""
    return emit_op(k, COMBINE[kind], (a, b), (dtype, dtype))


def across_lanes(k: Emitter, kind: str, dtype: str, vector: Reg) -> Reg:
    """All lanes joined into one scalar, by halves."""
    lanes = lanes_of(vector.type)
    while lanes > 2:
        lanes //= 2
        low, high = range(lanes), range(lanes, 2 * lanes)
        halves = k.shuffle(vector, vector, low), k.shuffle(vector, vector, high)
        vector = combine(k, kind, dtype, *halves)
    if lanes == 1:
        return vector
    return combine(k, kind, dtype, k.extract(vector, 0), k.extract(vector, 1))


class Accumulator:
    """Several running partial results of one reduction, in registers.

    ``lanes`` is the width of the vectors it takes in; a scalar tail of a vector
    loop goes to a slot of its own.
    """

    def __init__(
        self, k: Emitter, kind: str, dtype: str, lanes: int, ways: int, *, tail: bool = False
    ) -> None:
        self._k, self.kind, self.dtype, self.lanes, self.ways = k, kind, dtype, lanes, ways
        self._slots = [self._new(lanes) for _ in range(ways)]
        self._scalar = self._new(1) if tail and lanes > 1 else None

    def _new(self, lanes: int) -> Reg:
        k = self._k
        slot = k.alloca(vec(REGISTER_TYPES[self.dtype], lanes))
        k.store(constant(k, self.dtype, identity(self.kind, self.dtype), lanes), slot)
        return slot

    def fresh(self) -> Accumulator:
        """An empty accumulator of the same form."""
        tail = self._scalar is not None
        return Accumulator(self._k, self.kind, self.dtype, self.lanes, self.ways, tail=tail)

    def take(
        self, value: Reg, way: int, mask: Reg | None = None, factor: Reg | None = None
    ) -> None:
        """Takes in a vector (only the lanes of ``mask``), or a scalar of the tail.

        With a ``factor`` its product with the value is summed, rounded once.
        """
        k, slot = self._k, self._slots[way % self.ways]
        if lanes_of(value.type) < self.lanes:
            assert self._scalar is not None
            slot = self._scalar
        old = k.load(value.type, slot)
        if factor is not None:
            new = k.fma(value, factor, old)
        else:
            new = combine(k, self.kind, self.dtype, old, value)
        k.store(new if mask is None else k.select(mask, new, old), slot)

    def absorb(self, other: Accumulator) -> None:
        """Takes in another accumulator of the same form, slot by slot."""
        k = self._k
        for way, slot in enumerate(other._slots):
            self.take(k.load(vec(REGISTER_TYPES[self.dtype], self.lanes), slot), way)
        if other._scalar is not None:
            self.take(k.load(REGISTER_TYPES[self.dtype], other._scalar), 0)

    def result(self, *, scalar: bool) -> Reg:
        """All partial results joined; across the lanes too, if ``scalar``."""
        k, type = self._k, vec(REGISTER_TYPES[self.dtype], self.lanes)
        values = [k.load(type, slot) for slot in self._slots]
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=False)
            joined = [combine(k, self.kind, self.dtype, a, b) for a, b in pairs]
            values = joined + values[2 * len(joined) :]
        total = across_lanes(k, self.kind, self.dtype, values[0]) if scalar else values[0]
        if self._scalar is not None:
            rest = k.load(REGISTER_TYPES[self.dtype], self._scalar)
            total = combine(k, self.kind, self.dtype, total, rest)
        return total
