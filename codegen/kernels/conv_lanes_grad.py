"""Weight gradient of convolutions of small groups of channels on blocked activations.

As ``conv_lanes`` has it, lane c of a row ``[kh][kw][j]`` of weights belongs to output c
and its group's input j.  Its gradient adds up, over all pixels, the cotangent times the
block of x with every group's lanes set to its j-th: again products of whole vectors.  A
tile of such rows, some rows and taps of the kernel and some inputs, stays in registers
while a chunk of pixels passes by; between chunks, sums lie in a stage that stays in L1.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import BLOCK, lane_group, reach
from symgrad.codegen.kernels.conv_direct_grad import WeightGradSpec, lower_in_parts
from symgrad.codegen.kernels.conv_direct_spec import segments
from symgrad.codegen.kernels.conv_lanes import UNROLLED, Slices
from symgrad.codegen.kernels.conv_pack import PACKING
from symgrad.codegen.kernels.weight_store import emit_store_pair
from symgrad.codegen.registers import Int, Reg, bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record


def refusal(spec: WeightGradSpec) -> str | None:
    """Why this kernel cannot compute a weight gradient, if so."""
    x, dy = spec.x, spec.dy
    for tensor in (x, dy):
        if reason := tensor.refusal():
            return reason
    if lane_group(x.shape[1], dy.shape[1], spec.groups) != spec.dw.inputs:
        return (
            f"{spec.groups} groups of {x.shape[1]} -> {dy.shape[1]} channels are not runs of lanes"
        )
    for axis, name in enumerate(("rows", "columns")):
        low, (before, after) = spec.padding[axis], x.halo[axis]
        span = spec.dilation[axis] * (spec.dw.kernel[axis] - 1)
        beyond = spec.stride[axis] * (dy.shape[2 + axis] - 1) + span - low - x.shape[2 + axis] + 1
        if low > before or beyond > after:
            return (
                f"windows reach {low} and {max(beyond, 0)} {name} over the edges of a halo of "
                f"{before} and {after}"
            )
    return None


@record
class Tile:
    """Weights whose sums stay in registers, and the pixels that one step adds to them."""

    rows: int
    taps: int
    inputs: int
    columns: int
    chunk: int
    """Rows of pixels that pass by before the next tile has its turn."""
    cycles: float = float("inf")
    """Estimated time of the whole gradient on one thread, without memory."""


@functools.cache
def schedule(spec: WeightGradSpec, target: Target) -> Tile:
    """The tile of least estimated time; a chunk of pixels fills part of L2.

    Its sums and the cotangents of neighbouring pixels are in registers.  Per row of pixels
    and of weights, each pixel of x that these meet is loaded and rearranged for each input.
    Sums wait for the one before of their own.
    """
    (height, width), group = spec.dw.kernel, spec.dw.inputs
    slices, ports = Slices.of(spec.x.scalar, group, target), target.vector_ports
    images, _, rows_of_pixels, row = spec.dy.shape

    def cost(rows: int, taps: int, inputs: int, columns: int) -> float:
        sums = rows * taps * inputs
        met = rows * ((columns - 1) * spec.stride[1] + taps)
        shuffles = met * inputs if slices.shuffled else 0
        busy = max(sums * columns + shuffles / 2, met + columns) / ports
        tiles = -(-height // rows) * -(-width // taps) * group // inputs
        steps = images * rows_of_pixels * row / columns * slices.count * tiles
        return steps * (2 + max(busy, 4 * columns))

    fitting = [
        (rows, taps, inputs, columns)
        for inputs in (1, 2, 4, 8)
        if inputs <= group
        for taps in {min(width, limit) for limit in (1, 2, 3, 4, 5, 8, width)}
        for rows in range(1, height + 1)
        for columns in {min(row, limit) for limit in (1, 2, 4, 6, 8)}
        if rows * taps * inputs + columns <= slices.working(target)
        if rows * taps * inputs * columns <= UNROLLED
    ]
    best = min(fitting, key=lambda tile: cost(*tile))
    size = bytes_of(spec.x.scalar) * (spec.stride[0] * spec.x.strides[2] + spec.dy.strides[2])
    chunk = min(rows_of_pixels, max(1, target.l2 // 4 // size))
    chunk = -(-rows_of_pixels // -(-rows_of_pixels // chunk))
    return Tile(*best, chunk, cost(*best) * spec.dy.blocks)


def cycles(spec: WeightGradSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads."""
    size = bytes_of(spec.x.scalar) * (spec.x.elements + spec.dy.elements)
    memory = size * target.cycles_per_byte(size)
    stored = spec.dw.elements * (PACKING if spec.dw.strides else 1)
    return (max(schedule(spec, target).cycles, memory) + stored) / threads


