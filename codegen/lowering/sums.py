"""Sums over a tensor's channels that the kernel making the tensor takes on the way.

A nest of sums over all axes but the channels of what a convolution stores needs no pass of
its own: the kernel keeps the sums (``kernels/tally.py``), and where the nest stood, a small
kernel adds up the threads'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.lanes import load_lanes
from symgrad.codegen.kernels.loop_nest import identity_body, region_key
from symgrad.codegen.kernels.tally import (
    Tally,
    TallySpec,
    lower_join,
    tally_bytes,
)
from symgrad.codegen.registers import Int, Reg, lanes_of
from symgrad.codegen.scalar import emit_region
from symgrad.codegen.storage import Buffer, Storage, over_space
from symgrad.codegen.tiling import Tiling
from symgrad.ir.graph import Func, Op, Region, Value

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Scope

CHANNELS = 1
"""The axis that is kept."""


@dataclass(frozen=True, eq=False)
class RegionSums:
    """The part of an epilogue that adds up: a scalar region on what is stored."""

    reads: tuple[Access, ...]
    body: Region
    position: int
    """Which parameter of the body is what the kernel stores."""
    spec: TallySpec
    partial: Access
    """Where a thread's sums lie."""

    def identity(self) -> tuple[object, ...]:
        """What the code depends on."""
        return self.reads, region_key(self.body), self.position, self.spec, self.partial

    @property
    def operands(self) -> tuple[Access, ...]:
        """What is read, then the threads' sums."""
        return (*self.reads, self.partial)

    def emit(
        self, k: Emitter, stored: Reg, bases: Sequence[Reg], point: Sequence[Int], tally: Tally
    ) -> None:
        """Adds what the region makes of the vector that is stored at ``point``."""
        values = [
            load_lanes(
                k, access.address(k, base, point), access.dtype, access.strides[-1],
                lanes_of(stored.type),
            )
            for access, base in zip(self.reads, bases, strict=True)
        ]  # fmt: skip
        values.insert(self.position, stored)
        tally.take(emit_region(k, self.body, values))


@dataclass(slots=True)
class AttachedSums:
    """A nest of sums that the kernel making one of its operands takes."""

    op: Op
    position: int
    spec: TallySpec
    wanted: tuple[str, ...] = ()
    """For moments, which of them each result is; see ``JoinSpec``."""
    shift: Value | None = None
    """What moments are taken about."""
    storages: tuple[Storage, ...] = field(default=())
    """Where the other operands live, then the threads' sums; set by ``build``."""
    parallel: bool = False
    """Whether the kernel runs on all threads; as many must join their sums."""

    @property
    def needed(self) -> list[Value]:
        """What must exist when the kernel runs."""
        return [v for i, v in enumerate(self.op.operands) if not self.shift and i != self.position]

    def build(self, scope: Scope, tiling: Tiling) -> RegionSums:
        """The sums over the dimensions of the tiling of what is stored."""
        maps, rank = self.op.attrs["maps"], len(self.op.attrs["space"])
        kept = [] if self.shift else [i for i in range(len(maps)) if i != self.position]
        operands = [scope.operand(self.op.operands[i], maps[i], tiling) for i in kept]
        reads = tuple(
            over_space(storage, maps[i], rank, tiling)
            for storage, i in zip(operands, kept, strict=True)
        )
        room = Buffer(tally_bytes(self.spec, scope.threads))
        sums = Storage(room, (self.spec.channels,), Access("f64", (1,)))
        self.storages = (*operands, sums)
        body = self.op.regions[0]
        if self.shift:
            body = identity_body(self.op.results[0].type.dtype.name)
        partial = over_space(sums, (CHANNELS,), rank, tiling)
        return RegionSums(reads, body, 0 if self.shift else self.position, self.spec, partial)

    def join(self, scope: Scope) -> None:
        """Where the nest stood: the sums of all threads together."""
        shift = [scope.dense(self.shift)] if self.shift else []
        results = [scope.allocate(value) for value in self.op.results]
        count = prod(self.op.attrs["space"]) // self.spec.channels
        dtype = self.op.results[0].type.dtype.name
        sums = self.storages[-1]
        scope.run(
            lower_join(self.spec, dtype, count, self.wanted), [sums, *shift], results,
            bytes=float(sums.buffer.bytes), parallel=self.parallel,
        )  # fmt: skip


