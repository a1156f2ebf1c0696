"""Convolutions, and their gradients to the input, by Winograd's algorithm.

There are two forms.  Where tiles are many, filters are transformed once, and each thread takes
blocks of tiles all the way: transforms them, multiplies them with all filters and transforms
back, in memory of its own that stays in L2 (*tiles first*).  If tiles are few and filters
large, it takes more tiles, with a part of the filters that no other thread reads.  Where
channels are many, all tiles are transformed first, and each thread takes groups of output
channels all the way: it transforms their filters, a few input blocks at a time, and uses them
at once for all tiles, so that transformed filters, four times the size of the weights, never
reach memory (*filters first*).

What all threads read, filters in the one form and tiles in the other, is made by a kernel of
its own, each thread its share.  Where that is little, each thread makes all of it for itself:
lines that go from core to core would take longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import compress

from symgrad.codegen.access import Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.ahead import LINE, is_far, is_large
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Weights
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec, source_pair
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.kernels.tally import open_tally
from symgrad.codegen.kernels.winograd_ahead import emit_ahead, emit_inputs_ahead, fetch_part
from symgrad.codegen.kernels.winograd_regions import Axis
from symgrad.codegen.kernels.winograd_schedule import filter_parts, schedule
from symgrad.codegen.kernels.winograd_tiles import (
    Ahead,
    Shape,
    Tiling,
    WinogradSpec,
    emit_filter,
    emit_output,
    emit_product,
)
from symgrad.codegen.kernels.winograd_transform import (
    TransformSpec,
    emit_transform,
    emit_transforms,
)
from symgrad.codegen.registers import Int, Reg, bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record


def forward(
    x: Blocked,
    y: Blocked,
    weights: Weights,
    along: tuple[Axis, Axis],
    *,
    groups: int = 1,
    epilogue: Epilogue | None = None,
) -> WinogradSpec:
    """The convolution of x into y."""
    return WinogradSpec(x, y, PackWeightsSpec(weights, groups), along, groups, epilogue)


def input_grad(
    dy: Blocked,
    dx: Blocked,
    weights: Weights,
    along: tuple[Axis, Axis],
    *,
    groups: int = 1,
    epilogue: Epilogue | None = None,
) -> WinogradSpec:
    """The cotangent of the input: the convolution of dy with the filters turned round."""
    turned = tuple(reversed(range(weights.taps)))
    packing = PackWeightsSpec(weights, groups, transposed=True, parts=(turned,))
    return WinogradSpec(dy, dx, packing, along, groups, epilogue)


@record
class KernelSpec:
    """A convolution and how it is cut up: what its kernels are made from."""

    conv: WinogradSpec
    tiling: Tiling
    parts: int = 1
    """Parts of a block pair of filters, tiles first."""
    own: bool = False
    """Whether each thread makes for itself what all read."""


# -- tiles first -----------------------------------------------------------


def emit_filters(k: Emitter, name: str, spec: KernelSpec) -> None:
    """Emits the kernel that transforms all filters; arguments: weights, U, scratch."""
    k.is_shaped = True
    conv, shape = spec.conv, Shape(spec.conv, spec.tiling, k.target)
    emit_filter(k, f"{name}_filter", shape, _filters_plane(shape))
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        weights, u, scratch = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(3))
        stage = k.gep(scratch, k.mul(tid, shape.stage), shape.scalar)
        with k.loop(*k.slice(conv.y.blocks * conv.in_blocks * spec.parts, tid, nth)) as task:
            pair, part = k.divmod(task, spec.parts)
            rows = k.slice(conv.inputs, part, spec.parts)
            _filter_pair(k, name, shape, pair, rows, (weights, u, stage))


def _filters_plane(shape: Shape) -> int:
    """From one element of all transformed filters to the next."""
    return shape.u_plane(shape.groups, shape.spec.in_blocks)


def _filter_pair(
    k: Emitter,
    name: str,
    shape: Shape,
    pair: Int,
    rows: tuple[Int, Int],
    bases: tuple[Reg, Reg, Reg],
) -> None:
    """Transforms some input channels of one block pair of all filters."""
    weights, u, stage = bases
    in_blocks = shape.spec.in_blocks
    out_block, in_block = k.divmod(pair, in_blocks)
    group, number = k.divmod(out_block, shape.group)
    at = k.mul(k.add(k.mul(group, in_blocks), in_block), BLOCK * shape.group * BLOCK)
    place = k.gep(u, k.add(at, k.mul(number, BLOCK)), shape.scalar)
    which, span = ([k.as_reg(n) for n in numbers] for numbers in ((out_block, in_block), rows))
    k.call(f"{name}_filter", "void", [weights, *which, place, stage, *span])


def _thread_elements(shape: Shape, own: bool) -> int:
    """Scratch of a thread that goes tiles first: V, M, the stage, and U if it is its own."""
    spec = shape.spec
    planes = shape.v_plane(shape.tiling.block) + shape.m_plane(_part_blocks(shape))
    if own:
        planes += _filters_plane(shape)
    return spec.points * planes + shape.stage


def _part_blocks(shape: Shape) -> int:
    """Blocks of output channels in one part."""
    return shape.groups // shape.tiling.splits * shape.group


def emit_tiles_first(k: Emitter, name: str, spec: KernelSpec) -> None:
    """Emits the kernel over blocks of tiles; arguments: x, U, the epilogue's, y, scratch.

    With ``own`` filters the weights come in place of U.
    """
    k.is_shaped = True
    conv, tiling, shape = spec.conv, spec.tiling, Shape(spec.conv, spec.tiling, k.target)
    scalar, x, y = shape.scalar, conv.x, conv.y
    part_blocks, part_groups = _part_blocks(shape), shape.groups // tiling.splits
    v_plane, m_plane = shape.v_plane(tiling.block), shape.m_plane(part_blocks)
    u_plane = _filters_plane(shape)
    row = tiling.block * BLOCK
    if spec.own:
        emit_filter(k, f"{name}_filter", shape, u_plane)
    emit_transform(k, f"{name}_input", conv.x_tiles, v_plane)
    emit_product(k, f"{name}_product", shape, row, row)
    emit_output(k, f"{name}_output", shape, m_plane)
    sinks = shape.sinks
    far = [is_far(access, y, k.target) for access in sinks]
    emit_ahead(k, f"{name}_ahead", conv.cut, [*compress(sinks, far)])
    x_is_far = is_large(x, k.target)
    if x_is_far:
        emit_inputs_ahead(k, f"{name}_next", conv.x_tiles)

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(3 + len(sinks))]
        x_base, filters, *operands, y_base, scratch = pointers
        x_base, y_base = k.gep(x_base, x.offset, scalar), k.gep(y_base, y.offset, y.scalar)
        operands = open_tally(k, conv.epilogue, operands, tid)
        v = k.gep(scratch, k.mul(tid, _thread_elements(shape, spec.own)), scalar)
        m = k.gep(v, conv.points * v_plane, scalar)
        stage = k.gep(m, conv.points * m_plane, scalar)
        u = k.gep(stage, shape.stage, scalar) if spec.own else filters
        rows = -(-conv.tiles // tiling.tiles)  # of register tiles
        low, high = k.slice(tiling.splits * rows, tid, nth)
        first_part, last_part = k.udiv(low, rows), k.udiv(k.add(high, rows - 1), rows)
        if spec.own:
            pairs = part_blocks * conv.in_blocks
            with (
                k.if_(k.icmp("slt", k.as_reg(low), high)),
                k.loop(k.mul(first_part, pairs), k.mul(last_part, pairs)) as pair,
            ):
                _filter_pair(k, name, shape, pair, (0, conv.inputs), (filters, u, stage))

        def products(point: Int, part: Int, first: Int, count: Int) -> None:
            """One element of a block's transformed tiles with a part of the filters."""
            with k.loop(0, part_groups) as number:
                group = k.add(k.mul(part, part_groups), number)
                start = k.mul(k.udiv(k.mul(group, shape.group), conv.out_blocks), conv.in_blocks)
                v_at = k.add(k.mul(point, v_plane), k.mul(start, row))
                u_at = k.add(
                    k.mul(point, u_plane),
                    k.mul(group, conv.in_blocks * shape.group * BLOCK * BLOCK),
                )
                m_at = k.add(k.mul(point, m_plane), k.mul(number, shape.group * row))
                _products(
                    k, name, shape, _needed(k, shape, point, first, count),
                    (k.gep(v, v_at, scalar), k.gep(u, u_at, scalar), k.gep(m, m_at, scalar)),
                    conv.in_blocks, 1,
                )  # fmt: skip

        def block_of_tiles(part: Int, first: Int, end: Int) -> None:
            """The tiles from ``first`` on, as many as go together, all the way."""
            count = k.min(k.sub(end, first), tiling.block)
            next_ = k.add(first, count)
            following = next_, k.min(k.sub(end, next_), tiling.block)
            first_block = k.mul(part, part_blocks)
            with k.loop(0, x.blocks) as block, k.loop(0, count) as tile:
                to = k.gep(v, k.add(k.mul(block, row), k.mul(tile, BLOCK)), scalar)
                place = [k.as_reg(k.add(first, tile)), block]
                k.call(f"{name}_input", "void", [x_base, *place, to, stage])
            results = first_block, part_blocks
            with k.loop(0, conv.points) as point:
                ahead, share = [*compress((*operands, y_base), far)], (point, conv.points)
                fetch_part(k, f"{name}_ahead", ahead, results, (first, count), share)
                fetch_part(k, f"{name}_next", [x_base] * x_is_far, (0, x.blocks), following, share)
                products(point, part, first, count)
            with k.loop(0, part_blocks) as block, k.loop(0, count) as tile:
                from_ = k.gep(m, k.add(k.mul(block, row), k.mul(tile, BLOCK)), scalar)
                place = [k.as_reg(k.add(first, tile)), k.as_reg(k.add(first_block, block))]
                k.call(f"{name}_output", "void", [from_, *place, y_base, *operands])

        with k.loop(first_part, last_part) as part:
            begin = k.mul(part, rows)
            first_row, end_row = k.max(k.sub(low, begin), 0), k.min(k.sub(high, begin), rows)
            end = k.min(k.mul(end_row, tiling.tiles), conv.tiles)
            with k.loop(first_row, end_row, tiling.block // tiling.tiles) as at:
                block_of_tiles(part, k.mul(at, tiling.tiles), end)


def _needed(k: Emitter, shape: Shape, point: Int, first: Int, count: Int) -> tuple[Int, Int]:
    """Which of ``count`` tiles from ``first`` on need a point, from a whole register tile on."""
    tiles = shape.tiling.tiles
    low, high = (k.sub(end, first) for end in shape.spec.cut.range(k, point))
    return k.mul(k.udiv(k.max(low, 0), tiles), tiles), k.min(high, count)


def _products(
    k: Emitter,
    name: str,
    shape: Shape,
    needed: tuple[Int, Int],
    bases: tuple[Reg, Reg, Reg],
    blocks: Int,
    fresh: Int,
    ahead: Callable[[Int], Reg] | None = None,
) -> None:
    """One element of the ``needed`` transformed tiles times one group's filters.

    ``ahead`` says by the number of a register tile what it asks for.
    """
    v, u, m = bases
    tiles = shape.tiling.tiles
    with k.loop(*needed, tiles) as tile, k.loop(0, shape.slices) as part:
        lane = k.mul(part, shape.channels)
        asked = []
        if ahead is not None:
            asked = [ahead(k.add(k.mul(k.udiv(tile, tiles), shape.slices), part))]
        k.call(
            f"{name}_product",
            "void",
            [
                k.gep(v, k.mul(tile, BLOCK), shape.scalar),
                k.gep(u, lane, shape.scalar),
                k.gep(m, k.add(k.mul(tile, BLOCK), lane), shape.scalar),
                k.as_reg(blocks),
                k.as_reg(fresh),
                *asked,
            ],
        )


def lower_tiles_first(
    spec: KernelSpec, target: Target, threads: int, weights: tuple[int, int] = (1, 1)
) -> Lowering:
    """Its kernels, with operands x, weights, the epilogue's, and result y.

    ``weights`` say how the work divides among them.
    """
    conv, shape = spec.conv, Shape(spec.conv, spec.tiling, target)
    size = bytes_of(shape.scalar)
    extra = 0 if conv.epilogue is None else len(conv.epilogue.operands)
    u = 3 + extra
    scratch = threads * _thread_elements(shape, spec.own) * size
    if spec.own:
        return Lowering((Phase("winograd", emit_tiles_first, spec, tuple(range(u)), scratch),))
    spec = replace(spec, parts=filter_parts(conv.y.blocks * conv.in_blocks, threads))
    bare = replace(spec, conv=replace(conv, epilogue=None))
    filters = Phase(
        "winograd_filter", emit_filters, bare, (1, u), threads * shape.stage * size,
        weight=weights[0],
    )  # fmt: skip
    tiles = Phase(
        "winograd", emit_tiles_first, spec, (0, u, *range(2, u)), scratch,
        weight=weights[1], only_read=(u,),
    )  # fmt: skip
    return Lowering((filters, tiles), (conv.points * _filters_plane(shape) * size,))


# -- filters first ---------------------------------------------------------


def _all_tiles(shape: Shape) -> TransformSpec:
    """The transforms of all tiles, with room for whole register tiles."""
    return TransformSpec(shape.spec.x_tiles, round_up(shape.spec.tiles, shape.tiling.tiles))


def _group_elements(shape: Shape, own: bool) -> int:
    """Scratch of a thread that goes filters first: U, M, the stage, and V if it is its own."""
    planes = shape.u_plane(1, shape.tiling.depth) + shape.m_plane(shape.group)
    if own:
        planes += _all_tiles(shape).plane
    return shape.spec.points * planes + shape.stage


def _calls(shape: Shape) -> int:
    """Register tiles of one element of a block of tiles, at most."""
    tiling = shape.tiling
    return -(-min(tiling.block, shape.spec.tiles) // tiling.tiles) * shape.slices


def _pair_lines(shape: Shape) -> int:
    """Lines of memory in which one block pair of the weights lies."""
    return -(-shape.spec.weights.source.matrix * bytes_of(shape.scalar) // LINE)


def _weights_ahead(shape: Shape, target: Target) -> Ahead | None:
    """What the products of some input blocks ask for of the next ones' weights, where these
    come from beyond a thread's own cache."""
    packing = shape.spec.weights
    source = packing.source
    if source.strides is not None or source.elements * bytes_of(source.scalar) <= target.l2:
        return None
    steps = source.matrix, source.blocks[1] * source.matrix
    block, pair = reversed(steps) if packing.transposed else steps
    lines = -(-_pair_lines(shape) // (shape.spec.points * _calls(shape)))
    return Ahead(block, shape.group, pair, lines)


def _next_weights(
    k: Emitter, shape: Shape, weights: Reg, task: tuple[Int, Int, int], start: Int
) -> Callable[[Int, Int], Reg]:
    """Where the weights are that come after those from input block ``start`` on, of the same
    group of outputs or of the next task's: a part of them by a point and the number of one of
    its register tiles.

    ``task`` is its number, their end, and the tasks of a group.
    """
    conv, (number, end, shares) = shape.spec, task
    next_ = k.add(start, shape.tiling.depth)
    is_last = k.icmp("sge", k.as_reg(next_), conv.in_blocks)
    last = k.min(k.add(number, 1), k.sub(end, 1))
    following = k.select(is_last, k.as_reg(last), k.as_reg(number))
    in_block = k.select(is_last, k.as_reg(0), k.as_reg(next_))
    out_block = k.mul(k.udiv(following, shares), shape.group)
    pair = source_pair(k, conv.weights, weights, out_block, in_block)

    def part_of(point: Int, number: Int) -> Reg:
        part = k.add(k.mul(point, _calls(shape)), number)
        line = k.udiv(k.mul(part, _pair_lines(shape)), conv.points * _calls(shape))
        return k.gep(pair, k.mul(line, LINE), "i8")

    return part_of


def emit_filters_first(k: Emitter, name: str, spec: KernelSpec) -> None:
    """Emits the kernel over groups of outputs; arguments: V, weights, the epilogue's, y,
    scratch.

    With ``own`` tiles x comes in place of V.
    """
    k.is_shaped = True
    conv, tiling, shape = spec.conv, spec.tiling, Shape(spec.conv, spec.tiling, k.target)
    scalar, y, pitch = shape.scalar, conv.y, shape.group * BLOCK
    all_tiles = _all_tiles(shape).room
    v_plane, u_plane = shape.v_plane(all_tiles), shape.u_plane(1, tiling.depth)
    m_plane, row = shape.m_plane(shape.group), tiling.block * BLOCK
    if spec.own:
        emit_transform(k, f"{name}_input", conv.x_tiles, v_plane)
    ahead = _weights_ahead(shape, k.target)
    emit_filter(k, f"{name}_filter", shape, u_plane, fetches=ahead is None)
    emit_product(k, f"{name}_product", shape, all_tiles * BLOCK, row, ahead)
    emit_output(k, f"{name}_output", shape, m_plane)
    extra = 0 if conv.epilogue is None else len(conv.epilogue.operands)
    shares = -(-conv.tiles // tiling.block)
    turned = conv.weights.transposed  # pairs that lie side by side differ in the output block

    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        pointers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(4 + extra)]
        tiles, weights, *operands, y_base, scratch = pointers
        y_base = k.gep(y_base, y.offset, y.scalar)
        operands = open_tally(k, conv.epilogue, operands, tid)
        u = k.gep(scratch, k.mul(tid, _group_elements(shape, spec.own)), scalar)
        m = k.gep(u, conv.points * u_plane, scalar)
        stage = k.gep(m, conv.points * m_plane, scalar)
        v = k.gep(stage, shape.stage, scalar) if spec.own else tiles
        low, high = k.slice(shape.groups * shares, tid, nth)
        if spec.own:
            x_base = k.gep(tiles, conv.x.offset, scalar)
            with (
                k.if_(k.icmp("slt", k.as_reg(low), high)),
                k.loop(0, conv.x.blocks) as block,
                k.loop(0, conv.tiles) as tile,
            ):
                to = k.gep(v, k.mul(k.add(k.mul(block, all_tiles), tile), BLOCK), scalar)
                k.call(f"{name}_input", "void", [x_base, tile, block, to, stage])
        with k.loop(low, high) as task:
            group, share = k.divmod(task, shares)
            first = k.mul(share, tiling.block)
            count = k.min(k.sub(conv.tiles, first), tiling.block)
            out_block = k.mul(group, shape.group)
            in_block = k.mul(k.udiv(out_block, conv.out_blocks), conv.in_blocks)
            with k.loop(0, conv.in_blocks, tiling.depth) as start:
                depth = k.min(k.sub(conv.in_blocks, start), tiling.depth)
                sizes = (depth, shape.group) if turned else (shape.group, depth)
                with k.loop(0, sizes[0]) as outer, k.loop(0, sizes[1]) as inner:
                    block, number = (outer, inner) if turned else (inner, outer)
                    at = k.add(k.mul(block, BLOCK * pitch), k.mul(number, BLOCK))
                    pair = [k.as_reg(k.add(out_block, number)), k.as_reg(k.add(start, block))]
                    to = k.gep(u, at, scalar)
                    whole = [k.as_reg(0), k.as_reg(conv.inputs)]
                    k.call(f"{name}_filter", "void", [weights, *pair, to, stage, *whole])
                v_first = k.mul(k.add(in_block, start), all_tiles)
                v_first = k.mul(k.add(v_first, first), BLOCK)
                fresh = k.cast("zext", k.icmp("eq", start, 0), "i64")
                following = None
                if ahead is not None:
                    following = _next_weights(k, shape, weights, (task, high, shares), start)
                with k.loop(0, conv.points) as point:
                    bases = (
                        k.gep(v, k.add(k.mul(point, v_plane), v_first), scalar),
                        k.gep(u, k.mul(point, u_plane), scalar),
                        k.gep(m, k.mul(point, m_plane), scalar),
                    )
                    needed = _needed(k, shape, point, first, count)
                    part_ahead = partial(following, point) if following else None
                    _products(k, name, shape, needed, bases, depth, fresh, part_ahead)
            with k.loop(0, shape.group) as number, k.loop(0, count) as tile:
                from_ = k.gep(m, k.add(k.mul(number, row), k.mul(tile, BLOCK)), scalar)
                place = [k.as_reg(k.add(first, tile)), k.as_reg(k.add(out_block, number))]
                k.call(f"{name}_output", "void", [from_, *place, y_base, *operands])


def lower_filters_first(
    spec: KernelSpec, target: Target, threads: int, weights: tuple[int, int] = (1, 1)
) -> Lowering:
    """Its kernels, with operands x, weights, the epilogue's, and result y; see above."""
    conv, shape = spec.conv, Shape(spec.conv, spec.tiling, target)
    size = bytes_of(shape.scalar)
    extra = 0 if conv.epilogue is None else len(conv.epilogue.operands)
    v = 3 + extra
    scratch = threads * _group_elements(shape, spec.own) * size
    if spec.own:
        return Lowering((Phase("winograd", emit_filters_first, spec, tuple(range(v)), scratch),))
    all_tiles = _all_tiles(shape)
    inputs = Phase(
        "winograd_input", emit_transforms, all_tiles, (0, v),
        threads * conv.x_tiles.stage * size, weight=weights[0],
    )  # fmt: skip
    filters = Phase(
        "winograd", emit_filters_first, spec, (v, *range(1, v)), scratch,
        weight=weights[1], only_read=(v,),
    )  # fmt: skip
    return Lowering((inputs, filters), (conv.points * all_tiles.plane * size,))


def lower_winograd(spec: WinogradSpec, target: Target, threads: int) -> Lowering:
    """The kernels in the form of least estimated time; operands and result as above."""
    if reason := spec.refusal():
        raise ValueError(f"convolution by Winograd's algorithm: {reason}")
    best = schedule(spec, target, threads)
    lower = lower_tiles_first if best.tiles_first else lower_filters_first
    first, second = (max(1, round(cycles)) for cycles in best.phases)
    same = replace(spec, invariant_weights=False)  # the code is the same
    kernel = KernelSpec(same, best.tiling, own=best.own)
    return lower(kernel, target, threads, (first, second))
