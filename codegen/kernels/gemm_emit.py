"""The loops of a matrix product around its register tiles: blocks, packing, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from math import ceil, prod

from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm_plan import Plan
from symgrad.codegen.kernels.gemm_result import Result
from symgrad.codegen.kernels.gemm_schedule import TILES
from symgrad.codegen.kernels.gemm_spec import GemmSpec
from symgrad.codegen.kernels.gemm_tiles import TileSums, clear_beyond
from symgrad.codegen.kernels.matrix import Matrix, Source
from symgrad.codegen.kernels.microkernel import (
    Accumulators,
    Feed,
    Piece,
    accumulator_type,
    dot_tile,
    outer_tile,
    pieces,
    sum_lanes,
)
from symgrad.codegen.kernels.pack import (
    pack_lines,
    pack_transposed,
    packed_dtype,
    prefetch_share,
    vectors,
)
from symgrad.codegen.kernels.tile_unit import SIDE
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.scalar import emit_op
from symgrad.ir.record import record

Range = tuple[Int, Int]

STRIP = 16
"""Contraction steps that are packed side by side."""


def emit_gemm(k: Emitter, name: str, spec: GemmSpec) -> None:
    """The product as a kernel: arguments A, B, the epilogue's operands, C, scratch.

    With ``spec.splits`` of more than 1, C has a leading dimension of that size and
    receives one partial sum per part of the contraction.
    """
    with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
        _Product(k, spec, args, tid).emit(tid, nth)


def emit_combine(k: Emitter, name: str, spec: GemmSpec) -> None:
    """Adds up ``spec.splits`` partial sums: arguments those, the epilogue's operands, C."""
    plan = Plan(replace(spec, splits=1), k.target)
    lanes, rows = plan.schedule.lanes, plan.batch * plan.m
    columns = ceil(plan.n / lanes)
    sums = plan.partials(spec.splits)
    with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
        operands = len(spec.epilogue.operands) if spec.epilogue else 0
        buffers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(operands + 2)]
        result = Result(k, plan, buffers[-1], buffers[1:-1])
        by_rows = rows >= columns
        share = k.slice(max(rows, columns), tid, nth)
        with k.loop(*(share if by_rows else (0, rows))) as line:
            batch, row = k.divmod(line, plan.m)
            result.at(batch)
            source = Source.of(k, sums, buffers[0], line)
            for loop, width in tiles(k, (0, columns) if by_rows else share, plan.n, lanes):
                (piece,) = pieces(width, lanes)
                with loop as tile:
                    col = k.mul(tile, lanes)
                    along = source.lanes(k, col, piece.lanes, piece.count)
                    total = source.load(k, 0, along)
                    for split in range(1, spec.splits):
                        part = source.load(k, split, along)
                        total = emit_op(k, "add", (total, part), (spec.accumulator,) * 2)
                    result.store(row, col, piece, total)


