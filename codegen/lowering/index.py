"""Gathers, scatters, dynamic slices, and what is made of parts: concatenation, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from symgrad.codegen.kernels import index, movement
from symgrad.codegen.lowering.placement import made_in_place
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage
from symgrad.ir.graph import Op, Value


def _plain(scope: Scope, values: Sequence[Value]) -> list[Storage]:
    return [scope.plain(v) for v in values]


def _moved(*values: Value) -> float:
    return float(sum(v.type.bytes for v in values))


@lowers("gather")
def gather(scope: Scope, op: Op) -> None:
    """A loop nest whose reads are moved by the indices."""
    x, *indices = op.operands
    source, *places = _plain(scope, op.operands)
    result = scope.allocate(op.result)
    moved = _moved(*indices, op.result, op.result)
    lowering = index.lower_gather(
        x.shape,
        source.access,
        op.attrs["axes"],
        indices[0].shape,
        [p.access for p in places],
        result.access,
        scope.target,
        scope.threads_for(0, moved),
    )
    scope.run(lowering, [source, *places], [result], bytes=moved)


@lowers("scatter_add", "scatter")
def scatter(scope: Scope, op: Op) -> None:
    """A copy of the array, then the updates in order."""
    x, _, first, *_ = op.operands
    source, updates, *places = _plain(scope, op.operands)
    result = scope.allocate(op.result)
    moved = _moved(*op.operands, op.result)
    lowering = index.lower_scatter(
        x.shape,
        source.access,
        op.attrs["axes"],
        first.shape,
        updates.access,
        [p.access for p in places],
        result.access,
        scope.threads_for(0, moved),
        "add" if op.name == "scatter_add" else None,
    )
    scope.run(lowering, [source, updates, *places], [result], bytes=moved)


@lowers("dynamic_slice")
def dynamic_slice(scope: Scope, op: Op) -> None:
    """A block read from where the starts say."""
    source, *starts = _plain(scope, op.operands)
    result = scope.allocate(op.result)
    moved = 2 * _moved(op.result)
    lowering = index.lower_dynamic_slice(
        op.operands[0].shape,
        source.access,
        op.attrs["sizes"],
        [s.access for s in starts],
        result.access,
        scope.target,
        scope.threads_for(0, moved),
    )
    scope.run(lowering, [source, *starts], [result], bytes=moved)


@lowers("dynamic_update_slice")
def dynamic_update_slice(scope: Scope, op: Op) -> None:
    """A copy of the array with a block written where the starts say."""
    x, update, *_ = op.operands
    source, block, *starts = _plain(scope, op.operands)
    result = scope.allocate(op.result)
    moved = 2 * _moved(x, update)
    lowering = index.lower_dynamic_update_slice(
        x.shape,
        source.access,
        update.shape,
        block.access,
        [s.access for s in starts],
        result.access,
        scope.threads_for(0, moved),
    )
    scope.run(lowering, [source, block, *starts], [result], bytes=moved)


@lowers("concatenate")
def concatenate(scope: Scope, op: Op) -> None:
    """Every operand copied to its part of the result, unless it was made there."""
    sources = _plain(scope, op.operands)
    result = scope.allocate(op.result)
    there = made_in_place(op, sources, result)
    copied = [n for n, is_there in enumerate(there) if not is_there]
    if not copied:
        return
    moved = 2 * _moved(*(op.operands[n] for n in copied))
    lowering = movement.lower_concatenate(
        [v.shape for v in op.operands],
        [None if is_there else s.access for s, is_there in zip(sources, there, strict=True)],
        op.attrs["axis"],
        result.access,
        scope.threads_for(0, moved),
    )
    scope.run(lowering, [sources[n] for n in copied], [result], bytes=moved)


OWN_BYTES = 4096
"""Size of a padded array up to which it may have memory of its own."""


@lowers("pad")
def pad(scope: Scope, op: Op) -> None:
    """The padding, and the operand copied inside, unless it was made there.

    Where it was, a small array has memory that no other value uses: as nothing is ever stored
    around the operand, that stays zero, as the arena is at first, and there is nothing to do.
    """
    source = scope.plain(op.operands[0])
    result = scope.allocate(op.result)
    (is_there,) = made_in_place(op, [source], result)
    value, buffer = op.attrs["value"], result.buffer
    is_zero = value == 0 and math.copysign(1, value) > 0
    is_whole = buffer.slot is None and buffer.bytes == op.result.type.bytes <= OWN_BYTES
    if is_there and is_zero and is_whole:
        buffer.pool = buffer
        return
    moved = _moved(op.result) + (0 if is_there else _moved(op.operands[0]))
    lowering = movement.lower_pad(
        op.operands[0].shape,
        None if is_there else source.access,
        op.attrs["low"],
        op.attrs["high"],
        op.attrs["interior"],
        op.attrs["value"],
        result.access,
        scope.threads_for(0, moved),
    )
    scope.run(lowering, [] if is_there else [source], [result], bytes=moved)
