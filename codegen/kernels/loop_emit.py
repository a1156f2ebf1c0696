"""Writes a scheduled loop nest.

The emitter walks the loops from the outside in and computes every value of the
body at the outermost loop where it is known, so that per-channel factors of an
image, say, are loaded and combined once per channel.  The innermost *block* is
straight-line code over ``rows`` (unrolled iterations), each a vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import field, replace
from typing import TYPE_CHECKING

from symgrad.codegen import conversions, scalar, vecmath
from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.lanes import (
    gather_lanes,
    load_lanes,
    scatter_lanes,
    store_lanes,
    transpose,
)
from symgrad.codegen.kernels.loop_levels import Levels, moved_by
from symgrad.codegen.kernels.loop_schedule import schedule
from symgrad.codegen.kernels.loop_spec import LoopSpec
from symgrad.codegen.kernels.reduce import Accumulator, accumulator_dtype
from symgrad.codegen.registers import Int, Reg, lanes_of
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.ir.graph import Value

Row = tuple[int, ...]
"""The iteration within a block, one number per loop (0 for loops not unrolled)."""


def emit_loop(k: Emitter, name: str, spec: LoopSpec) -> None:
    """Writes the kernel of one nest; its buffers are the inputs, then the outputs."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        count = len(spec.inputs) + len(spec.outputs) + spec.flat
        bases = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]
        emit_nest(k, spec, bases, tid, nth)


def emit_nest(k: Emitter, spec: LoopSpec, bases: Sequence[Reg], tid: Reg, nth: Reg) -> None:
    """Writes one nest into an open kernel; several of them may follow each other."""
    _Nest(k, spec, bases, tid, nth).emit()


@record
class _State:
    """What is known at a point of the nest."""

    bases: tuple[Reg, ...]
    """Address of each access at the current position."""
    rows: tuple[int, ...]
    """Iterations of each loop in the current block; 1 for loops not yet entered."""
    lanes: int = 1
    mask: Reg | None = None
    """Lanes that exist in the block's last vector."""
    env: dict[tuple[int, Row], Reg] = field(default_factory=dict)
    accumulators: dict[tuple[int, Row], Accumulator] = field(default_factory=dict)


