"""What direct convolutions compute, and the tiles that they are cut into.

The gradient to the input is a convolution of the output's cotangent, with transposed
weights.  For stride s, input pixels of equal remainder modulo s see the same taps; each such
class is a *part*: a convolution of stride 1 that writes every s-th pixel.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from math import gcd, prod

from symgrad.codegen.access import Epilogue
from symgrad.codegen.kernels.ahead import is_large
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair, Weights
from symgrad.codegen.kernels.conv_pack import PACKING, PackWeightsSpec
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record

PREFETCH_BYTES = 2048
"""How far ahead of its use the weight stream is prefetched."""


@record
class Part:
    """Output pixels ``origin + step * u``, u < size, of a convolution.

    They read the inputs ``first + stride * u + dilation * tap``.
    """

    taps: Pair
    size: Pair
    first: Pair
    origin: Pair = (0, 0)
    step: Pair = (1, 1)


@record
class ConvSpec:
    """A convolution ``x -> y``; ``forward`` and ``input_grad`` build it.

    Arguments of the kernel: x, packed weights ``[O/16][parts][I/b][kh][kw][b][16]``,
    the epilogue's operands, y.  With ``pack`` the weights come as that says instead,
    and each thread packs what it needs into its scratch.
    """

    x: Blocked
    y: Blocked
    parts: tuple[Part, ...]
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    epilogue: Epilogue | None = None
    pack: PackWeightsSpec | None = None
    threads: int = 1
    """The team that the tile is chosen for; the result is right for any."""

    @property
    def in_blocks(self) -> int:
        """Channel blocks that one output sums over."""
        return self.x.blocks // self.groups

    @property
    def panel(self) -> int:
        """Packed weights of 16 output channels, in elements."""
        taps = sum(prod(part.taps) for part in self.parts)
        return self.in_blocks * taps * self.x.block * BLOCK

    def refusal(self) -> str | None:
        """Why the direct kernel cannot compute this, if so."""
        for tensor in (self.x, self.y):
            if reason := tensor.refusal():
                return reason
        if self.y.block != BLOCK:
            return f"{self.y.shape[1]} output channels do not fill a block of {BLOCK}"
        if self.groups > 1 and any(t.shape[1] % (BLOCK * self.groups) for t in (self.x, self.y)):
            return f"{self.groups} groups do not have whole blocks of {BLOCK} channels each"
        return self.beyond_halo()

    def beyond_halo(self) -> str | None:
        """How windows reach over the edges of x's halo, if they do."""
        for axis, name in enumerate(("rows", "columns")):
            low = max((-p.first[axis] for p in self.parts if prod(p.taps)), default=0)
            high = max((self._last(p, axis) for p in self.parts if prod(p.taps)), default=0)
            before, after = self.x.halo[axis]
            beyond = high - self.x.shape[2 + axis] + 1
            if low > before or beyond > after:
                return (
                    f"windows reach {max(low, 0)} and {max(beyond, 0)} {name} over the "
                    f"edges of a halo of {before} and {after}"
                )
        return None

    def _last(self, part: Part, axis: int) -> int:
        """The furthest input position that a part's windows reach."""
        pixel = self.stride[axis] * (part.size[axis] - 1)
        return part.first[axis] + pixel + self.dilation[axis] * (part.taps[axis] - 1)


def forward(
    x: Blocked,
    y: Blocked,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    epilogue: Epilogue | None = None,
) -> ConvSpec:
    """The convolution of x into y; ``padding`` is the one before the first pixel."""
    part = Part(kernel, (y.shape[2], y.shape[3]), (-padding[0], -padding[1]))
    return ConvSpec(x, y, (part,), stride, dilation, groups, epilogue)


@record
class _Class:
    """Along one axis: the positions ``origin + stride * u`` and the taps that reach them."""

    origin: int
    size: int
    taps: tuple[int, ...]
    first: int


