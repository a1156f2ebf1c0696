"""The order of elements along an axis."""

from __future__ import annotations

import math

from symgrad.codegen.kernels.sort import SortSpec, lower_sort
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.ir.graph import Op


@lowers("argsort")
def argsort(scope: Scope, op: Op) -> None:
    """Each line merged from runs twice as long in every pass."""
    x, axis = op.operands[0], op.attrs["axis"]
    source, result = scope.plain(x), scope.allocate(op.result)
    passes = max(1, math.ceil(math.log2(max(2, x.shape[axis]))))
    flops = 8.0 * x.type.size * passes
    moved = float(x.type.bytes + 2 * passes * op.result.type.bytes)
    spec = SortSpec(
        x.shape, axis, source.access, result.access, op.attrs["descending"],
        scope.threads_for(flops, moved),
    )  # fmt: skip
    scope.run(lower_sort(spec), [source], [result], flops=flops, bytes=moved)
