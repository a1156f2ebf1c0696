"""Substitution in triangular systems, a block of rows at a time.

A block of rows of the solution lies in registers.  First the products with all rows before it
are subtracted, by a loop that loads a row of the solution and broadcasts coefficients, as the
kernel of a matrix product does; then the few rows of the block are solved for one by one.
Only the triangle is read, and only forwards: back substitution is the same on matrices
whose rows and columns are counted from the end (``flipped``).

A task is a *panel*, some columns of one right-hand side.  It is copied to scratch memory, padded
to whole vectors, so that nothing within has an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

# -- what factorisations have in common ----------------------------------------------------


@record
class Tile:
    """A block that is computed in registers: rows of so many vectors of so many lanes."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.vectors * self.lanes


def tile_for(target: Target, scalar: str, columns: int) -> Tile:
    """The tile for matrices of so many columns: narrow ones have fewer lanes."""
    lanes = min(target.lanes(bytes_of(scalar)), 1 << (columns - 1).bit_length())
    vectors = 2 if columns > lanes else 1
    return Tile(8 if target.vector_registers * vectors >= 64 or vectors == 1 else 4, vectors, lanes)


@record
class Matrix:
    """Elements of type ``scalar`` by row and column, behind an address."""

    base: Reg
    scalar: str
    row: int
    column: int = 1

    def at(self, k: Emitter, i: Int, j: Int) -> Reg:
        """The address of an element."""
        index = k.add(k.mul(i, self.row), k.mul(j, self.column))
        return k.gep(self.base, index, self.scalar)

    def shifted(self, k: Emitter, i: Int, j: Int) -> Matrix:
        """The matrix that begins at an element."""
        return replace(self, base=self.at(k, i, j))

    def flipped(self, k: Emitter, rows: int, columns: int = 1) -> Matrix:
        """With the order of so many rows, and of so many columns, turned round."""
        turned = -self.column if columns > 1 else self.column
        end = self.shifted(k, rows - 1, columns - 1)
        return replace(end, row=-self.row, column=turned)


def matrix_of(k: Emitter, access: Access, base: Reg, lead: Sequence[Int]) -> Matrix:
    """One of the matrices that lie over the last two axes of an operand."""
    start = access.address(k, base, [*lead, 0, 0])
    return Matrix(start, MEMORY_TYPES[access.dtype], *access.strides[-2:])


def place_of(k: Emitter, number: Int, extents: Sequence[int]) -> list[Int]:
    """The position of element ``number`` along axes."""
    place: list[Int] = []
    for n in reversed(extents):
        number, position = k.divmod(number, n)
        place.insert(0, position)
    return place


def copy_in(
    k: Emitter, source: Matrix, dtype: str, target: Matrix, rows: int, tile: Tile, valid: Int
) -> None:
    """Copies a tile's width of columns, the first ``valid`` of which exist, to padded memory."""
    for i, c, mask in _vectors(k, rows, tile, valid):
        value = load_lanes(k, source.at(k, i, c), dtype, source.column, tile.lanes, mask)
        k.store(value, target.at(k, i, c))


def copy_out(
    k: Emitter, source: Matrix, target: Matrix, dtype: str, rows: int, tile: Tile, valid: Int,
    change: Callable[[Reg], Reg] = lambda value: value,
) -> None:  # fmt: skip
    """Copies columns of padded memory to where they are wanted; ``change`` maps their values."""
    for i, c, mask in _vectors(k, rows, tile, valid):
        value = change(k.load(vec(source.scalar, tile.lanes), source.at(k, i, c)))
        store_lanes(k, value, target.at(k, i, c), dtype, target.column, mask)


def _vectors(
    k: Emitter, rows: int, tile: Tile, valid: Int
) -> Iterator[tuple[Int, int, Reg | None]]:
    """The vectors of rows of a tile: row, column, and the mask of those lanes that exist."""
    whole = tile.lanes == 1 or (isinstance(valid, int) and valid == tile.width)
    columns = range(0, tile.width, tile.lanes)
    counts = [None if whole else k.max(k.sub(valid, c), 0) for c in columns]
    masks = [None if count is None else k.lane_mask(count, tile.lanes) for count in counts]
    with k.loop(0, rows) as i:
        for c, mask in zip(columns, masks, strict=True):
            yield i, c, mask


