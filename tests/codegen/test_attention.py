"""Attention and its gradient: compiled against the interpreter's plain formulas."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.attention import in_turn
from symgrad.codegen.lower import kernel_text, lower
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.objects import emit_assembly
from symgrad.codegen.target import Target
from symgrad.ir import Builder, Func
from symgrad.ir.passes import optimize
from symgrad.ir.types import type_of_array

from symgrad import ir
from tests.codegen.harness import run_kernel, target_named

TOLERANCE = {"f2": 3e-3, "f4": 3e-5, "f8": 1e-12}
SHAPES = [  # batch, queries, keys, depth, width
    ((), 9, 5, 3, 4),
    ((2,), 64, 64, 64, 64),
    ((2, 3), 70, 133, 24, 17),
    ((), 200, 50, 40, 16),
    ((3,), 8, 1, 1, 1),
    ((5,), 33, 100, 8, 80),
]
Array = np.ndarray[Any, Any]
Case = tuple[Any, str, bool, str, int]


@pytest.fixture(autouse=True)
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares even tiny work among the threads."""
    monkeypatch.setattr(Scope, "threads_for", lambda self, flops, bytes: self.threads)


def cases() -> list[Case]:
    """Every shape and dtype; masks, causality and thread counts vary from one to the next."""
    variants = itertools.cycle(
        itertools.product((False, True), ("", "bool", "bias", "keys", "empty"), (1, 2, 3))
    )
    return [
        (shape, dtype, *next(variants))
        for shape in SHAPES
        for dtype in ("f4", "f8", "f4", "f8", "f2")
    ]


def built(name: str, operands: list[Array], *, causal: bool) -> Func:
    """The op on its own, between a transposition of each matrix: strides must not matter."""
    from symgrad.ir.ops import shape as sh

    builder = Builder(locations=False)
    params = [builder.param(type_of_array(a)) for a in operands]
    with builder:
        results = builder.emit(name, *params, scale=0.3, causal=causal)
        turned = [
            sh.transpose(r, axes=tuple(reversed(range(r.rank)))) if r.rank > 1 else r
            for r in results
        ]
    return builder.build([*results, *turned])


def operands_of(shape: Any, dtype: str, mask: str, rng: np.random.Generator) -> list[Array]:
    """q, k, v and a mask: boolean, added, the same for all queries, or with empty rows."""
    batch, queries, keys, depth, width = shape
    sizes = (*batch, queries, depth), (*batch, keys, depth), (*batch, keys, width)
    found = [rng.normal(size=s).astype(dtype) for s in sizes]
    scores = (*batch, queries, keys)
    if mask == "bias":
        found.append(rng.normal(size=scores).astype(dtype))
    elif mask == "keys":
        found.append(np.broadcast_to(rng.random((*batch, 1, keys)) < 0.7, scores).copy())
    elif mask:
        found.append(rng.random(scores) < (0.6 if mask == "bool" else 0.1))
    return found


