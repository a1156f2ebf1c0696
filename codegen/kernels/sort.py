"""Stable merge sort of positions along an axis.

Runs of 1, 2, 4, ... positions are merged from one of two arrays into the other and back;
where the passes start is chosen so that the last one ends in the result.  One step of a
merge takes the smaller of two heads without a branch: heads that have run out are
clamped to a position that exists and lose by their index.  The threads share the lines.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

from symgrad.codegen.access import MEMORY_TYPES, REGISTER_TYPES, Access
from symgrad.codegen.conversions import from_memory
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.loop_schedule import SERIAL_WORK
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.scalar import emit_op
from symgrad.ir.record import record


@record
class SortSpec:
    """Positions of ``source`` along ``axis`` of ``extents`` in order, as i64.

    Buffers: the source, the result, and a temporary of the result's size and strides.
    """

    extents: tuple[int, ...]
    axis: int
    source: Access
    result: Access
    descending: bool = False
    threads: int = 1

    @property
    def passes(self) -> int:
        """Merges that every element takes part in."""
        return math.ceil(math.log2(self.extents[self.axis])) if self.extents[self.axis] > 1 else 0


def lower_sort(spec: SortSpec) -> Lowering:
    """One kernel; its operand is the array."""
    size = 8 * math.prod(spec.extents)
    return Lowering((Phase("argsort", emit_sort, spec, (0, 1, 2)),), (size,))


def emit_sort(k: Emitter, name: str, spec: SortSpec) -> None:
    """Writes the kernel of a ``SortSpec``."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        source, result, other = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(3))
        kept = [a for a in range(len(spec.extents)) if a != spec.axis]
        bounds: list[tuple[Int, Int]] = [(0, spec.extents[a]) for a in kept]
        shared = max(range(len(kept)), key=lambda i: spec.extents[kept[i]], default=None)
        if shared is None or spec.threads == 1 or math.prod(spec.extents) < SERIAL_WORK:
            with k.if_(k.icmp("eq", tid, 0)):
                _lines(k, spec, kept, bounds, (source, result, other))
            return
        bounds[shared] = k.slice(spec.extents[kept[shared]], tid, nth)
        _lines(k, spec, kept, bounds, (source, result, other))


def _lines(
    k: Emitter, spec: SortSpec, kept: list[int], bounds: list[tuple[Int, Int]],
    bases: tuple[Reg, Reg, Reg],
) -> None:  # fmt: skip
    with ExitStack() as loops:
        at = dict(zip(kept, [loops.enter_context(k.loop(*b)) for b in bounds], strict=True))
        point = [at.get(a, 0) for a in range(len(spec.extents))]
        start = spec.source.address(k, bases[0], point)
        places = [spec.result.address(k, base, point) for base in bases[1:]]
        _Line(k, spec, start, places).emit()


class _Line:
    """One line: where its elements start, and two arrays of positions, the result first."""

    def __init__(self, k: Emitter, spec: SortSpec, start: Reg, places: list[Reg]) -> None:
        self.k, self.spec, self.start, self.places = k, spec, start, places
        self.n = spec.extents[spec.axis]

    def emit(self) -> None:
        k, passes = self.k, self.spec.passes
        here = self.places[passes % 2]
        with k.loop(0, self.n) as i:
            k.store(i, self._place(here, i))
        for number in range(passes):
            there = self.places[(passes - number - 1) % 2]
            width = 1 << number
            with k.loop(0, self.n, 2 * width) as low:
                middle = k.min(k.add(low, width), self.n)
                self._merge(here, there, low, middle, k.min(k.add(low, 2 * width), self.n))
            here = there

    def _place(self, base: Reg, position: Int) -> Reg:
        step = self.spec.result.strides[self.spec.axis]
        return self.k.gep(base, self.k.mul(position, step), "i64")

    def _element(self, number: Reg) -> Reg:
        k, dtype = self.k, self.spec.source.dtype
        step = self.spec.source.strides[self.spec.axis]
        address = k.gep(self.start, k.mul(number, step), MEMORY_TYPES[dtype])
        return from_memory(k, k.load(MEMORY_TYPES[dtype], address), dtype)

    def _merge(self, here: Reg, there: Reg, low: Int, middle: Int, high: Int) -> None:
        """Merges the sorted ranges [low, middle) and [middle, high)."""
        k = self.k
        left, right = k.alloca("i64"), k.alloca("i64")
        k.store(k.as_reg(low), left)
        k.store(k.as_reg(middle), right)
        with k.loop(low, high) as out:
            i, j = k.load("i64", left), k.load("i64", right)
            a = k.load("i64", self._place(here, k.min(i, k.sub(middle, 1))))
            b = k.load("i64", self._place(here, k.min(j, k.sub(high, 1))))
            wins = self._before(self._element(b), self._element(a))
            there_is_b = k.icmp("slt", j, high)
            no_a = k.icmp("sge", i, middle)
            take_b = k.bits("and", there_is_b, k.bits("or", no_a, wins))
            k.store(k.select(take_b, b, a), self._place(there, out))
            k.store(k.as_reg(k.add(j, k.cast("zext", take_b, "i64"))), right)
            k.store(k.as_reg(k.add(i, k.cast("zext", k.bits("xor", take_b, 1), "i64"))), left)

    def _before(self, b: Reg, a: Reg) -> Reg:
        """Whether ``b`` comes strictly before ``a``."""
        k, dtype = self.k, self.spec.source.dtype
        if dtype == "bool":  # ordered like the integers 0 and 1
            b, a = (k.cast("zext", v, "i8") for v in (b, a))
            dtype = "u8"
        first, second = (a, b) if self.spec.descending else (b, a)
        less = emit_op(k, "lt", (first, second), (dtype, dtype))
        if REGISTER_TYPES[dtype] not in ("float", "double"):
            return less
        # nan is the largest: first < second also where only second is nan.
        only = k.bits("and", k.fcmp("uno", second, second), k.fcmp("ord", first, first))
        return k.bits("or", less, only)
