"""NumPy's side of the comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cases
import numpy as np

Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"NumPy {np.__version__}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """BLAS reads its number of threads from the environment; nothing is left to do."""


def arrays(result: Any) -> list[Any]:
    """The arrays of a result."""
    return [result]


def matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> Call:
    """NumPy's own BLAS."""
    x, y = cases.matmul_inputs(a, b, dtype)
    return lambda: x @ y


def chain(chain: str, dtype: str, size: int) -> Call:
    """The chain as it is written."""
    x, y = cases.chain_inputs(dtype, size)
    function = cases.CHAINS[chain]
    return lambda: function(x, y)
