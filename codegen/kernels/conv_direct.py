"""Direct convolution of channel-blocked activations, forward and to the input.

A tile of pixels x vectors of output channels stays in registers while the taps
and input channels stream by: per channel a few weight vectors are loaded, per
pixel one input is broadcast, and every pair meets in one fma.  The zero halo of
the input makes edges ordinary; taps that miss the plane for a whole tile are
skipped.

Tiles go over the pixels once for each panel of weights, which stays in L2; or, where all
weights do, over the panels once for each row of pixels, so that memory is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.ahead import LINE, is_far
from symgrad.codegen.kernels.blocked import BLOCK, offset_of, reach
from symgrad.codegen.kernels.conv_direct_spec import (
    PREFETCH_BYTES,
    ConvSpec,
    Part,
    Shape,
    segments,
)
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec, emit_pack_pair
from symgrad.codegen.kernels.tally import Finish, open_tally
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.target import Target


def conv_scratch_bytes(spec: ConvSpec, target: Target, threads: int) -> int:
    """Scratch of the kernel: for each thread the packed weights that it keeps, if it packs."""
    return threads * _thread_bytes(spec, target)


def _thread_bytes(spec: ConvSpec, target: Target) -> int:
    if spec.pack is None:
        return 0
    elements = _rooms(spec, Shape(spec, target)) * spec.panel
    return elements * bytes_of(spec.x.scalar) + spec.pack.stage_bytes


def _rooms(spec: ConvSpec, shape: Shape) -> int:
    """Output channel blocks whose packed weights a thread keeps."""
    return spec.y.blocks if shape.tile.pixels_first else shape.panel_blocks


def _emit_tile(k: Emitter, name: str, spec: ConvSpec, shape: Shape, columns: int) -> None:
    """Emits the function that computes one tile.

    Its parameters are the addresses of the tile in x (at its first tap), in the
    weights (likewise) and in y; the numbers of taps; the weights' strides of rows of
    taps and of channel blocks; whether x is new; and the addresses of the tile in the
    epilogue's operands.
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
    line = max(1, LINE // bytes_of(scalar))
    distance = PREFETCH_BYTES // bytes_of(scalar)
    tap_row, tap_column = spec.dilation[0] * x.strides[2], spec.dilation[1] * x.strides[3]
    step = spec.parts[0].step
    extra = () if spec.epilogue is None else spec.epilogue.operands
    params = ["ptr", "ptr", "ptr", *["i64"] * 5, *["ptr"] * len(extra)]

    with k.function(name, params, internal=True, attributes="noinline") as regs:
        x_base, w_base, y_base, rows, row_taps, w_row, w_block, is_new, *operands = regs
        ends = zip((*operands, y_base), (*extra, y.access), strict=True)
        far = [(base, access) for base, access in ends if is_far(access, y, k.target)]
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
                        k.prefetch(k.gep(stream, at + distance, scalar))
                weights = [k.load(vector, k.gep(stream, at, scalar)) for at in weights_at]
                for at, slots in zip(x_at, accumulators, strict=True):
                    value = k.broadcast_load(vector, k.gep(source, at, scalar))
                    for weight, slot in zip(weights, slots, strict=True):
                        k.store(k.fma(value, weight, k.load(vector, slot)), slot)

        def fetch(block: Int) -> None:
            """Asks for the next block of channels, or the first of the next tile."""
            following = k.mul(k.add(block, 1), x.strides[1])
            last = k.icmp("eq", k.as_reg(block), spec.in_blocks - 1)
            beside = k.as_reg(columns * spec.stride[1] * x.strides[3])
            start = k.gep(x_base, k.select(last, beside, k.as_reg(following)), scalar)
            for at in x_at:
                k.prefetch(k.gep(start, at, scalar))

        def fetch_results(block: Int) -> None:
            """Asks for a part of the lines that the end of the tile reads or writes."""
            for number, (base, access) in enumerate(far):
                lines = [str(at) for at in _lines(spec, shape, pixels, access)]
                table = k.constant_table(f"{name}_lines{number}", "i64", lines)
                low, high = (
                    k.udiv(k.mul(b, len(lines)), spec.in_blocks) for b in (block, k.add(block, 1))
                )
                with k.loop(low, high) as i:
                    at = k.load("i64", k.gep(table, i, "i64"))
                    k.prefetch(k.gep(base, at, MEMORY_TYPES[access.dtype]), locality=2)

        with k.loop(0, spec.in_blocks) as block:
            if far:
                with k.if_(k.icmp("sgt", rows, 0)):
                    fetch_results(block)
            if shape.fetches:
                with k.if_(k.icmp("ne", is_new, 0)):
                    fetch(block)
            with k.loop(0, rows) as row:
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


def _lines(
    spec: ConvSpec, shape: Shape, pixels: Sequence[tuple[int, int, int]], access: Access
) -> list[int]:
    """Where a tile's lines lie in its result, or in a tensor of that shape.

    Parts without taps have no time in which to ask for theirs: where one part alone has any,
    it also asks for what lies between its pixels.
    """
    step = spec.parts[0].step
    alone = sum(prod(part.taps) > 0 for part in spec.parts) == 1
    rows, columns = step if alone else (1, 1)
    line = max(1, LINE // bytes_of(MEMORY_TYPES[access.dtype]))
    vectors = [shape.split(number) for number in range(shape.tile.vectors)]
    points = [
        (n, block, r * step[0] + down, c * step[1] + across, lane)
        for n, r, c in pixels
        for block, lane in vectors
        if lane % line == 0
        for down, across in product(range(rows), range(columns))
    ]
    return [sum(p * s for p, s in zip(point, access.strides, strict=True)) for point in points]


def emit_conv(k: Emitter, name: str, spec: ConvSpec) -> None:
    """Emits the convolution kernel.  Raises ``ValueError`` where ``refusal`` says why."""
    k.is_shaped = True
    if reason := spec.refusal():
        raise ValueError(f"convolution: {reason}")
    shape = Shape(spec, k.target)
    x, y, tile, scalar = spec.x, spec.y, shape.tile, spec.x.scalar
    widths = {width for p in spec.parts for _, _, width in segments(p.size[1], tile.columns)}
    for width in sorted(widths):
        _emit_tile(k, f"{name}_tile{width}", spec, shape, width)
    if spec.pack is not None:
        emit_pack_pair(k, f"{name}_pack", spec.pack)
    extra = () if spec.epilogue is None else spec.epilogue.operands
    row_tiles = max(part.size[0] for part in spec.parts) // tile.rows
    places = x.shape[0] // tile.images * row_tiles
    panels = y.blocks // shape.panel_blocks
    group_blocks = y.blocks // spec.groups

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        pointers = [
            k.load("ptr", k.gep(args, i, "ptr")) for i in range(3 + len(extra) + bool(spec.pack))
        ]
        x_base, w_base, *operands = pointers
        y_base = operands[len(extra)]
        operands = open_tally(k, spec.epilogue, operands[: len(extra)], tid)
        x_base, y_base = k.gep(x_base, x.offset, scalar), k.gep(y_base, y.offset, y.scalar)

        def compute(place: Int, panel: Int, part_slice: Int, weights: Reg) -> None:
            """All parts of one row of tiles."""
            group_image, tile_row = k.divmod(place, row_tiles)
            image = k.mul(group_image, tile.images)
            block, lane = k.mul(panel, shape.panel_blocks), k.mul(part_slice, shape.channels)
            group, within = k.divmod(block, group_blocks)
            in_block = k.mul(group, spec.in_blocks)
            x_image = k.add(k.mul(image, x.strides[0]), k.mul(in_block, x.strides[1]))
            seen = k.add(k.as_reg(lane), within if tile.pixels_first else 0)
            is_new = k.cast("zext", k.icmp("eq", seen, 0), "i64")
            weights = k.gep(weights, lane, scalar)
            for part in spec.parts:
                given = (part, image, block, lane, tile_row, x_image, weights, is_new)
                if part.size[0] // tile.rows < row_tiles:
                    with k.if_(k.icmp("slt", k.as_reg(tile_row), part.size[0] // tile.rows)):
                        row_of_tiles(*given)
                else:
                    row_of_tiles(*given)
                weights = k.gep(weights, spec.in_blocks * prod(part.taps) * x.block * BLOCK, scalar)

        def row_of_tiles(
            part: Part,
            image: Int,
            block: Int,
            lane: Int,
            tile_row: Int,
            x_image: Int,
            weights: Reg,
            is_new: Reg,
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
                        k.gep(y_base, offset_of(k, origin, (*y.strides, 1)), y.scalar),
                        k.as_reg(rows),
                        k.as_reg(taps),
                        k.as_reg(part.taps[1] * x.block * BLOCK),
                        k.as_reg(prod(part.taps) * x.block * BLOCK),
                        is_new,
                    ]
                    for access, base in zip(extra, operands, strict=True):
                        # The tile's accesses count from its own origin.
                        moved = replace(access, offset=0)
                        call.append(moved.address(k, base, origin))
                    k.call(f"{name}_tile{width}", "void", call)

        scratch = pointers[-1]
        if spec.pack is not None:
            scratch = k.gep(scratch, k.mul(tid, _thread_bytes(spec, k.target)), "i8")

        def weights_at(panel: Int, room: Int) -> Reg:
            """Those of a panel, which lie packed in the thread's scratch in one of its rooms."""
            base, number = (w_base, panel) if spec.pack is None else (scratch, room)
            return k.gep(base, k.mul(number, shape.panel_blocks * spec.panel), scalar)

        def pack(panel: Int, room: Int) -> None:
            stage = k.gep(scratch, _rooms(spec, shape) * spec.panel, scalar)
            to = weights_at(panel, room)
            _pack_panel(k, f"{name}_pack", spec, shape, (w_base, panel), to, stage)

        if tile.pixels_first:
            low, high = k.slice(places, tid, nth)
            if spec.pack is not None:
                with k.if_(k.icmp("slt", k.as_reg(low), high)), k.loop(0, panels) as panel:
                    pack(panel, panel)
            with (
                k.loop(low, high) as place,
                k.loop(0, panels) as panel,
                k.loop(0, shape.slices) as part_slice,
            ):
                compute(place, panel, part_slice, weights_at(panel, panel))
            return
        per_panel = places * shape.slices
        low, high = k.slice(panels * per_panel, tid, nth)
        with k.if_(k.icmp("slt", k.as_reg(low), high)):
            last = k.udiv(k.add(high, per_panel - 1), per_panel)
            with k.loop(k.udiv(low, per_panel), last) as panel:
                if spec.pack is not None:
                    pack(panel, 0)
                begin = k.mul(panel, per_panel)
                tasks = k.max(k.sub(low, begin), 0), k.min(k.sub(high, begin), per_panel)
                with k.loop(*tasks) as task:
                    row, lanes = k.divmod(task, shape.slices)
                    compute(row, panel, lanes, weights_at(panel, 0))


def _pack_panel(
    k: Emitter,
    name: str,
    spec: ConvSpec,
    shape: Shape,
    source: tuple[Reg, Int],
    target: Reg,
    stage: Reg,
) -> None:
    """Packs one panel of the weights, ``source``, channel block by channel block."""
    scalar, (base, panel) = spec.x.scalar, source
    with k.loop(0, spec.in_blocks) as in_block, k.loop(0, shape.panel_blocks) as number:
        out_block = k.add(k.mul(panel, shape.panel_blocks), number)
        to = k.gep(target, k.mul(number, spec.panel), scalar)
        k.call(name, "void", [base, k.as_reg(out_block), in_block, to, stage])


def lower_conv(spec: ConvSpec, packing: PackWeightsSpec, target: Target, threads: int) -> Lowering:
    """The kernel of a convolution with operands x, weights, the epilogue's, and result y.

    Weights that are not in the form the kernel reads are packed on the way, by the
    thread that needs them: they then pass through L2 instead of memory.
    """
    spec = replace(spec, pack=None if packing.is_ready else packing, threads=threads)
    extra = 0 if spec.epilogue is None else len(spec.epilogue.operands)
    scratch = conv_scratch_bytes(spec, target, threads)
    return Lowering((Phase("conv", emit_conv, spec, tuple(range(3 + extra)), scratch),))
