"""The op table.  Importing this package declares every operation."""

from symgrad.ir.ops import (
    attention,
    conv,
    elementwise,
    index,
    linalg,
    random,
    reduce,
    shape,
    structural,
    window,
)

__all__ = [
    "attention",
    "conv",
    "elementwise",
    "index",
    "linalg",
    "random",
    "reduce",
    "shape",
    "structural",
    "window",
]
