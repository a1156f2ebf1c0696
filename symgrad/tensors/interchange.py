"""Memory shared with NumPy and other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.tensors import dtypes
from symgrad.tensors.handle import WHOLE, Handle, Tensor
from symgrad.tensors.record import RECORDER, Leaf, materialise, recording
from symgrad.tracer import Tracer


def from_numpy(array: Array) -> Tensor:
    """A tensor on the memory of a NumPy array: changes of one show in the other."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    dtypes.named(array.dtype)  # raises for types that tensors do not have
    handle = Handle(Leaf(array.copy()))
    handle.shared = array
    return Tensor(handle)


def from_dlpack(source: Any) -> Tensor:
    """A tensor on the memory of an object with ``__dlpack__``."""
    return from_numpy(np.from_dlpack(source))


def numpy(self: Tensor, *, force: bool = False) -> Array:
    """The memory as a NumPy array: changes of one show in the other."""
    if force:
        return shared_array(self.detach())
    if self.requires_grad:
        raise RuntimeError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        )
    return shared_array(self)


def shared_array(tensor: Tensor) -> Array:
    """The memory of a tensor as a NumPy array: through a view, the part it shows."""
    root, whole = tensor._tracer, True
    while root._view is not None:
        whole = whole and root._view.key == WHOLE
        root = root._view.base
    if not isinstance(root, Handle):
        return tensor._array().copy()
    if root.shared is None:
        with recording():
            root.shared = materialise([root.value])[0].copy()
    if whole:
        return root.shared
    places = _places(tensor._tracer, root)
    flat = root.shared.reshape(-1)  # what we share is contiguous, or the caller's own array
    if not np.shares_memory(flat, root.shared) or not places.size:
        return tensor._array().copy()
    steps = [
        int(np.take(places, 1, a).flat[0] - places.flat[0]) if n > 1 else 0
        for a, n in enumerate(places.shape)
    ]
    expected = places.flat[0] + np.tensordot(steps, np.indices(places.shape), 1)
    if not np.array_equal(places, expected):
        return tensor._array().copy()  # such as a matrix transposed, then as one axis
    start = flat[int(places.flat[0]) :]
    strides = [s * flat.itemsize for s in steps]
    return np.lib.stride_tricks.as_strided(start, places.shape, strides)


def _places(view: Tracer, root: Tracer) -> Array:
    """The position in ``root`` of each element of a view of it."""
    chain = []
    while view is not root and view._view is not None:
        chain.append(view._view.read)
        view = view._view.base
    numbers = np.arange(root.size, dtype=np.int64).reshape(root.shape)
    with recording():
        x = Tracer(RECORDER, Leaf(numbers))
        for read in reversed(chain):
            x = read(x)
        return materialise([x.value])[0]
