"""``assert_close``: comparison in tests, with torch's tolerances by type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from symgrad.ir import dtype_of
from symgrad.tensors import Tensor, dtypes

__all__ = ["assert_close"]

_TOLERANCES = {
    "bfloat16": (1.6e-2, 1e-5), "float16": (1e-3, 1e-5),
    "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7),
}  # fmt: skip
"""Relative and absolute, by type; integers must be equal."""


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: str | Callable[[str], str] | None = None,
) -> None:
    """Raises ``AssertionError`` unless ``|actual - expected| <= atol + rtol |expected|``.

    Takes tensors, arrays, numbers, and sequences and mappings of these.  Without tolerances
    those of the wider of the two types are taken.
    """
    if (rtol is None) is not (atol is None):
        raise ValueError(
            "rtol and atol must both be specified or both be unspecified, but got "
            f"rtol={rtol} and atol={atol}."
        )
    tolerances = None if rtol is None or atol is None else (rtol, atol)
    try:
        _compare(actual, expected, "", _Options(tolerances, equal_nan, check_dtype))
    except AssertionError as error:
        if msg is None:
            raise
        raise AssertionError(msg if isinstance(msg, str) else msg(str(error))) from None


class _Options(NamedTuple):
    """How two values are compared."""

    tolerances: tuple[float, float] | None
    equal_nan: bool
    check_dtype: bool


def _compare(actual: Any, expected: Any, place: str, options: _Options) -> None:
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        if actual.keys() != expected.keys():
            missing, additional = expected.keys() - actual.keys(), actual.keys() - expected.keys()
            raise AssertionError(
                "The keys of the mappings do not match:\n"
                f"Missing keys in the actual mapping: {sorted(missing, key=str)}\n"
                f"Additional keys in the actual mapping: {sorted(additional, key=str)}"
            )
        for key in expected:
            _compare(actual[key], expected[key], f"{place}[{key!r}]", options)
    elif _is_sequence(actual) and _is_sequence(expected):
        if len(actual) != len(expected):
            raise AssertionError(
                f"The length of the sequences mismatch: {len(actual)} != {len(expected)}"
            )
        for number, pair in enumerate(zip(actual, expected, strict=True)):
            _compare(*pair, f"{place}[{number}]", options)
    else:
        _compare_arrays(actual, expected, place, options)


def _is_sequence(x: Any) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, (str, bytes))


def _compare_arrays(actual: Any, expected: Any, place: str, options: _Options) -> None:
    tolerances, equal_nan, check_dtype = options
    is_number = isinstance(actual, (int, float)) and isinstance(expected, (int, float))
    what, where = "Scalars" if is_number else "Tensor-likes", f"item {place}" if place else ""
    a, b = _array(actual), _array(expected)
    if type(actual) is not type(expected) and not is_number and _kind(actual) != _kind(expected):
        raise TypeError(
            f"No comparison pair was able to handle inputs of type {type(actual)} and "
            f"{type(expected)}."
        )
    problem = ""
    if a.shape != b.shape:
        problem = f"The values for attribute 'shape' do not match: {_size(a)} != {_size(b)}."
    elif check_dtype and not is_number and a.dtype != b.dtype:
        names = [str(dtypes.named(x.dtype)) for x in (a, b)]
        problem = f"The values for attribute 'dtype' do not match: {names[0]} != {names[1]}."
    if problem:
        raise AssertionError(problem + (f"\n\nThe failure occurred for {where}" if where else ""))
    rtol, atol = tolerances or _wider(a.dtype, b.dtype)
    is_float = any(dtype_of(x.dtype).is_float for x in (a, b))
    dtype = np.float64 if is_float else np.result_type(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    with np.errstate(invalid="ignore"):
        close = np.isclose(a, b, rtol, atol, equal_nan) if tolerances or rtol or atol else a == b
        if close.all():
            return
        differences = np.where(close, 0, abs(a - b) if dtype is np.float64 else a != b)
        differences = np.where(np.isnan(differences), math.inf, differences)
    raise AssertionError(
        f"{what} are not {'close' if rtol or atol else 'equal'}!\n\n"
        f"Mismatched elements: {close.size - int(close.sum())} / {close.size} "
        f"({100 * (1 - close.mean()):.1f}%)\n"
        f"Greatest absolute difference: {differences.max()} at index "
        f"{tuple(map(int, np.unravel_index(int(np.argmax(differences)), close.shape)))} "
        f"(up to {atol} allowed)\nAllowed relative difference: {rtol}"
        + (f"\n\nThe failure occurred for {where}" if where else "")
    )


def _array(x: Any) -> np.ndarray[Any, Any]:
    return x._array() if isinstance(x, Tensor) else np.asarray(x)


def _kind(x: Any) -> str:
    return "tensor" if isinstance(x, Tensor) else "array" if hasattr(x, "dtype") else "number"


def _size(x: np.ndarray[Any, Any]) -> str:
    return str(dtypes.Size(x.shape))


def _wider(*found: np.dtype[Any]) -> tuple[float, float]:
    pairs = [_TOLERANCES.get(str(t), (0.0, 0.0)) for t in found]
    return max(p[0] for p in pairs), max(p[1] for p in pairs)