@record
class _Rows:
    """The weights of one tile: rows and taps from the ones where it lies, and inputs."""

    rows: int
    taps: int
    first_input: int
    inputs: int


def _emit_tile(k: Emitter, name: str, spec: WeightGradSpec, part: _Rows, columns: int) -> None:
    """Emits the function that adds rows of pixels to one tile of the stage.

    Parameters: addresses in x and dy, at the first pixel and tap, and in the stage; the
    number of rows of pixels.
    """
    x, dy, group, scalar = spec.x, spec.dy, spec.dw.inputs, spec.x.scalar
    slices = Slices.of(scalar, group, k.target)
    vector, inputs = slices.vector, range(part.first_input, part.first_input + part.inputs)
    sums = [(r, t, j) for r in range(part.rows) for t in range(part.taps) for j in inputs]

    def stage_at(r: int, t: int, j: int) -> int:
        return ((r * spec.dw.kernel[1] + t) * group + j) * BLOCK

    def add(x_from: Reg, dy_from: Reg, width: int) -> None:
        """Adds the products of some neighbouring pixels."""
        cotangents = [
            k.load(vector, k.gep(dy_from, c * dy.strides[3], scalar)) for c in range(width)
        ]
        stride, dilation = spec.stride[1], spec.dilation[1]
        met = sorted({c * stride + t * dilation for c in range(width) for t in range(part.taps)})
        for r in range(part.rows):
            for column in met:
                at = r * spec.dilation[0] * x.strides[2] + column * x.strides[3]
                for j, factor in slices.factors(k, k.gep(x_from, at, scalar), inputs):
                    for t in range(part.taps):
                        c, off = divmod(column - t * dilation, stride)
                        if not off and 0 <= c < width:
                            slot = slots[r, t, j]
                            k.store(k.fma(factor, cotangents[c], k.load(vector, slot)), slot)

    params = ["ptr", "ptr", "ptr", "i64"]
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        x_base, dy_base, stage, rows = regs
        slots = {at: k.alloca(vector) for at in sums}
        for at, slot in slots.items():
            k.store(k.load(vector, k.gep(stage, stage_at(*at), scalar)), slot)
        with k.loop(0, rows) as row:
            x_row = k.gep(x_base, k.mul(row, spec.stride[0] * x.strides[2]), scalar)
            dy_row = k.gep(dy_base, k.mul(row, dy.strides[2]), scalar)
            for begin, count, width in segments(dy.shape[3], columns):
                with k.loop(0, count) as index:
                    column = k.add(k.mul(index, width), begin)
                    x_from = k.gep(x_row, k.mul(column, spec.stride[1] * x.strides[3]), scalar)
                    add(x_from, k.gep(dy_row, k.mul(column, dy.strides[3]), scalar), width)
        for at, slot in slots.items():
            k.store(k.load(vector, slot), k.gep(stage, stage_at(*at), scalar))


