"""Factorisations and linear systems: kernels of our own where matrices are small.

Of large ones LAPACK's are faster, which know caches and threads; the reference calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.cholesky import CholeskySpec, lower_cholesky
from symgrad.codegen.kernels.elimination import EliminateSpec, lower_eliminate
from symgrad.codegen.kernels.triangle import SubstituteSpec, lower_substitute, panels
from symgrad.codegen.lowering.host import host
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage
from symgrad.ir.graph import Op

LARGEST = 256
"""Rows of the largest matrices that have kernels of our own."""


def _is_small(op: Op) -> bool:
    return op.operands[0].shape[-1] <= LARGEST


@lowers("cholesky")
def cholesky(scope: Scope, op: Op) -> None:
    """A matrix is a task."""
    if not _is_small(op):
        host(scope, op)
        return
    (a,) = op.operands
    *lead, n, _ = a.shape
    source, result = scope.plain(a), scope.allocate(op.result)
    flops = prod(lead) * n**3 / 3
    threads = _threads(scope, op, prod(lead), flops)
    spec = CholeskySpec(tuple(lead), n, source.access, result.access)
    lowering = lower_cholesky(spec, scope.target, threads)
    _run(scope, op, lowering, [source], [result], flops, threads)


@lowers("solve")
def solve(scope: Scope, op: Op) -> None:
    """Elimination, a task a matrix; of triangles substitution, a task some columns."""
    if not _is_small(op):
        host(scope, op)
        return
    a, b = op.operands
    *lead, n, m = b.shape
    structure = op.attrs["structure"]
    left, right = scope.plain(a), scope.plain(b)
    result = scope.allocate(op.result)
    accesses = left.access, right.access, result.access
    if structure == "general":
        flops = prod(lead) * n * n * (2 * n / 3 + 2 * m)
        threads = _threads(scope, op, prod(lead), flops)
        system = EliminateSpec(tuple(lead), n, accesses[0], accesses[1], (accesses[2],), m)
        lowering = lower_eliminate(system, scope.target, threads)
    else:
        lower, unit = "lower" in structure, "unit" in structure
        spec = SubstituteSpec(tuple(lead), n, m, *accesses, lower=lower, unit=unit)
        flops = prod(lead) * n * n * m
        threads = _threads(scope, op, panels(spec, scope.target), flops)
        lowering = lower_substitute(spec, scope.target, threads)
    _run(scope, op, lowering, [left, right], [result], flops, threads)


@lowers("slogdet")
def slogdet(scope: Scope, op: Op) -> None:
    """Elimination, a task a matrix."""
    if not _is_small(op):
        host(scope, op)
        return
    (a,) = op.operands
    *lead, n, _ = a.shape
    source, results = scope.plain(a), [scope.allocate(v) for v in op.results]
    flops = prod(lead) * n**3 * 2 / 3
    threads = _threads(scope, op, prod(lead), flops)
    signs, logarithms = (r.access for r in results)
    spec = EliminateSpec(tuple(lead), n, source.access, None, (signs, logarithms))
    lowering = lower_eliminate(spec, scope.target, threads)
    _run(scope, op, lowering, [source], results, flops, threads)


def _threads(scope: Scope, op: Op, tasks: int, flops: float) -> int:
    """How many threads share the tasks."""
    return 1 if tasks == 1 else scope.threads_for(flops, _bytes(op))


def _bytes(op: Op) -> float:
    return float(sum(v.type.bytes for v in (*op.operands, *op.results)))


def _run(
    scope: Scope, op: Op, lowering: Lowering, sources: Sequence[Storage],
    results: Sequence[Storage], flops: float, threads: int,
) -> None:  # fmt: skip
    parallel = threads > 1
    scope.run(lowering, sources, results, flops=flops, bytes=_bytes(op), parallel=parallel)
