"""Tensors as Python's values: numbers, lists and arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad.ir.opdef import Array

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor
    from symgrad.tracer import Tracer


class PythonValues:
    """What a tensor answers to Python's protocols; a base of ``Tensor``."""

    __slots__ = ()

    if TYPE_CHECKING:  # what it asks the tensor for
        _tracer: Tracer

        @property
        def _dtype(self) -> np.dtype[Any]: ...
        @property
        def ndim(self) -> int: ...
        def _array(self) -> Array: ...
        def numel(self) -> int: ...
        def numpy(self) -> Array: ...
        def __getitem__(self, key: Any) -> Tensor: ...

    def item(self) -> Any:
        """The only element as a Python number."""
        if self.numel() != 1:
            raise RuntimeError(
                f"a Tensor with {self.numel()} elements cannot be converted to Scalar"
            )
        return self._array().item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return self._array().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        shared: Array = self.numpy()
        if copy is False and dtype is not None and shared.dtype != np.dtype(dtype):
            raise ValueError("Unable to avoid copy while creating an array as requested.")
        if dtype is not None and shared.dtype != np.dtype(dtype):
            return shared.astype(dtype)
        return shared.copy() if copy else shared

    def __dlpack_device__(self) -> Any:
        return (1, 0)

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise RuntimeError(
                "Boolean value of Tensor with "
                f"{'more than one value' if self.numel() else 'no values'} is ambiguous"
            )
        return bool(self._array().item())

    def __float__(self) -> float:
        return float(self._scalar())

    def __int__(self) -> int:
        return int(self._scalar())

    def __index__(self) -> int:
        if self._dtype.kind not in "iu" or self.numel() != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._array().item())

    def _scalar(self) -> Any:
        if self.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self._array().item()

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self._tracer.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def __format__(self, spec: str) -> str:
        return self.item().__format__(spec) if spec and not self.ndim else repr(self)
