"""Fused loop nests: elementwise work, broadcasts, transposes and reductions in one pass.

A ``LoopSpec`` says what is computed at every point of an iteration space;
``loop_schedule`` decides how; ``emit_loop`` writes it.  The emitter walks the
loops from the outside in and computes every value of the body at the outermost
loop where it is known, so that per-channel factors of an image, say, are loaded
and combined once per channel.  The innermost *block* is straight-line code over
``rows`` (unrolled iterations), each a vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from symgrad.codegen import scalar
from symgrad.codegen.access import MEMORY_TYPES, Access, row_major
from symgrad.codegen.emitter import Emitter, Int, Reg, bytes_of, lanes_of
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes, transpose
from symgrad.codegen.kernels.loop_schedule import Schedule, schedule
from symgrad.codegen.kernels.reduce import COMBINE, Accumulator, accumulator_dtype

if TYPE_CHECKING:
    from symgrad.codegen.target import Target
    from symgrad.ir.graph import Region, Value

Row = tuple[int, ...]
"""The iteration within a block, one number per loop (0 for loops not unrolled)."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a result of the body goes: to memory, or into a reduction over ``axes``.

    A reducing output's access has stride 0 along ``axes``.  ``reduce`` is one of
    ``sum prod max min any all``; ``max`` and ``min`` propagate nan.
    """

    access: Access
    reduce: str | None = None
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class LoopSpec:
    """One loop nest: ``body`` at every point of ``extents``.

    ``body`` is a region over scalars with one parameter per input and one result
    per output.  An output may alias an input of identical access.  ``threads`` is
    the team that the schedule has in mind; the result is right for any.  With
    ``split = (axis, parts)`` a reduced axis is cut into parts whose results are
    kept apart: the stride of reducing outputs along it then counts parts.
    """

    extents: tuple[int, ...]
    inputs: tuple[Access, ...]
    body: Region
    outputs: tuple[Output, ...]
    threads: int = 1
    split: tuple[int, int] | None = None
    _key: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        accesses = (*self.inputs, *(o.access for o in self.outputs))
        if any(len(a.strides) != len(self.extents) for a in accesses):
            raise ValueError(f"loop nest over {self.extents}: an access has another rank")
        if (len(self.body.params), len(self.body.results)) != (len(self.inputs), len(self.outputs)):
            raise ValueError("loop nest: the body's parameters and results do not fit")
        if unknown := {o.reduce for o in self.outputs if o.reduce} - set(COMBINE):
            raise ValueError(f"loop nest: unknown reductions {sorted(unknown)}")
        if len({frozenset(o.axes) for o in self.outputs if o.reduce}) > 1:
            raise NotImplementedError(
                "loop nest: results are reduced over different axes; compute them in nests of "
                "their own"
            )
        key = self.extents, self.inputs, region_key(self.body), self.outputs, self.threads
        object.__setattr__(self, "_key", (*key, self.split))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoopSpec) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that the reducing outputs reduce over."""
        return next((o.axes for o in self.outputs if o.reduce), ())

    @property
    def split_axis(self) -> int | None:
        """The axis that is cut into parts."""
        return self.split[0] if self.split else None


def region_key(region: Region) -> tuple[Any, ...]:
    """A hashable value, equal for regions of equal text."""
    numbers = {id(p): n for n, p in enumerate(region.params)}
    ops = []
    for op in region.ops:
        operands = tuple(numbers[id(v)] for v in op.operands)
        ops.append((op.name, operands, repr(sorted(op.attrs.items()))))
        for result in op.results:
            numbers[id(result)] = len(numbers)
    params = tuple(p.type.dtype.name for p in region.params)
    return params, tuple(ops), tuple(numbers[id(v)] for v in region.results)


# -- lowering to kernels ---------------------------------------------------------


def lower_loop(spec: LoopSpec, target: Target, threads: int) -> Lowering:
    """The kernels of a nest: one, or two where threads must share a reduction.

    Few kept elements cannot occupy all threads; then a reduced loop is cut into one
    part per thread, and a second kernel joins the parts' results.
    """
    spec = replace(spec, threads=threads)
    plan = schedule(spec, target, threads)
    buffers = tuple(range(len(spec.inputs) + len(spec.outputs)))
    loop = _loop_to_split(plan, threads)
    if loop is None or not spec.axes:
        return Lowering((Phase("loop", emit_loop, spec, buffers),))

    kept = [i for i, each in enumerate(plan.loops) if not each.reduced]
    shape = [plan.loops[i].extent for i in kept]
    size, strides = 1, [0] * len(plan.loops)
    for extent in shape:
        size *= extent
    for i, stride in zip(kept, row_major(shape), strict=True):
        strides[i] = stride
    strides[loop] = size
    axes = tuple(i for i, each in enumerate(plan.loops) if each.reduced)
    outputs, places, temporaries = [], list(range(len(spec.inputs))), []
    phases = []
    for n, (output, access) in enumerate(zip(spec.outputs, plan.outputs, strict=True)):
        if output.reduce is None:
            outputs.append(Output(access))
            places.append(len(spec.inputs) + n)
            continue
        partial = Access(accumulator_dtype(access.dtype), tuple(strides))
        outputs.append(Output(partial, output.reduce, axes))
        places.append(len(buffers) + len(temporaries))
        temporaries.append(threads * size * bytes_of(MEMORY_TYPES[partial.dtype]))
        joined = LoopSpec(
            (threads, *shape),
            (Access(partial.dtype, (size, *row_major(shape))),),
            identity_body(partial.dtype),
            (Output(replace(access, strides=(0, *(access.strides[i] for i in kept))),
                    output.reduce, (0,)),),
            threads,
        )  # fmt: skip
        phases.append(Phase("join", emit_loop, joined, (places[-1], len(spec.inputs) + n)))
    parts = LoopSpec(
        tuple(each.extent for each in plan.loops),
        plan.inputs,
        spec.body,
        tuple(outputs),
        threads,
        (loop, threads),
    )
    return Lowering((Phase("loop", emit_loop, parts, tuple(places)), *phases), tuple(temporaries))


