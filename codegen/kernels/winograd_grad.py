"""Weight gradients of convolutions by Winograd's algorithm.

The forward algorithm is bilinear, and so is its transpose: with d a tile of the input and
e one of the output's cotangent, ``dw = G^T [ sum over tiles of (B^T d B) * (A e A^T) ] G``.
The sum is a matrix product over tiles, one for each element of the transformed tiles.

Again there are two forms.  *Filters first*: all tiles are transformed, then each task owns
a few filters, sums over all tiles and transforms back at once.  *Tiles first*, where these
would not stay in cache: each share of the tiles is transformed and summed up block by block
in memory of its own; the shares' sums meet in a second kernel that transforms them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symgrad.codegen.access import Access, Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.ahead import is_large
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Weights
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, identity_body, lower_loop
from symgrad.codegen.kernels.weight_store import emit_store_pair, operand_streams
from symgrad.codegen.kernels.winograd import apply_2d, transposed
from symgrad.codegen.kernels.winograd_ahead import emit_inputs_ahead, fetch_part
from symgrad.codegen.kernels.winograd_regions import Axis, Cut
from symgrad.codegen.kernels.winograd_transform import (
    PAD,
    Tiles,
    TransformSpec,
    emit_transform,
    emit_transforms,
    load_tile,
    store_tile,
    vector_of,
)
from symgrad.codegen.registers import Int, Reg, bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record


@record
class WinogradGradSpec:
    """The cotangent of the weights from x and the cotangent of y.

    ``axes`` and ``groups`` are those of the convolution.  An epilogue needs dw blocked.
    """

    x: Blocked
    dy: Blocked
    dw: Weights
    axes: tuple[Axis, Axis]
    groups: int = 1
    epilogue: Epilogue | None = None

    @property
    def points(self) -> int:
        """Elements of a transformed tile."""
        return self.cut.points

    @property
    def cut(self) -> Cut:
        """How the output falls into tiles."""
        return Cut.of(self.dy.shape[0], (self.dy.shape[2], self.dy.shape[3]), self.axes)

    @property
    def x_tiles(self) -> Tiles:
        """The input's tiles."""
        return Tiles(self.x, self.cut)

    @property
    def dy_tiles(self) -> Tiles:
        """The cotangent's tiles."""
        return Tiles(self.dy, self.cut, is_cotangent=True)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.cut.tiles

    @property
    def in_blocks(self) -> int:
        """Input channel blocks of one group of the convolution."""
        return self.x.blocks // self.groups

    @property
    def inputs(self) -> int:
        """Input channels of one block: the rows of a filter's matrices that are used."""
        return self.x.block

    @property
    def out_blocks(self) -> int:
        """Output channel blocks of one group of the convolution."""
        return self.dy.blocks // self.groups

    def refusal(self) -> str | None:
        """Why this algorithm cannot compute the gradient, if so."""
        for tensor in (self.x, self.dy):
            if reason := tensor.refusal():
                return reason
        if not self.x.fills_vectors:
            return f"pixels of {self.x.block} channels are no whole vectors"
        if self.dy.block != BLOCK:
            return f"{self.dy.shape[1]} channels do not fill a block of {BLOCK}"
        if self.dw.kernel != (taps := (self.axes[0].taps, self.axes[1].taps)):
            return f"the filter is not {taps[0]} x {taps[1]}"
        if self.groups > 1 and any(t.shape[1] % (BLOCK * self.groups) for t in (self.x, self.dy)):
            return f"{self.groups} groups do not have whole blocks of {BLOCK} channels each"
        return None


@record
class GradKernelSpec:
    """A weight gradient and how it is cut up: what its kernels are made from."""

    grad: WinogradGradSpec
    channels: int
    """Input channels in registers."""
    group: int
    """Blocks of output channels whose sums lie side by side."""
    vectors: int
    """Vectors of output channels in registers."""
    block: int = 0
    """Tiles that are transformed together, tiles first."""
    shares: int = 1
    """Parts of the tiles, tiles first."""

    @property
    def groups(self) -> int:
        """Groups of output channel blocks."""
        return self.grad.dy.blocks // self.group

    @property
    def pitch(self) -> int:
        """Output channels of a group."""
        return self.group * BLOCK

    def sums_plane(self, pairs: int) -> int:
        """Elements from one plane of the sums to the next, for so many groups of pairs."""
        return pairs * BLOCK * self.pitch + PAD

    @property
    def share(self) -> int:
        """Sums of one share, in elements."""
        return self.grad.points * self.sums_plane(self.groups * self.grad.in_blocks)


