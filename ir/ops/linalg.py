"""The general product of two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import TensorType

Axes = tuple[int, ...]
_NONE = {"lhs_batch": (), "rhs_batch": ()}


@op(
    "dot_general",
    samples=[
        Sample(((3, 4), (4, 5)), {"lhs_contract": (1,), "rhs_contract": (0,), **_NONE}),
        Sample(
            ((2, 3, 4), (5, 4, 2)),
            {"lhs_contract": (2,), "rhs_contract": (1,), "lhs_batch": (0,), "rhs_batch": (2,)},
        ),
        Sample(((3, 4), (4, 3)), {"lhs_contract": (0, 1), "rhs_contract": (1, 0), **_NONE}),
        Sample(((3,), (4,)), {"lhs_contract": (), "rhs_contract": (), **_NONE}),
    ],
)
def dot_general(
    x: TensorType,
    y: TensorType,
    *,
    lhs_contract: Axes,
    rhs_contract: Axes,
    lhs_batch: Axes = (),
    rhs_batch: Axes = (),
) -> TensorType:
    """Sum of products over the contracted axes, for each batch index.

    The result's axes are the batch axes, the free axes of ``x``, then those of ``y``.
    """
    if x.dtype != y.dtype or x.dtype.kind == "b":
        raise DTypeError(f"dot_general: operands must have one numeric dtype, got {x}, {y}")
    pairs = [*zip(lhs_contract, rhs_contract, strict=True), *zip(lhs_batch, rhs_batch, strict=True)]
    for i, j in pairs:
        if x.shape[i] != y.shape[j]:
            raise ShapeError(f"dot_general: axis {i} of {x} and axis {j} of {y} differ in size")
    batch = [x.shape[a] for a in lhs_batch]
    lhs_free = [x.shape[a] for a in sh.other_axes(x.rank, (*lhs_contract, *lhs_batch))]
    rhs_free = [y.shape[a] for a in sh.other_axes(y.rank, (*rhs_contract, *rhs_batch))]
    return x.with_shape((*batch, *lhs_free, *rhs_free))


@dot_general.evaluate
def _dot_general(
    x: Array, y: Array, *, lhs_contract: Axes, rhs_contract: Axes, lhs_batch: Axes, rhs_batch: Axes
) -> Array:
    def arrange(a: Array, batch: Axes, contract: Axes, *, last: bool) -> tuple[Array, Any]:
        free = sh.other_axes(a.ndim, (*contract, *batch))
        order = (*batch, *free, *contract) if last else (*batch, *contract, *free)
        shapes = [[a.shape[i] for i in axes] for axes in (batch, free, contract)]
        b, f, c = (int(np.prod(s)) for s in shapes)
        return a.transpose(order).reshape((b, f, c) if last else (b, c, f)), shapes

    left, (batch, lhs_free, _) = arrange(x, lhs_batch, lhs_contract, last=True)
    right, (_, rhs_free, _) = arrange(y, rhs_batch, rhs_contract, last=False)
    return np.asarray(np.matmul(left, right)).reshape((*batch, *lhs_free, *rhs_free))


@dot_general.adjoint
def _dot_general_adjoint(
    ct: Value,
    r: Value,
    x: Value,
    y: Value,
    *,
    lhs_contract: Axes,
    rhs_contract: Axes,
    lhs_batch: Axes,
    rhs_batch: Axes,
) -> tuple[Value, Value]:
    nb = len(lhs_batch)
    lhs_free = sh.other_axes(x.rank, (*lhs_contract, *lhs_batch))
    rhs_free = sh.other_axes(y.rank, (*rhs_contract, *rhs_batch))
    batch = tuple(range(nb))
    ct_lhs = tuple(range(nb, nb + len(lhs_free)))
    ct_rhs = tuple(range(nb + len(lhs_free), ct.rank))

    def partner(own: Axes, other: Axes) -> Axes:
        """Own contracted axes in the order in which the product lists the other's."""
        return tuple(own[i] for i in sorted(range(len(other)), key=lambda i: other[i]))

    # Each product lists batch, the free axes of ct, then the contracted ones of the
    # other operand in that operand's order; a transpose puts them where they belong.
    to_x = dot_general(
        ct, y, lhs_contract=ct_rhs, rhs_contract=rhs_free, lhs_batch=batch, rhs_batch=rhs_batch
    )
    x_order = (*lhs_batch, *lhs_free, *partner(lhs_contract, rhs_contract))
    to_y = dot_general(
        ct, x, lhs_contract=ct_lhs, rhs_contract=lhs_free, lhs_batch=batch, rhs_batch=lhs_batch
    )
    y_order = (*rhs_batch, *rhs_free, *partner(rhs_contract, lhs_contract))
    return (
        sh.transpose(to_x, axes=sh.inverse(x_order)),
        sh.transpose(to_y, axes=sh.inverse(y_order)),
    )


@dot_general.batch
def _dot_general_batch(
    size: int,
    operands: Sequence[Value],
    batched: Sequence[bool],
    *,
    lhs_contract: Axes,
    rhs_contract: Axes,
    lhs_batch: Axes,
    rhs_batch: Axes,
) -> Any:
    x, y = operands
    moved = {
        "lhs_contract": tuple(a + batched[0] for a in lhs_contract),
        "rhs_contract": tuple(a + batched[1] for a in rhs_contract),
        "lhs_batch": tuple(a + batched[0] for a in lhs_batch),
        "rhs_batch": tuple(a + batched[1] for a in rhs_batch),
    }
    if all(batched):
        moved["lhs_batch"] = (0, *moved["lhs_batch"])
        moved["rhs_batch"] = (0, *moved["rhs_batch"])
        return dot_general(x, y, **moved)
    result = dot_general(x, y, **moved)
    # The batch axis came out among the free axes of its operand: the first of them.
    at = len(lhs_batch)
    if batched[1]:
        at += x.rank - len(lhs_contract) - len(lhs_batch)
    return sh.transpose(result, axes=(at, *(a for a in range(result.rank) if a != at)))
