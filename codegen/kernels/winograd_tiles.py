"""The parts that convolutions by Winograd's algorithm are made of.

A tile of the output takes a tile of the input through four functions: ``transform`` and
``filter`` transform 16 channels at a time, ``product`` contracts over input channels, one
matrix product per element of the transformed tile, and ``output`` transforms back, runs
the epilogue and stores.  Transformed values lie as

    V  [n n][in blocks][tiles][16]              of the input
    U  [n n][groups of out blocks][in blocks][16][channels of the group]   of the filter
    M  [n n][out blocks][tiles][16]             of the output

so that ``product`` is the inner loop of the direct kernel, with tiles for pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import product

from symgrad.codegen.access import Access, Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.ahead import LINE
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, offset_of
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec, emit_pack_pair, weight_block
from symgrad.codegen.kernels.tally import Finish
from symgrad.codegen.kernels.winograd import apply_2d
from symgrad.codegen.kernels.winograd_regions import Axis, Cut, Region
from symgrad.codegen.kernels.winograd_transform import (
    PAD,
    Tiles,
    for_regions,
    load_tile,
    store_tile,
)
from symgrad.codegen.registers import bytes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record


@record
class WinogradSpec:
    """A convolution, or its gradient to the input, ``x -> y``."""

    x: Blocked
    y: Blocked
    weights: PackWeightsSpec
    axes: tuple[Axis, Axis]
    groups: int = 1
    epilogue: Epilogue | None = None
    invariant_weights: bool = False
    """Whether the weights are the same in most runs, so that their transforms are kept."""

    @property
    def points(self) -> int:
        """Elements of a transformed tile."""
        return self.cut.points

    @property
    def cut(self) -> Cut:
        """How the output falls into tiles."""
        return Cut.of(self.y.shape[0], (self.y.shape[2], self.y.shape[3]), self.axes)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.cut.tiles

    @property
    def x_tiles(self) -> Tiles:
        """The input's tiles."""
        return Tiles(self.x, self.cut)

    @property
    def in_blocks(self) -> int:
        """Channel blocks that one output sums over."""
        return self.x.blocks // self.groups

    @property
    def inputs(self) -> int:
        """Input channels of one block: the rows of a filter's matrices that are used."""
        return self.x.block

    @property
    def out_blocks(self) -> int:
        """Channel blocks of one group of the convolution's outputs."""
        return self.y.blocks // self.groups

    def refusal(self) -> str | None:
        """Why this algorithm cannot compute the convolution, if so."""
        for tensor in (self.x, self.y):
            if reason := tensor.refusal():
                return reason
        if not self.x.fills_vectors:
            return f"pixels of {self.x.block} channels are no whole vectors"
        if self.y.block != BLOCK:
            return f"{self.y.shape[1]} channels do not fill a block of {BLOCK}"
        if self.weights.source.kernel != (taps := (self.axes[0].taps, self.axes[1].taps)):
            return f"the filter is not {taps[0]} x {taps[1]}"
        if self.groups > 1 and any(t.shape[1] % (BLOCK * self.groups) for t in (self.x, self.y)):
            return f"{self.groups} groups do not have whole blocks of {BLOCK} channels each"
        return None


@record
class Tiling:
    """How the products are cut up."""

    tiles: int
    """Tiles in registers."""
    vectors: int
    """Vectors of output channels in registers."""
    block: int
    """Tiles that are transformed, multiplied and transformed back together."""
    depth: int
    """Input channel blocks whose filters are transformed together, filters first."""
    splits: int = 1
    """Parts of the output channels, tiles first: a thread takes some tiles of one part."""