# -- parts -----------------------------------------------------------------


def _emit_product(k: Emitter, name: str, spec: GradKernelSpec) -> None:
    """Emits ``void name(ptr v, ptr z, ptr sums, i64 tiles, i64 fresh)``.

    Adds the products of some channels of V with those of Z over tiles to the sums, which
    start from zero if ``fresh``.
    """
    scalar = spec.grad.x.scalar
    vector, lanes = vector_of(k, scalar)
    rows, vectors = range(spec.channels), range(spec.vectors)
    params = ["ptr", "ptr", "ptr", "i64", "i64"]
    with k.function(name, params, internal=True, attributes="noinline") as regs:
        v, z, sums, tiles, fresh = regs
        slots = [[k.alloca(vector) for _ in vectors] for _ in rows]
        places = [
            (slots[c][j], k.gep(sums, c * spec.pitch + j * lanes, scalar))
            for c in rows
            for j in vectors
        ]
        with k.if_else(k.icmp("ne", fresh, 0)) as (then, other):
            with then:
                for slot, _ in places:
                    k.store(k.zero(vector), slot)
            with other:
                for slot, place in places:
                    k.store(k.load(vector, place), slot)
        with k.loop(0, tiles) as tile:
            values = k.gep(v, k.mul(tile, BLOCK), scalar)
            stream = k.gep(z, k.mul(tile, spec.pitch), scalar)
            cotangents = [k.load(vector, k.gep(stream, j * lanes, scalar)) for j in vectors]
            for c in rows:
                value = k.broadcast_load(vector, k.gep(values, c, scalar))
                for cotangent, slot in zip(cotangents, slots[c], strict=True):
                    k.store(k.fma(value, cotangent, k.load(vector, slot)), slot)
        for slot, place in places:
            k.store(k.load(vector, slot), place)


def _products(
    k: Emitter,
    name: str,
    spec: GradKernelSpec,
    bases: tuple[Reg, Reg, Reg],
    needed: tuple[Int, Int],
    fresh: Int,
) -> None:
    """The sums of one element over the ``needed`` tiles, for a block of input channels and a
    group of outputs."""
    v, z, sums = bases
    scalar = spec.grad.x.scalar
    low, high = needed
    v, z = k.gep(v, k.mul(low, BLOCK), scalar), k.gep(z, k.mul(low, spec.pitch), scalar)
    _, lanes = vector_of(k, scalar)
    with (
        k.loop(0, spec.grad.inputs, spec.channels) as channel,
        k.loop(0, spec.pitch, spec.vectors * lanes) as lane,
    ):
        k.call(
            f"{name}_product",
            "void",
            [
                k.gep(v, channel, scalar),
                k.gep(z, lane, scalar),
                k.gep(sums, k.add(k.mul(channel, spec.pitch), lane), scalar),
                k.as_reg(k.sub(high, low)),
                k.as_reg(fresh),
            ],
        )


def _emit_back(k: Emitter, name: str, spec: GradKernelSpec, plane: int) -> None:
    """Emits ``void name(ptr sums, ptr pair)``: all shares' sums of a block pair, added up and
    transformed back."""
    grad, scalar = spec.grad, spec.grad.x.scalar
    vector, lanes = vector_of(k, scalar)
    down, across = (transposed(axis.matrices().filter) for axis in grad.axes)
    with (
        k.function(name, ["ptr", "ptr"], internal=True, attributes="noinline") as (sums, pair),
        k.loop(0, grad.inputs) as row,
        k.loop(0, BLOCK, lanes) as lane,
    ):
        first = k.gep(sums, k.add(k.mul(row, spec.pitch), lane), scalar)
        total = load_tile(k, vector, grad.cut.size, first, plane)
        for number in range(1, spec.shares):
            at = k.gep(first, number * spec.share, scalar)
            more = load_tile(k, vector, grad.cut.size, at, plane)
            total = [
                [k.fadd(a, b) for a, b in zip(*rows, strict=True)]
                for rows in zip(total, more, strict=True)
            ]
        to = k.gep(pair, k.add(k.mul(row, BLOCK), lane), scalar)
        store_tile(k, apply_2d(k, down, total, across), to, grad.dw.block * BLOCK, scalar)


