"""Asks for the places where tiles' results will go, and what epilogues will read there.

Transforming tiles back touches many lines of memory and does little with each; products do
much with what is in cache.  One after the other, each would wait for the other's resource, so
the loop over products fetches what the transforms behind it need.  What the transforms before
it read lies in rows, which the machine fetches by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter, Int, Reg, bytes_of
from symgrad.codegen.kernels.ahead import LINE
from symgrad.codegen.kernels.winograd_regions import Cut, Region
from symgrad.codegen.kernels.winograd_transform import for_regions


def emit_ahead(k: Emitter, name: str, cut: Cut, accesses: Sequence[Access]) -> None:
    """Emits ``void name(ptr first, i64 tile, i64 block, ptr others...)``, the tensors' bases.

    Asks for 16 channels of one tile of each.  ``accesses`` are over (image, channel block,
    row, pixel, lane) of the output.
    """
    if accesses:
        params = ["ptr", "i64", "i64", *["ptr"] * (len(accesses) - 1)]
        emit = partial(_emit_region, params=params, accesses=accesses)
        for_regions(k, name, params, cut, emit)


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
                line = k.gep(start, k.mul(r, down), scalar)
                for ahead in range(0, pixels * across, LINE // bytes_of(scalar)):
                    k.prefetch(k.gep(line, ahead, scalar), locality=2)


def fetch_part(
    k: Emitter,
    name: str,
    bases: Sequence[Reg],
    blocks: int,
    tiles: tuple[Int, Int],
    part: tuple[Int, int],
) -> None:
    """Asks for one of so many parts of all blocks of some ``tiles``, the first and their
    number."""
    if not bases:
        return
    (first, count), (number, parts) = tiles, part
    units = k.mul(count, blocks)
    low, high = (k.udiv(k.mul(units, n), parts) for n in (number, k.add(number, 1)))
    with k.loop(low, high) as unit:
        tile, block = k.divmod(unit, blocks)
        place = [k.as_reg(k.add(first, tile)), k.as_reg(block)]
        k.call(name, "void", [bases[0], *place, *bases[1:]])
