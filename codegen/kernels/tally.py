"""Sums over all positions of a tensor's channels, taken while a kernel stores it.

Normalising a batch asks for every channel's mean and variance of what a convolution makes;
its derivative for the sums of a cotangent and of its product with another tensor; the
gradient of a bias is a sum, too.  A pass of its own would read the tensor once more from
memory.  Instead the kernel adds up what it holds in registers: for a tile in the tensor's
dtype, then, in f64, into sums that each thread keeps for itself, ``[rows][channels]``.  A
second kernel, ``emit_join``, adds up the threads'.  So equal inputs on as many threads give
equal bits, and nothing is atomic.

The two sums of *moments*, of x and of its square, must not cancel when the variance is
computed from them.  A tile takes them of ``x - s``, s its own first element, and adds
``n s`` and ``2 s sum(x - s) + n s^2`` in f64, whose 53 bits leave room for squares of f32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from symgrad.codegen.access import MEMORY_TYPES, Access, Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes, vector_loop
from symgrad.codegen.registers import Int, Reg, bytes_of, lanes_of, vec
from symgrad.ir.record import record

ROWS: Mapping[str, int] = {"sum": 1, "moments": 2}
"""Sums that each kind of tally keeps per channel."""

WAYS = 2
"""Sums of a tile that take turns, so that additions wait less for each other."""


@record
class TallySpec:
    """What is added up per channel: the ``kinds``, of one value each."""

    kinds: tuple[str, ...]
    channels: int

    @property
    def rows(self) -> int:
        """Sums per channel."""
        return sum(ROWS[kind] for kind in self.kinds)

    @property
    def elements(self) -> int:
        """Sums of one thread."""
        return self.rows * self.channels


class Tally:
    """The running sums of one tile's vector of channels, in registers."""

    def __init__(self, k: Emitter, spec: TallySpec, type: str) -> None:
        self._k, self._spec, self._type = k, spec, type
        self._ways = [[k.alloca(type) for _ in range(WAYS)] for _ in range(spec.rows)]
        self._count = k.alloca("double")
        self._first: dict[int, Reg] = {}
        self._taken = 0
        for slot in (s for row in self._ways for s in row):
            k.store(k.zero(type), slot)
        k.store(k.zero("double"), self._count)

    def take(self, values: Sequence[Reg]) -> None:
        """Takes in one value for each kind; those of the first call must always come."""
        k, row, way = self._k, 0, self._taken % WAYS
        self._taken += 1
        for kind, value in zip(self._spec.kinds, values, strict=True):
            if kind == "moments":
                value = k.fsub(value, self._first.setdefault(row, value))  # noqa: PLW2901
                squares = self._ways[row + 1][way]
                k.store(k.fma(value, value, k.load(self._type, squares)), squares)
            slot = self._ways[row][way]
            k.store(k.fadd(k.load(self._type, slot), value), slot)
            row += ROWS[kind]
        more = k.fadd(k.load("double", self._count), k.const("double", 1.0))
        k.store(more, self._count)

    def flush(self, place: Reg) -> None:
        """Adds the sums to the thread's, of which the first lies at ``place``."""
        k, row = self._k, 0
        wide = vec("double", lanes_of(self._type))
        count = k.splat(k.load("double", self._count), lanes_of(self._type))
        for kind in self._spec.kinds:
            total = self._wide(self._total(row), wide)
            if kind == "moments":
                squares = self._wide(self._total(row + 1), wide)
                first = self._wide(self._first[row], wide)
                shift = k.fmul(count, first)
                both = k.fadd(shift, k.fadd(total, total))
                self._add(k.fma(first, both, squares), place, row + 1)
                total = k.fadd(total, shift)
            self._add(total, place, row)
            row += ROWS[kind]

    def _total(self, row: int) -> Reg:
        k = self._k
        first, *others = (k.load(self._type, slot) for slot in self._ways[row])
        for other in others:
            first = k.fadd(first, other)
        return first

    def _wide(self, value: Reg, wide: str) -> Reg:
        return value if value.type == wide else self._k.cast("fpext", value, wide)

    def _add(self, value: Reg, place: Reg, row: int) -> None:
        k = self._k
        at = k.gep(place, row * self._spec.channels, "double")
        k.store(k.fadd(k.load(value.type, at), value), at)


def open_tally(k: Emitter, epilogue: Epilogue | None, bases: Sequence[Reg], tid: Int) -> list[Reg]:
    """The epilogue's base pointers for one thread, whose sums it clears.

    For the start of a kernel that ends its tiles by ``Finish``.
    """
    if epilogue is None or epilogue.tally is None:
        return list(bases)
    count = epilogue.tally.elements
    own = k.gep(bases[-1], k.mul(tid, count), "double")
    lanes = k.target.lanes(8)
    for at, width, mask in vector_loop(k, 0, count, lanes):
        zero = k.zero(vec("double", width))
        store_lanes(k, zero, k.gep(own, at, "double"), "f64", 1, mask)
    return [*bases[:-1], own]


