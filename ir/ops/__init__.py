"""The op table.  Importing this package declares every operation."""

from symgrad.ir.ops import (
    attention,
    control,
    conv,
    elementwise,
    factor,
    index,
    linalg,
    random,
    reduce,
    regions,
    shape,
    sort,
    special,
    structural,
    window,
)

__all__ = [
    "attention",
    "control",
    "conv",
    "elementwise",
    "factor",
    "index",
    "linalg",
    "random",
    "reduce",
    "regions",
    "shape",
    "sort",
    "special",
    "structural",
    "window",
]
