"""Barriers and shared memory between the calls of a program."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen import plan
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.plan import barriers
from symgrad.codegen.storage import Buffer
from symgrad.ir import parse
from symgrad.ir.passes import optimize

import symgrad as sg

INDEPENDENT = """
func @sums(%p: f32[64], %q: f32[64,3]) -> (f32[], f32[64]) {
  %0: f32[] = reduce_sum %p {axes=(0,)}
  %1: f32[64] = reduce_sum %q {axes=(1,)}
  return %0, %1
}"""


@pytest.mark.parametrize(("donate", "expected"), [((), [False, False]), ((0,), [True, False])])
def test_a_result_waits_for_readers_of_the_parameter_it_overwrites(
    donate: tuple[int, ...], expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scope, "threads_for", lambda self, flops, bytes: self.threads)
    lowered = lower(optimize(parse(INDEPENDENT)), threads=2, donate=donate)
    assert lowered.homes == ({3: 0} if donate else {})
    assert barriers(lowered.calls) == expected


def test_only_one_result_takes_the_place_of_an_operand() -> None:
    """Also where the first to take it is not read by anyone: it is written all the same."""
    source, unread, kept = Buffer(64), Buffer(64), Buffer(64)
    calls: list[Any] = [
        SimpleNamespace(reads=(), writes=(source,), in_place=()),
        SimpleNamespace(
            reads=(source,), writes=(unread, kept), in_place=((unread, source), (kept, source))
        ),
        SimpleNamespace(reads=(kept,), writes=(), in_place=()),
    ]
    assert plan.place_buffers(calls) == 2 * plan.ALIGN
    assert unread.offset != kept.offset


@pytest.mark.parametrize("seed", range(8))
def test_lives_that_meet_get_disjoint_memory_at_the_lowest_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shelf = plan._Shelf(int(rng.integers(3)) * plan.ALIGN)
    placed: list[tuple[int, plan._Life]] = []

    def is_free(at: int, life: plan._Life) -> bool:
        return not any(
            life.overlaps(o) and at < start + max(plan.round_up(o.bytes), 1)
            and start < at + max(life.bytes, 1)
            for start, o in placed
        )  # fmt: skip

    for _ in range(120):
        first = int(rng.integers(40))
        life = plan._Life(int(rng.integers(1, 700)), first, first + int(rng.integers(12)), None)
        at = shelf.place(life)
        assert at >= shelf.base
        assert at % plan.ALIGN == 0
        assert is_free(at, life)
        assert not any(is_free(lower, life) for lower in range(shelf.base, at, plan.ALIGN))
        placed.append((at, life))
    assert shelf.top == max(at + plan.round_up(life.bytes) for at, life in placed)


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("(%x: f64[10]) -> (f64[10]) {\n %0: f64[10] = sin %x\n return %0\n}", True),
        ("(%x: f64[20000]) -> (f64[20000]) {\n %0: f64[20000] = sin %x\n return %0\n}", False),
        ("(%x: i8[200000]) -> (i8[200000]) {\n %0: i8[200000] = reverse %x {axes=(0,)}\n"
         " return %0\n}", False),
        ("(%x: f64[3,3]) -> (f64[3,3]) {\n %0: f64[3,3] = pinv %x {rtol=1e-15}\n"
         " return %0\n}", False),
    ],
    ids=["small", "flops", "bytes", "calls Python"],
)  # fmt: skip
def test_only_brief_programs_keep_the_interpreter_waiting(text: str, brief: bool) -> None:
    calls = lower(optimize(parse(f"func @f{text}")), threads=1).calls
    assert plan.is_brief(calls) == brief


def test_a_loop_is_as_long_as_its_steps() -> None:
    def steps(n: int) -> bool:
        f = sg.jit(lambda x: sg.fori_loop(0, n, lambda i, y: np.sin(y), x))
        return plan.is_brief(lower(f.optimized(0.5), threads=1).calls)

    assert steps(10)
    assert not steps(100_000)
