"""Pooling kernels against the NumPy definitions of the ops."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import Blocked
from symgrad.codegen.kernels.pool import PoolSpec, emit_pool

from tests.codegen.harness import TARGETS, Array, run_kernel, target_named

DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16}
OPS = ("window_sum", "window_max", "window_sum_grad", "window_max_gather", "window_max_scatter")
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    channels: int
    spatial: Sizes
    window: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    layout: str = "plain"
    dtype: str = "f32"
    ties: bool = False
    nans: bool = False

    @property
    def out(self) -> Sizes:
        facts = zip(
            self.spatial, self.window, self.stride, self.padding, self.dilation, strict=True
        )
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in facts)


def pool(case: Case, op: str, x: Array, v: Array, dy: Array) -> Array:
    """The op by loops over windows and taps, in float64."""
    y = np.zeros(dy.shape)
    dx = np.zeros(x.shape)
    for at in np.ndindex(dy.shape):
        lead, position = at[:2], at[2:]
        inside = []
        for tap in itertools.product(*map(range, case.window)):
            place = tuple(
                o * s - p + t * d
                for o, s, p, t, d in zip(
                    position, case.stride, case.padding, tap, case.dilation, strict=True
                )
            )
            if all(0 <= q < n for q, n in zip(place, case.spatial, strict=True)):
                inside.append(lead + place)
        values = np.array([x[i] for i in inside])
        if op == "window_sum":
            y[at] = values.sum()
        elif op == "window_sum_grad":
            for i in inside:
                dx[i] += dy[at]
        else:
            first = inside[int(np.argmax(values))]
            if op == "window_max_scatter":
                dx[first] += dy[at]
            else:
                y[at] = (x if op == "window_max" else v)[first]
    return dx if op in ("window_sum_grad", "window_max_scatter") else y


class Layout:
    """Turns plain arrays into buffers of a layout, and back."""

    def __init__(self, case: Case, shape: Sizes) -> None:
        self.shape, self.dtype = shape, DTYPES[case.dtype]
        n, c, *spatial = shape
        self.kind = case.layout
        if self.kind == "blocked":
            blocked = Blocked.dense(case.dtype, (n, c, *spatial), ((2, 1), (1, 3)))
            self.buffer_shape, self.access = blocked.buffer_shape, blocked.access
            self.outer, self.trailing = (n, blocked.blocks), blocked.block
        elif self.kind == "channels_last":
            self.buffer_shape = (n, *spatial, c)
            self.access = Access(case.dtype, row_major(self.buffer_shape))
            self.outer, self.trailing = (n,), c
        else:
            self.buffer_shape = shape
            self.access = Access(case.dtype, (*row_major(shape), 1))
            self.outer, self.trailing = (n, c), 1

    def view(self, buffer: Array) -> Array:
        """The elements as [N, C, spatial], writable where NumPy can."""
        if self.kind == "blocked":
            h, w = self.shape[2:]
            inner = buffer[:, :, 2 : 2 + h, 1 : 1 + w]
            return np.asarray(inner.transpose(0, 1, 4, 2, 3))
        if self.kind == "channels_last":
            return np.moveaxis(buffer, -1, 1)
        return buffer

    def fill(self, values: Array) -> Array:
        buffer = np.full(self.buffer_shape, 7, self.dtype)
        view = self.view(buffer)
        view[...] = values.reshape(view.shape)
        return buffer

    def read(self, buffer: Array) -> Array:
        return self.view(buffer).reshape(self.shape)


CASES = [
    Case(3, (9, 37), (3, 3), (2, 2), (1, 1), (1, 1)),
    Case(2, (5, 40), (2, 3), (1, 1), (0, 1), (2, 1)),
    Case(32, (7, 5), (3, 3), (2, 2), (1, 1), (1, 1), "blocked"),
    Case(16, (5, 6), (2, 2), (1, 3), (1, 0), (2, 1), "blocked"),
    Case(5, (4, 6), (4, 6), (1, 1), (0, 0), (1, 1), "blocked"),
    Case(6, (5, 5), (3, 2), (2, 1), (1, 1), (1, 1), "channels_last"),
    Case(3, (70,), (5,), (1,), (2,), (1,)),
    Case(2, (3, 4, 19), (2, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1)),
    Case(1, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case(2, (6, 33), (3, 3), (1, 1), (1, 1), (1, 1), ties=True),
    Case(16, (6, 6), (3, 3), (2, 2), (1, 1), (1, 1), "blocked", ties=True),
    Case(32, (9, 12), (3, 3), (2, 2), (1, 1), (1, 1), "blocked", nans=True),
    Case(2, (7, 45), (2, 3), (2, 1), (1, 1), (1, 2), nans=True),
    Case(16, (2, 9), (3, 3), (1, 1), (1, 1), (1, 1), "blocked"),  # no window lies inside
    Case(16, (9, 7), (2, 4), (3, 2), (1, 3), (2, 1), "blocked"),
    Case(2, (5, 21), (3, 3), (1, 1), (1, 1), (1, 1), dtype="f64"),
    Case(16, (6, 5), (2, 2), (2, 2), (0, 0), (1, 1), "blocked", "f64"),
    Case(2, (4, 18), (2, 2), (2, 2), (0, 0), (1, 1), dtype="f16"),
]


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pool(case: Case, target_name: str) -> None:
    target = target_named(target_name)
    rng = np.random.default_rng(zlib.crc32(repr(case).encode()))
    shape, out = (2, case.channels, *case.spatial), (2, case.channels, *case.out)
    # Small integers: sums are exact in every dtype and order.
    spread = 2 if case.ties else 50
    x, v = (rng.integers(-spread, spread, shape).astype(np.float64) for _ in range(2))
    dy = rng.integers(-9, 10, out).astype(np.float64)
    if case.nans:
        x[rng.random(shape) < 0.2] = np.nan
    inputs, outputs = Layout(case, shape), Layout(case, out)
    for op in OPS:
        operands = {
            "window_max_gather": [(inputs, x), (inputs, v)],
            "window_max_scatter": [(inputs, x), (outputs, dy)],
            "window_sum_grad": [(outputs, dy)],
        }.get(op, [(inputs, x)])
        result = inputs if op in ("window_max_scatter", "window_sum_grad") else outputs
        accesses = (*(layout.access for layout, _ in operands), result.access)
        spec = PoolSpec(
            op, inputs.outer, case.spatial, case.out, inputs.trailing,
            case.window, case.stride, case.padding, case.dilation, accesses,
        )  # fmt: skip
        expected = pool(case, op, x, v, dy)
        for threads in (1, 3):
            buffers = [layout.fill(values) for layout, values in operands]
            target_buffer = result.fill(np.full(expected.shape, np.nan))
            untouched = result.fill(np.zeros(expected.shape))

            def emit(k: Emitter, name: str, spec: PoolSpec = spec) -> None:
                emit_pool(k, name, spec)

            run_kernel(emit, [*buffers, target_buffer], threads, target=target)
            np.testing.assert_array_equal(result.read(target_buffer), expected, err_msg=op)
            result.view(target_buffer)[...] = 0
            np.testing.assert_array_equal(target_buffer, untouched, err_msg=f"{op}: edges")


def test_nan_wins() -> None:
    x = np.array([[[[1, np.nan, 3, np.nan, -np.inf, -np.inf]]]], np.float32)
    access = Access("f32", (*row_major(x.shape), 1))
    y, v = np.zeros((1, 1, 1, 3), np.float32), np.arange(6, dtype=np.float32).reshape(x.shape)
    out = Access("f32", (*row_major(y.shape), 1))
    facts = ((1, 1), (1, 6), (1, 3), 1, (1, 2), (1, 2), (0, 0), (1, 1))
    maximum = PoolSpec("window_max", *facts, (access, out))
    run_kernel(lambda k, name: emit_pool(k, name, maximum), [x, y])
    np.testing.assert_array_equal(y.ravel(), [np.nan, np.nan, -np.inf])
    gather = PoolSpec("window_max_gather", *facts, (access, access, out))
    run_kernel(lambda k, name: emit_pool(k, name, gather), [x, v, y])
    np.testing.assert_array_equal(y.ravel(), [1, 3, 4])
