"""Decides how a loop nest runs, before a single instruction is written.

``normalise`` brings an iteration space into its simplest form: no unit
dimensions, ascending strides, neighbours merged wherever every access allows it
(so that whole contiguous arrays become one dimension).  ``schedule`` then picks
the vector dimension by estimated cost, the unrolling, the order of the loops, and
which of them the threads share.  Pure functions of (spec, target, threads).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from symgrad.codegen.access import REGISTER_TYPES, Access
from symgrad.codegen.kernels.loop_spec import Indirect, LoopSpec
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.vecmath import FUNCTIONS
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.target import Target
    from symgrad.ir.graph import Op, Region, Value

SERIAL_WORK = 8192
"""Nests of less work (elements times operations) run on one thread."""
SUM_RUN = 256
"""Additions into one float accumulator before it moves to the next level."""
LARGE_BODY = 64
"""Operation cost from which on a body's code counts more than a mask."""
INLINE_MATH = 8
"""Transcendental operations that are inlined in one body of vectors, and twice as many in one
of scalars, whose code is shorter; where there are more, all are called."""
_BALANCED = 0.9
_COSTS = {"div": 4, "sqrt": 4, "rsqrt": 6, **dict.fromkeys(("rem", "fmod", "floor_div"), 8)}
_CHEAP_MATH = frozenset(("round", "floor", "ceil", "trunc"))


@record
class Dim:
    """One dimension of an iteration space: ``strides`` has one entry per access."""

    extent: int
    reduced: bool
    strides: tuple[int, ...]


@record
class Loop:
    """One loop of the nest.

    A block covers ``unroll`` iterations (vectors, along the vector loop).  After
    ``chunk`` blocks partial sums move to the next accumulator level; 0: never.
    """

    extent: int
    reduced: bool
    unroll: int = 1
    chunk: int = 0


@record
class Schedule:
    """The loops, outermost first, and the accesses over them."""

    loops: tuple[Loop, ...]
    inputs: tuple[Access, ...]
    outputs: tuple[Access, ...]
    vector: int
    """The loop whose iterations are vector lanes."""
    lanes: int
    tile: int | None
    """The loop that is transposed against the vector loop in register tiles."""
    parallel: tuple[int, int]
    """First and number of the loops that the threads share; (0, 0) runs on one thread."""
    split: int | None = None
    """The reduced loop that is cut into parts."""
    balance: float = 1.0
    """Share of the threads' time that does work."""
    one_copy: bool = False
    """Whether even full vectors run masked, so that a large body is written only once."""
    outline: bool = False
    """Whether vector math is called instead of inlined."""

    def step(self, index: int) -> int:
        """Iterations of a loop that one block covers."""
        return self.loops[index].unroll * (self.lanes if index == self.vector else 1)

    @property
    def kept_tasks(self) -> int:
        """Iterations that the threads may share beside the parts of a reduced loop."""
        first, count = self.parallel
        run = range(first, first + count)
        if any(self.step(i) != 1 or self.loops[i].reduced for i in run):
            return 1
        return math.prod(self.loops[i].extent for i in run)

    def is_single(self, index: int) -> bool:
        """Whether one (possibly masked) block covers the loop."""
        return self.step(index) >= self.loops[index].extent > 0


def _accesses(spec: LoopSpec) -> list[Access]:
    return [*spec.inputs, *(o.access for o in spec.outputs)]


def describe(plan: Schedule) -> str:
    """The loops as text, one per line, outermost first."""
    lines = []
    first, count = plan.parallel
    for n, loop in enumerate(plan.loops):
        notes = []
        if n == plan.vector and plan.lanes > 1:
            notes.append(f"{loop.unroll} x {plan.lanes} lanes")
        elif loop.unroll > 1:
            notes.append("register tile" if n == plan.tile else f"{loop.unroll} at once")
        notes += ["reduced"] * loop.reduced
        notes += ["shared by the threads"] * (first <= n < first + count)
        notes += ["in parts"] * (n == plan.split)
        head = "block" if plan.is_single(n) else "for"
        note = f"  # {', '.join(notes)}" if notes else ""
        lines.append(f"{'  ' * n}{head} i{n} in {loop.extent}:{note}")
    return "\n".join(lines)


