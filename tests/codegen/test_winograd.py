"""Winograd's algorithm: its matrices exactly, its convolutions against sums in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.blocked import BLOCK, Blocked
from symgrad.codegen.kernels.winograd import (
    STRIDED_TAPS,
    gradient_matrices,
    matrices,
    plane_matrices,
)
from symgrad.codegen.kernels.winograd_conv import (
    KernelSpec,
    forward,
    input_grad,
    lower_filters_first,
    lower_tiles_first,
    lower_winograd,
)
from symgrad.codegen.kernels.winograd_regions import Axis, Cut, axes
from symgrad.codegen.kernels.winograd_schedule import schedule
from symgrad.codegen.kernels.winograd_tiles import Shape, Tiling, WinogradSpec
from symgrad.codegen.lower import kernel_text
from symgrad.codegen.objects import emit_assembly
from symgrad.codegen.registers import Reg
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_lowering, target_named
from tests.codegen.test_conv_direct import (
    DTYPES,
    BiasAddRelu,
    Case,
    blocked_weights,
    from_blocked,
    halo_is_zero,
    layouts,
    reference,
    to_blocked,
)

ROUNDINGS = {4: 8, 6: 40}
"""Errors relative to the largest result, in units of the dtype's eps, by the size of tiles."""
SIZES = tuple(ROUNDINGS)

CASES = [
    Case(2, 32, 48, (5, 5)),
    Case(1, 64, 32, (16, 12)),
    Case(3, 16, 32, (7, 9), padding=(0, 2)),
    Case(2, 64, 32, (6, 7), groups=2),
    Case(1, 48, 96, (9, 6), groups=3),
    Case(1, 32, 16, (3, 4), padding=(3, 1)),
    Case(5, 16, 64, (1, 2)),
    Case(1, 32, 32, (7, 7), dtype="f64"),
]
STRIDED = [
    Case(2, 32, 48, (9, 11), stride=(2, 2)),
    Case(1, 64, 32, (16, 14), stride=(2, 2)),
    Case(3, 16, 32, (7, 10), stride=(2, 2), padding=(0, 2)),
    Case(1, 16, 16, (10, 8), stride=(2, 2), padding=(3, 0)),
    Case(2, 64, 32, (12, 9), stride=(2, 2), groups=2),
    Case(5, 16, 64, (2, 4), stride=(2, 2)),
    Case(1, 32, 32, (14, 14), stride=(2, 2), dtype="f64"),
]
FILTERED = [
    Case(2, 32, 48, (9, 8), (5, 5), padding=(2, 2)),
    Case(1, 48, 32, (11, 7), (4, 4), padding=(1, 3)),
    Case(2, 16, 64, (5, 9), (2, 2), padding=(0, 1)),
    Case(1, 32, 32, (6, 13), (1, 5), padding=(0, 2)),
    Case(2, 64, 32, (9, 6), (4, 1), padding=(1, 2), groups=2),
    Case(1, 32, 16, (7, 12), (3, 2), padding=(1, 0)),
    Case(1, 32, 16, (5, 6), (2, 3), dtype="f64"),
]
FEW = [
    Case(2, 12, 48, (7, 9), (4, 4), padding=(2, 1)),
    Case(1, 9, 32, (5, 8), (3, 3)),
    Case(3, 1, 16, (6, 7), (2, 3)),
    Case(1, 12, 32, (9, 6), (3, 3), dtype="f64"),
]
"""Few input channels, the vectors of whose pixels are filled up with anything."""


SMALL = [
    Case(8, 32, 48, (2, 2)),
    Case(2, 32, 32, (3, 3), (5, 5), padding=(2, 2)),
    Case(3, 32, 16, (1, 1)),
    Case(2, 64, 32, (2, 9), groups=2),
    Case(2, 16, 48, (3, 2), (5, 3), padding=(1, 2)),
    Case(1, 16, 32, (2, 1), (3, 4), padding=(2, 2)),
    Case(2, 32, 32, (2, 2), dtype="f64"),
]
"""Planes with fewer rows or columns than the filter."""


