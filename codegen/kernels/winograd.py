"""Winograd's minimal filtering F(m x m, r x r): the matrices, and code that applies them.

A tile of m x m outputs of an r x r convolution takes n^2 = (m + r - 1)^2 multiplications
instead of m^2 r^2: with d the tile's input, g the filter and * the product by elements,

    y = A^T [ (G g G^T) * (B^T d B) ] A.

The matrices follow from the n points at which two polynomials are evaluated, one of them
infinity: S. Winograd, "Arithmetic complexity of computations" (1980);
A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks" (2016).  They
are made in exact arithmetic.  The points decide the rounding error: the six here lose less
than a third of what 0, 1, -1, 2, -2 lose in F(4 x 4, 3 x 3).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import zip_longest
from math import prod

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Int, Reg
from symgrad.ir.record import record

POINTS = {
    1: (),
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    6: (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2)),
}
"""Points of evaluation by their number n, after infinity, which comes first.  A single one is
for an axis on which the filter has one tap."""

STRIDED_TAPS = 3
"""Taps where there is a stride: outer ones and one in the middle."""

Row = tuple[Fraction, ...]
Matrix = tuple[Row, ...]
Vectors = Sequence[Reg | None]
"""Registers of one type; ``None`` is zero."""


@record
class Matrices:
    """The three matrices of a tile with p inputs, n products and q outputs along an axis.

    F(m, r) has p = n = m + r - 1 and q = m; with stride 2 and r = 3, p = n = 2 m + 1; the
    gradient to the input of that, p = m + 1, n = 2 m + 1 and q = 2 m.  A plane of p < r inputs
    has n = p + q - 1.
    """

    input: Matrix
    """B^T, n x p."""
    filter: Matrix
    """G, n x r."""
    output: Matrix
    """A^T, q x n."""


@functools.cache
def matrices(outputs: int, taps: int, part: int | None = None, stride: int = 1) -> Matrices:
    """The matrices of F(outputs, taps), or for a ``part`` of the outputs.

    A part of the outputs takes the first of the points, with the filter as it is transformed
    for all of them.

    With stride 2 and three taps the even inputs meet the outer taps and the odd ones the
    middle tap: two correlations of stride 1, whose products are interleaved so that a part of
    the outputs takes the first of them, too.
    """
    part = outputs if part is None else part
    if stride == 1:
        return _correlation(POINTS[outputs + taps - 1], taps, part)
    size = 2 * part + 1
    outer = _correlation(POINTS[outputs + taps - 1][:outputs], taps - 1, part)
    evens = [
        (_spread(row, size, 0, 2), _spread(g, taps, 0, 2), column)
        for row, g, column in zip(outer.input, outer.filter, transposed(outer.output), strict=True)
    ]
    odds = [(_unit(2 * n + 1, size), _unit(1, taps), _unit(n, part)) for n in range(part)]
    return _from_products([evens[0], *_in_turn(evens[1:], odds)])


@functools.cache
def plane_matrices(outputs: int, inputs: int, taps: int, padding: int) -> Matrices:
    """The matrices for a plane with fewer inputs than the filter has taps.

    With zeros around it, and with g_k zero where there is no tap,

        y_j = sum over i of x_i g_(i - j + padding),

    a correlation in which inputs and taps have changed places: the inputs slide over the
    taps that reach them.  That takes outputs + inputs - 1 products, F(outputs, taps) takes
    outputs + taps - 1.
    """
    products = outputs + inputs - 1
    points = next(p for size, p in POINTS.items() if size >= products)
    found = _correlation(points[: products - 1], inputs, outputs)
    reached = range(inputs - 1 + padding, inputs - 1 + padding - taps, -1)
    return Matrices(
        input=tuple(row[::-1] for row in found.filter),
        filter=tuple(
            tuple(row[at] if 0 <= at < products else Fraction(0) for at in reached)
            for row in found.input
        ),
        output=found.output,
    )


@functools.cache
def gradient_matrices(outputs: int, part: int | None = None, begins: int = 0) -> Matrices:
    """The matrices of the gradient to the input of a convolution of stride 2 and three taps.

    They are for the ``2 * outputs`` positions of a tile, or for a ``part`` of them.
    In turn a position gets something through the outer taps, from two neighbours of the
    output's cotangent, and through the middle tap, from one; ``begins`` is 0 if the first
    of a tile is of the former kind, 1 if it is of the latter.  The former are a correlation
    of stride 1.  Taps are counted in the order in which they meet the cotangent's elements.
    """
    part = 2 * outputs if part is None else part
    doubles, singles = (part + 1 - begins) // 2, (part + begins) // 2
    size = max(doubles + 1 if doubles else 0, singles + 1 - begins)
    middle = [
        (_unit(n + 1 - begins, size), _unit(1, STRIDED_TAPS), _unit(2 * n + 1 - begins, part))
        for n in range(singles)
    ]
    if not doubles:
        return _from_products(middle)
    found = _correlation(POINTS[outputs + STRIDED_TAPS - 1][:outputs], STRIDED_TAPS - 1, doubles)
    outer = [
        (_spread(row, size), _spread(g, STRIDED_TAPS, 0, 2), _spread(column, part, begins, 2))
        for row, g, column in zip(found.input, found.filter, transposed(found.output), strict=True)
    ]
    return _from_products([*middle[:begins], outer[0], *_in_turn(outer[1:], middle[begins:])])


Product = tuple[Row, Row, Row]
"""What one product takes of the inputs and of the taps, and gives to the outputs."""


def _from_products(products: Sequence[Product]) -> Matrices:
    rows, filters, columns = zip(*products, strict=True)
    return Matrices(rows, filters, transposed(columns))


def _in_turn(first: Sequence[Product], second: Sequence[Product]) -> Iterator[Product]:
    """One of each in turn, then what is left of either."""
    return (p for pair in zip_longest(first, second) for p in pair if p is not None)


def _spread(values: Row, size: int, first: int = 0, step: int = 1) -> Row:
    """A row of zeros but for ``values``, from place ``first`` on, every ``step``-th."""
    row = [Fraction(0)] * size
    row[first : first + step * len(values) : step] = values
    return tuple(row)


def _unit(at: int, size: int) -> Row:
    """A row of the identity."""
    return _spread((Fraction(1),), size, at)


def _correlation(points: Sequence[Fraction], taps: int, outputs: int) -> Matrices:
    """The matrices of F(outputs, taps) from infinity and the first of some points.

    ``A^T`` evaluates at the points, ``G`` too and divides by what keeps the rows of
    ``B^T``, the coefficients of Lagrange's polynomials, free of fractions.  ``G`` divides for
    all the points, and ``B^T`` makes good for those that are not taken.
    """
    taken = outputs + taps - 2
    points, left_out = points[:taken], points[taken:]
    zero, one = Fraction(0), Fraction(1)
    others = [[q for q in points if q != p] for p in points]
    surplus = [prod((p - q for q in left_out), start=one) for p in points]
    divisors = [
        prod((p - q for q in o), start=s) for p, o, s in zip(points, others, surplus, strict=True)
    ]
    filters = [
        tuple(p**power / divisor for power in range(taps))
        for p, divisor in zip(points, divisors, strict=True)
    ]
    polynomials = [
        (*(s * c for c in _with_roots(o)), zero) for o, s in zip(others, surplus, strict=True)
    ]
    return Matrices(
        input=(_with_roots(points), *polynomials),
        filter=((*(zero,) * (taps - 1), one), *filters),
        output=tuple(
            (one if power == outputs - 1 else zero, *(p**power for p in points))
            for power in range(outputs)
        ),
    )


def transposed(matrix: Matrix) -> Matrix:
    """Rows become columns."""
    return tuple(zip(*matrix, strict=True))


def _with_roots(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients, from that of 1 on, of the monic polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [root * c for c in coefficients] + [Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return tuple(coefficients)


# -- code ------------------------------------------------------------------


def apply_2d(
    k: Emitter, matrix: Matrix, tile: Sequence[Vectors], across: Matrix | None = None
) -> list[list[Reg]]:
    """``M d N^T`` for a tile of registers, N being M unless given."""
    down, right = _applied(matrix), _applied(across or matrix)
    columns = [down(k, column) for column in zip(*tile, strict=True)]
    return [
        [k.zero(_type_of(tile)) if x is None else x for x in right(k, row)]
        for row in zip(*columns, strict=True)
    ]


def apply_by_axes(
    k: Emitter,
    vector: str,
    down: Matrix,
    across: Matrix,
    read: Callable[[int, Int], Reg],
    write: Callable[[Int, int, Reg], None],
) -> None:
    """``D d A^T`` for a tile in memory, by a loop over columns and one over rows.

    No more than a column or a row is in registers: a whole tile with what becomes of it is
    more than a machine has.  ``read`` gives the element at (row, column), ``write`` takes one.
    """
    rows, columns = len(down), len(across[0])
    room = k.alloca(vector, rows * columns)

    def stored(value: Reg | None) -> Reg:
        return k.zero(vector) if value is None else value

    with k.loop(0, columns) as column:
        elements = [read(r, column) for r in range(len(down[0]))]
        for r, value in enumerate(_applied(down)(k, elements)):
            k.store(stored(value), k.gep(room, k.add(column, r * columns), vector))
    with k.loop(0, rows) as row:
        first = k.gep(room, k.mul(row, columns), vector)
        elements = [k.load(vector, k.gep(first, c, vector)) for c in range(columns)]
        for c, value in enumerate(_applied(across)(k, elements)):
            write(row, c, stored(value))


def _type_of(tile: Sequence[Vectors]) -> str:
    return next(x.type for row in tile for x in row if x is not None)


class _Applied:
    """``M x`` for one matrix and many vectors.

    Points p and -p give rows (or columns) that differ in the sign of every second
    element; the even and the odd half of their sums are then computed once for both.
    """

    def __init__(self, matrix: Matrix) -> None:
        self._rows = [[float(c) for c in row] for row in matrix]
        self._columns = _mirrored(transposed(matrix))
        pairs = [] if self._columns else _mirrored(matrix)
        self._pairs = {pair: _relative(matrix[pair[0]][1::2]) for pair in pairs}

    def __call__(self, k: Emitter, xs: Vectors) -> list[Reg | None]:
        """The elements of ``M x``; ``None`` are zeros."""
        return self._by_columns(k, xs) if self._columns else self._by_rows(k, xs)

    def _by_rows(self, k: Emitter, xs: Vectors) -> list[Reg | None]:
        """Rows that mirror each other from the same halves."""
        result: dict[int, Reg | None] = {}
        for (i, j), relative in self._pairs.items():
            row, odds = self._rows[i], xs[1::2]
            even = _sum(k, row[::2], xs[::2])
            there = [at for at in relative if odds[at] is not None]
            # Relative to the last, which then is no product.
            odd = _sum(k, relative[there[-1]], odds) if there else None
            scale = row[1::2][there[-1]] if there else 1.0
            result[i], result[j] = _plus(k, even, scale, odd), _plus(k, even, -scale, odd)
        for i, row in enumerate(self._rows):
            if i not in result:
                result[i] = _sum(k, row, xs)
        return [result[i] for i in range(len(self._rows))]

    def _by_columns(self, k: Emitter, xs: Vectors) -> list[Reg | None]:
        """With sums and differences of the elements whose columns mirror each other."""
        halves = []
        for sign in (1, -1):
            half = list(xs)
            for i, j in self._columns:
                half[i], half[j] = _plus(k, xs[i], sign, xs[j]), None
            halves.append(half)
        return [_sum(k, row, halves[number % 2]) for number, row in enumerate(self._rows)]


_applied = functools.cache(_Applied)


def _relative(row: Sequence[Fraction]) -> dict[int, list[float]]:
    """A row in units of each of its elements, by the element's place."""
    return {at: [float(c / unit) for c in row] for at, unit in enumerate(row) if unit}


