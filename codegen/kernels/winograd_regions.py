"""How planes are cut into Winograd's tiles.

Tiles fill a plane up to a rest at its bottom and at its right.  A tile in the rest has fewer
outputs, reads less of the input, and needs only the first rows or columns of a transformed
tile (``winograd.py``).  Tiles of one kind make up a region, and regions are numbered one
after the other,

    right, whole, bottom, corner,

so that the tiles that need an element lie side by side: where the rest leaves out a column,
they are those of whole and bottom; a row, those of right and whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import Pair
from symgrad.codegen.kernels.winograd import (
    Matrices,
    gradient_matrices,
    matrices,
    plane_matrices,
)
from symgrad.codegen.registers import Int
from symgrad.ir.record import record


@record
class Axis:
    """One axis of a convolution, or of its gradient to the input, by F(outputs, taps)."""

    outputs: int
    taps: int
    stride: int = 1
    padding: int = 0
    """Positions before the convolution's input."""
    to_input: bool = False
    plane: int = 0
    """Inputs of a tile that takes a whole plane with fewer of them than taps; else 0."""

    @property
    def tile(self) -> int:
        """Outputs of a whole tile."""
        return self.outputs * self.stride if self.to_input else self.outputs

    def matrices(self, outputs: int | None = None) -> Matrices:
        """Those of a whole tile, or of one with fewer outputs."""
        if self.plane:
            return plane_matrices(self.outputs, self.plane, self.taps, self.before)
        if self.to_input and self.stride > 1:
            return gradient_matrices(self.outputs, outputs, self.padding % self.stride)
        return matrices(self.outputs, self.taps, outputs, self.stride)

    @property
    def before(self) -> int:
        """Positions before the first input, counted as its tiles' inputs."""
        if self.to_input:
            return (self.taps - 1 - self.padding) // self.stride
        return self.padding

    def points(self, outputs: int) -> int:
        """Elements of a transformed tile of so many outputs."""
        return len(self.matrices(outputs).filter)

    def start(self, k: Emitter, at: Int) -> Int:
        """The first input of a tile whose outputs begin ``at`` a multiple of the stride."""
        if self.plane:
            return 0
        inputs = k.udiv(at, self.stride) if self.to_input else k.mul(at, self.stride)
        return k.sub(inputs, self.before)

    def advance(self, outputs: int) -> int:
        """Inputs from a tile of so many outputs to the next one."""
        if self.plane:
            return self.plane
        return -(-outputs // self.stride) if self.to_input else outputs * self.stride


def axes(
    size: int,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    planes: tuple[Pair, Pair],
    *,
    to_input: bool = False,
) -> tuple[Axis, Axis]:
    """Both axes, transformed to ``size`` elements where the filter has more than one tap.

    ``planes`` are the sizes of what tiles read and of what they give.  A plane with fewer
    inputs than taps is one tile, if ``size`` elements are enough for it.
    """
    down, across = (
        Axis(outputs, taps, s, p, to_input, inputs)
        if s == 1 and inputs < taps and inputs + outputs - 1 <= size
        else Axis(size - taps + 1 if taps > 1 else 1, taps, s, p, to_input)
        for taps, s, p, inputs, outputs in zip(kernel, stride, padding, *planes, strict=True)
    )
    return down, across


@record
class Region:
    """Tiles of one kind, of all images."""

    first: int
    """The number of its first tile."""
    count: int
    grid: Pair
    """Tiles of an image, down and across."""
    origin: Pair
    """Row and column of the output where they begin."""
    outputs: Pair
    """Rows and columns of outputs of a tile."""
    points: Pair
    """Rows and columns of a transformed tile."""

    def position(self, k: Emitter, tile: Int) -> tuple[Int, tuple[Int, Int]]:
        """Image, and first row and column in the output, of a tile by number."""
        rest, across = k.divmod(k.sub(tile, self.first), self.grid[1])
        image, down = k.divmod(rest, self.grid[0])
        row, column = k.mul(down, self.outputs[0]), k.mul(across, self.outputs[1])
        return image, (k.add(row, self.origin[0]), k.add(column, self.origin[1]))


@dataclass(frozen=True)  # no record, which has no place for what is worked out once
class Cut:
    """The tiles of some images' planes of outputs.

    Schedules ask for its numbers again and again: ``Cut.of`` gives the same one for the same
    planes.
    """

    images: int
    plane: Pair
    axes: tuple[Axis, Axis]

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(images: int, plane: Pair, axes: tuple[Axis, Axis]) -> Cut:
        """The cut of so many planes."""
        return Cut(images, plane, axes)

    @cached_property
    def size(self) -> Pair:
        """Rows and columns of a whole transformed tile."""
        down, across = (axis.points(axis.tile) for axis in self.axes)
        return down, across

    @cached_property
    def points(self) -> int:
        """Elements of a whole transformed tile."""
        return prod(self.size)

    @property
    def rest(self) -> Pair:
        """Rows and columns of outputs that whole tiles leave."""
        return self.plane[0] % self.axes[0].tile, self.plane[1] % self.axes[1].tile

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """All four, by number; some may have no tiles."""
        found: list[Region] = []
        for in_rest in ((False, True), (False, False), (True, False), (True, True)):
            cuts = map(_tiles_along, self.plane, self.axes, in_rest)
            grid, origin, outputs, points = ((a, b) for a, b in zip(*cuts, strict=True))
            first = found[-1].first + found[-1].count if found else 0
            count = self.images * grid[0] * grid[1]
            found.append(Region(first, count, grid, origin, outputs, points))
        return tuple(found)

    @cached_property
    def tiles(self) -> int:
        """Tiles of all images."""
        return sum(region.count for region in self.regions)

    @cached_property
    def needed(self) -> float:
        """The part of all tiles' elements that is needed."""
        needed = sum(region.count * region.points[0] * region.points[1] for region in self.regions)
        return needed / (self.tiles * self.points)

    def range(self, k: Emitter, point: Int) -> tuple[Int, Int]:
        """The tiles that need an element of a whole transformed tile."""
        right, whole, bottom, corner = accumulate(region.count for region in self.regions)
        needed = [
            axis.points(rest) if rest else size
            for axis, rest, size in zip(self.axes, self.rest, self.size, strict=True)
        ]
        down, across = k.divmod(point, self.size[1])

        def choose(axis: int, at: Int, all_tiles: Int, others: Int) -> Int:
            if needed[axis] == self.size[axis]:
                return all_tiles
            less = k.icmp("slt", k.as_reg(at), needed[axis])
            return k.select(less, k.as_reg(all_tiles), k.as_reg(others))

        low = choose(1, across, 0, right)
        high = choose(1, across, corner, bottom)
        return low, choose(0, down, high, whole)


def _tiles_along(extent: int, axis: Axis, in_rest: bool) -> tuple[int, int, int, int]:
    """Tiles along an axis, where they begin, their outputs and points."""
    whole, rest = divmod(extent, axis.tile)
    if in_rest:
        return min(rest, 1), extent - rest, rest, axis.points(rest) if rest else 0
    return whole, 0, axis.tile, axis.points(axis.tile)
