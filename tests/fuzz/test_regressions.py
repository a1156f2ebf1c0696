"""Programs that once failed, in text form; the comment on top says what went wrong."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from symgrad.codegen.lowering.scope import Scope

from symgrad import ir
from tests.fuzz.oracle import DISABLED, Oracle, share_everything
from tests.fuzz.programs import Array, Program, with_gradient

FILES = sorted((Path(__file__).parent / "regressions").glob("*.sgir"))


def arguments(func: ir.Func, rng: np.random.Generator) -> list[Array]:
    """Numbers in [-2, 2), whole ones in 0 to 3 for integers."""
    drawn = []
    for type in func.param_types:
        values = (
            rng.uniform(-2, 2, type.shape)
            if type.dtype.is_float
            else rng.integers(0, 4, type.shape)
        )
        drawn.append(np.asarray(values).astype(type.dtype.numpy))
    return drawn


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_regression(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "threads_for", share_everything)
    func = ir.parse(path.read_text())
    rng = np.random.default_rng(zlib.crc32(path.stem.encode()))
    given = arguments(func, rng)
    for version, numbers in ((func, given), with_gradient(func, given, rng)):
        oracle = Oracle(Program(version, tuple(numbers)))
        for threads in (1, 2):
            oracle.check(threads=threads)
        for names in DISABLED:
            oracle.check(disable=names)
        oracle.check(threads=2, donate=range(len(numbers)))
