"""Random tensor programs, live against PyTorch."""

from __future__ import annotations

import warnings

import pytest
from tensor_programs import Run, difference, program

import symgrad

torch = pytest.importorskip("torch")


# Of later programs there are some in which we refuse what PyTorch does: writes to expanded views
# of one element, and derivatives that read what was written to unseen.
@pytest.mark.parametrize("seed", range(200))
def test_the_same_values_gradients_and_errors(seed: int) -> None:
    statements = program(seed, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading .grad of tensors that are no leaves
        logs = Run(torch).all(statements), Run(symgrad).all(statements)
        found = difference(*logs, statements)
    assert not found, "\n".join([found, *map(str, statements)])
