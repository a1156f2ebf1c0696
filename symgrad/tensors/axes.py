"""Axis arguments, with torch's errors."""

from __future__ import annotations

from typing import Any


def one_axis(dim: Any, rank: int) -> int:
    """One axis counted from the front; a tensor without axes has one for this purpose."""
    rank = max(rank, 1)
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        raise TypeError(f"dim must be int, not {type(dim).__name__}")
    if not -rank <= dim < rank:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], but got "
            f"{dim})"
        )
    return int(dim) % rank


def many_axes(dim: Any, rank: int) -> tuple[int, ...]:
    """An axis argument as sorted axes: ``None`` or an empty one means all."""
    if dim is None or dim == ():
        return tuple(range(rank))
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    axes = [one_axis(d, rank) for d in given]
    for axis in axes:
        if axes.count(axis) > 1:
            raise RuntimeError(f"dim {axis} appears multiple times in the list of dims")
    return tuple(sorted(axes)) if rank else ()


def sizes_of(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes or axes passed one by one, or as one tuple or list."""
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        return tuple(given[0])
    return given
