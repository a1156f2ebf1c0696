"""Tiles of activations under Winograd's transforms: read, transformed, stored.

An element of all transformed tiles lies in a plane of its own, so that the products over
channels are matrix products plane by plane.  Tiles that reach over the halo pass through
a stage of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair
from symgrad.codegen.kernels.winograd import Matrix, apply_by_axes, transposed
from symgrad.codegen.kernels.winograd_regions import Cut, Region
from symgrad.codegen.registers import Int, Reg, bytes_of, scalar_of, vec
from symgrad.ir.record import record

PAD = BLOCK
"""Elements between the planes of transformed tiles, lest they all fall in one cache set."""


@record
class Tiles:
    """Tiles of a tensor's planes, one per tile of a convolution's output, as they are
    transformed: the input's, or those of the output's cotangent."""

    tensor: Blocked
    cut: Cut
    is_cotangent: bool = False

    def matrices(self, outputs: Pair) -> tuple[Matrix, Matrix]:
        """What transforms the columns and the rows of a tile that has so many outputs."""
        down, across = (axis.matrices(n) for axis, n in zip(self.cut.axes, outputs, strict=True))
        if self.is_cotangent:
            return transposed(down.output), transposed(across.output)
        return down.input, across.input

    def corner(self, k: Emitter, at: tuple[Int, Int]) -> tuple[Int, Int]:
        """The first row and column of a tile whose outputs begin ``at``."""
        if self.is_cotangent:
            return at
        down, across = self.cut.axes
        return down.start(k, at[0]), across.start(k, at[1])

    def advance(self, outputs: Pair) -> Pair:
        """Rows and columns from a tile of so many outputs to the next."""
        if self.is_cotangent:
            return outputs
        down, across = self.cut.axes
        return down.advance(outputs[0]), across.advance(outputs[1])

    @property
    def stage(self) -> int:
        """Elements of a tile with zeros for what lies outside the plane."""
        down, across = self.matrices((self.cut.axes[0].tile, self.cut.axes[1].tile))
        return len(down[0]) * len(across[0]) * self.tensor.strides[3]


def emit_transform(k: Emitter, name: str, tiles: Tiles, plane: int) -> None:
    """Emits ``void name(ptr x, i64 tile, i64 block, ptr v, ptr stage)``.

    Transforms 16 channels of one tile; ``x`` is the first pixel of the whole tensor,
    ``v`` where the tile's first element goes, ``plane`` the distance to the next.
    """
    params = ["ptr", "i64", "i64", "ptr", "ptr"]
    for_regions(k, name, params, tiles.cut, partial(_emit_region, tiles=tiles, plane=plane))


EmitRegion = Callable[[Emitter, str, Region], None]


def for_regions(k: Emitter, name: str, params: Sequence[str], cut: Cut, emit: EmitRegion) -> None:
    """Emits a function for tiles of every kind from one for each region.

    The tile's number is the second parameter of all of them.
    """
    regions = [region for region in cut.regions if region.count]
    if len(regions) == 1:
        emit(k, name, regions[0])
        return
    names = [f"{name}{number}" for number in range(len(regions))]
    for part, region in zip(names, regions, strict=True):
        emit(k, part, region)
    with k.function(name, params, internal=True, attributes="noinline") as args:
        for part, region in zip(names, regions, strict=True):
            begun = k.icmp("sge", args[1], region.first)
            within = k.icmp("slt", args[1], region.first + region.count)
            with k.if_(k.bits("and", begun, within)):
                k.call(part, "void", args)


def _emit_region(k: Emitter, name: str, region: Region, *, tiles: Tiles, plane: int) -> None:
    """Emits the transform of a region's tiles."""
    x, scalar = tiles.tensor, tiles.tensor.scalar
    row, pixel = x.strides[2], x.strides[3]
    size = [len(matrix[0]) for matrix in tiles.matrices(region.outputs)]
    _emit_tile(k, f"{name}_tile", tiles, region, plane)
    last = [
        begin + (count - 1) * step
        for begin, count, step in zip(region.origin, region.grid, region.outputs, strict=True)
    ]
    ends = tiles.corner(k, region.origin), tiles.corner(k, (last[0], last[1]))
    bounds = [(-x.halo[a][0], x.shape[2 + a] + x.halo[a][1] - size[a]) for a in (0, 1)]
    params = ["ptr", "i64", "i64", "ptr", "ptr"]
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        base, tile, block, v, stage = regs
        image, at = region.position(k, tile)
        corner = tiles.corner(k, at)
        source = k.add(k.mul(image, x.strides[0]), k.mul(block, x.strides[1]))
        place = k.add(k.mul(corner[0], row), k.mul(corner[1], pixel))
        inside = [
            k.icmp(predicate, k.as_reg(corner[axis]), bounds[axis][end])
            for axis in (0, 1)
            for end, predicate in ((0, "sge"), (1, "sle"))
            if _exceeds(ends[end][axis], bounds[axis][end], is_lower=end == 0)
        ]
        direct = [k.gep(base, k.add(source, place), scalar), k.as_reg(row), v]
        if not inside:
            k.call(f"{name}_tile", "void", direct)
            return
        within = inside[0]
        for condition in inside[1:]:
            within = k.bits("and", within, condition)
        with k.if_else(within) as (then, other):
            with then:
                k.call(f"{name}_tile", "void", direct)
            with other:
                plane_at = k.gep(base, source, scalar)
                _stage_tile(k, x, size, plane_at, corner, stage)
                k.call(f"{name}_tile", "void", [stage, k.as_reg(size[1] * pixel), v])


