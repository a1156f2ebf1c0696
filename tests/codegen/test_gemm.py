"""Matrix products against NumPy in float64 (or exact integers)."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm import GemmSpec, lower_gemm
from symgrad.codegen.kernels.gemm_schedule import (
    Problem,
    Schedule,
    dot_tile_shape,
    outer_tile_shape,
    schedule,
)
from symgrad.codegen.kernels.matrix import Matrix, PaddedAccess, Source, Window
from symgrad.codegen.kernels.pack import prefetch_share
from symgrad.codegen.lower import kernel_text
from symgrad.codegen.lowering.epilogue import RegionEpilogue
from symgrad.codegen.objects import emit_assembly
from symgrad.codegen.registers import Reg
from symgrad.codegen.target import Target

from tests.codegen.harness import TARGETS, Array, run_kernel, run_lowering, target_named
from tests.codegen.regions import region

TOLERANCE = {"f16": 2e-3, "bf16": 1.6e-2, "f32": 2e-6, "f64": 1e-14}


def numpy_dtype(dtype: str) -> Any:
    """The NumPy type that holds an IR dtype's memory."""
    names = {"f": "float", "i": "int", "u": "uint", "b": "bool"}
    special = {"bf16": np.uint16, "bool": np.bool_}
    return special.get(dtype) or np.dtype(names[dtype[0]] + dtype[1:])


def from_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def values(array: Array, dtype: str) -> Array:
    """Its elements in the type to compare in."""
    array = from_bf16(array) if dtype == "bf16" else array
    return array.astype(np.float64) if dtype[0] in "fb" and dtype != "bool" else array


