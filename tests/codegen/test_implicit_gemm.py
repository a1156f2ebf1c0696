"""Convolutions as products against sums over taps in float64."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels import Lowering, depthwise
from symgrad.codegen.kernels.implicit_gemm import (
    Convolution,
    forward,
    input_grad,
    lower_implicit,
    weight_grad,
)
from symgrad.codegen.lowering.epilogue import RegionEpilogue

from tests.codegen.harness import TARGETS, Array, run_lowering, target_named
from tests.codegen.regions import region

Axes = tuple[int, ...]
DTYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32}


@dataclass(frozen=True)
class Case:
    images: int
    inputs: int
    outputs: int
    size: Axes
    kernel: Axes
    stride: Axes
    padding: tuple[tuple[int, int], ...]
    dilation: Axes
    lhs_dilation: Axes
    groups: int = 1
    dtype: str = "f32"
    target: str = "host"

    @property
    def padded(self) -> Axes:
        """Spatial sizes of the dilated and padded input."""
        return tuple(
            (n - 1) * spread + 1 + sum(pad)
            for n, spread, pad in zip(self.size, self.lhs_dilation, self.padding, strict=True)
        )

    @property
    def out(self) -> Axes:
        return tuple(
            (n - (k - 1) * d - 1) // s + 1
            for n, k, d, s in zip(self.padded, self.kernel, self.dilation, self.stride, strict=True)
        )

    @property
    def convolution(self) -> Convolution:
        low = tuple(pad[0] for pad in self.padding)
        return Convolution(
            self.images, self.inputs, self.outputs, self.size, self.kernel, self.out,
            self.stride, low, self.dilation, self.lhs_dilation, self.groups,
        )  # fmt: skip

    def shapes(self) -> tuple[Axes, Axes, Axes]:
        """Of input, weight and output."""
        return (
            (self.images, self.inputs, *self.size),
            (self.outputs, self.inputs // self.groups, *self.kernel),
            (self.images, self.outputs, *self.out),
        )

    def sample(self) -> list[Array]:
        rng = np.random.default_rng(zlib.crc32(repr(self).encode()))
        if self.dtype == "i32":
            return [rng.integers(-99, 99, shape).astype(np.int32) for shape in self.shapes()]
        return [rng.standard_normal(shape).astype(DTYPES[self.dtype]) for shape in self.shapes()]

    def interior(self) -> tuple[slice, ...]:
        """Where the input lies in the padded input."""
        spatial = (
            slice(low, low + (n - 1) * spread + 1, spread)
            for n, spread, (low, _) in zip(self.size, self.lhs_dilation, self.padding, strict=True)
        )
        return slice(None), slice(None), *spatial

    def window(self, tap: Axes) -> tuple[slice, ...]:
        """The elements of the padded input that a tap of the kernel meets."""
        return tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, self.dilation, self.out, self.stride, strict=True)
        )

    def references(self, x: Array, w: Array, dy: Array) -> tuple[Array, Array, Array]:
        """The convolution and its two gradients, tap by tap."""
        x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
        padded = np.zeros((*x.shape[:2], *self.padded))
        padded[self.interior()] = x
        y, dw, dpadded = np.zeros(dy.shape), np.zeros(w.shape), np.zeros(padded.shape)
        inputs, outputs = self.inputs // self.groups, self.outputs // self.groups
        pixels = "xyz"[: len(self.size)]
        for group in range(self.groups):
            i = slice(group * inputs, (group + 1) * inputs)
            o = slice(group * outputs, (group + 1) * outputs)
            for tap in itertools.product(*map(range, self.kernel)):
                part = (slice(None), i, *self.window(tap))
                at = (o, slice(None), *tap)
                y[:, o] += np.einsum(f"nc{pixels},oc->no{pixels}", padded[part], w[at])
                dw[at] += np.einsum(f"no{pixels},nc{pixels}->oc", dy[:, o], padded[part])
                dpadded[part] += np.einsum(f"no{pixels},oc->nc{pixels}", dy[:, o], w[at])
        return y, dpadded[self.interior()], dw

    def products(self, threads: int) -> list[Lowering]:
        """Forward, input and weight gradient as matrix products."""
        ax, aw, ay = (Access(self.dtype, row_major(shape)) for shape in self.shapes())
        conv, target = self.convolution, target_named(self.target)
        specs = (
            forward(conv, ax, aw, ay),
            input_grad(conv, ay, aw, ax),
            weight_grad(conv, ax, ay, aw),
        )
        return [lower_implicit(spec, target, threads) for spec in specs]

    def depthwise(self) -> list[Lowering | None]:
        """The same as depthwise kernels, as far as there are any."""
        ax, aw, ay = (Access(self.dtype, row_major(shape)) for shape in self.shapes())
        spec = depthwise.forward(self.convolution, ax, aw, ay)
        back = depthwise.input_grad(self.convolution, ay, aw, ax)
        return [
            depthwise.lower_depthwise(spec),
            depthwise.lower_depthwise(back)
            if depthwise.suits_input_grad(self.convolution)
            else None,
            depthwise.lower_depthwise_weight_grad(spec),
        ]

    def check(self, threads: int, lowerings: list[Lowering | None] | None = None) -> None:
        x, w, dy = self.sample()
        arrays = [w, x, np.empty_like(dy)], [w, dy, np.empty_like(x)], [dy, x, np.empty_like(w)]
        target = target_named(self.target)
        runs = zip(
            lowerings or self.products(threads), arrays, self.references(x, w, dy), strict=True
        )
        for lowering, buffers, reference in runs:
            if lowering is None:
                continue
            run_lowering(lowering, buffers, threads, target)
            tolerance = {"f32": 3e-6, "f64": 1e-14, "i32": 0.0}[self.dtype]
            scale = np.abs(reference).max() + 1
            np.testing.assert_allclose(buffers[-1], reference, rtol=0, atol=tolerance * scale)


def dense(array: Array, dtype: str) -> Access:
    return Access(dtype, row_major(array.shape))


def random_case(seed: int, dtype: str, target: str) -> Case:
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))

    def axes(low: int, high: int) -> Axes:
        return tuple(int(v) for v in rng.integers(low, high, rank))

    groups = int(rng.choice([1, 1, 2, 3]))
    return Case(
        images=int(rng.integers(1, 4)),
        inputs=groups * int(rng.integers(1, 6)),
        outputs=groups * int(rng.integers(1, 20)),
        size=axes(6, (40, 19, 9)[rank - 1]),
        kernel=axes(1, 4),
        stride=axes(1, 4),
        padding=tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2))),
        dilation=axes(1, 3),
        lhs_dilation=axes(1, 3) if seed % 3 == 0 else (1,) * rank,
        groups=groups,
        dtype=dtype,
        target=target,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions(seed: int, target: str) -> None:
    dtype = ("f32", "f64", "f32", "i32")[seed % 4]
    random_case(100 * TARGETS.index(target) + seed, dtype, target).check(1 + seed % 3)


PLAIN: dict[str, Any] = {"dilation": (1, 1), "lhs_dilation": (1, 1)}


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 3, 8, (33, 35), (7, 7), (2, 2), ((3, 3), (3, 3)), **PLAIN),
        Case(1, 5, 70, (20, 50), (3, 3), (1, 1), ((1, 1), (1, 1)), **PLAIN),
        Case(3, 20, 33, (7, 7), (1, 1), (1, 1), ((0, 0), (0, 0)), **PLAIN),
        Case(2, 12, 12, (17, 19), (3, 3), (1, 1), ((1, 1), (1, 1)), **PLAIN, groups=12),
        Case(1, 6, 12, (15, 15), (5, 3), (2, 1), ((2, 2), (0, 2)), **PLAIN, groups=6),
        Case(2, 5, 4, (16, 20), (4, 4), (4, 4), ((0, 0), (0, 0)), **PLAIN),  # taps never meet twice
        Case(2, 5, 4, (15, 9), (1, 1), (2, 3), ((0, 0), (0, 0)), **PLAIN),  # pixels without a tap
        Case(1, 3, 7, (13, 12), (3, 4), (3, 2), ((2, 1), (1, 3)), (2, 4), (4, 2), dtype="f64"),
        Case(2, 4, 6, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), **PLAIN),
        Case(1, 40, 9, (30, 30), (3, 3), (1, 1), ((1, 1), (1, 1)), **PLAIN, dtype="f64"),
    ],
    ids=str,
)
def test_shapes(case: Case) -> None:
    for threads in (1, 2):
        case.check(threads)


@pytest.mark.parametrize("groups", [1, 2])
def test_epilogue(groups: int) -> None:
    """relu(conv + bias + residual)"""
    case = Case(2, 6, 8, (9, 11), (3, 3), (1, 1), ((1, 1), (1, 1)), **PLAIN, groups=groups)
    x, w, residual = case.sample()
    bias = np.arange(8, dtype=np.float32) - 4
    y = np.zeros_like(residual)

    def body(build: Any, total: Any, bias: Any, residual: Any) -> Any:
        shifted = build.emit("add", build.emit("add", total, bias), residual)
        return build.emit("maximum", shifted, build.emit("sub", bias, bias))

    epilogue = RegionEpilogue(
        (Access("f32", (0, 1, 0, 0)), dense(residual, "f32")),
        region(body, "f32", "f32", "f32"), 0, "f32",
    )  # fmt: skip
    accesses = (dense(a, "f32") for a in (x, w, y))
    spec = forward(case.convolution, *accesses, epilogue)
    target = target_named("host")
    run_lowering(lower_implicit(spec, target, 2), [w, x, bias, residual, y], 2, target)
    total = case.references(x, w, residual)[0] + bias[:, None, None] + residual
    np.testing.assert_allclose(y, np.maximum(total, 0), atol=2e-5)


def test_strided_operands() -> None:
    """Channels last in memory."""
    case = Case(2, 6, 8, (9, 11), (3, 3), (1, 1), ((1, 1), (1, 1)), **PLAIN)
    x, w, dy = (np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) for a in case.sample())
    y = np.zeros_like(dy)

    def strided(a: Array) -> Access:
        return Access("f32", tuple(s // a.itemsize for s in a.strides))

    spec = forward(case.convolution, strided(x), strided(w), strided(y))
    run_lowering(lower_implicit(spec, target_named("host"), 2), [w, x, y], 2)
    np.testing.assert_allclose(y, case.references(x, w, dy)[0], atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(6))
def test_random_depthwise(seed: int, target: str) -> None:
    dtype = ("f32", "f64", "i32")[seed % 3]
    case = random_case(1000 + 10 * TARGETS.index(target) + seed, dtype, target)
    channels, rank = 1 + seed, len(case.size)
    case = replace(
        case, inputs=channels, outputs=channels * (1 + seed % 2), groups=channels,
        lhs_dilation=(1,) * rank, stride=(1 + seed // 4,) * rank,
    )  # fmt: skip
    case.check(1 + seed % 3, case.depthwise())


@pytest.mark.parametrize("width", [1, 7, 16, 150])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_rows(width: int, stride: int) -> None:
    """Rows shorter than a vector, and long enough for a loop."""
    case = Case(2, 3, 3, (9, width), (5, 3), (stride, stride), ((2, 2), (1, 1)), **PLAIN, groups=3)
    assert depthwise.suits(case.convolution)
    case.check(2, case.depthwise())


def test_depthwise_epilogue() -> None:
    case = Case(2, 4, 8, (9, 150), (3, 3), (1, 1), ((1, 1), (1, 1)), **PLAIN, groups=4)
    x, w, residual = case.sample()
    y = np.zeros_like(residual)

    def body(build: Any, total: Any, residual: Any) -> Any:
        return build.emit("maximum", build.emit("add", total, residual), residual)

    epilogue = RegionEpilogue((dense(residual, "f32"),), region(body, "f32", "f32"), 0, "f32")
    accesses = (dense(a, "f32") for a in (x, w, y))
    lowering = depthwise.lower_depthwise(depthwise.forward(case.convolution, *accesses, epilogue))
    run_lowering(lowering, [w, x, residual, y], 3)
    total = case.references(x, w, residual)[0] + residual
    np.testing.assert_allclose(y, np.maximum(total, residual), atol=2e-5)
