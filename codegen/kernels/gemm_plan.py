"""The operands of a matrix product as matrices, its schedule, and where packed blocks lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod

from symgrad.codegen.kernels.gemm_schedule import Problem, schedule
from symgrad.codegen.kernels.gemm_spec import GemmSpec, partial_sums
from symgrad.codegen.kernels.matrix import Matrix, Operand, permuted
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.target import Target


class Plan:
    """A spec's operands as matrices, its schedule, and the layout of packed blocks."""

    def __init__(self, spec: GemmSpec, target: Target) -> None:
        self.spec = spec
        # Vectors run along the columns of C at one stride.  Where several of its
        # column dimensions cannot be merged, all but the last join the batch.
        batch, moved = len(spec.batch), len(spec.n) - spec.mergeable
        self.head, self.inner = (*spec.batch, *spec.n[:moved]), spec.n[moved:]
        self.batch, self.m, self.n, self.k = map(prod, (self.head, spec.m, self.inner, spec.k))
        a_axes = list(range(batch + len(spec.m) + len(spec.k)))
        a = permuted(spec.a, [*a_axes[:batch], *[None] * moved, *a_axes[batch:]])
        c = replace(spec.c, strides=spec.c.strides[1:]) if spec.splits > 1 else spec.c
        self.a = Matrix.of(a, self.head, spec.m, spec.k)
        self.b, self.c = self._regrouped(spec.b, spec.k), self._regrouped(c, spec.m)
        holds_partials = c.dtype == spec.accumulator
        sizes = self.batch, self.m, self.n, self.k
        problem = Problem(*sizes, self.a, self.b, holds_partials, spec.threads, spec.splits)
        self.schedule = s = schedule(problem, target)
        self.k_blocks = max(1, ceil(self.k / max(1, s.kc)))
        self.a_lines = s.form != "outer" or self.a.run(self.a.cols) >= self.a.run(self.a.rows)
        self.b_lines = self.b.run(self.b.cols) >= self.b.run(self.b.rows)
        self.pitch = round_up(s.kc, s.lanes) + s.lanes
        self.a_tile, self.b_tile = s.mr * self.pitch, s.nr * self.pitch
        a_items = s.pack_a * s.mc // s.mr * self.a_tile
        b_items = s.pack_b * s.nc // s.nr * self.b_tile
        self.a_area = round_up(a_items * problem.bytes, 64)
        self.scratch = self.a_area + round_up(b_items * problem.bytes, 64)

    def _axes(self, rows: Sequence[int], lead: int = 0) -> tuple[list[int], list[int], list[int]]:
        """Axes of the batch, the rows and the columns of an operand that has ``lead`` more."""
        batch = len(self.spec.batch)
        axes = list(range(lead, lead + batch + len(rows) + len(self.spec.n)))
        cols = axes[batch + len(rows) :]
        moved = len(self.head) - batch
        return axes[:batch] + cols[:moved], axes[batch : batch + len(rows)], cols[moved:]

    def _regrouped(self, operand: Operand, rows: Sequence[int]) -> Matrix:
        """An operand over ``batch + rows + n`` as matrices."""
        head, mid, cols = self._axes(rows)
        return Matrix.of(permuted(operand, head + mid + cols), self.head, rows, self.inner)

    def partials(self, splits: int) -> Matrix:
        """For each row of C, its partial sums as a matrix of ``splits`` rows."""
        head, rows, cols = self._axes(self.spec.m, lead=1)
        operand = permuted(partial_sums(self.spec, splits), [*head, *rows, 0, *cols])
        return Matrix.of(operand, (*self.head, *self.spec.m), (splits,), self.inner)
