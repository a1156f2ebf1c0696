"""What runs on a product's accumulators instead of in a loop of its own.

That is a fused region whose first result is stored instead of the product, or a nest of
sums over what is stored, or both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes
from symgrad.codegen.kernels.loop_nest import identity_body, region_key
from symgrad.codegen.kernels.tally import Tally, TallySpec
from symgrad.codegen.layout import Layouts, refusal
from symgrad.codegen.lowering.sums import AttachedSums, RegionSums, find_sums
from symgrad.codegen.registers import Int, Reg, lanes_of
from symgrad.codegen.scalar import emit_region
from symgrad.codegen.storage import Buffer, Storage, over_space
from symgrad.codegen.tiling import Tiling
from symgrad.ir.graph import Func, Op, Region, Value

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Scope

ANCHORS = ("dot_general", "conv", "conv_input_grad", "conv_weight_grad")
"""Ops whose kernels take an epilogue."""
KEEPS_SUMS = ("conv", "conv_input_grad")
"""Those whose kernels on blocked activations add up what they store."""


@dataclass(slots=True)
class AttachedRegion:
    """What becomes the epilogue of an op, its *anchor*."""

    anchor: Op
    op: Op | None = None
    """The fused op that runs on the anchor's result."""
    position: int = 0
    """Which of its operands that is."""
    sums: AttachedSums | None = None
    """The sums over what is stored."""
    kept: Value | None = None
    """The anchor's own result, where it is asked for as well."""
    storages: tuple[Storage, ...] = field(default=())
    """Where the other operands live and then the other results go, set by ``build``."""
    written: tuple[Storage, ...] = field(default=())
    """Those of the storages that are written."""
    _pairs: tuple[tuple[Buffer, Buffer], ...] = field(default=())

    @property
    def result(self) -> Value:
        """What the anchor's kernel stores instead of its own result."""
        return self.anchor.result if self.op is None else self.op.results[0]

    @property
    def needed(self) -> list[Value]:
        """What the anchor's kernel reads beside its own operands."""
        others = self.op.operands if self.op else ()
        summed = self.sums.needed if self.sums else ()
        return [v for v in (*others, *summed) if v.op is None or v.op not in (self.anchor, self.op)]

    def in_place(self, *own: Storage, result: Storage | None) -> tuple[tuple[Buffer, Buffer], ...]:
        """(written, read) pairs of buffers that may share memory.

        ``own`` are what the anchor itself reads, at any point; its ``result`` is left out
        where it is None, because the anchor writes it more than once.
        """
        kept = {id(s.buffer) for s in own}
        targets = {id(s.buffer) for s in (*self.written, *([result] if result else ()))}
        return tuple(
            (target, source)
            for target, source in self._pairs
            if id(source) not in kept and id(target) in targets
        )

    def build(self, scope: Scope, result: Storage, tiling: Tiling | None = None) -> RegionEpilogue:
        """The epilogue over the axes of the anchor's result, or over its tiling."""
        rank = len(result.shape)
        operands_of = zip(self.op.operands, self.op.attrs["maps"], strict=True) if self.op else ()
        others = [pair for i, pair in enumerate(operands_of) if i != self.position]
        operands = tuple(scope.operand(v, axes, tiling) for v, axes in others)
        reads = tuple(
            over_space(storage, axes, rank, tiling)
            for storage, (_, axes) in zip(operands, others, strict=True)
        )
        results = (*(self.op.results[1:] if self.op else ()), *([self.kept] if self.kept else ()))
        self.written = tuple(scope.allocate(v, plain=tiling is None) for v in results)
        writes = tuple(over_space(s, range(rank), rank, tiling) for s in self.written)
        self.storages = (*operands, *self.written)
        made = [(over_space(result, range(rank), rank, tiling), result)]
        made += zip(writes, self.written, strict=True)
        self._pairs = overwritable(list(zip(reads, operands, strict=True)), made)
        dtype = self.result.type.dtype.name
        body = self.op.regions[0] if self.op else identity_body(dtype)
        if self.kept:
            body = Region(body.params, body.ops, (*body.results, body.params[self.position]))
        sums = None
        if self.sums and tiling:
            sums = self.sums.build(scope, tiling)
            self.storages += self.sums.storages
            self.written += self.sums.storages[-1:]
        return RegionEpilogue(reads, body, self.position, dtype, writes, sums)