def check(func: Func, operands: list[Array], tolerance: float, threads: int, target: Any) -> None:
    got = compile_func(optimize(func), threads=threads, target=target)(operands)
    for actual, expected in zip(got, ir.interpret(func, operands), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_against_the_formulas(case: Case) -> None:
    shape, dtype, causal, mask, threads = case
    run_case(shape, dtype, causal, mask, threads, None)


@pytest.mark.parametrize("dtype", ["bool", "f4"])
@pytest.mark.parametrize("lies", ["by keys", "one row", "one column", "every other"])
def test_masks_of_any_strides(lies: str, dtype: str) -> None:
    """The mask as a view: only one whose rows are contiguous is transposed before its use."""
    from symgrad.ir.ops import shape as sh

    queries, keys = 70, 133
    rng = np.random.default_rng(1)
    shape = {
        "by keys": (keys, queries), "one row": (keys,), "one column": (queries,),
        "every other": (queries, 2 * keys),
    }[lies]  # fmt: skip
    raw = rng.normal(size=shape).astype("f4")
    operands = [*operands_of(((), queries, keys, 24, 17), "f4", "", rng)]
    operands.append(raw > -0.5 if dtype == "bool" else raw)
    builder = Builder(locations=False)
    q, k, v, given = (builder.param(type_of_array(a)) for a in operands)
    with builder:
        mask: Any = {
            "by keys": lambda: sh.transpose(given, axes=(1, 0)),
            "one row": lambda: sh.broadcast_to(given, shape=(queries, keys), axes=(1,)),
            "one column": lambda: sh.broadcast_to(given, shape=(queries, keys), axes=(0,)),
            "every other": lambda: sh.slice_(
                given, start=(0, 0), stop=(queries, 2 * keys), step=(1, 2)
            ),
        }[lies]()
        results = builder.emit("attention", q, k, v, mask, scale=0.3, causal=False)
    check(builder.build(results), operands, TOLERANCE["f4"], 2, None)


@pytest.mark.parametrize("target", ["avx2", "x86-64"])
@pytest.mark.parametrize("mask", ["", "bool"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_other_targets(dtype: str, mask: str, target: str) -> None:
    run_case(SHAPES[2], dtype, not mask, mask, 2, target_named(target))


def run_case(shape: Any, dtype: str, causal: bool, mask: str, threads: int, target: Any) -> None:
    """The forward op, then its gradient with what the forward op leaves."""
    rng = np.random.default_rng(0)
    operands = operands_of(shape, dtype, mask, rng)
    func = built("attention", operands, causal=causal)
    check(func, operands, TOLERANCE[dtype], threads, target)
    out, lse, *_ = ir.interpret(func, operands)
    ct = rng.normal(size=out.shape).astype(dtype)
    delta = (ct.astype(lse.dtype) * out.astype(lse.dtype)).sum(-1)
    operands = [ct, *operands[:3], lse, delta, *operands[3:]]
    func = built("attention_grad", operands, causal=causal)
    check(func, operands, TOLERANCE[dtype], threads, target)


def test_neon_compiles() -> None:
    rng = np.random.default_rng(0)
    operands = operands_of(SHAPES[1], "f4", "", rng)
    func = built("attention", operands, causal=True)
    target = Target.named("neon")
    for call in lower(optimize(func), target=target, threads=2).calls:
        text = kernel_text(call.phase.emit, call.phase.spec, "kernel", target)
        assert "fmla" in emit_assembly(text, target) or call.phase.label != "attention"


def test_scores_are_no_array() -> None:
    """The memory of a program is far below that of its scores."""
    operands = operands_of(((2,), 1024, 1024, 16, 16), "f4", "", np.random.default_rng(0))
    lowered = lower(optimize(built("attention", operands, causal=False)), threads=2)
    assert lowered.arena_bytes < 1 << 20 < 4 * 2 * 1024 * 1024


def test_large_scores_do_not_overflow() -> None:
    q = np.full((16, 4), 100.0, np.float32)
    k = np.linspace(-100, 100, 64, dtype=np.float32).reshape(16, 4)
    func = built("attention", [q, k, k], causal=False)
    check(func, [q, k, k], 1e-4, 1, None)


@pytest.mark.parametrize(("tasks", "threads"), [(0, 2), (1, 3), (11, 3), (12, 2), (128, 64)])
def test_tasks_in_turn_are_done_once_and_evenly(tasks: int, threads: int) -> None:
    """Task ``i`` taking time ``i``, no thread has more than one task's more than another."""
    done = np.full((max(tasks, 1), 1), -1, np.int64)

    def emit(k: Emitter, name: str) -> None:
        with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
            times = k.load("ptr", k.gep(args, 0, "ptr"))
            with in_turn(k, tasks, tid, nth) as task:
                slot = k.gep(times, task, "i64")
                untouched = k.icmp("eq", k.load("i64", slot), -1)
                k.store(k.select(untouched, tid, k.as_reg(1000)), slot)

    run_kernel(emit, [done], threads=threads)
    owners = done[:tasks, 0]
    assert ((owners >= 0) & (owners < threads)).all()
    work = np.bincount(owners, weights=np.arange(tasks), minlength=threads)
    assert not tasks or np.ptp(work) <= tasks
