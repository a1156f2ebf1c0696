"""The loop of ``scan``: kernels of its body called once per step, on thread 0.

The body is lowered like a program of its own.  Its kernels are internal functions of the
loop's module; what they get as arguments moves along with the steps.  State that a derivative
will ask for is written where it is kept; other state alternates between two places, so that
its last value lands where it belongs.  Nothing is copied from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from symgrad.codegen.emitter import Emitter, Int, Reg

Emit = Callable[[Emitter, str, Any], None]


@dataclass(frozen=True, slots=True)
class Place:
    """``offset`` bytes into the loop's argument ``base``, and ``stride`` more per step of time."""

    base: int
    offset: int = 0
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Carry:
    """Where one part of the state lies: ``first`` before the loop and ``last`` after it.

    In between: at each step's element of ``kept``, if the states are kept; else in ``other``
    and ``last`` by turns.
    """

    bytes: int
    first: Place
    last: Place
    other: Place
    kept: Place | None = None


@dataclass(frozen=True, slots=True)
class State:
    """An argument of a kernel: the state number ``carry`` before a step, or ``after`` it."""

    carry: int
    after: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A kernel of the body and its arguments."""

    emit: Emit
    spec: Hashable
    arguments: tuple[Place | State, ...]


@dataclass(frozen=True, slots=True)
class RepeatSpec:
    """The loop: so many steps, in ``reverse`` from the last element to the first."""

    length: int
    reverse: bool
    carries: tuple[Carry, ...]
    steps: tuple[Step, ...]


def emit_repeat(k: Emitter, name: str, spec: RepeatSpec) -> None:
    """Writes the loop and its kernels."""
    names: dict[tuple[Emit, Hashable], str] = {}
    with k.hidden() as prefix:
        for step in spec.steps:
            key = step.emit, step.spec
            if key not in names:
                names[key] = f"{prefix}_{len(names)}"
                step.emit(k, names[key], step.spec)
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, _), k.if_(k.icmp("eq", tid, 0)):
        bases = {i: k.load("ptr", k.gep(args, i, "ptr")) for i in sorted(_bases(spec))}

        def address(place: Place, time: Int = 0) -> Reg:
            shift = k.add(k.mul(time, place.stride), place.offset)
            return k.gep(bases[place.base], shift, "i8")

        tables = [k.alloca("ptr", len(step.arguments)) for step in spec.steps]
        for table, step in zip(tables, spec.steps, strict=True):
            for i, argument in enumerate(step.arguments):
                if isinstance(argument, Place) and not argument.stride:
                    k.store(address(argument), k.gep(table, i, "ptr"))
        for carry in spec.carries:
            if not spec.length:
                _copy(k, address(carry.last), address(carry.first), carry.bytes)
            elif carry.kept is not None:
                begin = spec.length - 1 if spec.reverse else 0
                _copy(k, address(carry.kept, begin), address(carry.first), carry.bytes)
        if spec.length:
            with k.loop(0, spec.length) as count:
                _one_step(k, spec, count, address, tables, names)


def _one_step(
    k: Emitter, spec: RepeatSpec, count: Reg, address: Callable[..., Reg], tables: list[Reg],
    names: dict[tuple[Emit, Hashable], str],
) -> None:  # fmt: skip
    left = k.sub(spec.length - 1, count)
    time, following = (left, k.sub(left, 1)) if spec.reverse else (count, k.add(count, 1))
    is_first, is_last = k.icmp("eq", count, 0), k.icmp("eq", left, 0)
    ends_here = k.icmp("eq", k.bits("and", left, 1), 0)
    states: dict[State, Reg] = {}
    for i, carry in enumerate(spec.carries):
        last = address(carry.last)
        if carry.kept is not None:
            before = address(carry.kept, time)
            after = k.select(is_last, last, address(carry.kept, following))
        else:
            other = address(carry.other)
            after = k.select(ends_here, last, other)
            before = k.select(is_first, address(carry.first), k.select(ends_here, other, last))
        states[State(i, after=False)], states[State(i, after=True)] = before, after
    for table, step in zip(tables, spec.steps, strict=True):
        for i, argument in enumerate(step.arguments):
            if isinstance(argument, State):
                k.store(states[argument], k.gep(table, i, "ptr"))
            elif argument.stride:
                k.store(address(argument, time), k.gep(table, i, "ptr"))
        k.line(f"call void @{names[step.emit, step.spec]}(ptr {table}, i64 0, i64 1)")


def _bases(spec: RepeatSpec) -> set[int]:
    places = [a for step in spec.steps for a in step.arguments if isinstance(a, Place)]
    for carry in spec.carries:
        places += [p for p in (carry.first, carry.last, carry.other, carry.kept) if p is not None]
    return {place.base for place in places}


def _copy(k: Emitter, target: Reg, source: Reg, bytes: int) -> None:
    k.declare("llvm.memcpy.p0.p0.i64", "void", ("ptr", "ptr", "i64", "i1"))
    k.line(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {bytes}, i1 false)")
