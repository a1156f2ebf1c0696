"""Register tiles of a matrix product: the innermost loops of ``gemm.py``.

A tile of the result stays in registers while the contraction runs.  There are
two forms.  *Outer*: vectors run along the columns of the result; each step adds
the product of a column of A, broadcast element by element, and a row of B.
*Dot*: vectors run along the contraction and are summed up at the end; it suits
products with little reuse whose operands are contiguous along the contraction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from symgrad.codegen.access import MEMORY_TYPES, REGISTER_TYPES
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm_pairs import multiply_add_pairs
from symgrad.codegen.kernels.matrix import load_run
from symgrad.codegen.kernels.pack import packed_dtype, summed_dtype, vectors
from symgrad.codegen.registers import Int, Reg, lanes_of, scalar_of, vec
from symgrad.codegen.scalar import emit_op
from symgrad.ir.record import record

LATENCY_PRODUCTS = 8
"""Independent sums that hide the latency of an addition: four cycles, two at a time."""

UNROLLED_PRODUCTS = 16
"""Vector products in the body of the inner loop, at least: hides its overhead."""

ERRAND_STEPS = 4
"""Contraction steps between two errands, at least."""


@record
class Feed:
    """An operand as a tile reads it: line ``i`` at contraction index ``p``.

    A line is a row of A or a column of B; the element lies at ``base + i * pitch +
    p * step``, packed or in place.
    """

    dtype: str
    base: Reg
    pitch: int
    step: int

    @property
    def transposed(self) -> Feed:
        """Lines and contraction indices exchanged."""
        return Feed(self.dtype, self.base, self.step, self.pitch)

    def at(self, k: Emitter, line: Int) -> Feed:
        """The same from ``line`` on."""
        scalar = MEMORY_TYPES[self.dtype]
        base = k.gep(self.base, k.mul(line, self.pitch), scalar)
        return Feed(self.dtype, base, self.pitch, self.step)

    def from_index(self, k: Emitter, index: Int) -> Feed:
        """The same from contraction index ``index`` on."""
        return self.transposed.at(k, index).transposed

    def address(self, k: Emitter, line: Int, index: Int) -> Reg:
        """Where an element lies."""
        scalar = MEMORY_TYPES[self.dtype]
        # Two steps: the constant part becomes a displacement.
        moving = k.gep(self.base, k.mul(index, self.step), scalar)
        return k.gep(moving, k.mul(line, self.pitch), scalar)

    def vector(self, k: Emitter, line: Int, index: Int, lanes: int, count: Int) -> Reg:
        """``count`` elements from there on, along whatever is contiguous."""
        return load_run(k, self.dtype, self.address(k, line, index), lanes, count)


@record
class Piece:
    """A vector of a tile's row: its first column, its lanes, and how many of them count."""

    start: int
    lanes: int
    count: int


def pieces(width: int, lanes: int) -> tuple[Piece, ...]:
    """Covers ``width`` columns by vectors; the last is the narrowest power of two."""
    full, rest = divmod(width, lanes)
    row = [Piece(i * lanes, lanes, lanes) for i in range(full)]
    if rest:
        row.append(Piece(full * lanes, 1 << (rest - 1).bit_length(), rest))
    return tuple(row)


def multiply_add(k: Emitter, a: Reg, b: Reg, total: Reg) -> Reg:
    """``a * b + total`` as the element type has it: fused, integer, or logical for bool."""
    scalar = scalar_of(a.type)
    if scalar == "i32" and scalar_of(total.type) == "float":
        return multiply_add_pairs(k, a, b, total)
    if scalar in ("float", "double"):
        return k.fma(a, b, total)
    if scalar == "i1":
        return k.bits("or", k.bits("and", a, b), total)
    return k.as_reg(k.add(k.mul(a, b), total))


@record
class Errands:
    """What a tile does for others while it computes: ``do(0)`` to ``do(count - 1)``.

    Memory that is asked for little by little holds nothing up.
    """

    count: int
    do: Callable[[Int], None]


class Accumulators:
    """The registers of a tile, as stack slots that SROA dissolves."""

    def __init__(self, k: Emitter, rows: int, types: Sequence[str]) -> None:
        self._slots = [[(k.alloca(t), t) for t in types] for _ in range(rows)]
        self._k = k

    def __getitem__(self, at: tuple[int, int]) -> Reg:
        slot, type = self._slots[at[0]][at[1]]
        return self._k.load(type, slot)

    def __setitem__(self, at: tuple[int, int], value: Reg) -> None:
        self._k.store(value, self._slots[at[0]][at[1]][0])

    def clear(self) -> None:
        """Sets all to zero."""
        for row in self._slots:
            for slot, type in row:
                self._k.store(self._k.zero(type), slot)


def outer_tile(
    k: Emitter,
    a: Feed,
    b: Feed,
    acc: Accumulators,
    rows: int,
    row: Sequence[Piece],
    depth: Int,
    errands: Errands | None = None,
) -> None:
    """``acc[i, v] += sum over p < depth of A[i, p] * B[p, v]``."""
    if errands is None or not errands.count:
        _add_products(k, a, b, acc, rows, row, depth)
        return
    between = k.udiv(depth, errands.count)
    shallow = isinstance(between, int) and between < ERRAND_STEPS
    if shallow or rows * len(row) < LATENCY_PRODUCTS:  # few sums are best made in one go
        for early in range(errands.count):
            errands.do(early)
        _add_products(k, a, b, acc, rows, row, depth)
        return

    def part(start: Int, length: Int) -> None:
        _add_products(k, a.from_index(k, start), b.from_index(k, start), acc, rows, row, length)

    with k.loop(0, errands.count) as number:
        errands.do(number)
        part(k.mul(number, between), between)
    done = k.mul(between, errands.count)
    if done != depth:
        part(done, k.sub(depth, done))


