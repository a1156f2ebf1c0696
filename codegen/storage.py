"""Where values live: buffers, and views of them.

A ``Storage`` is a buffer seen through strides.  Reshapes, transposes, slices and
broadcasts of a plain value are other storages of the same buffer, so they cost
nothing.  A value of a convolutional network may live in a blocked layout instead:
activations over (N, C/b, H, W, b) with a halo of zeros around each plane, weights
over (O/16, I/b, kh, kw, b, 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.tiling import Tiling
from symgrad.ir.record import record
from symgrad.ir.types import TensorType

Halo = tuple[tuple[int, int], ...]
"""Zeros before and behind each spatial axis."""


@dataclass(eq=False, slots=True)
class Buffer:
    """A piece of memory of a program; compared by identity.

    ``slot`` tells who owns it: ``None`` for the arena, else the number of an argument
    or result.  A haloed buffer shares its memory only with buffers of the same
    ``pool``, so that its zeros, written once, stay.
    """

    bytes: int
    slot: int | None = None
    pool: object = None
    data: np.ndarray[Any, Any] | None = None
    """The contents of a constant."""
    offset: int = field(default=-1)
    """Place in the arena, or in the memory that is kept; set by the planner."""
    is_kept: bool = False
    """Whether it lies in the memory that the prologue fills; see ``codegen.prologue``."""


@record
class Storage:
    """A value's elements in a buffer.

    ``access`` runs over the value's own axes, or over the physical dimensions of a blocked
    layout: that of activations where ``blocked`` is given, that of weights where
    ``weights`` is.
    """

    buffer: Buffer
    shape: tuple[int, ...]
    access: Access
    blocked: Blocked | None = None
    weights: Weights | None = None

    @property
    def tiling(self) -> Tiling | None:
        """The dimensions that ``access`` runs over; ``None`` for the value's own axes."""
        layout = self.blocked or self.weights
        return None if layout is None else layout.tiling

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        if self.tiling is not None:
            return False
        expected = row_major(self.shape)
        pairs = zip(self.shape, self.access.strides, expected, strict=True)
        return all(n == 1 or have == want for n, have, want in pairs)

    def view(self, shape: Sequence[int], strides: Sequence[int], shift: int = 0) -> Storage:
        """The same buffer under another shape and strides."""
        access = Access(self.access.dtype, tuple(strides), self.access.offset + shift)
        return replace(self, shape=tuple(shape), access=access)


def dense(type: TensorType, buffer: Buffer | None = None) -> Storage:
    """Row-major storage of a type, in a new arena buffer unless one is given."""
    buffer = buffer or Buffer(type.bytes)
    return Storage(buffer, type.shape, Access(type.dtype.name, row_major(type.shape)))


def channel_blocked(type: TensorType, halo: Halo) -> Storage:
    """Channel-blocked storage in a new arena buffer that keeps its halo."""
    layout = Blocked.dense(type.dtype.name, type.shape, halo)  # type: ignore[arg-type]
    pool = (layout.buffer_shape, halo, type.dtype) if any(map(any, halo)) else None
    buffer = Buffer(layout.elements * type.dtype.bytes, pool=pool)
    return Storage(buffer, type.shape, layout.access, layout)


def blocked_weights(type: TensorType, buffer: Buffer | None = None) -> Storage:
    """Blocked storage of weights, in a new arena buffer unless one is given."""
    layout = Weights.blocked(type.dtype.name, type.shape)
    return Storage(buffer or Buffer(type.bytes), type.shape, layout.access, weights=layout)


def constant(array: np.ndarray[Any, Any], dtype: str) -> Storage:
    """A buffer with fixed contents."""
    array = np.ascontiguousarray(array)
    buffer = Buffer(array.nbytes, data=array)
    return Storage(buffer, array.shape, Access(dtype, row_major(array.shape)))


def over_space(
    storage: Storage, axes: Sequence[int], rank: int, tiling: Tiling | None = None
) -> Access:
    """A storage's access over an iteration space of ``rank`` axes, broadcast along others.

    With a tiling the space is that of its dimensions; storage that is not plain lies so.
    """
    if storage.tiling is not None:
        return storage.access
    strides = [0] * rank
    for axis, stride in zip(axes, storage.access.strides, strict=True):
        strides[axis] = stride
    access = Access(storage.access.dtype, tuple(strides), storage.access.offset)
    return tiling.split(access) if tiling else access


def covers(have: Halo, need: Halo) -> bool:
    """Whether a halo is at least as wide as another on every side."""
    return all(a >= b for h, n in zip(have, need, strict=True) for a, b in zip(h, n, strict=True))
