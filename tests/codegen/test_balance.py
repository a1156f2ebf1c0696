"""Work of each thread of a large team, counted: no kernel runs and nothing is timed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter, Int, Reg
from symgrad.codegen.kernels import Phase
from symgrad.codegen.kernels.gemm_schedule import Problem, schedule
from symgrad.codegen.kernels.matrix import Matrix
from symgrad.codegen.lower import lower
from symgrad.codegen.target import Target
from symgrad.ir import Func
from symgrad.ir.passes import optimize

import symgrad as sg
import symgrad.models
import symgrad.nn.functional

THREADS = 64
WITHIN = 1.10
"""The most that a thread may do, relative to the mean."""


def shares(total: int, tile: int, parts: int) -> list[int]:
    """Elements that fall to each part of an axis cut into tiles, as ``Emitter.slice`` deals."""
    tiles = -(-total // tile)
    edges = [min(tiles * i // parts * tile, total) for i in range(parts + 1)]
    return [high - low for low, high in itertools.pairwise(edges)]


@pytest.mark.parametrize("target", ["avx512", "neon"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("n", [512, 768, 1000, 1024, 2048, 4096])
def test_products_are_balanced_on_64_cores(n: int, dtype: str, target: str) -> None:
    square = Matrix.of(Access(dtype, (n, 1)), (), (n,), (n,))
    cut = schedule(Problem(1, n, n, n, square, square, True, THREADS), Target.named(target))
    rows = shares(n, cut.mr, cut.grid[1])
    columns = shares(n, cut.nr, cut.grid[2])
    work = [r * c for r in rows for c in columns]
    assert len(work) == THREADS
    assert sum(work) == n * n
    assert max(work) * THREADS <= WITHIN * n * n


class Watched(Emitter):
    """Notes how the kernel that is written to it divides its tasks."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.among_threads: list[int | None] = []
        """Tasks (``None``: known at run time) of every division among all threads."""
        self.in_grid: list[tuple[int, int]] = []
        """Tasks and parts of every division among a fixed number."""

    def slice(self, total: Int, tid: Int, nth: Int) -> tuple[Int, Int]:
        if isinstance(nth, Reg):
            self.among_threads.append(total if isinstance(total, int) else None)
        elif isinstance(total, int) and total:
            self.in_grid.append((total, nth))
        return super().slice(total, tid, nth)


def busiest(phase: Phase, target: Target) -> float:
    """The work of the busiest thread relative to the mean, of a kernel that all call."""
    k = Watched(target)
    phase.emit(k, "kernel", phase.spec)
    if k.among_threads:
        tasks = k.among_threads[0]
        return 1.0 if tasks is None else -(-tasks // THREADS) * THREADS / tasks
    worst, parts = 1.0, 1
    for tasks, shares in k.in_grid[:4]:  # a product's: contraction, rows, columns, batch
        worst *= -(-tasks // shares) * shares / tasks
        parts *= shares
    return worst * THREADS / min(parts, THREADS)


def training_step(batch: int, size: int) -> Func:
    """ResNet-18's loss with all gradients."""
    model = sg.models.resnet18(num_classes=10).train()
    parameters, state = sg.nn.arrays(model)

    def loss(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        logits, state = sg.nn.functional_call(model, parameters, state, x)
        return sg.nn.functional.cross_entropy(logits, y), state

    x, y = np.zeros((batch, 3, size, size), np.float32), np.zeros(batch, np.int64)
    return optimize(sg.trace(sg.value_and_grad(loss, has_aux=True), parameters, state, x, y))


def phases(func: Func, target: Target) -> Iterator[tuple[str, float, float]]:
    """Label, work and the busiest thread's part (1: the mean) of each kernel call.

    Work is arithmetic or traffic, whichever takes a thread longer at 12 operations a byte.
    """
    known: dict[Any, float] = {}
    for call in lower(func, target=target, threads=THREADS).calls:
        key = call.phase.emit, call.phase.spec
        if call.parallel and key not in known:
            known[key] = busiest(call.phase, target)
        work = max(call.flops, 12 * call.bytes)
        yield call.phase.label, work, known[key] if call.parallel else THREADS


@pytest.mark.parametrize("size", [64, 224])
def test_a_training_step_is_balanced_on_64_cores(size: int) -> None:
    total, lost = 0.0, Counter[str]()
    for label, work, part in phases(training_step(8, size), Target.named("avx512")):
        total += work
        lost[label] += work * (part - 1)  # type: ignore[assignment]
    report = ", ".join(f"{label} {100 * part / total:.1f} %" for label, part in lost.most_common(6))
    assert total > 1e9
    assert 1 + sum(lost.values()) / total <= WITHIN, f"idle: {report}"
