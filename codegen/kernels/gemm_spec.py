"""What a matrix product computes, and its equivalent forms."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from symgrad.codegen.access import Access, Epilogue, row_major
from symgrad.codegen.kernels.matrix import Operand, permuted
from symgrad.codegen.kernels.pack import summed_dtype
from symgrad.ir.record import record


@record
class GemmSpec:
    """``C[b, m, n] = epilogue(sum over k of A[b, m, k] * B[b, k, n])``.

    Each of the index groups may run over several dimensions.  ``a`` is an operand
    over ``batch + m + k``, ``b`` over ``batch + k + n``, ``c`` and the epilogue's
    operands are accesses over ``batch + m + n``.  A and B have one dtype; sums are
    kept in it, those of half types in f32.  C overlaps no operand.
    """

    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    a: Operand
    b: Operand
    c: Access
    epilogue: Epilogue | None = None
    threads: int = 1
    splits: int = 1
    """Parts of the contraction; if not 1, C has a leading dimension of that size."""

    @property
    def accumulator(self) -> str:
        """IR dtype of the sums."""
        return summed_dtype(self.a.dtype)

    @property
    def mergeable(self) -> int:
        """How many of the last dimensions of ``n`` have one stride in C and the epilogue."""
        accesses = (self.c, *(self.epilogue.operands if self.epilogue else ()))
        count = min(1, len(self.n))
        while count < len(self.n) and all(
            access.strides[-count - 1] == access.strides[-count] * self.n[-count]
            for access in accesses
        ):
            count += 1
        return count


def partial_sums(spec: GemmSpec, splits: int) -> Access:
    """Where the partial sums of a split contraction lie."""
    shape = (splits, *spec.batch, *spec.m, *spec.n)
    return Access(spec.accumulator, row_major(shape))


def runs_down(spec: GemmSpec) -> bool:
    """Whether vectors should rather run along the columns of C than along its rows."""
    if not spec.n or not spec.m:
        return not spec.n  # then the rows are its last dimensions, also to the epilogue
    rows, cols = prod(spec.m), prod(spec.n)
    row_step, col_step = spec.c.strides[-1 - len(spec.n)], spec.c.strides[-1]
    return not spec.epilogue and rows > 1 and row_step == 1 and (cols == 1 or col_step != 1)


def transposed(spec: GemmSpec) -> GemmSpec:
    """The same product as transpose(C) = transpose(B) transpose(A).

    The epilogue must not tell rows from columns: it is None, or ``m`` or ``n`` is empty.
    """
    batch, m, n, k = (len(dims) for dims in (spec.batch, spec.m, spec.n, spec.k))

    def swapped(rows: int, cols: int) -> list[int]:
        axes = list(range(batch + rows + cols))
        return axes[:batch] + axes[batch + rows :] + axes[batch : batch + rows]

    a, b = permuted(spec.b, swapped(k, n)), permuted(spec.a, swapped(m, k))
    strides = tuple(spec.c.strides[axis] for axis in swapped(m, n))
    return replace(spec, m=spec.n, n=spec.m, a=a, b=b, c=replace(spec.c, strides=strides))
