"""The op table.  Importing this package declares every operation."""

from symgrad.ir.ops import (
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