def own(form: Callable[..., Lowering]) -> Callable[..., Lowering]:
    """The form in which each thread makes for itself what all read."""
    return lambda spec, *args: form(replace(spec, own=True), *args)


FAR = replace(Target.host(), l1d=1 << 8, l2=1 << 10)
NEAR = replace(Target.host(), l1d=1 << 20, l2=1 << 22)
"""Machines whose caches hold none and all of the tensors here."""

FORMS: dict[str, Callable[..., Lowering]] = {
    "tiles": lower_tiles_first, "own filters": own(lower_tiles_first),
    "filters": lower_filters_first, "own tiles": own(lower_filters_first),
}  # fmt: skip


FILTERS = [*((size, taps, 1) for size in SIZES for taps in range(2, size)), (4, 3, 2), (6, 3, 2)]


@pytest.mark.parametrize(("size", "taps", "stride"), [*FILTERS, (1, 1, 1)])
def test_matrices_compute_the_correlation_exactly(size: int, taps: int, stride: int) -> None:
    """``A^T[(G g) * (B^T d)]`` is sum over t of ``g[t] d[stride i + t]``, coefficient by
    coefficient, and so it is for the first outputs with the first elements of the same
    ``G g``."""
    outputs = size - taps + 1
    filters = matrices(outputs, taps, stride=stride).filter
    for part in range(1, outputs + 1):
        m, n = matrices(outputs, taps, part, stride), stride * (part - 1) + taps
        assert m.filter == filters[:n]
        for i, t, at in itertools.product(range(part), range(taps), range(n)):
            total = sum(m.output[i][j] * m.filter[j][t] * m.input[j][at] for j in range(n))
            assert total == (at == stride * i + t)


@pytest.mark.parametrize(("inputs", "taps"), [(1, 2), (1, 3), (2, 3), (2, 5), (3, 4), (3, 5)])
def test_matrices_of_a_plane_compute_the_correlation_exactly(inputs: int, taps: int) -> None:
    """Outputs are sums over t of ``g[t] d[i + t - padding]``, zeros around the plane."""
    for padding, end in itertools.product(range(taps), repeat=2):
        outputs = inputs + padding + end - taps + 1
        products = outputs + inputs - 1
        if not 1 <= outputs <= 6 - inputs + 1:
            continue
        m = plane_matrices(outputs, inputs, taps, padding)
        assert (len(m.input), len(m.filter), len(m.output)) == (products, products, outputs)
        for i, t, at in itertools.product(range(outputs), range(taps), range(inputs)):
            total = sum(m.output[i][j] * m.filter[j][t] * m.input[j][at] for j in range(products))
            assert total == (at == i + t - padding)


