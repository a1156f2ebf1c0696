"""Pooling: sums and maxima over sliding windows, and their adjoints.

One kernel covers plain and channel-blocked layouts, any number of spatial axes and
any window.  Vectors run along the trailing axis (the channels of a block) or, where
there is none, along the last spatial axis; there, windows that reach over the edge
are done one by one.  Taps outside the input are left out, so no halo is read.  Windows with
all taps inside, most of them, have code of their own without loops.

Adjoints scatter into the input, where windows overlap: a thread owns whole planes.
The others are split by rows of windows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import field
from itertools import product
from math import inf, prod
from operator import mul

from symgrad.codegen.access import MEMORY_TYPES, REGISTER_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import reach
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.scalar import emit_op
from symgrad.codegen.target import Target
from symgrad.ir.record import record

Sizes = tuple[int, ...]

UNROLLED = 16
"""Taps of a window, at most, that are written out one by one."""


@record
class PoolSpec:
    """A pooling op by its IR name, over the physical dimensions (outer, spatial, trailing).

    ``accesses`` are those of the operands, then of the result: x, y of ``window_sum``
    and ``window_max``; x, v, y of ``window_max_gather``; x, dy, dx of
    ``window_max_scatter``; dy, dx of ``window_sum_grad``.  ``padding`` counts positions
    before the input.  Where a layout has no trailing axis, ``trailing`` is 1.
    """

    op: str
    outer: Sizes
    spatial: Sizes
    out: Sizes
    trailing: int
    window: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    accesses: tuple[Access, ...]

    @property
    def scatters(self) -> bool:
        """Whether the result has the input's shape."""
        return self.op in ("window_max_scatter", "window_sum_grad")

    def interior(self, axis: int) -> range:
        """Windows that lie inside the input along an axis."""
        size, stride, padding = self.spatial[axis], self.stride[axis], self.padding[axis]
        span = (self.window[axis] - 1) * self.dilation[axis] + 1
        first = min(-(-padding // stride), self.out[axis])
        return range(first, max(first, min((size - span + padding) // stride + 1, self.out[axis])))


@record
class Schedule:
    """Elements per vector, and whether they are neighbouring windows or trailing elements."""

    lanes: int
    along_windows: bool


def schedule(spec: PoolSpec, target: Target) -> Schedule:
    """Vectors as wide as the target's and the axis allow."""
    lanes = target.lanes(max(bytes_of(REGISTER_TYPES[a.dtype]) for a in spec.accesses))
    if spec.trailing == 1:
        return Schedule(lanes if lanes <= len(spec.interior(-1)) else 1, True)
    while spec.trailing % lanes:
        lanes //= 2
    return Schedule(lanes, False)


@record
class _Window:
    """A window of the input, or a vector of neighbouring ones, and its elements."""

    k: Emitter
    spec: PoolSpec
    vector: Schedule
    bases: Sequence[Reg]
    outer: Sequence[Int]
    position: Sequence[Int]
    lane: Int
    is_inside: bool
    """Whether all of its taps are known to lie inside the input."""
    first: list[Int] = field(default_factory=list)
    """Input position of the first tap inside."""
    counts: list[Int] = field(default_factory=list)
    """Taps inside, by axis."""
    corners: dict[int, Reg] = field(default_factory=dict)
    """Addresses of input-shaped operands' elements under the first tap."""

    def __post_init__(self) -> None:
        spec = self.spec
        for axis, at in enumerate(self.position):
            start = self.k.sub(self.k.mul(at, spec.stride[axis]), spec.padding[axis])
            low: Int = 0
            count: Int = spec.window[axis]
            if not self.is_inside and axis not in _vectorised(spec, self.vector):
                low, count = reach(
                    self.k, start, 0, spec.dilation[axis], spec.window[axis], spec.spatial[axis]
                )
            self.first.append(self.k.add(start, self.k.mul(low, spec.dilation[axis])))
            self.counts.append(count)

    @property
    def type(self) -> str:
        """Register type of the elements."""
        return vec(REGISTER_TYPES[self.spec.accesses[0].dtype], self.vector.lanes)

    def taps(self) -> Iterator[Sequence[Int]]:
        """The taps inside, in row-major order, one by one or in loops.

        Written once per form of the body: ``for tap in window.taps(): ...``
        """
        if self.is_inside:
            yield from product(*map(range, self.spec.window))
            return
        with ExitStack() as stack:
            yield [stack.enter_context(self.k.loop(0, count)) for count in self.counts]

    def number(self, taps: Sequence[Int]) -> Reg:
        """A number for each tap, 0 for the first one inside, in every lane."""
        total: Int = 0
        for tap, window in zip(taps, self.spec.window, strict=True):
            total = self.k.add(self.k.mul(total, window), tap)
        scalar = self.k.cast("trunc", self.k.as_reg(total), "i32")
        return self.k.splat(scalar, self.vector.lanes)

    def tap(self, operand: int, taps: Sequence[Int]) -> Reg:
        """Address of an input-shaped operand's element under a tap."""
        access = self.spec.accesses[operand]
        if self.is_inside:
            # Taps are at constant distances from the first.
            if operand not in self.corners:
                self.corners[operand] = self._at(operand, self.first)
            moves = map(mul, self.spec.dilation, access.strides[-1 - len(taps) : -1])
            distance = sum(map(mul, taps, moves))
            return self.k.gep(self.corners[operand], distance, MEMORY_TYPES[access.dtype])
        place = [
            self.k.add(first, self.k.mul(tap, dilation))
            for first, tap, dilation in zip(self.first, taps, self.spec.dilation, strict=True)
        ]
        return self._at(operand, place)

    def _at(self, operand: int, place: Sequence[Int]) -> Reg:
        point = (*self.outer, *place, self.lane)
        return self.spec.accesses[operand].address(self.k, self.bases[operand], point)

    def load_tap(self, operand: int, address: Reg) -> Reg:
        """Elements under a tap."""
        access = self.spec.accesses[operand]
        step = self._step(access, self.spec.stride[-1])
        return load_lanes(self.k, address, access.dtype, step, self.vector.lanes)

    def add_to_tap(self, operand: int, value: Reg, address: Reg) -> None:
        """Adds to the elements under a tap."""
        access = self.spec.accesses[operand]
        total = self.k.fadd(self.load_tap(operand, address), value)
        store_lanes(self.k, total, address, access.dtype, self._step(access, self.spec.stride[-1]))

    def load(self, operand: int) -> Reg:
        """The window's own element of an output-shaped operand."""
        access = self.spec.accesses[operand]
        step, lanes = self._step(access), self.vector.lanes
        return load_lanes(self.k, self._own(operand), access.dtype, step, lanes)

    def store(self, operand: int, value: Reg) -> None:
        """Writes the window's own element."""
        access = self.spec.accesses[operand]
        store_lanes(self.k, value, self._own(operand), access.dtype, self._step(access))

    def _own(self, operand: int) -> Reg:
        return self._at(operand, self.position)

    def _step(self, access: Access, windows: int = 1) -> int:
        """Elements from lane to lane, ``windows`` positions apart."""
        along = self.vector.along_windows
        return access.strides[-2] * windows if along else access.strides[-1]


# -- what happens in a window ------------------------------------------------


def _reduce(w: _Window, op: str, start: float) -> None:
    k, dtype = w.k, w.spec.accesses[0].dtype
    total = k.alloca(w.type)
    k.store(k.const(w.type, start), total)
    for taps in w.taps():
        value = w.load_tap(0, w.tap(0, taps))
        k.store(emit_op(k, op, [k.load(w.type, total), value], [dtype, dtype]), total)
    w.store(1, k.load(w.type, total))


def _sum_grad(w: _Window) -> None:
    cotangent = w.load(0)
    for taps in w.taps():
        w.add_to_tap(1, cotangent, w.tap(1, taps))


def _at_maximum(w: _Window, type: str, candidate: Callable[[Sequence[Int], Reg], Reg]) -> Reg:
    """The candidate of the tap with the first maximum, or the first nan, of operand 0."""
    k = w.k
    best, kept = k.alloca(w.type), k.alloca(type)
    k.store(k.const(w.type, -inf), best)
    k.store(k.zero(type), kept)
    for taps in w.taps():
        value, so_far, number = w.load_tap(0, w.tap(0, taps)), k.load(w.type, best), w.number(taps)
        more = k.bits("and", k.fcmp("ugt", value, so_far), k.fcmp("ord", so_far, so_far))
        more = k.bits("or", more, k.icmp("eq", number, 0))  # -inf may be the maximum
        k.store(k.select(more, value, so_far), best)
        k.store(k.select(more, candidate(taps, number), k.load(type, kept)), kept)
    return k.load(type, kept)


def _max_gather(w: _Window) -> None:
    w.store(2, _at_maximum(w, w.type, lambda taps, _: w.load_tap(1, w.tap(1, taps))))


def _max_scatter(w: _Window) -> None:
    k = w.k
    chosen = _at_maximum(w, vec("i32", w.vector.lanes), lambda _, number: number)
    cotangent = w.load(1)
    for taps in w.taps():
        here = k.icmp("eq", w.number(taps), chosen)
        nothing = k.const(w.type, -0.0)  # what it is added to stays as it is: a masked addition
        w.add_to_tap(2, k.select(here, cotangent, nothing), w.tap(2, taps))


_WORK: dict[str, Callable[[_Window], None]] = {
    "window_sum": lambda w: _reduce(w, "add", 0.0),
    "window_max": lambda w: _reduce(w, "maximum", -inf),
    "window_sum_grad": _sum_grad,
    "window_max_gather": _max_gather,
    "window_max_scatter": _max_scatter,
}


# -- the kernel --------------------------------------------------------------


def _vectorised(spec: PoolSpec, vector: Schedule) -> tuple[int, ...]:
    """The axis, if any, along which a vector takes windows: all of them lie inside."""
    return (len(spec.out) - 1,) if vector.along_windows and vector.lanes > 1 else ()


def _do(
    k: Emitter,
    spec: PoolSpec,
    vector: Schedule,
    bases: Sequence[Reg],
    place: tuple[Sequence[Int], Sequence[Int], Int],
) -> None:
    """The work of the window, or the vector of windows, at one place: outer, position, lane."""
    work = _WORK[spec.op]
    outer, position, lane = place
    edges = [
        (at, spec.interior(axis))
        for axis, at in enumerate(position)
        if axis not in _vectorised(spec, vector) and len(spec.interior(axis)) < spec.out[axis]
    ]
    if prod(spec.window) > UNROLLED or any(not inside for _, inside in edges):
        work(_Window(k, spec, vector, bases, outer, position, lane, is_inside=False))
        return
    if not edges:
        work(_Window(k, spec, vector, bases, outer, position, lane, is_inside=True))
        return
    tests = [k.icmp("ult", k.sub(k.as_reg(at), inside.start), len(inside)) for at, inside in edges]
    all_inside = functools.reduce(lambda a, b: k.bits("and", a, b), tests)
    with k.if_else(all_inside) as branches:
        for branch, is_inside in zip(branches, (True, False), strict=True):
            with branch:
                work(_Window(k, spec, vector, bases, outer, position, lane, is_inside))


def emit_pool(k: Emitter, name: str, spec: PoolSpec) -> None:
    """Emits the kernel ``spec.op``; its arguments are in the order of ``spec.accesses``."""
    vector = schedule(spec, k.target)
    chunks = 1 if vector.along_windows else spec.trailing // vector.lanes
    shared = () if spec.scatters else spec.out[:-1]
    sizes = (*spec.outer, *shared, chunks)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        bases = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(len(spec.accesses))]
        low, high = k.slice(prod(sizes), tid, nth)
        with k.loop(low, high) as task, ExitStack() as stack:
            *index, chunk = _unflatten(k, task, sizes)
            outer, row = index[: len(spec.outer)], index[len(spec.outer) :]
            lane = k.mul(chunk, vector.lanes)
            if spec.scatters:
                _clear(k, spec, vector, bases[-1], outer, lane)
                row = [stack.enter_context(k.loop(0, n)) for n in spec.out[:-1]]
            for width, column in _columns(k, spec, vector):
                _do(k, spec, width, bases, (outer, [*row, column], lane))


def _unflatten(k: Emitter, index: Int, sizes: Sequence[int]) -> list[Int]:
    """The position of a row-major index."""
    position: list[Int] = []
    for size in reversed(sizes[1:]):
        index, last = k.divmod(index, size)
        position.insert(0, last)
    return [index, *position]


def _clear(
    k: Emitter, spec: PoolSpec, vector: Schedule, base: Reg, outer: Sequence[Int], lane: Int
) -> None:
    """Zeroes the task's planes of the result."""
    access = spec.accesses[-1]
    lanes = 1 if vector.along_windows else vector.lanes
    with ExitStack() as stack:
        place = [stack.enter_context(k.loop(0, size)) for size in spec.spatial]
        address = access.address(k, base, (*outer, *place, lane))
        zero = k.zero(vec(REGISTER_TYPES[access.dtype], lanes))
        store_lanes(k, zero, address, access.dtype, access.strides[-1])


def _columns(k: Emitter, spec: PoolSpec, vector: Schedule) -> Iterator[tuple[Schedule, Reg]]:
    """Loops along a row of windows: by vectors, then by what they leave out."""
    out, begin, end = spec.out[-1], 0, 0
    if not vector.along_windows:
        with k.loop(0, out) as column:
            yield vector, column
        return
    if vector.lanes > 1:
        begin = spec.interior(-1).start
        end = begin + len(spec.interior(-1)) // vector.lanes * vector.lanes
        with k.loop(begin, end, vector.lanes) as column:
            yield vector, column
    with k.loop(0, out - (end - begin)) as column:
        behind = k.as_reg(k.add(column, end - begin))
        yield Schedule(1, True), k.select(k.icmp("slt", column, begin), column, behind)
