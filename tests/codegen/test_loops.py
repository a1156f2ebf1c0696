"""Loop nests against NumPy: layouts, dtypes, broadcasts, transposes, reductions, threads."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, lower_loop
from symgrad.ir.types import DTYPES

from tests.codegen.harness import TARGETS, run_lowering, target_named
from tests.codegen.loop_reference import Array, expected
from tests.codegen.regions import region

REAL = ("f32", "f64", "f16")
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")


def buffer_for(access: Access, extents: tuple[int, ...], rng: Any) -> Array:
    """Random contents for everything an access can reach."""
    reach = sum(max(0, s) * (n - 1) for s, n in zip(access.strides, extents, strict=True) if n)
    size = access.offset + max(0, reach) + 1
    dtype = DTYPES[access.dtype]
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    if dtype.kind == "f":
        return rng.normal(size=size).astype(dtype.numpy)
    return rng.integers(0 if dtype.kind == "u" else -9, 9, size).astype(dtype.numpy)


def check(
    spec: LoopSpec,
    threads: int = 1,
    target: str = "host",
    *,
    rtol: float = 0.0,
    buffers: list[Array] | None = None,
) -> list[Array]:
    """Runs a nest and compares every byte of its output buffers, guards included."""
    rng = np.random.default_rng(1)
    accesses = [*spec.inputs, *(o.access for o in spec.outputs)]
    buffers = buffers or [buffer_for(a, spec.extents, rng) for a in accesses]
    want = expected(spec, buffers)
    run_lowering(
        lower_loop(spec, target_named(target), threads), buffers, threads, target_named(target)
    )
    got = buffers[len(spec.inputs) :]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=rtol, atol=5 * rtol, equal_nan=True)
        if rtol == 0:
            np.testing.assert_array_equal(g, w)
    return got


def elementwise(extents: tuple[int, ...], inputs: list[Access], body: Any, out: Access) -> LoopSpec:
    return LoopSpec(extents, tuple(inputs), body, (Output(out),))


ADD = {d: region(lambda b, x, y: x + y, d, d) for d in (*REAL, *INTEGERS)}
COPY = {d: region(lambda b, x: x, d) for d in DTYPES if d not in ("c64", "c128")}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 5, 17, 33, 64, 129, 20001])
def test_contiguous(n: int, threads: int, target: str) -> None:
    a = Access("f32", (1,))
    check(elementwise((n,), [a, a], ADD["f32"], a), threads, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [d for d in COPY if d != "bf16"])
def test_dtypes(dtype: str, target: str) -> None:
    a = Access(dtype, (40, 1), 3)
    check(elementwise((7, 37), [a], COPY[dtype], a), 2, target)
    if dtype != "bool":
        body = region(lambda b, x, y: x + y * y, dtype, dtype)
        rtol = 2e-3 if dtype == "f16" else 0.0
        check(elementwise((7, 37), [a, Access(dtype, (0, 1))], body, a), 1, target, rtol=rtol)


ACCESSES = {
    "contiguous": (35, 7, 1),
    "row": (0, 0, 1),
    "column": (0, 1, 0),
    "outer": (1, 0, 0),
    "scalar": (0, 0, 0),
    "padded": (90, 9, 1),
    "transposed": (1, 4, 20),
    "strided": (210, 42, 3),
    "reversed": (35, 7, -1),
    "flipped": (-35, 7, 1),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(ACCESSES, 2)))
def test_access_patterns(first: str, second: str, target: str) -> None:
    extents = (4, 5, 7)
    inputs = []
    for name in (first, second):
        strides = ACCESSES[name]
        start = -sum(min(0, s) * (n - 1) for s, n in zip(strides, extents, strict=True))
        inputs.append(Access("f32", strides, start))
    check(elementwise(extents, inputs, ADD["f32"], Access("f32", (40, 8, 1), 2)), 2, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "u8"])
@pytest.mark.parametrize("shape", [(1, 9), (16, 16), (33, 17), (70, 45), (64, 128)])
def test_transposes(shape: tuple[int, int], dtype: str, target: str) -> None:
    rows, columns = shape
    flat, turned = Access(dtype, (columns, 1)), Access(dtype, (1, rows))
    check(elementwise(shape, [turned], COPY[dtype], flat), 2, target)
    body = region(lambda b, x, y: (x + y, x * y), dtype, dtype)
    outputs = (Output(flat), Output(turned))
    check(LoopSpec(shape, (flat, turned), body, outputs), 1, target)


def test_negative_output_strides() -> None:
    check(
        elementwise((9, 50), [Access("f32", (50, 1))], COPY["f32"], Access("f32", (-50, -1), 449))
    )


def test_output_may_alias_an_input() -> None:
    a = Access("f32", (1,))
    x = np.arange(1000, dtype=np.float32)
    spec = elementwise((1000,), [a, a], ADD["f32"], a)
    run_lowering(lower_loop(spec, target_named("host"), 2), [x, np.ones_like(x), x], 2)
    np.testing.assert_array_equal(x, np.arange(1000) + 1)


@pytest.mark.parametrize("target", TARGETS)
def test_blocked_image_with_halo(target: str) -> None:
    """Normalise, residual, relu over [N][C/16][H+2][W+2][16] with per-channel factors."""
    n, c, h, w, b = 2, 3, 5, 7, 16
    image = Access("f32", (c * 7 * 9 * b, 7 * 9 * b, 9 * b, b, 1), 10 * b)
    channel = Access("f32", (0, b, 0, 0, 1))

    def body(k: Any, x: Any, mean: Any, var: Any, gamma: Any, beta: Any, res: Any) -> Any:
        scale = gamma / k.emit("sqrt", var * var + 1e-5)
        return k.emit("maximum", (x - mean) * scale + beta + res, k.constant(0.0, x.type))

    inputs = [image, *[channel] * 4, image]
    check(elementwise((n, c, h, w, b), inputs, region(body, *["f32"] * 6), image), 2, target)


# -- reductions -----------------------------------------------------------------


def reduction(shape: tuple[int, ...], axes: tuple[int, ...], kind: str, dtype: str) -> LoopSpec:
    kept = [n for i, n in enumerate(shape) if i not in axes]
    strides = iter(row_major(kept))
    out = tuple(0 if i in axes else next(strides) for i in range(len(shape)))
    body = COPY["bool" if kind in ("any", "all") else dtype]
    output = Output(Access(body.results[0].type.dtype.name, out), kind, axes)
    source = Access(body.params[0].type.dtype.name, row_major(shape))
    return LoopSpec(shape, (source,), body, (output,))


SHAPES = [
    ((1000,), (0,)),
    ((40000,), (0,)),
    ((7, 50), (1,)),
    ((7, 50), (0,)),
    ((3000, 33), (0,)),
    ((33, 700), (1,)),
    ((5, 4, 60), (0, 2)),
    ((5, 4, 60), (1,)),
    ((900, 3), (0,)),
    ((900, 3), (1,)),
    ((2, 3, 4, 5), (0, 1, 2, 3)),
    ((6, 0), (1,)),
    ((1,), (0,)),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_sums(shape: tuple[int, ...], axes: tuple[int, ...], threads: int, target: str) -> None:
    check(reduction(shape, axes, "sum", "f32"), threads, target, rtol=1e-5)
    check(reduction(shape, axes, "sum", "i64"), threads, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["sum", "prod", "max", "min", "any", "all"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "i8", "u32", "i64"])
def test_kinds(kind: str, dtype: str, target: str) -> None:
    rtol = {"f32": 1e-5, "f64": 1e-14, "f16": 2e-3}.get(dtype, 0.0)
    for shape, axes in (((9, 75), (1,)), ((75, 9), (0,)), ((20000,), (0,))):
        check(reduction(shape, axes, kind, dtype), 2, target, rtol=rtol)


@pytest.mark.parametrize("position", [0, 5, 63, 199])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_extrema_propagate_nan(kind: str, position: int) -> None:
    x = np.random.default_rng(0).normal(size=200).astype(np.float32)
    x[position] = np.nan
    out = np.zeros(1, np.float32)
    check(reduction((200,), (0,), kind, "f32"), buffers=[x, out])
    assert np.isnan(out[0])


def test_sums_are_as_accurate_as_pairwise_ones() -> None:
    x = np.random.default_rng(0).random(10_000_000, np.float32)
    exact, out = np.sum(x, dtype=np.float64), np.zeros(1, np.float32)
    for shape, axes in (((10_000_000,), (0,)), ((10_000, 1000), (0, 1))):
        spec = reduction(shape, axes, "sum", "f32")
        run_lowering(lower_loop(spec, target_named("host"), 1), [x, out])
        assert abs(out[0] - exact) <= 2 * max(abs(np.sum(x) - exact), np.spacing(out[0]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_several_results_in_one_pass(threads: int, target: str) -> None:
    """Sum, sum of squares and maximum per channel, and an elementwise result."""
    n, c, h, w, b = 2, 2, 5, 7, 16
    image = Access("f32", (c * 7 * 9 * b, 7 * 9 * b, 9 * b, b, 1), 10 * b)
    channel = Access("f32", (0, b, 0, 0, 1))
    body = region(lambda k, x: (x, x * x, x, -x), "f32")
    outputs = (
        Output(channel, "sum", (0, 2, 3)),
        Output(channel, "sum", (0, 2, 3)),
        Output(channel, "max", (0, 2, 3)),
        Output(image),
    )
    check(LoopSpec((n, c, h, w, b), (image,), body, outputs), threads, target, rtol=1e-5)


def test_threads_share_a_reduction_to_one_element() -> None:
    spec = reduction((100_000,), (0,), "sum", "f32")
    lowering = lower_loop(spec, target_named("host"), 4)
    assert len(lowering.phases) == 2
    x = np.ones(100_000, np.float32)
    results = []
    for _ in range(2):
        out = np.zeros(1, np.float32)
        run_lowering(lowering, [x, out], 4)
        results.append(out[0])
    assert results == [100_000, 100_000]


def test_different_axes_are_refused() -> None:
    a = Access("f32", (3, 1))
    body = region(lambda b, x: (x, x), "f32")
    outputs = (
        Output(Access("f32", (0, 1)), "sum", (0,)),
        Output(Access("f32", (1, 0)), "sum", (1,)),
    )
    with pytest.raises(NotImplementedError, match="different axes"):
        LoopSpec((3, 3), (a,), body, outputs)


def test_specs_are_equal_when_their_texts_are() -> None:
    one, two = (reduction((4, 5), (1,), "sum", "f32") for _ in range(2))
    other = region(lambda b, x: x * 1.5, "f32")
    assert one == two
    assert hash(one) == hash(two)
    assert one != LoopSpec(one.extents, one.inputs, other, one.outputs)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("n", [3, 16, 33, 5000])
def test_large_bodies(n: int, count: int, target: str) -> None:
    """Bodies that are written once and masked, and those whose vector math is called."""

    def body(b: Any, x: Any) -> Any:
        y = x
        for i in range(count):
            y = b.emit("exp", y * -0.25) * 0.5 + x * (0.1 * i)
        return y, y

    a = Access("f64", (1,))
    outputs = (Output(a), Output(Access("f64", (0,)), "sum", (0,)))
    check(LoopSpec((n,), (a,), region(body, "f64"), outputs), 2, target, rtol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "i32"])
def test_sums_of_products(dtype: str, target: str) -> None:
    x, row = Access(dtype, (77, 1)), Access(dtype, (0, 1))
    for axes, strides in (((1,), (1, 0)), ((0,), (0, 1)), ((0, 1), (0, 0))):
        out = Output(Access(dtype, strides), "sum", axes)
        body = region(lambda b, x, y: (x * y, x * y), dtype, dtype)
        rtol = {"f32": 1e-5, "f64": 1e-13, "f16": 4e-3}.get(dtype, 0.0)
        check(LoopSpec((40, 77), (x, row), body, (out, out)), 2, target, rtol=rtol)
        both = LoopSpec((40, 77), (x, row), body, (out, Output(Access(dtype, (77, 1)))))
        check(both, 1, target, rtol=rtol)
