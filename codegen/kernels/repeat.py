"""The loop of ``scan``: kernels of its body called once per step.

A body that computes each point from that point alone is a loop of its own for every point:
then the threads share the points, and none waits for another between the steps.  Any other
body is run by all threads together if its work is worth the barriers, else by thread 0.

What the kernels get as arguments moves along with the steps.  State that a derivative
will ask for is written where it is kept; other state alternates between two places, so that
its last value lands where it belongs.  No array is copied from step to step.  State that fits
into a register stays in one: then the kernels that see it become parts of the loop.
"""

from __future__ import annotations

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.body import (
    Carry,
    Crew,
    Names,
    Place,
    State,
    Step,
    copy_bytes,
    crew,
    emit_steps,
)
from symgrad.codegen.registers import Int, Reg
from symgrad.ir.record import record


@record
class Shared:
    """How the threads share the points of a body with one flat kernel.

    Its last argument is the number of points; ``widths`` has the bytes from point to point of
    the others, and ``state`` those of each carry.
    """

    points: int
    widths: tuple[int, ...]
    state: tuple[int, ...]


@record
class RepeatSpec:
    """The loop: so many steps, in ``reverse`` from the last element to the first.

    The threads have points of their own if ``shared`` says so, and are the crew of the team
    that argument number ``team`` points to if that is given.
    """

    length: int
    reverse: bool
    carries: tuple[Carry, ...]
    steps: tuple[Step, ...]
    shared: Shared | None = None
    team: int | None = None


BLOCK = 64
"""Points that one thread has together: whole cache lines of any dtype."""


def emit_repeat(k: Emitter, name: str, spec: RepeatSpec) -> None:
    """Writes the loop and its kernels."""
    names = emit_steps(k, spec.steps)
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        if spec.shared is None:
            with crew(k, args, tid, nth, spec.team) as threads:
                _Loop(threads, spec, names, args).emit()
        else:
            points = spec.shared.points
            low, high = k.slice(-(-points // BLOCK), tid, nth)
            begin, end = k.mul(low, BLOCK), k.min(k.mul(high, BLOCK), points)
            with k.if_(k.icmp("slt", begin, end)):
                _Loop(Crew(k), spec, names, args, begin, k.sub(end, begin)).emit()


class _Loop:
    """Writes the loop, over all points or over ``count`` of them from ``begin`` on."""

    def __init__(
        self, threads: Crew, spec: RepeatSpec, names: Names, args: Reg,
        begin: Int = 0, count: Int = 0,
    ) -> None:  # fmt: skip
        self.k = k = threads.k
        self.threads, self.spec, self.names = threads, spec, names
        self.begin, self.count = begin, count
        self.bases = {i: k.load("ptr", k.gep(args, i, "ptr")) for i in sorted(_bases(spec))}
        shared = spec.shared
        self.widths = shared.widths if shared else ()
        self.state_widths = shared.state if shared else (0,) * len(spec.carries)
        self.tables = [k.alloca(f"[{len(step.arguments)} x ptr]") for step in spec.steps]
        self.local = {
            State(i, after): k.alloca(f"[{carry.bytes} x i8]")
            for i, carry in enumerate(spec.carries)
            if carry.is_local
            for after in (False, True)
        }

    def address(self, place: Place, time: Int = 0, width: int = 0) -> Reg:
        """Where a place lies at a step, for the first of our points."""
        k = self.k
        shift = k.add(k.mul(time, place.stride), k.mul(self.begin, width))
        return k.gep(self.bases[place.base], k.add(shift, place.offset), "i8")

    def emit(self) -> None:
        """Fills in what stays, prepares the state and runs the steps."""
        k, spec = self.k, self.spec
        for number, step in enumerate(spec.steps):
            for i, argument in enumerate(step.arguments):
                if isinstance(argument, Place) and not argument.stride:
                    self._set(number, i, self.address(argument, 0, self._width(i)))
        if spec.shared is not None:
            size = k.alloca("i64")
            k.store(k.as_reg(self.count), size)
            self._set(0, len(spec.shared.widths), size)
        with self.threads.first():
            self._prepare_state()
        self.threads.meet()
        if spec.length:
            with k.loop(0, spec.length) as count:
                self._one_step(count)
        for i, carry in enumerate(spec.carries):
            if carry.is_local:
                last = self.address(carry.last)
                copy_bytes(k, last, self.local[State(i, after=False)], carry.bytes)

    def _prepare_state(self) -> None:
        k, spec = self.k, self.spec
        for i, (carry, width) in enumerate(zip(spec.carries, self.state_widths, strict=True)):
            bytes = k.mul(self.count, width) if spec.shared else carry.bytes
            first, last = (self.address(place, 0, width) for place in (carry.first, carry.last))
            if carry.is_local:
                copy_bytes(k, self.local[State(i, after=False)], first, bytes)
            elif not spec.length:
                copy_bytes(k, last, first, bytes)
            elif carry.kept is not None:
                begin = spec.length - 1 if spec.reverse else 0
                copy_bytes(k, self.address(carry.kept, begin, width), first, bytes)

    def _set(self, step: int, argument: int, address: Reg) -> None:
        self.k.store(address, self.k.gep(self.tables[step], argument, "ptr"))

    def _width(self, argument: int) -> int:
        return self.widths[argument] if argument < len(self.widths) else 0

    def _one_step(self, count: Reg) -> None:
        k, spec = self.k, self.spec
        left = k.sub(spec.length - 1, count)
        time, following = (left, k.sub(left, 1)) if spec.reverse else (count, k.add(count, 1))
        is_first, is_last = k.icmp("eq", count, 0), k.icmp("eq", left, 0)
        ends_here = k.icmp("eq", k.bits("and", left, 1), 0)
        states = dict(self.local)
        for i, (carry, width) in enumerate(zip(spec.carries, self.state_widths, strict=True)):
            last = self.address(carry.last, 0, width)
            if carry.is_local:
                if carry.kept is not None:
                    before = self.local[State(i, after=False)]
                    copy_bytes(k, self.address(carry.kept, time), before, carry.bytes)
                continue
            if carry.kept is not None:
                before = self.address(carry.kept, time, width)
                after = k.select(is_last, last, self.address(carry.kept, following, width))
            else:
                first, other = (self.address(p, 0, width) for p in (carry.first, carry.other))
                after = k.select(ends_here, last, other)
                before = k.select(is_first, first, k.select(ends_here, other, last))
            states[State(i, after=False)], states[State(i, after=True)] = before, after
        for number, (table, step) in enumerate(zip(self.tables, spec.steps, strict=True)):
            for i, argument in enumerate(step.arguments):
                if isinstance(argument, State):
                    self._set(number, i, states[argument])
                elif argument.stride:
                    self._set(number, i, self.address(argument, time, self._width(i)))
            inlined = "alwaysinline" if any(a in self.local for a in step.arguments) else ""
            self.threads.run(step, self.names[step.emit, step.spec], table, inlined)
        for i, carry in enumerate(spec.carries):
            if carry.is_local:
                before, after = (self.local[State(i, after)] for after in (False, True))
                copy_bytes(k, before, after, carry.bytes)


def _bases(spec: RepeatSpec) -> set[int]:
    places = [a for step in spec.steps for a in step.arguments if isinstance(a, Place)]
    for carry in spec.carries:
        places += [p for p in (carry.first, carry.last, carry.other, carry.kept) if p is not None]
    return {place.base for place in places}
