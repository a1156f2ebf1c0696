"""Convolutions of small groups of channels on blocked activations, depthwise ones among them.

With groups of g = 1, 2, 4 or 8 inputs and as many outputs, a block of 16 output channels
sees the 16 inputs of the same block only.  So its lanes do 16 / g groups at once: output
lane c adds up, over its group's inputs j, ``w[c, j] * x[first of c's group + j]``, for each
j a product of vectors: the weights of one row ``[kh][kw][j]`` of the blocked layout, and
the block of x with every group's lanes set to its j-th.  A tile of pixels stays in
registers; per row of the kernel each pixel of x is loaded and rearranged once for all taps
and outputs that meet it.

As in ``conv_direct``, the gradient to the input is the same on the cotangent of the output,
with one part for each remainder modulo the stride.  Its weights are the same for g = 1, else
those of every group transposed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import gcd, prod

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import BLOCK, Weights, lane_group, offset_of, reach
from symgrad.codegen.kernels.conv_direct_spec import ConvSpec, Part, segments
from symgrad.codegen.kernels.conv_pack import (
    PACKING,
    PackWeightsSpec,
    emit_gather,
    transpose,
    weight_block,
)
from symgrad.codegen.kernels.tally import Finish, open_tally
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

UNROLLED = 512
"""Products in the code of one tile, at most."""


@record
class Slices:
    """A block of channels as vectors of the machine, and how groups lie in them."""

    scalar: str
    lanes: int
    group: int

    @staticmethod
    def of(scalar: str, group: int, target: Target) -> Slices:
        """Those of a target."""
        return Slices(scalar, min(BLOCK, target.lanes(bytes_of(scalar))), group)

    @property
    def vector(self) -> str:
        """LLVM type of one slice."""
        return vec(self.scalar, self.lanes)

    @property
    def count(self) -> int:
        """Slices of a block."""
        return BLOCK // self.lanes

    @property
    def shuffled(self) -> bool:
        """Whether a slice of x is rearranged for each input of its groups."""
        return 1 < self.group <= self.lanes

    def working(self, target: Target) -> int:
        """Registers for sums and weights: the others hold what comes by."""
        return target.vector_registers - (5 if self.shuffled else 3) - (not target.has_fma)

    def source(self, k: Emitter, lane: Int) -> Int:
        """Where x begins for the slice that begins at ``lane``: with the group, if that is
        longer than a slice."""
        return k.mul(k.udiv(lane, self.group), self.group) if self.group > self.lanes else lane

    def factors(self, k: Emitter, address: Reg, inputs: range) -> Iterator[tuple[int, Reg]]:
        """A slice of x with every group's lanes set to its j-th, for some j."""
        if self.group > self.lanes:
            for j in inputs:
                yield j, k.broadcast_load(self.vector, k.gep(address, j, self.scalar))
            return
        value = k.load(self.vector, address)
        for j in inputs:
            lanes = [c // self.group * self.group + j for c in range(self.lanes)]
            yield j, value if self.group == 1 else k.shuffle(value, value, lanes)


@record
class LanesSpec:
    """A convolution ``conv`` with groups that are runs of lanes, and where its weights lie.

    Arguments of the kernel: x, weights, the epilogue's operands, y, scratch if any.
    """

    conv: ConvSpec
    packing: PackWeightsSpec

    @property
    def weights(self) -> Weights:
        """The weights as they lie in memory."""
        return self.packing.source

    @property
    def group(self) -> int:
        """Channels of one group."""
        return self.weights.inputs

    @property
    def turns(self) -> bool:
        """Whether the weights of each group are transposed."""
        return self.packing.transposed and self.group > 1

    @property
    def packs(self) -> bool:
        """Whether weights are brought into another form before they are used."""
        return self.weights.strides is not None or self.turns

    def slices(self, target: Target) -> Slices:
        """The vectors of a block."""
        return Slices.of(self.conv.x.scalar, self.group, target)

    def taps(self, part: Part) -> tuple[int, ...]:
        """The kernel's taps (kh, kw flattened) of a part, in the order that x passes by."""
        if not self.packing.transposed:
            return tuple(range(prod(part.taps)))
        return self.packing.parts[self.conv.parts.index(part)]

    def refusal(self) -> str | None:
        """Why this kernel cannot compute it, if so."""
        x, y, groups = self.conv.x, self.conv.y, self.conv.groups
        for tensor in (x, y):
            if reason := tensor.refusal():
                return reason
        if lane_group(x.shape[1], y.shape[1], groups) != self.group:
            return f"{groups} groups of {x.shape[1]} -> {y.shape[1]} channels are not runs of lanes"
        return self.conv.beyond_halo()


# -- schedule --------------------------------------------------------------


@record
class Tile:
    """Rows x columns of pixels whose sums stay in registers."""

    rows: int
    columns: int
    cycles: float = float("inf")
    """Estimated time of the whole convolution on one thread, without memory."""


def _holds_weights(spec: LanesSpec, part: Part, pixels: int, target: Target) -> bool:
    """Whether the weights of a kernel's row fit the registers beside a tile's sums."""
    slices = spec.slices(target)
    return pixels + part.taps[1] * spec.group <= slices.working(target)


@functools.cache
def schedule(spec: LanesSpec, target: Target) -> Tile:
    """The tile of least estimated time.

    Per row of the kernel, a tile multiplies every pixel with every tap and input of the
    group; it loads the pixels of x that it meets and rearranges them for each input, and
    loads the weights once or, where registers are few, for each product.  At the least, the
    products of one pixel wait for each other.
    """
    conv, group, ports = spec.conv, spec.group, target.vector_ports
    slices = spec.slices(target)
    heights = gcd(*(part.size[0] for part in conv.parts))
    widest = max(part.size[1] for part in conv.parts)
    taps = max(part.taps[1] for part in conv.parts)

    def cost(rows: int, columns: int) -> float:
        total, widths = 0.0, set()
        for part in conv.parts:
            for _, count, width in segments(part.size[1], columns):
                pixels, terms = rows * width, part.taps[1] * group
                met = rows * len(_met(spec, part, width))
                weights = terms if _holds_weights(spec, part, pixels, target) else pixels * terms
                shuffles = met * group if slices.shuffled else 0
                busy = max(pixels * terms + shuffles / 2, met + weights) / ports
                step = 3 + max(busy, 4 * terms)
                tiles = slices.count * part.size[0] // rows * count
                total += tiles * (part.taps[0] * step + 20 + 2 * pixels)
                widths.add((part.taps[1], width))
        return total * 1.02 ** len(widths)

    fitting = [
        (rows, columns)
        for rows in range(1, heights + 1)
        if heights % rows == 0
        for columns in range(1, widest + 1)
        if rows * columns < slices.working(target)
        if rows * columns * taps * group <= UNROLLED
    ]
    rows, columns = min(fitting, key=lambda tile: cost(*tile), default=(1, 1))
    return Tile(rows, columns, cost(rows, columns) * conv.y.blocks * conv.x.shape[0])


def _met(spec: LanesSpec, part: Part, width: int) -> list[int]:
    """The pixels of a row of x, from the first on, that a row of a tile meets."""
    stride, dilation = spec.conv.stride[1], spec.conv.dilation[1]
    return sorted({c * stride + t * dilation for c in range(width) for t in range(part.taps[1])})


def cycles(spec: LanesSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads."""
    conv, tile = spec.conv, schedule(spec, target)
    tasks = conv.y.blocks * conv.x.shape[0] * _row_tiles(spec, tile)
    share = -(-tasks // threads) / tasks
    size = bytes_of(conv.x.scalar) * (prod(conv.x.shape) + prod(conv.y.shape))
    memory = size * target.cycles_per_byte(size)
    packed = spec.weights.elements * PACKING if spec.packs else 0.0
    return share * (max(tile.cycles, memory) + packed)


def _row_tiles(spec: LanesSpec, tile: Tile) -> int:
    return max(part.size[0] for part in spec.conv.parts) // tile.rows


# -- code ------------------------------------------------------------------


def _emit_tile(k: Emitter, name: str, spec: LanesSpec, part: Part, rows: int, columns: int) -> None:
    """Emits the function that computes one tile of a part.

    Its parameters are the addresses of the tile in x (at its first tap), in the weights
    (likewise) and in y; the number of rows of taps, the distance of their weights; the
    epilogue's operands at the tile.
    """
    conv, group, scalar = spec.conv, spec.group, spec.conv.x.scalar
    x, y, step, slices = conv.x, conv.y, part.step, spec.slices(k.target)
    vector = slices.vector
    taps = spec.taps(part)
    offsets = [tap - taps[0] for tap in taps[: part.taps[1]]]
    holds = _holds_weights(spec, part, rows * columns, k.target)
    params = ["ptr", "ptr", "ptr", "i64", "i64", *["ptr"] * len(_operands(spec))]

    with k.function(name, params, internal=True, attributes="noinline") as regs:
        x_base, w_base, y_base, tap_rows, w_step, *bases = regs
        sums = {(r, c): k.alloca(vector) for r in range(rows) for c in range(columns)}
        for slot in sums.values():
            k.store(k.zero(vector), slot)
        with k.loop(0, tap_rows) as tap_row:
            x_row = k.gep(x_base, k.mul(tap_row, conv.dilation[0] * x.strides[2]), scalar)
            w_row = k.gep(w_base, k.mul(tap_row, w_step), scalar)

            def load_weight(tap: int, number: int, w_row: Reg = w_row) -> Reg:
                at = (offsets[tap] * group + number) * BLOCK
                return k.load(vector, k.gep(w_row, at, scalar))

            pairs = [(t, j) for t in range(len(offsets)) for j in range(group)]
            held = {pair: load_weight(*pair) for pair in pairs} if holds else {}
            for r in range(rows):
                for column in _met(spec, part, columns):
                    at = r * conv.stride[0] * x.strides[2] + column * x.strides[3]
                    for j, factor in slices.factors(k, k.gep(x_row, at, scalar), range(group)):
                        for t in range(len(offsets)):
                            c, off = divmod(column - t * conv.dilation[1], conv.stride[1])
                            if off or not 0 <= c < columns:
                                continue
                            weight = held[t, j] if holds else load_weight(t, j)
                            slot = sums[r, c]
                            k.store(k.fma(factor, weight, k.load(vector, slot)), slot)
        finish = Finish(k, conv.epilogue, bases, vector)
        for (r, c), slot in sums.items():
            point = 0, 0, r * step[0], c * step[1]
            at = sum(p * s for p, s in zip(point, y.strides, strict=True))
            k.store(finish(k.load(vector, slot), (*point, 0)), k.gep(y_base, at, y.scalar))
        finish.close((0, 0, 0, 0, 0))


def _operands(spec: LanesSpec) -> Sequence[object]:
    return () if spec.conv.epilogue is None else spec.conv.epilogue.operands


def _emit_pack(k: Emitter, name: str, spec: LanesSpec) -> None:
    """Emits ``void name(ptr weights, ptr packed)`` for the weights of one block."""
    weights, scalar = spec.weights, spec.conv.x.scalar
    if weights.strides is not None:
        emit_gather(k, f"{name}_gather", weights)
    with k.function(name, ["ptr", "ptr"], internal=True) as (plain, packed):
        source = plain
        if weights.strides is not None:
            k.call(f"{name}_gather", "void", [plain, packed])
            source = packed
        if spec.turns:
            with k.loop(0, weights.taps) as tap:
                at = k.mul(tap, spec.group * BLOCK)
                places = [k.add(at, j * BLOCK) for j in range(spec.group)]
                rows = [k.load(vec(scalar, BLOCK), k.gep(source, p, scalar)) for p in places]
                for place, row in zip(places, transpose(k, rows), strict=True):
                    k.store(row, k.gep(packed, place, scalar))


def emit_conv_lanes(k: Emitter, name: str, spec: LanesSpec) -> None:
    """Emits the kernel.  Raises ``ValueError`` where ``refusal`` says why."""
    if reason := spec.refusal():
        raise ValueError(f"convolution of small groups: {reason}")
    conv, tile, slices = spec.conv, schedule(spec, k.target), spec.slices(k.target)
    x, y, scalar, epilogue = conv.x, conv.y, conv.x.scalar, conv.epilogue
    tiles: dict[tuple[tuple[int, ...], int], str] = {}
    """Their names: parts that differ in rows of taps only share them."""

    def tile_of(part: Part, width: int) -> str:
        taps = spec.taps(part)[: part.taps[1]]
        offsets = tuple(tap - taps[0] for tap in taps)
        return tiles.setdefault((offsets, width), f"{name}_tile{len(tiles)}")

    for part in conv.parts:
        for _, _, width in segments(part.size[1], tile.columns):
            known = len(tiles)
            function = tile_of(part, width)
            if len(tiles) > known:
                _emit_tile(k, function, spec, part, tile.rows, width)
    if spec.packs:
        _emit_pack(k, f"{name}_pack", spec)
    extra = () if epilogue is None else epilogue.operands
    row_tiles = _row_tiles(spec, tile)
    per_block = x.shape[0] * row_tiles

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        count = 3 + len(extra) + spec.packs
        x_base, w_base, *operands = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(count))
        y_base = k.gep(operands[len(extra)], y.offset, y.scalar)
        x_base = k.gep(x_base, x.offset, scalar)
        scratch = operands[-1]
        operands = open_tally(k, epilogue, operands[: len(extra)], tid)

        def row_of_tiles(part: Part, image: Int, block: Int, tile_row: Int, weights: Reg) -> None:
            taps = spec.taps(part)
            start = k.mul(tile_row, tile.rows)
            h_in = k.add(k.mul(start, conv.stride[0]), part.first[0])
            h_out = k.add(k.mul(start, part.step[0]), part.origin[0])
            span = (tile.rows - 1) * conv.stride[0]
            top, rows = reach(k, h_in, span, conv.dilation[0], part.taps[0], x.shape[2])
            h_in = k.add(h_in, k.mul(top, conv.dilation[0]))
            row_step = taps[part.taps[1]] - taps[0] if len(taps) > part.taps[1] else 0
            row = spec.group * BLOCK * row_step
            first = k.add(spec.group * BLOCK * (taps[0] if taps else 0), k.mul(top, row))
            x_row = offset_of(k, (image, block, h_in, part.first[1]), x.strides)
            for begin, number, width in segments(part.size[1], tile.columns):
                with k.loop(0, number) as index, k.loop(0, BLOCK, slices.lanes) as lane:
                    column = k.add(k.mul(index, width), begin)
                    w_out = k.add(k.mul(column, part.step[1]), part.origin[1])
                    x_at = k.add(x_row, k.mul(column, conv.stride[1] * x.strides[3]))
                    origin = (image, block, h_out, w_out, lane)
                    call = [
                        k.gep(x_base, k.add(x_at, slices.source(k, lane)), scalar),
                        k.gep(weights, k.add(first, lane), scalar),
                        k.gep(y_base, offset_of(k, origin, (*y.strides, 1)), y.scalar),
                        k.as_reg(rows),
                        k.as_reg(row),
                    ]
                    for access, base in zip(extra, operands, strict=True):
                        # The tile's accesses count from its own origin.
                        call.append(replace(access, offset=0).address(k, base, origin))
                    k.call(tile_of(part, width), "void", call)

        low, high = k.slice(y.blocks * per_block, tid, nth)
        with k.if_(k.icmp("slt", k.as_reg(low), high)):
            last = k.udiv(k.add(high, per_block - 1), per_block)
            with k.loop(k.udiv(low, per_block), last) as block:
                weights = weight_block(k, spec.weights, w_base, block, 0)
                if spec.packs:
                    own = k.gep(scratch, k.mul(tid, spec.weights.matrix), scalar)
                    k.call(f"{name}_pack", "void", [weights, own])
                    weights = own
                begin = k.mul(block, per_block)
                tasks = k.max(k.sub(low, begin), 0), k.min(k.sub(high, begin), per_block)
                with k.loop(*tasks) as task:
                    image, tile_row = k.divmod(task, row_tiles)
                    for part in conv.parts:
                        if part.size[0] // tile.rows < row_tiles:
                            inside = k.icmp("slt", k.as_reg(tile_row), part.size[0] // tile.rows)
                            with k.if_(inside):
                                row_of_tiles(part, image, block, tile_row, weights)
                        else:
                            row_of_tiles(part, image, block, tile_row, weights)


def lower_conv_lanes(spec: LanesSpec, threads: int) -> Lowering:
    """The kernel with operands x, weights, the epilogue's, and result y."""
    extra = len(_operands(spec))
    size = bytes_of(spec.conv.x.scalar)
    scratch = threads * spec.weights.matrix * size if spec.packs else 0
    buffers = tuple(range(3 + extra))
    return Lowering((Phase("conv_lanes", emit_conv_lanes, spec, buffers, scratch),))