def _classes(size: int, kernel: int, stride: int, padding: int, dilation: int) -> list[_Class]:
    """Splits an input axis by remainder modulo the stride.

    Position i gets ``dy[(i + padding - dilation * t) / stride]`` from each tap t that
    makes this whole; taken backwards, those taps step through dy at a fixed pace.
    """
    classes = []
    for origin in range(min(stride, size)):
        reach = range(kernel - 1, -1, -1)
        taps = tuple(t for t in reach if (origin + padding - dilation * t) % stride == 0)
        first = (origin + padding - dilation * taps[0]) // stride if taps else 0
        classes.append(_Class(origin, -(-(size - origin) // stride), taps, first))
    return classes


def input_grad(
    dy: Blocked,
    dx: Blocked,
    weights: Weights,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    epilogue: Epilogue | None = None,
) -> tuple[ConvSpec, PackWeightsSpec]:
    """The cotangent of the input from that of the output, and how its weights are packed.

    stride, padding and dilation are those of the forward convolution.
    """
    rows, columns = (
        _classes(dx.shape[2 + a], weights.kernel[a], stride[a], padding[a], dilation[a])
        for a in range(2)
    )
    width = weights.kernel[1]
    pairs = [(h, w) for h in rows for w in columns]
    parts = tuple(
        Part(
            (len(h.taps), len(w.taps)),
            (h.size, w.size),
            (h.first, w.first),
            (h.origin, w.origin),
            stride,
        )
        for h, w in pairs
    )
    taps = tuple(tuple(a * width + b for a in h.taps for b in w.taps) for h, w in pairs)
    pace = (dilation[0] // gcd(dilation[0], stride[0]), dilation[1] // gcd(dilation[1], stride[1]))
    spec = ConvSpec(dy, dx, parts, (1, 1), pace, groups, epilogue)
    return spec, PackWeightsSpec(weights, groups, transposed=True, parts=taps)


# -- schedule --------------------------------------------------------------


@record
class Schedule:
    """The register tile: images x rows x columns of pixels, times vectors of channels."""

    images: int
    rows: int
    columns: int
    vectors: int
    cycles: float = float("inf")
    """Estimated time of the whole convolution on one thread."""
    pixels_first: bool = False
    """Whether a row of tiles meets all panels before the next one does: x then passes by once,
    and the weights lie in a thread's own cache."""


def segments(size: int, tile: int) -> list[tuple[int, int, int]]:
    """(start, count, width) of the whole tiles of an axis and of what remains."""
    whole, rest = divmod(size, tile)
    segments = [(0, whole, tile), (whole * tile, 1, rest)]
    return [s for s in segments if s[1] and s[2]]


def _visited(spec: ConvSpec, part: Part, axis: int, start: int, width: int) -> int:
    """Taps along an axis that reach the plane from some pixel of a tile."""
    first = part.first[axis] + spec.stride[axis] * start
    last = first + spec.stride[axis] * (width - 1)
    step, size = spec.dilation[axis], spec.x.shape[2 + axis]
    low = max(0, -(last // step))
    return max(0, min(part.taps[axis], -((first - size) // step)) - low)


@functools.cache
def schedule(spec: ConvSpec, target: Target) -> Schedule:
    """The tile of least estimated time.

    Per input channel and tap a tile of p pixels and v vectors takes p v fmas and
    p + v loads, two of each per cycle; v vectors of weights from L2 (or beyond) at 32
    (or 12) bytes per cycle, from wherever they lie if they pass by once; and at least the
    four cycles of the fma that depends on the last.  Every width of tile is code of its
    own, so fewer are better.
    """
    scalar_bytes = bytes_of(spec.x.scalar)
    lanes = min(BLOCK, target.lanes(scalar_bytes))
    registers = target.vector_registers - (1 if target.has_fma else 2)
    group_vectors = spec.y.shape[1] // spec.groups // lanes
    images = spec.x.shape[0]
    heights = gcd(*(part.size[0] for part in spec.parts))
    widest = max(part.size[1] for part in spec.parts)
    weight_bytes = spec.panel * spec.y.blocks * scalar_bytes

    @functools.cache
    def row_work(part: Part, rows: int) -> int:
        starts = range(0, part.size[0], rows)
        return sum(_visited(spec, part, 0, start, rows) for start in starts)

    @functools.cache
    def column_work(part: Part, columns: int) -> list[tuple[int, int, int]]:
        """(width, tiles, taps) of each kind of tile."""
        return [
            (width, n, sum(_visited(spec, part, 1, at + i * width, width) for i in range(n)))
            for at, n, width in segments(part.size[1], columns)
        ]

    def cost(tile: Schedule, ports: int = 2) -> float:
        per_column = tile.images * tile.rows
        vectors = tile.vectors
        panel = max(BLOCK, vectors * lanes) // BLOCK * spec.panel * scalar_bytes
        once = spec.pack is None and _reads_once(spec, tile)
        if once:
            stream = 1 / target.cycles_per_byte(weight_bytes)
        else:
            stream = 32 if panel < target.l2 // 2 else 12
        total = 0.0
        for part in spec.parts:
            row_taps = row_work(part, tile.rows)
            row_tiles = part.size[0] // tile.rows
            for width, tiles, taps in column_work(part, tile.columns):
                pixels = per_column * width
                fetched = 1.0
                if once and (row_taps, taps) != part.taps:
                    # What is fetched ahead at the end of a run of taps belongs to others.
                    run = taps * spec.x.block * BLOCK * scalar_bytes
                    fetched = 1 + PREFETCH_BYTES / max(1, run)
                step = 0.3 + max(
                    pixels * vectors / ports,
                    (pixels + vectors) / ports,
                    fetched * vectors * target.vector_bytes / stream,
                    4,
                )
                channels = spec.in_blocks * spec.x.block
                total += channels * row_taps * taps * step
                total += row_tiles * tiles * (40 + 2 * pixels * vectors)
        widths = len({w for part in spec.parts for w, _, _ in column_work(part, tile.columns)})
        total *= images // tile.images * (group_vectors // vectors) * spec.groups
        total *= 1.02**widths
        if not once:
            total += weight_bytes * target.cycles_per_byte(weight_bytes)
        return total * _idle(_tasks(spec, tile, lanes), spec.threads)

    best, least = Schedule(1, 1, 1, 1), float("inf")
    for vectors in (v for v in range(1, 9) if group_vectors % v == 0):
        if vectors * lanes % BLOCK and BLOCK % (vectors * lanes):
            continue
        pixels = (registers - 1 - vectors) // vectors
        for n in (n for n in range(1, min(images, pixels, 8) + 1) if images % n == 0):
            for rows in (r for r in range(1, pixels // n + 1) if heights % r == 0):
                for columns in range(1, min(pixels // n // rows, widest) + 1):
                    tile = Schedule(n, rows, columns, vectors)
                    if (time := cost(tile)) < least:
                        best, least = tile, time
    idle = _idle(_tasks(spec, best, lanes), spec.threads)
    best = replace(best, cycles=cost(best, target.vector_ports) / idle)
    return replace(best, pixels_first=_puts_pixels_first(spec, best, target))


def _puts_pixels_first(spec: ConvSpec, tile: Schedule, target: Target) -> bool:
    """Whether passing over a large x once saves more than packing all weights costs.

    Threads then share rows of tiles only, and the weights must lie in each one's own cache.
    """
    size, threads = bytes_of(spec.x.scalar), spec.threads
    lanes = min(BLOCK, target.lanes(size))
    weights = spec.panel * spec.y.blocks
    panels = spec.y.blocks // spec.groups // max(1, tile.vectors * lanes // BLOCK)
    if weights * size > target.l2 // 2 or not is_large(spec.x, target):
        return False
    rows, all_tasks = (
        _tasks(spec, replace(tile, pixels_first=first), lanes) for first in (True, False)
    )
    if _idle(rows, threads) > 1.02 * _idle(all_tasks, threads):
        return False
    traffic = spec.x.elements * size / threads
    saved = (panels - 1) * traffic * target.cycles_per_byte(traffic)
    packed = weights * PACKING * (1 - max(1 / threads, 1 / panels)) if spec.pack else 0.0
    return saved > packed


def _tasks(spec: ConvSpec, tile: Schedule, lanes: int) -> int:
    """Rows of tiles, which threads share."""
    channels = tile.vectors * lanes
    panels = spec.y.blocks // max(1, channels // BLOCK) * max(1, BLOCK // channels)
    rows = max(part.size[0] for part in spec.parts) // tile.rows
    rows *= spec.x.shape[0] // tile.images
    return rows if tile.pixels_first else panels * rows


def _reads_once(spec: ConvSpec, tile: Schedule) -> bool:
    """Whether one tile has all pixels, so that weights pass by once."""
    widest = max(part.size[1] for part in spec.parts)
    tallest = max(part.size[0] for part in spec.parts)
    images = spec.x.shape[0]
    return (tile.images, tile.rows, tile.columns) == (images, tallest, widest)


def _idle(tasks: int, threads: int) -> float:
    """The busiest thread's part of equal tasks relative to the mean."""
    return -(-tasks // threads) * threads / tasks if tasks else 1.0


class Shape:
    """What the emitting functions share: the tile, its vectors and where they lie."""

    def __init__(self, spec: ConvSpec, target: Target) -> None:
        self.tile = schedule(spec, target)
        self.lanes = min(BLOCK, target.lanes(bytes_of(spec.x.scalar)))
        channels = self.tile.vectors * self.lanes
        self.panel_blocks = max(1, channels // BLOCK)
        """Channel blocks of a panel: those that one tile covers, at least one."""
        self.slices = max(1, BLOCK // channels)
        """Tiles that share a panel, where a tile covers less than a block."""
        self.channels = channels
        one_tap = all(prod(part.taps) <= 1 for part in spec.parts)
        self.fetches = one_tap and is_large(spec.x, target)
        """Whether tiles ask for x: with one tap, little time is spent on each of its lines."""

    def split(self, vector: int) -> Pair:
        """Block and lane of a tile's vector."""
        return divmod(vector * self.lanes, BLOCK)


def cycles(spec: ConvSpec, packing: PackWeightsSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads, which pack the weights they read."""
    spec = replace(spec, pack=None if packing.is_ready else packing, threads=threads)
    shape = Shape(spec, target)
    share = _idle(_tasks(spec, shape.tile, shape.lanes), threads) / threads
    panels = 1 if shape.tile.pixels_first else spec.y.blocks // shape.panel_blocks
    weights = spec.panel * spec.y.blocks
    packed = 0.0 if packing.is_ready else max(1 / threads, 1 / panels) * weights * PACKING
    return shape.tile.cycles * share + packed
