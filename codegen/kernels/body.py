"""What kernels that run a body again and again, or perhaps once, have in common.

The body of a loop or branch is lowered like a program of its own.  Its kernels are internal
functions of the module of the kernel that runs them.  Where any of them is worth it, all
threads run the body together, as they run a program, with barriers inside the kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.runtime.threads import emit_inner_gate, meet_inside
from symgrad.ir.record import record

Emit = Callable[[Emitter, str, Any], None]


@record
class Place:
    """``offset`` bytes into the loop's argument ``base``, and ``stride`` more per step of time."""

    base: int
    offset: int = 0
    stride: int = 0


@record
class Carry:
    """Where one part of the state lies: ``first`` before the loop and ``last`` after it.

    In between: at each step's element of ``kept``, if the states are kept; else in ``other``
    and ``last`` by turns.  With ``is_local`` in a register, from where it is put into ``kept``.
    """

    bytes: int
    first: Place
    last: Place
    other: Place
    kept: Place | None = None
    is_local: bool = False


@record
class State:
    """An argument of a kernel: the state number ``carry`` before a step, or ``after`` it."""

    carry: int
    after: bool


@record
class Step:
    """A kernel of the body and its arguments.

    A ``parallel`` one is for all threads of a crew, any other for the first of them; where a
    ``barrier`` follows, they wait for each other.
    """

    emit: Emit
    spec: Hashable
    arguments: tuple[Place | State, ...]
    parallel: bool = False
    barrier: bool = False


Names = dict[tuple[Emit, Hashable], str]
"""Functions of a module by the kernels they are."""


def emit_steps(k: Emitter, steps: Sequence[Step]) -> Names:
    """Writes the kernels of a body, each once, as internal functions; their names."""
    names: Names = {}
    if any(step.barrier for step in steps):
        emit_inner_gate(k)
    with k.hidden() as prefix:
        for step in steps:
            key = step.emit, step.spec
            if key not in names:
                names[key] = f"{prefix}_{len(names)}"
                step.emit(k, names[key], step.spec)
    return names


@record
class Crew:
    """The threads that run a body: this one is number ``tid`` of ``size``.

    They meet at the inner gate of ``team``; without one there is a single thread.
    """

    k: Emitter
    tid: Int = 0
    size: Int = 1
    team: Reg | None = None

    def first(self) -> contextlib.AbstractContextManager[None]:
        """What only the first thread does."""
        alone = self.team is None
        return contextlib.nullcontext() if alone else self.k.if_(self.k.icmp("eq", self.tid, 0))

    def meet(self) -> None:
        """Nobody goes on before all have come."""
        if self.team is not None:
            meet_inside(self.k, self.team, self.k.as_reg(self.size))

    def run(self, step: Step, kernel: str, table: Reg, attributes: str = "") -> None:
        """Calls the kernel of a step on its arguments."""
        call = f"call void @{kernel}(ptr {table}, i64"
        if self.team is not None and step.parallel:
            self.k.line(f"{call} {self.tid}, i64 {self.size}) {attributes}")
        else:
            with self.first():
                self.k.line(f"{call} 0, i64 1) {attributes}")
        if step.barrier:
            self.meet()


@contextlib.contextmanager
def crew(k: Emitter, args: Reg, tid: Reg, size: Reg, team: int | None) -> Iterator[Crew]:
    """The threads that run a body; the first alone unless argument ``team`` is their team."""
    if team is None:
        with k.if_(k.icmp("eq", tid, 0)):
            yield Crew(k)
    else:
        yield Crew(k, tid, size, k.load("ptr", k.gep(args, team, "ptr")))


def copy_bytes(k: Emitter, target: Reg, source: Reg, bytes: Int) -> None:
    """Copies memory that does not overlap."""
    k.declare("llvm.memcpy.p0.p0.i64", "void", ("ptr", "ptr", "i64", "i1"))
    k.line(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {bytes}, i1 false)")
