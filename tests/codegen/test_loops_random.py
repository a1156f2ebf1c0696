"""Random loop nests against NumPy: any strides, dtypes, reductions, threads and targets."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels import loop_schedule
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, lower_loop
from symgrad.ir.types import DTYPES

from tests.codegen.harness import TARGETS, run_lowering, target_named
from tests.codegen.loop_reference import expected
from tests.codegen.regions import region
from tests.codegen.test_loops import buffer_for

SIZES = (1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 32, 33, 40, 64, 100)
INPUTS = ("f32", "f32", "f64", "i32", "i8", "i64", "f16", "bool")


def random_access(
    rng: random.Random, dtype: str, extents: tuple[int, ...], *, dense: bool
) -> Access:
    """Permuted, padded, spread out, partly broadcast (unless ``dense``) and reversed."""
    order = list(range(len(extents)))
    if rng.random() < 0.4:
        rng.shuffle(order)
    strides, offset = [0] * len(extents), rng.choice([0, 0, 5])
    step = rng.choice([1, 1, 1, 1, 2, 3])
    for d in reversed(order):
        if not dense and rng.random() < 0.25:
            continue
        strides[d] = step
        step *= max(1, extents[d]) + rng.choice([0, 0, 0, 1, 2])
        if rng.random() < 0.15 and extents[d]:
            offset += strides[d] * (extents[d] - 1)
            strides[d] = -strides[d]
    return Access(dtype, tuple(strides), offset)


def random_spec(rng: random.Random) -> LoopSpec:
    """A nest of up to four dimensions, three inputs and three results."""
    extents = tuple(rng.choice(SIZES) for _ in range(rng.randint(0, 4)))
    while np.prod(extents) > 60_000:
        extents = extents[1:]
    rank = len(extents)
    dtypes = [rng.choice(INPUTS) for _ in range(rng.randint(1, 3))]
    axes = tuple(sorted(rng.sample(range(rank), rng.randint(0, rank))))
    kinds = [
        rng.choice(["sum", "max", "min", "prod", None] if axes else [None])
        for _ in range(rng.randint(1, 3))
    ]

    def body(b: Any, *xs: Any) -> Any:
        wide = [b.emit("convert", x, dtype=DTYPES["f64"]) for x in xs]
        total = functools.reduce(lambda a, x: a * 0.5 + x, wide)
        for _ in range(rng.choice([0, 0, 0, 3, 18])):
            total = b.emit("tanh", total) * 1.5 + wide[0] * 0.1
        results = []
        for kind in kinds:
            value = rng.choice([total, *wide, total * wide[0]])
            value = value * 0.001 + 1.0 if kind == "prod" else value
            narrow = rng.random() < 0.5
            results.append(b.emit("convert", value, dtype=DTYPES["f32"]) if narrow else value)
        return tuple(results)

    def output(dtype: str, kind: str | None) -> Output:
        if kind is None:
            return Output(random_access(rng, dtype, extents, dense=True))
        kept = tuple(1 if i in axes else n for i, n in enumerate(extents))
        access = random_access(rng, dtype, kept, dense=True)
        strides = tuple(0 if i in axes else s for i, s in enumerate(access.strides))
        return Output(Access(dtype, strides, access.offset), kind, axes)

    built = region(body, *dtypes)
    outputs = [
        output(value.type.dtype.name, kind)
        for value, kind in zip(built.results, kinds, strict=True)
    ]
    inputs = [random_access(rng, d, extents, dense=False) for d in dtypes]
    return LoopSpec(extents, tuple(inputs), built, tuple(outputs))


@pytest.mark.parametrize("seed", range(120))
def test_random_nest(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_schedule, "SERIAL_WORK", 1)  # shares even small nests
    loop_schedule.schedule.cache_clear()
    rng = random.Random(seed)
    spec = random_spec(rng)
    threads, target = rng.randint(1, 4), target_named(rng.choice(TARGETS))
    accesses = [*spec.inputs, *(o.access for o in spec.outputs)]
    buffers = [buffer_for(a, spec.extents, np.random.default_rng(seed)) for a in accesses]
    want = expected(spec, buffers)
    run_lowering(lower_loop(spec, target, threads), buffers, threads, target)
    for got, reference in zip(buffers[len(spec.inputs) :], want, strict=True):
        np.testing.assert_allclose(got, reference, rtol=1e-4, atol=2e-4)
