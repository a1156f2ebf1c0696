"""Winograd's minimal filtering F(m x m, 3 x 3): the matrices, and code that applies them.

A tile of m x m outputs of a 3 x 3 convolution takes (m + 2)^2 multiplications instead of
9 m^2: with d the tile's input, g the filter and * the product by elements,

    y = A^T [ (G g G^T) * (B^T d B) ] A.

The matrices follow from the m + 2 points at which two polynomials are evaluated, one of them
infinity: S. Winograd, "Arithmetic complexity of computations" (1980);
A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks" (2016).  They
are made in exact arithmetic.  The points decide the rounding error: those of F(4 x 4) lose
less than a third of what 0, 1, -1, 2, -2 lose.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from math import prod

from symgrad.codegen.emitter import Emitter, Reg
from symgrad.ir.record import record

TAPS = 3
"""Height and width of the filter."""

POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2)),
}
"""Points of evaluation by the number m of outputs, after infinity, which comes first."""

Matrix = tuple[tuple[Fraction, ...], ...]
Vectors = Sequence[Reg | None]
"""Registers of one type; ``None`` is zero."""


@record
class Matrices:
    """The three matrices of F(m, 3), for n = m + 2 (with stride 2, n = 2 m + 1)."""

    input: Matrix
    """B^T, n x n."""
    filter: Matrix
    """G, n x 3."""
    output: Matrix
    """A^T, m x n."""


@functools.cache
def matrices(outputs: int, part: int | None = None, stride: int = 1) -> Matrices:
    """The matrices for one of ``POINTS``, or for a ``part`` of its outputs.

    A part of the outputs takes the first of the points, with the filter as it is transformed
    for all of them.

    With stride 2 the even inputs meet the outer taps and the odd ones the middle tap: two
    correlations of stride 1, whose products are interleaved so that a part of the outputs
    takes the first of them, too.
    """
    part = outputs if part is None else part
    if stride == 1:
        return _correlation(POINTS[outputs], TAPS, part)
    zero, one = Fraction(0), Fraction(1)
    size = 2 * part + 1
    outer = _correlation(POINTS[outputs][:outputs], TAPS - 1, part)
    evens = [
        ([row[i // 2] if i % 2 == 0 else zero for i in range(size)], (g[0], zero, g[1]), column)
        for row, g, column in zip(outer.input, outer.filter, transposed(outer.output), strict=True)
    ]
    odds = [
        ([one if i == 2 * n + 1 else zero for i in range(size)], (zero, one, zero), unit)
        for n, unit in enumerate(_unit_vectors(part))
    ]
    products = [evens[0], *(p for pair in zip(evens[1:], odds, strict=True) for p in pair)]
    rows, filters, columns = zip(*products, strict=True)
    return Matrices(tuple(map(tuple, rows)), filters, tuple(zip(*columns, strict=True)))


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


def _unit_vectors(size: int) -> Matrix:
    """The rows of the identity."""
    return tuple(tuple(Fraction(int(i == at)) for i in range(size)) for at in range(size))


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
    columns = [apply(k, matrix, column) for column in zip(*tile, strict=True)]
    return [
        [k.zero(_type_of(tile)) if x is None else x for x in apply(k, across or matrix, row)]
        for row in zip(*columns, strict=True)
    ]


def _type_of(tile: Sequence[Vectors]) -> str:
    return next(x.type for row in tile for x in row if x is not None)


def apply(k: Emitter, matrix: Matrix, xs: Vectors) -> list[Reg | None]:
    """``M x``.

    Points p and -p give rows (or columns) that differ in the sign of every second
    element; the even and the odd half of their sums are then computed once for both.
    """
    columns = _mirrored(transposed(matrix))
    if columns:
        return _by_columns(k, matrix, xs, columns)
    result: list[Reg | None] = [None] * len(matrix)
    pairs = _mirrored(matrix)
    for i, j in pairs:
        row = matrix[i]
        even = _sum(k, [(c, x) for c, x in zip(row[::2], xs[::2], strict=True)])
        odds = [(c, x) for c, x in zip(row[1::2], xs[1::2], strict=True) if c and x is not None]
        scale = odds[-1][0] if odds else Fraction(1)
        odd = _sum(k, [(c / scale, x) for c, x in odds])
        result[i], result[j] = _plus(k, even, scale, odd), _plus(k, even, -scale, odd)
    paired = {i for pair in pairs for i in pair}
    for i, row in enumerate(matrix):
        if i not in paired:
            result[i] = _sum(k, list(zip(row, xs, strict=True)))
    return result


def _by_columns(
    k: Emitter, matrix: Matrix, xs: Vectors, pairs: Sequence[tuple[int, int]]
) -> list[Reg | None]:
    """``M x`` with sums and differences of the elements whose columns mirror each other."""
    one = Fraction(1)
    sums = {i: _plus(k, xs[i], one, xs[j]) for i, j in pairs}
    differences = {i: _plus(k, xs[i], -one, xs[j]) for i, j in pairs}
    seconds = {j for _, j in pairs}
    result = []
    for number, row in enumerate(matrix):
        halves = differences if number % 2 else sums
        terms = [(c, halves.get(i, xs[i])) for i, c in enumerate(row) if i not in seconds]
        result.append(_sum(k, terms))
    return result


def _mirrored(rows: Matrix) -> list[tuple[int, int]]:
    """Pairs of rows that agree in even places and differ in sign in odd ones."""
    found: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        mirror = tuple(-c if at % 2 else c for at, c in enumerate(row))
        if mirror != row and mirror in rows[:i]:
            found.append((rows.index(mirror), i))
    return found


def _plus(k: Emitter, a: Reg | None, scale: Fraction, b: Reg | None) -> Reg | None:
    """``a + scale * b``."""
    if b is None:
        return a
    if a is None:
        return _sum(k, [(scale, b)])
    if scale == 1:
        return k.fadd(a, b)
    if scale == -1:
        return k.fsub(a, b)
    return k.fma(k.const(b.type, float(scale)), b, a)


def _sum(k: Emitter, terms: Sequence[tuple[Fraction, Reg | None]]) -> Reg | None:
    """The sum of products with constants; those with 1 come first, as they need no product."""
    left = [(c, x) for c, x in terms if c and x is not None]
    left.sort(key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    if not left:
        return None
    (scale, first), *rest = left
    assert first is not None
    total: Reg | None = first
    if scale == -1:
        total = k.fneg(first)
    elif scale != 1:
        total = k.fmul(k.const(first.type, float(scale)), first)
    for c, x in rest:
        total = _plus(k, total, c, x)
    return total