class _Nest:
    def __init__(
        self, k: Emitter, spec: LoopSpec, bases: Sequence[Reg], tid: Reg, nth: Reg
    ) -> None:
        self.k, self.spec, self.tid, self.nth = k, spec, tid, nth
        self.plan = plan = schedule(spec, k.target, spec.threads)
        self.rank = len(plan.loops)
        self.accesses = [*plan.inputs, *plan.outputs]
        self.dtypes = [a.dtype for a in self.accesses]
        self.strides = [list(a.strides) for a in self.accesses]
        self.bases = tuple(
            k.gep(base, a.offset, MEMORY_TYPES[a.dtype])
            for base, a in zip(bases, self.accesses, strict=not spec.flat)
        )
        self.size = k.load("i64", bases[-1]) if spec.flat else None
        self.part_strides = [0] * len(self.accesses)
        self.bounds: dict[int, tuple[Int, Int, Int]] = {}
        self.kept_task: Int | None = None
        """Which iteration of the shared loops to do, where a reduced loop is in parts."""
        for n, output in enumerate(spec.outputs, len(plan.inputs)):
            if output.reduce and plan.split is not None:
                self.part_strides[n] = self.strides[n][plan.split]
                self.strides[n][plan.split] = 0
        self.levels = Levels(spec, plan.inputs, plan.outputs)
        self._pairs = scalar.sine_and_cosine(spec.body.ops)
        loops = enumerate(plan.loops)
        self.reduce_level = next(
            (i for i, each in loops if each.reduced and not plan.is_single(i)), self.rank
        )

    # -- the loops -----------------------------------------------------------------

    def emit(self) -> None:
        k, plan, spec = self.k, self.plan, self.spec
        state = _State(self.bases, (1,) * self.rank)
        if spec.split is not None and plan.split is not None:
            parts, kept = spec.split[1], plan.kept_tasks
            with k.loop(*k.slice(parts * kept, self.tid, self.nth)) as task:
                part, self.kept_task = k.divmod(task, kept)
                self.bounds[plan.split] = self._bounds(plan.split, part, parts)
                strides = [k.mul(part, s) for s in self.part_strides]
                self.descend(0, replace(state, bases=self._moved(state.bases, strides)))
        elif plan.parallel == (0, 0):
            with k.if_(k.icmp("eq", self.tid, 0)):
                if spec.flat:
                    self.bounds[0] = self._bounds(0, 0, 1)
                self.descend(0, state)
        else:
            first, count = plan.parallel
            if count == 1:
                self.bounds[first] = self._bounds(first, self.tid, self.nth)
            self.descend(0, state)

    def _bounds(self, index: int, part: Int, parts: Int) -> tuple[Int, Int, Int]:
        """Where a part's share of a loop starts, its full blocks end, and it ends."""
        k, extent, step = self.k, self.plan.loops[index].extent, self.plan.step(index)
        size: Int = extent if self.size is None else self.size
        low, high = k.slice(k.udiv(k.add(size, step - 1), step), part, parts)
        start, end = k.mul(low, step), k.mul(high, step)
        if extent % step == 0:
            return start, end, end
        return start, k.min(end, self._whole(index, step)), k.min(end, size)

    def _whole(self, index: int, step: int) -> Int:
        """The part of a loop's extent that is a multiple of ``step``."""
        size: Int = self.plan.loops[index].extent if self.size is None else self.size
        return self.k.mul(self.k.udiv(size, step), step)

    def _moved(self, bases: Sequence[Reg], distances: Sequence[Int]) -> tuple[Reg, ...]:
        return tuple(
            self.k.gep(base, distance, MEMORY_TYPES[dtype])
            for base, distance, dtype in zip(bases, distances, self.dtypes, strict=True)
        )

    def descend(self, level: int, state: _State) -> None:
        """Writes what is known once ``level`` loops are entered, then the rest inside."""
        if level < self.rank:
            for row in self._rows(state.rows):
                self.evaluate(level, row, state)
        plan = self.plan
        first, count = plan.parallel
        if level == self.reduce_level and self.spec.axes:
            state = replace(state, accumulators=self._accumulators(state))
            self._inside(level, state)
            self.finish(state)
        elif level == first and (count > 1 if self.kept_task is None else plan.kept_tasks > 1):
            self._shared_loops(first, first + count, state)
        else:
            self._inside(level, state)

    def _inside(self, level: int, state: _State) -> None:
        if level == self.rank:
            self.block(state)
        else:
            self.loop(level, state)

    def _shared_loops(self, first: int, last: int, state: _State) -> None:
        """The loops ``first`` to ``last`` as one, divided among the threads."""
        k, extents = self.k, [each.extent for each in self.plan.loops[first:last]]
        tasks = 1
        for extent in extents:
            tasks *= extent
        own = k.loop(*k.slice(tasks, self.tid, self.nth))
        with own if self.kept_task is None else nullcontext(self.kept_task) as task:
            rest: Int = task
            positions: list[Int] = []
            for extent in reversed(extents[1:]):
                rest, position = k.divmod(rest, extent)
                positions.append(position)
            state = replace(state, env=dict(state.env))
            for level, position in enumerate([rest, *reversed(positions)], first):
                state = self.at(level, state, position)
                if level + 1 < last:
                    for row in self._rows(state.rows):
                        self.evaluate(level + 1, row, state)
            self.descend(last, state)

    def loop(self, index: int, state: _State) -> None:
        """One loop: blocks at full width, then what remains."""
        k, plan, loop = self.k, self.plan, self.plan.loops[index]
        step, lanes = plan.step(index), plan.lanes
        is_vector = index == plan.vector
        wide = self._widened(state) if is_vector else state
        if plan.is_single(index):
            rest = loop.extent % lanes if is_vector else 0
            mask = k.lane_mask(rest, lanes) if rest else state.mask
            self.descend(index + 1, self.at(index, wide, 0, loop.unroll, mask))
            return
        full = loop.extent // step * step
        start, main, stop = self.bounds.get(index, (0, full, loop.extent))
        if is_vector and plan.one_copy and loop.extent % lanes and not loop.chunk:
            main = start
        elif full:
            self._blocks(index, wide, start, main)
        if loop.extent == full:
            return  # no thread has a remainder
        if not is_vector:
            with k.loop(main, stop) as i:
                self.descend(index + 1, self.at(index, state, i))
        elif k.target.has_masks:
            with k.loop(main, stop, lanes) as i:
                mask = k.lane_mask(k.sub(stop, i), lanes) if loop.extent % lanes else None
                self.descend(index + 1, self.at(index, wide, i, 1, mask))
        else:
            vectors = loop.extent // lanes * lanes
            if vectors > full:
                whole = self._whole(index, lanes)
                end = whole if isinstance(stop, int) else k.min(stop, whole)
                with k.loop(main, end, lanes) as i:
                    self.descend(index + 1, self.at(index, wide, i))
                main = end
            if loop.extent > vectors:
                with k.loop(main, stop) as i:
                    self.descend(index + 1, self.at(index, state, i))

    def _blocks(self, index: int, state: _State, start: Int, stop: Int) -> None:
        k, loop, step = self.k, self.plan.loops[index], self.plan.step(index)
        if loop.chunk and state.accumulators:
            run = loop.chunk * step
            with k.loop(start, stop, run) as chunk:
                accumulators = {key: a.fresh() for key, a in state.accumulators.items()}
                self._blocks_to(
                    index, replace(state, accumulators=accumulators), chunk,
                    k.min(k.add(chunk, run), stop),
                )  # fmt: skip
                for key, accumulator in state.accumulators.items():
                    accumulator.absorb(accumulators[key])
        else:
            self._blocks_to(index, state, start, stop)

    def _blocks_to(self, index: int, state: _State, start: Int, stop: Int) -> None:
        with self.k.loop(start, stop, self.plan.step(index)) as i:
            inside = self.at(index, state, i, self.plan.loops[index].unroll)
            self.descend(index + 1, inside)

    def at(
        self, index: int, state: _State, position: Int, rows: int = 1, mask: Reg | None = None
    ) -> _State:
        """The state at one position of a loop, for a block of ``rows`` iterations."""
        distances = [self.k.mul(position, s[index]) for s in self.strides]
        counts = (*state.rows[:index], rows, *state.rows[index + 1 :])
        return replace(
            state,
            bases=self._moved(state.bases, distances),
            rows=counts,
            mask=state.mask if mask is None else mask,
            env=dict(state.env),
        )

    def _widened(self, state: _State) -> _State:
        """The state with every value that is still needed in all lanes."""
        env = {
            (value, row): self.k.splat(reg, self.plan.lanes)
            for (value, row), reg in state.env.items()
            if self.levels.last_use(value) > self.plan.vector
        }
        return replace(state, env=env, lanes=self.plan.lanes)

    # -- values --------------------------------------------------------------------

    @staticmethod
    def _rows(counts: Sequence[int]) -> Iterator[Row]:
        return itertools.product(*map(range, counts))

    def _row_of(self, loops: frozenset[int], row: Row) -> Row:
        """The part of a row that matters to what depends on ``loops`` only."""
        return tuple(r if i in loops else 0 for i, r in enumerate(row))

    def evaluate(self, level: int, row: Row, state: _State) -> None:
        """Loads and computes, for one row, all values that become known at ``level``."""
        for access in self.levels.loads[level]:
            key = self._key(self.spec.body.params[access], row)
            if key not in state.env:
                self._load(access, row, state)
        for op in self.levels.ops[level]:
            key = self._key(op.results[0], row)
            if key not in state.env:
                operands = [self._value(v, row, state) for v in op.operands]
                dtypes = [v.type.dtype.name for v in op.operands]
                pair = self._pairs.get(id(op))
                if pair is not None:
                    outline = self.plan.outline
                    both = vecmath.emit_sin_and_cos(self.k, operands[0], outline=outline)
                    for each, reg in zip(pair, both, strict=True):
                        state.env[self._key(each.result, row)] = reg
                    continue
                state.env[key] = scalar.emit_op(
                    self.k, op.name, operands, dtypes, op.attrs, outline=self.plan.outline
                )

    def _key(self, value: Value, row: Row) -> tuple[int, Row]:
        return id(value), self._row_of(self.levels.depends(value), row)

    def _value(self, value: Value, row: Row, state: _State) -> Reg:
        if id(value) in self.levels.constants:
            number = self.levels.constants[id(value)]
            return conversions.constant(self.k, value.type.dtype.name, number, state.lanes)
        return state.env[self._key(value, row)]

    def _load(self, access: int, row: Row, state: _State) -> None:
        k, plan, value = self.k, self.plan, self.spec.body.params[access]
        dtype, stride = self.dtypes[access], self.strides[access][plan.vector]
        if self._is_tiled(access, state):
            assert plan.tile is not None
            first = self._row_of(self.levels.depends(value) - {plan.tile}, row)
            corner = self._address(access, first, state)
            across = [
                load_lanes(k, k.gep(corner, n * stride, MEMORY_TYPES[dtype]), dtype, 1, state.lanes)
                for n in range(state.lanes)
            ]
            for n, reg in enumerate(transpose(k, across)):
                state.env[id(value), _with(first, plan.tile, n)] = reg
            return
        address, offsets = self._place(access, row, state)
        mask = self._mask(row, state)
        if offsets is None:
            reg = load_lanes(k, address, dtype, stride, state.lanes, mask)
        else:
            reg = gather_lanes(k, address, offsets, dtype, mask)
        state.env[self._key(value, row)] = reg

    def _place(self, access: int, row: Row, state: _State) -> tuple[Reg, Reg | None]:
        """The address of a row's first lane, and the lanes' offsets where they are irregular."""
        k, plan, params = self.k, self.plan, self.spec.body.params
        address = self._address(access, row, state)
        offset: Int = 0
        irregular: Reg | None = None
        for n, limit, stride in moved_by(self.accesses[access]):
            dtype = params[n].type.dtype.name
            index = conversions.convert(k, self._value(params[n], row, state), dtype, "i64")
            if state.lanes > 1 and plan.vector not in self.levels.depends(params[n]):
                index = k.extract(index, 0)
            low = k.intrinsic("smax", index, k.zero(index.type))
            moved = k.mul(k.intrinsic("smin", low, k.const(low.type, limit)), stride)
            if lanes_of(index.type) == 1:
                offset = k.add(offset, moved)
            else:
                irregular = k.as_reg(moved if irregular is None else k.add(irregular, moved))
        address = k.gep(address, offset, MEMORY_TYPES[self.dtypes[access]])
        stride = self.strides[access][plan.vector]
        if irregular is not None and stride:
            lanes = k.mul(k.lane_index("i64", state.lanes), stride)
            irregular = k.as_reg(k.add(irregular, lanes))
        return address, irregular

    def _is_tiled(self, access: int, state: _State) -> bool:
        """Whether the current block covers a full tile of an access transposed to the lanes."""
        plan, strides = self.plan, self.strides[access]
        return (
            plan.tile is not None
            and strides[plan.tile] == 1
            and strides[plan.vector] not in (-1, 0, 1)
            and not moved_by(self.accesses[access])
            and state.rows[plan.tile] == state.lanes == plan.lanes
            and state.mask is None
        )

    def _mask(self, row: Row, state: _State) -> Reg | None:
        """Only the last vector of a block can be incomplete."""
        vector = self.plan.vector
        return state.mask if row[vector] == state.rows[vector] - 1 else None

    def _address(self, access: int, row: Row, state: _State) -> Reg:
        distance = sum(
            r * s * (self.plan.lanes if i == self.plan.vector else 1)
            for i, (r, s) in enumerate(zip(row, self.strides[access], strict=True))
        )
        return self.k.gep(state.bases[access], distance, MEMORY_TYPES[self.dtypes[access]])

    # -- results -------------------------------------------------------------------

    def block(self, state: _State) -> None:
        """The innermost code: every row's results to memory or into accumulators."""
        tiles: dict[tuple[int, Row], list[Reg]] = {}
        for row in self._rows(state.rows):
            self.evaluate(self.rank, row, state)
            for n, (output, value) in enumerate(
                zip(self.spec.outputs, self.spec.body.results, strict=True)
            ):
                access = len(self.spec.inputs) + n
                if output.reduce:
                    self._accumulate(n, value, row, state)
                    continue
                dtype = self.dtypes[access]
                reg = self._value(value, row, state)
                reg = conversions.convert(self.k, reg, value.type.dtype.name, dtype)
                if self._is_tiled(access, state):
                    assert self.plan.tile is not None
                    tiles.setdefault((access, _with(row, self.plan.tile, 0)), []).append(reg)
                    continue
                address, offsets = self._place(access, row, state)
                mask = self._mask(row, state)
                if offsets is None:
                    stride = self.strides[access][self.plan.vector]
                    store_lanes(self.k, reg, address, dtype, stride, mask)
                else:
                    scatter_lanes(self.k, reg, address, offsets, dtype, mask)
        for (access, first), rows in tiles.items():
            self._store_tile(access, first, rows, state)

    def _store_tile(self, access: int, first: Row, rows: list[Reg], state: _State) -> None:
        k, dtype = self.k, self.dtypes[access]
        corner = self._address(access, first, state)
        stride = self.strides[access][self.plan.vector]
        for n, reg in enumerate(transpose(k, rows)):
            store_lanes(k, reg, k.gep(corner, n * stride, MEMORY_TYPES[dtype]), dtype, 1)

    @property
    def _kept(self) -> frozenset[int]:
        return frozenset(i for i, each in enumerate(self.plan.loops) if not each.reduced)

    def _accumulators(self, state: _State) -> dict[tuple[int, Row], Accumulator]:
        """Fresh accumulators, for every reducing output and kept row of the block."""
        k, plan, kept = self.k, self.plan, self._kept
        reduced_rows = 1
        for loop in plan.loops:
            reduced_rows *= loop.unroll if loop.reduced else 1
        rows = sorted({self._row_of(kept, row) for row in self._rows(state.rows)})
        ways = min(reduced_rows, max(1, 8 // len(rows)))
        is_inner = plan.loops[plan.vector].reduced
        lanes = plan.lanes if is_inner else state.lanes
        has_tail = not k.target.has_masks and plan.loops[plan.vector].extent % plan.lanes
        tail = bool(is_inner and has_tail)
        accumulators = {}
        for n, output in enumerate(self.spec.outputs):
            if output.reduce:
                dtype = accumulator_dtype(output.access.dtype)
                for row in rows:
                    accumulators[n, row] = Accumulator(
                        k, output.reduce, dtype, lanes, ways, tail=tail
                    )
        return accumulators

    def _accumulate(self, output: int, value: Value, row: Row, state: _State) -> None:
        accumulator = state.accumulators[output, self._row_of(self._kept, row)]
        way = 0
        for r, loop in zip(row, self.plan.loops, strict=True):
            way = way * loop.unroll + r if loop.reduced else way
        mask = self._mask(row, state) if self.plan.loops[self.plan.vector].reduced else None
        if output in self.levels.products:
            a, b = (self._value(v, row, state) for v in self.levels.products[output].operands)
            accumulator.take(a, way, mask, factor=b)
        else:
            reg = self._value(value, row, state)
            reg = conversions.convert(self.k, reg, value.type.dtype.name, accumulator.dtype)
            accumulator.take(reg, way, mask)

    def finish(self, state: _State) -> None:
        """Stores what the accumulators hold."""
        across = self.plan.loops[self.plan.vector].reduced
        for (output, row), accumulator in state.accumulators.items():
            access = len(self.spec.inputs) + output
            total = accumulator.result(scalar=across)
            stride = self.strides[access][self.plan.vector]
            mask = self._mask(row, state) if lanes_of(total.type) > 1 else None
            address = self._address(access, row, state)
            store_lanes(self.k, total, address, self.dtypes[access], stride, mask)


def _with(row: Row, index: int, value: int) -> Row:
    return (*row[:index], value, *row[index + 1 :])
