"""Attention without an array of scores: softmax online, keys in blocks.

T. Dao, "FlashAttention-2" (2023).  Everything is turned: lanes are queries, so that the
softmax needs no sum across lanes, and keys and values are read in place, one element
broadcast at a time.  Only a block of queries is transposed, once.

A *tile* is so many keys times a block of queries as the registers hold; a *run* is the tiles
whose weights are kept in L1 at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import ceil, prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.conversions import convert
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm_emit import tiles
from symgrad.codegen.kernels.gemm_schedule import outer_tile_shape
from symgrad.codegen.kernels.lanes import load_lanes, store_lanes, transpose
from symgrad.codegen.kernels.matrix import Matrix, Source, permuted
from symgrad.codegen.kernels.microkernel import Accumulators, Feed, outer_tile, pieces
from symgrad.codegen.kernels.pack import pack_transposed, packed_dtype, round_up
from symgrad.codegen.registers import Int, Reg, bytes_of, scalar_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

RUN_KEYS = 48
"""Keys of a run, about: their weights and the block of queries share L1."""

CAUSAL_QUERIES = 32
"""Queries of a causal block, about: all of them meet the keys of the last one, so that longer
blocks compute more in vain; shorter ones go over the keys more often."""


@record
class Heads:
    """What ``attention`` and its gradient have in common.

    Accesses run over ``batch`` and then two axes: ``q`` over queries and ``depth``, ``k``
    over keys and ``depth``, ``v`` over keys and ``width``, ``mask`` over queries and keys.
    """

    batch: tuple[int, ...]
    queries: int
    keys: int
    depth: int
    width: int
    q: Access
    k: Access
    v: Access
    mask: Access | None
    scale: float
    causal: bool

    @property
    def dtype(self) -> str:
        """IR dtype that scores and sums are kept in."""
        return packed_dtype(self.q.dtype)

    @property
    def turns_mask(self) -> bool:
        """Whether the mask is transposed before it is used, run by run.

        Lanes are queries, which would be gathered where it is contiguous along the keys.
        """
        along, across = self.mask.strides[-2:] if self.mask else (0, 0)
        return across == 1 and along not in (0, 1) and self.queries > 1 < self.keys


@record
class Blocking:
    """How the scores are cut up."""

    lanes: int
    rows: int
    """Keys of a tile."""
    vectors: int
    """Vectors of queries of a tile."""
    run: int
    """Tiles of a run."""

    @property
    def block(self) -> int:
        """Queries of a block."""
        return self.lanes * self.vectors

    @property
    def run_keys(self) -> int:
        """Keys of a run."""
        return self.run * self.rows

    @staticmethod
    def of(heads: Heads, target: Target) -> Blocking:
        """The blocking for a target."""
        lanes = target.lanes(bytes_of(MEMORY_TYPES[heads.dtype]))
        queries = min(heads.queries, CAUSAL_QUERIES) if heads.causal else heads.queries
        rows, columns = outer_tile_shape(heads.keys, queries, lanes, target)
        return Blocking(lanes, rows, columns // lanes, max(1, RUN_KEYS // rows))


@contextmanager
def in_turn(k: Emitter, tasks: int, tid: Reg, nth: Reg) -> Iterator[Int]:
    """The tasks of a thread: one of each round, in every other round from the other end.

    Where tasks take longer the later they come, as causal ones do, threads so get about as
    much work as each other.
    """
    with k.loop(0, tasks, nth) as first:
        odd = k.bits("and", k.udiv(first, nth), 1)
        mirrored = k.sub(k.sub(nth, 1), tid)
        place = k.select(k.icmp("eq", odd, 0), tid, k.as_reg(mirrored))
        task = k.as_reg(k.add(first, place))
        with k.if_(k.icmp("slt", task, tasks)):
            yield task


class Scores:
    """Emits the products around the scores of one matrix of the batch."""

    def __init__(self, k: Emitter, heads: Heads, buffers: Sequence[Reg], mask_area: Reg) -> None:
        self.k, self.heads, self.mask_area = k, heads, mask_area
        self.cut = cut = Blocking.of(heads, k.target)
        self.dtype, self.scalar = heads.dtype, MEMORY_TYPES[heads.dtype]
        self.vector = vec(self.scalar, cut.lanes)
        self.row = pieces(cut.block, cut.lanes)
        self.tiles = ceil(heads.keys / cut.rows)
        self.blocks = ceil(heads.queries / cut.block)
        self._buffers = buffers

    # -- operands ------------------------------------------------------------------------

    def matrix(self, access: Access, buffer: Reg, shape: tuple[int, int], batch: Int) -> Source:
        """A matrix of an operand over ``batch + shape``."""
        found = Matrix.of(access, self.heads.batch, shape[:1], shape[1:])
        return Source.of(self.k, found, buffer, batch)

    def turned(self, access: Access, buffer: Reg, shape: tuple[int, int], batch: Int) -> Source:
        """The same with rows and columns exchanged."""
        lead = len(self.heads.batch)
        axes = [*range(lead), lead + 1, lead]
        found = Matrix.of(permuted(access, axes), self.heads.batch, shape[1:], shape[:1])
        return Source.of(self.k, found, buffer, batch)

    def at(self, batch: Int) -> None:
        """Turns to one matrix of the batch."""
        h, (q, keys, values, *mask) = self.heads, self._buffers
        self.q = self.turned(h.q, q, (h.queries, h.depth), batch)
        self.keys = feed(self.matrix(h.k, keys, (h.keys, h.depth), batch))
        self.values = feed(self.matrix(h.v, values, (h.keys, h.width), batch))
        if h.mask is not None:
            shape = h.queries, h.keys
            self.mask = self.matrix(h.mask, mask[0], shape, batch)
            self.turned_mask = self.turned(h.mask, mask[0], shape, batch)

    def pack(self, source: Source, target: Reg, depth: int, first: Int, count: Int) -> None:
        """Transposes ``count`` queries of a turned operand to ``target[depth, block]``."""
        cut = self.cut
        shape = depth, count
        pack_transposed(self.k, source, target, (0, first), shape, cut.block, cut.lanes)

    def count(self, first: Int) -> Int:
        """How many queries of the block from ``first`` on there are."""
        full = self.heads.queries % self.cut.block == 0
        left = self.k.sub(self.heads.queries, first)
        return self.cut.block if full else self.k.min(self.cut.block, left)

    def present(self, count: Int, vector: int) -> Reg | None:
        """Mask of the queries that exist in one vector of a block; None for all."""
        k, lanes = self.k, self.cut.lanes
        left = k.max(0, k.sub(count, vector * lanes))
        return None if isinstance(left, int) and left >= lanes else k.lane_mask(left, lanes)

    def visible(self, first: Int) -> Int:
        """How many tiles of keys the queries from ``first`` on look at."""
        if not self.heads.causal:
            return self.tiles
        k, rows = self.k, self.cut.rows
        reach = k.udiv(k.add(first, self.cut.block + rows - 1), rows)
        return k.min(self.tiles, reach)

    # -- products -------------------------------------------------------------------------

    def each_tile(self, low: Int, high: Int) -> Iterator[tuple[AbstractContextManager[Int], int]]:
        """Loops over tiles of keys, and how many keys they have."""
        return tiles(self.k, (low, high), self.heads.keys, self.cut.rows)

    def feature_tiles(self, features: int) -> Iterator[tuple[AbstractContextManager[Int], int]]:
        """Loops over tiles of so many features, and how many they have."""
        whole = 0, ceil(features / self.cut.rows)
        return tiles(self.k, whole, features, self.cut.rows)

    def tile(self, a: Feed, b: Feed, height: int, depth: Int) -> Accumulators:
        """``height`` lines of A times all queries of the block."""
        acc = Accumulators(self.k, height, [self.vector] * self.cut.vectors)
        acc.clear()
        outer_tile(self.k, a, b, acc, height, self.row, depth)
        return acc

    def packed(self, base: Reg) -> Feed:
        """Reads ``base[index, query]``."""
        return Feed(self.dtype, base, 1, self.cut.block)

    def slot(self, base: Reg, line: Int, vector: int = 0) -> Reg:
        """Address of a vector in ``base[line, block]``."""
        k, cut = self.k, self.cut
        return k.gep(k.gep(base, k.mul(line, cut.block), self.scalar), vector * cut.lanes,
                     self.scalar)  # fmt: skip

    def write_scores(
        self, first: Int, count: Int, low: Int, high: Int, q: Reg, target: Reg,
        visit: Callable[[int, Reg], None],
    ) -> None:  # fmt: skip
        """Scaled and masked scores of some tiles to ``target``; ``visit(vector, scores)``."""
        k, rows = self.k, self.cut.rows
        if self.heads.turns_mask:
            start = k.mul(low, rows)
            shape = k.sub(k.min(k.mul(high, rows), self.heads.keys), start), count
            pack_transposed(
                k, self.turned_mask, self.mask_area, (start, first), shape, self.cut.block,
                self.cut.lanes,
            )  # fmt: skip
        for loop, height in self.each_tile(low, high):
            with loop as t:
                key = k.mul(t, rows)
                lines = self.keys.at(k, key)
                acc = self.tile(lines, self.packed(q), height, self.heads.depth)
                line = k.mul(k.sub(t, low), rows)
                for i in range(height):
                    for v in range(self.cut.vectors):
                        scores = k.fmul(acc[i, v], k.const(self.vector, self.heads.scale))
                        masks = self._mask(first, count, k.add(key, i), k.add(line, i), v)
                        scores = self._masked(scores, first, k.add(key, i), v, masks)
                        k.store(scores, self.slot(target, k.add(line, i), v))
                        visit(v, scores)

    def write_product(
        self, lines: Feed, b: Reg, depth: int, low: Int, high: Int, target: Reg
    ) -> None:
        """``lines`` of some tiles of keys times a packed block of queries, to ``target``."""
        k, rows = self.k, self.cut.rows
        for loop, height in self.each_tile(low, high):
            with loop as t:
                acc = self.tile(lines.at(k, k.mul(t, rows)), self.packed(b), height, depth)
                line = k.mul(k.sub(t, low), rows)
                for i in range(height):
                    for v in range(self.cut.vectors):
                        k.store(acc[i, v], self.slot(target, k.add(line, i), v))

    def _mask(self, first: Int, count: Int, key: Int, line: Int, v: int) -> Reg | None:
        """The mask of one key, which is the run's number ``line``, and a vector of queries."""
        k, heads, lanes = self.k, self.heads, self.cut.lanes
        if heads.mask is None:
            return None
        if heads.turns_mask:
            dtype = packed_dtype(heads.mask.dtype)
            place = k.add(k.mul(line, self.cut.block), v * lanes)
            address = k.gep(self.mask_area, place, MEMORY_TYPES[dtype])
            return load_lanes(k, address, dtype, 1, lanes)
        assert self.mask.matrix.strides is not None
        along, across = self.mask.matrix.strides
        place = k.add(k.mul(k.add(first, v * lanes), along), k.mul(key, across))
        address = k.gep(self.mask.base, place, MEMORY_TYPES[heads.mask.dtype])
        return load_lanes(k, address, heads.mask.dtype, along, lanes, self.present(count, v))

    def _masked(self, scores: Reg, first: Int, key: Int, v: int, mask: Reg | None) -> Reg:
        k, heads, lanes = self.k, self.heads, self.cut.lanes
        never = k.const(self.vector, float("-inf"))
        query = k.add(first, v * lanes)
        if mask is not None:
            is_bool = scalar_of(mask.type) == "i1"
            scores = k.select(mask, scores, never) if is_bool else k.fadd(scores, mask)
        if heads.causal:
            distance = k.splat(k.as_reg(k.sub(key, query)), lanes)
            seen = k.icmp("sge", k.lane_index("i64", lanes), distance)
            scores = k.select(seen, scores, never)
        return scores

    # -- results ---------------------------------------------------------------------------

    def store_turned(
        self, source: Reg, target: Source, features: int, first: Int, count: Int,
        factor: Reg | None = None,
    ) -> None:  # fmt: skip
        """``source[feature, query]``, times ``factor[query]``, to rows of ``target``."""
        k, lanes = self.k, self.cut.lanes
        with k.loop(0, self.cut.vectors) as v:
            start = k.mul(v, lanes)
            times = None
            if factor is not None:
                times = k.load(self.vector, k.gep(factor, start, self.scalar))
            for loop, width in tiles(k, (0, ceil(features / lanes)), features, lanes):
                with loop as block:
                    column = k.mul(block, lanes)
                    lines = []
                    for i in range(lanes):
                        if i >= width:
                            lines.append(k.zero(self.vector))
                            continue
                        at = k.gep(self.slot(source, k.add(column, i)), start, self.scalar)
                        line = k.load(self.vector, at)
                        lines.append(line if times is None else k.fmul(line, times))
                    for i, row in enumerate(transpose(k, lines)):
                        query = k.add(start, i)
                        with k.if_(k.icmp("slt", query, count)):
                            place = k.add(first, query)
                            self.store_row(target, row, place, column, width)

    def store_row(self, target: Source, value: Reg, row: Int, column: Int, count: int) -> None:
        """Stores a vector to columns of a row of a result."""
        k, matrix = self.k, target.matrix
        assert matrix.strides is not None
        offset = k.add(k.mul(row, matrix.strides[0]), k.mul(column, matrix.strides[1]))
        address = k.gep(target.base, offset, MEMORY_TYPES[matrix.dtype])
        mask = None if count == self.cut.lanes else k.lane_mask(count, self.cut.lanes)
        value = convert(k, value, self.dtype, matrix.dtype)
        store_lanes(k, value, address, matrix.dtype, matrix.strides[1], mask)

    def clear(self, base: Reg, size: Int) -> None:
        """Zeros ``size`` elements, a multiple of the lanes."""
        k = self.k
        with k.loop(0, size, self.cut.lanes) as i:
            k.store(k.zero(self.vector), k.gep(base, i, self.scalar))


def feed(source: Source) -> Feed:
    """A matrix read in place, one element at a time: lines are its rows."""
    matrix = source.matrix
    assert matrix.strides is not None
    return Feed(matrix.dtype, source.base, *matrix.strides)


class Scratch:
    """Pieces of a thread's private area, in elements of one type, 64-byte aligned."""

    def __init__(self, dtype: str) -> None:
        self.scalar = MEMORY_TYPES[dtype]
        self.bytes = 0

    def take(self, *shape: int) -> int:
        """Reserves an array; returns its offset in bytes."""
        offset = self.bytes
        self.bytes += round_up(prod(shape) * bytes_of(self.scalar), 64)
        return offset


def as_column(access: Access) -> Access:
    """A vector (over the last axis) as a matrix of one column."""
    return Access(access.dtype, (*access.strides, 0), access.offset)
