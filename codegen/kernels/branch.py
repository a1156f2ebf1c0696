"""Kernels that run a body if a flag is true (``when``), or as long as it is (``while_loop``)."""

from __future__ import annotations

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.body import (
    Carry,
    Place,
    State,
    Step,
    copy_bytes,
    crew,
    emit_steps,
)
from symgrad.codegen.registers import Reg
from symgrad.ir.record import record


@record
class BranchSpec:
    """A body and what it works on.

    ``carries`` are first copied from ``first`` to ``last``.  Without ``repeats`` the body then
    writes ``last`` if the ``flag`` is true.  Else the flag is carry 0, and the state of each
    step is in ``last`` and ``other`` by turns.  Argument number ``team``, if given, points to
    the team whose threads run the body together.
    """

    flag: Place
    carries: tuple[Carry, ...]
    steps: tuple[Step, ...]
    repeats: bool
    team: int | None = None


def emit_branch(k: Emitter, name: str, spec: BranchSpec) -> None:
    """Writes the branch or loop and its kernels."""
    names = emit_steps(k, spec.steps)
    with (
        k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth),
        crew(k, args, tid, nth, spec.team) as threads,
    ):

        def address(place: Place) -> Reg:
            return k.gep(k.load("ptr", k.gep(args, place.base, "ptr")), place.offset, "i8")

        def is_set(flag: Reg) -> Reg:
            return k.icmp("ne", k.load("i8", flag), 0)

        def body(before: list[Reg], after: list[Reg]) -> None:
            for table, step in zip(tables, spec.steps, strict=True):
                for i, a in enumerate(step.arguments):
                    if isinstance(a, State):
                        k.store((after if a.after else before)[a.carry], k.gep(table, i, "ptr"))
                threads.run(step, names[step.emit, step.spec], table)

        tables = [k.alloca("ptr", len(step.arguments)) for step in spec.steps]
        for table, step in zip(tables, spec.steps, strict=True):
            for i, argument in enumerate(step.arguments):
                if isinstance(argument, Place):
                    k.store(address(argument), k.gep(table, i, "ptr"))
        last = [address(c.last) for c in spec.carries]
        with threads.first():
            for carry, target in zip(spec.carries, last, strict=True):
                copy_bytes(k, target, address(carry.first), carry.bytes)
        threads.meet()
        if not spec.repeats:
            with k.if_(is_set(address(spec.flag))):
                body([], last)
            return
        other = [address(c.other) for c in spec.carries]
        turn = k.alloca("i64")
        k.store(k.as_reg(0), turn)

        def in_last() -> Reg:
            return k.icmp("eq", k.load("i64", turn), 0)

        with k.while_(lambda: is_set(k.select(in_last(), last[0], other[0]))):
            is_last = in_last()
            before = [k.select(is_last, a, b) for a, b in zip(last, other, strict=True)]
            after = [k.select(is_last, b, a) for a, b in zip(last, other, strict=True)]
            body(before, after)
            k.store(k.as_reg(k.sub(1, k.load("i64", turn))), turn)
        with threads.first(), k.if_(k.icmp("ne", k.load("i64", turn), 0)):
            for carry, target, source in zip(spec.carries, last, other, strict=True):
                copy_bytes(k, target, source, carry.bytes)
