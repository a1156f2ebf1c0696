"""Direct convolutions against sums over windows in float64."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import Blocked, Pair, Weights
from symgrad.codegen.kernels.conv_direct import conv_scratch_bytes, emit_conv, lower_conv
from symgrad.codegen.kernels.conv_direct_grad import WeightGradSpec, lower_weight_grad
from symgrad.codegen.kernels.conv_direct_spec import (
    ConvSpec,
    cycles,
    forward,
    input_grad,
    schedule,
)
from symgrad.codegen.kernels.conv_pack import (
    PackWeightsSpec,
    emit_pack_weights,
    pack_scratch_bytes,
)
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_kernel, run_lowering, target_named

DTYPES = {"f32": np.float32, "f64": np.float64}


@dataclass(frozen=True)
class Case:
    """One convolution; the output size follows."""

    images: int
    channels: int
    outputs: int
    size: Pair
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    dtype: str = "f32"

    @property
    def out_size(self) -> Pair:
        spans = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        h, w = (
            (n + 2 * p - span) // s + 1
            for n, p, span, s in zip(self.size, self.padding, spans, self.stride, strict=True)
        )
        return h, w

    @property
    def window(self) -> dict[str, object]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def weights(self) -> Weights:
        return Weights.plain(self.dtype, self.outputs, self.channels // self.groups, self.kernel)

    def arrays(self) -> tuple[Array, Array, Array]:
        """x, w and a cotangent of y, in float64 but representable in the dtype."""
        rng = np.random.default_rng(zlib.crc32(repr(self).encode()))
        dtype = DTYPES[self.dtype]
        shapes = (
            (self.images, self.channels, *self.size),
            (self.outputs, self.channels // self.groups, *self.kernel),
            (self.images, self.outputs, *self.out_size),
        )
        x, w, dy = (rng.standard_normal(s).astype(dtype).astype(np.float64) for s in shapes)
        return x, w, dy


def windows(case: Case, x: Array) -> Array:
    """The padded input as [N, C, OH, OW, kh, kw]; a view, so it can be written through."""
    (sh, sw), (dh, dw) = case.stride, case.dilation
    h, w = case.out_size
    n, c, row, column = x.strides
    shape = (*x.shape[:2], h, w, *case.kernel)
    strides = (n, c, sh * row, sw * column, dh * row, dw * column)
    return np.lib.stride_tricks.as_strided(x, shape, strides)


def padded(case: Case, x: Array) -> Array:
    (ph, pw) = case.padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))


def reference(case: Case, x: Array, w: Array, dy: Array) -> tuple[Array, Array, Array]:
    """y, dx and dw by one contraction per group."""
    xp = padded(case, x)
    dxp = np.zeros_like(xp)
    views = np.split(windows(case, xp), case.groups, axis=1)
    kernels, cotangents = np.split(w, case.groups), np.split(dy, case.groups, axis=1)

    def contract(subscripts: str, axis: int, *operands: list[Array]) -> Array:
        groups = zip(*operands, strict=True)
        return np.concatenate([np.einsum(subscripts, *g, optimize=True) for g in groups], axis)

    y = contract("nchwij,ocij->nohw", 1, views, kernels)
    dw = contract("nchwij,nohw->ocij", 0, views, cotangents)
    contribution = contract("ocij,nohw->nchwij", 1, kernels, cotangents)
    for i, j in itertools.product(*map(range, case.kernel)):
        windows(case, dxp)[..., i, j] += contribution[..., i, j]
    (ph, pw), (h, wd) = case.padding, case.size
    return y, dxp[:, :, ph : ph + h, pw : pw + wd], dw


def to_blocked(layout: Blocked, values: Array) -> Array:
    """A buffer with the values in blocks, zeros around them, and nan behind few channels."""
    out = np.zeros(layout.buffer_shape, DTYPES[layout.dtype])
    out[..., layout.block :] = np.nan
    n, _, h, w = values.shape
    (top, _), (left, _) = layout.halo
    blocks = values.reshape(n, layout.blocks, layout.block, h, w).transpose(0, 1, 3, 4, 2)
    out[:, :, top : top + h, left : left + w, : layout.block] = blocks
    return out


def from_blocked(layout: Blocked, buffer: Array) -> Array:
    (top, _), (left, _) = layout.halo
    n, c, h, w = layout.shape
    blocks = buffer[:, :, top : top + h, left : left + w].transpose(0, 1, 4, 2, 3)
    return np.asarray(blocks.reshape(n, c, h, w))


def halo_is_zero(layout: Blocked, buffer: Array) -> bool:
    rest = buffer.copy()
    (top, _), (left, _) = layout.halo
    rest[:, :, top : top + layout.shape[2], left : left + layout.shape[3]] = 0
    return not rest.any()


def halo_for(case: Case) -> tuple[Pair, Pair]:
    """More than the forward convolution reads of its input."""
    (h, w) = (p + d * k for p, d, k in zip(case.padding, case.dilation, case.kernel, strict=True))
    return (h, h), (w, w + 1)


def layouts(case: Case) -> tuple[Blocked, Blocked]:
    """x and y, with halos wide enough for every direction."""
    halo = halo_for(case)
    x = Blocked.dense(case.dtype, (case.images, case.channels, *case.size), halo)
    y = Blocked.dense(case.dtype, (case.images, case.outputs, *case.out_size), halo)
    return x, y


def close(actual: Array, expected: Array, dtype: str, terms: int) -> None:
    """Within the rounding of a sum of so many products."""
    tolerance = 4 * math.sqrt(terms) * float(np.finfo(DTYPES[dtype]).eps)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def pack(spec: PackWeightsSpec, weights: Array, threads: int, target: Target) -> Array:
    packed = np.full(spec.out_blocks * spec.panel, np.nan, weights.dtype)
    scratch = pack_scratch_bytes(spec, target, threads)
    emit = lambda k, name: emit_pack_weights(k, name, spec)  # noqa: E731
    run_kernel(emit, [weights, packed], threads, scratch, target)
    return packed


def convolve(
    spec: ConvSpec,
    pack_spec: PackWeightsSpec,
    x: Array,
    w: Array,
    operands: list[Array],
    threads: int,
    target: Target,
) -> Array:
    """Runs a convolution, with weights packed before (1 thread) or on the fly (more)."""
    if threads == 1:
        weights = pack(pack_spec, w, 2, target)
    else:
        weights, spec = w, replace(spec, pack=pack_spec)
    out = np.zeros(spec.y.buffer_shape, DTYPES[spec.y.dtype])
    scratch = conv_scratch_bytes(spec, target, threads)
    emit = lambda k, name: emit_conv(k, name, spec)  # noqa: E731
    run_kernel(emit, [x, weights, *operands, out], threads, scratch, target)
    return out


CASES = [
    Case(2, 32, 48, (5, 5)),
    Case(1, 3, 32, (17, 19), (7, 7), (2, 2), (3, 3)),
    Case(3, 16, 16, (1, 1), (1, 1), padding=(0, 0)),
    Case(4, 64, 64, (2, 2)),
    Case(2, 16, 32, (33, 17), stride=(2, 1), padding=(0, 2)),
    Case(1, 32, 16, (9, 12), (2, 5), (3, 2), (1, 2), (2, 1)),
    Case(2, 16, 16, (13, 11), (3, 2), (2, 3), (2, 1), (2, 3)),
    Case(2, 64, 32, (6, 7), groups=2),
    Case(1, 48, 96, (4, 5), stride=(2, 2), groups=3),
    Case(2, 32, 32, (8, 8), (1, 1), (2, 2), (0, 0)),
    Case(1, 16, 32, (1, 40), (1, 9), padding=(0, 4)),
    Case(1, 5, 16, (6, 6), (3, 3), dilation=(1, 2)),
    Case(1, 1, 16, (7, 9), (5, 5), padding=(2, 2)),
    Case(2, 32, 16, (7, 7), dtype="f64"),
    Case(1, 16, 48, (9, 6), (3, 3), (2, 2), (1, 1), dtype="f64"),
]


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case: Case, target_name: str) -> None:
    target = target_named(target_name)
    x, w, dy = case.arrays()
    expected, _, _ = reference(case, x, w, dy)
    x_layout, y_layout = layouts(case)
    spec = forward(x_layout, y_layout, case.kernel, **case.window)
    x_buffer, weights = to_blocked(x_layout, x), w.astype(DTYPES[case.dtype])
    packing = PackWeightsSpec(case.weights(), case.groups)
    for threads in (1, 3):
        out = convolve(spec, packing, x_buffer, weights, [], threads, target)
        terms = math.prod(case.kernel) * case.channels // case.groups
        close(from_blocked(y_layout, out), expected, case.dtype, terms)
        assert halo_is_zero(y_layout, out)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", [c for c in CASES if c.channels % 16 == 0], ids=str)
def test_input_grad(case: Case, target_name: str) -> None:
    target = target_named(target_name)
    x, w, dy = case.arrays()
    _, expected, _ = reference(case, x, w, dy)
    x_layout, y_layout = layouts(case)
    spec, packing = input_grad(y_layout, x_layout, case.weights(), **case.window)
    dy_buffer, weights = to_blocked(y_layout, dy), w.astype(DTYPES[case.dtype])
    for threads in (1, 2):
        out = convolve(spec, packing, dy_buffer, weights, [], threads, target)
        terms = math.prod(case.kernel) * case.outputs // case.groups
        close(from_blocked(x_layout, out), expected, case.dtype, terms)
        assert halo_is_zero(x_layout, out)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_weight_grad(case: Case, target_name: str) -> None:
    target = target_named(target_name)
    x, w, dy = case.arrays()
    _, _, expected = reference(case, x, w, dy)
    x_layout, y_layout = layouts(case)
    x_buffer, dy_buffer = to_blocked(x_layout, x), to_blocked(y_layout, dy)
    spec = WeightGradSpec(x_layout, y_layout, case.weights(), **case.window)
    for threads in (1, 2, 7):
        dw = np.full(w.shape, np.nan, x_buffer.dtype)
        lowering = lower_weight_grad(spec, target, threads)
        run_lowering(lowering, [x_buffer, dy_buffer, dw], threads, target)
        close(dw, expected, case.dtype, case.images * math.prod(case.out_size))


LARGE = [
    Case(3, 32, 64, (9, 31), (1, 1), padding=(0, 0)),
    Case(2, 64, 32, (17, 25), (1, 1), (2, 3), (0, 0)),
    Case(2, 16, 96, (13, 19), (1, 2), (1, 3), (0, 1)),
    Case(4, 64, 128, (6, 14), (1, 1), padding=(1, 2), groups=2),
    Case(2, 32, 64, (30, 40), (3, 3), (2, 1)),
    Case(2, 48, 32, (11, 23), (1, 1), padding=(0, 0), dtype="f64"),
]


def small_cached(target: Target, spec: ConvSpec) -> Target:
    """The target with a cache that all of the weights just fit, but no activations."""
    size = np.dtype(DTYPES[spec.x.dtype]).itemsize
    return replace(target, l2=2 * spec.panel * spec.y.blocks * size)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_rows_of_pixels_meet_all_weights(case: Case, target_name: str) -> None:
    """The order in which activations that no cache holds are read once."""
    target = target_named(target_name)
    x, w, dy = case.arrays()
    y, dx, _ = reference(case, x, w, dy)
    x_layout, y_layout = layouts(case)
    weights, packing = case.weights(), PackWeightsSpec(case.weights(), case.groups)
    jobs = (
        (forward(x_layout, y_layout, case.kernel, **case.window), packing, x, y),
        (*input_grad(y_layout, x_layout, weights, **case.window), dy, dx),
    )
    first = []
    for spec, how, values, expected in jobs:
        small = small_cached(target, spec)
        first.append(schedule(spec, small).pixels_first)
        for threads in (1, 3):
            buffer = to_blocked(spec.x, values)
            w_given = w.astype(DTYPES[case.dtype])
            out = convolve(spec, how, buffer, w_given, [], threads, small)
            terms = math.prod(case.kernel) * max(case.channels, case.outputs)
            close(from_blocked(spec.y, out), expected, case.dtype, terms)
            assert halo_is_zero(spec.y, out)
    assert any(first)


@dataclass(frozen=True)
class BiasAddRelu:
    """``max(accumulator + bias[channel] + residual, 0)``."""

    operands: tuple[Access, ...]
    result_dtype: str = "f32"
    tally: None = None

    def emit(
        self,
        k: Emitter,
        accumulator: Reg,
        bases: Sequence[Reg],
        point: Sequence[Int],
        mask: Reg | None,
        tally: object = None,
    ) -> Reg:
        total = accumulator
        for access, base in zip(self.operands, bases, strict=True):
            total = k.fadd(total, k.load(total.type, access.address(k, base, point)))
        return k.intrinsic("maxnum", total, k.zero(total.type))


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 32, 48, (7, 9)),
        Case(3, 16, 32, (9, 5), stride=(2, 2)),
        Case(2, 32, 64, (9, 13), (1, 1), (2, 3), (0, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_near", [True, False])
def test_epilogue(case: Case, is_near: bool, target_name: str) -> None:
    target = replace(target_named(target_name), l1d=1 << 20 if is_near else 1 << 12)
    x, w, dy = case.arrays()
    x_layout, y_layout = layouts(case)
    y, dx, _ = reference(case, x, w, dy)
    rng = np.random.default_rng(5)
    jobs = (
        (forward, x_layout, y_layout, x, y),
        (input_grad, y_layout, x_layout, dy, dx),
    )
    for build, source, result, values, expected in jobs:
        bias = rng.standard_normal(result.shape[1]).astype(np.float32)
        residual = rng.standard_normal(result.shape).astype(np.float32)
        # The residual has another halo than the result, so other strides.
        other = Blocked.dense("f32", result.shape, ((0, 1), (2, 0)))
        epilogue = BiasAddRelu((Access("f32", (0, 16, 0, 0, 1)), other.access))
        if build is forward:
            spec = forward(source, result, case.kernel, **case.window, epilogue=epilogue)
            packing = PackWeightsSpec(case.weights())
        else:
            spec, packing = input_grad(
                source, result, case.weights(), **case.window, epilogue=epilogue
            )
        operands = [bias, to_blocked(other, residual)]
        weights = w.astype(np.float32)
        wanted = np.maximum(expected + bias[:, None, None] + residual, 0)
        for threads in (1, 2):
            buffer = to_blocked(source, values)
            out = convolve(spec, packing, buffer, weights, operands, threads, target)
            close(from_blocked(result, out), wanted, "f32", 9 * 32)
            assert halo_is_zero(result, out)


def blocked_weights(w: Array) -> Array:
    """[O/16][I/b][kh][kw][b][16]."""
    o, i, h, wd = w.shape
    b = min(i, 16)
    return np.ascontiguousarray(
        w.reshape(o // 16, 16, i // b, b, h, wd).transpose(0, 2, 4, 5, 3, 1)
    )


@pytest.mark.parametrize(
    "case", [Case(1, 32, 48, (5, 6)), Case(2, 3, 16, (8, 8), stride=(2, 2))], ids=str
)
def test_state_may_live_blocked(case: Case) -> None:
    """Weights and their gradient in the blocked layout: nothing is packed forward."""
    target = Target.host()
    x, w, dy = case.arrays()
    y, dx, dw = reference(case, x, w, dy)
    x_layout, y_layout = layouts(case)
    blocked = replace(case.weights(), strides=None)
    x_buffer, dy_buffer = to_blocked(x_layout, x), to_blocked(y_layout, dy)
    weights = blocked_weights(w.astype(np.float32))

    out = np.zeros(y_layout.buffer_shape, np.float32)
    spec = forward(x_layout, y_layout, case.kernel, **case.window)
    lowering = lower_conv(spec, PackWeightsSpec(blocked), target, 2)
    assert lowering.phases[0].scratch_bytes == 0
    run_lowering(lowering, [x_buffer, weights, out], 2)
    close(from_blocked(y_layout, out), y, "f32", 9 * 32)

    if case.channels % 16 == 0:
        out = np.zeros(x_layout.buffer_shape, np.float32)
        spec, packing = input_grad(y_layout, x_layout, blocked, **case.window)
        run_lowering(lower_conv(spec, packing, target, 2), [dy_buffer, weights, out], 2)
        close(from_blocked(x_layout, out), dx, "f32", 9 * 48)

    out = np.zeros_like(weights)
    gradient = WeightGradSpec(x_layout, y_layout, blocked, **case.window)
    run_lowering(lower_weight_grad(gradient, target, 3), [x_buffer, dy_buffer, out], 3)
    close(out, blocked_weights(dw), "f32", 64)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("inputs", [3, 32])
def test_weights_of_any_strides(inputs: int, kernel: Pair, target_name: str) -> None:
    target = target_named(target_name)
    rng = np.random.default_rng(3)
    stored = rng.standard_normal((*kernel, inputs + 2, 16 * 2)).astype(np.float32)
    w = stored.transpose(3, 2, 0, 1)[:, :inputs]
    strides = tuple(s // 4 for s in w.strides)
    source = Weights("f32", 32, inputs, kernel, strides)  # type: ignore[arg-type]
    packed = pack(PackWeightsSpec(source), w, 3, target)
    np.testing.assert_array_equal(packed, blocked_weights(w).ravel())


def test_refusals_say_why() -> None:
    def refusal(case: Case, halo: int = 1) -> str | None:
        x, y = (
            Blocked.dense(case.dtype, (case.images, c, *size), ((halo, halo), (halo, halo)))
            for c, size in ((case.channels, case.size), (case.outputs, case.out_size))
        )
        return forward(x, y, case.kernel, **case.window).refusal()

    assert refusal(Case(1, 16, 16, (4, 4))) is None
    assert refusal(Case(1, 24, 16, (4, 4))) == "24 channels do not fill blocks of 16"
    assert "8 output channels" in str(refusal(Case(1, 16, 8, (4, 4))))
    assert "4 groups" in str(refusal(Case(1, 32, 32, (4, 4), groups=4)))
    assert "halo" in str(refusal(Case(1, 16, 16, (4, 4)), halo=0))
    assert "not f16" in str(refusal(Case(1, 16, 16, (4, 4), dtype="f16")))


@pytest.mark.parametrize("name", ["avx512", "avx2", "x86-64", "neon"])
@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 13, 56])
def test_tiles_fit_the_registers(size: int, images: int, name: str) -> None:
    target = Target.named(name)
    case = Case(images, 64, 128, (size, size))
    x, y = layouts(case)
    tile = schedule(forward(x, y, case.kernel, **case.window), target)
    accumulators = tile.images * tile.rows * tile.columns * tile.vectors
    assert accumulators + tile.vectors < target.vector_registers
    assert images % tile.images == 0
    assert size % tile.rows == 0
    if size > 4:
        assert accumulators >= 8


def test_what_is_read_once_is_for_the_target_to_say() -> None:
    """Weights that a thread's own cache holds let a large x pass by once."""
    target = replace(Target.named("avx512"), l2=1 << 20)

    def made(inputs: int, outputs: int, size: int, threads: int = 2) -> ConvSpec:
        x, y = (Blocked.dense("f32", (8, c, size, size)) for c in (inputs, outputs))
        return replace(forward(x, y, (1, 1)), threads=threads)

    assert schedule(made(256, 64, 56), target).pixels_first
    assert not schedule(made(1024, 512, 56), target).pixels_first  # 2 MB of weights
    assert not schedule(made(64, 256, 4), target).pixels_first  # x stays in L2
    assert not schedule(made(256, 16, 56), target).pixels_first  # one panel
    # More threads than rows of tiles: panels are shared as well.
    assert not schedule(made(256, 128, 7, 64), replace(target, l2=300 << 10)).pixels_first


def test_groups_cost_as_much_as_convolutions_of_their_own() -> None:
    target = Target.named("avx512")

    def estimate(groups: int) -> float:
        x = Blocked.dense("f32", (2, 32 * groups, 14, 14), ((1, 1), (1, 1)))
        weights = Weights.blocked("f32", (32 * groups, 32, 3, 3))
        spec = forward(x, x, (3, 3), padding=(1, 1), groups=groups)
        return cycles(spec, PackWeightsSpec(weights, groups), target, 1)

    assert 7.9 < estimate(8) / estimate(1) < 8.2
