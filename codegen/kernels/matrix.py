"""Operands of a matrix product: strided, multi-dimensional, padded.

The rows of a product's operand may run over several dimensions at once, as do
its columns, and an element may lie outside of the buffer, where it reads as 0.
That covers a transposed or strided matrix, a contraction over several axes and
the patches of an image that a convolution multiplies with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from symgrad.codegen.access import MEMORY_TYPES, REGISTER_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.lanes import gather_lanes, load_lanes
from symgrad.codegen.registers import Int, Reg, lanes_of, scalar_of, vec
from symgrad.ir.record import record


@record
class Window:
    """A padded and dilated axis of a buffer.

    Point ``p`` of the iteration space has the coordinate ``origin + sum(p[d] *
    steps[d])``.  The buffer holds the coordinates ``0, dilation, ..., (size - 1) *
    dilation``, ``stride`` elements apart; everywhere else the operand is 0.
    """

    steps: tuple[int, ...]
    origin: int
    size: int
    stride: int
    dilation: int = 1


@record
class PaddedAccess:
    """An access to whose addresses each window adds its coordinate's share."""

    access: Access
    windows: tuple[Window, ...]

    @property
    def dtype(self) -> str:
        """IR dtype's name."""
        return self.access.dtype


Operand = Access | PaddedAccess


