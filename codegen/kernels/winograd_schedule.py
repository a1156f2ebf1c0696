"""How convolutions by Winograd's algorithm are cut up, and what they then cost.

Costs are cycles of the slowest thread: the transforms' and products' arithmetic, and the
bytes that come from beyond a level of cache where they take longer than it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import ceil

from symgrad.codegen.kernels.blocked import BLOCK
from symgrad.codegen.kernels.conv_pack import PACKING
from symgrad.codegen.kernels.winograd_tiles import Tiling, WinogradSpec
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record

RUNS = 64
"""Runs between two changes of weights that are the same in most runs."""
EXPOSED = 0.5
"""The part of the time in which kept filters come from L3 that products do not hide; they hide
nothing of the time that more filters take to come from memory."""
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


def schedule(spec: WinogradSpec, target: Target, threads: int) -> Schedule:
    """The tiling of least estimated time; a pure function of its arguments."""
    return _schedule(replace(spec, epilogue=None), target, threads)  # it costs the same in all


@functools.lru_cache(maxsize=4096)
def _schedule(spec: WinogradSpec, target: Target, threads: int) -> Schedule:
    costs = _Costs(spec, target, threads)
    found = []
    # Parts are for filters that are kept: others are used as soon as made, filters first.
    most = threads if spec.invariant_weights else 1
    splits = [n for n in range(1, most + 1) if threads % n == 0]
    for tiles_first, parts, (first, own), second in (
        *((True, n, costs.filters(n), costs.tiles_first) for n in splits),
        (False, 1, costs.inputs(), costs.filters_first),
    ):
        if tilings := [*_tilings(spec, target, threads, tiles_first, parts)]:
            best = min(tilings, key=lambda tiling: second(*tiling))
            found.append(Schedule(tiles_first, Tiling(*best), (first, second(*best)), own))
    return min(found, key=lambda s: s.cycles)


def _tilings(
    spec: WinogradSpec, target: Target, threads: int, tiles_first: bool, splits: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Register tiles that fit, each with some numbers of tiles and input blocks at a time:
    the fields of a ``Tiling``."""
    lanes = min(BLOCK, target.lanes(bytes_of(spec.x.scalar)))
    registers = target.vector_registers - (1 if target.has_fma else 2)
    share = ceil(spec.tiles * splits / threads) if tiles_first else spec.tiles
    depths = (0,) if tiles_first else sorted({min(depth, spec.in_blocks) for depth in (4, 8)})
    for vectors in (1, 2, 4):
        span = vectors * lanes
        group = max(1, span // BLOCK)
        if (span % BLOCK and BLOCK % span) or spec.out_blocks % group:
            continue
        if spec.y.blocks // group % splits:
            continue
        most = (registers - 1 - vectors) // vectors
        few = {n for n in (1, 2, 4, 6, 8, 12) if n < most}
        for tiles in sorted(few | {most}):
            # The first number of whole register tiles that takes all of the share is enough.
            blocks = {tiles * ceil(min(wanted, share) / tiles) for wanted in (8, 16, 32, 64, 128)}
            for block, depth in product(sorted(blocks), depths):
                yield tiles, vectors, block, depth, splits


class _Costs:
    """What the tilings of one convolution cost.

    There are hundreds of them: what they have in common is worked out once.
    """

    def __init__(self, spec: WinogradSpec, target: Target, threads: int) -> None:
        cut, weights = spec.cut, spec.weights.source
        self.target, self.threads, self.ports = target, threads, target.vector_ports
        self.invariant_weights = spec.invariant_weights
        self.size = bytes_of(spec.x.scalar)
        self.lanes = min(BLOCK, target.lanes(self.size))
        self.tiles, self.points, self.needed = cut.tiles, cut.points, cut.needed
        self.groups, self.in_blocks = spec.groups, spec.in_blocks
        self.x_blocks, self.y_blocks = spec.x.blocks, spec.y.blocks
        self.x_bytes = spec.x.elements * self.size
        self.pairs = spec.y.blocks * spec.in_blocks
        """Block pairs of the weights."""
        self.channels = spec.in_blocks * spec.inputs
        read = self.size * target.cycles_per_byte(weights.elements * self.size)
        packed = 0.0 if spec.weights.is_ready else PACKING
        self.filter = weights.matrix * (read + packed) + self._transforms(spec.inputs)
        """Reading, packing and transforming a block pair."""

    def filters(self, splits: int) -> tuple[float, bool]:
        """The first kernel where tiles come first; whether that is part of the second."""
        u_bytes = self.pairs * BLOCK * BLOCK * self.points * self.size
        parts = filter_parts(self.pairs, self.threads)
        busiest = ceil(self.pairs * parts / self.threads) / parts
        shared = self.filter * busiest + self._shared(u_bytes, self.threads)
        if self.invariant_weights:  # which are kept in most runs, and read by each thread
            read = self.target.cycles_per_byte(u_bytes) * u_bytes / splits
            exposed = EXPOSED if u_bytes <= self.target.l3 // 2 else 1.0
            return shared / RUNS + exposed * read, False
        own = self.filter * self.pairs / splits + self._own(u_bytes // splits)
        return min((shared, False), (own, True))

    def inputs(self) -> tuple[float, bool]:
        """The first kernel where filters come first; whether that is part of the second."""
        v_bytes = self.points * self.x_blocks * self.tiles * BLOCK * self.size
        transforms = self._transforms(self.needed * self.tiles * self.x_blocks)
        shared = transforms / self.threads + self._shared(v_bytes, self.threads)
        return min((shared, False), (transforms + self._own(v_bytes), True))

    def tiles_first(self, tiles: int, vectors: int, block: int, depth: int, splits: int) -> float:
        """The kernel that takes blocks of tiles all the way."""
        cycles_per_byte = self.target.cycles_per_byte
        blocks = self.x_blocks + self.y_blocks // splits
        u_bytes = self.pairs * BLOCK * BLOCK * self.points * self.size // splits
        area = self.points * blocks * block * BLOCK * self.size
        share = ceil(ceil(self.tiles / tiles) * splits / self.threads) * tiles
        stream = 1 / cycles_per_byte(u_bytes + area)
        groups = self.y_blocks // self._group(vectors) // splits
        rounds = ceil(share / block)
        last = share - (rounds - 1) * block
        one, rest = (
            groups * self._products(tiles, vectors, count, 1, stream) for count in (block, last)
        )
        products = sum([one] * (rounds - 1)) + rest
        moved = share * area / block * cycles_per_byte(area)
        # Of what a thread reads for more than one part, other threads have made the most.
        foreign = self._shared(self.x_bytes, 1) * (splits - 1) / splits
        return products + self._transforms(share * blocks * self.needed) + moved + foreign

    def filters_first(self, tiles: int, vectors: int, block: int, depth: int, splits: int) -> float:
        """The kernel that takes groups of output channels all the way."""
        cycles_per_byte, group = self.target.cycles_per_byte, self._group(vectors)
        shares = ceil(self.tiles / block)
        tasks = ceil(self.y_blocks // group * shares / self.threads)
        share = min(block, self.tiles)
        v_bytes = self.points * self.x_blocks * self.tiles * BLOCK * self.size
        m_bytes = self.points * group * share * BLOCK * self.size
        u_bytes = self.points * group * depth * BLOCK * BLOCK * self.size
        v_part = v_bytes * share // self.tiles // self.groups
        pairs = self.in_blocks * group
        written = pairs * BLOCK * BLOCK * self.points * self.size
        filters = pairs * self.filter + written * cycles_per_byte(u_bytes) / 2
        chunks = ceil(self.in_blocks / depth)
        # M is read and written once a chunk of input blocks, filters with every register tile.
        products = self._products(tiles, vectors, share, chunks, 1 / cycles_per_byte(u_bytes))
        products += (2 * chunks - 1) * m_bytes * cycles_per_byte(u_bytes + m_bytes) / 2
        products += v_part * cycles_per_byte(v_bytes + u_bytes + m_bytes) / 2
        outputs = self._transforms(self.needed * share * group)
        return tasks * (filters + products + outputs)

    def _group(self, vectors: int) -> int:
        """Output channel blocks whose filters lie side by side."""
        return max(1, vectors * self.lanes // BLOCK)

    def _transforms(self, count: float) -> float:
        """Transforms of ``count`` channel blocks of a tile (or rows of block pairs)."""
        return count * (BLOCK // self.lanes) * self.points * TRANSFORM / self.ports

    def _products(self, tiles: int, vectors: int, count: int, chunks: int, stream: float) -> float:
        """All products of ``count`` tiles with one group's filters, which come at ``stream``
        bytes a cycle, in ``chunks`` of input blocks."""
        width = self._group(vectors) * BLOCK
        calls, pairs = ceil(count / tiles) * width // (vectors * self.lanes), tiles * vectors
        step = 0.3 + max(pairs / self.ports, (tiles + vectors) / self.ports, 4)
        per_channel = max(calls * step, width * self.size / stream)
        # The first chunk's products are stored, those of the others added.
        moves = calls * (20 * chunks + (3 * chunks - 2) * pairs / self.ports)
        return self.needed * self.points * (self.channels * per_channel + moves)

    def _shared(self, bytes: int, threads: int) -> float:
        """A thread's share of writing so many bytes that all threads read: each line pushes
        out another, and comes from the core that has read it, which is no nearer than L3."""
        footprint = 2 * bytes if threads == 1 else max(2 * bytes, self.target.l2)
        return 2 * bytes * self.target.cycles_per_byte(footprint) / threads

    def _own(self, bytes: int) -> float:
        """A thread's writing of as much for itself: where L2 cannot keep it, lines come and
        go."""
        if bytes < self.target.l2:
            return bytes * self.target.cycles_per_byte(bytes)
        return self._shared(bytes, 1)


def filter_parts(pairs: int, threads: int) -> int:
    """Parts of a block pair that threads transform apart, where pairs are few."""
    return next(
        (n for n in (1, 2, 4, 8) if -(-pairs * n // threads) * threads <= 1.1 * pairs * n), 8
    )
