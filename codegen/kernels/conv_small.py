"""Convolution of small images of many channels: whole images in registers.

Where images have few pixels, a convolution is mostly a pass over its weights, and most taps
reach over an edge.  These kernels hold all pixels of an image in registers and all taps of
one input channel, write out just the products that exist, and read each weight once, in
the blocked layout, for both directions:

*Forward*, vectors run along output channels: per input channel the taps' weights are
loaded, and each input pixel is broadcast against those that reach it.

*To the input*, vectors run along output channels too, which are summed over here: a vector
of partial sums per pixel and input channel is kept in L1 while the blocks of output
channels stream by, and its lanes are added up at the end.  So no weight is transposed.

A thread reads the same weights in both directions, those of its output channels, which are
also the ones that it updates where an optimiser follows the gradient to the weights.  So
each core's caches hold a part of the weights of their own; a line that cores of two clusters
have read costs many times as much to write.  To the input this leaves a share of the sums
with every thread, and a second kernel adds the few of them up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from symgrad.codegen.access import Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair, Weights
from symgrad.codegen.kernels.microkernel import LATENCY_PRODUCTS, sum_lanes
from symgrad.codegen.kernels.tally import Finish, open_tally
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

MAX_PRODUCTS = 160
"""Products of one channel that are written out at most."""
EXPOSED = 0.25
"""Forward, the part of the shorter of products and weight stream that the longer does not
hide.  To the input, where sums come and go as well, they add up."""
SHARES = 0.125
"""Elements of all shares of a gradient, relative to the weights, up to which shares pay."""


@record
class SmallConvSpec:
    """A convolution with weights ``w`` between x and y, or its gradient to x.

    Arguments of the kernel: x, w, the epilogue's operands, y; for the gradient dy, w, the
    epilogue's operands, dx, scratch.  stride, padding, dilation and groups are those of the
    convolution.  With ``splits`` > 1 the output channels of the gradient are split into so
    many shares: the kernel takes dy, w, the shares' sums, scratch, and ``emit_add_shares``
    does the rest.
    """

    x: Blocked
    y: Blocked
    weights: Weights
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    to_input: bool = False
    splits: int = 1
    epilogue: Epilogue | None = None

    def refusal(self, target: Target) -> str | None:
        """Why these kernels cannot or should not compute this, if so."""
        if self.weights.strides is not None:
            return "small images need weights in the blocked layout"
        sums = prod((self.x if self.to_input else self.y).shape[2:])
        needed = sums + self.weights.taps + (1 if target.has_fma else 2)
        if needed >= target.vector_registers:
            return f"{sums} pixels and {self.weights.taps} taps do not fit the registers"
        if len(self.products) > MAX_PRODUCTS:
            return f"{len(self.products)} products for each channel are no small image"
        if self.to_input and self.x.block != BLOCK:
            return f"{self.x.shape[1]} input channels do not fill a block of {BLOCK}"
        return None

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(tap, pixel of x, pixel of y) of every product of one channel pair."""
        (height, width), (rows, columns) = self.x.shape[2:], self.y.shape[2:]
        found = []
        for kh, kw, r, c in _points(*self.weights.kernel, rows, columns):
            h = r * self.stride[0] - self.padding[0] + kh * self.dilation[0]
            w = c * self.stride[1] - self.padding[1] + kw * self.dilation[1]
            if 0 <= h < height and 0 <= w < width:
                tap = kh * self.weights.kernel[1] + kw
                found.append((tap, h * width + w, r * columns + c))
        return found

    @property
    def used_taps(self) -> list[int]:
        """Taps that meet a pixel."""
        return sorted({tap for tap, _, _ in self.products})

    @property
    def share(self) -> Blocked:
        """Where the sums of one share of a gradient lie; the next share's follow."""
        return Blocked.dense(self.x.dtype, self.x.shape)

    @property
    def in_blocks(self) -> int:
        """Blocks of input channels of one group."""
        return self.weights.blocks[1]

    @property
    def out_blocks(self) -> int:
        """Blocks of output channels of one group."""
        return self.weights.blocks[0] // self.groups


