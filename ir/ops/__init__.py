"""The op table.  Importing this package declares every operation."""

from symgrad.ir.ops import (
    attention,
    conv,
    elementwise,
    factor,
    index,
    linalg,
    random,
    reduce,
    shape,
    sort,
    special,
    structural,
    window,
)

__all__ = [
    "attention",
    "conv",
    "elementwise",
    "factor",
    "index",
    "linalg",
    "random",
    "reduce",
    "shape",
    "sort",
    "special",
    "structural",
    "window",
]