# -- normal form -------------------------------------------------------------


def normalise(spec: LoopSpec) -> tuple[list[Dim], list[int]]:
    """The dimensions of a spec in normal form, and the offset of each access."""
    accesses = _accesses(spec)
    offsets = [a.offset for a in accesses]
    reduced = spec.axes
    dims = []
    for axis, extent in enumerate(spec.extents):
        strides = tuple(a.strides[axis] for a in accesses)
        if extent == 1:
            continue
        if _runs_backwards(strides, len(spec.inputs)) and extent and axis != spec.split_axis:
            offsets = [o + (extent - 1) * s for o, s in zip(offsets, strides, strict=True)]
            strides = tuple(-s for s in strides)
        dims.append(Dim(extent, axis in reduced, strides))
    return merged(dims) or [Dim(1, False, (0,) * len(accesses))], offsets


def _runs_backwards(strides: Sequence[int], inputs: int) -> bool:
    """Whether a dimension is better walked from its end: as the results lie, else the operands."""
    for group in (strides[inputs:], strides[:inputs]):
        balance = sum((s > 0) - (s < 0) for s in group)
        if balance:
            return balance < 0
    return False


def merged(dims: list[Dim]) -> list[Dim]:
    """The dimensions with every pair joined that all accesses walk as one."""
    for outer in dims:
        for inner in dims:
            if (
                outer is not inner
                and outer.reduced == inner.reduced
                and all(
                    a == b * inner.extent for a, b in zip(outer.strides, inner.strides, strict=True)
                )
            ):
                joined = Dim(outer.extent * inner.extent, inner.reduced, inner.strides)
                return merged([d for d in dims if d is not outer and d is not inner] + [joined])
    return dims


# -- choices -------------------------------------------------------------------


def is_math(op: Op) -> bool:
    """Whether an op is a polynomial or the like, not a few instructions."""
    return op.name in FUNCTIONS and op.name not in _CHEAP_MATH and op.name not in _COSTS


def operation_cost(body: Region) -> int:
    """Instructions that one evaluation of a region takes, roughly."""
    return sum(
        16 if is_math(op) else _COSTS.get(op.name, 1) for op in body.ops if op.name != "constant"
    )


def vector_lanes(spec: LoopSpec, target: Target) -> int:
    """Lanes of a full vector: of 4-byte elements where any occur, else of the widest."""
    dtypes = {a.dtype for a in spec.inputs} | {o.access.dtype for o in spec.outputs}
    for op in spec.body.ops:
        dtypes |= {v.type.dtype.name for v in op.results}
    widths = {bytes_of(REGISTER_TYPES[d]) for d in dtypes}
    return target.lanes(4 if 4 in widths else max(widths, default=4))


def values_alive(body: Region) -> int:
    """The most values of a region that are needed at once, in the order of its ops."""
    last = {id(v): n for n, op in enumerate(body.ops) for v in op.operands}
    last.update((id(v), len(body.ops)) for v in body.results)
    most, alive = 0, set[int]()
    for n, op in enumerate(body.ops):
        if op.name == "constant":
            continue
        alive.update(id(v) for v in (*op.operands, *op.results) if not _is_constant(v))
        most = max(most, len(alive))
        alive = {v for v in alive if last.get(v, n) > n}
    return most


def _is_constant(value: Value) -> bool:
    return value.op is not None and value.op.name == "constant"


def _widening(spec: LoopSpec, target: Target, outline: bool) -> int:
    """Registers per vector: long chains of operations wait for each other less in several.

    Not where one for each value that is needed at once would be too many: then most values wait
    in memory, and bodies of so many values have independent operations enough.
    """
    if outline:
        return 4 if target.vector_registers >= 32 else 2
    if operation_cost(spec.body) <= 32 or target.vector_registers < 32:
        return 1
    return 2 if values_alive(spec.body) <= target.vector_registers else 1


def _fit(extent: int, lanes: int, target: Target) -> int:
    """Lanes for a loop of ``extent``: short loops take shorter vectors."""
    room = max(1, extent)
    power = 1 << (room - 1).bit_length() if target.has_masks else 1 << (room.bit_length() - 1)
    return min(lanes, power)


