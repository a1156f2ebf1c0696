"""What nests are made of: views of values, axes of equal points, groups of ops."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from symgrad.ir.graph import Func, Op, Value

VIEWS = frozenset(("broadcast_to", "transpose", "reshape"))
"""Ops that nests look through, a reshape where it only adds or drops axes of size 1."""
REDUCE = "reduce_"

Shape = tuple[int, ...]
Axes = tuple[int | None, ...]
Key = tuple[int, Axes]


class View(NamedTuple):
    """A value read through views: its axis i runs along ``axes[i]`` of the reader."""

    source: Value
    axes: Axes  # None: an axis of size 1 that the reader does not have
    is_free: bool = False
    """Whether the reader's nest can compute the source itself, point by point."""

    @property
    def key(self) -> Key:
        return id(self.source), self.axes


@functools.cache
def plain_axes(rank: int) -> tuple[int, ...]:
    """The axes of a value read as it is."""
    return tuple(range(rank))


def points_of(shape: Shape) -> Shape:
    """A shape without its axes of size 1: equal points are visited in equal order."""
    return tuple(n for n in shape if n != 1)


def match_axes(shape: Shape, other: Shape) -> Axes:
    """Where the axes of ``shape`` lie in ``other``, a shape of the same points."""
    if shape == other:
        return plain_axes(len(shape))
    big = iter([a for a, n in enumerate(other) if n != 1])
    return tuple(next(big) if n != 1 else None for n in shape)


def axes_through(op: Op) -> Axes | None:
    """Result axis of each operand axis if ``op`` only rearranges axes, else ``None``."""
    (x,) = op.operands
    if op.name == "broadcast_to":
        return tuple(op.attrs["axes"])
    if op.name == "transpose":
        return tuple(op.attrs["axes"].index(a) for a in range(x.rank))
    if points_of(x.shape) == points_of(op.result.shape):
        return match_axes(x.shape, op.result.shape)
    return None


def is_reduce(op: Op) -> bool:
    """Whether the op reduces over axes."""
    return op.name.startswith(REDUCE)


def belongs_in_nest(op: Op) -> bool:
    """Whether the op belongs into a nest."""
    return op.opdef.elementwise or is_reduce(op)


def space_of(op: Op) -> Shape:
    """The points an op of a nest runs over."""
    return op.operands[0].type.shape


# -- nests -------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Nest:
    """Ops of one nest in program order, and the values others read."""

    level: int
    phase: int = 1  # 0 epilogue, 1 ordinary, 2 reductions over other axes
    ops: list[Op] = field(default_factory=list)
    axes: Shape | None = None  # the axes, in points, of its reductions
    recomputed: set[int] = field(default_factory=set)  # written values that it does not read


class Uses:
    """Who reads which value, with views looked through, and which values are arrays."""

    def __init__(self, func: Func) -> None:
        self.views: dict[int, View] = {}
        self.sources: dict[Op, list[View]] = {}
        """Operands of the ops that go into nests."""
        self.readers: dict[int, list[Op]] = defaultdict(list)
        """Ops in nests that read a value, by its id."""
        self.outside = {id(v) for v in func.results}
        """Values that are returned, or read by ops that are in no nest."""
        for op in func.ops:
            if op.name in VIEWS and (axes := axes_through(op)) is not None:
                inner = self.view(op.operands[0])
                composed = tuple(None if a is None else axes[a] for a in inner.axes)
                self.views[id(op.result)] = View(inner.source, composed)
        for op in reversed(func.ops):
            if belongs_in_nest(op):
                self._read(op)
            elif self.stays(op):
                self.outside.update(id(v) for v in op.operands)
        self.written = {
            view.key[0] for views in self.sources.values() for view in views if not view.is_free
        } | self.outside
        """Values that must exist as arrays: to begin with, those that no nest can make
        point by point for all its readers."""

    def view(self, value: Value) -> View:
        """A value as a nest sees it."""
        return self.views.get(id(value)) or View(value, plain_axes(len(value.type.shape)))

    def stays(self, op: Op) -> bool:
        """Whether an op that is in no nest is needed: views that nests look through are not."""
        return id(op.results[0]) not in self.views or id(op.results[0]) in self.outside

    def _read(self, op: Op) -> None:
        space, reads = space_of(op), []
        for value in op.operands:
            source, axes, _ = self.view(value)
            reads.append(View(source, axes, _is_free(source, axes, space)))
            self.readers[id(source)].append(op)
        self.sources[op] = reads


def _is_free(source: Value, axes: Axes, space: Shape) -> bool:
    """Whether a nest over ``space`` can compute what it reads, point by point."""
    if source.op is None or not source.op.opdef.elementwise:
        return False
    shape = source.type.shape
    if shape == space and axes == plain_axes(len(space)):
        return True  # nearly always
    kept = [a for a in axes if a is not None and space[a] != 1]
    return points_of(shape) == points_of(space) and kept == sorted(kept)
