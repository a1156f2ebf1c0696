"""Factorisations without a kernel: calls of their NumPy references."""

from __future__ import annotations

from symgrad.codegen.kernels.host import lower_host
from symgrad.codegen.lowering.rules import FAMILIES, lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.ir.errors import NoKernelError
from symgrad.ir.graph import Op


@lowers(*FAMILIES["host"].split())
def host(scope: Scope, op: Op) -> None:
    """The reference of the op on dense operands, on one thread."""
    reference = op.opdef.evaluate_rule
    if reference is None:
        raise NoKernelError(f"{op.name}: it has no reference to call", loc=op.loc)
    sources = [scope.dense(v) for v in op.operands]
    results = [scope.allocate(v) for v in op.results]
    moved = float(sum(v.type.bytes for v in (*op.operands, *op.results)))
    lowering = lower_host(
        reference, tuple(v.type for v in op.operands), tuple(v.type for v in op.results),
        dict(op.attrs),
        tuple(s.access.offset * v.type.dtype.bytes
              for s, v in zip((*sources, *results), (*op.operands, *op.results), strict=True)),
    )  # fmt: skip
    scope.run(lowering, sources, results, bytes=moved, parallel=False)