def permuted(operand: Operand, axes: Sequence[int | None]) -> Operand:
    """``operand`` over the axes ``axes`` of its iteration space; None is a broadcast axis."""

    def pick(steps: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(0 if axis is None else steps[axis] for axis in axes)

    if isinstance(operand, PaddedAccess):
        access = replace(operand.access, strides=pick(operand.access.strides))
        windows = tuple(replace(w, steps=pick(w.steps)) for w in operand.windows)
        return PaddedAccess(access, windows)
    return replace(operand, strides=pick(operand.strides))


@record
class Place:
    """What an index contributes to an element's address and to its window coordinates."""

    offset: Int
    coordinates: tuple[Int, ...] = ()


@record
class Lanes:
    """Consecutive indices along a side, one per vector lane."""

    first: Place
    last: Place
    each: Place
    """Of all lanes, as vectors."""
    run: Reg | bool
    """Whether the lanes are neighbours in memory."""
    type: str
    """LLVM type of an index vector."""
    count: Int
    """Lanes in use, from the first on."""

    @property
    def lanes(self) -> int:
        """All lanes."""
        return lanes_of(self.type)


@record
class Side:
    """The dimensions that the batch, the rows or the columns of an operand run over.

    Dimensions that continue each other at one stride are merged.
    """

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    """Per window: what a step along each dimension adds to its coordinate."""

    @staticmethod
    def of(extents: Sequence[int], strides: Sequence[int], steps: Sequence[Sequence[int]]) -> Side:
        """Merges the dimensions; those of extent 1 vanish."""
        merged: list[tuple[int, tuple[int, ...]]] = []
        for extent, moves in zip(extents, zip(strides, *steps, strict=True), strict=True):
            if extent == 1:
                continue
            if merged and all(o == i * extent for o, i in zip(merged[-1][1], moves, strict=True)):
                merged[-1] = merged[-1][0] * extent, moves
            else:
                merged.append((extent, moves))
        if not merged:
            merged.append((1, (1, *(0 for _ in steps))))
        columns = list(zip(*(moves for _, moves in merged), strict=True))
        return Side(tuple(extent for extent, _ in merged), columns[0], tuple(columns[1:]))

    @property
    def size(self) -> int:
        """Number of indices."""
        return prod(self.extents)

    @property
    def span(self) -> int:
        """Bound of the offsets."""
        return sum(e * abs(s) for e, s in zip(self.extents, self.strides, strict=True))

    def at(self, k: Emitter, index: Int) -> Place:
        """The place of an index, or of a vector of them."""
        digits: list[Int] = []
        for extent in reversed(self.extents[1:]):
            index, digit = k.divmod(index, extent)
            digits.insert(0, digit)
        digits.insert(0, index)
        offset, *coordinates = (_dot(k, digits, w) for w in (self.strides, *self.steps))
        return Place(offset, tuple(coordinates))


def _dot(k: Emitter, digits: Sequence[Int], weights: Sequence[int]) -> Int:
    total: Int = 0
    for digit, weight in zip(digits, weights, strict=True):
        total = k.add(total, k.mul(digit, weight))
    return total


@record
class Matrix:
    """An operand as a batch of matrices.

    Element (i, j) of matrix b lies at the sum of ``offset`` and the places of ``b``,
    ``i`` and ``j`` along the three sides, if it lies within all windows.
    """

    dtype: str
    offset: int
    batch: Side
    rows: Side
    cols: Side
    windows: tuple[Window, ...]

    @staticmethod
    def of(
        operand: Operand, batch: Sequence[int], rows: Sequence[int], cols: Sequence[int]
    ) -> Matrix:
        """``operand`` over the iteration space ``batch + rows + cols``."""
        padded = operand if isinstance(operand, PaddedAccess) else PaddedAccess(operand, ())
        access, windows = padded.access, padded.windows
        strides, offset = list(access.strides), access.offset
        for window in windows:
            if window.dilation == 1:  # then its share of the address is linear
                offset += window.origin * window.stride
                for axis, step in enumerate(window.steps):
                    strides[axis] += step * window.stride
        start, sides = 0, []
        for extents in (batch, rows, cols):
            part = slice(start, start + len(extents))
            sides.append(Side.of(extents, strides[part], [w.steps[part] for w in windows]))
            start = part.stop
        return Matrix(access.dtype, offset, sides[0], sides[1], sides[2], windows)

    @property
    def transposed(self) -> Matrix:
        """Rows and columns exchanged."""
        return Matrix(self.dtype, self.offset, self.batch, self.cols, self.rows, self.windows)

    @property
    def strides(self) -> tuple[int, int] | None:
        """Row and column stride; None where they vary or windows cut elements off."""
        if self.windows or len(self.rows.extents) + len(self.cols.extents) > 2:
            return None
        return self.rows.strides[0], self.cols.strides[0]

    def run(self, side: Side) -> int:
        """How many indices along ``side`` are neighbours in memory, windows aside; else 0."""
        straight = side.strides[-1] == 1 and all(w.dilation == 1 for w in self.windows)
        return side.extents[-1] if straight else 0

    def lanes(self, k: Emitter, side: Side, index: Int, lanes: int, count: Int) -> Lanes:
        """The places of ``count`` indices of ``side``, from ``index`` on, in ``lanes`` lanes."""
        first = side.at(k, index)
        if self.run(side) and len(side.extents) == 1 and not self.windows:
            return Lanes(first, first, first, True, vec("i64", lanes), count)
        run: Reg | bool = False
        if self.run(side):
            _, digit = k.divmod(index, side.extents[-1])
            run = k.icmp("sle", k.as_reg(k.add(digit, count)), side.extents[-1])
        steps = (k.mul(k.sub(count, 1), s[-1]) for s in side.steps)
        last = Place(0, tuple(map(k.add, first.coordinates, steps)))
        type = vec("i32" if side.span < 1 << 31 else "i64", lanes)
        start = k.as_reg(index)
        start = start if scalar_of(type) == "i64" else k.cast("trunc", start, "i32")
        each = side.at(k, k.add(k.splat(start, lanes), k.lane_index(scalar_of(type), lanes)))
        vectors = [_vector(k, v, type) for v in (each.offset, *each.coordinates)]
        return Lanes(first, last, Place(vectors[0], tuple(vectors[1:])), run, type, count)

    def load(self, k: Emitter, base: Reg, fixed: Place, along: Lanes) -> Reg:
        """The elements at ``fixed`` on one side and at every lane on the other, to compute with.

        ``base`` points to the origin of the batch's matrix.  Unused lanes are 0.
        """
        scalar = MEMORY_TYPES[self.dtype]
        origin = k.gep(base, fixed.offset, scalar)
        if along.run is False:
            return self._gather(k, origin, fixed, along)
        start = k.gep(origin, along.first.offset, scalar)
        if along.run is True:
            return load_run(k, self.dtype, start, along.lanes, along.count)
        inside: Int = along.run
        ends = (along.first.coordinates, along.last.coordinates)
        for window, at, *lanes in zip(self.windows, fixed.coordinates, *ends, strict=True):
            for lane in lanes:
                coordinate = k.as_reg(k.add(k.add(at, lane), window.origin))
                inside = k.bits("and", inside, k.icmp("ult", coordinate, window.size))
        slot = k.alloca(vec(REGISTER_TYPES[self.dtype], along.lanes))
        with k.if_else(k.as_reg(inside)) as (then, otherwise):
            with then:
                k.store(load_run(k, self.dtype, start, along.lanes, along.count), slot)
            with otherwise:
                k.store(self._gather(k, origin, fixed, along), slot)
        return k.load(vec(REGISTER_TYPES[self.dtype], along.lanes), slot)

    def _gather(self, k: Emitter, origin: Reg, fixed: Place, along: Lanes) -> Reg:
        """Lane by lane, 0 where a window excludes one."""
        mask, offsets = k.lane_mask(along.count, along.lanes), along.each.offset
        places = zip(self.windows, fixed.coordinates, along.each.coordinates, strict=True)
        for window, at, lanes in places:
            coordinate = k.add(_spread(k, k.add(at, window.origin), along), lanes)
            if window.dilation > 1:
                coordinate, rest = k.divmod(coordinate, window.dilation)
                mask = k.bits("and", mask, k.icmp("eq", rest, 0))
                offsets = k.add(offsets, k.mul(coordinate, window.stride))
            mask = k.bits("and", mask, k.icmp("ult", coordinate, window.size))
        return gather_lanes(k, origin, k.as_reg(offsets), self.dtype, mask)


@record
class Source:
    """One matrix of the batch, found in memory."""

    matrix: Matrix
    base: Reg
    shift: tuple[Int, ...]
    """What its place in the batch adds to each window's coordinate."""

    @staticmethod
    def of(k: Emitter, matrix: Matrix, buffer: Reg, index: Int) -> Source:
        """Matrix ``index`` of the batch in ``buffer``."""
        place = matrix.batch.at(k, index)
        scalar = MEMORY_TYPES[matrix.dtype]
        base = k.gep(buffer, k.add(place.offset, matrix.offset), scalar)
        return Source(matrix, base, place.coordinates)

    @property
    def transposed(self) -> Source:
        """Rows and columns exchanged."""
        return Source(self.matrix.transposed, self.base, self.shift)

    @property
    def runs(self) -> bool:
        """Whether neighbouring columns are mostly neighbours in memory."""
        return self.matrix.run(self.matrix.cols) > 0

    def lanes(self, k: Emitter, index: Int, lanes: int, count: Int) -> Lanes:
        """The places of ``count`` columns from ``index`` on."""
        return self.matrix.lanes(k, self.matrix.cols, index, lanes, count)

    def load(self, k: Emitter, row: Int, along: Lanes) -> Reg:
        """The elements of a row at some columns, to compute with; unused lanes are 0."""
        place = self.matrix.rows.at(k, row)
        shifted = tuple(map(k.add, place.coordinates, self.shift))
        return self.matrix.load(k, self.base, Place(place.offset, shifted), along)


def _vector(k: Emitter, value: Int, type: str) -> Reg:
    """A vector that may have folded to a number."""
    return value if isinstance(value, Reg) else k.const(type, value)


def _spread(k: Emitter, value: Int, along: Lanes) -> Reg:
    """A scalar index in the vector type of ``along``."""
    scalar = scalar_of(along.type)
    if isinstance(value, int):
        return k.const(along.type, value)
    return k.splat(value if scalar == "i64" else k.cast("trunc", value, scalar), along.lanes)


def load_run(k: Emitter, dtype: str, start: Reg, lanes: int, count: Int) -> Reg:
    """``count`` neighbours in memory, to compute with; the other lanes are 0."""
    mask = None if count == lanes else k.lane_mask(count, lanes)
    return load_lanes(k, start, dtype, 1, lanes, mask)
