"""Lowering of ``scan``: its body is lowered as a program, which one kernel runs step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symgrad.codegen.access import Access
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.loop_nest import LoopSpec, emit_loop
from symgrad.codegen.kernels.repeat import (
    Carry,
    Place,
    RepeatSpec,
    Shared,
    State,
    Step,
    emit_repeat,
)
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import find_epilogues, lower_func
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.plan import place_buffers
from symgrad.codegen.storage import Buffer, Storage, dense
from symgrad.ir.graph import Func, Op
from symgrad.ir.types import DTYPES, TensorType


@lowers("scan")
def scan(scope: Scope, op: Op) -> None:
    """One kernel, whatever the body is made of; the threads share the points where they can."""
    (region,), attrs = op.regions, op.attrs
    consts, carries, length = attrs["consts"], attrs["carries"], attrs["length"]
    body = Func("body", region.params, region.ops, region.results)
    layouts = Layouts(body)
    inner = Scope(scope.target, 1, layouts, find_epilogues(body, layouts), scope.conv_precision)
    calls = lower_func(inner, body)
    arena = Buffer(place_buffers(calls))
    if any(buffer.pool is not None for call in calls for buffer in call.buffers):
        arena.pool = arena  # its halos must stay zero: no other value may use this memory

    gives = len(region.results) - carries
    operands = [scope.dense(v) for v in op.operands]
    results = [scope.allocate(v) for v in op.results[: carries + gives]]
    kept = {
        i: scope.allocate(value)
        for i, value in enumerate(op.results[carries + gives :])
        if id(value) in scope.read
    }
    others = [_memory(Buffer(v.type.bytes)) for v in op.results[:carries]]
    constants = {id(b): _memory(b) for call in calls for b in call.reads if b.data is not None}
    given = [*operands, *constants.values(), *others, _memory(arena)]
    made = [*results, *kept.values()]
    numbers: dict[int, int] = {}
    for storage in (*given, *made):
        numbers.setdefault(id(storage.buffer), len(numbers))

    def place(storage: Storage, *, each: bool = False) -> Place:
        size = DTYPES[storage.access.dtype].bytes
        stride = storage.access.strides[0] * size if each else 0
        return Place(numbers[id(storage.buffer)], storage.access.offset * size, stride)

    def argument(buffer: Buffer) -> Place | State:
        if buffer.slot is None:
            base = buffer if buffer.data is not None else arena
            return Place(numbers[id(base)], 0 if base is buffer else buffer.offset)
        slot = buffer.slot
        if consts <= slot < consts + carries:
            return State(slot - consts, after=False)
        if slot < len(operands):
            return place(operands[slot], each=slot >= consts)
        slot -= len(operands)
        return State(slot, after=True) if slot < carries else place(results[slot], each=True)

    state = tuple(
        Carry(
            op.results[i].type.bytes,
            place(operands[consts + i]),
            place(results[i]),
            place(others[i]),
            place(kept[i], each=True) if i in kept else None,
        )
        for i in range(carries)
    )
    steps = tuple(
        Step(call.phase.emit, call.phase.spec, tuple(map(argument, call.buffers))) for call in calls
    )
    shared = _shared(calls, state, steps)
    if shared is None:
        width = scope.target.vector_bytes
        state = tuple(replace(carry, is_local=carry.bytes <= width) for carry in state)
    spec = RepeatSpec(length, attrs["reverse"], state, steps, shared)
    position = {id(s.buffer): i for i, s in enumerate((*given, *made))}
    phase = Phase(
        "scan", emit_repeat, spec, tuple(position[key] for key in numbers),
        is_bound=any(call.phase.is_bound for call in calls),
    )  # fmt: skip
    scope.run(
        Lowering((phase,)), given, made, written=[*others, given[-1]],
        parallel=None if spec.shared else False,
        flops=length * sum(call.flops for call in calls),
        bytes=length * sum(call.bytes for call in calls),
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


def _memory(buffer: Buffer) -> Storage:
    """A buffer as so many bytes."""
    return dense(TensorType(DTYPES["u8"], (buffer.bytes,)), buffer)