def find_sums(func: Func, stored_by: Mapping[int, Op]) -> dict[int, AttachedSums]:
    """For each convolution (by id) the nest of sums that its kernel can take.

    ``stored_by`` has the ops whose kernels may, by the id of the value that they store.
    """
    place = {id(op): at for at, op in enumerate(func.ops)}
    found: dict[int, AttachedSums] = {}
    for op in func.ops:
        if op.name != "fused" or not _sums_channels(op):
            continue
        whole = tuple(range(len(op.attrs["space"])))
        for position, (value, axes) in enumerate(zip(op.operands, op.attrs["maps"], strict=True)):
            maker = stored_by.get(id(value))
            if maker is None or axes != whole or id(maker) in found:
                continue
            attached = _attached(op, position, value, maker)
            # What stands before the maker does not depend on it.
            early = (v.op is None or place[id(v.op)] < place[id(maker)] for v in attached.needed)
            if all(early) and _is_allowed(attached, maker, value):
                found[id(maker)] = attached
                break
    return found


def _sums_channels(op: Op) -> bool:
    """Whether a nest is nothing but sums over all axes but the channels."""
    space, dtype = op.attrs["space"], op.results[0].type.dtype.name
    if len(space) != 4 or dtype not in ("f32", "f64"):
        return False
    gone = {axis for axis, n in enumerate(space) if axis != CHANNELS and n != 1}
    return all(
        how is not None
        and how[0] == "sum"
        and gone <= set(how[1])
        and CHANNELS not in how[1]
        and value.type.dtype.name == inner.type.dtype.name == dtype
        for how, value, inner in zip(
            op.attrs["reduce"], op.results, op.regions[0].results, strict=True
        )
    )


def _attached(op: Op, position: int, value: Value, maker: Op) -> AttachedSums:
    channels = op.attrs["space"][CHANNELS]
    if wanted := _moments(op, position, value):
        shift = op.operands[1 - position]
        return AttachedSums(op, position, TallySpec(("moments",), channels), wanted, shift)
    return AttachedSums(op, position, TallySpec(("sum",) * len(op.results), channels))


def _is_allowed(attached: AttachedSums, maker: Op, value: Value) -> bool:
    if attached.shift is None:
        return True
    # Squares of f64 leave no room in f64; and a gradient's first element is not known early.
    return maker.name == "conv" and value.type.dtype.name == "f32"


def _moments(op: Op, position: int, value: Value) -> tuple[str, ...]:
    """What each result is where a nest takes moments of a value about an element of its own:
    ``deviation`` or ``square``; nothing where it does not."""
    body, maps = op.regions[0], op.attrs["maps"]
    if len(op.operands) != 2 or maps[1 - position] != (CHANNELS,):
        return ()
    source = op.operands[1 - position].op
    while source is not None and source.name == "reshape":
        source = source.operands[0].op
    if source is None or source.name != "slice" or source.operands[0] is not value:
        return ()
    names: dict[int, str] = {}
    for inner in body.ops:
        first, second = (*inner.operands, None, None)[:2]
        if inner.name == "sub" and (first, second) == (
            body.params[position], body.params[1 - position],
        ):  # fmt: skip
            names[id(inner.result)] = "deviation"
        elif inner.name == "mul" and first is second and names.get(id(first)) == "deviation":
            names[id(inner.result)] = "square"
        else:
            return ()
    return tuple(names.get(id(v), "") for v in body.results)
