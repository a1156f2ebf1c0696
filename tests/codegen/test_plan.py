"""Barriers and shared memory between the calls of a program."""

from __future__ import annotations

import pytest
from symgrad.codegen.compile import lower
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
