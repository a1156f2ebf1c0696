"""What to ask memory for ahead of its use.

The machine fetches by itself what is read in long runs.  It does not follow more than a few
runs at once, nor foresee where a tile's results will go; kernels that jump ask for such lines
early, a few at a time while they compute.
"""

from __future__ import annotations

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.kernels.blocked import Blocked
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.target import Target

LINE = 64
"""Bytes that a prefetch brings."""


def is_large(layout: Blocked, target: Target) -> bool:
    """Whether activations do not stay in a thread's own cache."""
    return bytes_of(layout.scalar) * layout.elements > target.l2 // 2


def is_far(access: Access, like: Blocked, target: Target) -> bool:
    """Whether a tensor with the shape of ``like`` is too large for a thread's first cache.

    Then asking for it pays even where the next cache would hold it: earlier kernels made it,
    on other threads in part.  One that repeats its rows or pixels is near.
    """
    size = bytes_of(MEMORY_TYPES[access.dtype]) * like.elements
    return all(access.strides[2:4]) and size > 2 * target.l1d
