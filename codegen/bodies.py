"""Bodies of loops and branches: regions lowered as programs of their own, for one kernel to run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from symgrad.codegen.kernels import Phase
from symgrad.codegen.kernels.body import Emit, Place, State, Step
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import find_epilogues, lower_func
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.plan import barriers, place_buffers
from symgrad.codegen.runtime import program
from symgrad.codegen.storage import Buffer, Storage, dense
from symgrad.ir.graph import Func, Region
from symgrad.ir.types import DTYPES, TensorType

TEAM = Buffer(0, slot=program.TEAM)
"""The block of the thread team."""


class Body:
    """The kernel calls of a region, its constants, and an arena for all else that it makes."""

    def __init__(self, scope: Scope, region: Region) -> None:
        func = Func("body", region.params, region.ops, region.results)
        layouts = Layouts(func)
        epilogues = find_epilogues(func, layouts)
        self.calls = lower_func(
            Scope(scope.target, scope.threads, layouts, epilogues, scope.conv_precision), func
        )
        self.parallel = any(call.parallel for call in self.calls)
        """Whether all threads run the body together: some of its kernels are worth it."""
        arena = Buffer(place_buffers(self.calls))
        if any(buffer.pool is not None for call in self.calls for buffer in call.buffers):
            arena.pool = arena  # its halos must stay zero: no other value may use this memory
        self.arena = memory(arena)
        found = {id(b): memory(b) for call in self.calls for b in call.reads if b.data is not None}
        self.given = [*found.values(), self.arena]
        """What the kernel gets besides the region's operands: constants, arena and team."""
        if self.parallel or any(b is TEAM for call in self.calls for b in call.buffers):
            self.given.append(memory(TEAM))
        self.flops = sum(call.flops for call in self.calls)
        self.bytes = sum(call.bytes for call in self.calls)

    def steps(self, places: Places, slot: Callable[[int], Place | State]) -> tuple[Step, ...]:
        """The kernels and where each finds its arguments; ``slot`` tells for the region's
        parameters and, numbered on, its results."""

        def argument(buffer: Buffer) -> Place | State:
            if buffer.data is not None or buffer is TEAM:
                return places.at(buffer)
            if buffer.slot is not None:
                return slot(buffer.slot)
            return places.at(self.arena.buffer, buffer.offset)

        waits = [False] * len(self.calls)
        if self.parallel:  # the last one is for the next step, which works in the same memory
            waits = [*barriers(self.calls)[:-1], True]
        return tuple(
            Step(
                call.phase.emit, call.phase.spec, tuple(map(argument, call.buffers)),
                call.parallel, wait,
            )
            for call, wait in zip(self.calls, waits, strict=True)
        )  # fmt: skip

    def team(self, places: Places) -> int | None:
        """The kernel's argument that points to the team, if that runs the body together."""
        return places.at(TEAM).base if self.parallel else None

    def phase(self, name: str, emit: Emit, spec: Hashable, places: Places) -> Phase:
        """The kernel that runs the body."""
        is_bound = any(call.phase.is_bound for call in self.calls)
        return Phase(name, emit, spec, places.positions, is_bound=is_bound)


class Places:
    """Where a kernel finds storages: its arguments are their buffers, each once."""

    def __init__(self, storages: Sequence[Storage]) -> None:
        self._numbers: dict[int, int] = {}
        last: dict[int, int] = {}
        for position, storage in enumerate(storages):
            self._numbers.setdefault(id(storage.buffer), len(self._numbers))
            last[id(storage.buffer)] = position
        self.positions = tuple(last[key] for key in self._numbers)
        """Of each argument, where it stands among the storages."""

    def of(self, storage: Storage, *, each: bool = False) -> Place:
        """A storage, or ``each`` of its elements along the first axis, one a step."""
        size = DTYPES[storage.access.dtype].bytes
        stride = storage.access.strides[0] * size if each else 0
        return Place(self._numbers[id(storage.buffer)], storage.access.offset * size, stride)

    def at(self, buffer: Buffer, offset: int = 0) -> Place:
        """So many bytes into a buffer."""
        return Place(self._numbers[id(buffer)], offset)


def memory(buffer: Buffer) -> Storage:
    """A buffer as so many bytes."""
    return dense(TensorType(DTYPES["u8"], (buffer.bytes,)), buffer)
