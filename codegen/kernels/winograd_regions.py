"""How planes are cut into Winograd's tiles.

Tiles of m x m outputs fill a plane up to a rest at its bottom and at its right.  A tile in
the rest has fewer outputs, reads less of the input, and needs only the first rows or columns
of a transformed tile (``winograd.py``).  Tiles of one kind make up a region, and regions
are numbered one after the other,

    right, whole, bottom, corner,

so that the tiles that need an element lie side by side: where the rest leaves out a column,
they are those of whole and bottom; a row, those of right and whole.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

from symgrad.codegen.emitter import Emitter, Int
from symgrad.codegen.kernels.blocked import Pair
from symgrad.codegen.kernels.winograd import TAPS
from symgrad.ir.record import record


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
    """Rows and columns of a tile of the input, and of a transformed tile."""

    def position(self, k: Emitter, tile: Int, step: int) -> tuple[Int, tuple[Int, Int]]:
        """Image, and first row and column in the output, of a tile by number; ``step`` is
        from one tile to the next."""
        rest, across = k.divmod(k.sub(tile, self.first), self.grid[1])
        image, down = k.divmod(rest, self.grid[0])
        row, column = k.mul(down, step), k.mul(across, step)
        return image, (k.add(row, self.origin[0]), k.add(column, self.origin[1]))


@record
class Cut:
    """The tiles of some images' planes of outputs."""

    images: int
    plane: Pair
    outputs: int
    """Rows and columns of outputs of a whole tile."""
    stride: int = 1
    """That of the convolution."""

    @property
    def size(self) -> int:
        """Rows and columns of a whole tile of the input, and of a transformed one."""
        return self._points(self.outputs)

    def _points(self, outputs: int) -> int:
        return self.stride * (outputs - 1) + TAPS

    @property
    def rest(self) -> Pair:
        """Rows and columns of outputs that whole tiles leave."""
        return self.plane[0] % self.outputs, self.plane[1] % self.outputs

    @property
    @lru_cache(maxsize=4096)  # noqa: B019 - cuts are equal by their few numbers
    def regions(self) -> tuple[Region, ...]:
        """All four, by number; some may have no tiles."""
        found: list[Region] = []
        for in_rest in ((False, True), (False, False), (True, False), (True, True)):
            axes = [self._axis(*axis) for axis in zip(self.plane, in_rest, strict=True)]
            grid, origin, outputs = ((a, b) for a, b in zip(*axes, strict=True))
            first = found[-1].first + found[-1].count if found else 0
            count = self.images * grid[0] * grid[1]
            points = self._points(outputs[0]), self._points(outputs[1])
            found.append(Region(first, count, grid, origin, outputs, points))
        return tuple(found)

    def _axis(self, extent: int, in_rest: bool) -> tuple[int, int, int]:
        """Tiles along an axis, where they begin, and their outputs."""
        whole, rest = divmod(extent, self.outputs)
        return (min(rest, 1), extent - rest, rest) if in_rest else (whole, 0, self.outputs)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return sum(region.count for region in self.regions)

    @property
    def needed(self) -> float:
        """The part of all tiles' elements that is needed."""
        needed = sum(region.count * region.points[0] * region.points[1] for region in self.regions)
        return needed / (self.tiles * self.size**2)

    def range(self, k: Emitter, point: Int) -> tuple[Int, Int]:
        """The tiles that need an element of a whole transformed tile."""
        right, whole, bottom, corner = accumulate(region.count for region in self.regions)
        needed = [self._points(rest) if rest else self.size for rest in self.rest]
        down, across = k.divmod(point, self.size)

        def choose(at: Int, needed: int, all_tiles: Int, others: Int) -> Int:
            if needed == self.size:
                return all_tiles
            less = k.icmp("slt", k.as_reg(at), needed)
            return k.select(less, k.as_reg(all_tiles), k.as_reg(others))

        low = choose(across, needed[1], 0, right)
        high = choose(across, needed[1], corner, bottom)
        return low, choose(down, needed[0], high, whole)
