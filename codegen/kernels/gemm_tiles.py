"""Products of bf16 pairs on a matrix unit: the innermost loops of ``gemm.py`` for its tiles.

Four tiles of sums, two by two, stay in the unit while the contraction runs past them: each
tile that is loaded is used twice.  Both operands are packed in panels of whole tiles, so that no
edge reaches the unit: rows and columns beyond a matrix give sums that nobody stores, and what is
beyond the contraction is 0 in both.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.microkernel import Feed
from symgrad.codegen.kernels.tile_unit import ACROSS, ROW_BYTES, SIDE, tiles_of
from symgrad.codegen.registers import Int, Reg, vec

PAIR_BYTES = 4
_SUMS = vec("float", SIDE)


def clear_beyond(k: Emitter, feed: Feed, lines: int, depth: Int) -> None:
    """Sets the contraction steps from ``depth`` to the end of its tile to 0.

    ``feed`` has room for them.
    """
    last = k.mul(k.udiv(k.add(depth, SIDE - 1), SIDE), SIDE)
    if feed.step == 1:  # steps are neighbours: a vector, which may reach further
        with k.loop(0, lines) as line:
            k.store(k.zero(vec("i32", SIDE)), feed.address(k, line, depth))
        return
    with k.loop(depth, last) as step:
        for first in range(0, lines, SIDE):
            k.store(k.zero(vec("i32", SIDE)), feed.address(k, first, step))


class TileSums:
    """The sums of one block of a product, as rows in memory once the unit has made them."""

    def __init__(self, k: Emitter) -> None:
        self._k, self._tiles = k, tiles_of(k)
        self._rows = k.alloca(_SUMS, ACROSS * SIDE * ACROSS)
        self._pitch = ACROSS * ROW_BYTES

    def open(self) -> None:
        """At the start of a kernel."""
        self._tiles.configure()

    def close(self) -> None:
        """At its end."""
        self._tiles.release()

    def multiply(self, a: Feed, b: Feed, shape: tuple[int, int], depth: Int) -> None:
        """All sums of a block of ``shape``: A's lines are its rows, B's its columns."""
        k, tiles = self._k, self._tiles
        down, across = (ceil(n / SIDE) for n in shape)
        sums = [[i * ACROSS + j for j in range(across)] for i in range(down)]
        left = [ACROSS * ACROSS + i for i in range(down)]
        right = [ACROSS * ACROSS + ACROSS + j for j in range(across)]
        for row in sums:
            for tile in row:
                tiles.clear(tile)
        steps = k.mul(k.udiv(k.add(depth, SIDE - 1), SIDE), SIDE)
        with k.loop(0, steps, SIDE) as step:
            for j, tile in enumerate(right):
                tiles.load(tile, b.address(k, j * SIDE, step), b.step * PAIR_BYTES)
            for i, row in enumerate(sums):
                tiles.load(left[i], a.address(k, i * SIDE, step), a.pitch * PAIR_BYTES)
                for j, tile in enumerate(row):
                    tiles.dot(tile, left[i], right[j])
        for i, row in enumerate(sums):
            for j, tile in enumerate(row):
                tiles.store(tile, self._at(i * SIDE, j), self._pitch)

    def __getitem__(self, at: tuple[Int, int]) -> Reg:
        """Part ``at[1]`` of row ``at[0]``, a vector."""
        return self._k.load(_SUMS, self._at(*at))

    def add(self, at: tuple[Int, int], value: Reg) -> None:
        """Adds a vector to a part of a row."""
        self._k.store(self._k.fadd(self[at], value), self._at(*at))

    def _at(self, row: Int, part: int) -> Reg:
        moving = self._k.gep(self._rows, self._k.mul(row, self._pitch), "i8")
        return self._k.gep(moving, part * ROW_BYTES, "i8")

    def each_row(self, rows: int, parts: int, use: Callable[[Int, int], None]) -> None:
        """Calls ``use`` for the parts of each row, in a loop over the rows."""
        with self._k.loop(0, rows) as row:
            for part in range(parts):
                use(row, part)
