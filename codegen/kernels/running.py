"""Work that runs along one axis in order: running sums, recurrences, argmax.

Lanes lie *across* the axis where another axis is contiguous (or the axis is short),
else *along* it: a running sum then scans each vector in log2(lanes) steps, an
argmax keeps one candidate per lane.  The threads share the other axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from symgrad.codegen.access import MEMORY_TYPES, REGISTER_TYPES, Access
from symgrad.codegen.conversions import constant
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes, vector_loop
from symgrad.codegen.kernels.loop_schedule import SERIAL_WORK, Dim, merged
from symgrad.codegen.kernels.reduce import across_lanes, combine, identity
from symgrad.codegen.registers import Int, Reg, bytes_of, lanes_of, vec
from symgrad.codegen.scalar import emit_op
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.target import Target

KINDS = ("sum", "prod", "recurrence", "argmax", "argmin")


@record
class RunningSpec:
    """One pass along ``axis`` of ``extents``.

    ``sum`` and ``prod`` are running reductions of input 0; ``recurrence`` is
    ``r[j] = inputs[1][j] + inputs[0][j] * r[j-1]`` from ``r[-1] = 0``.  ``argmax`` and
    ``argmin`` give the first index of the extremum, where nan beats every number; their
    output is ``i64`` with stride 0 along the axis.
    """

    kind: str
    extents: tuple[int, ...]
    axis: int
    inputs: tuple[Access, ...]
    output: Access
    threads: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"scan: unknown kind {self.kind!r}; known: {', '.join(KINDS)}")

    @property
    def finds(self) -> bool:
        """Whether the result is an index."""
        return self.kind.startswith("arg")


@record
class RunningSchedule:
    """The axis, the other dimensions outermost first, and where the lanes lie.

    With ``across`` the last of ``kept`` is the vector loop; else the lanes lie along
    the axis, or there is but one.
    """

    axis: Dim
    kept: tuple[Dim, ...]
    lanes: int
    across: bool
    shared: int | None
    """The kept dimension that the threads share; ``None`` for one thread."""


def running_schedule(spec: RunningSpec, target: Target) -> RunningSchedule:
    """Picks the cheapest place for the lanes."""
    accesses = (*spec.inputs, spec.output)
    every = [
        Dim(n, i == spec.axis, tuple(a.strides[i] for a in accesses))
        for i, n in enumerate(spec.extents)
    ]
    axis = every[spec.axis]
    kept = merged([d for d in every if d is not axis and d.extent != 1])
    kept.sort(key=lambda d: -sum(map(abs, d.strides)))
    widest = max(bytes_of(REGISTER_TYPES[a.dtype]) for a in spec.inputs)
    full = target.lanes(max(4, widest))

    def fit(extent: int) -> int:
        return min(full, 1 << max(1, extent).bit_length() - 1)

    # Cost of one element: a dependent scalar step is 4 cycles.
    options: list[tuple[float, int, bool, Dim | None]] = [(4.0, 1, False, None)]
    along = axis.strides if not spec.finds else axis.strides[:-1]
    if all(s == 1 for s in along) and spec.kind != "recurrence" and fit(axis.extent) > 1:
        steps = 3 if spec.finds else 4 + 2 * math.log2(full)
        setup = 12 / axis.extent
        options.append((steps / fit(axis.extent) + setup, fit(axis.extent), False, None))
    for dim in kept:
        lanes = fit(dim.extent)
        if lanes > 1:
            moves = sum(1.0 if s in (0, 1) else 0.8 * lanes for s in dim.strides)
            options.append(((4.0 + moves) / lanes, lanes, True, dim))
    _, lanes, across, vector = min(options, key=lambda o: o[0])
    if vector is not None:
        kept = [d for d in kept if d is not vector] + [vector]
    units = [-(-d.extent // lanes) if d is vector else d.extent for d in kept]
    shared = max(range(len(kept)), key=units.__getitem__, default=None)
    if spec.threads == 1 or math.prod(spec.extents) < SERIAL_WORK:
        shared = None
    if shared is not None:  # the outermost one with enough to share
        enough = [i for i, n in enumerate(units) if n >= 8 * spec.threads]
        shared = enough[0] if enough else shared
    return RunningSchedule(axis, tuple(kept), lanes, across, shared)


def lower_running(spec: RunningSpec) -> Lowering:
    """One kernel; its operands are the inputs."""
    return Lowering((Phase(spec.kind, emit_running, spec, tuple(range(len(spec.inputs) + 1))),))


def emit_running(k: Emitter, name: str, spec: RunningSpec) -> None:
    """Writes the kernel of a ``RunningSpec``."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        accesses = (*spec.inputs, spec.output)
        bases = [
            k.gep(k.load("ptr", k.gep(args, i, "ptr")), a.offset, MEMORY_TYPES[a.dtype])
            for i, a in enumerate(accesses)
        ]
        _Running(k, spec, bases).emit(tid, nth)