@pytest.mark.parametrize("begins", [0, 1])
@pytest.mark.parametrize("outputs", [2, 4])
def test_matrices_compute_the_gradient_to_the_input_exactly(outputs: int, begins: int) -> None:
    """Positions get ``g[0] e[u] + g[2] e[u + 1]`` and ``g[1] e[v]`` in turn, u = 0, 1, ...,
    and v from 0 or 1 on, so that an odd and an even position share an element."""
    filters = gradient_matrices(outputs, begins=begins).filter
    for part in range(1, 2 * outputs + 1):
        m = gradient_matrices(outputs, part, begins)
        products, inputs = len(m.filter), len(m.input[0])
        assert m.filter == filters[:products]
        assert (len(m.input), len(m.output)) == (products, part)
        for i, t, at in itertools.product(range(part), range(STRIDED_TAPS), range(inputs)):
            total = sum(m.output[i][j] * m.filter[j][t] * m.input[j][at] for j in range(products))
            single = (i - begins) % 2 == 1
            met = {1: (i + 1 - begins) // 2} if single else {0: i // 2, 2: i // 2 + 1}
            assert total == (met.get(t) == at)


PLANES = [(8, 12), (5, 7), (6, 8), (4, 9), (3, 9), (9, 2), (1, 3)]


LARGE = ((99, 99), (99, 99))
ALONG = [
    axes(6, (3, 3), (1, 1), (1, 1), LARGE),
    axes(4, (3, 3), (2, 2), (1, 0), LARGE, to_input=True),
    axes(6, (3, 3), (2, 2), (1, 1), LARGE),
]


@pytest.mark.parametrize("along", ALONG)
@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_regions_cover_the_plane_once(plane: tuple[int, int], along: tuple[Axis, Axis]) -> None:
    cut, seen = Cut(2, plane, along), np.zeros((2, *plane), int)
    numbers = []
    for region in cut.regions:
        numbers += range(region.first, region.first + region.count)
        places = zip(region.origin, region.grid, strict=True)
        for row, column in itertools.product(*(range(o, o + 4 * n, 4) for o, n in places)):
            seen[:, row : row + region.outputs[0], column : column + region.outputs[1]] += 1
    assert numbers == list(range(cut.tiles))
    assert (seen == 1).all()
    whole = all(size % 4 == 0 for size in plane)
    assert cut.needed == 1 if whole else cut.needed < 1


def whole_vectors(x: Blocked, y: Blocked) -> tuple[Blocked, Blocked]:
    """The layouts with room for a whole vector in each pixel of x."""
    return Blocked.dense(x.dtype, x.shape, x.halo, BLOCK), y


def cut(
    case: Case, size: int, source: Blocked, result: Blocked, *, to_input: bool = False
) -> tuple[Axis, Axis]:
    """The axes of tiles transformed to so many rows and columns."""
    planes = ((source.shape[2], source.shape[3]), (result.shape[2], result.shape[3]))
    return axes(size, case.kernel, case.stride, case.padding, planes, to_input=to_input)


def too_large(case: Case, size: int) -> bool:
    """Whether the filter has too many taps for tiles of a size, which take no whole plane."""
    spans = zip(case.kernel, case.size, case.out_size, strict=True)
    return any(
        taps >= size and (inputs >= taps or inputs + outputs - 1 > size)
        for taps, inputs, outputs in spans
    )


def build(
    case: Case, size: int, *, grad: bool, epilogue: BiasAddRelu | None = None
) -> tuple[WinogradSpec, Array, Array, Array]:
    """The spec, its input, the weights, and what must come out."""
    x, w, dy = case.arrays()
    y, dx, _ = reference(case, x, w, dy)
    x_layout, y_layout = whole_vectors(*layouts(case))
    operands = (y_layout, x_layout) if grad else (x_layout, y_layout)
    along = cut(case, size, *operands, to_input=grad)
    make = input_grad if grad else forward
    spec = make(*operands, case.weights(), along, groups=case.groups, epilogue=epilogue)
    return spec, dy if grad else x, w.astype(DTYPES[case.dtype]), dx if grad else y


def run(
    spec: WinogradSpec,
    lowering: Lowering,
    x: Array,
    operands: list[Array],
    threads: int,
    target: Target,
) -> Array:
    out = np.zeros(spec.y.buffer_shape, DTYPES[spec.y.dtype])
    run_lowering(lowering, [to_blocked(spec.x, x), *operands, out], threads, target)
    assert halo_is_zero(spec.y, out)
    return from_blocked(spec.y, out)


def check(actual: Array, expected: Array, dtype: str, size: int) -> None:
    tolerance = ROUNDINGS[size] * float(np.finfo(DTYPES[dtype]).eps)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", [*CASES, *STRIDED, *FILTERED, *FEW, *SMALL], ids=str)
def test_convolution_and_gradient(case: Case, size: int, target_name: str) -> None:
    target = target_named(target_name)
    if too_large(case, size):
        pytest.skip("the filter leaves no two outputs")
    for grad, threads in ((False, 1), (False, 3), (True, 2)):
        spec, x, w, expected = build(case, size, grad=grad)
        if grad and case in FEW:
            assert "do not fill a block" in str(spec.refusal())
            continue
        lowering = lower_winograd(spec, target, threads)
        check(run(spec, lowering, x, [w], threads, target), expected, case.dtype, size)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "tiling",
    [Tiling(3, 1, 6, 1), Tiling(5, 2, 5, 2, 2), Tiling(2, 4, 64, 8), Tiling(4, 1, 8, 1, 4)],
)
@pytest.mark.parametrize("halo", [0, 1, 3])
@pytest.mark.parametrize(("stride", "grad"), [(1, False), (2, False), (2, True)])
def test_every_tiling(form: str, tiling: Tiling, halo: int, stride: int, grad: bool) -> None:
    """Partial blocks of tiles and of input channels, and halos of any width, where tensors are
    so large that they are asked for ahead."""
    plane = 6 * stride, 9 * stride
    channels = (64, 48) if grad else (48, 64)
    case, target = Case(3, *channels, plane, stride=(stride, stride)), FAR
    spec, x, w, expected = build(case, 6, grad=grad)
    around = ((halo, halo), (halo, halo))
    spec = replace(spec, x=Blocked.dense("f32", spec.x.shape, around))
    lower: Callable[..., Lowering] = FORMS[form]
    for threads in (2, 50):  # so many take parts of a pair of filters
        lowering = lower(KernelSpec(spec, tiling), target, threads)
        check(run(spec, lowering, x, [w], threads, target), expected, "f32", 6)


