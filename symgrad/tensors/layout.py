"""Where the elements of a view lie in the memory it shares, as torch's strides tell it.

Nothing here decides how values are computed; it answers ``stride`` and ``is_contiguous``,
tells a ``view`` that is possible from one that is not, and finds the part of a shared
NumPy array that a view shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad.ir.opdef import Array

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor

WHOLE = "whole"
"""The key of a view that shows all of its base as it is."""
Step = Callable[[Array], Array]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of the plain order."""
    return tuple(math.prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape)))


def ghost(shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """An array of one-byte elements with given strides and no memory: never to be read."""
    return np.lib.stride_tricks.as_strided(np.empty(1, np.int8), shape, strides)


class Layout:
    """How a tensor's elements lie: a whole memory, or a step from another layout."""

    __slots__ = ("_ghost", "_step", "is_known", "parent")

    def __init__(self, parent: Layout | None, step: Step | None, whole: Array | None = None):
        self.parent, self._step, self._ghost = parent, step, whole
        self.is_known = True
        """Whether this is really the whole memory, not a view made nobody knows how."""

    @classmethod
    def whole(cls, shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> Layout:
        """The layout of a memory that is no view."""
        return cls(None, None, ghost(shape, row_major(shape) if strides is None else strides))

    def on(self, memory: Array) -> Array:
        """The part of an array, which stands for the whole memory, that the layout shows."""
        if self.parent is None or self._step is None:
            return memory
        return self._step(self.parent.on(memory))

    @property
    def shadow(self) -> Array:
        """An array with the layout's shape and strides."""
        if self._ghost is None:
            assert self.parent is not None and self._step is not None
            self._ghost = self._step(self.parent.shadow)
        return self._ghost

    @property
    def root(self) -> Layout:
        """The layout of the whole memory."""
        return self if self.parent is None else self.parent.root

    @property
    def offset(self) -> int:
        """Elements in front of the first one."""
        here, start = (a.__array_interface__["data"][0] for a in (self.shadow, self.root.shadow))
        return int(here - start)

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps in elements along each axis; axes of size 1 as in the plain order."""
        return self.shadow.strides

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other in row-major order."""
        return self.shadow.flags.c_contiguous

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether the elements can be seen under another shape without a copy."""
        try:
            np.reshape(self.shadow, shape, copy=False)
        except ValueError:
            return False
        return True


def layout_of(tensor: Tensor) -> Layout:
    """The layout of a tensor."""
    if tensor._layout is None:
        tensor._layout = Layout.whole(tuple(tensor._tracer.shape))
        tracer = tensor._tracer
        while tracer._view is not None:
            tensor._layout.is_known &= tracer._view.key == WHOLE
            tracer = tracer._view.base
    return tensor._layout


def stride(self: Tensor, dim: int | None = None) -> Any:
    """Steps in elements along the axes, or along one."""
    strides = layout_of(self).strides
    return strides if dim is None else strides[dim]


def storage_offset(self: Tensor) -> int:
    """Elements of the shared memory in front of the first one."""
    return layout_of(self).offset


def is_contiguous(self: Tensor, memory_format: Any = None) -> bool:
    """Whether the elements lie in row-major order without gaps."""
    return self._layout is None or self._layout.is_contiguous