def _points(*extents: int) -> list[tuple[int, ...]]:
    points: list[tuple[int, ...]] = [()]
    for extent in extents:
        points = [(*p, i) for p in points for i in range(extent)]
    return points


def _pixel(layout: Blocked, pixel: int) -> int:
    """Distance of a pixel, numbered row by row, from the first."""
    row, column = divmod(pixel, layout.shape[3])
    return row * layout.strides[2] + column * layout.strides[3]


def _lanes(spec: SmallConvSpec, target: Target) -> int:
    return min(BLOCK, target.lanes(bytes_of(spec.x.scalar)))


@functools.cache
def images_together(spec: SmallConvSpec, target: Target) -> int:
    """Images of a task: forward as registers allow, backward as the sums fit half of L1."""
    images = spec.x.shape[0]
    if spec.to_input:
        sums = prod(spec.x.shape[2:]) * BLOCK * target.vector_bytes
        return _divisor(images, max(1, target.l1d // 2 // sums))
    free = target.vector_registers - spec.weights.taps - 2
    return _divisor(images, max(1, free // prod(spec.y.shape[2:])))


def shares(spec: SmallConvSpec, threads: int) -> int:
    """Shares of the output channels of a gradient: one for each thread, or one in all.

    They take turns with the weights in the caches, and are added up by a pass of their own.
    """
    if not spec.to_input or spec.groups > 1 or spec.out_blocks < threads:
        return 1
    few = threads * spec.share.elements <= SHARES * spec.weights.elements
    return threads if few else 1


def _divisor(total: int, limit: int) -> int:
    """The largest divisor of ``total`` up to ``limit``."""
    return max(n for n in range(1, min(total, limit) + 1) if total % n == 0)


def cycles(spec: SmallConvSpec, target: Target, threads: int) -> float:
    """Estimated time of one thread: products, and the way of the weights through memory."""
    lanes = _lanes(spec, target)
    channels = spec.weights.outputs * spec.weights.inputs // lanes
    images, taps = spec.x.shape[0], len(spec.used_taps)
    pixels = prod((spec.x if spec.to_input else spec.y).shape[2:])
    other = prod((spec.y if spec.to_input else spec.x).shape[2:])
    traffic = 2 * pixels if spec.to_input else 0  # the sums come and go
    products = len(spec.products) / target.vector_ports
    loads = (other + traffic) / target.vector_ports
    work = images * max(products, loads, pixels if spec.to_input else 4)
    work += 2 * taps / target.vector_ports  # loaded, and fetched ahead
    size = spec.weights.elements * bytes_of(spec.x.scalar)
    stream = size * taps / spec.weights.taps * target.cycles_per_byte(size)
    groups = images // images_together(spec, target)
    splits = shares(spec, threads)
    tasks = (spec.weights.inputs * spec.groups if spec.to_input else spec.weights.outputs) // BLOCK
    busiest = spec.out_blocks if splits > 1 else tasks * groups
    share = -(-busiest // threads) / busiest
    longer, shorter = max(channels * work, stream), min(channels * work, stream)
    return (longer + (1.0 if spec.to_input else EXPOSED) * shorter) * share


# -- code ------------------------------------------------------------------


def emit_small_conv(k: Emitter, name: str, spec: SmallConvSpec) -> None:
    """Emits the kernel.  Raises ``ValueError`` where ``refusal`` says why."""
    k.is_shaped = True
    if reason := spec.refusal(k.target):
        raise ValueError(f"convolution of small images: {reason}")
    emit = _emit_to_input if spec.to_input else _emit_forward
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        emit(k, spec, args, tid, nth)


def _weight_vectors(k: Emitter, spec: SmallConvSpec, at: Reg, ahead: Int) -> dict[int, Reg]:
    """The weights of one input channel, a vector of output channels for each tap in use.

    Prefetches those that lie ``ahead`` elements further on.
    """
    scalar, size = spec.weights.scalar, spec.weights.block * BLOCK
    vector = vec(scalar, _lanes(spec, k.target))
    places = {tap: k.gep(at, tap * size, scalar) for tap in spec.used_taps}
    for place in places.values():
        k.prefetch(k.gep(place, ahead, scalar), locality=2)
    return {tap: k.load(vector, place) for tap, place in places.items()}


def _emit_forward(k: Emitter, spec: SmallConvSpec, args: Reg, tid: Reg, nth: Reg) -> None:
    """A task is a block of output channels for some images, all pixels in registers."""
    x, y, weights, scalar = spec.x, spec.y, spec.weights, spec.x.scalar
    lanes, together = _lanes(spec, k.target), images_together(spec, k.target)
    vector = vec(scalar, lanes)
    extra = spec.epilogue.operands if spec.epilogue else ()
    pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(3 + len(extra))]
    x_base, w_base, *operands, y_base = pointers
    x_base, y_base = k.gep(x_base, x.offset, scalar), k.gep(y_base, y.offset, y.scalar)
    operands = open_tally(k, spec.epilogue, operands, tid)
    groups = x.shape[0] // together
    columns = y.shape[3]
    pixels = range(prod(y.shape[2:]))
    reached: dict[int, list[tuple[int, int]]] = {}
    for tap, source, target in spec.products:
        reached.setdefault(source, []).append((tap, target))
    with (
        k.loop(*k.slice(weights.blocks[0] * groups, tid, nth)) as task,
        k.loop(0, BLOCK, lanes) as lane,
    ):
        block, group = k.divmod(task, groups)
        image = k.mul(group, together)
        first = k.mul(k.udiv(block, spec.out_blocks), spec.in_blocks)
        x_image = k.add(k.mul(image, x.strides[0]), k.mul(first, x.strides[1]))
        w_block = k.add(k.mul(block, spec.in_blocks * weights.matrix), lane)
        chains = _divisor(weights.block, max(1, LATENCY_PRODUCTS // (together * len(pixels))))
        slots = [[k.alloca(vector) for _ in pixels] for _ in range(chains * together)]
        for slot in (s for row in slots for s in row):
            k.store(k.zero(vector), slot)
        with k.loop(0, spec.in_blocks) as in_block, k.loop(0, weights.block, chains) as channel:
            w_at = k.add(k.mul(in_block, weights.matrix), k.mul(channel, BLOCK))
            w_from = k.gep(w_base, k.add(w_at, w_block), scalar)
            x_at = k.add(k.add(k.mul(in_block, x.strides[1]), channel), x_image)
            corner = k.gep(x_base, x_at, scalar)
            for chain in range(chains):
                at = k.gep(w_from, chain * BLOCK, scalar)
                taps = _weight_vectors(k, spec, at, weights.matrix)
                for n, row in enumerate(slots[chain * together : (chain + 1) * together]):
                    for source, products in reached.items():
                        distance = n * x.strides[0] + _pixel(x, source) + chain
                        value = k.broadcast_load(vector, k.gep(corner, distance, scalar))
                        for tap, target in products:
                            slot = row[target]
                            k.store(k.fma(value, taps[tap], k.load(vector, slot)), slot)
        finish = Finish(k, spec.epilogue, operands, vector)
        for n, pixel in product(range(together), pixels):
            point = (k.add(image, n), block, *divmod(pixel, columns), lane)
            value = k.load(vector, slots[n][pixel])
            for row in slots[together + n :: together]:
                value = k.fadd(value, k.load(vector, row[pixel]))
            value = finish(value, point)
            y_at = k.add(k.mul(point[0], y.strides[0]), k.mul(block, y.strides[1]))
            place = k.gep(y_base, k.add(k.add(y_at, lane), _pixel(y, pixel)), y.scalar)
            k.store(value, place)
        finish.close((image, block, 0, 0, lane))


def _emit_to_input(k: Emitter, spec: SmallConvSpec, args: Reg, tid: Reg, nth: Reg) -> None:
    """A task is a block of input channels for some images, their sums in scratch.

    With more than one share a task adds up over the output channels of one of them, and
    leaves the sums without the epilogue.
    """
    y, weights, scalar = spec.y, spec.weights, spec.x.scalar
    x = spec.x if spec.splits == 1 else spec.share
    lanes, together = _lanes(spec, k.target), images_together(spec, k.target)
    vector = vec(scalar, lanes)
    extra = spec.epilogue.operands if spec.epilogue else ()
    pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(4 + len(extra))]
    y_base, w_base, *operands, x_base, scratch = pointers
    operands = open_tally(k, spec.epilogue, operands, tid)
    x_base, y_base = k.gep(x_base, x.offset, scalar), k.gep(y_base, y.offset, scalar)
    sums = k.gep(scratch, k.mul(tid, _sums_bytes(spec, k.target)), "i8")
    groups = x.shape[0] // together
    pixels = prod(x.shape[2:])
    channel_sums, image_sums = pixels * lanes, BLOCK * pixels * lanes
    reached: dict[int, list[tuple[int, int]]] = {}
    for tap, target, source in spec.products:
        reached.setdefault(source, []).append((tap, target))
    tasks = spec.groups * spec.in_blocks * groups
    with k.loop(*k.slice(spec.splits * tasks, tid, nth)) as task:
        share, rest = k.divmod(task, tasks)
        x_block, part = k.divmod(rest, groups)
        image = k.mul(part, together)
        group, in_block = k.divmod(x_block, spec.in_blocks)
        low, high = k.slice(spec.out_blocks, share, spec.splits)
        first = k.mul(group, spec.out_blocks)
        with k.loop(0, together * image_sums, lanes) as at:
            k.store(k.zero(vector), k.gep(sums, at, scalar))
        with (
            k.loop(low, high) as number,
            k.loop(0, BLOCK, lanes) as lane,
            k.loop(0, BLOCK) as channel,
        ):
            block = k.add(first, number)
            pair = k.add(k.mul(block, spec.in_blocks), in_block)
            w_at = k.add(k.add(k.mul(pair, weights.matrix), k.mul(channel, BLOCK)), lane)
            # After the last block come the weights of the next task, not another thread's.
            pitch = spec.in_blocks * weights.matrix
            back = k.sub(weights.matrix, k.mul(k.sub(number, low), pitch))
            ahead = k.select(k.icmp("eq", k.add(number, 1), high), k.as_reg(back), k.as_reg(pitch))
            taps = _weight_vectors(k, spec, k.gep(w_base, w_at, scalar), ahead)
            y_at = k.add(k.mul(image, y.strides[0]), k.mul(block, y.strides[1]))
            y_from = k.gep(y_base, k.add(y_at, lane), scalar)
            sums_from = k.gep(sums, k.mul(channel, channel_sums), scalar)
            with k.loop(0, together) as n:
                corner = k.gep(y_from, k.mul(n, y.strides[0]), scalar)
                own = k.gep(sums_from, k.mul(n, image_sums), scalar)
                places = [k.gep(own, pixel * lanes, scalar) for pixel in range(pixels)]
                slots = [k.alloca(vector) for _ in places]
                for place, slot in zip(places, slots, strict=True):
                    k.store(k.load(vector, place), slot)
                for source, products in reached.items():
                    value = k.load(vector, k.gep(corner, _pixel(y, source), scalar))
                    for tap, target in products:
                        slot = slots[target]
                        k.store(k.fma(value, taps[tap], k.load(vector, slot)), slot)
                for place, slot in zip(places, slots, strict=True):
                    k.store(k.load(vector, slot), place)
        with k.loop(0, together) as n:
            own = k.gep(sums, k.mul(n, image_sums), scalar)
            left = k.gep(x_base, k.mul(share, spec.share.elements), scalar)
            home = x_base if spec.splits == 1 else left
            _emit_totals(k, spec, own, x, home, (k.add(image, n), x_block), operands)


def _emit_totals(
    k: Emitter,
    spec: SmallConvSpec,
    sums: Reg,
    x: Blocked,
    x_base: Reg,
    place: tuple[Int, Int],
    operands: Sequence[Reg],
) -> None:
    """Adds up the lanes of one image's sums, vectors of input channels at a time.

    ``place`` is the image and the block of channels; the totals go to the layout ``x``.
    """
    scalar, lanes = x.scalar, _lanes(spec, k.target)
    channel_sums = prod(x.shape[2:]) * lanes

    def total(pixel: Int, channel: Int) -> Reg:
        first = k.add(k.mul(channel, channel_sums), k.mul(pixel, lanes))
        partials = [
            k.load(vec(scalar, lanes), k.gep(sums, k.add(first, c * channel_sums), scalar))
            for c in range(lanes)
        ]
        return sum_lanes(k, partials, lanes, x.dtype)

    _emit_block(k, spec, x, x_base, place, operands, total)


def _emit_block(
    k: Emitter,
    spec: SmallConvSpec,
    x: Blocked,
    x_base: Reg,
    place: tuple[Int, Int],
    operands: Sequence[Reg],
    total: Callable[[Int, Int], Reg],
) -> None:
    """Stores one block of channels of one image, with the epilogue.

    ``total`` gives the vector at a pixel, by its number, and from a channel on.
    """
    scalar, lanes = x.scalar, _lanes(spec, k.target)
    height, width = x.shape[2:]
    image, block = place
    corner = k.add(k.mul(image, x.strides[0]), k.mul(block, x.strides[1]))
    with k.loop(0, BLOCK, lanes) as channel:
        finish = Finish(k, spec.epilogue, operands, vec(scalar, lanes))
        with k.loop(0, height) as row, k.loop(0, width) as column:
            value = total(k.add(k.mul(row, width), column), channel)
            value = finish(value, (image, block, row, column, channel))
            at = k.add(k.mul(row, x.strides[2]), k.mul(column, x.strides[3]))
            k.store(value, k.gep(x_base, k.add(k.add(corner, at), channel), scalar))
        finish.close((image, block, 0, 0, channel))


def emit_add_shares(k: Emitter, name: str, spec: SmallConvSpec) -> None:
    """Emits the kernel that adds up the shares of a gradient to the input, in their order.

    Arguments: the shares' sums, the epilogue's operands, dx.
    """
    x, share, scalar = spec.x, spec.share, spec.x.scalar
    vector = vec(scalar, _lanes(spec, k.target))
    extra = spec.epilogue.operands if spec.epilogue else ()
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(2 + len(extra))]
        sums, *operands, x_base = pointers
        operands = open_tally(k, spec.epilogue, operands, tid)
        x_base = k.gep(x_base, x.offset, scalar)
        with k.loop(*k.slice(x.shape[0] * x.blocks, tid, nth)) as task:
            first = k.gep(sums, k.mul(task, share.strides[1]), scalar)

            def total(pixel: Int, channel: Int, first: Reg = first) -> Reg:
                at = k.gep(first, k.add(k.mul(pixel, BLOCK), channel), scalar)
                slot = k.alloca(vector)
                k.store(k.load(vector, at), slot)
                with k.loop(1, spec.splits) as number:
                    other = k.gep(at, k.mul(number, share.elements), scalar)
                    k.store(k.fadd(k.load(vector, slot), k.load(vector, other)), slot)
                return k.load(vector, slot)

            _emit_block(k, spec, x, x_base, k.divmod(task, x.blocks), operands, total)


def _sums_bytes(spec: SmallConvSpec, target: Target) -> int:
    """Scratch of one thread: a vector of sums per image, channel of a block and pixel."""
    images = images_together(spec, target)
    return images * prod(spec.x.shape[2:]) * BLOCK * _lanes(spec, target) * bytes_of(spec.x.scalar)


def lower_small_conv(spec: SmallConvSpec, target: Target, threads: int) -> Lowering:
    """The kernels with operands x (or dy), weights, the epilogue's, and result y (or dx)."""
    extra = len(spec.epilogue.operands) if spec.epilogue else 0
    scratch = threads * _sums_bytes(spec, target) if spec.to_input else 0
    result = 2 + extra
    splits = shares(spec, threads)
    if splits == 1:
        buffers = tuple(range(result + 1))
        return Lowering((Phase("small_conv", emit_small_conv, spec, buffers, scratch),))
    spec = replace(spec, splits=splits)
    sums = result + 1
    return Lowering(
        (
            Phase(
                "small_conv", emit_small_conv, replace(spec, epilogue=None), (0, 1, sums), scratch
            ),
            Phase(
                "add_shares", emit_add_shares, spec, (sums, *range(2, sums)), weight=0,
                only_read=(sums,),
            ),
        ),
        (splits * spec.share.elements * bytes_of(spec.x.scalar),),
    )  # fmt: skip