class Shape:
    """Sizes and strides, in elements, that follow from spec, tiling and target."""

    def __init__(self, spec: WinogradSpec, tiling: Tiling, target: Target) -> None:
        self.spec, self.tiling, self.cut = spec, tiling, spec.cut
        self.scalar = spec.x.scalar
        self.lanes = min(BLOCK, target.lanes(bytes_of(self.scalar)))
        self.vector = vec(self.scalar, self.lanes)
        self.channels = tiling.vectors * self.lanes
        """Output channels in registers."""
        self.group = max(1, self.channels // BLOCK)
        """Output channel blocks whose filters lie side by side."""
        self.slices = self.group * BLOCK // self.channels
        self.groups = spec.y.blocks // self.group

    @cached_property
    def stage(self) -> int:
        """A zeroed input tile, or a block pair of the weights and room to transpose one."""
        return max(self.spec.x_tiles.stage, 2 * self.spec.weights.source.matrix)

    @property
    def sinks(self) -> tuple[Access, ...]:
        """What is read and written where results are stored: the epilogue's operands, then y
        from its first pixel on."""
        y, epilogue = self.spec.y, self.spec.epilogue
        return (*(epilogue.operands if epilogue else ()), Access(y.dtype, (*y.strides, 1)))

    def v_plane(self, tiles: int) -> int:
        """From one element of the transformed tiles to the next."""
        return self.spec.x.blocks * tiles * BLOCK + PAD

    def u_plane(self, groups: int, blocks: int) -> int:
        """Likewise in U, for so many groups of outputs and blocks of inputs."""
        return groups * blocks * self.group * BLOCK * BLOCK + PAD

    def m_plane(self, blocks: int) -> int:
        """Likewise in M, for so many output blocks."""
        return blocks * self.tiling.block * BLOCK + PAD


def emit_filter(k: Emitter, name: str, shape: Shape, u_plane: int, *, fetches: bool = True) -> None:
    """Emits ``void name(ptr weights, i64 out_block, i64 in_block, ptr u, ptr stage, i64 low,
    i64 high)``.

    Transforms the input channels ``low <= i < high`` of one block pair; ``u`` is where the
    pair's first element goes.  Asks for the next pair if it ``fetches``.
    """
    spec, packing = shape.spec, shape.spec.weights
    scalar, source = shape.scalar, packing.source
    pitch = shape.group * BLOCK
    down, across = (axis.matrices().filter for axis in spec.axes)
    if not packing.is_ready:
        emit_pack_pair(k, f"{name}_pack", packing, fetches=fetches)
    params = ["ptr", "i64", "i64", "ptr", "ptr", "i64", "i64"]
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        base, out_block, in_block, u, stage, low, high = regs
        if packing.is_ready:
            pair = weight_block(k, source, base, out_block, in_block)
        else:
            pair = stage
            panel = k.gep(stage, k.mul(in_block, -source.matrix), scalar)
            room = k.gep(stage, source.matrix, scalar)
            k.call(f"{name}_pack", "void", [base, out_block, in_block, panel, room])
        with k.loop(low, high) as row, k.loop(0, BLOCK, shape.lanes) as lane:
            at = k.gep(pair, k.add(k.mul(row, BLOCK), lane), scalar)
            if fetches and packing.is_ready:  # it comes from memory in as many streams
                for tap in range(source.taps):
                    ahead = source.matrix + tap * source.block * BLOCK
                    k.prefetch(k.gep(at, ahead, scalar), locality=2)
            taps = load_tile(k, shape.vector, source.kernel, at, source.block * BLOCK)
            to = k.gep(u, k.add(k.mul(row, pitch), lane), scalar)
            transformed = apply_2d(k, down, taps, across)
            store_tile(k, transformed, to, u_plane, scalar)


@record
class Ahead:
    """What products ask for of the weights whose turn is next: with each input block, a run of
    lines from each of some pairs."""

    block: int
    """Elements from one input block to the next."""
    pairs: int
    pair: int
    """Elements from one pair to the next."""
    lines: int


def emit_product(
    k: Emitter, name: str, shape: Shape, v_block: int, m_block: int, ahead: Ahead | None = None
) -> None:
    """Emits ``void name(ptr v, ptr u, ptr m, i64 blocks, i64 fresh, ptr next)``.

    Multiplies a register tile of V with filters over some input blocks, and adds it to M
    unless ``fresh``; ``v_block`` and ``m_block`` are the strides of channel blocks.  ``next`` is
    there if something is asked for ``ahead``.
    """
    tiling, scalar, vector = shape.tiling, shape.scalar, shape.vector
    tiles, vectors = range(tiling.tiles), range(tiling.vectors)
    pitch = shape.group * BLOCK
    params = ["ptr", "ptr", "ptr", "i64", "i64", *["ptr"] * (ahead is not None)]
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        v, u, m, blocks, fresh, *next_ = regs
        slots = [[k.alloca(vector) for _ in vectors] for _ in tiles]
        places = [
            [k.add(k.mul(j * shape.lanes // BLOCK, m_block), j * shape.lanes % BLOCK + t * BLOCK)
             for j in vectors]
            for t in tiles
        ]  # fmt: skip
        pairs = [
            (slot, place)
            for row, row_places in zip(slots, places, strict=True)
            for slot, place in zip(row, row_places, strict=True)
        ]
        with k.if_else(k.icmp("ne", fresh, 0)) as (then, other):
            with then:
                for slot, _ in pairs:
                    k.store(k.zero(vector), slot)
            with other:
                for slot, place in pairs:
                    k.store(k.load(vector, k.gep(m, place, scalar)), slot)
        with k.loop(0, blocks) as block:
            # The next tiles' channels, of which a block's lie apart from the last block's.
            following = k.gep(v, k.add(k.mul(block, v_block), tiling.tiles * BLOCK), scalar)
            for t in tiles:
                k.prefetch(k.gep(following, t * BLOCK, scalar))
            if ahead:
                first = k.gep(next_[0], k.mul(block, ahead.block), scalar)
                for pair, line in product(range(ahead.pairs), range(ahead.lines)):
                    at = pair * ahead.pair + line * LINE // bytes_of(scalar)
                    k.prefetch(k.gep(first, at, scalar), locality=2)
            with k.loop(0, shape.spec.inputs) as i:
                source = k.gep(v, k.add(k.mul(block, v_block), i), scalar)
                stream = k.gep(u, k.mul(k.add(k.mul(block, BLOCK), i), pitch), scalar)
                filters = [k.load(vector, k.gep(stream, j * shape.lanes, scalar)) for j in vectors]
                for t in tiles:
                    value = k.broadcast_load(vector, k.gep(source, t * BLOCK, scalar))
                    for weight, slot in zip(filters, slots[t], strict=True):
                        k.store(k.fma(value, weight, k.load(vector, slot)), slot)
        for slot, place in pairs:
            k.store(k.load(vector, slot), k.gep(m, place, scalar))


def emit_output(k: Emitter, name: str, shape: Shape, m_plane: int) -> None:
    """Emits ``void name(ptr m, i64 tile, i64 block, ptr y, operands...)``.

    Transforms 16 channels of one tile back, runs the epilogue and stores; ``y`` is the
    first pixel of the whole tensor.
    """
    epilogue = shape.spec.epilogue
    extra = 0 if epilogue is None else len(epilogue.operands)
    params = ["ptr", "i64", "i64", "ptr", *["ptr"] * extra]
    emit = partial(_emit_output, params=params, shape=shape, m_plane=m_plane)
    for_regions(k, name, params, shape.spec.cut, emit)


def _emit_output(
    k: Emitter,
    name: str,
    region: Region,
    *,
    params: Sequence[str],
    shape: Shape,
    m_plane: int,
) -> None:
    """Emits the same for a region's tiles."""
    spec, scalar, y = shape.spec, shape.scalar, shape.spec.y
    extra = () if spec.epilogue is None else spec.epilogue.operands
    down, across = (
        axis.matrices(n).output for axis, n in zip(spec.axes, region.outputs, strict=True)
    )
    with (
        k.function(name, params, internal=True, attributes="noinline") as regs,
        k.loop(0, BLOCK, shape.lanes) as lane,
    ):
        m, tile, block, base, *operands = regs
        source = k.gep(m, lane, scalar)
        values = load_tile(k, shape.vector, spec.cut.size, source, m_plane, region.points)
        result = apply_2d(k, down, values, across)
        image, (row, column) = region.position(k, tile)
        origin = (image, block, row, column, lane)
        place = k.gep(base, offset_of(k, origin, (*y.strides, 1)), y.scalar)
        # The epilogue's accesses count from the tile.
        moved = [
            replace(access, offset=0).address(k, operand, origin)
            for access, operand in zip(extra, operands, strict=True)
        ]
        finish = Finish(k, spec.epilogue, moved, shape.vector)
        for r, c in product(*map(range, region.outputs)):
            value = finish(result[r][c], (0, 0, r, c, 0))
            k.store(value, k.gep(place, r * y.strides[2] + c * y.strides[3], y.scalar))
        finish.close((0, 0, 0, 0, 0))
