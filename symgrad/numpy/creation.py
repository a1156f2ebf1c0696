"""Functions that make arrays.

``zeros``, ``ones``, ``full`` and ``empty`` called inside a traced function give traced
arrays, so that they can be written to with ``a[i] = v``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.numpy.core import SUPPORTED, astype, broadcast, implements, result_type, sizes, traced
from symgrad.tracer import Tracer, is_traced
from symgrad.tracing import constant, current_trace


def _declare_filled(name: str, original: Callable[..., Any], value: float) -> None:
    def filled(shape: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if current_trace() is None:
            return original(shape, dtype or float, *args, **kwargs)
        return constant(value, np.dtype(dtype or float), sizes(shape))

    filled.__name__, filled.__doc__ = name, f"As ``numpy.{name}``; traced inside a traced function."
    SUPPORTED[name] = filled


for _name, _value in (("zeros", 0), ("ones", 1), ("empty", 0)):
    _declare_filled(_name, getattr(np, _name), _value)


def full(shape: Any, fill_value: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """As ``numpy.full``; traced inside a traced function."""
    if current_trace() is None:
        return np.full(shape, fill_value, dtype, **kwargs)
    target = np.dtype(dtype) if dtype is not None else result_type(fill_value)
    return broadcast(traced(fill_value, target), sizes(shape)).copy()


SUPPORTED["full"] = full


def _declare_like(function: Callable[..., Any], value: float) -> None:
    @implements(function)
    def like(a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
             *, device: Any = None) -> Tracer:  # fmt: skip
        x = traced(a)
        return constant(value, dtype or x.dtype, x.shape if shape is None else sizes(shape))


_declare_like(np.zeros_like, 0)
_declare_like(np.ones_like, 1)
_declare_like(np.empty_like, 0)


@implements(np.full_like)
def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True,
    shape: Any = None, *, device: Any = None,
) -> Tracer:  # fmt: skip
    """An array like another, filled with one value."""
    x = traced(a)
    value = traced(fill_value, dtype or x.dtype)
    return broadcast(value, x.shape if shape is None else sizes(shape)).copy()


@implements(np.linspace)
def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    """Evenly spaced numbers between two traced ends."""
    kind = result_type(start, stop, 0.0)
    first, last = traced(start, kind), traced(stop, kind)
    parts = max(num - 1 if endpoint else num, 1)
    shape = np.broadcast_shapes(first.shape, last.shape)
    steps = np.arange(num, dtype=kind).reshape((num,) + (1,) * len(shape))
    step = (last - first) / float(parts)
    line = first + steps * step
    if endpoint and num > 1:
        line = line.copy()
        line[-1] = last
    line = HANDLERS[np.moveaxis](line, 0, axis)
    if dtype is not None:
        line = astype(np.floor(line) if np.dtype(dtype).kind in "iu" else line, dtype)
    return (line, step) if retstep else line


@implements(np.vander)
def vander(x: Any, N: Any = None, increasing: bool = False) -> Tracer:
    """Columns of powers."""
    line = traced(x)
    powers = np.arange(line.size if N is None else N)
    powers = powers if increasing else powers[::-1]
    line = astype(line, np.promote_types(line.dtype, int))
    columns = [line ** int(p) for p in powers]
    result: Tracer = HANDLERS[np.stack](columns, -1)
    return result


def array(object: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """As ``numpy.array``; lists may hold traced values."""
    if is_traced(object):
        return HANDLERS["array"](object, dtype, **kwargs)
    return np.array(object, dtype, **kwargs)


def asarray(a: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """As ``numpy.asarray``; traced values stay traced."""
    if isinstance(a, Tracer):
        return a if dtype is None else astype(a, dtype)
    return array(a, dtype) if is_traced(a) else np.asarray(a, dtype, **kwargs)


SUPPORTED["array"], SUPPORTED["asarray"] = array, asarray