def sample(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    if dtype == "bool":
        return rng.random(shape) < 0.3
    if dtype[0] in "iu":
        info = np.iinfo(numpy_dtype(dtype))
        return rng.integers(info.min, info.max, shape, numpy_dtype(dtype), endpoint=True)
    floats = rng.standard_normal(shape)
    if dtype == "bf16":
        return (floats.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return floats.astype(numpy_dtype(dtype))


def over(array: Array, axes: Sequence[int | None], dtype: str) -> Access:
    """``array`` over some of its axes in turn; None broadcasts."""
    strides = [0 if a is None else array.strides[a] // array.itemsize for a in axes]
    return Access(dtype, tuple(strides))


def check(result: Array, expected: Array, dtype: str, depth: int) -> None:
    if dtype[0] == "f" or dtype == "bf16":
        rtol, scale = TOLERANCE[dtype], 4 * np.sqrt(depth) + 4
        np.testing.assert_allclose(values(result, dtype), expected, rtol=rtol, atol=rtol * scale)
    else:
        np.testing.assert_array_equal(result, expected)


@dataclass(frozen=True)
class Case:
    m: int
    n: int
    k: int
    dtype: str = "f32"
    order: str = "abc"
    """A capital letter transposes the operand's memory."""
    batch: int = 0
    threads: int = 1
    target: str = "host"

    def run(self) -> None:
        rng = np.random.default_rng(zlib.crc32(repr(self).encode()))
        lead = (self.batch,) if self.batch else ()

        def operand(letter: str, rows: int, cols: int) -> Array:
            if letter in self.order:
                return sample(rng, (*lead, rows, cols), self.dtype)
            return np.swapaxes(sample(rng, (*lead, cols, rows), self.dtype), -1, -2)

        a, b = operand("a", self.m, self.k), operand("b", self.k, self.n)
        c = operand("c", self.m, self.n)
        axes = range(a.ndim)
        spec = GemmSpec(
            lead, (self.m,), (self.n,), (self.k,),
            over(a, axes, self.dtype), over(b, axes, self.dtype), over(c, axes, self.dtype),
        )  # fmt: skip
        target = target_named(self.target)
        run_lowering(lower_gemm(spec, target, self.threads), [a, b, c], self.threads, target)
        with np.errstate(over="ignore"):
            expected = values(a, self.dtype) @ values(b, self.dtype)
        check(c, expected, self.dtype, self.k)


ORDERS = ["".join(o) for o in itertools.product("aA", "bB", "cC")]
SIZES = [(1, 1, 1), (1, 33, 17), (33, 1, 17), (5, 17, 33), (17, 5, 1), (10, 10, 10), (33, 70, 65)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_and_orders(size: tuple[int, int, int], dtype: str, target: str) -> None:
    orders = ORDERS if target == "host" else ORDERS[SIZES.index(size) :: 7]
    for i, order in enumerate(orders):
        Case(*size, dtype, order, threads=1 + i % 3, target=target).run()


@pytest.mark.parametrize("dtype", ["bool", "i8", "u16", "i32", "u64", "f16", "bf16"])
def test_dtypes(dtype: str) -> None:
    for i, (size, target) in enumerate(itertools.product([(4, 5, 40), (19, 35, 21)], TARGETS)):
        Case(*size, dtype, ORDERS[3 * i % 8], threads=1 + i % 2, target=target).run()


@pytest.mark.parametrize(
    "case",
    [
        Case(130, 257, 301),  # B packed
        Case(130, 257, 1101),  # the same, in several blocks of the contraction
        Case(130, 1300, 2100, threads=2),  # the next panels of B asked for meanwhile
        Case(150, 700, 1101, order="aBc", threads=3),
        Case(90, 700, 1101, "f64", "Abc"),
        Case(512, 272, 530, order="Abc"),  # A packed, for its lines collide in the caches
        Case(251, 256, 1101, order="Abc"),  # and read in place, for these do not
        Case(301, 300, 700, order="AbC", threads=2),
        Case(100, 200, 900, "f64", "aBc", threads=3),
        Case(14, 18, 500, "f16", "aBc"),  # half results hold no partial sums
        Case(3, 200, 200, order="aBc", threads=2),  # few rows: dot products
        Case(200, 4, 100, "f64", "aBc", threads=2),
        Case(1, 1503, 515, order="aBc", threads=2),  # the same, line by line
        Case(2, 1203, 700, "f64", "aBc"),
        Case(1501, 1, 515, order="aBc"),
        Case(1501, 2, 515, order="aBC", threads=3),
        Case(8, 1503, 515, order="aBc", threads=2),  # the next lines asked for meanwhile
        Case(5, 1100, 333, "f64", "aBC", threads=3),
        Case(7, 1100, 333, "f64", "aBc", batch=2),
        Case(9, 11, 13, batch=7, threads=3),
        Case(40, 70, 50, order="ABC", batch=3, threads=2),
        Case(1, 700, 1100),  # too much to keep: streamed a few rows at a time
        Case(3, 1024, 700, "f64", "abc", threads=2),
        Case(10, 1000, 301, "f64"),  # the same, with all rows in one tile
        Case(14, 1501, 400, threads=3),
        Case(250, 10, 3001, "f64", "Abc", threads=2),  # A streamed as the other factor
        Case(257, 13, 5000, "f32", "Abc"),
        Case(300, 3, 4001, "f32", "ABc", threads=3),
        Case(250, 9, 3001, "f64", "AbC"),
        Case(40, 37, 2500, order="ABc", threads=2),  # tiles turned before they are stored
        Case(200, 10, 1500, "f64", "Abc", threads=3),
        Case(130, 7, 300, "f16", "Abc"),
        Case(21, 18, 40, "i32", "ABc", batch=2),
        Case(50, 23, 1300, "f32", "ABc", target="avx2"),
        Case(19, 5, 70, "f64", "ABc", target="x86-64"),
        Case(3, 3, 5001),  # few sums: several chains of them
        Case(2, 40, 1030, "f64", threads=2),
        Case(20, 300, 1030, order="aBc", threads=2),
        Case(17, 1024, 600),  # rows of B that collide are packed for few tiles
        Case(300, 90, 4),  # stores above all: along the rows of the result
        Case(65, 300, 16, "f64", threads=2),
        Case(100, 16, 512),  # rows a power of two apart share sets of L1
        Case(10, 100, 1000, order="aBc"),  # dot products, though A has more than a few rows
        Case(2, 2, 200_000, order="aBc"),
        Case(70, 130, 1100, "f32", "aBc", target="avx2"),
        Case(70, 130, 1100, "f32", "aBc", target="x86-64"),
    ],
    ids=str,
)
def test_blocks(case: Case) -> None:
    case.run()


@pytest.mark.parametrize("order", ORDERS)
def test_bf16_pairs(order: str) -> None:
    """Products of bf16 in pairs along the contraction, however the operands lie."""
    for size, batch, threads in (
        ((9, 33, 64), 0, 2),
        ((40, 8, 37), 0, 1),  # an odd contraction ends in half a pair
        ((17, 20, 51), 3, 3),
        ((130, 70, 300), 0, 2),
        ((8, 9, 1), 0, 1),
    ):
        Case(*size, "bf16", order, batch, threads).run()


def test_bf16_pairs_broadcast_and_several_axes() -> None:
    rng = np.random.default_rng(0)
    a, b = sample(rng, (12, 6, 10), "bf16"), sample(rng, (5, 6, 10, 16), "bf16")
    c = np.zeros((5, 12, 16), np.uint16)
    spec = GemmSpec(
        (5,), (12,), (16,), (6, 10),
        over(a, (None, 0, 1, 2), "bf16"), over(b, (0, 1, 2, 3), "bf16"),
        over(c, (0, 1, 2), "bf16"),
    )  # fmt: skip
    run_lowering(lower_gemm(spec, Target.host(), 2), [a, b, c], 2)
    expected = np.einsum("mij,bijn->bmn", from_bf16(a), from_bf16(b))
    check(c, expected, "bf16", 60)


def test_bf16_pairs_have_an_instruction() -> None:
    """Where the processor has it, and nothing is rewritten that lies in pairs already."""
    plain = Target.named("avx512")
    target = replace(plain, features="+avx512bf16")
    rows, columns = Access("bf16", (64, 1)), Access("bf16", (1, 64))
    spec = GemmSpec((), (32,), (48,), (64,), rows, columns, Access("f32", (48, 1)))
    (phase,) = lower_gemm(spec, target, 1).phases
    text = kernel_text(phase.emit, phase.spec, "kernel", target)
    assert "vdpbf16ps" in emit_assembly(text, target)
    assert not plain.has_bf16_products
    lowered = lower_gemm(replace(spec, b=Access("bf16", (48, 1))), target, 1)
    assert [p.label for p in lowered.phases] == ["loop", "gemm"]


@pytest.mark.parametrize("dtype", ["f32", "i32", "bf16"])
@pytest.mark.parametrize("size", [(1, 1, 5000), (2, 9, 4001), (3, 5, 20000)], ids=str)
def test_split_contraction(size: tuple[int, int, int], dtype: str) -> None:
    for threads, order in itertools.product((2, 3, 8), ("abc", "aBc", "AbC")):
        Case(*size, dtype, order, threads=threads).run()


def test_split_is_split() -> None:
    access = Access("f32", (0, 0))
    spec = GemmSpec((), (2,), (2,), (4096,), access, access, Access("f32", (2, 1)))
    assert len(lower_gemm(spec, Target.host(), 4).phases) == 2
    assert len(lower_gemm(spec, Target.host(), 1).phases) == 1


def test_broadcast_batch_and_reversed_axis() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((6, 19)), rng.standard_normal((3, 19, 21))
    c = np.zeros((3, 6, 21))
    backwards = Access("f64", (0, 19, -1), 18)
    spec = GemmSpec((3,), (6,), (21,), (19,), backwards, over(b, (0, 1, 2), "f64"),
                    over(c, (0, 1, 2), "f64"))  # fmt: skip
    run_lowering(lower_gemm(spec, Target.host(), 2), [a, b, c], 2)
    check(c, a[:, ::-1] @ b, "f64", 19)


@pytest.mark.parametrize(
    "equation",
    [
        "abcd,cdef->abef",  # merges into single axes
        "acbd,dfce->abef",  # several axes on each side that do not merge
        "abcd,cedf->fbae",  # nor do those of the result
        "gacd,gdec->aeg",
        "ab,b->a",
        "b,bc->c",
        "a,a->",
        "a,b->ba",
    ],
)
def test_several_axes_per_side(equation: str) -> None:
    left, right, out = (part for part in equation.replace("->", ",").split(","))
    extent = dict(zip("abcdefg", (3, 5, 4, 7, 6, 9, 2), strict=True))
    rng = np.random.default_rng(2)
    a, b, c = (rng.standard_normal([extent[x] for x in part]) for part in (left, right, out))
    batch = [x for x in left if x in right and x in out]
    m = [x for x in left if x in out and x not in batch]
    n = [x for x in right if x in out and x not in batch]
    k = [x for x in left if x in right and x not in batch]

    def access(array: Array, names: str, axes: list[str]) -> Access:
        return over(array, [names.index(x) for x in axes], "f64")

    spec = GemmSpec(
        *(tuple(extent[x] for x in axes) for axes in (batch, m, n, k)),
        a=access(a, left, batch + m + k),
        b=access(b, right, batch + k + n),
        c=access(c, out, batch + m + n),
    )
    for threads in (1, 2):
        c[...] = np.nan
        run_lowering(lower_gemm(spec, Target.host(), threads), [a, b, c], threads)
        check(c, np.einsum(equation, a, b), "f64", 28)


def test_empty_contraction_is_zero() -> None:
    c = np.ones((3, 4), np.float32)
    spec = GemmSpec((), (3,), (4,), (0,), Access("f32", (0, 1)), Access("f32", (4, 1)),
                    Access("f32", (4, 1)))  # fmt: skip
    run_lowering(lower_gemm(spec, Target.host(), 2), [c, c, c], 2)
    assert not c.any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(1, 1, 9), (7, 33, 5), (4, 3, 90), (40, 50, 900), (2, 3, 4000)])
def test_epilogue(size: tuple[int, int, int], target: str) -> None:
    """relu(A B + bias + residual), with the result narrowed."""
    m, n, k = size
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4")
    bias, residual = rng.standard_normal(n).astype("f4"), rng.standard_normal((n, m)).astype("f4")

    def body(build: Any, bias: Any, total: Any, residual: Any) -> Any:
        shifted = build.emit("add", build.emit("add", total, bias), residual)
        zero = build.emit("sub", bias, bias)
        return build.emit("maximum", shifted, zero)

    epilogue = RegionEpilogue(
        (over(bias, (None, 0), "f32"), over(residual, (1, 0), "f32")),
        region(body, "f32", "f32", "f32"), 1, "f32",
    )  # fmt: skip
    c = np.zeros((m, n), np.float32)
    spec = GemmSpec((), (m,), (n,), (k,), over(a, (0, 1), "f32"), over(b, (0, 1), "f32"),
                    over(c, (0, 1), "f32"), epilogue)  # fmt: skip
    expected = np.maximum(a.astype("f8") @ b + bias + residual.T, 0)
    for threads in (1, 3):
        c[...] = -1
        lowering = lower_gemm(spec, target_named(target), threads)
        run_lowering(lowering, [a, b, bias, residual, c], threads, target_named(target))
        check(c, expected, "f32", k)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padded_operand(stride: int, dilation: int, target: str) -> None:
    """A correlation as a product: element (tap, pixel) of B, 0 outside of the signal."""
    rng = np.random.default_rng(4)
    signal, taps = rng.standard_normal((2, 23)), rng.standard_normal((3, 2, 5))
    padded = np.zeros((2, 100))
    padded[:, 3 : 3 + 23 * dilation : dilation] = signal
    pixels = 21
    expected = np.array([
        [(padded[:, p * stride : p * stride + 5] * tap).sum() for p in range(pixels)]
        for tap in taps
    ])  # fmt: skip
    window = Window((0, 1, stride), -3, 23, 1, dilation)
    c = np.zeros((3, pixels))
    spec = GemmSpec((), (3,), (pixels,), (2, 5), over(taps, (0, 1, 2), "f64"),
                    PaddedAccess(Access("f64", (23, 0, 0)), (window,)),
                    over(c, (0, 1), "f64"))  # fmt: skip
    for threads in (1, 2):
        lowering = lower_gemm(spec, target_named(target), threads)
        run_lowering(lowering, [taps, signal, c], threads, target_named(target))
        check(c, expected, "f64", 10)


def test_axes_merge() -> None:
    whole = Matrix.of(Access("f32", (60, 20, 5, 1)), (), (3, 3), (4, 5))
    assert whole.strides == (20, 1)
    assert Matrix.of(Access("f32", (1, 60, 5)), (), (3,), (3, 4)).strides is None


@pytest.mark.parametrize("name", ["avx512", "avx2", "x86-64", "neon"])
def test_tiles_fit_the_registers(name: str) -> None:
    target = Target.named(name)
    for m, n in itertools.product((1, 2, 3, 7, 50, 1000), repeat=2):
        lanes = target.lanes(4)
        mr, nr = outer_tile_shape(m, n, lanes, target)
        assert mr * (nr // lanes) + nr // lanes < target.vector_registers
        mr, nr = dot_tile_shape(m, n, target)
        assert mr * nr + mr < target.vector_registers


def test_large_tiles_hide_latency() -> None:
    for name in ("avx512", "avx2", "neon"):
        target = Target.named(name)
        mr, nr = outer_tile_shape(1000, 1000, target.lanes(4), target)
        assert mr * nr // target.lanes(4) >= 8


def _schedule_of(a_strides: tuple[int, int], sizes: tuple[int, int, int]) -> Schedule:
    """The cut of a large f32 product whose A lies like this and whose B is row-major."""
    m, n, k = sizes
    a = Matrix.of(Access("f32", a_strides), (), (m,), (k,))
    b = Matrix.of(Access("f32", (n, 1)), (), (k,), (n,))
    return schedule(Problem(1, m, n, k, a, b, True, threads=1), Target.named("avx512"))


def test_large_factors_are_streamed() -> None:
    """Their rows pass by once, a few at a time, beside a tile of all rows of the other."""
    for rows, streamed in ((8, True), (14, True), (15, False), (60, False)):
        cut = _schedule_of((4000, 1), (rows, 4000, 4000))
        assert (cut.mr == rows and cut.kc == 8) == streamed
    a, b, c = Access("f64", (1, 250)), Access("f64", (10, 1)), Access("f64", (10, 1))
    spec = GemmSpec((), (250,), (10,), (10_000,), a, b, c)
    labels = [p.label for p in lower_gemm(spec, Target.named("avx512"), 1).phases]
    assert labels == ["gemm_partial", "gemm_combine"]
    small = replace(spec, k=(100,))
    assert [p.label for p in lower_gemm(small, Target.named("avx512"), 1).phases] == ["gemm"]


def test_tiles_are_turned_where_that_saves_lanes_or_transposing() -> None:
    def rows_of(a: tuple[int, int], b: tuple[int, int], sizes: tuple[int, int, int]) -> int:
        m, n, k = sizes
        left, right, c = Access("f32", a), Access("f32", b), Access("f32", (n, 1))
        spec = GemmSpec((), (m,), (n,), (k,), left, right, c)
        (phase,) = lower_gemm(spec, Target.named("avx512"), 1).phases
        (rows,) = phase.spec.m  # type: ignore[attr-defined]
        return int(rows)

    assert rows_of((1, 1000), (10, 1), (1000, 10, 100)) == 10  # 10 lanes of 16 become 16
    assert rows_of((1, 500), (300, 1), (500, 300, 100)) == 500
    assert rows_of((1, 512), (1, 900), (512, 304, 900)) == 304  # B is read as it lies
    assert rows_of((100, 1), (1, 100), (500, 304, 100)) == 500  # A's rows could not be vectors


def test_rows_of_b_that_collide_are_packed_for_a_second_tile() -> None:
    def cut(rows: int, pitch: int) -> Schedule:
        return _schedule_of((600, 1), (rows, pitch, 600))

    assert cut(40, 4096).pack_b
    assert not cut(40, 4000).pack_b
    assert not cut(4, 4096).pack_b


def test_a_is_packed_only_where_its_lines_collide() -> None:
    for pitch in (1000, 1024, 3072):  # rows that are streams: never
        assert not _schedule_of((pitch, 1), (1000, 1000, 1000)).pack_a
    assert not _schedule_of((1, 1000), (1000, 1000, 1000)).pack_a
    assert _schedule_of((1, 1024), (1024, 1000, 1000)).pack_a
    assert _schedule_of((2, 2000), (1000, 1000, 1000)).pack_a  # neither one is contiguous


def test_panels_of_b_are_asked_for_ahead() -> None:
    """Where B is far and A is not: then a block is one panel, used by all of A."""
    cut = _schedule_of((2000, 1), (400, 1000, 2000))
    assert cut.ahead
    assert (cut.nc, cut.mc >= 400) == (cut.nr, True)
    assert not _schedule_of((300, 1), (400, 800, 300)).ahead  # B stays in L2
    assert not _schedule_of((2000, 1), (4000, 1000, 2000)).ahead  # A would come from memory
    assert not _schedule_of((1, 1024), (400, 1000, 2000)).ahead  # A is packed


def test_lines_of_dot_products_come_one_by_one_or_are_asked_for_ahead() -> None:
    def cut(m: int, n: int, k: int) -> Schedule:
        a = Matrix.of(Access("f32", (k, 1)), (), (m,), (k,))
        b = Matrix.of(Access("f32", (1, k)), (), (k,), (n,))
        found = schedule(Problem(1, m, n, k, a, b, True, threads=1), Target.named("avx512"))
        assert found.form == "dot"
        return found

    assert (cut(1, 1000, 512).mr, cut(1, 1000, 512).nr) == (1, 1)
    assert (cut(2, 1000, 512).mr, cut(2, 1000, 512).nr) == (2, 1)
    assert (cut(1000, 1, 512).mr, cut(1000, 1, 512).nr) == (1, 1)
    assert not cut(2, 1000, 512).ahead
    few = cut(8, 1000, 512)
    assert few.ahead
    assert few.nc == few.nr > 1
    for small in (cut(1, 100, 512), cut(8, 100, 512)):  # these stay in L2
        assert small.nr > 1
        assert not small.ahead
    assert cut(1, 100, 100_000).nr > 1  # lines that hardware fetches ahead


@pytest.mark.parametrize("flipped", [False, True])
def test_shares_of_a_block_cover_its_lines(flipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in place of each prefetch shows what is asked for."""

    def mark(k: Emitter, address: Reg, **_: object) -> None:
        k.store(k.const("float", 1.0), address)

    monkeypatch.setattr(Emitter, "prefetch", mark)
    lines, columns, first, shape = 41, 160, (7, 32), (19, 70)
    asked = np.zeros((lines, columns), np.float32)
    access = Access("f32", (1, columns) if flipped else (columns, 1))
    sizes = ((columns,), (lines,)) if flipped else ((lines,), (columns,))
    matrix = Matrix.of(access, (), *sizes)

    def emit(k: Emitter, name: str) -> None:
        with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, _):
            source = Source.of(k, matrix, k.load("ptr", args), 0)
            order = slice(None, None, -1 if flipped else 1)
            prefetch_share(k, source, first[order], shape[order], tid, 4)

    run_kernel(emit, [asked], threads=4)
    expected = np.zeros_like(asked)
    # 5 lines hold 70 elements; the shares are rounded up to 24 lines, one more than needed.
    expected[7:26, 32 : 32 + 80 : 16] = 1
    expected[26, 32] = 1
    np.testing.assert_array_equal(asked, expected)


def test_blocks_of_a_fit_the_second_cache() -> None:
    target = Target.named("avx512")
    for strides in ((3000, 1), (1, 3000)):
        cut = _schedule_of(strides, (3000, 3000, 3000))
        assert cut.mc * cut.kc * 4 <= target.l2 // 4
        assert cut.nr * cut.kc * 4 <= target.l2 // 4
        assert 16 % cut.mr == 0 or strides[1] == 1  # columns of whole parts of a line
