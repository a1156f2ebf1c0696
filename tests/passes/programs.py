"""Small functions to try passes on, and comparisons of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
from symgrad.ir import Builder, Func, TensorType, dtype_of, interpret, verify


def build(make: Any, *, dtype: str = "f64", **shapes: tuple[int, ...]) -> Func:
    """The function ``make`` emits for parameters of the given shapes.

    A name that starts with ``m`` is a bool mask, with ``i`` an i64 array.
    """
    kinds = {"m": "bool", "i": "i64"}
    b = Builder(locations=False)
    params = [
        b.param(TensorType(dtype_of(kinds.get(name[0], dtype)), shape), name)
        for name, shape in shapes.items()
    ]
    with b:
        results = make(*params)
    return b.build(results if isinstance(results, (list, tuple)) else [results], "f")


def arguments(func: Func, seed: int = 0) -> list[Any]:
    """Random arrays for the parameters of a function."""
    rng = np.random.default_rng(seed)
    arrays = []
    for p in func.params:
        if p.type.dtype.kind == "b":
            arrays.append(rng.random(p.shape) < 0.5)
        elif p.type.dtype.is_integer:
            arrays.append(rng.integers(-5, 6, p.shape).astype(p.type.dtype.numpy))
        else:
            arrays.append(np.asarray(rng.normal(size=p.shape)).astype(p.type.dtype.numpy))
    return arrays


def assert_same(before: Func, after: Func, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Both functions verify and agree on random arguments (bit for bit by default)."""
    verify(after)
    assert before.param_types == after.param_types
    assert before.result_types == after.result_types
    args = arguments(before)
    for a, b in zip(interpret(before, args), interpret(after, args), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)


def op_names(func: Func) -> list[str]:
    """The ops of a function in order, constants left out."""
    return [op.name for op in func.ops if op.name != "constant"]
