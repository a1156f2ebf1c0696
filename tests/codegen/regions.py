"""Small scalar regions for the tests of loop kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Region
from symgrad.ir.types import DTYPES, TensorType


def region(build: Callable[..., Any], *dtypes: str) -> Region:
    """The region of ``build(b, *params)``, which returns one value or a tuple of them."""
    b = Builder(locations=False)
    params = [b.param(TensorType(DTYPES[d])) for d in dtypes]
    with b:
        results = build(b, *params)
    return b.region(params, results if isinstance(results, tuple) else (results,))