def test_when_each_thread_makes_what_all_read() -> None:
    """Where it is little, for few threads; not filters that seldom change: these are kept."""
    target = Target.named("avx512")

    def own_of(channels: int, size: int, threads: int, *, invariant: bool = False) -> str:
        case = Case(8, channels, channels, (size, size))
        spec, *_ = build(case, 6, grad=False)
        source = replace(spec.weights.source, strides=None)
        weights = replace(spec.weights, source=source)
        spec = replace(spec, weights=weights, invariant_weights=invariant)
        best = schedule(spec, target, threads)
        phases = lower_winograd(spec, target, threads).phases
        assert best.own is (len(phases) == 1)
        return ("filters" if best.tiles_first else "tiles") if best.own else ""

    assert own_of(64, 16, 1) == own_of(64, 16, 2) == "filters"
    assert own_of(256, 4, 1) == own_of(256, 4, 2) == "tiles"
    assert own_of(64, 16, 64) == own_of(256, 4, 64) == ""
    assert own_of(256, 14, 2) == own_of(256, 28, 2) == ""
    assert own_of(64, 16, 2, invariant=True) != "filters"
    assert own_of(256, 4, 2, invariant=True) == "tiles"


def test_kept_filters_are_split_where_tiles_are_few() -> None:
    """So that each is read by one thread; where tiles are many, each thread takes some."""
    target = replace(Target.named("avx512"), l3=32 << 20)

    def splits_of(channels: int, size: int, threads: int, *, invariant: bool = True) -> int:
        case = Case(8, channels, channels, (size, size))
        spec, *_ = build(case, 6, grad=False)
        best = schedule(replace(spec, invariant_weights=invariant), target, threads)
        return best.tiling.splits

    assert splits_of(512, 2, 2) == splits_of(256, 4, 2) == 2
    assert splits_of(512, 2, 1) == splits_of(64, 56, 2) == splits_of(64, 56, 8) == 1
    assert splits_of(256, 4, 2, invariant=False) == 1


