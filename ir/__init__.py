"""The typed SSA intermediate representation, its derivatives and its passes."""

if __name__ != "symgrad.ir":
    raise ImportError(
        "this folder is the package `symgrad.ir`; import it under that name "
        "(run `pip install -e .` in the repository, or start Python in its root)"
    )

from symgrad.ir import ops  # declares every op
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Func, Op, Region, Value
from symgrad.ir.interp import interpret
from symgrad.ir.parser import parse
from symgrad.ir.printer import print_func
from symgrad.ir.types import DType, TensorType, dtype_of
from symgrad.ir.verify import verify

__all__ = [
    "Builder",
    "DType",
    "Func",
    "Op",
    "Region",
    "TensorType",
    "Value",
    "dtype_of",
    "interpret",
    "ops",
    "parse",
    "print_func",
    "verify",
]
