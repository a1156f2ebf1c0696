"""What a loop nest should compute, by NumPy: whole arrays, one op after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from symgrad.codegen.access import Access
from symgrad.codegen.kernels.loop_nest import LoopSpec
from symgrad.ir.types import DTYPES

Array = np.ndarray[Any, Any]
REDUCERS: dict[str, Any] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
}


def view(buffer: Array, access: Access, extents: tuple[int, ...]) -> Array:
    """The elements of a flat buffer that an access reaches, as an array over the space."""
    size = buffer.itemsize
    return as_strided(buffer[access.offset :], extents, [s * size for s in access.strides])


def expected(spec: LoopSpec, buffers: list[Array]) -> list[Array]:
    """The contents of the output buffers after the nest ran.

    Sums are made in f64, so that their only error is the final rounding.
    """
    with np.errstate(all="ignore"):
        values = {
            id(p): view(b, a, spec.extents)
            for p, b, a in zip(spec.body.params, buffers, spec.inputs, strict=False)
        }
        for op in spec.body.ops:
            operands = [values[id(v)] for v in op.operands]
            values[id(op.results[0])] = op.opdef.evaluate_rule(*operands, **op.attrs)
        outputs = [b.copy() for b in buffers[len(spec.inputs) :]]
        for out, buffer, result in zip(spec.outputs, outputs, spec.body.results, strict=True):
            full = np.broadcast_to(values[id(result)], spec.extents)
            if out.reduce is None:
                view(buffer, out.access, spec.extents)[...] = full
                continue
            ones = tuple(1 if i in out.axes else n for i, n in enumerate(spec.extents))
            target = view(buffer, out.access, ones)
            dtype = DTYPES[out.access.dtype]
            wide = np.dtype(np.float64) if dtype.kind == "f" else dtype.numpy
            how = {"dtype": wide} if out.reduce in ("sum", "prod") else {}
            source = full if dtype.kind == "b" else full.astype(wide)
            target[...] = REDUCERS[out.reduce](source, axis=out.axes, keepdims=True, **how)
        return outputs