class Sums:
    """The values of a tile, in registers."""

    def __init__(self, k: Emitter, tile: Tile, rows: int, scalar: str) -> None:
        self.k, self.tile, self.rows = k, tile, rows
        self.type = vec(scalar, tile.lanes)
        self._cells = [[k.alloca(self.type) for _ in range(tile.vectors)] for _ in range(rows)]

    def load(self, source: Matrix, i: Int, j: Int) -> None:
        """Takes the tile at row ``i`` and column ``j``."""
        vectors = range(self.tile.vectors)
        for r in range(self.rows):
            self.set(r, [self._at(source, self.k.add(i, r), j, c) for c in vectors])

    def _at(self, source: Matrix, i: Int, j: Int, vector: int) -> Reg:
        k = self.k
        return k.load(self.type, source.at(k, i, k.add(j, vector * self.tile.lanes)))

    def get(self) -> list[list[Reg]]:
        """The vectors of each row."""
        return [[self.k.load(self.type, cell) for cell in row] for row in self._cells]

    def set(self, r: int, values: Sequence[Reg]) -> None:
        """Replaces a row."""
        for value, cell in zip(values, self._cells[r], strict=True):
            self.k.store(value, cell)

    def subtract(
        self, count: Int, coefficients: Matrix, rows: Matrix, column: Int, first: Int
    ) -> None:
        """``self[r] -= sum(coefficients[first + r, p] * rows[p])`` over ``p < count``."""
        k = self.k
        with k.loop(0, count) as p:
            vectors = range(self.tile.vectors)
            values = [k.fneg(self._at(rows, p, column, c)) for c in vectors]
            for r, row in enumerate(self.get()):
                factor = k.broadcast_load(self.type, coefficients.at(k, k.add(first, r), p))
                self.set(r, [k.fma(factor, v, s) for v, s in zip(values, row, strict=True)])


def solve_rows(
    k: Emitter,
    rows: Sequence[Sequence[Reg]],
    factor: Callable[[int, int], Reg],
    scale: Callable[[int], Reg] | None,
) -> list[list[Reg]]:
    """Substitution within a block: ``factor(i, j)`` and ``scale(i)`` are its coefficients below
    the diagonal and the inverses of those on it, in all lanes."""
    solved: list[list[Reg]] = []
    left = [list(row) for row in rows]
    for i in range(len(left)):
        row = left[i] if scale is None else [k.fmul(v, scale(i)) for v in left[i]]
        solved.append(row)
        for below in range(i + 1, len(left)):
            c = factor(below, i)
            left[below] = [k.fma(c, k.fneg(v), s) for v, s in zip(row, left[below], strict=True)]
    return solved


def substitute(
    k: Emitter, tile: Tile, n: int, triangle: Matrix, panel: Matrix, inverses: Reg | None
) -> None:
    """Solves ``triangle @ x = panel`` forwards, in place, for a tile's width of columns.

    ``inverses`` point to those of the diagonal, unless that counts as ones.
    """
    type = vec(panel.scalar, tile.lanes)

    def block(start: Int, rows: int) -> None:
        sums = Sums(k, tile, rows, panel.scalar)
        sums.load(panel, start, 0)
        if not (isinstance(start, int) and start == 0):
            sums.subtract(start, triangle, panel, 0, start)

        def factor(i: int, j: int) -> Reg:
            return k.broadcast_load(type, triangle.at(k, k.add(start, i), k.add(start, j)))

        def scale(i: int) -> Reg:
            assert inverses is not None
            return k.broadcast_load(type, k.gep(inverses, k.add(start, i), panel.scalar))

        found = solve_rows(k, sums.get(), factor, None if inverses is None else scale)
        for r, row in enumerate(found):
            for c, value in enumerate(row):
                k.store(value, panel.at(k, k.add(start, r), c * tile.lanes))

    if head := n % tile.rows:
        block(0, head)  # the odd rows first: they have none before them
    with k.loop(head, n, tile.rows) as start:
        block(start, tile.rows)


