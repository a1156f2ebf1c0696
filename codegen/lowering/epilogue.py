"""Fused regions that run on a product's accumulators instead of in a loop of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter, Int, Reg, lanes_of
from symgrad.codegen.kernels.lanes import load_lanes
from symgrad.codegen.kernels.loop_nest import region_key
from symgrad.codegen.scalar import emit_region
from symgrad.codegen.storage import Storage, over_space
from symgrad.codegen.tiling import Tiling
from symgrad.ir.graph import Func, Op, Region, Value

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Scope

ANCHORS = ("dot_general", "conv")
"""Ops whose kernels take an epilogue."""


@dataclass(slots=True)
class AttachedRegion:
    """A fused op that becomes the epilogue of the op making one of its operands."""

    op: Op
    position: int
    storages: tuple[Storage, ...] = field(default=())
    """Where the other operands live, set by ``build``."""

    @property
    def result(self) -> Value:
        """What the anchor's kernel stores instead of its own result."""
        return self.op.result

    def build(self, scope: Scope, rank: int, tiling: Tiling | None = None) -> RegionEpilogue:
        """The epilogue over the anchor's output space, of so many axes or tiled."""
        others = [
            (value, axes)
            for i, (value, axes) in enumerate(
                zip(self.op.operands, self.op.attrs["maps"], strict=True)
            )
            if i != self.position
        ]
        self.storages = tuple(scope.operand(v, axes, tiling) for v, axes in others)
        accesses = tuple(
            over_space(storage, axes, rank, tiling)
            for storage, (_, axes) in zip(self.storages, others, strict=True)
        )
        dtype = self.result.type.dtype.name
        return RegionEpilogue(accesses, self.op.regions[0], self.position, dtype)


@dataclass(frozen=True, eq=False)
class RegionEpilogue:
    """A scalar region applied to a kernel's accumulators; see ``access.Epilogue``."""

    operands: tuple[Access, ...]
    body: Region
    position: int
    """Which parameter of the body is the accumulator."""
    result_dtype: str

    def _identity(self) -> tuple[object, ...]:
        return self.operands, region_key(self.body), self.position, self.result_dtype

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegionEpilogue) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def emit(
        self,
        k: Emitter,
        accumulator: Reg,
        bases: Sequence[Reg],
        point: Sequence[Int],
        mask: Reg | None,
    ) -> Reg:
        """Loads the other operands at ``point`` and runs the region."""
        values = [
            load_lanes(
                k, access.address(k, base, point), access.dtype, (0, *access.strides)[-1],
                lanes_of(accumulator.type), mask,
            )
            for access, base in zip(self.operands, bases, strict=True)
        ]  # fmt: skip
        values.insert(self.position, accumulator)
        (result,) = emit_region(k, self.body, values)
        return result


def find_epilogues(func: Func) -> dict[int, AttachedRegion]:
    """For each anchor op (by id) the fused op that its kernel can run on its result.

    That op has one elementwise result over the anchor's output and is the only user.
    The anchor then runs where the fused op stood, when all operands are there.
    """
    uses = Counter(id(v) for op in func.ops for v in op.operands)
    uses.update(id(v) for v in func.results)
    attached: dict[int, AttachedRegion] = {}
    for op in func.ops:
        if op.name != "fused" or op.attrs["reduce"] != (None,) or not op.result.type.size:
            continue
        whole = tuple(range(len(op.attrs["space"])))
        for position, (value, axes) in enumerate(zip(op.operands, op.attrs["maps"], strict=True)):
            anchor = value.op
            if anchor is None or anchor.name not in ANCHORS or id(anchor) in attached:
                continue
            same = anchor.name != "conv" or op.result.type == value.type
            if same and axes == whole and uses[id(value)] == 1 and op.operands.count(value) == 1:
                attached[id(anchor)] = AttachedRegion(op, position)
                break
    return attached
