"""Gaussian elimination with partial pivoting: linear systems and determinants.

The matrix lies in scratch memory with the right-hand sides beside it, so that elimination does
to them what forward substitution would; back substitution remains (``triangle``).

It goes by *panels*, a few columns each.  A panel is factored in a copy by columns, where the
search for a pivot and the division run along contiguous memory.  Then the same steps are taken on
all columns to the right: of a tile of columns the panel's rows of the upper factor stay in
registers, while the rows below stream by.
"""

from __future__ import annotations

from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.kernels.triangle import (
    Matrix,
    copy_in,
    copy_out,
    each_task,
    invert_diagonal,
    matrix_of,
    place_of,
    solve_rows,
    substitute,
    tile_for,
)
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.scalar import emit_op
from symgrad.codegen.target import Target
from symgrad.ir.record import record

INF, NAN = float("inf"), float("nan")


@record
class EliminateSpec:
    """For matrices ``a`` [n, n] over the last two axes, either ``x`` of ``a @ x = b``, both
    [n, m], nan where ``a`` is singular; or, without ``b``, the sign of the determinant and the
    logarithm of its absolute value, 0 and -inf where it is zero."""

    lead: tuple[int, ...]
    n: int
    a: Access
    b: Access | None
    results: tuple[Access, ...]
    m: int = 0

    @property
    def scalar(self) -> str:
        """LLVM type of an element."""
        return MEMORY_TYPES[self.a.dtype]


def lower_eliminate(spec: EliminateSpec, target: Target, threads: int) -> Lowering:
    """One kernel; its operands are ``a`` and, if there is one, ``b``."""
    room = threads * _Plan(spec, target).scratch
    buffers = tuple(range(1 + (spec.b is not None) + len(spec.results)))
    return Lowering((Phase("eliminate", emit_eliminate, spec, buffers, room),))


class _Plan:
    """The tile, and where in a thread's memory things lie, in elements."""

    def __init__(self, spec: EliminateSpec, target: Target) -> None:
        self.tile = tile = tile_for(target, spec.scalar, 1 << 16)
        self.columns = spec.n + spec.m
        self.pitch = round_up(self.columns + tile.width, tile.lanes)
        self.length = round_up(spec.n, tile.lanes) + tile.lanes
        """Of a panel's column: vectors that begin anywhere in it end within."""
        self.panel = spec.n * self.pitch
        self.diagonal = self.panel + tile.rows * self.length
        self.scratch = round_up((self.diagonal + self.length) * bytes_of(spec.scalar), 64)


def emit_eliminate(k: Emitter, name: str, spec: EliminateSpec) -> None:
    """Writes the kernel of an ``EliminateSpec``."""
    plan, accesses = _Plan(spec, k.target), [spec.a, *([spec.b] if spec.b else []), *spec.results]
    with each_task(k, name, len(accesses), prod(spec.lead), plan.scratch) as (bases, task, own):
        lead = place_of(k, task, spec.lead)
        elimination = _Elimination(k, spec, plan, own)
        elimination.take(matrix_of(k, spec.a, bases[0], lead), spec.a.dtype, 0, spec.n)
        if spec.b is not None:
            elimination.take(matrix_of(k, spec.b, bases[1], lead), spec.b.dtype, spec.n, spec.m)
        elimination.run()
        if spec.b is not None:
            x = matrix_of(k, spec.results[0], bases[2], lead)
            elimination.write_solution(x, spec.results[0].dtype)
        else:
            places = [
                access.address(k, base, lead)
                for access, base in zip(spec.results, bases[1:], strict=True)
            ]
            elimination.write_determinant(places[0], places[1])


