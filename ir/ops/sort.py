"""The order of the elements along an axis.

``argsort`` is the one primitive: a gather with its result sorts, and has the derivative
of sorting.
"""

from __future__ import annotations

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.ops.reduce import batch_shifted
from symgrad.ir.types import TensorType, i64


@op(
    "argsort",
    samples=[
        Sample(((3, 5),), {"axis": 1}),
        Sample(((4, 3, 2),), {"axis": 0, "descending": True}),
        Sample(((7,),), {"axis": 0}),
    ],
    differentiable=False,
)
def argsort(x: TensorType, *, axis: int, descending: bool = False) -> TensorType:
    """Positions of the elements along an axis in rising or falling order.

    Equal elements keep their order; nan counts as larger than every number.
    """
    if x.dtype.kind not in "biuf":
        raise DTypeError(f"argsort: operands of dtype {x.dtype} have no order")
    if not 0 <= axis < x.rank:
        raise ShapeError(f"argsort: {x} has no axis {axis}")
    return x.with_dtype(i64)


argsort.kinds = "biuf"


@argsort.evaluate
def _argsort(x: Array, *, axis: int, descending: bool) -> Array:
    if not descending:
        return np.argsort(x, axis, kind="stable").astype(np.int64)
    # Backwards twice: the order of equal elements survives.
    flipped = np.argsort(np.flip(x, axis), axis, kind="stable")
    return np.ascontiguousarray(np.flip(x.shape[axis] - 1 - flipped, axis)).astype(np.int64)


batch_shifted(argsort)
