"""The op table.  Importing this package declares every operation."""

from symgrad.ir.ops import (
    attention,
    branch,
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
    "branch",
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
