"""Half types, ``bfloat16`` and ``float16``: stored in two bytes, computed with in float32.

As in torch, an operation widens what it reads, computes in float32 and rounds once, to the
nearest number with ties to even, when it stores.  This is the one place that says so: ``rounded``
wraps what an operation records.  Operations that only move elements are recorded as they are,
and so are products, whose sums are float32 by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.ir.types import DType, bf16, f16, f32
from symgrad.tracer import Tracer
from symgrad.tracing import stage

HALVES = frozenset((bf16, f16))


def common_half(types: Sequence[Any]) -> DType | None:
    """The half type that all floating ones among IR types are, if so."""
    floating = {t.dtype for t in types if t is not None and t.dtype.is_inexact}
    only = floating.pop() if len(floating) == 1 else None
    return only if only in HALVES else None


def rounded(function: Callable[..., Any], result: DType, wide: bool = True) -> Callable[..., Any]:
    """``function`` on traced values with its float32 results converted to type ``result``.

    Operands of a half type arrive in float32 if ``wide``.  An operand that is returned stays
    what it is.
    """

    def compute(*operands: Any, **named: Any) -> Any:
        every = (*operands, *named.values())
        given = [_widened(x) if wide else x for x in every]
        count = len(operands)

        def stored(made: Any) -> Any:
            for x, y in zip(every, given, strict=True):
                if made is y:
                    return x
            if isinstance(made, Tracer) and made._value.type.dtype == f32 != result:
                return stage("convert", made, dtype=result)
            return made

        made = function(*given[:count], **dict(zip(named, given[count:], strict=True)))
        if isinstance(made, (tuple, list)):
            return [stored(x) for x in made]
        return stored(made)

    return compute


def _widened(x: Any) -> Any:
    if isinstance(x, Tracer) and x._value.type.dtype in HALVES:
        return stage("convert", x, dtype=f32)
    return x


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that numbers of type ``dtype`` are computed in."""
    return _SINGLE if dtype.itemsize == _HALF_SIZE and dtype.kind in "fV" else dtype


_SINGLE, _HALF_SIZE = np.dtype(np.float32), 2