class _Product:
    """Emits the blocked loops around the tiles."""

    def __init__(self, k: Emitter, spec: GemmSpec, args: Reg, tid: Reg) -> None:
        self.k, self.plan = k, Plan(spec, k.target)
        operands = 2 + (len(spec.epilogue.operands) if spec.epilogue else 0)
        buffers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(operands + 1)]
        self.a_buffer, self.b_buffer = buffers[:2]
        self.result = Result(k, self.plan, buffers[-1], buffers[2:-1])
        self.unit = TileSums(k) if self.plan.schedule.form == TILES else None
        if self.plan.scratch:
            scratch = k.load("ptr", k.gep(args, operands + 1, "ptr"))
            self.a_block = k.gep(scratch, k.mul(tid, self.plan.scratch), "i8")
            self.b_block = k.gep(self.a_block, self.plan.a_area, "i8")

    def emit(self, tid: Reg, nth: Reg) -> None:
        """Deals out the shares: a grid over batch, M and N, times the splits."""
        k, plan, s = self.k, self.plan, self.plan.schedule
        if self.unit:
            self.unit.open()
        splits = plan.spec.splits
        shares = prod(s.grid) * splits
        with k.loop(tid, shares, nth) as share:
            rest, split = k.divmod(share if shares > 1 else 0, splits)
            rest, n_share = k.divmod(rest, s.grid[2])
            b_share, m_share = k.divmod(rest, s.grid[1])
            rows = k.slice(ceil(plan.m / s.mr), m_share, s.grid[1])
            cols = k.slice(ceil(plan.n / s.nr), n_share, s.grid[2])
            steps = k.slice(plan.k_blocks, split, splits)
            with span(k, *k.slice(plan.batch, b_share, s.grid[0])) as batch:
                self.result.at(batch, split)
                self.a = Source.of(k, plan.a, self.a_buffer, batch)
                self.b = Source.of(k, plan.b, self.b_buffer, batch)
                self._matrix(rows, cols, steps)
        if self.unit:
            self.unit.close()

    def _matrix(self, rows: Range, cols: Range, steps: Range) -> None:
        """One matrix of the batch: tiles ``rows`` x ``cols``, blocks ``steps`` of K."""
        k, plan, s = self.k, self.plan, self.plan.schedule
        nc, mc = s.nc // s.nr, s.mc // s.mr
        with span(k, *cols, nc) as n_block, span(k, *steps) as step:
            some_cols = n_block, k.min(k.add(n_block, nc), cols[1])
            start = k.mul(step, s.kc)
            whole = plan.k == plan.k_blocks * s.kc
            depth = s.kc if whole else k.min(s.kc, k.sub(plan.k, start))
            last = k.sub(steps[1], 1)
            part = _Part(start, depth, _equal(k, step, steps[0]), _equal(k, step, last))
            ahead = self._next_panel(part, n_block, steps) if s.ahead else None
            if s.pack_b:
                for strip, count in self._strips(depth, not plan.b_lines):
                    with strip as first:
                        for loop, width in tiles(k, some_cols, plan.n, s.nr):
                            with loop as j:
                                slot = k.sub(j, n_block)
                                self._pack_b(part, (first, count), j, slot, width)
                if self.unit:
                    for loop, _ in tiles(k, some_cols, plan.n, s.nr):
                        with loop as j:
                            panel = self._feed_b(part, j, k.sub(j, n_block))
                            clear_beyond(k, panel, s.nr, depth)
            with span(k, *rows, mc) as m_block:
                some_rows = m_block, k.min(k.add(m_block, mc), rows[1])
                if s.pack_a:
                    for strip, count in self._strips(depth, plan.a_lines):
                        with strip as first:
                            for loop, height in tiles(k, some_rows, plan.m, s.mr):
                                with loop as i:
                                    slot = k.sub(i, m_block)
                                    self._pack_a(part, (first, count), i, slot, height)
                                    if self.unit:
                                        lines = self._feed_a(part, i, slot)
                                        clear_beyond(k, lines, height, depth)
                starts = m_block, n_block
                if s.rows_first:
                    for outer, height in tiles(k, some_rows, plan.m, s.mr):
                        with outer as i:
                            for inner, width in tiles(k, some_cols, plan.n, s.nr):
                                with inner as j:
                                    self._tile(part, starts, (i, j), (height, width))
                else:
                    for outer, width in tiles(k, some_cols, plan.n, s.nr):
                        with outer as j:
                            for inner, height in tiles(k, some_rows, plan.m, s.mr):
                                with inner as i:
                                    if ahead:
                                        self._fetch_ahead(ahead, k.sub(i, m_block))
                                    self._tile(part, starts, (i, j), (height, width))

    def _strips(
        self, depth: Int, are_streams: bool
    ) -> Iterator[tuple[AbstractContextManager[Int], Int]]:
        """Where contraction steps that are packed together begin, and how many they are.

        Where they run across the lines of an operand, a tile takes a short piece of each.
        The lines of a strip are read on from tile to tile, as so many streams.  An operand
        whose rows or columns ``are_streams`` along the contraction is packed at once.
        """
        if self.plan.schedule.form == "dot" or are_streams:
            return iter([(nullcontext(0), depth)])
        return vectors(self.k, depth, STRIP)

    def _pack_a(
        self, part: _Part, strip: tuple[Int, Int], tile: Int, slot: Int, height: int
    ) -> None:
        """Packs some steps, given by the first in the block and their number, of a tile's rows."""
        k, plan, s = self.k, self.plan, self.plan.schedule
        dst = self._slot(self.a_block, plan.a, slot, plan.a_tile)
        first, count = strip
        row, step = k.mul(tile, s.mr), k.add(part.start, first)
        if self.unit and plan.a.run(plan.a.rows) > plan.a.run(plan.a.cols):
            pack_transposed(k, self.a, dst, (row, step), (height, count), plan.pitch, s.lanes)
        elif plan.a_lines:
            pack_lines(k, self.a, dst, (row, step), (height, count), plan.pitch, s.lanes)
        else:
            dst = k.gep(dst, k.mul(first, s.mr), MEMORY_TYPES[packed_dtype(plan.a.dtype)])
            pack_lines(k, self.a.transposed, dst, (step, row), (count, height), s.mr, s.lanes)

    def _pack_b(
        self, part: _Part, strip: tuple[Int, Int], tile: Int, slot: Int, width: int
    ) -> None:
        """Packs some steps, given by the first in the block and their number, of a panel."""
        k, plan, s = self.k, self.plan, self.plan.schedule
        dst = self._slot(self.b_block, plan.b, slot, plan.b_tile)
        first, count = strip
        at, shape = (k.add(part.start, first), k.mul(tile, s.nr)), (count, width)
        if s.form == "dot":
            pack_lines(k, self.b.transposed, dst, at[::-1], shape[::-1], plan.pitch, s.lanes)
        elif plan.b_lines:
            dst = k.gep(dst, k.mul(first, s.nr), MEMORY_TYPES[packed_dtype(plan.b.dtype)])
            pack_lines(k, self.b, dst, at, shape, s.nr, s.lanes)
        else:
            pack_transposed(k, self.b, dst, at, shape, s.nr, s.lanes)

    def _next_panel(self, part: _Part, tile: Int, steps: Range) -> tuple[Int, Int]:
        """Where the panel that comes after panel ``tile`` begins in B."""
        k, s = self.k, self.plan.schedule
        below, right = k.add(part.start, s.kc), k.mul(k.add(tile, 1), s.nr)
        if part.last is None:
            return part.start, right
        row = k.select(part.last, k.as_reg(k.mul(steps[0], s.kc)), k.as_reg(below))
        return row, k.select(part.last, k.as_reg(right), k.as_reg(k.mul(tile, s.nr)))

    def _fetch_ahead(self, first: tuple[Int, Int], tile: Int) -> None:
        """Asks for the share of B's next panel that falls to one of the tiles of this one.

        Packing, or a dot product with few rows, is too quick to wait for memory.
        """
        s, tiles_down = self.plan.schedule, ceil(self.plan.m / self.plan.schedule.mr)
        shares = ceil(tiles_down / s.grid[1])
        prefetch_share(self.k, self.b, first, (s.kc, s.nr), tile, shares)

    def _feed_a(self, part: _Part, tile: Int, slot: Int) -> Feed:
        k, plan, s = self.k, self.plan, self.plan.schedule
        if s.pack_a:
            base = self._slot(self.a_block, plan.a, slot, plan.a_tile)
            pitch, step = (plan.pitch, 1) if plan.a_lines else (1, s.mr)
            return Feed(packed_dtype(plan.a.dtype), base, pitch, step)
        return _in_place(k, self.a, k.mul(tile, s.mr), part.start)

    def _feed_b(self, part: _Part, tile: Int, slot: Int) -> Feed:
        k, plan, s = self.k, self.plan, self.plan.schedule
        if s.pack_b:
            base = self._slot(self.b_block, plan.b, slot, plan.b_tile)
            pitch, step = (plan.pitch, 1) if s.form == "dot" else (1, s.nr)
            return Feed(packed_dtype(plan.b.dtype), base, pitch, step)
        return _in_place(k, self.b.transposed, k.mul(tile, s.nr), part.start)

    def _slot(self, block: Reg, matrix: Matrix, slot: Int, size: int) -> Reg:
        return self.k.gep(block, self.k.mul(slot, size), MEMORY_TYPES[packed_dtype(matrix.dtype)])

    def _tile(
        self,
        part: _Part,
        starts: tuple[Int, Int],
        number: tuple[Int, Int],
        shape: tuple[int, int],
    ) -> None:
        """Tile ``number`` (down, across) of the result, in the block of tiles at ``starts``."""
        k, s, dtype, result = self.k, self.plan.schedule, self.plan.spec.accumulator, self.result
        a = self._feed_a(part, number[0], k.sub(number[0], starts[0]))
        b = self._feed_b(part, number[1], k.sub(number[1], starts[1]))
        at = k.mul(number[0], s.mr), k.mul(number[1], s.nr)
        (row, col), (height, width) = at, shape
        if self.unit:
            self.unit.multiply(a, b, shape, part.depth)
            self._store_sums(self.unit, part, at, shape)
            return
        line = pieces(width, s.lanes)
        if s.form == "dot":
            sums = [
                [sum_lanes(k, each[p.start : p.start + p.count], p.lanes, dtype) for p in line]
                for each in dot_tile(k, a, b, height, width, s.lanes, part.depth)
            ]
        else:
            acc = Accumulators(k, height, [accumulator_type(dtype, p.lanes) for p in line])
            acc.clear()
            errands = result.fetches(at, height, width, part.last)
            outer_tile(k, a, b, acc, height, line, part.depth, errands)
            # Adding block sums rounds less than one long sum.
            if part.first is not None and not result.turned:
                with k.if_(k.bits("xor", part.first, 1)):
                    for i, v in product(range(height), range(len(line))):
                        so_far = result.load(k.add(row, i), k.add(col, line[v].start), line[v])
                        acc[i, v] = emit_op(k, "add", (so_far, acc[i, v]), (dtype, dtype))
            sums = [[acc[i, v] for v in range(len(line))] for i in range(height)]

        if result.turned:
            if part.first is None:
                result.store_columns(at, line, sums)
                return
            with k.if_else(part.first) as (then, otherwise):
                with then:
                    result.store_columns(at, line, sums)
                with otherwise:
                    result.add_columns(at, line, sums)
            return

        def store(write: Callable[[Int, Int, Piece, Reg], None]) -> None:
            for i, v in product(range(height), range(len(line))):
                write(k.add(row, i), k.add(col, line[v].start), line[v], sums[i][v])

        self._finish(part, store)

    def _finish(
        self, part: _Part, store: Callable[[Callable[[Int, Int, Piece, Reg], None]], None]
    ) -> None:
        """Has ``store`` write results behind the last part of the sums, and else the sums."""
        k, result = self.k, self.result
        if part.last is None or result.plain:
            store(result.store)
            return
        with k.if_else(part.last) as (then, otherwise):
            with then:
                store(result.store)
            with otherwise:
                store(result.store_partial)

    def _store_sums(
        self, unit: TileSums, part: _Part, at: tuple[Int, Int], shape: tuple[int, int]
    ) -> None:
        """Stores what a matrix unit has summed, row by row."""
        k, result, (row, col), (height, width) = self.k, self.result, at, shape
        line = [Piece(j, SIDE, min(SIDE, width - j)) for j in range(0, width, SIDE)]

        def place(i: Int, v: int) -> tuple[Int, Int, Piece]:
            return k.add(row, i), k.add(col, line[v].start), line[v]

        def store(write: Callable[[Int, Int, Piece, Reg], None]) -> None:
            unit.each_row(height, len(line), lambda i, v: write(*place(i, v), unit[i, v]))

        if part.first is not None:
            with k.if_(k.bits("xor", part.first, 1)):
                unit.each_row(
                    height, len(line), lambda i, v: unit.add((i, v), result.load(*place(i, v)))
                )
        self._finish(part, store)


