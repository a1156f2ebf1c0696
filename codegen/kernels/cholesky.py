"""Cholesky's factorisation, a block of rows of the upper factor at a time.

``u.T @ u = a`` for the transposed factor ``u``, whose rows lie in scratch memory: of each block
of rows the products with all rows before it are subtracted, as in ``triangle``.  The leftmost
tile of a block holds the block's own part of the diagonal.  It is factored in registers,
where an element of the diagonal is a lane of its row; the other tiles are substituted.
Rows are filled up with those of the unit matrix, so that there are no odd ones.
"""

from __future__ import annotations

from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.kernels.triangle import (
    Matrix,
    Sums,
    Tile,
    each_task,
    matrix_of,
    place_of,
    solve_rows,
    tile_for,
)
from symgrad.codegen.registers import Int, Reg, bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record


@record
class CholeskySpec:
    """Lower triangles of matrices [n, n] over the last two axes to lower triangular factors.

    nan in the lower triangle where a matrix is not positive definite.
    """

    lead: tuple[int, ...]
    n: int
    a: Access
    result: Access

    @property
    def scalar(self) -> str:
        """LLVM type of an element."""
        return MEMORY_TYPES[self.a.dtype]


def lower_cholesky(spec: CholeskySpec, target: Target, threads: int) -> Lowering:
    """One kernel; its operand is the matrices."""
    room = threads * _Plan(spec, target).scratch
    return Lowering((Phase("cholesky", emit_cholesky, spec, (0, 1), room),))


class _Plan:
    """The tile, and the sizes of the factor in memory."""

    def __init__(self, spec: CholeskySpec, target: Target) -> None:
        self.tile = tile = _tile(tile_for(target, spec.scalar, 1 << 16), spec.n, target)
        self.rows = round_up(spec.n, tile.rows)
        self.pitch = round_up(self.rows + tile.width, tile.lanes)
        count = self.rows * self.pitch + tile.rows  # behind the factor the inverses of a block
        self.scratch = round_up(count * bytes_of(spec.scalar), 64)


def _tile(tile: Tile, n: int, target: Target) -> Tile:
    """One that is as wide as it has rows at least, as it must hold their diagonal."""
    rows = tile.rows
    while True:
        vectors = max(-(-rows // tile.lanes), 2 if n > tile.lanes else 1)
        fits = rows * vectors <= target.vector_registers * 5 // 8 and rows < 2 * n
        if fits or rows == 1:
            return Tile(rows, vectors, tile.lanes)
        rows //= 2


def emit_cholesky(k: Emitter, name: str, spec: CholeskySpec) -> None:
    """Writes the kernel of a ``CholeskySpec``."""
    plan, n = _Plan(spec, k.target), spec.n
    with each_task(k, name, 2, prod(spec.lead), plan.scratch) as (bases, task, own):
        lead = place_of(k, task, spec.lead)
        a, result = (
            matrix_of(k, access, base, lead)
            for access, base in zip((spec.a, spec.result), bases, strict=True)
        )
        upper = Matrix(own, spec.scalar, plan.pitch)
        _fill(k, a, upper, n, plan.rows)
        good = k.alloca("i1")
        k.store(Reg("true", "i1"), good)
        tile, inverses = plan.tile, upper.at(k, plan.rows, 0)
        with k.loop(0, plan.rows, tile.rows) as start:
            _factor_block(k, tile, upper, start, inverses, good)
            with k.loop(k.add(start, tile.width), plan.rows, tile.width) as column:
                _substitute_tile(k, tile, upper, start, column, inverses)
        _write(k, upper, result, n, k.load("i1", good))


def _fill(k: Emitter, a: Matrix, upper: Matrix, n: int, rows: int) -> None:
    """The lower triangle transposed, and the unit matrix behind it."""
    with k.loop(0, n) as i, k.loop(0, k.add(i, 1)) as j:
        k.store(k.load(a.scalar, a.at(k, i, j)), upper.at(k, j, i))
    zero, one = k.zero(a.scalar), k.const(a.scalar, 1.0)
    with k.loop(0, n) as i:
        for extra in range(n, rows):
            k.store(zero, upper.at(k, i, extra))
    for row in range(n, rows):
        for column in range(row, rows):
            k.store(one if row == column else zero, upper.at(k, row, column))


def _factor_block(
    k: Emitter, tile: Tile, upper: Matrix, start: Int, inverses: Reg, good: Reg
) -> None:
    """The leftmost tile of a block of rows, with the diagonal, whose inverses are stored."""
    sums = Sums(k, tile, tile.rows, upper.scalar)
    sums.load(upper, start, start)
    sums.subtract(start, _transposed(upper), upper, start, start)
    rows, one = sums.get(), k.const(upper.scalar, 1.0)
    for r in range(tile.rows):
        vector, lane = divmod(r, tile.lanes)
        square = k.extract(rows[r][vector], lane)
        k.store(k.bits("and", k.load("i1", good), k.fcmp("ogt", square, k.zero(square.type))), good)
        root = k.intrinsic("sqrt", square)
        inverse = k.fdiv(one, root)
        k.store(inverse, k.gep(inverses, r, upper.scalar))
        rows[r] = [k.fmul(v, k.splat(inverse, tile.lanes)) for v in rows[r]]
        rows[r][vector] = k.insert(rows[r][vector], root, lane) if tile.lanes > 1 else root
        for below in range(r + 1, tile.rows):
            vector_below, lane_below = divmod(below, tile.lanes)
            factor = k.splat(k.extract(rows[r][vector_below], lane_below), tile.lanes)
            rows[below] = [
                k.fma(factor, k.fneg(v), s) for v, s in zip(rows[r], rows[below], strict=True)
            ]
    _store(k, tile, rows, upper, start, start)


def _substitute_tile(
    k: Emitter, tile: Tile, upper: Matrix, start: Int, column: Int, inverses: Reg
) -> None:
    """Another tile of a block of rows."""
    sums = Sums(k, tile, tile.rows, upper.scalar)
    sums.load(upper, start, column)
    lower = _transposed(upper)
    sums.subtract(start, lower, upper, column, start)
    found = solve_rows(
        k,
        sums.get(),
        lambda i, j: k.broadcast_load(sums.type, lower.at(k, k.add(start, i), k.add(start, j))),
        lambda i: k.broadcast_load(sums.type, k.gep(inverses, i, upper.scalar)),
    )
    _store(k, tile, found, upper, start, column)


def _transposed(matrix: Matrix) -> Matrix:
    return Matrix(matrix.base, matrix.scalar, matrix.column, matrix.row)


def _store(
    k: Emitter, tile: Tile, rows: list[list[Reg]], upper: Matrix, start: Int, column: Int
) -> None:
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            k.store(value, upper.at(k, k.add(start, r), k.add(column, c * tile.lanes)))


def _write(k: Emitter, upper: Matrix, result: Matrix, n: int, good: Reg) -> None:
    """The transposed factor with zeros above the diagonal."""
    nan, zero = k.const(upper.scalar, float("nan")), k.zero(upper.scalar)
    with k.loop(0, n) as i:
        end = k.add(i, 1)
        with k.loop(0, end) as j:
            value = k.load(upper.scalar, upper.at(k, j, i))
            k.store(k.select(good, value, nan), result.at(k, i, j))
        with k.loop(end, n) as j:
            k.store(zero, result.at(k, i, j))