def _mirrored(rows: Matrix) -> list[tuple[int, int]]:
    """Pairs of rows that agree in even places and differ in sign in odd ones."""
    found: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        mirror = tuple(-c if at % 2 else c for at, c in enumerate(row))
        if mirror != row and mirror in rows[:i]:
            found.append((rows.index(mirror), i))
    return found


def _plus(k: Emitter, a: Reg | None, scale: float, b: Reg | None) -> Reg | None:
    """``a + scale * b``."""
    if b is None:
        return a
    if a is None:
        return _sum(k, [scale], [b])
    if scale == 1:
        return k.fadd(a, b)
    if scale == -1:
        return k.fsub(a, b)
    return k.fma(k.const(b.type, scale), b, a)


def _sum(k: Emitter, scales: Sequence[float], xs: Vectors) -> Reg | None:
    """The sum of products with constants; those with 1 come first, as they need no product."""
    left = [(c, x) for c, x in zip(scales, xs, strict=True) if c and x is not None]
    left.sort(key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    if not left:
        return None
    (scale, first), *rest = left
    total: Reg | None = first
    if scale == -1:
        total = k.fneg(first)
    elif scale != 1:
        total = k.fmul(k.const(first.type, scale), first)
    for c, x in rest:
        total = _plus(k, total, c, x)
    return total