@pytest.mark.parametrize("grad", [False, True])
def test_the_next_weights_are_asked_for_once(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in place of each prefetch shows that products ask for all weights but those that
    come first, where the cache would not hold them."""
    case = Case(2, 64, 64, (8, 8))  # whole tiles: those that are not there ask for nothing
    spec, x, w, _ = build(case, 6, grad=grad)
    source = replace(spec.weights.source, strides=None)
    spec = replace(spec, weights=replace(spec.weights, source=source))
    monkeypatch.setattr(Emitter, "prefetch", mark)
    for target in (FAR, NEAR):
        kernel = KernelSpec(spec, Tiling(4, 2, 8, 1), own=True)
        # Behind the last pair there is none: a prefetch may go there, a store needs room.
        room = np.zeros((2, *blocked_weights(w).shape), np.float32)
        weights, out = room[0], np.zeros(spec.y.buffer_shape, np.float32)
        lowering = lower_filters_first(kernel, target, 1)
        run_lowering(lowering, [to_blocked(spec.x, x), weights, out], 1, target)
        asked = (weights.reshape(4, 4, -1, 16) == 7.0).any(-1)
        expected = np.ones(asked.shape, bool)
        expected[(0, slice(2)) if grad else (slice(2), 0)] = False
        assert (asked == expected).all() == (target is FAR)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_epilogue(form: str, target_name: str) -> None:
    target, rng = target_named(target_name), np.random.default_rng(5)
    for size, grad, stride in itertools.product(SIZES, (False, True), (1, 2)):
        case = Case(2, 32, 48, (7, 9), stride=(stride, stride))
        spec, x, w, expected = build(case, size, grad=grad)
        bias = rng.standard_normal(spec.y.shape[1]).astype(np.float32)
        residual = rng.standard_normal(spec.y.shape).astype(np.float32)
        other = Blocked.dense("f32", spec.y.shape, ((0, 1), (2, 0)))
        spec = replace(spec, epilogue=BiasAddRelu((Access("f32", (0, 16, 0, 0, 1)), other.access)))
        best = schedule(spec, target, 2)
        lowering = FORMS[form](KernelSpec(spec, replace(best.tiling, depth=2)), target, 2)
        operands = [w, bias, to_blocked(other, residual)]
        wanted = np.maximum(expected + bias[:, None, None] + residual, 0)
        check(run(spec, lowering, x, operands, 2, target), wanted, "f32", size)


@pytest.mark.parametrize("grad", [False, True])
def test_results_are_asked_for_before_they_are_stored(
    grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store in place of each prefetch shows what is asked for: all of y, and no more, in
    the kernels of threads whose own cache would not hold it."""
    case = Case(1, 32, 32, (18, 14), stride=(2, 2)) if grad else Case(1, 32, 32, (9, 7))
    spec, x, w, _ = build(case, 6, grad=grad)
    monkeypatch.setattr(Emitter, "prefetch", mark)
    monkeypatch.setattr("symgrad.codegen.kernels.winograd_conv.is_large", lambda *_: False)
    monkeypatch.setattr("symgrad.codegen.kernels.winograd_conv.emit_output", _emit_nothing)
    lowering = lower_tiles_first(KernelSpec(spec, Tiling(4, 1, 8, 0)), FAR, 2)
    marked = run(spec, lowering, x, [w], 2, FAR)
    np.testing.assert_array_equal(marked[:, ::16], np.full_like(marked[:, ::16], 7.0))
    assert np.count_nonzero(marked) == marked.size // 16
    lowering = lower_tiles_first(KernelSpec(spec, Tiling(4, 1, 8, 0)), NEAR, 2)
    assert not run(spec, lowering, x, [w], 2, NEAR).any()


def mark(k: Emitter, ptr: Reg, *, locality: int = 3) -> None:
    """What takes the place of ``Emitter.prefetch``."""
    if locality == 2:
        k.store(k.const("float", 7.0), ptr)


def test_the_next_tiles_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, of the input: of four rows of tiles the last two are the next block, and what
    the tiles above and before them read is there."""
    case = Case(1, 32, 32, (18, 18), padding=(0, 0))
    spec, x, w, _ = build(case, 6, grad=False)
    monkeypatch.setattr(Emitter, "prefetch", mark)
    monkeypatch.setattr("symgrad.codegen.kernels.winograd_conv.is_far", lambda *_: False)
    for target in (FAR, NEAR):
        lowering = lower_tiles_first(KernelSpec(spec, Tiling(4, 1, 8, 0)), target, 1)
        blocked, out = to_blocked(spec.x, x), np.zeros(spec.y.buffer_shape, np.float32)
        run_lowering(lowering, [blocked, w, out], 1, target)
        expected = np.zeros(x.shape, bool)
        expected[:, ::16, 10:, 2:] = target is FAR
        np.testing.assert_array_equal(from_blocked(spec.x, blocked) == 7.0, expected)


def _emit_nothing(k: Emitter, name: str, shape: Shape, m_plane: int) -> None:
    extra = len(shape.sinks) - 1
    with k.function(name, ["ptr", "i64", "i64", "ptr", *["ptr"] * extra], internal=True):
        pass


@pytest.mark.parametrize("form", FORMS)
def test_weights_may_live_blocked(form: str) -> None:
    case, target = Case(2, 32, 48, (5, 6)), Target.host()
    for grad in (False, True):
        spec, x, w, expected = build(case, 6, grad=grad)
        source = replace(spec.weights.source, strides=None)
        spec = replace(spec, weights=replace(spec.weights, source=source))
        lowering = FORMS[form](KernelSpec(spec, Tiling(4, 1, 8, 1)), target, 2)
        check(run(spec, lowering, x, [blocked_weights(w)], 2, target), expected, "f32", 6)


@pytest.mark.parametrize("size", SIZES)
def test_error_of_many_channels(size: int) -> None:
    """The root of a sum's length times what the transforms lose."""
    target = Target.host()
    for taps in range(2, size):
        case = Case(1, 256, 32, (12, 12), (taps, taps))
        spec, x, w, expected = build(case, size, grad=False)
        actual = run(spec, lower_winograd(spec, target, 2), x, [w], 2, target)
        error = (actual - expected) / np.abs(expected).max()
        assert np.sqrt(np.mean(error**2)) < {4: 1.6e-7, 6: 5e-7}[size]
        if taps > 2:  # with fewer terms the largest result stands out less
            assert np.abs(error).max() < {4: 8e-7, 6: 3e-6}[size]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_rests_and_strides_err_no_more(size: int, stride: int) -> None:
    """Tiles of fewer outputs and the halves of a strided filter take fewer points."""
    target = Target.host()
    for rows in (12, 13, 14, 15):
        case = Case(1, 256, 32, (stride * rows, stride * 12), stride=(stride, stride))
        spec, x, w, expected = build(case, size, grad=False)
        actual = run(spec, lower_winograd(spec, target, 2), x, [w], 2, target)
        error = (actual - expected) / np.abs(expected).max()
        for part in (error, error[:, :, 12:]):  # all rows, those in the rest
            if part.size:
                assert np.sqrt(np.mean(part**2)) < {4: 1.6e-7, 6: 5e-7}[size]


def test_nonsense_outside_the_plane_does_not_matter() -> None:
    """Buffers behind the image may hold NaN: partial tiles must not read them."""
    case, target = Case(1, 16, 16, (5, 5)), Target.host()
    spec, x, w, expected = build(case, 6, grad=False)
    buffer = to_blocked(spec.x, x)
    room = np.full(buffer.size + 4096, np.nan, np.float32)
    room[: buffer.size] = buffer.ravel()
    out = np.zeros(spec.y.buffer_shape, np.float32)
    run_lowering(lower_winograd(spec, target, 1), [room, w, out], 1, target)
    check(from_blocked(spec.y, out), expected, "f32", 6)


@pytest.mark.parametrize("name", ["avx512", "avx2", "x86-64", "neon"])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_fit_the_registers(size: int, name: str) -> None:
    target = Target.named(name)
    for images, plane in itertools.product((1, 8), (2, 7, 16, 56)):
        case = Case(images, 64, 128, (plane, plane))
        spec = forward(*layouts(case), case.weights(), cut(case, size, *layouts(case)))
        for threads in (1, 2, 64):
            best = schedule(spec, target, threads)
            tiling = best.tiling
            assert tiling.tiles * tiling.vectors + tiling.vectors < target.vector_registers
            assert tiling.block % tiling.tiles == 0
            assert math.isfinite(best.cycles)


def test_compiles_for_neon() -> None:
    target = Target.named("neon")
    spec, *_ = build(Case(2, 32, 48, (5, 5)), 6, grad=False)
    for form in FORMS.values():
        for phase in form(KernelSpec(spec, Tiling(4, 4, 8, 2)), target, 2).phases:
            text = kernel_text(phase.emit, phase.spec, "kernel", target)
            assert "fmla" in emit_assembly(text, target)


def test_refusals_say_why() -> None:
    def refusal(case: Case) -> str | None:
        along = cut(case, 6, *layouts(case))
        spec = forward(*layouts(case), case.weights(), along, groups=case.groups)
        return spec.refusal()

    assert refusal(Case(1, 16, 16, (4, 4))) is None
    assert "3 channels" in str(refusal(Case(1, 3, 16, (4, 4))))
    assert "4 groups" in str(refusal(Case(1, 32, 32, (4, 4), groups=4)))
