"""Depthwise convolutions: one input channel per output channel.

There is nothing to reuse between channels, so a product of matrices would be one of
vectors.  Instead vectors run along the last spatial axis of the output, and the
taps of the kernel are accumulated in registers.  Which lanes a tap finds inside of
the image is known at compile time along that axis; along the others, the range of
taps that do is computed per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access, Epilogue
from symgrad.codegen.conversions import convert
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.gemm_result import split_index
from symgrad.codegen.kernels.implicit_gemm import Convolution
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes
from symgrad.codegen.kernels.microkernel import (
    Accumulators,
    accumulator_type,
    multiply_add,
    sum_lanes,
)
from symgrad.codegen.kernels.pack import packed_dtype
from symgrad.codegen.registers import Int, Reg, bytes_of
from symgrad.codegen.scalar import emit_op
from symgrad.codegen.target import Target
from symgrad.ir.record import record

GROUP = 4
"""Vectors that share a loaded weight."""


@record
class DepthwiseSpec:
    """A convolution with one group per input channel, or its weight gradient.

    ``x`` is an access over ``(images, inputs, *size)``, ``w`` over ``(outputs,
    *kernel)``, ``y`` and the epilogue's operands over ``(images, outputs, *out)``.
    The input is not dilated.
    """

    conv: Convolution
    x: Access
    w: Access
    y: Access
    epilogue: Epilogue | None = None


def suits(conv: Convolution) -> bool:
    """Whether the forward pass and the weight gradient are depthwise."""
    return conv.groups == conv.inputs and all(d == 1 for d in conv.lhs_dilation)


def suits_input_grad(conv: Convolution) -> bool:
    """Whether the input gradient is a depthwise convolution itself."""
    return suits(conv) and conv.outputs == conv.inputs and all(s == 1 for s in conv.stride)


def forward(
    conv: Convolution, x: Access, w: Access, y: Access, epilogue: Epilogue | None = None
) -> DepthwiseSpec:
    """The convolution, or its weight gradient with cotangents for ``w`` and ``y``.

    Accesses are those of ``implicit_gemm.forward``.
    """
    weights = replace(w, strides=(w.strides[0], *w.strides[2:]))
    return DepthwiseSpec(conv, x, weights, y, epilogue)


def input_grad(conv: Convolution, dy: Access, w: Access, dx: Access) -> DepthwiseSpec:
    """The correlation of ``dy`` with the kernel turned around."""
    taps = [n - 1 for n in conv.kernel]
    low = tuple(t * d - p for t, d, p in zip(taps, conv.dilation, conv.low, strict=True))
    back = w.strides[2:]
    turned = replace(
        w,
        strides=(w.strides[0], *(-s for s in back)),
        offset=w.offset + sum(t * s for t, s in zip(taps, back, strict=True)),
    )
    return DepthwiseSpec(replace(conv, size=conv.out, out=conv.size, low=low), dy, turned, dx)


def cycles(conv: Convolution, scalar_bytes: int, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads, of all three kernels.

    A row is cut into vectors; one of a strided row is put together lane by lane.
    """
    lanes = target.lanes(scalar_bytes)
    rows = conv.images * conv.outputs * prod(conv.out[:-1])
    vectors = rows * -(-conv.out[-1] // lanes)
    load = 1.5 if conv.stride[-1] == 1 else 1.2 * lanes
    return (vectors * (prod(conv.kernel) * load + 4) + rows * 10) / threads


def lower_depthwise(spec: DepthwiseSpec) -> Lowering:
    """The forward kernel; buffers are w, x, the epilogue's operands and y."""
    extra = len(spec.epilogue.operands) if spec.epilogue else 0
    return Lowering((Phase("depthwise", emit_depthwise, spec, tuple(range(3 + extra))),))


def lower_depthwise_weight_grad(spec: DepthwiseSpec) -> Lowering:
    """The weight gradient; buffers are the cotangent of y, x, and the result."""
    return Lowering((Phase("depthwise_grad", emit_depthwise_weight_grad, spec, (0, 1, 2)),))


def emit_depthwise(k: Emitter, name: str, spec: DepthwiseSpec) -> None:
    """Threads share the rows of the output."""
    conv, dtype = spec.conv, packed_dtype(spec.x.dtype)
    lanes = _lanes(k, dtype)
    with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
        extra = len(spec.epilogue.operands) if spec.epilogue else 0
        w, x, *operands, y = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(3 + extra))
        lines = conv.images, conv.outputs, *conv.out[:-1]
        with k.loop(*k.slice(prod(lines), tid, nth)) as line:
            image, channel, *outer = split_index(k, line, lines)
            source = k.udiv(channel, conv.outputs // conv.inputs)
            for row in _groups(k, conv, lanes):
                acc = Accumulators(k, 1, [accumulator_type(dtype, lanes)] * len(row))
                acc.clear()
                for taps, at in _inside(k, conv, outer, _taps):
                    for t in range(conv.kernel[-1]):
                        weight = spec.w.address(k, w, (channel, *taps, t))
                        factor = load_lanes(k, weight, spec.w.dtype, 0, lanes)
                        for v, vector in enumerate(row):
                            if _valid(conv, vector, t, lanes):
                                value = _load_x(k, spec, x, (image, source, *at), vector, t, lanes)
                                acc[0, v] = multiply_add(k, factor, value, acc[0, v])
                for v, vector in enumerate(row):
                    mask = None if vector.count == lanes else k.lane_mask(vector.count, lanes)
                    point = image, channel, *outer, vector.start
                    if spec.epilogue:
                        value = spec.epilogue.emit(k, acc[0, v], operands, point, mask)
                    else:
                        value = convert(k, acc[0, v], dtype, spec.y.dtype)
                    address, step = spec.y.address(k, y, point), spec.y.strides[-1]
                    store_lanes(k, value, address, spec.y.dtype, step, mask)


def emit_depthwise_weight_grad(k: Emitter, name: str, spec: DepthwiseSpec) -> None:
    """Threads share the rows of the kernels; each tap has two sums, to hide latency."""
    conv, dtype = spec.conv, packed_dtype(spec.x.dtype)
    lanes, width = _lanes(k, dtype), conv.kernel[-1]
    with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
        dy, x, dw = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(3))
        lines = conv.outputs, *conv.kernel[:-1]
        with k.loop(*k.slice(prod(lines), tid, nth)) as line:
            channel, *outer = split_index(k, line, lines)
            source = k.udiv(channel, conv.outputs // conv.inputs)
            acc = Accumulators(k, 2, [accumulator_type(dtype, lanes)] * width)
            acc.clear()
            with k.loop(0, conv.images) as image:
                for pixels, at in _inside(k, conv, outer, _pixels):
                    for row in _groups(k, conv, lanes):
                        for v, vector in enumerate(row):
                            mask = (
                                None if vector.count == lanes else k.lane_mask(vector.count, lanes)
                            )
                            point = image, channel, *pixels, vector.start
                            address, step = spec.y.address(k, dy, point), spec.y.strides[-1]
                            factor = load_lanes(k, address, spec.y.dtype, step, lanes, mask)
                            for t in range(width):
                                if _valid(conv, vector, t, lanes):
                                    value = _load_x(
                                        k, spec, x, (image, source, *at), vector, t, lanes
                                    )
                                    slot = v % 2, t
                                    acc[slot] = multiply_add(k, factor, value, acc[slot])
            for t in range(width):
                total = emit_op(k, "add", (acc[0, t], acc[1, t]), (dtype, dtype))
                value = convert(k, sum_lanes(k, [total], 1, dtype), dtype, spec.w.dtype)
                address = spec.w.address(k, dw, (channel, *outer, t))
                store_lanes(k, value, address, spec.w.dtype, 1)


@record
class _Vector:
    """Part of an output row."""

    start: Int
    """A number near the edges of the row, where lanes may meet the padding."""
    count: int


def _lanes(k: Emitter, dtype: str) -> int:
    return k.target.lanes(max(4, bytes_of(MEMORY_TYPES[dtype])))


def _groups(k: Emitter, conv: Convolution, lanes: int) -> Iterator[list[_Vector]]:
    """The vectors of an output row, a few at a time; a loop where all taps are inside.

    Written once per form of the body: ``for row in _groups(...): ...``
    """
    width = conv.out[-1]
    vectors = [_Vector(at, min(lanes, width - at)) for at in range(0, width, lanes)]
    inner = [
        v for v in vectors
        if all(_valid(conv, v, t, lanes) == range(lanes) for t in range(conv.kernel[-1]))
    ]  # fmt: skip
    size = GROUP * lanes
    looped = inner[: len(inner) // GROUP * GROUP] if len(inner) >= 2 * GROUP else []
    if looped:
        first = looped[0].start
        with k.loop(first, k.add(first, len(looped) * lanes), size) as start:
            yield [_Vector(k.add(start, i * lanes), lanes) for i in range(GROUP)]
    others = [v for v in vectors if v not in looped]
    for i in range(0, len(others), GROUP):
        yield others[i : i + GROUP]


def _valid(conv: Convolution, vector: _Vector, tap: int, lanes: int) -> range:
    """The lanes whose element under a tap lies inside of the image."""
    if not isinstance(vector.start, int):
        return range(lanes)
    step = conv.stride[-1]
    first = vector.start * step + tap * conv.dilation[-1] - conv.low[-1]
    low = max(0, -(first // step))
    high = min(vector.count, -((first - conv.size[-1]) // step))
    return range(low, max(low, high))


def _load_x(
    k: Emitter,
    spec: DepthwiseSpec,
    x: Reg,
    row: Sequence[Int],
    vector: _Vector,
    tap: int,
    lanes: int,
) -> Reg:
    """The elements that a tap meets, 0 outside of the image."""
    conv, step = spec.conv, spec.conv.stride[-1]
    valid = _valid(conv, vector, tap, lanes)
    mask = None if valid == range(lanes) else k.mask(valid, lanes)
    column = k.add(k.mul(vector.start, step), tap * conv.dilation[-1] - conv.low[-1])
    address = spec.x.address(k, x, (*row, column))
    value = load_lanes(k, address, spec.x.dtype, step * spec.x.strides[-1], lanes, mask)
    if mask is not None and spec.x.strides[-1] == 0:
        # A broadcast row is one load for all lanes: the padding still reads as 0.
        value = k.select(mask, value, k.zero(value.type))
    return value


def _taps(k: Emitter, conv: Convolution, axis: int, at: Int) -> tuple[Int, Int, int, Int]:
    """The taps that output position ``at`` finds inside of the image: their range, the
    input position's step from tap to tap, and that of tap 0."""
    origin = k.sub(k.mul(at, conv.stride[axis]), conv.low[axis])
    low, high = _range(k, origin, conv.dilation[axis], conv.size[axis])
    return low, k.min(high, conv.kernel[axis]), conv.dilation[axis], origin


def _pixels(k: Emitter, conv: Convolution, axis: int, at: Int) -> tuple[Int, Int, int, Int]:
    """The same for the output positions that tap ``at`` finds inside."""
    origin = k.sub(k.mul(at, conv.dilation[axis]), conv.low[axis])
    low, high = _range(k, origin, conv.stride[axis], conv.size[axis])
    return low, k.min(high, conv.out[axis]), conv.stride[axis], origin


def _range(k: Emitter, origin: Int, step: int, size: int) -> tuple[Int, Int]:
    """The ``i >= 0`` with ``0 <= origin + i * step < size``."""

    def ceiling(distance: Int) -> Int:
        return k.udiv(k.add(k.max(0, distance), step - 1), step)

    return ceiling(k.sub(0, origin)), ceiling(k.sub(size, origin))


def _inside(
    k: Emitter, conv: Convolution, positions: Sequence[Int], bounds: Bounds
) -> Iterator[tuple[list[Int], list[Int]]]:
    """Loops along all spatial axes but the last; yields their indices and input positions."""
    with ExitStack() as loops:
        indices: list[Int] = []
        at: list[Int] = []
        for axis, position in enumerate(positions):
            low, high, step, origin = bounds(k, conv, axis, position)
            indices.append(loops.enter_context(k.loop(low, high)))
            at.append(k.add(origin, k.mul(indices[-1], step)))
        yield indices, at


Bounds = Callable[[Emitter, Convolution, int, Int], tuple[Int, Int, int, Int]]
