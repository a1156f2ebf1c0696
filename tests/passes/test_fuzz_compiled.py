"""Random programs, compiled: what runs is what the interpreter computes.

``SYMGRAD_FUZZ=10000`` runs that many programs.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from passes.programs import arguments
from passes.random_programs import random_program
from symgrad.codegen.compile import compile_func
from symgrad.ir import interpret
from symgrad.ir.passes import DEFAULT, optimize

PROGRAMS = int(os.environ.get("SYMGRAD_FUZZ", "40"))
BATCH = 10


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_compiled_programs_compute_what_the_interpreter_does(first):
    for seed in range(first, first + BATCH):
        func = random_program(seed)
        off = DEFAULT[seed % len(DEFAULT)].name
        optimized = optimize(func, disable=() if seed % 2 else (off,))
        args = arguments(func, seed)
        compiled = compile_func(optimized, threads=1 + seed % 2)(args)
        for i, (want, got) in enumerate(zip(interpret(optimized, args), compiled, strict=True)):
            scale = np.max(np.abs(want), initial=1.0, where=np.isfinite(want))
            np.testing.assert_allclose(
                got, want, rtol=1e-8, atol=1e-10 * scale,
                err_msg=f"random program {seed}, result {i}",
            )  # fmt: skip