def invert_diagonal(k: Emitter, n: int, triangle: Matrix, inverses: Reg) -> None:
    """Stores the inverse of each element of the diagonal."""
    with k.loop(0, n) as i:
        one = k.const(triangle.scalar, 1.0)
        element = k.load(triangle.scalar, triangle.at(k, i, i))
        k.store(k.fdiv(one, element), k.gep(inverses, i, triangle.scalar))


@contextmanager
def each_task(
    k: Emitter, name: str, buffers: int, tasks: int, scratch: int
) -> Iterator[tuple[list[Reg], Reg, Reg]]:
    """A kernel whose threads share tasks: its buffers, the task, and the thread's scratch."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        *bases, memory = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(buffers + 1))
        own = k.gep(memory, k.mul(tid, scratch), "i8")
        low, high = k.slice(tasks, tid, nth)
        with k.loop(low, high) as task:
            yield bases, task, own


# -- the kernel ----------------------------------------------------------------------------


@record
class SubstituteSpec:
    """``a @ x = b`` for the matrices over the last two axes; of ``a`` [n, n] the lower or upper
    triangle counts, with ones on the diagonal if ``unit``.  ``b`` and ``x`` are [n, m]."""

    lead: tuple[int, ...]
    n: int
    m: int
    a: Access
    b: Access
    x: Access
    lower: bool
    unit: bool

    @property
    def scalar(self) -> str:
        """LLVM type of an element."""
        return MEMORY_TYPES[self.a.dtype]


def lower_substitute(spec: SubstituteSpec, target: Target, threads: int) -> Lowering:
    """One kernel; its operands are ``a`` and ``b``."""
    room = threads * _scratch(spec, target)
    return Lowering((Phase("substitute", emit_substitute, spec, (0, 1, 2), room),))


def _scratch(spec: SubstituteSpec, target: Target) -> int:
    """Bytes of a thread: a panel, and the diagonal's inverses."""
    width = tile_for(target, spec.scalar, spec.m).width
    return round_up((spec.n * width + spec.n) * bytes_of(spec.scalar), 64)


def panels(spec: SubstituteSpec, target: Target) -> int:
    """Tasks that threads can share."""
    return prod(spec.lead) * -(-spec.m // tile_for(target, spec.scalar, spec.m).width)


def emit_substitute(k: Emitter, name: str, spec: SubstituteSpec) -> None:
    """Writes the kernel of a ``SubstituteSpec``."""
    tile, n, m = tile_for(k.target, spec.scalar, spec.m), spec.n, spec.m
    tasks, scratch = panels(spec, k.target), _scratch(spec, k.target)
    with each_task(k, name, 3, tasks, scratch) as (bases, task, own):
        *lead, number = place_of(k, task, (*spec.lead, -(-m // tile.width)))
        accesses = (spec.a, spec.b, spec.x)
        a, b, x = (
            matrix_of(k, access, base, lead) for access, base in zip(accesses, bases, strict=True)
        )
        if not spec.lower:
            a, b, x = a.flipped(k, n, n), b.flipped(k, n), x.flipped(k, n)
        column = k.mul(number, tile.width)
        valid = tile.width if m % tile.width == 0 else k.sub(m, column)
        panel = Matrix(own, spec.scalar, tile.width)
        inverses = None if spec.unit else panel.at(k, n, 0)
        copy_in(k, b.shifted(k, 0, column), spec.b.dtype, panel, n, tile, valid)
        if inverses is not None:
            invert_diagonal(k, n, a, inverses)
        substitute(k, tile, n, a, panel, inverses)
        copy_out(k, panel, x.shifted(k, 0, column), spec.x.dtype, n, tile, valid)