def _add_products(
    k: Emitter, a: Feed, b: Feed, acc: Accumulators, rows: int, row: Sequence[Piece], depth: Int
) -> None:
    """As ``outer_tile``, and nothing else meanwhile."""
    unroll = max(1, UNROLLED_PRODUCTS // (rows * len(row)))
    # A tile of few sums is several, added up at the end: an addition takes its time.
    chains = [acc]
    if not isinstance(depth, int) or depth > 4 * unroll:
        types = [acc[0, v].type for v in range(len(row))]
        more = LATENCY_PRODUCTS // (rows * len(row)) - 1
        chains += [Accumulators(k, rows, types) for _ in range(more)]
    for chain in chains[1:]:
        chain.clear()

    def step(index: Int, chain: Accumulators = acc) -> None:
        columns = [b.vector(k, piece.start, index, piece.lanes, piece.count) for piece in row]
        for i in range(rows):
            element = a.vector(k, i, index, 1, 1)
            for v, column in enumerate(columns):
                factor = k.splat(element, row[v].lanes)
                chain[i, v] = multiply_add(k, factor, column, chain[i, v])

    whole = k.mul(k.udiv(depth, unroll), unroll)
    if not (isinstance(whole, int) and whole <= unroll):
        with k.loop(0, whole, unroll) as p:
            for u in range(unroll):
                step(k.add(p, u), chains[u % len(chains)])
    if isinstance(whole, int) and isinstance(depth, int):
        for index in range(whole if whole > unroll else 0, depth):
            step(index)
    elif unroll > 1:
        with k.loop(whole, depth) as p:
            step(p)
    for chain in chains[1:]:
        for i, v in product(range(rows), range(len(row))):
            acc[i, v] = emit_op(k, "add", (acc[i, v], chain[i, v]), (summed_dtype(a.dtype),) * 2)


def dot_tile(
    k: Emitter, a: Feed, b: Feed, rows: int, cols: int, lanes: int, depth: Int
) -> list[list[Reg]]:
    """Vectors whose lanes add up to ``sum over p < depth of A[i, p] * B[p, j]``, per i and j."""
    chains = max(1, LATENCY_PRODUCTS // (rows * cols))
    dtype = packed_dtype(a.dtype)
    acc = Accumulators(k, chains * rows, [accumulator_type(dtype, lanes)] * cols)
    acc.clear()

    def step(index: Int, count: Int, chain: int) -> None:
        left = [a.vector(k, i, index, lanes, count) for i in range(rows)]
        for j in range(cols):
            right = b.vector(k, j, index, lanes, count)
            for i in range(rows):
                at = chain * rows + i, j
                acc[at] = multiply_add(k, left[i], right, acc[at])

    stride = chains * lanes
    whole = k.mul(k.udiv(depth, stride), stride)
    if whole != 0:
        with k.loop(0, whole, stride) as p:
            for chain in range(chains):
                step(k.add(p, chain * lanes), lanes, chain)
    for rest, count in vectors(k, k.sub(depth, whole), lanes):
        with rest as index:
            step(k.add(whole, index), count, 0)
    for i, j, chain in product(range(rows), range(cols), range(1, chains)):
        acc[i, j] = emit_op(k, "add", (acc[i, j], acc[chain * rows + i, j]), (dtype, dtype))
    return [[acc[i, j] for j in range(cols)] for i in range(rows)]


def sum_lanes(k: Emitter, partials: Sequence[Reg], lanes: int, dtype: str) -> Reg:
    """The horizontal sum of each vector, as a vector of ``lanes`` (a power of two).

    Adding the halves of two vectors at a time halves the number of vectors, then
    the rest of the sums fold together: three instructions a sum instead of log(n).
    """
    width = lanes_of(partials[0].type)
    if lanes == 1:
        names = {"float": "fadd", "double": "fadd", "i1": "or"}
        return k.reduce(names.get(scalar_of(partials[0].type), "add"), partials[0])
    row = [*partials, *[k.zero(partials[0].type)] * (lanes - len(partials))]

    def fold(a: Reg, b: Reg, indices: Sequence[int], half: int) -> Reg:
        low = [i for i in indices if i // half % 2 == 0]
        high = [i for i in indices if i // half % 2]
        return emit_op(k, "add", (k.shuffle(a, b, low), k.shuffle(a, b, high)), (dtype, dtype))

    part = width
    while len(row) > 1:
        part //= 2
        row = [fold(a, b, range(2 * width), part) for a, b in zip(row[::2], row[1::2], strict=True)]
    while part > 1:
        part //= 2
        row = [fold(row[0], row[0], range(lanes_of(row[0].type)), part)]
    return row[0]


def accumulator_type(dtype: str, lanes: int) -> str:
    """LLVM type of ``lanes`` sums of products of ``dtype``."""
    return vec(REGISTER_TYPES[dtype], lanes)
