"""How a blocked layout cuts the axes of a tensor.

A *tiling* lists the physical dimensions of a layout, outermost first: each walks one
logical axis in steps.  Channel-blocked activations walk channels twice, in blocks and
within a block.  Everything that is laid out over a space, blocked or plain, can be
followed over the tiling's dimensions by strides, and so can any broadcast operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from symgrad.codegen.access import Access
from symgrad.ir.record import record


@record
class Tiling:
    """Dimension ``d`` takes ``extents[d]`` steps of ``steps[d]`` along axis ``axes[d]``.

    The positions of an axis are sums of its dimensions' steps, each reached once.
    """

    extents: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]

    @staticmethod
    def blocks(shape: Sequence[int], order: Sequence[tuple[int, int]]) -> Tiling:
        """From (axis, step) of each dimension; it ends where the next larger step begins."""
        extents = []
        for axis, step in order:
            larger = [s for a, s in order if a == axis and s > step]
            extents.append(min(larger, default=shape[axis]) // step)
        axes, steps = zip(*order, strict=True)
        return Tiling(tuple(extents), axes, steps)

    def split(self, access: Access) -> Access:
        """An access over the logical axes, over the tiling's dimensions."""
        return replace(access, strides=self._strides(access.strides))

    def dimensions(self, axes: Sequence[int]) -> tuple[int, ...]:
        """The dimensions that walk any of some axes."""
        return tuple(d for d, axis in enumerate(self.axes) if axis in axes)

    def view(self, array: np.ndarray) -> np.ndarray:
        """The elements of an array of the logical shape, as the tiling orders them."""
        strides = self._strides(array.strides)
        return np.lib.stride_tricks.as_strided(array, self.extents, strides)

    def _strides(self, strides: Sequence[int]) -> tuple[int, ...]:
        return tuple(strides[a] * s for a, s in zip(self.axes, self.steps, strict=True))
