"""Barriers and shared memory between the calls of a program."""

from __future__ import annotations

import numpy as np
import pytest
from symgrad.codegen import plan
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.plan import barriers
from symgrad.ir import parse
from symgrad.ir.passes import optimize

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


@pytest.mark.parametrize("seed", range(8))
def test_lives_that_meet_get_disjoint_memory_at_the_lowest_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shelf = plan._Shelf(int(rng.integers(3)) * plan.ALIGN)
    placed: list[tuple[int, plan._Life]] = []

    def is_free(at: int, life: plan._Life) -> bool:
        return not any(
            life.overlaps(o) and at < start + max(plan._round_up(o.bytes), 1)
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
    assert shelf.top == max(at + plan._round_up(life.bytes) for at, life in placed)
