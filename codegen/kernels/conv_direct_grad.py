"""Weight gradient of the direct convolution.

The sum runs over pixels: a tile of input channels x vectors of output channels
stays in registers, each pixel broadcasts its inputs against its cotangents.  A task
owns a few blocks of output channels and one of input channels; their weights
``[kh][kw][b][16]`` accumulate in a stage that stays in L1 while chunks of pixels
pass by, so threads never meet.  Where that gives too few tasks, the pixels are split
as well and a second kernel sums the partial results.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from symgrad.codegen.access import Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair, Weights, reach
from symgrad.codegen.kernels.conv_pack import PACKING, weight_block
from symgrad.codegen.kernels.weight_store import emit_store_pair, operand_streams
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

BUSY = 0.92
"""Share of the threads' time with work from which on pixels are not split further."""


@record
class WeightGradSpec:
    """The cotangent of a convolution's weights from x and the cotangent of y.

    Arguments of the kernel: x, dy, the epilogue's operands, dw, scratch.  stride, padding,
    dilation and groups are those of the convolution.  With ``splits`` > 1 dw holds that
    many partial results in the blocked layout.  An epilogue needs dw blocked.
    """

    x: Blocked
    dy: Blocked
    dw: Weights
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    splits: int = 1
    epilogue: Epilogue | None = None

    def refusal(self) -> str | None:
        """Why the direct kernel cannot compute this, if so."""
        for tensor in (self.x, self.dy):
            if reason := tensor.refusal():
                return reason
        if self.dy.block != BLOCK:
            return f"{self.dy.shape[1]} output channels do not fill a block of {BLOCK}"
        if self.groups > 1 and any(t.shape[1] % (BLOCK * self.groups) for t in (self.x, self.dy)):
            return f"{self.groups} groups do not have whole blocks of {BLOCK} channels each"
        if self.joins_taps:
            before, after = self.x.halo[1]
            furthest = (self.dy.shape[3] - 1) * self.stride[1] + self.dw.kernel[1] - 1
            beyond = furthest - self.padding[1] - self.x.shape[3] + 1
            if self.padding[1] > before or beyond > after:
                return (
                    f"windows reach {self.padding[1]} and {max(beyond, 0)} columns over the "
                    f"edges of a halo of {before} and {after}"
                )
        return None

    @property
    def joins_taps(self) -> bool:
        """Whether a tile may span taps: few channels, and a row of taps side by side."""
        pitch = self.dilation[1] * self.x.strides[3]
        return self.x.block < BLOCK and pitch == self.x.block


@record
class Schedule:
    """Register tile (channels x vectors) and the chunk of pixels that fits L1."""

    channels: int
    vectors: int
    images: int
    rows: int


