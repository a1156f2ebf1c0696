"""Random programs: optimized as a whole and with each pass off, values stay.

``SYMGRAD_FUZZ=10000`` runs that many programs.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from passes.programs import arguments
from passes.random_programs import random_program
from symgrad.ir import Func, interpret, parse, verify
from symgrad.ir.passes import DEFAULT, canonicalize, expand, fuse, optimize, stabilize

PROGRAMS = int(os.environ.get("SYMGRAD_FUZZ", "120"))
BATCH = 20


def assert_close(before: Func, after: Func, seed: int) -> None:
    args = arguments(before, seed)
    pairs = zip(interpret(before, args), interpret(after, args), strict=True)
    for i, (old, new) in enumerate(pairs):
        healed = np.isnan(old) & np.isfinite(new)  # a stable form may know the value
        scale = np.max(np.abs(old), initial=1.0, where=np.isfinite(old))
        np.testing.assert_allclose(
            np.where(healed, 0, new), np.where(healed, 0, old), rtol=1e-8, atol=1e-10 * scale,
            err_msg=f"random program {seed}, result {i}",
        )  # fmt: skip


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_optimized_programs_keep_their_values(first):
    for seed in range(first, first + BATCH):
        func = random_program(seed)
        verify(func)
        after = verify(optimize(func))
        assert parse(after.text) == after
        assert_close(func, after, seed)
        off = DEFAULT[seed % len(DEFAULT)].name
        assert_close(func, optimize(func, disable=(off,)), seed)
        for op in after.ops:
            assert not op.opdef.elementwise
            assert not op.name.startswith("reduce_")


@pytest.mark.parametrize("bounds", [(3, 4), (6, 10), (64, 1000)])
def test_any_bounds_of_fuse_keep_values(bounds):
    for seed in range(10):
        func = canonicalize(expand(random_program(seed)))
        assert_close(func, fuse(func, max_operands=bounds[0], max_ops=bounds[1]), seed)


def test_normal_forms_are_fixed_points():
    for seed in range(40):
        once = canonicalize(expand(random_program(seed)))
        assert canonicalize(once) == once, seed
        stable = stabilize(once)
        assert stabilize(stable) == stable, seed
        fused = fuse(stable)
        assert fuse(fused) == fused, seed
