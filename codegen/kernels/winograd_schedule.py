"""How convolutions by Winograd's algorithm are cut up, and what they then cost.

Costs are cycles of the slowest thread: the transforms' and products' arithmetic, and the
bytes that come from beyond a level of cache where they take longer than it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from math import ceil

from symgrad.codegen.kernels.blocked import BLOCK
from symgrad.codegen.kernels.conv_pack import PACKING
from symgrad.codegen.kernels.winograd_tiles import Shape, Tiling, WinogradSpec
from symgrad.codegen.registers import bytes_of
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
    own: bool = False
    """Whether the first is none, but part of the second on each thread."""

    @property
    def cycles(self) -> float:
        """Of both together."""
        return sum(self.phases)


@functools.lru_cache(maxsize=4096)
def schedule(spec: WinogradSpec, target: Target, threads: int) -> Schedule:
    """The tiling of least estimated time; a pure function of its arguments."""
    found = (
        Schedule(tiles_first, tiling, cost(spec, tiling, target, threads, own=own), own)
        for tiles_first, cost in ((True, tiles_first_cost), (False, filters_first_cost))
        for own in (False, True)
        # Filters that are the same in most runs are kept.
        if not (tiles_first and own and spec.invariant_weights)
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


def _shared(bytes: int, target: Target, threads: int) -> float:
    """A thread's share of writing so many bytes that all threads read: each line pushes out
    another, and comes from the core that has read it, which is no nearer than L3."""
    footprint = 2 * bytes if threads == 1 else max(2 * bytes, target.l2)
    return 2 * bytes * target.cycles_per_byte(footprint) / threads


def _own(bytes: int, target: Target) -> float:
    """A thread's writing of as much for itself: where L2 cannot keep it, lines come and go."""
    if bytes < target.l2:
        return bytes * target.cycles_per_byte(bytes)
    return _shared(bytes, target, 1)


def tiles_first_cost(
    spec: WinogradSpec, tiling: Tiling, target: Target, threads: int, *, own: bool = False
) -> tuple[float, float]:
    """Cycles of the form that takes blocks of tiles all the way: filters, tiles."""
    shape, size = Shape(spec, tiling, target), bytes_of(spec.x.scalar)
    blocks, weight_pairs = spec.x.blocks + spec.y.blocks, spec.y.blocks * spec.in_blocks
    u_bytes = weight_pairs * BLOCK * BLOCK * shape.cut.points * size
    area = shape.cut.points * blocks * tiling.block * BLOCK * size
    share = ceil(ceil(shape.cut.tiles / tiling.tiles) / threads) * tiling.tiles
    rounds = ceil(share / tiling.block)
    beyond = target.cycles_per_byte(u_bytes) * u_bytes / threads
    if own:
        filters = _filters(spec, shape, target, weight_pairs) + _own(u_bytes, target)
    else:
        parts = filter_parts(weight_pairs, threads)
        busiest = ceil(weight_pairs * parts / threads) / parts
        filters = _filters(spec, shape, target, 1) * busiest + _shared(u_bytes, target, threads)
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


def filter_parts(pairs: int, threads: int) -> int:
    """Parts of a block pair that threads transform apart, where pairs are few."""
    return next(
        (n for n in (1, 2, 4, 8) if -(-pairs * n // threads) * threads <= 1.1 * pairs * n), 8
    )


def filters_first_cost(
    spec: WinogradSpec, tiling: Tiling, target: Target, threads: int, *, own: bool = False
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
    inputs = _transforms(spec, shape, target, needed * shape.cut.tiles * spec.x.blocks)
    if own:
        inputs += _own(v_bytes, target)
    else:
        inputs = inputs / threads + _shared(v_bytes, target, threads)
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