def overwritable(
    reads: Sequence[tuple[Access, Storage]], writes: Sequence[tuple[Access, Storage]]
) -> tuple[tuple[Buffer, Buffer], ...]:
    """(written, read) pairs of buffers of which the read one is read at the same points only."""
    found: dict[Buffer, set[Access]] = {}
    for access, source in reads:
        found.setdefault(source.buffer, set()).add(access)
    return tuple(
        (target.buffer, buffer)
        for access, target in writes
        for buffer, accesses in found.items()
        if accesses == {access} and all(access.strides)
    )


@dataclass(frozen=True, eq=False)
class RegionEpilogue:
    """A scalar region applied to a kernel's accumulators; see ``access.Epilogue``.

    The region's first result is what the kernel stores; the others go where ``writes`` says.
    ``sums`` are taken of what is stored.
    """

    reads: tuple[Access, ...]
    body: Region
    position: int
    """Which parameter of the body is the accumulator."""
    result_dtype: str
    writes: tuple[Access, ...] = ()
    sums: RegionSums | None = None

    @property
    def operands(self) -> tuple[Access, ...]:
        """What is read, what is written beside the kernel's result, and what sums take."""
        return (*self.reads, *self.writes, *(self.sums.operands if self.sums else ()))

    @property
    def tally(self) -> TallySpec | None:
        """What is summed."""
        return self.sums.spec if self.sums else None

    def _identity(self) -> tuple[object, ...]:
        key = region_key(self.body), self.position, self.result_dtype
        return self.reads, self.writes, *key, self.sums and self.sums.identity()

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
        tally: Tally | None = None,
    ) -> Reg:
        """Loads the other operands at ``point`` and runs the region."""
        lanes, count = lanes_of(accumulator.type), len(self.reads)
        end = count + len(self.writes)
        values = [
            load_lanes(
                k, access.address(k, base, point), access.dtype, (0, *access.strides)[-1], lanes,
                mask,
            )
            for access, base in zip(self.reads, bases[:count], strict=True)
        ]  # fmt: skip
        values.insert(self.position, accumulator)
        result, *others = emit_region(k, self.body, values)
        for access, base, value in zip(self.writes, bases[count:end], others, strict=True):
            stride = (0, *access.strides)[-1]
            store_lanes(k, value, access.address(k, base, point), access.dtype, stride, mask)
        if self.sums and tally:
            self.sums.emit(k, result, bases[end:-1], point, tally)
        return result


def find_epilogues(func: Func, layouts: Layouts) -> dict[int, AttachedRegion]:
    """For each anchor op (by id) what its kernel can do with its result.

    A fused op must work point by point over the anchor's output and be its only user; a weight
    gradient may be a result of the function as well.  The anchor then runs when all
    operands are there.
    """
    attached = _find_regions(func, layouts)
    keepers = [op for op in func.ops if op.name in KEEPS_SUMS and refusal(op) is None]
    none = {id(op): AttachedRegion(op) for op in keepers}
    stored_by = {id(attached.get(id(op), none[id(op)]).result): op for op in keepers}
    for key, sums in find_sums(func, stored_by).items():
        attached.setdefault(key, none[key]).sums = sums
    return attached


def _find_regions(func: Func, layouts: Layouts) -> dict[int, AttachedRegion]:
    uses = Counter(id(v) for op in func.ops for v in op.operands)
    returned = Counter(id(v) for v in func.results)
    attached: dict[int, AttachedRegion] = {}
    for op in func.ops:
        if op.name != "fused" or any(op.attrs["reduce"]) or not op.results[0].type.size:
            continue
        whole = tuple(range(len(op.attrs["space"])))
        for position, (value, axes) in enumerate(zip(op.operands, op.attrs["maps"], strict=True)):
            anchor = value.op
            if anchor is None or anchor.name not in ANCHORS or id(anchor) in attached:
                continue
            if axes != whole or uses[id(value)] != 1 or not _takes(anchor, op, layouts):
                continue
            if not returned[id(value)]:
                attached[id(anchor)] = AttachedRegion(anchor, op, position)
                break
            if anchor.name == "conv_weight_grad":
                attached[id(anchor)] = AttachedRegion(anchor, op, position, kept=value)
                break
    return attached


def _takes(anchor: Op, op: Op, layouts: Layouts) -> bool:
    """Whether the anchor's kernel can store what a fused op makes of its result."""
    if anchor.name == "conv_weight_grad" and (
        refusal(anchor) or not layouts.is_weights(anchor.result)
    ):
        return False
    if anchor.name == "conv_input_grad" and refusal(anchor):
        return False
    return anchor.name == "dot_general" or all(v.type == anchor.result.type for v in op.results)
