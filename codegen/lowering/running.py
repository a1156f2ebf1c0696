"""Running sums and products, recurrences, and the search for extrema."""

from __future__ import annotations

from symgrad.codegen.kernels.running import RunningSpec, lower_running
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import over_space
from symgrad.ir.graph import Op

KINDS = {
    "cumsum": "sum",
    "cumprod": "prod",
    "recurrence": "recurrence",
    "argmax": "argmax",
    "argmin": "argmin",
}


@lowers(*KINDS)
def running(scope: Scope, op: Op) -> None:
    """One pass along the axis."""
    extents, axis = op.operands[0].shape, op.attrs["axis"]
    sources = [scope.plain(v) for v in op.operands]
    result = scope.allocate(op.result)
    kept = [a for a in range(len(extents)) if op.result.rank == len(extents) or a != axis]
    moved = float(sum(v.type.bytes for v in (*op.operands, op.result)))
    flops = 4.0 * op.operands[0].type.size
    spec = RunningSpec(
        KINDS[op.name],
        extents,
        axis,
        tuple(s.access for s in sources),
        over_space(result, kept, len(extents)),
        scope.threads_for(flops, moved),
    )
    scope.run(lower_running(spec), sources, [result], flops=flops, bytes=moved)
