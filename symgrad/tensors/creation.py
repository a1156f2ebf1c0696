"""Functions that make tensors, with torch's names and default types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad.ir import dtype_of
from symgrad.ir.opdef import Array
from symgrad.tensors import dtypes
from symgrad.tensors.handle import Tensor
from symgrad.tracer import Tracer


def made(array: Array, dtype: Any, requires_grad: bool) -> Tensor:
    """An array as a new tensor of a type."""
    if dtype is not None:
        array = array.astype(dtypes.named(dtype).numpy)
    tensor = Tensor.of_array(np.require(array, requirements="C"))
    tensor.requires_grad = requires_grad
    return tensor


def default_type(dtype: Any) -> Any:
    """A type, or the default one in place of none."""
    return dtypes.get_default_dtype() if dtype is None else dtype


def sizes(size: Sequence[Any], name: str) -> tuple[int, ...]:
    """A shape given as one sequence or as several numbers."""
    given = size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    shape = tuple(int(n) for n in given)
    if any(n < 0 for n in shape):
        if name in ("zeros", "ones", "full"):
            raise RuntimeError(f"{name}: Dimension size must be non-negative.")
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
    return made(array.copy(), dtype, requires_grad)


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
    if isinstance(data, str):
        raise TypeError("new(): invalid data type 'str'")
    array = np.asarray(data)
    if array.dtype == np.uint64 and not hasattr(data, "dtype"):
        raise ValueError("Overflow when unpacking long long")
    if array.dtype.kind not in "biufc" and not dtype_of(array.dtype).is_float:
        raise TypeError(f"can't convert {type(data).__name__} to a tensor of numbers")
    return array


def _constructed(data: Any, sizes: Sequence[int]) -> Tracer:
    """What ``torch.Tensor`` makes of data or of sizes: the default type."""
    if isinstance(data, int):
        return zeros(data, *sizes)._tracer
    return tensor(data, dtype=dtypes.get_default_dtype())._tracer


Tensor._construct = _constructed


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """As ``tensor``, but sharing memory where no conversion is needed."""
    from symgrad.tensors.interchange import from_dlpack, from_numpy

    if isinstance(data, np.ndarray):
        data = from_numpy(data)
    elif not isinstance(data, Tensor) and hasattr(data, "__dlpack__"):
        data = from_dlpack(data)
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return tensor(data, dtype=dtype)


asarray = as_tensor


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, out: Any = None,
) -> Tensor:  # fmt: skip
    """One number everywhere."""
    number = fill_value._array() if isinstance(fill_value, Tensor) else fill_value
    filled = np.full(sizes([size] if isinstance(size, int) else [tuple(size)], "full"), number)
    if dtype is None and filled.dtype.kind == "f":
        dtype = dtypes.get_default_dtype()
    return made(filled, dtype, requires_grad)


def zeros(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    out: Any = None,
) -> Tensor:  # fmt: skip
    """Zeros of a shape given as one tuple or as several arguments."""
    return made(np.zeros(sizes(size, "zeros")), default_type(dtype), requires_grad)


def ones(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    out: Any = None,
) -> Tensor:  # fmt: skip
    """Ones of a shape given as one tuple or as several arguments."""
    return made(np.ones(sizes(size, "ones")), default_type(dtype), requires_grad)


def empty(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    memory_format: Any = None, out: Any = None,
) -> Tensor:  # fmt: skip
    """Elements of no particular value: zeros."""
    return made(np.zeros(sizes(size, "empty")), default_type(dtype), requires_grad)


def empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """As ``empty``: the elements lie in row-major order whatever the strides."""
    return empty(tuple(size), dtype=dtype)


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A number as a tensor of the default type."""
    return made(np.asarray(s), default_type(dtype), False)


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Ones on the diagonal of an ``n`` by ``m`` matrix of zeros."""
    return made(np.eye(n, m), default_type(dtype), requires_grad)


def _number(x: Any) -> Any:
    return x.item() if isinstance(x, (Tensor, np.generic)) else x


def _steps(name: str, start: Any, end: Any, step: Any) -> None:
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    if not all(math.isfinite(x) for x in (start, end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, out: Any = None,
) -> Tensor:  # fmt: skip
    """Numbers from ``start`` up to ``end``, excluded; int64 when all are integers."""
    if end is None:
        start, end = 0, start
    start, end, step = (_number(x) for x in (start, end, step))
    _steps("arange", start, end, step)
    if dtype is None and any(isinstance(x, float) for x in (start, end, step)):
        dtype = dtypes.get_default_dtype()
    count = max(0, math.ceil((end - start) / step))
    return made(np.asarray(start + step * np.arange(count)), dtype, requires_grad)


def range_(
    start: Any, end: Any, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Numbers from ``start`` to ``end``, included."""
    _steps("range", start, end, step)
    count = math.floor((end - start) / step) + 1
    return made(start + step * np.arange(count), default_type(dtype), requires_grad)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, out: Any = None,
) -> Tensor:  # fmt: skip
    """``steps`` evenly spaced numbers, both ends included."""
    spaced = np.linspace(_number(start), _number(end), steps)
    return made(spaced, default_type(dtype), requires_grad)


def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Powers of ``base`` with evenly spaced exponents, both ends included."""
    spaced = np.linspace(_number(start), _number(end), steps)
    return made(np.power(base, spaced), default_type(dtype), requires_grad)


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """Rows and columns of the elements of a lower triangle."""
    return made(np.stack(np.tril_indices(row, offset, col)), dtype or dtypes.int64, False)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """Rows and columns of the elements of an upper triangle."""
    return made(np.stack(np.triu_indices(row, offset, col)), dtype or dtypes.int64, False)


class Named:
    """A constant of torch that stands for itself."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"torch.{self._name}"


preserve_format, contiguous_format = Named("preserve_format"), Named("contiguous_format")
channels_last, strided = Named("channels_last"), Named("strided")
pi, e, inf, nan = math.pi, math.e, math.inf, math.nan


def like(maker: Any) -> Any:
    """``maker`` with the shape and type of a tensor."""

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


zeros_like, ones_like, full_like = like(zeros), like(ones), like(full)
empty_like = like(zeros)
