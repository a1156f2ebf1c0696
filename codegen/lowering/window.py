"""Pooling and its adjoints, in whichever layout their operands live."""

from __future__ import annotations

from math import prod

from symgrad.codegen.access import Access
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.pool import PoolSpec, emit_pool
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage
from symgrad.ir.graph import Op

_NO_HALO = ((0, 0), (0, 0))


@lowers("window_sum", "window_sum_grad", "window_max", "window_max_scatter", "window_max_gather")
def pool(scope: Scope, op: Op) -> None:
    """One kernel for every pooling op and layout."""
    result = scope.allocate(op.result, plain=False)
    blocked = result.blocked is not None
    operands = [scope.blocked(v, _NO_HALO) if blocked else scope.plain(v) for v in op.operands]
    scatters = op.name in ("window_max_scatter", "window_sum_grad")
    wide = op.result if scatters else op.operands[0]
    narrow = op.operands[-1] if scatters else op.result
    n, channels = wide.shape[:2]
    block = result.blocked.block if result.blocked else 1
    spec = PoolSpec(
        op=op.name,
        outer=(n, channels // block),
        spatial=wide.shape[2:],
        out=narrow.shape[2:],
        trailing=block,
        window=op.attrs["window"],
        stride=op.attrs["stride"],
        padding=tuple(low for low, _ in op.attrs["padding"]),
        dilation=op.attrs["dilation"],
        accesses=tuple(_access(s) for s in (*operands, result)),
    )
    scope.choose("blocked pooling" if blocked else "plain pooling")
    phase = Phase(op.name, emit_pool, spec, tuple(range(len(operands) + 1)))
    scope.run(
        Lowering((phase,)),
        operands,
        [result],
        flops=float(narrow.type.size * prod(op.attrs["window"])),
        bytes=float(sum(v.type.bytes for v in (*op.operands, op.result))),
    )


def _access(storage: Storage) -> Access:
    """Over (image, channel block, spatial, lane); plain storage has a trailing axis of 1."""
    if storage.blocked is not None:
        return storage.access
    access = storage.access
    return Access(access.dtype, (*access.strides, 1), access.offset)
