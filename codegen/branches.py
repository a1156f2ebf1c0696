"""Lowering of ``when`` and ``while_loop``: one kernel that runs a body lowered as a program."""

from __future__ import annotations

from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.branch import BranchSpec, emit_branch
from symgrad.codegen.kernels.repeat import Carry, Place, State, Step
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import find_epilogues, lower_func
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.plan import place_buffers
from symgrad.codegen.storage import Buffer, Storage, dense
from symgrad.ir.graph import Func, Op
from symgrad.ir.types import DTYPES, TensorType

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
    body = Func("body", region.params, region.ops, region.results)
    layouts = Layouts(body)
    inner = Scope(scope.target, 1, layouts, find_epilogues(body, layouts), scope.conv_precision)
    calls = lower_func(inner, body)
    arena = Buffer(place_buffers(calls))
    if any(buffer.pool is not None for call in calls for buffer in call.buffers):
        arena.pool = arena  # its halos must stay zero: no other value may use this memory
    others = [_memory(Buffer(s.buffer.bytes)) for s in last] if repeats else last
    constants = {id(b): _memory(b) for call in calls for b in call.reads if b.data is not None}
    memory = [*constants.values(), _memory(arena), *(others if repeats else ())]
    own = last[:1] if repeats else []  # the flag after the loop is nobody's result
    given, made = [*fixed, *flag, *first, *memory, *own], last[1:] if repeats else last
    storages = [*given, *made]
    numbers: dict[int, int] = {}
    for storage in storages:
        numbers.setdefault(id(storage.buffer), len(numbers))

    def place(storage: Storage) -> Place:
        size = DTYPES[storage.access.dtype].bytes
        return Place(numbers[id(storage.buffer)], storage.access.offset * size)

    def argument(buffer: Buffer) -> Place | State:
        if buffer.slot is None:
            base = buffer if buffer.data is not None else arena
            return Place(numbers[id(base)], 0 if base is buffer else buffer.offset)
        if buffer.slot < len(fixed):
            return place(fixed[buffer.slot])
        if buffer.slot < len(region.params):  # the state is without the flag here
            return State(buffer.slot - len(fixed) + 1, after=False)
        return State(buffer.slot - len(region.params), after=True)

    carries = tuple(
        Carry(v.type.bytes, place(a), place(b), place(c))
        for v, a, b, c in zip(region.results, first, last, others, strict=True)
    )
    steps = tuple(
        Step(call.phase.emit, call.phase.spec, tuple(map(argument, call.buffers))) for call in calls
    )
    spec = BranchSpec(place(flag[0] if flag else first[0]), carries, steps, repeats)
    position = {id(s.buffer): i for i, s in enumerate(storages)}
    phase = Phase(
        op.name, emit_branch, spec, tuple(position[key] for key in numbers),
        is_bound=any(call.phase.is_bound for call in calls),
    )  # fmt: skip
    times = _MANY if repeats else 1
    scope.run(
        Lowering((phase,)), given, made, written=[*memory[len(constants) :], *own], parallel=False,
        flops=times * (1 + sum(call.flops for call in calls)),
        bytes=times * sum(call.bytes for call in calls),
    )  # fmt: skip


def _memory(buffer: Buffer) -> Storage:
    """A buffer as so many bytes."""
    return dense(TensorType(DTYPES["u8"], (buffer.bytes,)), buffer)