def _exceeds(known: Int, bound: int, *, is_lower: bool) -> bool:
    """Whether a number lies beyond a bound."""
    assert isinstance(known, int)
    return known < bound if is_lower else known > bound


def _stage_tile(
    k: Emitter, x: Blocked, size: Sequence[int], plane: Reg, corner: Sequence[Int], stage: Reg
) -> None:
    """Copies what a tile has of a plane into a stage of zeros."""
    scalar = x.scalar
    row, pixel = x.strides[2], x.strides[3]
    vector, lanes = vector_of(k, scalar)
    with k.loop(0, size[0] * size[1] * pixel, lanes) as at:
        k.store(k.zero(vector), k.gep(stage, at, scalar))
    first = [k.max(k.sub(0, c), 0) for c in corner]
    last = [k.min(k.sub(n, c), s) for n, c, s in zip(x.shape[2:], corner, size, strict=True)]
    with k.loop(first[0], last[0]) as r, k.loop(first[1], last[1]) as c:
        down, across = k.add(corner[0], r), k.add(corner[1], c)
        from_ = k.gep(plane, k.add(k.mul(down, row), k.mul(across, pixel)), scalar)
        to = k.gep(stage, k.mul(k.add(k.mul(r, size[1]), c), pixel), scalar)
        for lane in range(0, BLOCK, lanes):
            k.store(k.load(vector, k.gep(from_, lane, scalar)), k.gep(to, lane, scalar))


def _emit_tile(k: Emitter, name: str, tiles: Tiles, region: Region, plane: int) -> None:
    """Emits ``void name(ptr tile, i64 row, ptr v)``, ``row`` the stride of the tile's rows."""
    scalar, pixel = tiles.tensor.scalar, tiles.tensor.strides[3]
    vector, lanes = vector_of(k, scalar)
    down, across = tiles.matrices(region.outputs)
    params = ["ptr", "i64", "ptr"]
    with (
        k.function(name, params, internal=True, attributes="noinline") as (tile, row, v),
        k.loop(0, BLOCK, lanes) as lane,
    ):
        first, to = k.gep(tile, lane, scalar), k.gep(v, lane, scalar)

        def read(r: int, c: Int) -> Reg:
            at = k.add(k.mul(row, r), k.mul(c, pixel))
            return k.load(vector, k.gep(first, at, scalar))

        def write(r: Int, c: int, value: Reg) -> None:
            at = k.add(k.mul(r, tiles.cut.size[1] * plane), c * plane)
            k.store(value, k.gep(to, at, scalar))

        apply_by_axes(k, vector, down, across, read, write)


def vector_of(k: Emitter, scalar: str) -> tuple[str, int]:
    """Type and lanes of the vectors that divide a channel block."""
    lanes = min(BLOCK, k.target.lanes(bytes_of(scalar)))
    return vec(scalar, lanes), lanes


def load_tile(
    k: Emitter, type: str, size: Pair, at: Reg, plane: int, part: Pair | None = None
) -> list[list[Reg]]:
    """A transformed tile of so many rows and columns, or its first ones; ``plane`` is from one
    element to the next."""
    scalar = scalar_of(type)
    rows, columns = part or size
    return [
        [k.load(type, k.gep(at, (r * size[1] + c) * plane, scalar)) for c in range(columns)]
        for r in range(rows)
    ]


def store_tile(k: Emitter, tile: Sequence[Sequence[Reg]], to: Reg, plane: int, scalar: str) -> None:
    """Stores a tile's elements in order, ``plane`` apart."""
    for number, value in enumerate(x for row in tile for x in row):
        k.store(value, k.gep(to, number * plane, scalar))


@record
class TransformSpec:
    """Transforms all tiles of a tensor; arguments: x, V, scratch.

    V is ``[n n][groups of blocks][room][channels of the group]``, ``room`` the places for tiles.
    """

    tiles: Tiles
    room: int
    group: int = 1

    @property
    def plane(self) -> int:
        """Elements from one element of the transformed tiles to the next."""
        return self.tiles.tensor.blocks * self.room * BLOCK + PAD


def emit_transforms(k: Emitter, name: str, spec: TransformSpec) -> None:
    """Emits the kernel; its tasks are channel blocks of tiles."""
    k.is_shaped = True
    tiles, group = spec.tiles, spec.group
    scalar = tiles.tensor.scalar
    emit_transform(k, f"{name}_transform", tiles, spec.plane)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        x, v, scratch = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(3))
        x = k.gep(x, tiles.tensor.offset, scalar)
        stage = k.gep(scratch, k.mul(tid, tiles.stage), scalar)
        with k.loop(*k.slice(tiles.tensor.blocks * tiles.cut.tiles, tid, nth)) as task:
            block, tile = k.divmod(task, tiles.cut.tiles)
            number, rest = k.divmod(block, group)
            at = k.mul(k.add(k.mul(number, spec.room), tile), group * BLOCK)
            to = k.gep(v, k.add(at, k.mul(rest, BLOCK)), scalar)
            place = [k.as_reg(tile), k.as_reg(block), to, stage]
            k.call(f"{name}_transform", "void", [x, *place])