def _tile_dim(
    spec: LoopSpec, dims: Sequence[Dim], vector: int, access: int, lanes: int
) -> int | None:
    """The dimension that an access, strided along ``vector``, is contiguous along.

    ``None`` where square register tiles cannot transpose it.
    """
    number = access - len(spec.inputs)
    reduces = number >= 0 and spec.outputs[number].reduce
    if reduces or isinstance(_accesses(spec)[access], Indirect):
        return None
    if lanes == 1 or dims[vector].strides[access] in (-1, 0, 1) or dims[vector].extent < lanes:
        return None
    for index, dim in enumerate(dims):
        if index != vector and dim.strides[access] == 1 and dim.extent >= lanes:
            return index
    return None


def _vector_cost(spec: LoopSpec, dims: Sequence[Dim], vector: int, lanes: int) -> float:
    """Estimated cost per element with the lanes along one dimension."""
    dim, inputs = dims[vector], len(spec.inputs)
    vectors = -(-dim.extent // lanes)
    cost = 0.4 * operation_cost(spec.body)
    for n, (access, stride) in enumerate(zip(_accesses(spec), dim.strides, strict=True)):
        is_store = n >= inputs
        if is_store and spec.outputs[n - inputs].reduce:
            continue
        if isinstance(access, Indirect) and any(dim.strides[i] for i, _, _ in access.along):
            cost += lanes
        elif stride in (0, 1):
            cost += 1.0 if stride else 0.2
        elif stride == -1:
            cost += 1.5
        elif _tile_dim(spec, dims, vector, n, lanes) is not None:
            cost += 3.0
        else:
            cost += lanes * (1.5 if is_store else 0.7)
    cost *= vectors / max(1, dim.extent)
    if dim.reduced:  # lanes are added up once for every kept element
        cost += 8 / max(1, math.prod(d.extent for d in dims if d.reduced))
    return cost


def _in_order(dims: Sequence[Dim], inputs: int) -> list[Dim]:
    """Kept dimensions before reduced ones, each by falling strides, results' first."""

    def key(dim: Dim) -> tuple[bool, int, int]:
        sizes = [abs(s) for s in dim.strides]
        results = 0 if dim.reduced else sum(sizes[inputs:])
        return dim.reduced, -results, -sum(sizes[:inputs])

    return sorted(dims, key=key)


@functools.lru_cache(maxsize=4096)
def schedule(spec: LoopSpec, target: Target, threads: int) -> Schedule:
    """How ``spec`` runs on ``threads`` threads of ``target``."""
    dims, offsets = normalise(spec)
    inputs = len(spec.inputs)
    split_dim = None
    if spec.split is not None:  # is never merged: only its reducing results move along it
        first = next(i for i, o in enumerate(spec.outputs) if o.reduce)
        split_dim = next(d for d in dims if d.reduced and d.strides[inputs + first])
    dims = _in_order(dims, inputs)
    full = vector_lanes(spec, target)

    def cost(index: int) -> tuple[float, int]:
        lanes = _fit(dims[index].extent, full, target)
        return _vector_cost(spec, dims, index, lanes), -index

    vector = min(range(len(dims)), key=cost)
    lanes = _fit(dims[vector].extent, full, target)
    tiles = (_tile_dim(spec, dims, vector, n, lanes) for n in range(len(offsets)))
    tile = next((t for t in tiles if t is not None), None)
    outline = sum(map(is_math, spec.body.ops)) > INLINE_MATH * (1 if lanes > 1 else 2)
    if tile is None:
        lanes = _fit(dims[vector].extent, full * _widening(spec, target, outline), target)
    unroll = _unrolling(spec, dims, vector, lanes, tile, target)

    # A dimension that one block covers needs no loop: outermost, its loads are hoisted.
    def needs_loop(index: int) -> bool:
        block = unroll[index] * (lanes if index == vector else 1)
        extent = dims[index].extent
        return not (extent == block or (target.has_masks and 0 < extent <= block))

    order = sorted(range(len(dims)), key=needs_loop)
    place = {old: new for new, old in enumerate(order)}
    loops = [Loop(dims[i].extent, dims[i].reduced, unroll[i]) for i in order]
    strides = [tuple(dims[i].strides[a] for i in order) for a in range(len(offsets))]
    accesses = _accesses(spec)
    accesses = [
        replace(a, strides=s, offset=o) for a, s, o in zip(accesses, strides, offsets, strict=True)
    ]
    plan = Schedule(
        tuple(loops),
        tuple(accesses[:inputs]),
        tuple(accesses[inputs:]),
        place[vector],
        lanes,
        None if tile is None else place[tile],
        (0, 0),
        None if split_dim is None else place[dims.index(split_dim)],
        one_copy=target.has_masks and operation_cost(spec.body) >= LARGE_BODY,
        outline=outline,
    )
    if any(o.reduce == "sum" and "f" in o.access.dtype for o in spec.outputs):
        plan = replace(plan, loops=_chunked(plan))
    return _shared(plan, spec, threads)


def _unrolling(
    spec: LoopSpec,
    dims: Sequence[Dim],
    vector: int,
    lanes: int,
    tile: int | None,
    target: Target,
) -> list[int]:
    """Iterations of each dimension in one block."""
    unroll = [1] * len(dims)
    if tile is not None:
        unroll[tile] = lanes
        return unroll
    cost = operation_cost(spec.body)
    budget = 4 if cost <= 8 else 2 if cost <= 32 else 1
    if sums := sum(1 for o in spec.outputs if o.reduce):
        # Independent accumulators hide the latency of the additions.
        budget = max(budget, 8 // sums) if cost <= 8 else budget
    extent = dims[vector].extent
    vectors = -(-extent // lanes) if target.has_masks else extent // lanes
    unroll[vector] = max(1, min(budget, vectors))
    others = [i for i, d in enumerate(dims) if i != vector and d.extent > 1]
    if others and budget // unroll[vector] > 1:
        unroll[others[-1]] = _even_share(dims[others[-1]].extent, budget // unroll[vector])
    return unroll


def _even_share(extent: int, budget: int) -> int:
    """About ``budget`` iterations at once, without a remainder where possible."""
    if extent <= 2 * budget:
        return extent
    even = [n for n in range(max(2, budget // 2 + 1), 2 * budget + 1) if extent % n == 0]
    return min(even, key=lambda n: abs(n - budget)) if even else budget


def _chunked(plan: Schedule) -> tuple[Loop, ...]:
    """Cuts long sums into short runs: their error then grows like that of pairwise sums."""
    loops, count = list(plan.loops), 1
    for index in reversed(range(len(loops))):
        loop = loops[index]
        if not loop.reduced:
            continue
        blocks = max(1, -(-loop.extent // plan.step(index)))
        run = max(1, SUM_RUN // count)
        if blocks <= run:
            count *= blocks
        else:
            loops[index] = replace(loop, chunk=run)
            count = -(-blocks // run)
    return tuple(loops)


def _shared(plan: Schedule, spec: LoopSpec, threads: int) -> Schedule:
    """Chooses the kept loops that the threads share."""
    work = math.prod(loop.extent for loop in plan.loops) * (1 + operation_cost(spec.body) // 4)
    if threads == 1 or work < SERIAL_WORK:
        return plan
    loops, rank = plan.loops, len(plan.loops)
    options = []
    first = next((i for i in range(rank) if not plan.is_single(i)), rank)
    last = first
    while last < rank and not loops[last].reduced and plan.step(last) == 1:
        last += 1
        tasks = math.prod(loop.extent for loop in loops[first:last])
        options.append((tasks, (first, last - first)))
    for index in range(first, rank):
        if not loops[index].reduced:
            options.append((-(-loops[index].extent // plan.step(index)), (index, 1)))
    best, balance = (0, 0), 1 / threads
    for tasks, run in options:
        share = tasks / (-(-tasks // threads) * threads)
        if share > balance + 0.02:
            best, balance = run, share
        if balance >= _BALANCED:
            break
    return replace(plan, parallel=best, balance=balance)
