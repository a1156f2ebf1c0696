"""Random tensor programs, live against PyTorch."""

from __future__ import annotations

import warnings

import pytest
from tensor_programs import Run, difference, program

import symgrad

torch = pytest.importorskip("torch")


RAISES = {19, 166, 170}
"""Programs in which we refuse what PyTorch does: writes to expanded views of
one element, and .data of what the graph still needs."""


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(n, marks=pytest.mark.xfail(strict=True) if n in RAISES else ())
        for n in range(200)
    ],
)
def test_the_same_values_gradients_and_errors(seed: int) -> None:
    statements = program(seed, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading .grad of tensors that are no leaves
        logs = Run(torch).all(statements), Run(symgrad).all(statements)
        found = difference(*logs, statements)
    assert not found, "\n".join([found, *map(str, statements)])
