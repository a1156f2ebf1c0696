"""Memory shared with NumPy and other libraries, without copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.tensors import dtypes
from symgrad.tensors.contents import Handle
from symgrad.tensors.dlpack import array_of, capsule_of
from symgrad.tensors.handle import Tensor
from symgrad.tensors.layout import Layout, layout_of
from symgrad.tensors.recorded import leaf_of


def from_numpy(array: Array) -> Tensor:
    """A tensor on the memory of a NumPy array: changes of one show in the other."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    if any(s < 0 for s in array.strides):
        raise ValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative "
            "strides are not currently supported. (You can probably work around this by making a "
            "copy of your array  with array.copy().) "
        )
    dtypes.named(array.dtype)  # raises for types that tensors do not have
    handle = Handle(leaf_of(np.array(array, order="C")))
    handle.share(array)
    tensor = Tensor(handle)
    if not array.flags.c_contiguous:
        tensor._layout = Layout.whole(
            array.shape, tuple(s // array.itemsize for s in array.strides)
        )
    return tensor


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor on the memory of an object with ``__dlpack__``."""
    return from_numpy(array_of(ext_tensor))


def frombuffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A tensor on the memory of an object with the buffer protocol."""
    tensor = from_numpy(np.frombuffer(buffer, dtypes.named(dtype).numpy, count, offset))
    return tensor.requires_grad_(requires_grad)


def numpy(self: Tensor, *, force: bool = False) -> Array:
    """The memory as a NumPy array: changes of one show in the other."""
    if force:
        self = self.detach()
    if self.requires_grad:
        raise RuntimeError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        )
    if self.dtype is dtypes.bfloat16:
        raise TypeError("Got unsupported ScalarType BFloat16")
    return shared_array(self)


def shared_array(tensor: Tensor) -> Array:
    """The memory of a tensor as a NumPy array: through a view, the part it shows."""
    root = tensor._tracer
    while root._view is not None:
        root = root._view.base
    if not isinstance(root, Handle):
        return tensor._array().copy()
    layout = layout_of(tensor)
    return layout.on(root.lend()) if layout.root.is_known else tensor._array().copy()


def to_dlpack(self: Tensor, **options: Any) -> Any:
    """The memory as a DLPack capsule."""
    if self.requires_grad:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    return capsule_of(shared_array(self), **options)


def reinterpreted(input: Tensor, dtype: Any) -> Tensor:
    """A copy of the memory read as another type of the same size."""
    wanted = dtypes.named(dtype)
    if wanted is input.dtype:
        return input[...]
    if wanted.itemsize != input.dtype.itemsize:
        raise NotImplementedError(
            f"view({wanted}) of {input.dtype}: only types of the same size are supported"
        )
    if input.requires_grad:
        raise RuntimeError("view of another dtype has no derivative; use x.detach()")
    return from_numpy(shared_array(input).view(wanted.numpy))