@record
class _Part:
    """A block of the contraction."""

    start: Int
    depth: Int
    first: Reg | None
    last: Reg | None
    """Whether it begins or ends a sum; None where it surely does."""


def _equal(k: Emitter, a: Int, b: Int) -> Reg | None:
    """Whether two indices are equal; None where it is known that they are."""
    return None if isinstance(a, int) else k.icmp("eq", a, b)


def _in_place(k: Emitter, lines: Source, line: Int, start: Int) -> Feed:
    """Reads ``lines`` (its columns run along the contraction) where they lie."""
    matrix = lines.matrix
    assert matrix.strides is not None
    pitch, step = matrix.strides
    offset = k.add(k.mul(line, pitch), k.mul(start, step))
    return Feed(matrix.dtype, k.gep(lines.base, offset, MEMORY_TYPES[matrix.dtype]), pitch, step)


@contextmanager
def span(k: Emitter, start: Int, stop: Int, step: int = 1) -> Iterator[Int]:
    """``for i in range(start, stop, step)``; a constant where it runs exactly once."""
    if isinstance(start, int) and isinstance(stop, int) and start < stop <= start + step:
        yield start
    else:
        with k.loop(start, stop, step) as index:
            yield index


def tiles(
    k: Emitter, part: Range, total: int, size: int
) -> Iterator[tuple[AbstractContextManager[Int], int]]:
    """Covers tiles ``part`` of ``total`` elements: loops over tile numbers, and their extents."""
    (low, high), (full, rest) = part, divmod(total, size)
    if full:
        yield span(k, low, k.min(high, full)), size
    if rest:
        yield span(k, k.max(low, full), high), rest
