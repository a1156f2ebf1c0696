"""How the tiles of a matrix product reach memory, through its epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.conversions import convert
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm_plan import Plan
from symgrad.codegen.kernels.lanes import columns_of, load_lanes, store_lanes
from symgrad.codegen.kernels.matrix import Source
from symgrad.codegen.kernels.microkernel import Errands, Piece
from symgrad.codegen.kernels.pack import CACHE_LINE
from symgrad.codegen.registers import Int, Reg, bytes_of, lanes_of
from symgrad.codegen.scalar import emit_op


class Result:
    """Stores vectors of the result, through the epilogue."""

    def __init__(self, k: Emitter, plan: Plan, buffer: Reg, operands: Sequence[Reg]) -> None:
        self.k, self.plan, self.buffer, self.operands = k, plan, buffer, operands
        self.partial = plan.spec.accumulator
        self.plain = plan.spec.epilogue is None and plan.spec.c.dtype == self.partial
        self.stride = plan.c.cols.strides[0]
        rows = plan.c.rows
        self.turned = self.stride != 1 and rows.strides == (1,) and plan.spec.epilogue is None
        """Whether C is contiguous down its tiles' columns, which are then what is stored."""

    def at(self, batch: Int, split: Int = 0) -> None:
        """Turns to one matrix of the batch, of a part of the contraction."""
        k, plan = self.k, self.plan
        source = Source.of(k, plan.c, self.buffer, batch)
        skip = k.mul(split, plan.spec.c.strides[0]) if plan.spec.splits > 1 else 0
        self.base = k.gep(source.base, skip, MEMORY_TYPES[plan.c.dtype])
        self.head = split_index(k, batch, plan.head)

    def address(self, row: Int, col: Int) -> Reg:
        """Where an element lies."""
        k, c = self.k, self.plan.c
        offset = k.add(c.rows.at(k, row).offset, c.cols.at(k, col).offset)
        return k.gep(self.base, offset, MEMORY_TYPES[c.dtype])

    def fetches(self, at: tuple[Int, Int], height: int, width: int, last: Reg | None) -> Errands:
        """Asks for the memory that a tile is stored to, line by line of it.

        And, with the ``last`` block of the contraction, for what the epilogue reads and writes
        at the same places.
        """
        k, spec, (row, col) = self.k, self.plan.spec, at
        if self.turned:
            steps = range(0, height, _per_line(spec.c.dtype))

            def ask_column(j: Int) -> None:
                for i in steps:
                    k.prefetch(self.address(k.add(row, i), k.add(col, j)), write=True)

            return Errands(width, ask_column)
        batch, rows = len(spec.batch), len(spec.m)
        beside = [
            (access, base)
            for access, base in zip(
                spec.epilogue.operands if spec.epilogue else (), self.operands, strict=True
            )
            # What rows have in common is little, and stays near.
            if (0, *access.strides)[-1] == 1 and any(access.strides[batch : batch + rows])
        ]

        def ask_row(i: Int) -> None:
            at = k.add(row, i)
            if self.stride == 1:
                for j in range(0, width, _per_line(spec.c.dtype)):
                    k.prefetch(self.address(at, k.add(col, j)), write=True)
            if beside:
                with nullcontext() if last is None else k.if_(last):
                    for access, base in beside:
                        for j in range(0, width, _per_line(access.dtype)):
                            point = self.point(at, k.add(col, j))
                            k.prefetch(access.address(k, base, point))

        return Errands(height if self.stride == 1 or beside else 0, ask_row)

    def point(self, row: Int, col: Int) -> list[Int]:
        """The position of an element of the matrix among the axes of the product."""
        spec, batch = self.plan.spec, len(self.plan.spec.batch)
        inner: list[Int] = [0 for _ in self.plan.inner]
        if inner:  # merged: the position along the last one tells all
            inner[-1] = col
        rows = split_index(self.k, row, spec.m)
        return [*self.head[:batch], *rows, *self.head[batch:], *inner]

    def load(self, row: Int, col: Int, piece: Piece) -> Reg:
        """Partial sums stored before."""
        mask = None if piece.count == piece.lanes else self.k.lane_mask(piece.count, piece.lanes)
        start = self.address(row, col)
        return load_lanes(self.k, start, self.partial, self.stride, piece.lanes, mask)

    def store_partial(self, row: Int, col: Int, piece: Piece, value: Reg) -> None:
        """Stores sums that are not complete."""
        mask = None if piece.count == piece.lanes else self.k.lane_mask(piece.count, piece.lanes)
        store_lanes(self.k, value, self.address(row, col), self.partial, self.stride, mask)

    def store(self, row: Int, col: Int, piece: Piece, value: Reg) -> None:
        """Stores complete sums."""
        k, spec = self.k, self.plan.spec
        mask = None if piece.count == piece.lanes else k.lane_mask(piece.count, piece.lanes)
        if spec.epilogue is None:
            value = convert(k, value, self.partial, spec.c.dtype)
        else:
            point = self.point(row, col)
            value = spec.epilogue.emit(k, value, self.operands, point, mask)
        store_lanes(k, value, self.address(row, col), spec.c.dtype, self.stride, mask)

    def store_columns(
        self, at: tuple[Int, Int], line: Sequence[Piece], sums: Sequence[Sequence[Reg]]
    ) -> None:
        """Stores a whole tile of complete sums column by column."""
        self._each_column(at, line, sums, self._store_column)

    def add_columns(
        self, at: tuple[Int, Int], line: Sequence[Piece], sums: Sequence[Sequence[Reg]]
    ) -> None:
        """Adds a whole tile to what was stored before, column by column."""
        k, dtype = self.k, self.partial

        def add(start: Reg, value: Reg, mask: Reg | None) -> None:
            so_far = load_lanes(k, start, dtype, 1, lanes_of(value.type), mask)
            self._store_column(start, emit_op(k, "add", (so_far, value), (dtype, dtype)), mask)

        self._each_column(at, line, sums, add)

    def _each_column(
        self,
        at: tuple[Int, Int],
        line: Sequence[Piece],
        sums: Sequence[Sequence[Reg]],
        write: Callable[[Reg, Reg, Reg | None], None],
    ) -> None:
        """Calls ``write`` with the address of each part of a column, its values and lanes."""
        k = self.k
        for v, piece in enumerate(line):
            for top in range(0, len(sums), piece.lanes):
                rows = [row[v] for row in sums[top : top + piece.lanes]]
                for j, column in enumerate(columns_of(k, rows)[: piece.count]):
                    lanes = lanes_of(column.type)
                    mask = None if len(rows) == lanes else k.lane_mask(len(rows), lanes)
                    start = self.address(k.add(at[0], top), k.add(at[1], piece.start + j))
                    write(start, column, mask)

    def _store_column(self, start: Reg, value: Reg, mask: Reg | None) -> None:
        dtype = self.plan.spec.c.dtype
        store_lanes(self.k, convert(self.k, value, self.partial, dtype), start, dtype, 1, mask)


def _per_line(dtype: str) -> int:
    """How many neighbours in memory a cache line holds."""
    return CACHE_LINE // bytes_of(MEMORY_TYPES[dtype])


def split_index(k: Emitter, index: Int, extents: Sequence[int]) -> list[Int]:
    """A flat index as one position per dimension."""
    digits: list[Int] = []
    for extent in reversed(extents[1:]):
        index, digit = k.divmod(index, extent)
        digits.insert(0, digit)
    return [index, *digits] if extents else []
