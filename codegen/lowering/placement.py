"""Results that are made where they are wanted: in their part of a larger array.

Where the operands of a concatenation are contiguous pieces of its result, the nests that
compute them can store right into these pieces, and nothing is copied afterwards.  The same
holds for an array with padding before and behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering.epilogue import AttachedRegion
from symgrad.codegen.storage import Storage, dense
from symgrad.ir.graph import Func, Op, Value


def find_parts(
    func: Func, layouts: Layouts, epilogues: Mapping[int, AttachedRegion]
) -> dict[int, Storage]:
    """Where to make values, by id, that are parts of others, and these others themselves.

    Outer arrays come first, so that parts of parts land in the outermost.  A value that is
    part of several arrays is made in the last of them and copied to the others.
    """
    taken = {id(e.op) for e in epilogues.values() if e.op is not None}
    taken |= {id(e.sums.op) for e in epilogues.values() if e.sums is not None}
    homes: dict[int, Storage] = {}
    for op in reversed(func.ops):
        whole: Storage | None = None
        for number, shift in _pieces(op):
            part = _behind_reshapes(op.operands[number])
            if id(part) in homes or id(part.op) in taken or not _can_be_put(part, layouts):
                continue
            whole = whole or homes.setdefault(id(op.result), dense(op.result.type))
            place = dense(part.type, whole.buffer)
            homes[id(part)] = place.view(
                part.shape, place.access.strides, whole.access.offset + shift
            )
    return homes


def _pieces(op: Op) -> Iterator[tuple[int, int]]:
    """Numbers of operands that are contiguous in the op's result, and what lies before each."""
    shape = op.results[0].shape
    if op.name == "concatenate":
        axis = op.attrs["axis"]
        shift = 0
        for number, value in enumerate(op.operands if prod(shape[:axis]) == 1 else ()):
            if value.type.size:
                yield number, shift
            shift += value.type.size
    elif op.name == "pad" and not any(op.attrs["interior"]):
        (x,), low, high = op.operands, op.attrs["low"], op.attrs["high"]
        padded = [a for a in range(len(shape)) if low[a] or high[a]]
        axis = padded[0] if padded else 0
        if x.type.size and len(padded) == 1 and prod(shape[:axis]) == 1:
            if min(low[axis], high[axis]) >= 0:
                yield 0, low[axis] * prod(shape[axis + 1 :])


def _behind_reshapes(value: Value) -> Value:
    while value.op is not None and value.op.name == "reshape":
        (value,) = value.op.operands
    return value


def _can_be_put(value: Value, layouts: Layouts) -> bool:
    """Whether the op that makes a value stores it in order wherever it is told to."""
    op = value.op
    if op is None:
        return False
    if op.name == "fused":
        return op.attrs["reduce"][value.index] is None and layouts.tiling(op) is None
    return op.name in ("concatenate", "pad")


def made_in_place(op: Op, sources: Sequence[Storage], whole: Storage) -> list[bool]:
    """Which operands of a concatenation or padding lie in their piece of its result already."""
    there = [False] * len(sources)
    for number, shift in _pieces(op):
        source = sources[number]
        same = source.buffer is whole.buffer and source.is_dense
        there[number] = same and source.access.offset == whole.access.offset + shift
    return there
