"""How convolutions by Winograd's algorithm are cut up, and what they then cost.

Costs are cycles of the slowest thread: the transforms' and products' arithmetic, and the
bytes that come from beyond a level of cache where they take longer than it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from math import ceil

from symgrad.codegen.emitter import bytes_of
from symgrad.codegen.kernels.blocked import BLOCK
from symgrad.codegen.kernels.conv_pack import PACKING
from symgrad.codegen.kernels.winograd_tiles import Shape, Tiling, WinogradSpec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

RUNS = 64
"""Runs between two changes of weights that are the same in most runs."""
TRANSFORM = 4
"""Cycles of one port per vector and element of a transformed tile: it is computed from
a row and a column, stored, and loaded again."""


@record
class Schedule:
    """The form of least cost and its estimate."""

    tiles_first: bool
    tiling: Tiling
    phases: tuple[float, float]
    """Cycles of the two kernels."""
    own_filters: bool = False
    """Whether there is one kernel, tiles first, in which each thread transforms all filters."""

    @property
    def cycles(self) -> float:
        """Of both together."""
        return sum(self.phases)


@functools.lru_cache(maxsize=4096)
def schedule(spec: WinogradSpec, target: Target, threads: int) -> Schedule:
    """The tiling of least estimated time; a pure function of its arguments."""
    forms: list[tuple[Callable[..., tuple[float, float]], bool, bool]] = [
        (tiles_first_cost, True, False),
        (filters_first_cost, False, False),
    ]
    if not spec.invariant_weights:  # else a kernel of filters alone runs but once
        forms.insert(1, (own_filters_cost, True, True))
    found = (
        Schedule(tiles_first, tiling, cost(spec, tiling, target, threads), own)
        for cost, tiles_first, own in forms
        for tiling in _tilings(spec, target, threads, tiles_first)
    )
    return min(found, key=lambda s: s.cycles)


def _tilings(
    spec: WinogradSpec, target: Target, threads: int, tiles_first: bool
) -> Iterator[Tiling]:
    """Register tiles that fit, each with some numbers of tiles and input blocks at a time."""
    lanes = min(BLOCK, target.lanes(bytes_of(spec.x.scalar)))
    registers = target.vector_registers - (1 if target.has_fma else 2)
    share = ceil(spec.tiles / threads) if tiles_first else spec.tiles
    for vectors in (1, 2, 4):
        span = vectors * lanes
        if (span % BLOCK and BLOCK % span) or spec.out_blocks % max(1, span // BLOCK):
            continue
        most = (registers - 1 - vectors) // vectors
        few = {n for n in (1, 2, 4, 6, 8, 12) if n < most}
        for tiles in sorted(few | {most}):
            for wanted in (8, 16, 32, 64, 128):
                block = tiles * max(1, ceil(min(wanted, share) / tiles))
                if tiles_first:
                    yield Tiling(tiles, vectors, block, 0)
                else:
                    for depth in (4, 8):
                        yield Tiling(tiles, vectors, block, min(depth, spec.in_blocks))
                if block >= share:
                    break


def _products(
    spec: WinogradSpec, shape: Shape, target: Target, tiles: int, chunks: int, filters: float
) -> float:
    """All products of ``tiles`` tiles with one group's filters, which come at ``filters``
    bytes a cycle, in ``chunks`` of input blocks."""
    tiling, ports = shape.tiling, target.vector_ports
    calls = ceil(tiles / tiling.tiles) * shape.slices
    pairs = tiling.tiles * tiling.vectors
    step = 0.3 + max(
        pairs / ports,
        (tiling.tiles + tiling.vectors) / ports,
        4,
    )
    stream = shape.group * BLOCK * bytes_of(shape.scalar) / filters
    per_channel = max(calls * step, stream)
    # The first chunk's products are stored, those of the others added.
    moves = calls * (20 * chunks + (3 * chunks - 2) * pairs / ports)
    channels = spec.in_blocks * spec.inputs
    return shape.cut.needed * shape.cut.points * (channels * per_channel + moves)


def _transforms(spec: WinogradSpec, shape: Shape, target: Target, count: float) -> float:
    """Transforms of ``count`` channel blocks of a tile (or rows of block pairs)."""
    return count * (BLOCK // shape.lanes) * shape.cut.points * TRANSFORM / target.vector_ports


def _filters(spec: WinogradSpec, shape: Shape, target: Target, pairs: int) -> float:
    """Reading, packing and transforming the weights of so many block pairs."""
    weights, size = spec.weights.source, bytes_of(shape.scalar)
    read = size * target.cycles_per_byte(weights.elements * size)
    packed = 0.0 if spec.weights.is_ready else PACKING
    transform = _transforms(spec, shape, target, spec.inputs)
    return pairs * (weights.matrix * (read + packed) + transform)


def _written(bytes: int, target: Target) -> float:
    """Lines on their way to where so many bytes are written: each pushes out another."""
    return bytes * target.cycles_per_byte(2 * bytes)


def tiles_first_cost(
    spec: WinogradSpec, tiling: Tiling, target: Target, threads: int
) -> tuple[float, float]:
    """Cycles of the form that takes blocks of tiles all the way: filters, tiles."""
    shape, size = Shape(spec, tiling, target), bytes_of(spec.x.scalar)
    blocks, weight_pairs = spec.x.blocks + spec.y.blocks, spec.y.blocks * spec.in_blocks
    u_bytes = weight_pairs * BLOCK * BLOCK * shape.cut.points * size
    area = shape.cut.points * blocks * tiling.block * BLOCK * size
    share = ceil(ceil(shape.cut.tiles / tiling.tiles) / threads) * tiling.tiles
    rounds = ceil(share / tiling.block)
    beyond = target.cycles_per_byte(u_bytes) * u_bytes / threads
    parts = filter_parts(weight_pairs, threads)
    busiest = ceil(weight_pairs * parts / threads) / parts
    filters = _filters(spec, shape, target, 1) * busiest + 2 * _written(u_bytes, target) / threads
    if spec.invariant_weights:
        filters = filters / RUNS + beyond * threads  # read by each thread
    stream = 1 / target.cycles_per_byte(u_bytes + area)
    products = sum(
        shape.groups * _products(spec, shape, target, tiles, 1, stream)
        for tiles in [tiling.block] * (rounds - 1) + [share - (rounds - 1) * tiling.block]
    )
    moved = share * area / tiling.block * target.cycles_per_byte(area)
    transforms = _transforms(spec, shape, target, share * blocks * shape.cut.needed)
    return filters, products + transforms + moved


def own_filters_cost(
    spec: WinogradSpec, tiling: Tiling, target: Target, threads: int
) -> tuple[float, float]:
    """Cycles of the form that takes blocks of tiles all the way, after each thread has
    transformed all filters for itself."""
    shape, size = Shape(spec, tiling, target), bytes_of(spec.x.scalar)
    pairs = spec.y.blocks * spec.in_blocks
    u_bytes = pairs * BLOCK * BLOCK * shape.cut.points * size
    filters = _filters(spec, shape, target, pairs) + u_bytes * target.cycles_per_byte(u_bytes)
    return filters, tiles_first_cost(spec, tiling, target, threads)[1]


def filter_parts(pairs: int, threads: int) -> int:
    """Parts of a block pair that threads transform apart, where pairs are few."""
    return next(
        (n for n in (1, 2, 4, 8) if -(-pairs * n // threads) * threads <= 1.1 * pairs * n), 8
    )


def filters_first_cost(
    spec: WinogradSpec, tiling: Tiling, target: Target, threads: int
) -> tuple[float, float]:
    """Cycles of the form that takes groups of output channels all the way: inputs, groups."""
    shape, size = Shape(spec, tiling, target), bytes_of(spec.x.scalar)
    shares = ceil(shape.cut.tiles / tiling.block)
    tasks = ceil(shape.groups * shares / threads)
    tiles = min(tiling.block, shape.cut.tiles)
    v_bytes = shape.cut.points * spec.x.blocks * shape.cut.tiles * BLOCK * size
    m_bytes = shape.cut.points * shape.group * tiles * BLOCK * size
    u_bytes = shape.cut.points * shape.group * tiling.depth * BLOCK * BLOCK * size
    v_part = v_bytes * tiles // shape.cut.tiles // spec.groups
    needed = shape.cut.needed
    inputs = _transforms(spec, shape, target, needed * shape.cut.tiles * spec.x.blocks / threads)
    inputs += _written(v_bytes, target) / threads
    pairs = spec.in_blocks * shape.group
    filters = _filters(spec, shape, target, pairs)
    written = pairs * BLOCK * BLOCK * shape.cut.points * size
    filters += written * target.cycles_per_byte(u_bytes) / 2
    chunks = ceil(spec.in_blocks / tiling.depth)
    # M is read and written once a chunk of input blocks, filters with every register tile.
    stream = 1 / target.cycles_per_byte(u_bytes)
    products = _products(spec, shape, target, tiles, chunks, stream)
    products += (2 * chunks - 1) * m_bytes * target.cycles_per_byte(u_bytes + m_bytes) / 2
    products += v_part * target.cycles_per_byte(v_bytes + u_bytes + m_bytes) / 2
    outputs = _transforms(spec, shape, target, needed * tiles * shape.group)
    return inputs, tasks * (filters + products + outputs)
