"""Attention and its gradient, one kernel each."""

from __future__ import annotations

from math import prod

from symgrad.codegen.kernels.attention import Heads
from symgrad.codegen.kernels.attention_backward import AttentionGradSpec, lower_attention_grad
from symgrad.codegen.kernels.attention_forward import AttentionSpec, lower_attention
from symgrad.codegen.lowering.linalg import DENSITY
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage
from symgrad.ir.graph import Op


def _heads(op: Op, q: Storage, k: Storage, v: Storage, mask: list[Storage]) -> Heads:
    return Heads(
        batch=q.shape[:-2],
        queries=q.shape[-2],
        keys=k.shape[-2],
        depth=q.shape[-1],
        width=v.shape[-1],
        q=q.access,
        k=k.access,
        v=v.access,
        mask=mask[0].access if mask else None,
        scale=float(op.attrs["scale"]),
        causal=bool(op.attrs["causal"]),
    )


def _work(op: Op, heads: Heads, over_depth: int, over_width: int) -> tuple[float, float]:
    """Flops of so many products over depth and over width, and bytes moved."""
    pairs = prod(heads.batch) * heads.queries * heads.keys * (0.5 if heads.causal else 1.0)
    flops = 2.0 * pairs * (over_depth * heads.depth + over_width * heads.width + 10)
    return flops, float(sum(x.type.bytes for x in (*op.operands, *op.results)))


@lowers("attention")
def attention(scope: Scope, op: Op) -> None:
    """Softmax online, over blocks of keys."""
    operands = [scope.plain(x) for x in op.operands]
    q, k, v, *mask = operands
    results = [scope.allocate(x) for x in op.results]
    heads = _heads(op, q, k, v, mask)
    spec = AttentionSpec(heads, results[0].access, results[1].access)
    flops, moved = _work(op, heads, 1, 1)
    threads = scope.threads_for(flops / DENSITY, moved)
    lowering = lower_attention(spec, scope.target, threads)
    scope.choose("online softmax")
    scope.run(lowering, operands, results, flops=flops, bytes=moved, parallel=threads > 1)


@lowers("attention_grad")
def attention_grad(scope: Scope, op: Op) -> None:
    """The weights made again from the denominators that the forward pass left."""
    ct, q, k, v, lse, delta, *mask = (scope.plain(x) for x in op.operands)
    # Rows of ct and q are read as vectors too.
    ct, q = (
        storage if storage.access.strides[-1] == 1 else scope.dense(value)
        for storage, value in zip((ct, q), op.operands, strict=False)
    )
    results = [scope.allocate(x) for x in op.results]
    heads = _heads(op, q, k, v, mask)
    dq, dk, dv = (result.access for result in results)
    spec = AttentionGradSpec(heads, ct.access, lse.access, delta.access, dq, dk, dv)
    flops, moved = _work(op, heads, 3, 2)
    threads = scope.threads_for(flops / DENSITY, moved)
    lowering = lower_attention_grad(spec, scope.target, threads)
    scope.choose("online softmax")
    operands = [ct, q, k, v, lse, delta, *mask]
    scope.run(lowering, operands, results, flops=flops, bytes=moved, parallel=threads > 1)