@functools.cache
def schedule(spec: WeightGradSpec, target: Target) -> Schedule:
    """The tile of least estimated time, and as many pixels as L1 holds.

    A tile of c channels and v vectors takes c v fmas and c + v loads per pixel, two of
    each per cycle, and at least the four cycles of the fma that depends on the last.
    """
    x, dy = spec.x, spec.dy
    scalar_bytes = bytes_of(x.scalar)
    lanes = min(BLOCK, target.lanes(scalar_bytes))
    registers = target.vector_registers - (1 if target.has_fma else 2)
    group_vectors = dy.shape[1] // spec.groups // lanes
    run = x.block * (spec.dw.kernel[1] if spec.joins_taps else 1)

    def cost(channels: int, vectors: int) -> float:
        step = max(channels * vectors / 2, (channels + vectors) / 2, 4)
        return (step + 0.5) / (channels * vectors)

    tiles = [
        (c, v)
        for v in (1, 2, 3, 4, 6, 8)
        if group_vectors % v == 0 and (v * lanes % BLOCK == 0 or BLOCK % (v * lanes) == 0)
        for c in range(1, run + 1)
        if run % c == 0 and c * v + v < registers
    ]
    channels, vectors = min(tiles, key=lambda tile: cost(*tile))

    blocks = max(1, vectors * lanes // BLOCK)
    images, height, columns = dy.shape[0], dy.shape[2], dy.shape[3]

    def footprint(rows: int) -> int:
        reached = min((rows - 1) * spec.stride[0] + spec.dw.kernel[0], x.shape[2])
        row = x.shape[3] * x.block
        return scalar_bytes * (reached * row + rows * columns * blocks * BLOCK)

    room = target.l1d
    fitting = [rows for rows in range(1, height + 1) if footprint(rows) <= room]
    rows = max(fitting, default=1)
    rows = -(-height // -(-height // rows))
    together = min(images, max(1, room // footprint(height))) if rows == height else 1
    return Schedule(channels, vectors, together, rows)


class _Shape:
    """What the emitting functions share."""

    def __init__(self, spec: WeightGradSpec, target: Target) -> None:
        self.tile = schedule(spec, target)
        self.lanes = min(BLOCK, target.lanes(bytes_of(spec.x.scalar)))
        self.span = self.tile.vectors * self.lanes
        """Output channels of a tile."""
        self.panel_blocks = max(1, self.span // BLOCK)
        """Blocks of output channels of a task."""
        self.panels = spec.dy.blocks // self.panel_blocks
        images, rows = spec.dy.shape[0], spec.dy.shape[2]
        self.chunks = (-(-images // self.tile.images), -(-rows // self.tile.rows))

    def split(self, vector: int) -> Pair:
        """Block and lane of a tile's vector."""
        return divmod(vector * self.lanes, BLOCK)


def cycles(spec: WeightGradSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads."""
    shape, dw = _Shape(spec, target), spec.dw
    tile, ports, size = shape.tile, target.vector_ports, bytes_of(dw.scalar)

    def met(axis: int) -> int:
        """(pixel, tap) pairs along an axis that meet in the plane."""
        first = range(-spec.padding[axis], dw.kernel[axis] * spec.dilation[axis])
        taps = first[:: spec.dilation[axis]][: dw.kernel[axis]]
        stop = spec.dy.shape[2 + axis] * spec.stride[axis]
        pixels = range(0, stop, spec.stride[axis])
        return sum(0 <= t + p < spec.x.shape[2 + axis] for t in taps for p in pixels)

    products = tile.channels * tile.vectors
    step = 0.5 + max(products / ports, (tile.channels + tile.vectors) / ports, 4)
    joined = spec.joins_taps
    positions = spec.dy.shape[0] * met(0) * (spec.dy.shape[3] if joined else met(1))
    starts = shape.chunks[0] * shape.chunks[1] * dw.taps
    tiles = spec.x.block * (dw.kernel[1] if joined else 1) // tile.channels
    task = tiles * (positions * step + starts * (30 + 2 * products / ports))
    packed = 0.0 if dw.strides is None else PACKING
    stored = packed + size * target.cycles_per_byte(dw.elements * size)
    tasks = shape.panels * dw.blocks[1] * max(1, BLOCK // shape.span)
    return tasks / threads * task * 1.1 + dw.elements / threads * stored


def weight_grad_scratch_bytes(spec: WeightGradSpec, target: Target, threads: int) -> int:
    """Scratch of the kernel: for each thread the weights of one task."""
    shape = _Shape(spec, target)
    return threads * shape.panel_blocks * spec.dw.matrix * bytes_of(spec.x.scalar)


def _emit_tile(k: Emitter, name: str, spec: WeightGradSpec, shape: _Shape, fresh: bool) -> None:
    """Emits the function that adds a chunk of pixels to one tile of the stage.

    Parameters: addresses in x, dy and the stage; images, rows and columns to sum over.
    ``fresh`` tiles start from zero instead.
    """
    x, dy, scalar = spec.x, spec.dy, spec.x.scalar
    vector = vec(scalar, shape.lanes)
    vectors = [shape.split(j) for j in range(shape.tile.vectors)]
    stage_at = [
        [block * spec.dw.matrix + c * BLOCK + lane for block, lane in vectors]
        for c in range(shape.tile.channels)
    ]
    dy_at = [block * dy.strides[1] + lane for block, lane in vectors]
    params = ["ptr", "ptr", "ptr", "i64", "i64", "i64"]
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        x_base, dy_base, stage, images, rows, columns = regs
        slots = [[k.alloca(vector) for _ in row] for row in stage_at]
        for offsets, row_slots in zip(stage_at, slots, strict=True):
            for at, slot in zip(offsets, row_slots, strict=True):
                start = k.zero(vector) if fresh else k.load(vector, k.gep(stage, at, scalar))
                k.store(start, slot)
        with k.loop(0, images) as n, k.loop(0, rows) as r:
            x_row = k.add(k.mul(n, x.strides[0]), k.mul(r, spec.stride[0] * x.strides[2]))
            dy_row = k.add(k.mul(n, dy.strides[0]), k.mul(r, dy.strides[2]))
            x_from, dy_from = k.gep(x_base, x_row, scalar), k.gep(dy_base, dy_row, scalar)
            with k.loop(0, columns) as column:
                x_pixel = k.gep(x_from, k.mul(column, spec.stride[1] * x.strides[3]), scalar)
                dy_pixel = k.gep(dy_from, k.mul(column, dy.strides[3]), scalar)
                cotangents = [k.load(vector, k.gep(dy_pixel, at, scalar)) for at in dy_at]
                for channel, row_slots in enumerate(slots):
                    value = k.broadcast_load(vector, k.gep(x_pixel, channel, scalar))
                    for cotangent, slot in zip(cotangents, row_slots, strict=True):
                        k.store(k.fma(value, cotangent, k.load(vector, slot)), slot)
        for offsets, row_slots in zip(stage_at, slots, strict=True):
            for at, slot in zip(offsets, row_slots, strict=True):
                k.store(k.load(vector, slot), k.gep(stage, at, scalar))


def emit_weight_grad(k: Emitter, name: str, spec: WeightGradSpec) -> None:
    """Emits the kernel.  Raises ``ValueError`` where ``refusal`` says why."""
    k.is_shaped = True
    if reason := spec.refusal():
        raise ValueError(f"weight gradient: {reason}")
    shape = _Shape(spec, k.target)
    x, dy, tile, scalar = spec.x, spec.dy, shape.tile, spec.x.scalar
    kernel_height, kernel_width = spec.dw.kernel
    in_blocks = spec.dw.blocks[1]
    chunks = shape.chunks[0] * shape.chunks[1]
    out = spec.dw if spec.splits == 1 else replace(spec.dw, strides=None)
    fresh = -(-chunks // spec.splits) == 1
    _emit_tile(k, f"{name}_tile", spec, shape, fresh)
    emit_store_pair(k, f"{name}_store", out, spec.epilogue)

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        count = 4 + (len(spec.epilogue.operands) if spec.epilogue else 0)
        pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]
        x_base, dy_base, *operands, dw, scratch = pointers
        x_base, dy_base = k.gep(x_base, x.offset, scalar), k.gep(dy_base, dy.offset, scalar)
        stage_size = shape.panel_blocks * spec.dw.matrix
        stage = k.gep(scratch, k.mul(tid, stage_size), scalar)

        pitch = in_blocks * spec.dw.matrix  # from one block of output channels to the next
        vectors = [shape.split(j) for j in range(tile.vectors)]
        line = max(1, 64 // bytes_of(scalar))
        tile_lines = [
            block * pitch + channel * BLOCK + lane
            for channel in range(tile.channels)
            for block, lane in vectors
            if lane % line == 0
        ]

        def accumulate(chunk: Int, x_block: Int, dy_block: Int, streams: Sequence[Reg]) -> None:
            """Adds one chunk of pixels to the whole stage.

            Meanwhile memory is asked for what the epilogue will read of ``streams``.
            """
            chunk_image, chunk_row = k.divmod(chunk, shape.chunks[1])
            image, row = k.mul(chunk_image, tile.images), k.mul(chunk_row, tile.rows)
            images = k.as_reg(k.min(tile.images, k.sub(dy.shape[0], image)))
            row_end = k.min(k.add(row, tile.rows), dy.shape[2])
            x_image = k.add(k.mul(image, x.strides[0]), k.mul(x_block, x.strides[1]))
            dy_image = k.add(k.mul(image, dy.strides[0]), k.mul(dy_block, dy.strides[1]))
            with k.loop(0, kernel_height) as kh:
                h_first = k.sub(k.mul(kh, spec.dilation[0]), spec.padding[0])
                low, count = reach(k, h_first, 0, spec.stride[0], dy.shape[2], x.shape[2])
                top = k.max(low, row)
                rows = k.max(k.sub(k.min(k.add(low, count), row_end), top), 0)
                h_in = k.add(k.mul(top, spec.stride[0]), h_first)
                x_row = k.add(x_image, k.mul(h_in, x.strides[2]))
                dy_row = k.add(dy_image, k.mul(top, dy.strides[2]))
                # Joined taps read the halo instead of leaving out columns.
                joined = spec.joins_taps
                taps, run = (1, kernel_width * x.block) if joined else (kernel_width, x.block)
                with k.loop(0, taps) as kw:
                    w_first: Int = k.sub(k.mul(kw, spec.dilation[1]), spec.padding[1])
                    left: Int = 0
                    columns: Int = dy.shape[3]
                    if not joined:
                        left, columns = reach(
                            k, w_first, 0, spec.stride[1], dy.shape[3], x.shape[3]
                        )
                    w_in = k.add(k.mul(left, spec.stride[1]), w_first)
                    x_at = k.add(x_row, k.mul(w_in, x.strides[3]))
                    dy_at = k.add(dy_row, k.mul(left, dy.strides[3]))
                    tap = k.add(k.mul(kh, kernel_width), kw)
                    with (
                        k.loop(0, run, tile.channels) as channel,
                        k.loop(0, max(BLOCK, shape.span), shape.span) as lane,
                    ):
                        row_at = k.mul(k.add(k.mul(tap, x.block), channel), BLOCK)
                        for stream in streams:
                            for distance in tile_lines:
                                at = k.add(k.add(row_at, lane), distance)
                                k.prefetch(k.gep(stream, at, scalar), write=True)
                        k.call(
                            f"{name}_tile",
                            "void",
                            [
                                k.gep(x_base, k.add(x_at, channel), scalar),
                                k.gep(dy_base, k.add(dy_at, lane), scalar),
                                k.gep(stage, k.add(row_at, lane), scalar),
                                images,
                                k.as_reg(rows),
                                k.as_reg(columns),
                            ],
                        )

        low, high = k.slice(spec.splits * shape.panels * in_blocks, tid, nth)
        with k.loop(low, high) as task:
            rest, in_block = k.divmod(task, in_blocks)
            part, panel = k.divmod(rest, shape.panels)
            out_block = k.mul(panel, shape.panel_blocks)
            group = k.udiv(out_block, dy.blocks // spec.groups)
            x_block = k.add(k.mul(group, in_blocks), in_block)
            if not fresh:
                vector = vec(scalar, shape.lanes)
                with k.loop(0, stage_size, shape.lanes) as at:
                    k.store(k.zero(vector), k.gep(stage, at, scalar))
            streams = operand_streams(k, spec.dw, spec.epilogue, operands, (out_block, in_block))
            with k.loop(*k.slice(chunks, part, spec.splits)) as chunk:
                accumulate(chunk, x_block, out_block, streams if fresh else ())
            partial = k.gep(dw, k.mul(part, spec.dw.elements), scalar)
            with k.loop(0, shape.panel_blocks) as number:
                pair = k.gep(stage, k.mul(number, spec.dw.matrix), scalar)
                place = k.as_reg(k.add(out_block, number)), k.as_reg(in_block)
                k.call(f"{name}_store", "void", [pair, *place, partial, *operands])


@record
class SumPartialsSpec:
    """Adds up partial weight gradients.

    Arguments: partials, the epilogue's operands, dw, scratch.
    """

    dw: Weights
    splits: int
    epilogue: Epilogue | None = None


def sum_partials_scratch_bytes(spec: SumPartialsSpec, target: Target, threads: int) -> int:
    """Scratch of the kernel: for each thread one block pair."""
    return threads * spec.dw.matrix * bytes_of(spec.dw.scalar)


def emit_sum_partials(k: Emitter, name: str, spec: SumPartialsSpec) -> None:
    """Emits the kernel that sums in a fixed order and writes the weights where they belong."""
    k.is_shaped = True
    dw, scalar = spec.dw, spec.dw.scalar
    lanes = min(BLOCK, k.target.lanes(bytes_of(scalar)))
    vector = vec(scalar, lanes)
    blocked = replace(dw, strides=None)
    emit_store_pair(k, f"{name}_store", dw, spec.epilogue)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        count = 3 + (len(spec.epilogue.operands) if spec.epilogue else 0)
        pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]
        partials, *operands, out, scratch = pointers
        stage = k.gep(scratch, k.mul(tid, dw.matrix), scalar)
        with k.loop(*k.slice(dw.blocks[0] * dw.blocks[1], tid, nth)) as task:
            out_block, in_block = k.divmod(task, dw.blocks[1])
            source = weight_block(k, blocked, partials, out_block, in_block)
            with k.loop(0, dw.matrix, lanes) as at:
                first = k.gep(source, at, scalar)
                total = k.alloca(vector)
                k.store(k.load(vector, first), total)
                with k.loop(1, spec.splits) as number:
                    share = k.mul(number, dw.elements)
                    value = k.load(vector, k.gep(first, share, scalar))
                    k.store(k.fadd(k.load(vector, total), value), total)
                k.store(k.load(vector, total), k.gep(stage, at, scalar))
            place = k.as_reg(out_block), k.as_reg(in_block)
            k.call(f"{name}_store", "void", [stage, *place, out, *operands])


def lower_weight_grad(spec: WeightGradSpec, target: Target, threads: int) -> Lowering:
    """The kernels of a weight gradient with operands x, dy and result dw."""
    shape = _Shape(spec, target)
    tasks = shape.panels * spec.dw.blocks[1]
    chunks = shape.chunks[0] * shape.chunks[1]
    phase = Phase(
        "conv_weight_grad", emit_weight_grad, spec, (),
        weight_grad_scratch_bytes(spec, target, threads),
    )  # fmt: skip
    return lower_in_parts(phase, tasks, chunks, target, threads)


def lower_in_parts(phase: Phase, tasks: int, chunks: int, target: Target, threads: int) -> Lowering:
    """A kernel of weight gradients, of so many ``tasks`` over so many ``chunks`` of pixels.

    Splits the pixels where whole tasks would leave threads idle.
    """
    spec: WeightGradSpec = phase.spec  # type: ignore[assignment]

    def busy(splits: int) -> float:
        busiest = -(-tasks * splits // threads) * -(-chunks // splits)
        return tasks * chunks / (busiest * threads)

    found = range(1, min(chunks, threads) + 1)
    splits = next((s for s in found if busy(s) >= BUSY), None) or max(found, key=busy)
    operands = len(spec.epilogue.operands) if spec.epilogue else 0
    result = 2 + operands
    extra = tuple(range(2, result))
    if splits == 1:
        return Lowering((replace(phase, buffers=(0, 1, *extra, result)),))
    total = SumPartialsSpec(spec.dw, splits, spec.epilogue)
    spec = replace(spec, splits=splits, epilogue=None)
    room = sum_partials_scratch_bytes(total, target, threads)
    partials = result + 1
    return Lowering(
        (
            replace(phase, spec=spec, buffers=(0, 1, partials)),
            Phase(
                "sum_partials", emit_sum_partials, total, (partials, *extra, result), room, weight=0
            ),
        ),
        (splits * spec.dw.elements * bytes_of(spec.x.scalar),),
    )
