"""Work of each thread of a large team, counted: no kernel runs and nothing is timed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Phase
from symgrad.codegen.kernels.gemm_schedule import Problem, schedule
from symgrad.codegen.kernels.matrix import Matrix
from symgrad.codegen.lower import lower
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.target import Target
from symgrad.ir import Func
from symgrad.ir.passes import optimize

import symgrad as sg
import symgrad.models
import symgrad.nn.functional
import symgrad.optim

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
        self.in_turn: list[int | None] = []
        """The same where a thread takes one task of each round."""
        self.in_grid: list[tuple[int, int]] = []
        """Tasks and parts of every division among a fixed number."""

    def slice(self, total: Int, tid: Int, nth: Int) -> tuple[Int, Int]:
        if isinstance(nth, Reg):
            self.among_threads.append(total if isinstance(total, int) else None)
        elif isinstance(total, int) and total:
            self.in_grid.append((total, nth))
        return super().slice(total, tid, nth)

    def loop(self, start: Int, stop: Int, step: Int = 1) -> AbstractContextManager[Reg]:
        if isinstance(step, Reg):
            self.in_turn.append(stop if isinstance(stop, int) else None)
        return super().loop(start, stop, step)


def busiest(phase: Phase, target: Target) -> float:
    """The work of the busiest thread relative to the mean, of a kernel that all call."""
    k = Watched(target)
    phase.emit(k, "kernel", phase.spec)
    if k.among_threads:
        return _evenly(k.among_threads[0], THREADS)
    worst = _evenly(k.in_turn[0], THREADS) if k.in_turn else 1.0
    for tasks, parts in k.in_grid[:4]:  # a product's: contraction, rows, columns, batch
        worst *= _evenly(tasks, parts)
    return worst


def _evenly(tasks: int | None, parts: int) -> float:
    """The largest part of so many equal tasks, relative to the mean."""
    return 1.0 if not tasks else -(-tasks // parts) * parts / tasks


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


def block_gradients() -> Func:
    """A GPT-2 block's gradients by its parameters and its input, 4 sequences of 128 tokens."""
    F, (batch, length, width, heads) = sg.nn.functional, (4, 128, 768, 12)

    def loss(p: Any, x: Any, ct: Any) -> Any:
        h = F.layer_norm(x, (width,), p["norm1"], p["shift1"])
        qkv = (h @ p["qkv"] + p["qkv_bias"]).reshape(batch, length, 3, heads, -1)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + a.transpose(0, 2, 1, 3).reshape(batch, length, width) @ p["out"]
        h = F.layer_norm(x, (width,), p["norm2"], p["shift2"])
        return ((x + F.gelu(h @ p["up"], approximate="tanh") @ p["down"]) * ct).sum()

    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("norm1", "norm2", "shift1", "shift2"), (width,)),
        "qkv": (width, 3 * width), "qkv_bias": (3 * width,), "out": (width, width),
        "up": (width, 4 * width), "down": (4 * width, width),
    }  # fmt: skip
    parameters = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    x = np.zeros((batch, length, width), np.float32)
    return optimize(sg.trace(sg.value_and_grad(loss, argnums=(0, 1)), parameters, x, x))


def mlp_step() -> Func:
    """A step of SGD with momentum on three layers, batch 128."""
    optimiser = sg.optim.SGD(lr=0.1, momentum=0.9)
    sizes = 784, 512, 512, 10
    parameters = {}
    for i, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        parameters[f"w{i}"] = np.zeros((outer, inner), np.float32)
        parameters[f"b{i}"] = np.zeros(outer, np.float32)

    def loss(p: Any, x: Any, y: Any) -> Any:
        for i in range(3):
            x = x @ p[f"w{i}"].T + p[f"b{i}"]
            x = np.maximum(x, 0) if i < 2 else x
        return sg.nn.functional.cross_entropy(x, y)

    def step(p: Any, momentum: Any, x: Any, y: Any) -> Any:
        value, gradients = sg.value_and_grad(loss)(p, x, y)
        return value, *optimiser.apply(p, gradients, momentum)

    x, y = np.zeros((128, 784), np.float32), np.zeros(128, np.int64)
    return optimize(sg.trace(step, parameters, optimiser.init(parameters), x, y))


PROGRAMS: dict[str, tuple[Callable[[], Func], float]] = {
    "ResNet-18, 8 @ 64": (lambda: training_step(8, 64), WITHIN),
    "ResNet-18, 8 @ 224": (lambda: training_step(8, 224), WITHIN),
    "transformer block": (block_gradients, WITHIN),
    # Of so little work the nests over ten classes, which are too short to share, are 12 %.
    "MLP": (mlp_step, 1.2),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_training_step_is_balanced_on_64_cores(program: str) -> None:
    make, within = PROGRAMS[program]
    total, lost = 0.0, Counter[str]()
    for label, work, part in phases(make(), Target.named("avx512")):
        total += work
        lost[label] += work * (part - 1)  # type: ignore[assignment]
    report = ", ".join(f"{label} {100 * part / total:.1f} %" for label, part in lost.most_common(6))
    assert total > 1e8
    assert 1 + sum(lost.values()) / total <= within, f"idle: {report}"
