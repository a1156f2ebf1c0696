"""General tensor products become matrix products with several axes per index group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from symgrad.codegen.access import Access
from symgrad.codegen.kernels.gemm import GemmSpec, lower_gemm, stores_once
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage
from symgrad.ir.graph import Op
from symgrad.ir.ops.shape import other_axes
from symgrad.ir.types import DTYPES

DENSITY = 2.5
"""Speed of a product's arithmetic relative to that of elementwise work."""


@lowers("dot_general")
def dot_general(scope: Scope, op: Op) -> None:
    """A (batched) matrix product over strided operands."""
    x, y = op.operands
    attrs = op.attrs
    lhs_free = other_axes(x.rank, (*attrs["lhs_contract"], *attrs["lhs_batch"]))
    rhs_free = other_axes(y.rank, (*attrs["rhs_contract"], *attrs["rhs_batch"]))
    left, right = scope.plain(x), scope.plain(y)
    fused = scope.epilogue(op)
    result = scope.allocate(fused.result if fused else op.result)
    sizes: dict[str, Any] = {
        "batch": tuple(x.shape[a] for a in attrs["lhs_batch"]),
        "m": tuple(x.shape[a] for a in lhs_free),
        "n": tuple(y.shape[a] for a in rhs_free),
        "k": tuple(x.shape[a] for a in attrs["lhs_contract"]),
    }
    accesses = [
        _permuted(left, (*attrs["lhs_batch"], *lhs_free, *attrs["lhs_contract"])),
        _permuted(right, (*attrs["rhs_batch"], *attrs["rhs_contract"], *rhs_free)),
        result.access,
    ]
    starts = [0, 0, 0]
    if scope.moves_pointers:
        starts = [access.offset * DTYPES[access.dtype].bytes for access in accesses]
        accesses = [replace(access, offset=0) for access in accesses]
    a, b, c = accesses
    epilogue = fused.build(scope, result) if fused else None
    spec = GemmSpec(**sizes, a=a, b=b, c=c, epilogue=epilogue)
    flops = 2.0 * prod(prod(group) for group in sizes.values())
    moved = float(x.type.bytes + y.type.bytes + op.result.type.bytes)
    threads = scope.threads_for(flops / DENSITY, moved)
    operands = [left, right, *(fused.storages if fused else ())]
    once = stores_once(spec, scope.target, threads)
    scope.run(
        lower_gemm(spec, scope.target, threads),
        operands,
        [result],
        label="gemm",
        flops=flops,
        bytes=moved,
        written=fused.written if fused else (),
        in_place=fused.in_place(left, right, result=result if once else None) if fused else (),
        parallel=threads > 1,
        starts=[*starts[:2], *[0] * (len(operands) - 2), starts[2]],
    )


def _permuted(storage: Storage, axes: Sequence[int]) -> Access:
    strides = tuple(storage.access.strides[a] for a in axes)
    return Access(storage.access.dtype, strides, storage.access.offset)