def _loop_to_split(plan: Schedule, threads: int) -> int | None:
    """The reduced loop to cut into parts, if that keeps the threads busier."""
    if plan.balance >= 0.75 or threads == 1:
        return None
    blocks = {
        i: -(-loop.extent // plan.step(i)) for i, loop in enumerate(plan.loops) if loop.reduced
    }
    many = [i for i, n in blocks.items() if n >= 4 * threads]
    return many[0] if many else None


def identity_body(dtype: str) -> Region:
    """The body of a copy."""
    from symgrad.ir.graph import Region, Value
    from symgrad.ir.types import DTYPES, TensorType

    value = Value(TensorType(DTYPES[dtype]), name="x")
    return Region((value,), (), (value,))


# -- emission --------------------------------------------------------------------


def emit_loop(k: Emitter, name: str, spec: LoopSpec) -> None:
    """Writes the kernel of one nest; its buffers are the inputs, then the outputs."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        count = len(spec.inputs) + len(spec.outputs)
        bases = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]
        emit_nest(k, spec, bases, tid, nth)


def emit_nest(k: Emitter, spec: LoopSpec, bases: Sequence[Reg], tid: Reg, nth: Reg) -> None:
    """Writes one nest into an open kernel; several of them may follow each other."""
    _Nest(k, spec, bases, tid, nth).emit()


@dataclass(frozen=True, slots=True)
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
        accesses = [*plan.inputs, *plan.outputs]
        self.dtypes = [a.dtype for a in accesses]
        self.strides = [list(a.strides) for a in accesses]
        self.bases = tuple(
            k.gep(base, a.offset, MEMORY_TYPES[a.dtype])
            for base, a in zip(bases, accesses, strict=True)
        )
        self.part_strides = [0] * len(accesses)
        self.bounds: dict[int, tuple[Int, Int, Int]] = {}
        for n, output in enumerate(spec.outputs, len(plan.inputs)):
            if output.reduce and plan.split is not None:
                self.part_strides[n] = self.strides[n][plan.split]
                self.strides[n][plan.split] = 0
        self._analyse()
        loops = enumerate(plan.loops)
        self.reduce_level = next(
            (i for i, each in loops if each.reduced and not plan.is_single(i)), self.rank
        )

    def _analyse(self) -> None:
        """For each value of the body: the loops it depends on, hence its level."""
        body = self.spec.body
        self.depends: dict[int, frozenset[int]] = {}
        self.constants: dict[int, Any] = {}
        self.ready: list[list[Any]] = [[] for _ in range(self.rank + 1)]
        self.last_use: dict[int, int] = {}
        used = {id(v) for op in body.ops for v in op.operands} | set(map(id, body.results))
        for n, param in enumerate(body.params):
            loops = frozenset(i for i, s in enumerate(self.strides[n]) if s)
            self.depends[id(param)] = loops
            if id(param) in used:
                self.ready[self._level(loops)].append((n, param))
        for op in body.ops:
            (result,) = op.results
            if op.name == "constant":
                self.constants[id(result)] = op.attrs["value"]
            loops = frozenset().union(*(self.depends[id(v)] for v in op.operands))
            self.depends[id(result)] = loops
            level = self._level(loops)
            if op.name != "constant":
                self.ready[level].append((op, result))
            for operand in op.operands:
                self.last_use[id(operand)] = max(level, self.last_use.get(id(operand), 0))
        self.last_use.update((id(v), self.rank) for v in body.results)

    @staticmethod
    def _level(loops: frozenset[int]) -> int:
        return max(loops, default=-1) + 1

    # -- the loops -----------------------------------------------------------------

    def emit(self) -> None:
        k, plan = self.k, self.plan
        state = _State(self.bases, (1,) * self.rank)
        if self.spec.split is not None and plan.split is not None:
            parts = self.spec.split[1]
            with k.loop(*k.slice(parts, self.tid, self.nth)) as part:
                self.bounds[plan.split] = self._bounds(plan.split, part, parts)
                strides = [k.mul(part, s) for s in self.part_strides]
                self.descend(0, replace(state, bases=self._moved(state.bases, strides)))
        elif plan.parallel == (0, 0):
            with k.if_(k.icmp("eq", self.tid, 0)):
                self.descend(0, state)
        else:
            first, count = plan.parallel
            if count == 1:
                self.bounds[first] = self._bounds(first, self.tid, self.nth)
            self.descend(0, state)

    def _bounds(self, index: int, part: Int, parts: Int) -> tuple[Int, Int, Int]:
        """Where a part's share of a loop starts, its full blocks end, and it ends."""
        k, extent, step = self.k, self.plan.loops[index].extent, self.plan.step(index)
        low, high = k.slice(-(-extent // step), part, parts)
        end = k.mul(high, step)
        start = k.mul(low, step)
        if extent % step == 0:
            return start, end, end
        return start, k.min(end, extent // step * step), k.min(end, extent)

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
        first, count = self.plan.parallel
        if level == self.reduce_level and self.spec.axes:
            state = replace(state, accumulators=self._accumulators(state))
            self._inside(level, state)
            self.finish(state)
        elif count > 1 and level == first:
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
        with k.loop(*k.slice(tasks, self.tid, self.nth)) as task:
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
        if full:
            self._blocks(index, wide, start, main)
        if loop.extent == full:
            return
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
                end = vectors if isinstance(stop, int) else k.min(stop, vectors)
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
                accumulators = {
                    key: Accumulator(k, a.kind, a.dtype, a.lanes, a.ways)
                    for key, a in state.accumulators.items()
                }
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
            if self.last_use[value] > self.plan.vector
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
        for source, value in self.ready[level]:
            key = id(value), self._row_of(self.depends[id(value)], row)
            if key in state.env:
                continue
            if isinstance(source, int):
                self._load(source, value, row, state)
            else:
                operands = [self._value(v, row, state) for v in source.operands]
                dtypes = [v.type.dtype.name for v in source.operands]
                state.env[key] = scalar.emit_op(self.k, source.name, operands, dtypes, source.attrs)

    def _value(self, value: Value, row: Row, state: _State) -> Reg:
        if id(value) in self.constants:
            dtype, number = value.type.dtype.name, self.constants[id(value)]
            return scalar.constant(self.k, dtype, number, state.lanes)
        return state.env[id(value), self._row_of(self.depends[id(value)], row)]

    def _load(self, access: int, value: Value, row: Row, state: _State) -> None:
        k, plan, loops = self.k, self.plan, self.depends[id(value)]
        address, dtype = self._address(access, row, state), self.dtypes[access]
        stride = self.strides[access][plan.vector]
        if self._is_tiled(access, state):
            assert plan.tile is not None
            first = self._row_of(loops - {plan.tile}, row)
            corner = self._address(access, first, state)
            across = [
                load_lanes(k, k.gep(corner, n * stride, MEMORY_TYPES[dtype]), dtype, 1, state.lanes)
                for n in range(state.lanes)
            ]
            for n, reg in enumerate(transpose(k, across)):
                state.env[id(value), _with(first, plan.tile, n)] = reg
            return
        mask = self._mask(row, state)
        state.env[id(value), self._row_of(loops, row)] = load_lanes(
            k, address, dtype, stride, state.lanes, mask
        )

    def _is_tiled(self, access: int, state: _State) -> bool:
        """Whether the current block covers a full tile of an access transposed to the lanes."""
        plan, strides = self.plan, self.strides[access]
        return (
            plan.tile is not None
            and strides[plan.tile] == 1
            and strides[plan.vector] not in (-1, 0, 1)
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
                reg, source = self._value(value, row, state), value.type.dtype.name
                if output.reduce:
                    self._accumulate(n, reg, source, row, state)
                    continue
                dtype = self.dtypes[access]
                reg = scalar.convert(self.k, reg, source, dtype)
                if self._is_tiled(access, state):
                    assert self.plan.tile is not None
                    tiles.setdefault((access, _with(row, self.plan.tile, 0)), []).append(reg)
                    continue
                address = self._address(access, row, state)
                stride = self.strides[access][self.plan.vector]
                store_lanes(self.k, reg, address, dtype, stride, self._mask(row, state))
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
        accumulators = {}
        for n, output in enumerate(self.spec.outputs):
            if output.reduce:
                dtype = accumulator_dtype(output.access.dtype)
                for row in rows:
                    new = Accumulator(k, output.reduce, dtype, lanes, ways)
                    accumulators[n, row] = new.with_scalar() if is_inner and has_tail else new
        return accumulators

    def _accumulate(self, output: int, value: Reg, source: str, row: Row, state: _State) -> None:
        accumulator = state.accumulators[output, self._row_of(self._kept, row)]
        value = scalar.convert(self.k, value, source, accumulator.dtype)
        way = 0
        for r, loop in zip(row, self.plan.loops, strict=True):
            way = way * loop.unroll + r if loop.reduced else way
        mask = self._mask(row, state) if self.plan.loops[self.plan.vector].reduced else None
        accumulator.take(value, way, mask)

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
