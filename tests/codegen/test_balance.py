"""Work of each thread of a large team, counted: no kernel runs and nothing is timed."""

from __future__ import annotations

import itertools

import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.gemm_schedule import Problem, schedule
from symgrad.codegen.kernels.matrix import Matrix
from symgrad.codegen.target import Target

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
