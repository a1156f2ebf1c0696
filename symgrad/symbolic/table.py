"""What computes SymPy's functions, by class: one table for numbers, one for truth values.

An entry takes the traced operands.  It calls NumPy's functions, so promotion,
broadcasting and derivatives are those of the NumPy face; where NumPy has none, it emits an op.
Arguments are real: where SymPy's result is complex, it is nan, as in NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from sympy.codegen import cfunctions
from sympy.logic import boolalg

from symgrad.ir import dtype_of
from symgrad.ir.errors import UnsupportedError
from symgrad.tracing import constant, emit, stage

Compute = Callable[..., Any]


def _op(name: str, **attrs: Any) -> Compute:
    return lambda x: emit(name, x, **attrs)


def _nary(f: Compute) -> Compute:
    return lambda *operands: functools.reduce(f, operands)


def _log_gamma(x: Any) -> Any:
    return np.where(x < 0, np.nan, emit("lgamma", x))


def _polygamma(order: Any, x: Any) -> Any:
    if not isinstance(order, float) or order < 0 or not order.is_integer():
        raise UnsupportedError(
            "from_sympy: polygamma needs a natural number as its order; put one in with .subs(...)"
        )
    return emit("polygamma", x, order=int(order))


def _one_truth(first: Any, *others: Any) -> Any:
    """Whether truth values are all the same."""
    return functools.reduce(np.logical_and, [np.equal(first, x) for x in others])


NUMBERS: dict[type, Compute] = {
    sympy.exp: np.exp, sympy.log: np.log,
    sympy.sin: np.sin, sympy.cos: np.cos, sympy.tan: np.tan,
    sympy.cot: lambda x: 1 / np.tan(x),
    sympy.sec: lambda x: 1 / np.cos(x),
    sympy.csc: lambda x: 1 / np.sin(x),
    sympy.asin: np.arcsin, sympy.acos: np.arccos, sympy.atan: np.arctan,
    sympy.acot: lambda x: np.arctan(1 / x),
    sympy.asec: lambda x: np.arccos(1 / x),
    sympy.acsc: lambda x: np.arcsin(1 / x),
    sympy.atan2: np.arctan2,
    sympy.sinh: np.sinh, sympy.cosh: np.cosh, sympy.tanh: np.tanh,
    sympy.coth: lambda x: 1 / np.tanh(x),
    sympy.sech: lambda x: 1 / np.cosh(x),
    sympy.csch: lambda x: 1 / np.sinh(x),
    sympy.asinh: np.arcsinh, sympy.acosh: np.arccosh, sympy.atanh: np.arctanh,
    sympy.acoth: lambda x: np.arctanh(1 / x),
    sympy.asech: lambda x: np.arccosh(1 / x),
    sympy.acsch: lambda x: np.arcsinh(1 / x),
    sympy.Abs: np.abs, sympy.sign: np.sign,
    sympy.floor: np.floor, sympy.ceiling: np.ceil,
    sympy.frac: lambda x: x - np.floor(x),
    sympy.Mod: np.remainder,
    sympy.Max: _nary(np.maximum), sympy.Min: _nary(np.minimum),
    sympy.Heaviside: np.heaviside,
    sympy.re: lambda x: x, sympy.conjugate: lambda x: x, sympy.im: np.zeros_like,
    sympy.erf: _op("erf"), sympy.erfc: _op("erfc"), sympy.erfinv: _op("erfinv"),
    sympy.gamma: _op("gamma"), sympy.loggamma: _log_gamma,
    sympy.factorial: lambda x: emit("gamma", x + 1),
    sympy.digamma: _op("polygamma", order=0),
    sympy.polygamma: _polygamma,
    cfunctions.expm1: np.expm1, cfunctions.log1p: np.log1p, cfunctions.exp2: np.exp2,
    cfunctions.log2: np.log2, cfunctions.log10: np.log10, cfunctions.Cbrt: np.cbrt,
    cfunctions.hypot: np.hypot, cfunctions.fma: lambda x, y, z: x * y + z,
    cfunctions.Sqrt: np.sqrt,
}  # fmt: skip
"""Functions of numbers."""

RELATIONS: dict[type, Compute] = {
    sympy.Eq: np.equal, sympy.Ne: np.not_equal,
    sympy.Lt: np.less, sympy.Le: np.less_equal,
    sympy.Gt: np.greater, sympy.Ge: np.greater_equal,
}  # fmt: skip
"""Truth values from numbers."""

LOGIC: dict[type, Compute] = {
    sympy.And: _nary(np.logical_and), sympy.Or: _nary(np.logical_or),
    sympy.Xor: _nary(np.logical_xor), sympy.Not: np.logical_not,
    boolalg.Implies: lambda a, b: np.logical_or(np.logical_not(a), b),
    boolalg.Equivalent: _one_truth,
    boolalg.ITE: np.where,
}  # fmt: skip
"""Truth values from truth values."""


def _eye(n: Any) -> Any:
    shape, dtype = (int(n), int(n)), dtype_of("i64")
    row, column = (stage("iota", shape=shape, axis=axis, dtype=dtype) for axis in (0, 1))
    return np.equal(row, column) * 1.0


def _inverse(x: Any, *_: Any) -> Any:
    return stage("solve", x, _eye(x.shape[0]).astype(x.dtype))


def _determinant(x: Any) -> Any:
    sign, logarithm = stage("slogdet", x)
    return sign * np.exp(logarithm)


def _matrix_power(x: Any, n: float) -> Any:
    """The power to a natural number; that to a negative one is an ``Inverse`` in SymPy."""
    return functools.reduce(np.matmul, [x] * int(n))


def _product(*factors: Any) -> Any:
    """Of numbers and matrices."""
    numbers = [x for x in factors if not np.ndim(x)]
    product = functools.reduce(np.matmul, [x for x in factors if np.ndim(x)])
    return functools.reduce(np.multiply, numbers, product)


MATRICES: dict[type, Compute] = {
    sympy.MatAdd: _nary(np.add), sympy.MatMul: _product,
    sympy.HadamardProduct: _nary(np.multiply),
    sympy.Transpose: np.transpose, sympy.Inverse: _inverse, sympy.MatPow: _matrix_power,
    sympy.Trace: np.trace, sympy.Determinant: _determinant,
    sympy.Identity: _eye,
    sympy.ZeroMatrix: lambda n, m: constant(0, np.float64, (int(n), int(m))),
    sympy.matrices.expressions.special.OneMatrix:
        lambda n, m: constant(1, np.float64, (int(n), int(m))),
}  # fmt: skip
"""Matrices, and numbers from matrices."""