class _Elimination:
    """One matrix: ``rows`` with what stands beside it; ``panel`` has some columns as rows."""

    def __init__(self, k: Emitter, spec: EliminateSpec, plan: _Plan, own: Reg) -> None:
        self.k, self.spec, self.plan, self.tile = k, spec, plan, plan.tile
        self.scalar, self.n = spec.scalar, spec.n
        self.type = vec(self.scalar, self.tile.lanes)
        self.rows = Matrix(own, self.scalar, plan.pitch)
        self.panel = Matrix(k.gep(own, plan.panel, self.scalar), self.scalar, plan.length)
        self.diagonal = k.gep(own, plan.diagonal, self.scalar)
        self.singular, self.is_negative = k.alloca("i1"), k.alloca("i1")
        for flag in (self.singular, self.is_negative):
            k.store(Reg("false", "i1"), flag)

    def take(self, source: Matrix, dtype: str, column: int, count: int) -> None:
        """Copies a matrix of so many columns to a column of the work."""
        k, tile = self.k, self.tile
        for first in range(0, count, tile.width):
            valid = min(tile.width, count - first)
            target = self.rows.shifted(k, 0, column + first)
            copy_in(k, source.shifted(k, 0, first), dtype, target, self.n, tile, valid)

    def run(self) -> None:
        """Leaves the upper factor in ``rows``."""
        k, width = self.k, self.tile.rows
        if head := self.n % width:  # the odd columns first: there is one loop for all others
            self._step(0, head)
        with k.loop(head, self.n, width) as start:
            self._step(start, width)

    def _step(self, start: Int, width: int) -> None:
        """Eliminates so many columns from ``start`` on."""
        k, end = self.k, self.k.add(start, width)
        self._take_panel(start, width)
        with k.loop(0, width) as c:
            self._eliminate_column(c, k.add(start, c), width, end)
        with k.loop(0, width) as r, k.loop(r, width) as c:
            i, j = k.add(start, r), k.add(start, c)
            k.store(k.load(self.scalar, self.panel.at(k, c, i)), self.rows.at(k, i, j))
        with k.loop(end, self.plan.columns, self.tile.width) as column:
            self._update(start, width, column)

    def _take_panel(self, start: Int, width: int) -> None:
        """Copies columns, and zeros behind them, which must not be taken for pivots."""
        k, columns = self.k, range(width)
        with k.loop(start, self.n) as i:
            for c in columns:
                element = k.load(self.scalar, self.rows.at(k, i, k.add(start, c)))
                k.store(element, self.panel.at(k, c, i))
        zero = k.zero(self.scalar)
        with k.loop(self.n, self.plan.length) as i:
            for c in columns:
                k.store(zero, self.panel.at(k, c, i))

    # -- a panel -----------------------------------------------------------------------

    def _eliminate_column(self, c: Int, at: Int, width: int, end: Int) -> None:
        """Column ``c`` of the panel, whose diagonal element is that of row ``at``."""
        k, panel = self.k, self.panel
        pivot = self._pivot(c, at)
        with k.if_(k.icmp("ne", pivot, at)):
            k.store(k.bits("xor", k.load("i1", self.is_negative), Reg("true", "i1")),
                    self.is_negative)  # fmt: skip
            with k.loop(0, width) as other:
                self._swap(panel.at(k, other, at), panel.at(k, other, pivot), self.scalar)
            with k.loop(end, self.plan.columns, self.tile.lanes) as column:
                self._swap(self.rows.at(k, at, column), self.rows.at(k, pivot, column), self.type)
        value = k.load(self.scalar, panel.at(k, c, at))
        k.store(value, k.gep(self.diagonal, at, self.scalar))
        is_zero = k.fcmp("oeq", value, k.zero(self.scalar))
        k.store(k.bits("or", k.load("i1", self.singular), is_zero), self.singular)
        inverse = k.splat(k.fdiv(k.const(self.scalar, 1.0), value), self.tile.lanes)
        below = k.add(at, 1)
        with k.loop(below, self.n, self.tile.lanes) as i:
            place = panel.at(k, c, i)
            k.store(k.fmul(k.load(self.type, place), inverse), place)
        with k.loop(k.add(c, 1), width) as other:
            factor = k.fneg(k.broadcast_load(self.type, panel.at(k, other, at)))
            with k.loop(below, self.n, self.tile.lanes) as i:
                place = panel.at(k, other, i)
                multiple = k.load(self.type, panel.at(k, c, i))
                k.store(k.fma(factor, multiple, k.load(self.type, place)), place)

    def _swap(self, a: Reg, b: Reg, type: str) -> None:
        k = self.k
        first, second = k.load(type, a), k.load(type, b)
        k.store(first, b)
        k.store(second, a)

    def _pivot(self, c: Int, at: Int) -> Reg:
        """The first row from ``at`` on that has the largest absolute value in a column.

        nan counts as infinite: as a pivot it spoils all that depends on it.
        """
        k, lanes = self.k, self.tile.lanes
        integer = f"i{8 * bytes_of(self.scalar)}"
        best, where = k.alloca(self.type), k.alloca(vec(integer, lanes))
        begin = k.splat(self._narrow(at, integer), lanes)
        k.store(k.const(self.type, -1.0), best)
        k.store(begin, where)
        with k.loop(at, self.n, lanes) as i:
            size = k.intrinsic("fabs", k.load(self.type, self.panel.at(k, c, i)))
            infinite = k.const(self.type, INF)
            size = k.select(k.fcmp("uno", size, size), infinite, size)
            place = k.add(k.splat(self._narrow(i, integer), lanes), k.lane_index(integer, lanes))
            before, place_before = k.load(self.type, best), k.load(vec(integer, lanes), where)
            larger = k.fcmp("ogt", size, before)
            k.store(k.select(larger, size, before), best)
            k.store(k.select(larger, k.as_reg(place), place_before), where)
        values, places = k.load(self.type, best), k.load(vec(integer, lanes), where)
        largest = k.splat(k.reduce("fmax", values), lanes)
        far = k.const(places.type, (1 << 31) - 1)
        first = k.reduce("smin", k.select(k.fcmp("oeq", values, largest), places, far))
        return k.cast("sext", first, "i64") if integer != "i64" else first

    def _narrow(self, value: Int, integer: str) -> Reg:
        reg = self.k.as_reg(value)
        return reg if integer == "i64" else self.k.cast("trunc", reg, integer)

    # -- what is right of it -----------------------------------------------------------

    def _update(self, start: Int, width: int, column: Int) -> None:
        """Takes a panel's steps on a tile of columns."""
        k, tile = self.k, self.tile
        below = Matrix(self.panel.base, self.scalar, 1, self.plan.length)  # multipliers by row
        vectors = [k.add(column, c * tile.lanes) for c in range(tile.vectors)]

        def load(i: Int) -> list[Reg]:
            return [k.load(self.type, self.rows.at(k, i, c)) for c in vectors]

        def store(i: Int, values: list[Reg]) -> None:
            for value, c in zip(values, vectors, strict=True):
                k.store(value, self.rows.at(k, i, c))

        def factor(i: Int, c: int) -> Reg:
            return k.broadcast_load(self.type, below.at(k, i, c))

        own = [k.add(start, r) for r in range(width)]
        solved = solve_rows(k, [load(i) for i in own], lambda i, j: factor(own[i], j), None)
        for i, values in zip(own, solved, strict=True):
            store(i, values)
        minus = [[k.fneg(v) for v in row] for row in solved]
        with k.loop(k.add(start, width), self.n) as i:
            sums = load(i)
            for r, row in enumerate(minus):
                sums = [k.fma(factor(i, r), v, s) for v, s in zip(row, sums, strict=True)]
            store(i, sums)

    # -- results -----------------------------------------------------------------------

    def write_solution(self, x: Matrix, dtype: str) -> None:
        """Back substitution; nan where a pivot was zero."""
        k, n, m = self.k, self.n, self.spec.m
        tile = tile_for(k.target, self.scalar, m)
        triangle = self.rows.flipped(k, n, n)
        inverses = self.panel.base  # the panel is used up
        invert_diagonal(k, n, triangle, inverses)
        singular, nan = k.load("i1", self.singular), k.const(vec(self.scalar, tile.lanes), NAN)
        with k.loop(0, m, tile.width) as column:
            beside = self.rows.shifted(k, 0, k.add(column, n))
            substitute(k, tile, n, triangle, beside.flipped(k, n), inverses)
            valid = tile.width if m % tile.width == 0 else k.sub(m, column)
            copy_out(
                k, beside, x.shifted(k, 0, column), dtype, n, tile, valid,
                lambda value: k.select(singular, nan, value),
            )  # fmt: skip

    def write_determinant(self, sign: Reg, logarithm: Reg) -> None:
        """The product of the pivots, as sign and logarithm."""
        k, dtype, lanes = self.k, self.spec.a.dtype, self.tile.lanes
        padded = round_up(self.n, lanes)
        for extra in range(self.n, padded):
            k.store(k.const(self.scalar, 1.0), k.gep(self.diagonal, extra, self.scalar))
        total = k.alloca(self.type)
        k.store(k.zero(self.type), total)
        with k.loop(0, padded, lanes) as i:
            size = k.intrinsic("fabs", k.load(self.type, k.gep(self.diagonal, i, self.scalar)))
            logs = emit_op(k, "log", (size,), (dtype,))
            k.store(k.fadd(k.load(self.type, total), logs), total)
        with k.loop(0, self.n) as i:
            value = k.load(self.scalar, k.gep(self.diagonal, i, self.scalar))
            below = k.fcmp("olt", value, k.zero(self.scalar))
            k.store(k.bits("xor", k.load("i1", self.is_negative), below), self.is_negative)
        one = k.const(self.scalar, 1.0)
        signed = k.select(k.load("i1", self.is_negative), k.const(self.scalar, -1.0), one)
        singular = k.load("i1", self.singular)
        k.store(k.select(singular, k.zero(self.scalar), signed), sign)
        found = k.reduce("fadd", k.load(self.type, total))
        k.store(k.select(singular, k.const(self.scalar, -INF), found), logarithm)