def _arguments(k: Emitter, args: Reg, epilogue: Epilogue | None, others: int) -> list[Reg]:
    """The kernel's pointers: some operands, the epilogue's, dw and scratch."""
    count = others + 2 + (len(epilogue.operands) if epilogue else 0)
    return [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count)]


# -- filters first ---------------------------------------------------------


def emit_filters_first(k: Emitter, name: str, spec: GradKernelSpec) -> None:
    """Emits the kernel; arguments: V, Z, the epilogue's operands, dw, scratch."""
    k.is_shaped = True
    grad, scalar = spec.grad, spec.grad.x.scalar
    plane = spec.sums_plane(1)
    v_plane = TransformSpec(grad.x_tiles, grad.tiles).plane
    z_plane = TransformSpec(grad.dy_tiles, grad.tiles, spec.group).plane
    _emit_product(k, f"{name}_product", spec)
    _emit_back(k, f"{name}_back", spec, plane)
    emit_store_pair(k, f"{name}_store", grad.dw, grad.epilogue)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        v, z, *operands, dw, scratch = _arguments(k, args, grad.epilogue, 2)
        sums = k.gep(scratch, k.mul(tid, _thread_elements(spec)), scalar)
        pair = k.gep(sums, grad.points * plane, scalar)
        with k.loop(*k.slice(spec.groups * grad.in_blocks, tid, nth)) as task:
            group, in_block = k.divmod(task, grad.in_blocks)
            out_block = k.mul(group, spec.group)
            x_block = k.mul(k.udiv(out_block, grad.out_blocks), grad.in_blocks)
            v_at = k.mul(k.add(x_block, in_block), grad.tiles * BLOCK)
            z_at = k.mul(group, grad.tiles * spec.pitch)
            with k.loop(0, grad.points) as point:
                bases = (
                    k.gep(v, k.add(k.mul(point, v_plane), v_at), scalar),
                    k.gep(z, k.add(k.mul(point, z_plane), z_at), scalar),
                    k.gep(sums, k.mul(point, plane), scalar),
                )
                _prefetch_part(k, spec, operands, point, (out_block, in_block))
                _products(k, name, spec, bases, grad.cut.range(k, point), 1)
            with k.loop(0, spec.group) as number:
                at = k.gep(sums, k.mul(number, BLOCK), scalar)
                k.call(f"{name}_back", "void", [at, pair])
                place = [k.as_reg(k.add(out_block, number)), k.as_reg(in_block)]
                k.call(f"{name}_store", "void", [pair, *place, dw, *operands])