class Finish:
    """The end of a tile for one vector of channels: epilogue and sums.

    Called with each accumulator it gives what is stored; ``close`` then hands on the sums.
    """

    def __init__(
        self, k: Emitter, epilogue: Epilogue | None, bases: Sequence[Reg], type: str
    ) -> None:
        self._k, self._epilogue, self._bases = k, epilogue, bases
        spec = None if epilogue is None else epilogue.tally
        self._tally = None if spec is None else Tally(k, spec, type)

    def __call__(self, accumulator: Reg, point: Sequence[Int]) -> Reg:
        """What is stored at a point for an accumulator."""
        if self._epilogue is None:
            return accumulator
        return self._epilogue.emit(self._k, accumulator, self._bases, point, None, self._tally)

    def close(self, point: Sequence[Int]) -> None:
        """After the last accumulator; ``point`` is any of those of these channels."""
        if self._epilogue is not None and self._tally is not None:
            access = self._epilogue.operands[-1]
            self._tally.flush(access.address(self._k, self._bases[-1], point))


@record
class JoinSpec:
    """Adds up what the threads have; arguments: their sums, the shift, the results, and an
    array of the numbers of channels and of elements.

    Results are one vector of channels each: the sums of the tally, or with moments those
    that ``wanted`` says, of x - shift and of its square.
    """

    rows: int
    """Sums per channel."""
    dtype: str
    wanted: tuple[str, ...] = ()
    """``deviation`` or ``square`` for each result."""

    @property
    def results(self) -> int:
        """Number of results."""
        return len(self.wanted) or self.rows


def emit_join(k: Emitter, name: str, spec: JoinSpec) -> None:
    """Emits the kernel; it must run on as many threads as the one before it."""
    k.is_shaped = True
    scalar = MEMORY_TYPES[spec.dtype]
    has_shift = bool(spec.wanted)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        count = 2 + has_shift + spec.results
        sums, *others, numbers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]
        results = others[has_shift:]
        channels, elements = (k.load("i64", k.gep(numbers, i, "i64")) for i in range(2))
        low, high = k.slice(channels, tid, nth)
        for channel, lanes, mask in vector_loop(k, low, high, k.target.lanes(8)):
            type = vec("double", lanes)
            totals = [k.alloca(type) for _ in range(spec.rows)]
            for total in totals:
                k.store(k.zero(type), total)
            with k.loop(0, nth) as thread:
                own = k.gep(sums, k.mul(k.mul(thread, channels), spec.rows), "double")
                for row, total in enumerate(totals):
                    at = k.gep(own, k.add(channel, k.mul(channels, row)), "double")
                    more = load_lanes(k, at, "f64", 1, lanes, mask)
                    k.store(k.fadd(k.load(type, total), more), total)
            values = [k.load(type, total) for total in totals]
            if has_shift:
                at = k.gep(others[0], channel, scalar)
                shift = load_lanes(k, at, spec.dtype, 1, lanes, mask)
                shift = k.cast("fpext", shift, type)
                values = _about(k, spec, values, shift, elements)
            for value, result in zip(values, results, strict=True):
                if spec.dtype != "f64":
                    value = k.cast("fptrunc", value, vec(scalar, lanes))  # noqa: PLW2901
                store_lanes(k, value, k.gep(result, channel, scalar), spec.dtype, 1, mask)


def _about(k: Emitter, spec: JoinSpec, sums: Sequence[Reg], shift: Reg, elements: Reg) -> list[Reg]:
    """The sums of ``x - shift`` and its square, from those of x and its square."""
    total, squares = sums
    count = k.splat(k.cast("sitofp", elements, "double"), lanes_of(shift.type))
    moved = k.fmul(shift, count)
    deviation = k.fsub(total, moved)
    # sum (x - s)^2 = sum x^2 - s (sum x + sum (x - s))
    square = k.fsub(squares, k.fmul(shift, k.fadd(total, deviation)))
    return [{"deviation": deviation, "square": square}[wanted] for wanted in spec.wanted]


def lower_join(
    tally: TallySpec, dtype: str, elements: int = 0, wanted: tuple[str, ...] = ()
) -> Lowering:
    """The kernel with operands sums and, for moments of so many elements, shift, and its
    results; one serves all numbers of channels."""
    spec = JoinSpec(tally.rows, dtype, wanted)
    buffers = tuple(range(1 + bool(wanted) + spec.results))
    numbers = tally.channels, elements
    return Lowering((Phase("join_sums", emit_join, spec, buffers, numbers=numbers),))


def partial_sums(spec: TallySpec, rank: int, block: int) -> Access:
    """Where a thread's sums lie over blocked dimensions (N, C/b, spatial axes, b)."""
    return Access("f64", (0, block, *[0] * (rank - 2), 1))


def tally_bytes(spec: TallySpec, threads: int) -> int:
    """Memory for the sums of all threads."""
    return threads * spec.elements * bytes_of("double")
