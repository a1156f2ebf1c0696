"""Lowering of ``when`` and ``while_loop``: one kernel that runs a body lowered as a program."""

from __future__ import annotations

from symgrad.codegen.bodies import Body, Places, memory
from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.body import Carry, Place, State
from symgrad.codegen.kernels.branch import BranchSpec, emit_branch
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Buffer, Storage, dense
from symgrad.ir.graph import Op

_MANY = 100_000
"""Steps that a loop of unknown length is taken for: too many to hold Python up meanwhile."""


@lowers("when")
def when(scope: Scope, op: Op) -> None:
    """The results are the given values, which the body overwrites if it runs."""
    count = op.attrs["count"]
    operands = [scope.dense(v) for v in op.operands]
    results = [scope.allocate(v) for v in op.results]
    _branch(scope, op, operands[1 + count :], operands[:1], operands[1 : 1 + count], results)


@lowers("while_loop")
def while_loop(scope: Scope, op: Op) -> None:
    """The flag is part of the state."""
    consts = op.attrs["consts"]
    operands = [scope.dense(v) for v in op.operands]
    results = [scope.allocate(v) for v in op.results]
    flag = dense(op.operands[consts].type)
    _branch(scope, op, operands[:consts], [], operands[consts:], [flag, *results])


def _branch(
    scope: Scope, op: Op, fixed: list[Storage], flag: list[Storage], first: list[Storage],
    last: list[Storage],
) -> None:  # fmt: skip
    """``first`` are the values before the body, ``last`` where those after it are.

    With a ``flag`` the body runs at most once, on ``fixed`` alone; without one the first value
    is it, and the body takes all others, too.
    """
    (region,), repeats = op.regions, not flag
    body = Body(scope, region)
    turns = [memory(Buffer(s.buffer.bytes)) for s in last] if repeats else []
    own = last[:1] if repeats else []  # the flag after the loop is nobody's result
    given = [*fixed, *flag, *first, *body.given, *turns, *own]
    made = last[1:] if repeats else last
    places = Places((*given, *made))

    def argument(slot: int) -> Place | State:
        if slot < len(fixed):
            return places.of(fixed[slot])
        if slot < len(region.params):  # the state is without the flag here
            return State(slot - len(fixed) + 1, after=False)
        return State(slot - len(region.params), after=True)

    carries = tuple(
        Carry(v.type.bytes, places.of(a), places.of(b), places.of(c))
        for v, a, b, c in zip(region.results, first, last, turns or last, strict=True)
    )
    condition = places.of(flag[0] if flag else first[0])
    steps = body.steps(places, argument)
    spec = BranchSpec(condition, carries, steps, repeats, body.team(places))
    times = _MANY if repeats else 1
    scope.run(
        Lowering((body.phase(op.name, emit_branch, spec, places),)), given, made,
        written=[body.arena, *turns, *own], parallel=body.parallel,
        flops=times * (1 + body.flops), bytes=times * body.bytes,
    )  # fmt: skip
