"""NumPy's side of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import numpy as np

Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"NumPy {np.__version__}"


def set_threads(threads: int) -> None:
    """BLAS reads its number of threads from the environment; nothing is left to do."""


def value(result: Any) -> float:
    """What must agree between the sides."""
    return float(np.linalg.norm(result))


def matmul(n: int) -> Call:
    """NumPy's own BLAS."""
    a, b = cases.matmul_inputs(n)
    return lambda: a @ b


def chain(chain: str, dtype: str, size: int) -> Call:
    """The chain as it is written."""
    x, y = cases.chain_inputs(dtype, size)
    function = cases.CHAINS[chain]
    return lambda: function(x, y)


def nothing() -> Call:
    """For what is measured at import."""
    return lambda: 0.0