def emit_lanes_grad(k: Emitter, name: str, spec: WeightGradSpec) -> None:
    """Emits the kernel.  Raises ``ValueError`` where ``refusal`` says why."""
    if reason := refusal(spec):
        raise ValueError(f"weight gradient of small groups: {reason}")
    x, dy, tile, scalar = spec.x, spec.dy, schedule(spec, k.target), spec.x.scalar
    height, width, group = *spec.dw.kernel, spec.dw.inputs
    slices = Slices.of(scalar, group, k.target)
    out = spec.dw if spec.splits == 1 else replace(spec.dw, strides=None)
    chunks = -(-dy.shape[2] // tile.chunk)
    names: dict[_Rows, str] = {}

    def parts() -> Iterator[tuple[_Rows, int, int, int, int]]:
        """The tiles of a block: (tile, first row, their number, first tap, their number)."""
        for first, count, rows in segments(height, tile.rows):
            for left, number, taps in segments(width, tile.taps):
                for j in range(0, group, tile.inputs):
                    yield _Rows(rows, taps, j, tile.inputs), first, count, left, number

    for part, *_ in parts():
        if part not in names:
            names[part] = f"{name}_tile{len(names)}"
            _emit_tile(k, names[part], spec, part, tile.columns)
    emit_store_pair(k, f"{name}_store", out, spec.epilogue)

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        count = 4 + (len(spec.epilogue.operands) if spec.epilogue else 0)
        pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]
        x_base, dy_base, *operands, dw, scratch = pointers
        x_base, dy_base = k.gep(x_base, x.offset, scalar), k.gep(dy_base, dy.offset, scalar)
        stage = k.gep(scratch, k.mul(tid, spec.dw.matrix), scalar)

        def accumulate(chunk: Int, block: Int) -> None:
            """Adds one chunk of pixels to the whole stage."""
            image, share = k.divmod(chunk, chunks)
            begin = k.mul(share, tile.chunk)
            end = k.min(k.add(begin, tile.chunk), dy.shape[2])
            x_at = k.add(k.mul(image, x.strides[0]), k.mul(block, x.strides[1]))
            dy_at = k.add(k.mul(image, dy.strides[0]), k.mul(block, dy.strides[1]))
            for part, first, count, left, number in parts():
                loops = k.loop(0, count), k.loop(0, number), k.loop(0, BLOCK, slices.lanes)
                with loops[0] as r, loops[1] as t, loops[2] as lane:
                    kh = k.add(k.mul(r, part.rows), first)
                    kw = k.add(k.mul(t, part.taps), left)
                    h_first = k.sub(k.mul(kh, spec.dilation[0]), spec.padding[0])
                    span = (part.rows - 1) * spec.dilation[0]
                    low, rows = reach(k, h_first, span, spec.stride[0], dy.shape[2], x.shape[2])
                    top = k.max(low, begin)
                    rows = k.max(k.sub(k.min(k.add(low, rows), end), top), 0)
                    h_in = k.add(k.mul(top, spec.stride[0]), h_first)
                    w_in = k.sub(k.mul(kw, spec.dilation[1]), spec.padding[1])
                    x_from = k.add(k.mul(h_in, x.strides[2]), k.mul(w_in, x.strides[3]))
                    x_from = k.add(x_from, slices.source(k, lane))
                    dy_from = k.add(k.mul(top, dy.strides[2]), lane)
                    tap = k.add(k.mul(kh, width), kw)
                    call = [
                        k.gep(x_base, k.add(x_at, x_from), scalar),
                        k.gep(dy_base, k.add(dy_at, dy_from), scalar),
                        k.gep(stage, k.add(k.mul(tap, group * BLOCK), lane), scalar),
                        k.as_reg(rows),
                    ]
                    k.call(names[part], "void", call)

        low, high = k.slice(spec.splits * dy.blocks, tid, nth)
        with k.loop(low, high) as task:
            split, block = k.divmod(task, dy.blocks)
            with k.loop(0, spec.dw.matrix, slices.lanes) as at:
                k.store(k.zero(slices.vector), k.gep(stage, at, scalar))
            with k.loop(*k.slice(dy.shape[0] * chunks, split, spec.splits)) as chunk:
                accumulate(chunk, block)
            partial = k.gep(dw, k.mul(split, spec.dw.elements), scalar)
            pair = [stage, k.as_reg(block), k.as_reg(0)]
            k.call(f"{name}_store", "void", [*pair, partial, *operands])


def lower_lanes_grad(spec: WeightGradSpec, target: Target, threads: int) -> Lowering:
    """The kernels with operands x, dy and result dw."""
    rows = spec.dy.shape[2]
    chunks = spec.dy.shape[0] * -(-rows // schedule(spec, target).chunk)
    scratch = threads * spec.dw.matrix * bytes_of(spec.x.scalar)
    phase = Phase("conv_lanes_grad", emit_lanes_grad, spec, (), scratch)
    return lower_in_parts(phase, spec.dy.blocks, chunks, target, threads)