class _Running:
    def __init__(self, k: Emitter, spec: RunningSpec, bases: Sequence[Reg]) -> None:
        self.k, self.spec, self.bases = k, spec, bases
        self.plan = running_schedule(spec, k.target)
        # bool is searched like the integers 0 and 1
        self.dtypes = ["u8" if a.dtype == "bool" else a.dtype for a in (*spec.inputs, spec.output)]
        self.dtype = self.dtypes[0]

    # -- the kept dimensions -------------------------------------------------------

    def emit(self, tid: Reg, nth: Reg) -> None:
        k, plan = self.k, self.plan
        bounds: list[tuple[Int, Int]] = [(0, d.extent) for d in plan.kept]
        if plan.shared is None:
            with k.if_(k.icmp("eq", tid, 0)):
                self._lines(bounds)
            return
        extent = plan.kept[plan.shared].extent
        if plan.across and plan.shared == len(plan.kept) - 1:
            low, high = k.slice(-(-extent // plan.lanes), tid, nth)
            bounds[plan.shared] = k.mul(low, plan.lanes), k.min(k.mul(high, plan.lanes), extent)
        else:
            bounds[plan.shared] = k.slice(extent, tid, nth)
        self._lines(bounds)

    def _lines(self, bounds: list[tuple[Int, Int]]) -> None:
        """Walks every line along the axis: single ones, or a vector of neighbours."""
        k, plan = self.k, self.plan
        outer = bounds[:-1] if plan.across else bounds
        with ExitStack() as loops:
            point: list[Int] = [loops.enter_context(k.loop(*b)) for b in outer]
            if not plan.across:
                starts = [self._moved(n, point) for n in range(len(self.bases))]
                self._line(starts, 1, None)
                return
            for i, lanes, mask in vector_loop(k, *bounds[-1], plan.lanes):
                starts = [self._moved(n, [*point, i]) for n in range(len(self.bases))]
                self._line(starts, lanes, mask)

    def _moved(self, access: int, point: Sequence[Int]) -> Reg:
        strides = tuple(d.strides[access] for d in self.plan.kept)
        return Access(self.dtypes[access], strides).address(self.k, self.bases[access], point)

    def _line(self, starts: Sequence[Reg], lanes: int, mask: Reg | None) -> None:
        if self.spec.finds:
            if self.plan.across or self.plan.lanes == 1:
                self._find_across(starts, lanes, mask)
            else:
                self._find_along(starts)
        elif self.plan.across or self.plan.lanes == 1:
            self._run_across(starts, lanes, mask)
        else:
            self._run_along(starts)

    def _at(self, access: int, start: Reg, position: Int) -> Reg:
        step = self.plan.axis.strides[access]
        return self.k.gep(start, self.k.mul(position, step), MEMORY_TYPES[self.dtypes[access]])

    def _load(self, access: int, start: Reg, position: Int, lanes: int, mask: Reg | None) -> Reg:
        stride = self.plan.kept[-1].strides[access] if self.plan.across else 0
        address = self._at(access, start, position)
        return load_lanes(self.k, address, self.dtypes[access], stride, lanes, mask)

    def _store(
        self, value: Reg, start: Reg, position: Int, mask: Reg | None, *, along: bool = False
    ) -> None:
        access = len(self.bases) - 1
        dim = self.plan.axis if along else self.plan.kept[-1] if self.plan.across else None
        stride = dim.strides[access] if dim else 0
        address = self._at(access, start, position)
        store_lanes(self.k, value, address, self.dtypes[access], stride, mask)

    # -- running results -----------------------------------------------------------

    def _step(self, kind: str, before: Reg, values: Sequence[Reg]) -> Reg:
        k = self.k
        if kind == "recurrence":
            grown = emit_op(k, "mul", (values[0], before), (self.dtype,) * 2)
            return emit_op(k, "add", (values[1], grown), (self.dtype,) * 2)
        return combine(k, kind, self.dtype, before, values[0])

    def _run_across(self, starts: Sequence[Reg], lanes: int, mask: Reg | None) -> None:
        """One step of every lane's line at a time."""
        k, kind = self.k, self.spec.kind
        start = identity("sum" if kind == "recurrence" else kind, self.dtype)
        carry = k.alloca(vec(REGISTER_TYPES[self.dtype], lanes))
        k.store(constant(k, self.dtype, start, lanes), carry)
        with k.loop(0, self.plan.axis.extent) as j:
            values = [
                self._load(n, starts[n], j, lanes, mask) for n in range(len(self.spec.inputs))
            ]
            before = k.load(vec(REGISTER_TYPES[self.dtype], lanes), carry)
            after = self._step(kind, before, values)
            k.store(after, carry)
            self._store(after, starts[-1], j, mask)

    def _run_along(self, starts: Sequence[Reg]) -> None:
        """Scans one vector after the other; the last lane is carried on."""
        k, kind, dtype = self.k, self.spec.kind, self.dtype
        scalar = REGISTER_TYPES[dtype]
        carry = k.alloca(scalar)
        k.store(constant(k, dtype, identity(kind, dtype)), carry)
        for j, lanes, mask in vector_loop(k, 0, self.plan.axis.extent, self.plan.lanes):
            value = load_lanes(k, self._at(0, starts[0], j), dtype, 1, lanes, mask)
            neutral = constant(k, dtype, identity(kind, dtype), lanes)
            distance = 1
            while distance < lanes:
                # Lanes move up by the distance; the first ones meet the neutral element.
                order = [lanes + i - distance if i >= distance else i for i in range(lanes)]
                value = combine(k, kind, dtype, k.shuffle(neutral, value, order), value)
                distance *= 2
            before = k.splat(k.load(scalar, carry), lanes)
            after = combine(k, kind, dtype, before, value)
            k.store(k.extract(after, lanes - 1), carry)
            self._store(after, starts[-1], j, mask, along=True)

    # -- extrema -------------------------------------------------------------------

    @property
    def _index(self) -> str:
        """Type of the indices in registers: as wide as the values, where that suffices."""
        wide = bytes_of(REGISTER_TYPES[self.dtype]) == 8 or self.plan.axis.extent >= 1 << 31
        return "i64" if wide else "i32"

    def _better(self, value: Reg, best: Reg) -> Reg:
        """Where ``value`` takes the place of an earlier ``best``."""
        k, dtypes = self.k, (self.dtype,) * 2
        wins = emit_op(k, "gt" if self.spec.kind == "argmax" else "lt", (value, best), dtypes)
        if self.dtype[0] not in "fb":
            return wins
        # A nan beats every number, but not an earlier nan.
        first = k.bits("and", k.fcmp("uno", value, value), k.fcmp("ord", best, best))
        return k.bits("or", wins, first)

    @contextmanager
    def _candidates(self, best: Reg) -> Iterator[tuple[Reg, Reg]]:
        """Slots of the best values and of their indices, which start at 0."""
        k, lanes = self.k, lanes_of(best.type)
        values, indices = k.alloca(best.type), k.alloca(vec(self._index, lanes))
        k.store(best, values)
        k.store(k.zero(vec(self._index, lanes)), indices)
        yield values, indices

    def _consider(self, value: Reg, index: Reg, slots: tuple[Reg, Reg], mask: Reg | None) -> None:
        k = self.k
        best, at = k.load(value.type, slots[0]), k.load(index.type, slots[1])
        wins = self._better(value, best)
        wins = wins if mask is None else k.bits("and", wins, mask)
        k.store(k.select(wins, value, best), slots[0])
        k.store(k.select(wins, index, at), slots[1])

    def _numbers(self, position: Int, lanes: int, *, along: bool) -> Reg:
        """The index along the axis that each lane looks at."""
        k = self.k
        number = k.as_reg(position)
        number = number if self._index == "i64" else k.cast("trunc", number, "i32")
        same = k.splat(number, lanes)
        return k.as_reg(k.add(same, k.lane_index(self._index, lanes))) if along else same

    def _finish(self, index: Reg) -> Reg:
        wide = vec("i64", lanes_of(index.type))
        return index if index.type == wide else self.k.cast("sext", index, wide)

    def _find_across(self, starts: Sequence[Reg], lanes: int, mask: Reg | None) -> None:
        k = self.k
        with self._candidates(self._load(0, starts[0], 0, lanes, mask)) as slots:
            with k.loop(1, self.plan.axis.extent) as j:
                value = self._load(0, starts[0], j, lanes, mask)
                self._consider(value, self._numbers(j, lanes, along=False), slots, None)
            index = k.load(vec(self._index, lanes), slots[1])
            self._store(self._finish(index), starts[-1], 0, mask)

    def _find_along(self, starts: Sequence[Reg]) -> None:
        k, lanes, dtype = self.k, self.plan.lanes, self.dtype
        first = load_lanes(k, starts[0], dtype, 0, lanes)
        scalars: tuple[Reg, Reg] | None = None
        with self._candidates(first) as slots:
            for j, width, mask in vector_loop(k, 0, self.plan.axis.extent, lanes):
                if width == 1 and scalars is None:
                    scalars = self._across_lanes(slots)
                value = load_lanes(k, self._at(0, starts[0], j), dtype, 1, width, mask)
                numbers = self._numbers(j, width, along=width > 1)
                self._consider(value, numbers, scalars or slots, mask)
            _, index = scalars or self._across_lanes(slots)
            self._store(self._finish(k.load(self._index, index)), starts[-1], 0, None)

    def _across_lanes(self, slots: tuple[Reg, Reg]) -> tuple[Reg, Reg]:
        """Joins the candidates: the best value, and the smallest index that has it."""
        k, lanes, dtype = self.k, self.plan.lanes, self.dtype
        values = k.load(vec(REGISTER_TYPES[dtype], lanes), slots[0])
        indices = k.load(vec(self._index, lanes), slots[1])
        best = across_lanes(k, "max" if self.spec.kind == "argmax" else "min", dtype, values)
        spread = k.splat(best, lanes)
        if dtype[0] in "fb":
            nan = k.bits("and", k.fcmp("uno", values, values), k.fcmp("uno", spread, spread))
            same = k.bits("or", k.fcmp("oeq", values, spread), nan)
        else:
            same = k.icmp("eq", values, spread)
        last = k.const(indices.type, (1 << 8 * bytes_of(self._index) - 1) - 1)
        smallest = k.reduce("smin", k.select(same, indices, last))
        value, index = k.alloca(best.type), k.alloca(self._index)
        k.store(best, value)
        k.store(smallest, index)
        return value, index
