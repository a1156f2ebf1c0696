"""Direct convolution of channel-blocked activations, forward and to the input.

A tile of pixels x vectors of output channels stays in registers while the taps
and input channels stream by: per channel a few weight vectors are loaded, per
pixel one input is broadcast, and every pair meets in one fma.  The zero halo of
the input makes edges ordinary; taps that miss the plane for a whole tile are
skipped.

The gradient to the input is the same kernel on the output's cotangent, with
transposed weights.  For stride s, input pixels of equal remainder modulo s see the
same taps; each such class is a *part*: a convolution of stride 1 that writes every
s-th pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from math import gcd, prod

from symgrad.codegen.access import Epilogue
from symgrad.codegen.emitter import Emitter, Int, Reg, bytes_of, vec
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair, Weights, reach
from symgrad.codegen.kernels.conv_pack import PACKING, PackWeightsSpec, emit_pack_pair
from symgrad.codegen.kernels.tally import Finish, open_tally
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
    return replace(best, cycles=cost(best, target.vector_ports) / idle)


def _tasks(spec: ConvSpec, tile: Schedule, lanes: int) -> int:
    """Rows of tiles, which threads share."""
    channels = tile.vectors * lanes
    panels = spec.y.blocks // max(1, channels // BLOCK) * max(1, BLOCK // channels)
    rows = max(part.size[0] for part in spec.parts) // tile.rows
    return panels * (spec.x.shape[0] // tile.images) * rows


def _reads_once(spec: ConvSpec, tile: Schedule) -> bool:
    """Whether one tile has all pixels, so that weights pass by once."""
    widest = max(part.size[1] for part in spec.parts)
    tallest = max(part.size[0] for part in spec.parts)
    images = spec.x.shape[0]
    return (tile.images, tile.rows, tile.columns) == (images, tallest, widest)


def _idle(tasks: int, threads: int) -> float:
    """The busiest thread's part of equal tasks relative to the mean."""
    return -(-tasks // threads) * threads / tasks if tasks else 1.0


def cycles(spec: ConvSpec, packing: PackWeightsSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads, which pack the weights they read."""
    spec = replace(spec, pack=None if packing.is_ready else packing, threads=threads)
    shape = _Shape(spec, target)
    panels = spec.y.blocks // shape.panel_blocks
    share = _idle(_tasks(spec, shape.tile, shape.lanes), threads) / threads
    weights = spec.panel * spec.y.blocks
    packed = 0.0 if packing.is_ready else max(1 / threads, 1 / panels) * weights * PACKING
    return shape.tile.cycles * share + packed


# -- code ------------------------------------------------------------------


def conv_scratch_bytes(spec: ConvSpec, target: Target, threads: int) -> int:
    """Scratch of the kernel: for each thread a panel of packed weights, if it packs."""
    return threads * _thread_bytes(spec, target)


def _thread_bytes(spec: ConvSpec, target: Target) -> int:
    if spec.pack is None:
        return 0
    panel = _Shape(spec, target).panel_blocks * spec.panel * bytes_of(spec.x.scalar)
    return panel + spec.pack.stage_bytes


class _Shape:
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

    def split(self, vector: int) -> Pair:
        """Block and lane of a tile's vector."""
        return divmod(vector * self.lanes, BLOCK)


def _emit_tile(k: Emitter, name: str, spec: ConvSpec, shape: _Shape, columns: int) -> None:
    """Emits the function that computes one tile.

    Its parameters are the addresses of the tile in x (at its first tap), in the
    weights (likewise) and in y; the numbers of taps; the weights' strides of rows of
    taps and of channel blocks; and the addresses of the tile in the epilogue's operands.
    """
    x, y, tile, scalar = spec.x, spec.y, shape.tile, spec.x.scalar
    vector = vec(scalar, shape.lanes)
    pixels = [
        (n, r, c) for n in range(tile.images) for r in range(tile.rows) for c in range(columns)
    ]
    x_at = [
        n * x.strides[0] + r * spec.stride[0] * x.strides[2] + c * spec.stride[1] * x.strides[3]
        for n, r, c in pixels
    ]
    weights_at = [
        block * spec.panel + lane for block, lane in map(shape.split, range(tile.vectors))
    ]
    line = max(1, 64 // bytes_of(scalar))
    ahead = PREFETCH_BYTES // bytes_of(scalar)
    tap_row, tap_column = spec.dilation[0] * x.strides[2], spec.dilation[1] * x.strides[3]
    step = spec.parts[0].step
    bases = 0 if spec.epilogue is None else len(spec.epilogue.operands)
    params = ["ptr", "ptr", "ptr", "i64", "i64", "i64", "i64"] + ["ptr"] * bases

    with k.function(name, params, internal=True, attributes="noinline") as regs:
        x_base, w_base, y_base, rows, row_taps, w_row, w_block, *operands = regs
        accumulators = [[k.alloca(vector) for _ in weights_at] for _ in pixels]
        for slots in accumulators:
            for slot in slots:
                k.store(k.zero(vector), slot)

        def channels(x_tap: Reg, w_tap: Reg, count: Int) -> None:
            """Accumulates a run of input values that lie side by side."""
            with k.loop(0, count) as i:
                source, stream = k.gep(x_tap, i, scalar), k.gep(w_tap, k.mul(i, BLOCK), scalar)
                for at in weights_at:
                    if at % line == 0:
                        k.prefetch(k.gep(stream, at + ahead, scalar))
                weights = [k.load(vector, k.gep(stream, at, scalar)) for at in weights_at]
                for at, slots in zip(x_at, accumulators, strict=True):
                    value = k.broadcast_load(vector, k.gep(source, at, scalar))
                    for weight, slot in zip(weights, slots, strict=True):
                        k.store(k.fma(value, weight, k.load(vector, slot)), slot)

        with k.loop(0, spec.in_blocks) as block, k.loop(0, rows) as row:
            x_row = k.add(k.mul(block, x.strides[1]), k.mul(row, tap_row))
            w_at = k.add(k.mul(block, w_block), k.mul(row, w_row))
            x_tap, w_tap = k.gep(x_base, x_row, scalar), k.gep(w_base, w_at, scalar)
            if tap_column == x.block:  # the taps of a row lie side by side
                channels(x_tap, w_tap, k.mul(row_taps, x.block))
            else:
                with k.loop(0, row_taps) as tap:
                    channels(
                        k.gep(x_tap, k.mul(tap, tap_column), scalar),
                        k.gep(w_tap, k.mul(tap, x.block * BLOCK), scalar),
                        x.block,
                    )
        for number in range(tile.vectors):
            out_block, lane = shape.split(number)
            finish = Finish(k, spec.epilogue, operands, vector)
            for (n, r, c), slots in zip(pixels, accumulators, strict=True):
                point = (n, out_block, r * step[0], c * step[1])
                value = finish(k.load(vector, slots[number]), (*point, lane))
                at = sum(p * s for p, s in zip(point, y.strides, strict=True)) + lane
                k.store(value, k.gep(y_base, at, y.scalar))
            finish.close((0, out_block, 0, 0, lane))


def emit_conv(k: Emitter, name: str, spec: ConvSpec) -> None:
    """Emits the convolution kernel.  Raises ``ValueError`` where ``refusal`` says why."""
    if reason := spec.refusal():
        raise ValueError(f"convolution: {reason}")
    shape = _Shape(spec, k.target)
    x, y, tile, scalar = spec.x, spec.y, shape.tile, spec.x.scalar
    widths = {width for p in spec.parts for _, _, width in segments(p.size[1], tile.columns)}
    for width in sorted(widths):
        _emit_tile(k, f"{name}_tile{width}", spec, shape, width)
    if spec.pack is not None:
        emit_pack_pair(k, f"{name}_pack", spec.pack)
    extra = () if spec.epilogue is None else spec.epilogue.operands
    row_tiles = max(part.size[0] for part in spec.parts) // tile.rows
    panels = y.blocks // shape.panel_blocks
    group_blocks = y.blocks // spec.groups
    per_panel = x.shape[0] // tile.images * row_tiles * shape.slices

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        pointers = [
            k.load("ptr", k.gep(args, i, "ptr")) for i in range(3 + len(extra) + bool(spec.pack))
        ]
        x_base, w_base, *operands = pointers
        y_base = operands[len(extra)]
        operands = open_tally(k, spec.epilogue, operands[: len(extra)], tid)
        x_base, y_base = k.gep(x_base, x.offset, scalar), k.gep(y_base, y.offset, y.scalar)
        low, high = k.slice(panels * per_panel, tid, nth)

        def compute(panel: Int, task: Int, weights: Reg) -> None:
            """All parts of one row of tiles."""
            rest, part_slice = k.divmod(task, shape.slices)
            group_image, tile_row = k.divmod(rest, row_tiles)
            image = k.mul(group_image, tile.images)
            block, lane = k.mul(panel, shape.panel_blocks), k.mul(part_slice, shape.channels)
            in_block = k.mul(k.udiv(block, group_blocks), spec.in_blocks)
            x_image = k.add(k.mul(image, x.strides[0]), k.mul(in_block, x.strides[1]))
            weights = k.gep(weights, lane, scalar)
            for part in spec.parts:
                if part.size[0] // tile.rows < row_tiles:
                    with k.if_(k.icmp("slt", k.as_reg(tile_row), part.size[0] // tile.rows)):
                        row_of_tiles(part, image, block, lane, tile_row, x_image, weights)
                else:
                    row_of_tiles(part, image, block, lane, tile_row, x_image, weights)
                weights = k.gep(weights, spec.in_blocks * prod(part.taps) * x.block * BLOCK, scalar)

        def row_of_tiles(
            part: Part, image: Int, block: Int, lane: Int, tile_row: Int, x_image: Int, weights: Reg
        ) -> None:
            start = k.mul(tile_row, tile.rows)
            h_in = k.add(k.mul(start, spec.stride[0]), part.first[0])
            h_out = k.add(k.mul(start, part.step[0]), part.origin[0])
            span = (tile.rows - 1) * spec.stride[0]
            top, rows = reach(k, h_in, span, spec.dilation[0], part.taps[0], x.shape[2])
            h_in = k.add(h_in, k.mul(top, spec.dilation[0]))
            for begin, count, width in segments(part.size[1], tile.columns):
                with k.loop(0, count) as index:
                    column = k.add(k.mul(index, width), begin)
                    w_in = k.add(k.mul(column, spec.stride[1]), part.first[1])
                    w_out = k.add(k.mul(column, part.step[1]), part.origin[1])
                    span = (width - 1) * spec.stride[1]
                    left, taps = reach(k, w_in, span, spec.dilation[1], part.taps[1], x.shape[3])
                    w_in = k.add(w_in, k.mul(left, spec.dilation[1]))
                    x_at = k.add(k.mul(h_in, x.strides[2]), k.mul(w_in, x.strides[3]))
                    tap = k.add(k.mul(top, part.taps[1]), left)
                    origin = (image, block, h_out, w_out, lane)
                    call = [
                        k.gep(x_base, k.add(x_image, x_at), scalar),
                        k.gep(weights, k.mul(tap, x.block * BLOCK), scalar),
                        k.gep(y_base, dot(k, origin, (*y.strides, 1)), y.scalar),
                        k.as_reg(rows),
                        k.as_reg(taps),
                        k.as_reg(part.taps[1] * x.block * BLOCK),
                        k.as_reg(prod(part.taps) * x.block * BLOCK),
                    ]
                    for access, base in zip(extra, operands, strict=True):
                        # The tile's accesses count from its own origin.
                        moved = replace(access, offset=0)
                        call.append(moved.address(k, base, origin))
                    k.call(f"{name}_tile{width}", "void", call)

        with k.if_(k.icmp("slt", k.as_reg(low), high)):
            last = k.udiv(k.add(high, per_panel - 1), per_panel)
            with k.loop(k.udiv(low, per_panel), last) as panel:
                weights = k.gep(w_base, k.mul(panel, shape.panel_blocks * spec.panel), scalar)
                if spec.pack is not None:
                    scratch = pointers[-1]
                    thread = k.mul(tid, _thread_bytes(spec, k.target))
                    weights = k.gep(scratch, thread, "i8")
                    _pack_panel(k, f"{name}_pack", spec, shape, w_base, panel, weights)
                begin = k.mul(panel, per_panel)
                tasks = k.max(k.sub(low, begin), 0), k.min(k.sub(high, begin), per_panel)
                with k.loop(*tasks) as task:
                    compute(panel, task, weights)


def dot(k: Emitter, point: Sequence[Int], strides: Sequence[int]) -> Int:
    """The element at a point."""
    total: Int = 0
    for position, stride in zip(point, strides, strict=True):
        total = k.add(total, k.mul(position, stride))
    return total


def _pack_panel(
    k: Emitter, name: str, spec: ConvSpec, shape: _Shape, source: Reg, panel: Int, target: Reg
) -> None:
    """Packs the weights of one panel's channel blocks into the thread's scratch."""
    scalar = spec.x.scalar
    stage = k.gep(target, shape.panel_blocks * spec.panel, scalar)
    with k.loop(0, spec.in_blocks) as in_block, k.loop(0, shape.panel_blocks) as number:
        out_block = k.add(k.mul(panel, shape.panel_blocks), number)
        to = k.gep(target, k.mul(number, spec.panel), scalar)
        k.call(name, "void", [source, k.as_reg(out_block), in_block, to, stage])


def lower_conv(spec: ConvSpec, packing: PackWeightsSpec, target: Target, threads: int) -> Lowering:
    """The kernel of a convolution with operands x, weights, the epilogue's, and result y.

    Weights that are not in the form the kernel reads are packed on the way, by the
    thread that needs them: they then pass through L2 instead of memory.
    """
    spec = replace(spec, pack=None if packing.is_ready else packing, threads=threads)
    extra = 0 if spec.epilogue is None else len(spec.epilogue.operands)
    scratch = conv_scratch_bytes(spec, target, threads)
    return Lowering((Phase("conv", emit_conv, spec, tuple(range(3 + extra)), scratch),))
