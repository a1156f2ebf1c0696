"""Tiles: registers that are small matrices, and their product in one instruction.

A matrix unit has eight tiles of 16 rows of 64 bytes.  ``dot`` adds the product of two tiles to a
third one: a tile of sums is 16 x 16 of f32, the left factor 16 rows of 16 pairs along the
contraction, the right one 16 pairs of rows of 16 columns, each pair being two bf16 (see
``gemm_pairs``).  So kernels are written once, over this interface, for two machines:
``AmxTiles`` are instructions of x86 (Intel Architecture Instruction Set Extensions, chapter 3),
``PlainTiles`` the same on vectors in memory.  They are there so that the kernels can be run, and
their edges tested, where there is no such unit.
"""

from __future__ import annotations

from typing import Protocol

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm_pairs import multiply_add_pairs
from symgrad.codegen.registers import Reg, vec

SIDE = 16
"""Rows of a tile, pairs of the contraction, columns of sums."""
ROW_BYTES = 64
TILES = 8
ACROSS = 2
"""Tiles of sums side by side, down and across: with two of each factor they are all."""

AMX, PLAIN = "amx", "plain"


class Tiles(Protocol):
    """The tiles of a matrix unit, by number.  Strides are bytes from row to row."""

    def configure(self) -> None:
        """Makes all tiles full ones; before any other use in a kernel."""

    def release(self) -> None:
        """Gives the tiles back; at the end of a kernel."""

    def clear(self, tile: int) -> None:
        """Sets a tile to zero."""

    def load(self, tile: int, start: Reg, stride: int) -> None:
        """Reads a tile's rows from memory."""

    def store(self, tile: int, start: Reg, stride: int) -> None:
        """Writes a tile's rows to memory."""

    def dot(self, sums: int, left: int, right: int) -> None:
        """Adds to ``sums`` the product of two tiles of pairs."""


def tiles_of(k: Emitter) -> Tiles:
    """The tiles of the target."""
    return AmxTiles(k) if k.target.tile_unit == AMX else PlainTiles(k)


class AmxTiles:
    """The tile registers of AMX.

    Tiles are named in the instructions themselves: nothing is left to register allocation,
    which could only spill them.
    """

    def __init__(self, k: Emitter) -> None:
        self._k = k

    def configure(self) -> None:
        """Loads palette 1 with full rows in all tiles."""
        k = self._k
        rows, widths = [ROW_BYTES] * TILES, [SIDE] * TILES
        header = [1, *[0] * 15]  # the palette; no row to resume at
        columns = [byte for width in rows for byte in (width, 0)] + [0] * 16
        table = [*header, *columns, *widths, *[0] * 8]
        at = k.constant_table("tile_configuration", "i8", list(map(str, table)))
        self._call("ldtilecfg", (), at)

    def release(self) -> None:
        """Returns them to their initial state."""
        self._call("tilerelease", ())

    def clear(self, tile: int) -> None:
        """``tilezero``"""
        self._call("tilezero", (tile,))

    def load(self, tile: int, start: Reg, stride: int) -> None:
        """``tileloadd``"""
        self._call("tileloadd64", (tile,), start, Reg(str(stride), "i64"))

    def store(self, tile: int, start: Reg, stride: int) -> None:
        """``tilestored``"""
        self._call("tilestored64", (tile,), start, Reg(str(stride), "i64"))

    def dot(self, sums: int, left: int, right: int) -> None:
        """``tdpbf16ps``"""
        self._call("tdpbf16ps", (sums, left, right))

    def _call(self, name: str, tiles: tuple[int, ...], *operands: Reg) -> None:
        full = f"llvm.x86.{name}"
        types = [*["i8 immarg" for _ in tiles], *(x.type for x in operands)]
        self._k.declare(full, "void", types)
        given = [*(f"i8 {t}" for t in tiles), *(f"{x.type} {x}" for x in operands)]
        self._k.line(f"call void @{full}({', '.join(given)})")


class PlainTiles:
    """Tiles in memory: a row is a vector."""

    def __init__(self, k: Emitter) -> None:
        self._k = k
        self._tiles = [k.alloca(_PAIRS, SIDE) for _ in range(TILES)]

    def configure(self) -> None:
        """Nothing: memory is there."""

    def release(self) -> None:
        """Nothing."""

    def clear(self, tile: int) -> None:
        """Row by row."""
        with self._k.loop(0, SIDE) as row:
            self._k.store(self._k.zero(_PAIRS), self._row(tile, row), align=4)

    def load(self, tile: int, start: Reg, stride: int) -> None:
        """Row by row."""
        k = self._k
        with k.loop(0, SIDE) as row:
            k.store(k.load(_PAIRS, k.gep(start, k.mul(row, stride), "i8"), 4), self._row(tile, row))

    def store(self, tile: int, start: Reg, stride: int) -> None:
        """Row by row."""
        k = self._k
        with k.loop(0, SIDE) as row:
            k.store(k.load(_PAIRS, self._row(tile, row), 4), k.gep(start, k.mul(row, stride), "i8"))

    def dot(self, sums: int, left: int, right: int) -> None:
        """Each pair of a row of ``left`` times the row of ``right`` that it meets."""
        k = self._k
        with k.loop(0, SIDE) as row, k.loop(0, SIDE) as step:
            pair = k.splat(k.load("i32", k.gep(self._row(left, row), step, "i32")), SIDE)
            at = self._row(sums, row)
            total = multiply_add_pairs(
                k, pair, k.load(_PAIRS, self._row(right, step), 4), k.load(_SUMS, at, 4)
            )
            k.store(total, at)

    def _row(self, tile: int, row: Reg) -> Reg:
        return self._k.gep(self._tiles[tile], self._k.mul(row, ROW_BYTES), "i8")


_PAIRS, _SUMS = vec("i32", SIDE), vec("float", SIDE)
