"""Lowering of ``scan``: its body is lowered as a program, which one kernel runs step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symgrad.codegen.access import Access
from symgrad.codegen.bodies import Body, Places, memory
from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.body import Carry, Place, State, Step
from symgrad.codegen.kernels.loop_nest import LoopSpec, emit_loop
from symgrad.codegen.kernels.repeat import RepeatSpec, Shared, emit_repeat
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.storage import Buffer
from symgrad.ir.graph import Op
from symgrad.ir.types import DTYPES


@lowers("scan")
def scan(scope: Scope, op: Op) -> None:
    """One kernel, whatever the body is made of; see ``kernels.repeat`` for who runs it."""
    (region,), attrs = op.regions, op.attrs
    consts, carries, length = attrs["consts"], attrs["carries"], attrs["length"]
    body = Body(scope, region)
    gives = len(region.results) - carries
    operands = [scope.dense(v) for v in op.operands]
    results = [scope.allocate(v) for v in op.results[: carries + gives]]
    kept = {
        i: scope.allocate(value)
        for i, value in enumerate(op.results[carries + gives :])
        if id(value) in scope.read
    }
    others = [memory(Buffer(v.type.bytes)) for v in op.results[:carries]]
    given = [*operands, *others, *body.given]
    made = [*results, *kept.values()]
    places = Places((*given, *made))

    def argument(slot: int) -> Place | State:
        if consts <= slot < consts + carries:
            return State(slot - consts, after=False)
        if slot < len(operands):
            return places.of(operands[slot], each=slot >= consts)
        slot -= len(operands)
        return State(slot, after=True) if slot < carries else places.of(results[slot], each=True)

    state = tuple(
        Carry(
            op.results[i].type.bytes,
            places.of(operands[consts + i]),
            places.of(results[i]),
            places.of(others[i]),
            places.of(kept[i], each=True) if i in kept else None,
        )
        for i in range(carries)
    )
    steps = body.steps(places, argument)
    shared = _shared(body.calls, state, steps)
    if shared:
        steps = tuple(replace(step, parallel=False, barrier=False) for step in steps)
    elif not body.parallel:
        width = scope.target.vector_bytes
        state = tuple(replace(carry, is_local=carry.bytes <= width) for carry in state)
    team = None if shared else body.team(places)
    spec = RepeatSpec(length, attrs["reverse"], state, steps, shared, team)
    scope.run(
        Lowering((body.phase("scan", emit_repeat, spec, places),)), given, made,
        written=[*others, body.arena], parallel=None if shared else body.parallel,
        flops=length * body.flops, bytes=length * body.bytes,
    )  # fmt: skip


def _shared(
    calls: Sequence[Call], carries: Sequence[Carry], steps: Sequence[Step]
) -> Shared | None:
    """How the threads may share the points of a body; ``None`` if it mixes them.

    A flat kernel reads and writes contiguous arrays point by point.  Of the state it must
    read just the elements that it writes.
    """
    if len(calls) != 1 or calls[0].phase.emit is not emit_loop:
        return None
    (call,), (step,) = calls, steps
    spec = call.phase.spec
    if not isinstance(spec, LoopSpec) or not spec.flat:
        return None
    accesses = (*spec.inputs, *(output.access for output in spec.outputs))
    state: dict[int, Access] = {}
    for argument, access in zip(step.arguments, accesses, strict=False):
        if isinstance(argument, State):
            if access.offset or state.setdefault(argument.carry, access) != access:
                return None
    (points,) = call.phase.numbers
    widths = [DTYPES[a.dtype].bytes * a.strides[0] for a in accesses]
    carried = [DTYPES[state[i].dtype].bytes * state[i].strides[0] for i in sorted(state)]
    if [points * width for width in carried] != [carry.bytes for carry in carries]:
        return None
    return Shared(points, tuple(widths), tuple(carried))
