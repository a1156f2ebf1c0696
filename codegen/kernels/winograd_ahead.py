"""Asks for what transforms will read and where their results will go.

Transforms touch many lines of memory and do little with each; products do much with what is in
cache.  One after the other, each would wait for the other's resource, so the loop over products
fetches what the transforms behind it need: the places of the tiles' results, what epilogues
read there, and the next tiles' inputs.  These lie in rows, but in rows too short for the
machine to fetch them by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.ahead import LINE
from symgrad.codegen.kernels.blocked import offset_of
from symgrad.codegen.kernels.winograd_regions import Cut, Region
from symgrad.codegen.kernels.winograd_transform import Tiles, for_regions
from symgrad.codegen.registers import Int, Reg, bytes_of


def emit_ahead(k: Emitter, name: str, cut: Cut, accesses: Sequence[Access]) -> None:
    """Emits ``void name(ptr first, i64 tile, i64 block, ptr others...)``, the tensors' bases.

    Asks for 16 channels of one tile of each.  ``accesses`` are over (image, channel block,
    row, pixel, lane) of the output.
    """
    if accesses:
        params = ["ptr", "i64", "i64", *["ptr"] * (len(accesses) - 1)]
        emit = partial(_emit_region, params=params, accesses=accesses)
        for_regions(k, name, params, cut, emit)


def emit_inputs_ahead(k: Emitter, name: str, tiles: Tiles) -> None:
    """Emits ``void name(ptr x, i64 tile, i64 block)``, ``x`` the first pixel of the tensor.

    Asks for 16 channels of a tile, but for what the tiles above it and before it read, too.
    """
    emit = partial(_emit_inputs, tiles=tiles)
    for_regions(k, name, ["ptr", "i64", "i64"], tiles.cut, emit)


def _emit_inputs(k: Emitter, name: str, region: Region, *, tiles: Tiles) -> None:
    x, scalar = tiles.tensor, tiles.tensor.scalar
    down, across = tiles.matrices(region.outputs)
    rows, pixels = tiles.advance(region.outputs)
    with k.function(name, ["ptr", "i64", "i64"], internal=True, attributes="noinline") as regs:
        base, tile, block = regs
        image, at = region.position(k, tile)
        row, column = tiles.corner(k, at)
        row, column = k.add(row, len(down[0]) - rows), k.add(column, len(across[0]) - pixels)
        start = k.gep(base, offset_of(k, (image, block, row, column), x.strides), scalar)
        with k.loop(0, rows) as r:
            line = k.gep(start, k.mul(r, x.strides[2]), scalar)
            _fetch(k, line, pixels * x.strides[3], scalar)


def _fetch(k: Emitter, line: Reg, elements: int, scalar: str) -> None:
    """Asks for so many elements in a row."""
    for ahead in range(0, elements, LINE // bytes_of(scalar)):
        k.prefetch(k.gep(line, ahead, scalar), locality=2)


def _emit_region(
    k: Emitter, name: str, region: Region, *, params: Sequence[str], accesses: Sequence[Access]
) -> None:
    rows, pixels = region.outputs
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        first, tile, block, *others = regs
        image, (row, column) = region.position(k, tile)
        for base, access in zip((first, *others), accesses, strict=True):
            start = access.address(k, base, (image, block, row, column, 0))
            scalar, (down, across) = MEMORY_TYPES[access.dtype], access.strides[2:4]
            with k.loop(0, rows) as r:
                _fetch(k, k.gep(start, k.mul(r, down), scalar), pixels * across, scalar)


def fetch_part(
    k: Emitter,
    name: str,
    bases: Sequence[Reg],
    blocks: tuple[Int, int],
    tiles: tuple[Int, Int],
    part: tuple[Int, int],
) -> None:
    """Asks for one of so many parts of some ``blocks`` of some ``tiles``, each the first and
    their number."""
    if not bases:
        return
    (first_block, per_tile), (first, count), (number, parts) = blocks, tiles, part
    units = k.mul(count, per_tile)
    low, high = (k.udiv(k.mul(units, n), parts) for n in (number, k.add(number, 1)))
    with k.loop(low, high) as unit:
        tile, block = k.divmod(unit, per_tile)
        place = [k.as_reg(k.add(first, tile)), k.as_reg(k.add(first_block, block))]
        k.call(name, "void", [bases[0], *place, *bases[1:]])
