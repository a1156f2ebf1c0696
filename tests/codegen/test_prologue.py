"""Kernel calls that depend on invariant parameters alone: which they are, when they run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.image import Image
from symgrad.codegen.lower import lower
from symgrad.codegen.runtime.resident import State
from symgrad.codegen.target import Target
from symgrad.ir import Func, interpret
from symgrad.ir.parser import parse
from symgrad.ir.passes import optimize

PRODUCTS = """func @f(%a: f32[40,40], %b: f32[40,40], %x: f32[40,40]) -> (f32[40,40], f32[40,40]) {
  %0: f32[40,40] = dot_general %a, %b {lhs_contract=(1,), rhs_contract=(0,)}
  %1: f32[40,40] = dot_general %0, %x {lhs_contract=(1,), rhs_contract=(0,)}
  %2: f32[40,40] = dot_general %b, %b {lhs_contract=(1,), rhs_contract=(0,)}
  return %1, %2
}"""
CONVOLUTION = """func @f(%x: f32[8,32,56,56], %w: f32[32,32,3,3]) -> (f32[8,32,56,56]) {
  %0: f32[8,32,56,56] = conv %x, %w {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), \
lhs_dilation=(1, 1), groups=1}
  return %0
}"""

Arrays = list[np.ndarray[Any, Any]]


def arrays(func: Func, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in func.param_types]


def state(*invariant: int) -> State:
    return State(invariant=frozenset(invariant))


@pytest.mark.parametrize(
    ("invariant", "before"), [((), 0), ((0,), 0), ((1,), 0), ((0, 1), 1), ((0, 2), 0)]
)
def test_calls_are_split_by_what_they_depend_on(invariant: tuple[int, ...], before: int) -> None:
    """The first product is of a and b; the third is, too, but a result of the function."""
    lowered = lower(optimize(parse(PRODUCTS)), threads=2, state=state(*invariant))
    assert len(lowered.prologue.calls if lowered.prologue else ()) == before
    assert len(lowered.every_call) == 3
    if lowered.prologue:
        assert lowered.prologue.kept_bytes == 40 * 40 * 4
        assert lowered.prologue.invariant == invariant
    else:
        assert lowered.arena_bytes >= 40 * 40 * 4


def test_donated_parameters_are_not_invariant() -> None:
    lowered = lower(optimize(parse(PRODUCTS)), threads=1, donate=(0,), state=state(0, 1))
    assert lowered.prologue is None


@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_transformed_filters_are_kept(target: str) -> None:
    func = optimize(parse(CONVOLUTION))
    both = frozenset((1,))
    options: dict[str, Any] = {"target": Target.named(target), "threads": 2}
    kept = lower(func, state=State(both, frozenset(), both), **options)
    assert kept.prologue and [n.rsplit("_", 1)[0] for n in kept.prologue.names] == [
        "winograd_filter"
    ]
    assert not any("filter" in name for name in kept.names)
    plain = lower(func, state=State(both), **options)
    assert plain.prologue is None


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_of_the_prologue(threads: int) -> None:
    """It runs without a stamp, with the first, and with another; then the results are new."""
    func = parse(PRODUCTS)
    program = compile_func(optimize(func), threads=threads, state=state(0, 1))
    assert program.invariant == (0, 1)
    first, second = arrays(func, 1), arrays(func, 2)

    def check(given: Arrays, stamp: Any, expected: Arrays) -> None:
        wanted = interpret(func, expected)
        for made, value in zip(program.run(given, stamp), wanted, strict=True):
            np.testing.assert_allclose(made, value, rtol=1e-4, atol=1e-4)

    a, b = object(), object()
    check(first, (a, b), first)
    check([*first[:2], second[2]], (a, b), [*first[:2], second[2]])
    check(second, (b, a), second)
    check(first, (a, b), first)
    check(second, None, second)
    check(first, None, first)
    # What a stamp promises is believed: this shows that the prologue does not run.
    check(second, (a, b), second)
    mixed = program.run([*first[:2], second[2]], (a, b))
    np.testing.assert_allclose(mixed[0], interpret(func, second)[0], rtol=1e-4, atol=1e-4)


def test_no_copy_of_an_argument_is_remembered() -> None:
    """An array in another order is copied for every run, and the copy is gone afterwards."""
    func = parse(PRODUCTS)
    program = compile_func(optimize(func), threads=1, state=state(0, 1))
    given = arrays(func, 1)
    given[1] = np.asfortranarray(given[1])
    stamp = (object(), object())
    for seed in range(5):
        given[2] = arrays(func, seed)[2]
        for made, wanted in zip(program.run(given, stamp), interpret(func, given), strict=True):
            np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4)


def test_programs_as_bytes() -> None:
    program = compile_func(optimize(parse(PRODUCTS)), threads=2, state=state(0, 1))
    restored = Image.from_bytes(program.image.to_bytes())
    assert restored.prologue == program.image.prologue
    assert restored.steps == program.image.steps
    assert program.memory["kept"] == 40 * 40 * 4
    assert restored.kernels == program.image.kernels


def test_threads_with_other_parameters_do_not_meet() -> None:
    func = parse(PRODUCTS)
    program = compile_func(optimize(func), threads=2, state=state(0, 1))
    failures: list[int] = []

    def work(seed: int) -> None:
        given, stamp = arrays(func, seed), (object(), object())
        alone = compile_func(optimize(func), threads=2, state=state(0, 1))
        wanted = [result.copy() for result in alone(given)]
        for _ in range(200):
            made = program.run(given, stamp)
            if not all(map(np.array_equal, made, wanted)):
                failures.append(seed)

    team = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not failures
