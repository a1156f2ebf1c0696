"""How nests are scheduled: pure decisions, no code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, identity_body, lower_loop
from symgrad.codegen.kernels.loop_schedule import (
    SUM_RUN,
    describe,
    normalise,
    schedule,
    values_alive,
)
from symgrad.codegen.target import Target

from tests.codegen.harness import run_lowering
from tests.codegen.regions import region

WIDE, NARROW = Target.named("avx512"), Target.named("x86-64")


def copy(extents: tuple[int, ...], source: Access, result: Access) -> LoopSpec:
    return LoopSpec(extents, (source,), identity_body(source.dtype), (Output(result),))


def dense(*shape: int, dtype: str = "f32") -> Access:
    return Access(dtype, row_major(shape))


def extents(spec: LoopSpec) -> list[int]:
    return [d.extent for d in normalise(spec)[0]]


def test_contiguous_arrays_are_one_dimension() -> None:
    a = dense(4, 1, 5, 6)
    assert extents(copy((4, 1, 5, 6), a, a)) == [120]


def test_a_broadcast_row_keeps_two_dimensions() -> None:
    body = region(lambda b, x, y: x + y, "f32", "f32")
    row = Access("f32", (0, 0, 1))
    spec = LoopSpec((4, 5, 6), (dense(4, 5, 6), row), body, (Output(dense(4, 5, 6)),))
    assert sorted(extents(spec)) == [6, 20]


def test_equally_permuted_arrays_are_one_dimension() -> None:
    turned = Access("f32", (1, 7, 35))
    assert extents(copy((7, 5, 3), turned, turned)) == [105]


def test_arrays_that_run_backwards_together_run_forwards() -> None:
    back = Access("f32", (-1,), 99)
    dims, offsets = normalise(copy((100,), back, back))
    assert (dims[0].strides, offsets) == ((1, 1), [0, 0])


def test_lanes_lie_along_contiguous_elements() -> None:
    plan = schedule(copy((50, 40), Access("f32", (41, 1)), dense(50, 40)), WIDE, 1)
    assert plan.loops[plan.vector].extent == 40
    assert (plan.lanes, plan.tile) == (16, None)


def test_transposes_go_through_square_tiles() -> None:
    plan = schedule(copy((100, 100), Access("f32", (1, 100)), dense(100, 100)), WIDE, 1)
    assert plan.tile is not None
    assert plan.loops[plan.tile].unroll == plan.lanes == 16
    assert plan.outputs[0].strides[plan.vector] == plan.inputs[0].strides[plan.tile] == 1


@pytest.mark.parametrize("target", [WIDE, NARROW])
def test_short_rows_take_short_vectors(target: Target) -> None:
    plan = schedule(copy((1000, 7), Access("f32", (8, 1)), Access("f32", (9, 1))), target, 1)
    assert plan.lanes == (8 if target.has_masks else 4)


def test_channel_blocks_are_hoisted() -> None:
    """Per-channel factors of a blocked image load outside the loops over pixels."""
    image, channel = Access("f32", (12800, 1600, 160, 16, 1)), Access("f32", (0, 16, 0, 0, 1))
    body = region(lambda b, x, y: x * y, "f32", "f32")
    spec = LoopSpec((2, 8, 8, 8, 16), (image, channel), body, (Output(image),))
    plan = schedule(spec, WIDE, 1)
    assert plan.is_single(plan.vector)
    loops = [i for i in range(len(plan.loops)) if not plan.is_single(i)]
    assert [bool(plan.inputs[1].strides[i]) for i in loops] == [False, True, False]


def test_sums_run_in_short_runs() -> None:
    out = Output(Access("f32", (0,)), "sum", (0,))
    spec = LoopSpec((10_000_000,), (dense(10_000_000),), identity_body("f32"), (out,))
    plan = schedule(spec, WIDE, 1)
    assert 0 < plan.loops[0].chunk <= SUM_RUN
    whole = LoopSpec((10_000_000,), (dense(10_000_000, dtype="i64"),), identity_body("i64"),
                     (Output(Access("i64", (0,)), "sum", (0,)),))  # fmt: skip
    assert schedule(whole, WIDE, 1).loops[0].chunk == 0


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("shape", [(100_000,), (64, 3000), (3, 50_000), (2, 4, 56, 900)])
def test_threads_are_kept_busy(shape: tuple[int, ...], threads: int) -> None:
    padded = Access("f32", row_major([n + 1 for n in shape]))
    plan = schedule(
        LoopSpec(shape, (padded,), identity_body("f32"), (Output(dense(*shape)),), threads),
        WIDE, threads,
    )  # fmt: skip
    assert plan.balance > 0.75
    assert np.prod([loop.extent for loop in plan.loops]) == np.prod(shape)


@pytest.mark.parametrize("threads", [6, 64])
def test_parts_of_a_sum_are_shared_together_with_what_is_kept(threads: int) -> None:
    """Per-channel sums of few channel blocks: neither alone gives all threads work."""
    shape = (4, 3, 40, 40, 16)
    result = Access("f32", (0, 16, 0, 0, 1))
    output = Output(result, "sum", (0, 2, 3))
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    spec = LoopSpec(shape, (dense(*shape),), identity_body("f32"), (output,))
    lowering = lower_loop(spec, Target.host(), threads)
    assert [phase.label for phase in lowering.phases] == ["parts", "join"]
    assert lowering.phases[0].spec.split[1] < threads
    for team in (threads, 3):
        total = np.zeros((3, 16), np.float32)
        run_lowering(lowering, [x, total], team)
        np.testing.assert_allclose(total, x.sum((0, 2, 3), np.float64), rtol=1e-4, atol=1e-3)


def test_small_nests_run_on_one_thread() -> None:
    plan = schedule(copy((64,), dense(64), dense(64)), WIDE, 8)
    assert plan.parallel == (0, 0)


def test_large_bodies_are_written_once() -> None:
    def body(b: Any, x: Any) -> Any:
        return b.emit("sin", b.emit("exp", b.emit("log", b.emit("tanh", b.emit("erf", x)))))

    spec = LoopSpec((1001,), (dense(1001),), region(body, "f32"), (Output(dense(1001)),))
    assert schedule(spec, WIDE, 1).one_copy
    assert not schedule(spec, NARROW, 1).one_copy


def test_vectors_take_several_registers_where_there_are_enough() -> None:
    """A long chain does; not a body whose values do not fit into the registers even once."""

    def chain(b: Any, x: Any) -> Any:
        for _ in range(40):
            x = x * 0.5 + x
        return x

    def crowd(b: Any, x: Any) -> Any:
        many = [x * (i + 0.5) for i in range(40)]
        for y in many:
            x = x * y
        return x

    array = dense(1000, dtype="f64")
    for build, alive, registers in ((chain, 2, 2), (crowd, 42, 1)):
        body = region(build, "f64")
        spec = LoopSpec((1000,), (array,), body, (Output(array),))
        assert values_alive(body) in range(alive, alive + 2)
        assert schedule(spec, WIDE, 1).lanes == registers * WIDE.lanes(8)


def test_schedules_read_as_loops() -> None:
    out = Output(Access("f32", (0, 1)), "sum", (0,))
    spec = LoopSpec((300, 100), (dense(300, 100),), identity_body("f32"), (out,))
    assert describe(schedule(spec, WIDE, 1)).splitlines() == [
        "block i0 in 100:  # 7 x 16 lanes",
        "  for i1 in 300:  # reduced",
    ]
    turned = copy((128, 192), Access("f32", (1, 128)), dense(128, 192))
    assert describe(schedule(turned, WIDE, 2)).splitlines() == [
        "for i0 in 128:  # register tile, shared by the threads",
        "  for i1 in 192:  # 1 x 16 lanes",
    ]
