"""Shape ops are views; only what strides cannot express is copied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from symgrad.codegen.access import row_major
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage, constant, dense
from symgrad.ir.graph import Op
from symgrad.ir.opdef import Array
from symgrad.ir.types import DType


@lowers("constant")
def lower_constant(scope: Scope, op: Op) -> None:
    """A constant buffer; one number for all elements is one element with strides of 0."""
    value = np.asarray(op.attrs["value"], op.result.type.dtype.numpy)
    shape = op.result.shape
    if value.ndim:
        scope.define(op.result, constant(value.reshape(shape), op.result.type.dtype.name))
        return
    cell = constant(value.reshape(1), op.result.type.dtype.name)
    scope.define(op.result, cell.view(shape, (0,) * len(shape)))


@lowers("iota")
def lower_iota(scope: Scope, op: Op) -> None:
    """The numbers of one line, broadcast along the other axes."""
    dtype: DType = op.attrs["dtype"]
    shape, axis = op.result.shape, op.attrs["axis"]
    line: Array = np.arange(shape[axis]).astype(dtype.numpy)
    strides = tuple(int(a == axis) for a in range(len(shape)))
    scope.define(op.result, constant(line, dtype.name).view(shape, strides))


@lowers("identity", "stop_gradient")
def lower_identity(scope: Scope, op: Op) -> None:
    """Another name for the same storage."""
    scope.define(op.result, scope.storage(op.operands[0]))


@lowers("barrier")
def lower_barrier(scope: Scope, op: Op) -> None:
    """Other names for the same storages: the order of the ops is what it is about."""
    for value, operand in zip(op.results, op.operands, strict=False):
        scope.define(value, scope.storage(operand))


@lowers("reshape")
def lower_reshape(scope: Scope, op: Op) -> None:
    """A view where the strides allow it."""
    source = scope.plain(op.operands[0])
    strides = merged_strides(source.shape, source.access.strides, op.result.shape)
    if strides is None:
        source = scope.dense(op.operands[0])
        strides = row_major(op.result.shape)
    scope.define(op.result, source.view(op.result.shape, strides))


def merged_strides(
    shape: tuple[int, ...], strides: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides of the same elements under another shape; ``None`` where there are none."""
    if 0 in shape:
        return row_major(target)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result = []
    rest = list(reversed(old))
    run, step = 1, 0  # elements left of the old axis being split, and their stride
    for n in reversed(target):
        if n == 1:
            result.append(0)
            continue
        if run == 1:
            if not rest:
                return None
            run, step = rest.pop(0)
        while run < n:  # join the next old axis if it continues this one
            if not rest or rest[0][1] != run * step:
                return None
            run *= rest.pop(0)[0]
        if run % n:
            return None
        result.append(step)
        run, step = run // n, step * n
    return tuple(reversed(result)) if run == 1 and not rest else None


@lowers("transpose")
def lower_transpose(scope: Scope, op: Op) -> None:
    """Permuted strides."""
    source = scope.plain(op.operands[0])
    strides = tuple(source.access.strides[a] for a in op.attrs["axes"])
    scope.define(op.result, source.view(op.result.shape, strides))


@lowers("broadcast_to")
def lower_broadcast_to(scope: Scope, op: Op) -> None:
    """Strides of 0 along the new axes."""
    source = scope.plain(op.operands[0])
    strides = [0] * op.result.rank
    for axis, stride in zip(op.attrs["axes"], source.access.strides, strict=True):
        strides[axis] = stride
    scope.define(op.result, source.view(op.result.shape, strides))


@lowers("slice")
def lower_slice(scope: Scope, op: Op) -> None:
    """An offset and scaled strides; of a blocked value only the slice is copied."""
    start, step = op.attrs["start"], op.attrs["step"]
    home = scope.storage(op.operands[0])
    layout = home.blocked
    if layout is None or op.result.shape[1] != home.shape[1]:
        source = scope.plain(op.operands[0])
        strides = [s * by for s, by in zip(source.access.strides, step, strict=True)]
        shift = _distance(source, start)
        scope.define(op.result, source.view(op.result.shape, strides, shift))
        return
    begin, pace = (start[0], 0, *start[2:]), (step[0], 1, *step[2:])  # all channel blocks
    images, channels, height, width = op.result.shape
    n, blocks, row, pixel = (s * by for s, by in zip(layout.strides, pace, strict=True))
    piece = replace(
        layout,
        shape=(images, channels, height, width),
        strides=(n, blocks, row, pixel),
        offset=layout.offset + sum(p * s for p, s in zip(begin, layout.strides, strict=True)),
    )
    source = Storage(home.buffer, op.result.shape, piece.access, piece)
    scope.copy(source, scope.define(op.result, dense(op.result.type)))


@lowers("reverse")
def lower_reverse(scope: Scope, op: Op) -> None:
    """Negative strides from the last element."""
    source = scope.plain(op.operands[0])
    axes = op.attrs["axes"]
    last = [n - 1 if a in axes and n else 0 for a, n in enumerate(source.shape)]
    strides = [-s if a in axes else s for a, s in enumerate(source.access.strides)]
    scope.define(op.result, source.view(source.shape, strides, _distance(source, last)))


def _distance(source: Storage, point: tuple[int, ...] | list[int]) -> int:
    return sum(p * s for p, s in zip(point, source.access.strides, strict=True))
