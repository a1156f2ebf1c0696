"""Functions that make tensors, with torch's names and default types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.randomness import Source
from symgrad.tensors import dtypes
from symgrad.tensors.handle import Tensor


def _made(array: Array, dtype: Any, requires_grad: bool) -> Tensor:
    if dtype is not None:
        array = array.astype(dtypes.named(dtype).numpy)
    tensor = Tensor.of_array(np.require(array, requirements="C"))
    tensor.requires_grad = requires_grad
    return tensor


def _floating(dtype: Any) -> Any:
    return dtypes.get_default_dtype() if dtype is None else dtype


def _sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    shape = tuple(int(n) for n in given)
    if any(n < 0 for n in shape):
        raise RuntimeError(
            f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}"
        )
    return shape


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A copy of numbers, nested sequences or an array.  Python floats get the default type."""
    array = _numbers(data)
    if dtype is None and not hasattr(data, "dtype"):
        if array.dtype.kind == "f":
            dtype = dtypes.get_default_dtype()
        elif array.dtype.kind in "iu":
            dtype = dtypes.int64
    return _made(array.copy(), dtype, requires_grad)


def _numbers(data: Any) -> Array:
    if isinstance(data, Tensor):
        return data._array()
    if isinstance(data, (list, tuple)):
        if not data:
            return np.zeros(0, dtypes.get_default_dtype().numpy)
        if any(isinstance(x, (list, tuple, Tensor)) for x in data):
            parts = [_numbers(x) for x in data]
            if len({p.shape for p in parts}) > 1:
                raise ValueError(
                    f"expected sequence of length {len(parts[0])} at dim 1 (got "
                    f"{next(len(p) for p in parts if p.shape != parts[0].shape)})"
                )
            return np.stack(parts)
    array = np.asarray(data)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"can't convert {type(data).__name__} to a tensor of numbers")
    return array


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """As ``tensor``, but sharing memory where no conversion is needed."""
    from symgrad.tensors.interchange import from_numpy

    if isinstance(data, np.ndarray):
        data = from_numpy(data)
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return tensor(data, dtype=dtype)


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """One number everywhere."""
    filled = np.full(_sizes([size] if isinstance(size, int) else [tuple(size)]), fill_value)
    if dtype is None and filled.dtype.kind == "f":
        dtype = dtypes.get_default_dtype()
    return _made(filled, dtype, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape given as one tuple or as several arguments."""
    return _made(np.zeros(_sizes(size)), _floating(dtype), requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape given as one tuple or as several arguments."""
    return _made(np.ones(_sizes(size)), _floating(dtype), requires_grad)


empty = zeros


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Ones on the diagonal of an ``n`` by ``m`` matrix of zeros."""
    return _made(np.eye(n, m), _floating(dtype), requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers from ``start`` up to ``end``, excluded; int64 when all are integers."""
    if end is None:
        start, end = 0, start
    if dtype is None and any(isinstance(x, float) for x in (start, end, step)):
        dtype = dtypes.get_default_dtype()
    count = max(0, math.ceil((end - start) / step))
    return _made(start + step * np.arange(count), dtype, requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """``steps`` evenly spaced numbers, both ends included."""
    return _made(np.linspace(start, end, steps), _floating(dtype), requires_grad)


def rand(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1)."""
    wanted = dtypes.named(_floating(dtype))
    kind = np.float64 if wanted.numpy == np.float64 else np.float32
    with Source.lock:
        drawn = Source.generator.random(_sizes(size), dtype=kind)
    return _made(np.asarray(drawn), wanted, requires_grad)


def randn(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Normal with mean 0 and variance 1."""
    with Source.lock:
        drawn = Source.generator.standard_normal(_sizes(size))
    return _made(np.asarray(drawn), _floating(dtype), requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, generator: Any = None,
) -> Tensor:  # fmt: skip
    """Integers in [low, high); ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    with Source.lock:
        drawn = Source.generator.integers(low, high, _sizes([size]))
    return _made(drawn, dtype or dtypes.int64, requires_grad)


def randperm(n: int, *, dtype: Any = None, device: Any = None, generator: Any = None) -> Tensor:
    """The numbers below ``n`` in random order."""
    with Source.lock:
        drawn = Source.generator.permutation(n)
    return _made(drawn, dtype or dtypes.int64, False)


preserve_format = "preserve_format"
contiguous_format = "contiguous_format"
channels_last = "channels_last"


def _like(maker: Any) -> Any:
    def like(
        x: Tensor, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
        memory_format: Any = preserve_format,
    ) -> Tensor:  # fmt: skip
        made: Tensor = maker(
            tuple(x.shape), *args, dtype=dtype or x.dtype, requires_grad=requires_grad
        )
        return made

    like.__name__ = f"{maker.__name__}_like"
    like.__doc__ = f"As ``{maker.__name__}``, with the shape and type of a tensor."
    return like


zeros_like, ones_like, full_like = _like(zeros), _like(ones), _like(full)
rand_like, randn_like, empty_like = _like(rand), _like(randn), _like(zeros)