def _prefetch_part(
    k: Emitter, spec: GradKernelSpec, operands: Sequence[Reg], point: Int, pair: tuple[Int, Int]
) -> None:
    """Asks for one point's part of what the epilogue will read of a task's block pairs."""
    grad = spec.grad
    line = 64 // bytes_of(grad.dw.scalar)
    lines = -(-grad.dw.matrix // (line * grad.points))
    for number in range(spec.group):
        place = k.add(pair[0], number), pair[1]
        for stream in operand_streams(k, grad.dw, grad.epilogue, operands, place):
            for at in range(lines):
                ahead = k.mul(k.add(k.mul(point, lines), at), line)
                k.prefetch(k.gep(stream, ahead, grad.dw.scalar), write=True)


def _thread_elements(spec: GradKernelSpec) -> int:
    """Scratch of a thread that goes filters first: sums of a task and a block pair."""
    return spec.grad.points * spec.sums_plane(1) + spec.grad.dw.matrix


def lower_filters_first(
    spec: GradKernelSpec, target: Target, threads: int, weights: tuple[int, int] = (1, 1)
) -> Lowering:
    """Its kernels, with operands x, dy, the epilogue's, and result dw.

    ``weights`` say how the work divides between the transforms and the rest.
    """
    grad = spec.grad
    size = bytes_of(grad.x.scalar)
    extra = len(grad.epilogue.operands) if grad.epilogue else 0
    v, z = 3 + extra, 4 + extra
    transforms = (
        TransformSpec(grad.x_tiles, grad.tiles),
        TransformSpec(grad.dy_tiles, grad.tiles, spec.group),
    )
    blocks_of = grad.x.blocks, grad.dy.blocks
    both = sum(blocks_of)
    phases = [
        Phase(
            f"winograd_{label}", emit_transforms, transform, (source, target),
            threads * transform.tiles.stage * size, weight=max(1, weights[0] * blocks // both),
        )
        for label, source, target, transform, blocks in zip(
            ("input", "cotangent"), (0, 1), (v, z), transforms, blocks_of, strict=True
        )
    ]  # fmt: skip
    scratch = threads * _thread_elements(spec) * size
    last = Phase(
        "winograd_grad", emit_filters_first, spec, (v, z, *range(2, v)), scratch,
        weight=weights[1],
    )  # fmt: skip
    return Lowering((*phases, last), tuple(grad.points * t.plane * size for t in transforms))


# -- tiles first -----------------------------------------------------------


def _planes(spec: GradKernelSpec) -> tuple[int, int]:
    """Planes of V and Z for one block of tiles."""
    x, dy = spec.grad.x.blocks, spec.grad.dy.blocks
    return x * spec.block * BLOCK + PAD, dy * spec.block * BLOCK + PAD


def _share_elements(spec: GradKernelSpec) -> int:
    """Scratch of a thread that goes tiles first: V, Z and the stage."""
    stage = max(spec.grad.x_tiles.stage, spec.grad.dy_tiles.stage)
    return spec.grad.points * sum(_planes(spec)) + stage


def emit_tiles_first(k: Emitter, name: str, spec: GradKernelSpec) -> None:
    """Emits the kernel that sums up shares; arguments: x, dy, the shares' sums, scratch."""
    k.is_shaped = True
    grad, scalar = spec.grad, spec.grad.x.scalar
    v_plane, z_plane = _planes(spec)
    plane = spec.sums_plane(spec.groups * grad.in_blocks)
    emit_transform(k, f"{name}_input", grad.x_tiles, v_plane)
    emit_transform(k, f"{name}_cotangent", grad.dy_tiles, z_plane)
    both = {"input": grad.x_tiles, "cotangent": grad.dy_tiles}
    far = [label for label, tiles in both.items() if is_large(tiles.tensor, k.target)]
    for label in far:
        emit_inputs_ahead(k, f"{name}_{label}_ahead", both[label])
    _emit_product(k, f"{name}_product", spec)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        x, dy, totals, scratch = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(4))
        x, dy = k.gep(x, grad.x.offset, scalar), k.gep(dy, grad.dy.offset, scalar)
        v = k.gep(scratch, k.mul(tid, _share_elements(spec)), scalar)
        z = k.gep(v, grad.points * v_plane, scalar)
        stage = k.gep(z, grad.points * z_plane, scalar)
        bases = {"input": x, "cotangent": dy}

        def transform(first: Int, count: Int) -> None:
            with k.loop(0, grad.x.blocks) as block, k.loop(0, count) as tile:
                number = k.as_reg(k.add(first, tile))
                at = k.mul(k.add(k.mul(block, spec.block), tile), BLOCK)
                to = k.gep(v, at, scalar)
                k.call(f"{name}_input", "void", [x, number, block, to, stage])
            with k.loop(0, grad.dy.blocks) as block, k.loop(0, count) as tile:
                number = k.as_reg(k.add(first, tile))
                group, part = k.divmod(block, spec.group)
                at = k.mul(k.add(k.mul(group, spec.block), tile), spec.pitch)
                to = k.gep(z, k.add(at, k.mul(part, BLOCK)), scalar)
                k.call(f"{name}_cotangent", "void", [dy, number, block, to, stage])

        def products(sums: Reg, point: Int, needed: tuple[Int, Int], fresh: Int) -> None:
            with k.loop(0, spec.groups) as group, k.loop(0, grad.in_blocks) as in_block:
                conv_group = k.udiv(k.mul(group, spec.group), grad.out_blocks)
                x_block = k.add(k.mul(conv_group, grad.in_blocks), in_block)
                v_at = k.add(k.mul(point, v_plane), k.mul(x_block, spec.block * BLOCK))
                z_at = k.add(k.mul(point, z_plane), k.mul(group, spec.block * spec.pitch))
                pairs = k.add(k.mul(group, grad.in_blocks), in_block)
                at = k.add(k.mul(point, plane), k.mul(pairs, BLOCK * spec.pitch))
                factors = k.gep(v, v_at, scalar), k.gep(z, z_at, scalar)
                _products(k, name, spec, (*factors, k.gep(sums, at, scalar)), needed, fresh)

        with k.loop(*k.slice(spec.shares, tid, nth)) as share:
            sums = k.gep(totals, k.mul(share, spec.share), scalar)
            low, high = k.slice(grad.tiles, share, spec.shares)
            with k.loop(low, high, spec.block) as first:
                count = k.min(k.sub(high, first), spec.block)
                fresh = k.cast("zext", k.icmp("eq", first, low), "i64")
                transform(first, count)
                next_ = k.add(first, count)
                following = next_, k.min(k.sub(high, next_), spec.block)
                with k.loop(0, grad.points) as point:
                    for label in far:
                        ahead, blocks = f"{name}_{label}_ahead", (0, both[label].tensor.blocks)
                        part = point, grad.points
                        fetch_part(k, ahead, [bases[label]], blocks, following, part)
                    ends = [k.sub(end, first) for end in grad.cut.range(k, point)]
                    needed = k.max(ends[0], 0), k.min(ends[1], count)
                    products(sums, point, needed, fresh)


def emit_filters_back(k: Emitter, name: str, spec: GradKernelSpec) -> None:
    """Emits the kernel that adds shares and transforms them back; arguments: the shares'
    sums, the epilogue's operands, dw, scratch."""
    k.is_shaped = True
    grad, scalar = spec.grad, spec.grad.x.scalar
    _emit_back(k, f"{name}_back", spec, spec.sums_plane(spec.groups * grad.in_blocks))
    emit_store_pair(k, f"{name}_store", grad.dw, grad.epilogue)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        totals, *operands, dw, scratch = _arguments(k, args, grad.epilogue, 1)
        pair = k.gep(scratch, k.mul(tid, grad.dw.matrix), scalar)
        with k.loop(*k.slice(grad.dy.blocks * grad.in_blocks, tid, nth)) as task:
            out_block, in_block = k.divmod(task, grad.in_blocks)
            group, number = k.divmod(out_block, spec.group)
            pairs = k.add(k.mul(group, grad.in_blocks), in_block)
            at = k.add(k.mul(pairs, BLOCK * spec.pitch), k.mul(number, BLOCK))
            k.call(f"{name}_back", "void", [k.gep(totals, at, scalar), pair])
            place = [k.as_reg(out_block), k.as_reg(in_block)]
            k.call(f"{name}_store", "void", [pair, *place, dw, *operands])


def lower_tiles_first(
    spec: GradKernelSpec, target: Target, threads: int, weights: tuple[int, int] = (1, 1)
) -> Lowering:
    """Its kernels, with operands x, dy, the epilogue's, and result dw.

    Many shares of few filters are added up by a nest of its own, which all threads share.
    ``weights`` say how the work divides between the sums and the rest.
    """
    grad = spec.grad
    size, dtype = bytes_of(grad.x.scalar), grad.x.dtype
    extra = len(grad.epilogue.operands) if grad.epilogue else 0
    totals = 3 + extra
    bare = replace(spec, grad=replace(grad, epilogue=None))
    scratch = threads * _share_elements(spec) * size
    phases = [
        Phase("winograd_sums", emit_tiles_first, bare, (0, 1, totals), scratch, weight=weights[0])
    ]
    temporaries = [spec.shares * spec.share * size]
    pairs = grad.dy.blocks * grad.in_blocks
    if spec.shares > 4 and -(-pairs // threads) * threads > 1.1 * pairs:
        shares = Access(dtype, (spec.share, 1))
        total = Output(Access(dtype, (0, 1)), "sum", (0,))
        extents = (spec.shares, spec.share)
        nest = LoopSpec(extents, (shares,), identity_body(dtype), (total,))
        lowering = lower_loop(nest, target, threads)
        places = (totals, totals + 1, *range(totals + 2, totals + 2 + len(lowering.temporaries)))
        phases += [
            replace(phase, buffers=tuple(places[i] for i in phase.buffers), weight=weights[1])
            for phase in lowering.phases
        ]
        temporaries += [spec.share * size, *lowering.temporaries]
        spec, totals, weights = replace(spec, shares=1), totals + 1, (0, max(1, weights[1] // 4))
    phases.append(
        Phase(
            "winograd_grad", emit_filters_back, spec, (totals, *range(2, 3 + extra)),
            threads * grad.dw.matrix * size, weight=weights[1],
        )
    )  # fmt: skip
    return Lowering(tuple(phases), tuple(temporaries))
