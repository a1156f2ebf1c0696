"""Kernels that call others if a flag is true (``when``), or as long as it is (``while_loop``).

What is called are kernels of a body that is lowered like a program of its own; see
``repeat``.  All of it runs on thread 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from symgrad.codegen.emitter import Emitter, Reg
from symgrad.codegen.kernels.repeat import Carry, Place, State, Step, copy_bytes, emit_steps


@dataclass(frozen=True, slots=True)
class BranchSpec:
    """A body and what it works on.

    ``carries`` are first copied from ``first`` to ``last``.  Without ``repeats`` the body then
    writes ``last`` if the ``flag`` is true.  Else the flag is carry 0, and the state of each
    step is in ``last`` and ``other`` by turns.
    """

    flag: Place
    carries: tuple[Carry, ...]
    steps: tuple[Step, ...]
    repeats: bool


def emit_branch(k: Emitter, name: str, spec: BranchSpec) -> None:
    """Writes the branch or loop and its kernels."""
    names = emit_steps(k, spec.steps)
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, _), k.if_(k.icmp("eq", tid, 0)):

        def address(place: Place) -> Reg:
            return k.gep(k.load("ptr", k.gep(args, place.base, "ptr")), place.offset, "i8")

        def is_set(flag: Reg) -> Reg:
            return k.icmp("ne", k.load("i8", flag), 0)

        def body(before: list[Reg], after: list[Reg]) -> None:
            for table, step in zip(tables, spec.steps, strict=True):
                for i, a in enumerate(step.arguments):
                    if isinstance(a, State):
                        k.store((after if a.after else before)[a.carry], k.gep(table, i, "ptr"))
                k.line(f"call void @{names[step.emit, step.spec]}(ptr {table}, i64 0, i64 1)")

        tables = [k.alloca("ptr", len(step.arguments)) for step in spec.steps]
        for table, step in zip(tables, spec.steps, strict=True):
            for i, argument in enumerate(step.arguments):
                if isinstance(argument, Place):
                    k.store(address(argument), k.gep(table, i, "ptr"))
        last = [address(c.last) for c in spec.carries]
        for carry, target in zip(spec.carries, last, strict=True):
            copy_bytes(k, target, address(carry.first), carry.bytes)
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
        with k.if_(k.icmp("ne", k.load("i64", turn), 0)):
            for carry, target, source in zip(spec.carries, last, other, strict=True):
                copy_bytes(k, target, source, carry.bytes)
