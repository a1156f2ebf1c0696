"""The kernel of ``attention_grad``: scores and weights made again, block by block.

A task is a range of keys and a range of queries of one matrix of the batch.  Where the
matrices are many, a task is a whole one and gives all three results.  Otherwise the ranges
of queries give the cotangent of q and, in a second kernel, the ranges of keys those of k
and v: no sum is ever shared between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.attention import (
    Blocking,
    Heads,
    Scores,
    Scratch,
    as_column,
    feed,
    in_turn,
)
from symgrad.codegen.kernels.lanes import load_lanes
from symgrad.codegen.kernels.matrix import Source
from symgrad.codegen.kernels.microkernel import (
    Accumulators,
    Feed,
    accumulator_type,
    outer_tile,
    pieces,
)
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.scalar import emit_op
from symgrad.codegen.target import Target
from symgrad.ir.record import record

TASKS_PER_THREAD = 4
"""Enough for an even share of the work where tasks differ."""


@record
class AttentionGradSpec:
    """``attention_grad``: accesses over batch, positions and features.

    ``parts`` are the ranges of keys and of queries.  ``wants_q`` and ``wants_kv`` say which
    results are made: the first only with one range of keys, the second with one of queries.
    The features of ``q`` and ``ct`` are contiguous.
    """

    heads: Heads
    ct: Access
    lse: Access
    delta: Access
    dq: Access
    dk: Access
    dv: Access
    parts: tuple[int, int] = (1, 1)
    wants_q: bool = True
    wants_kv: bool = True


@record
class _Areas:
    """Where a thread's arrays lie in its scratch, in bytes."""

    q: int
    ct: int
    weights: int
    scores: int
    dq: int
    dk: int
    dv: int
    mask: int
    bytes: int

    @staticmethod
    def of(spec: AttentionGradSpec, target: Target) -> _Areas:
        heads = spec.heads
        cut, scratch = Blocking.of(heads, target), Scratch(heads.dtype)
        depth, width = (round_up(n, cut.lanes) for n in (heads.depth, heads.width))
        tiles = ceil(ceil(heads.keys / cut.rows) / spec.parts[0])
        keys = tiles * cut.rows if spec.wants_kv else 0
        return _Areas(
            scratch.take(depth, cut.block),
            scratch.take(width, cut.block),
            scratch.take(cut.run_keys, cut.block),
            scratch.take(cut.run_keys, cut.block),
            scratch.take(heads.depth if spec.wants_q else 0, cut.block),
            scratch.take(keys, depth),
            scratch.take(keys, width),
            scratch.take(round_up(cut.run_keys, cut.lanes) * heads.turns_mask, cut.block),
            scratch.bytes,
        )


def lower_attention_grad(spec: AttentionGradSpec, target: Target, threads: int) -> Lowering:
    """Buffers: ct, q, k, v, lse, delta, the mask if there is one, dq, dk, dv."""
    matrices, cut = prod(spec.heads.batch), Blocking.of(spec.heads, target)
    if threads == 1 or matrices % threads == 0 or matrices >= TASKS_PER_THREAD * threads:
        specs = [spec]
    else:
        parts = ceil(TASKS_PER_THREAD * threads / matrices)
        by_keys = min(parts, ceil(spec.heads.keys / cut.rows))
        by_queries = min(parts, ceil(spec.heads.queries / cut.block))
        specs = [
            replace(spec, parts=(1, by_queries), wants_kv=False),
            replace(spec, parts=(by_keys, 1), wants_q=False),
        ]
    buffers = tuple(range(9 + (spec.heads.mask is not None)))
    phases = [
        Phase(
            "attention_grad",
            emit_attention_grad,
            each,
            buffers,
            threads * _Areas.of(each, target).bytes,
        )
        for each in specs
    ]
    return Lowering(tuple(phases))


def emit_attention_grad(k: Emitter, name: str, spec: AttentionGradSpec) -> None:
    """The kernel; its arguments are the buffers of ``lower_attention_grad`` and scratch."""
    with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
        _Backward(k, spec, args, tid).emit(tid, nth)


_LSE, _DELTA = range(2)


class _Backward:
    def __init__(self, k: Emitter, spec: AttentionGradSpec, args: Reg, tid: Reg) -> None:
        self.k, self.spec, self.heads = k, spec, spec.heads
        count = 9 + (spec.heads.mask is not None)
        buffers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count + 1)]
        self.ct_buffer, self.statistics = buffers[0], buffers[4:6]
        self.results = buffers[count - 3 : count]
        areas = _Areas.of(spec, k.target)
        area = k.gep(buffers[-1], k.mul(tid, areas.bytes), "i8")
        operands = [*buffers[1:4], *buffers[6 : count - 3]]
        self.scores = s = Scores(k, spec.heads, operands, k.gep(area, areas.mask, "i8"))
        self.q, self.ct, self.weights, self.marks, self.dq, self.dk, self.dv = (
            k.gep(area, at, "i8")
            for at in (
                areas.q, areas.ct, areas.weights, areas.scores, areas.dq, areas.dk, areas.dv,
            )
        )  # fmt: skip
        self.state = Accumulators(k, 2, [s.vector] * s.cut.vectors)
        self.pitches = tuple(round_up(n, s.cut.lanes) for n in (spec.heads.depth, spec.heads.width))

    def emit(self, tid: Reg, nth: Reg) -> None:
        """Ranges in turn: causal ones take longer the later they come."""
        k, s, (by_keys, by_queries) = self.k, self.scores, self.spec.parts
        with in_turn(k, prod(self.heads.batch) * by_keys * by_queries, tid, nth) as task:
            rest, query_part = k.divmod(task, by_queries)
            batch, key_part = k.divmod(rest, by_keys)
            self._at(batch)
            keys = k.slice(s.tiles, key_part, by_keys)
            low, high = k.slice(s.blocks, query_part, by_queries)
            if self.heads.causal:  # queries before the first key do not see any
                low = k.max(low, k.udiv(k.mul(keys[0], s.cut.rows), s.cut.block))
            start = k.mul(keys[0], s.cut.rows)
            count = k.sub(k.min(k.mul(keys[1], s.cut.rows), self.heads.keys), start)
            if self.spec.wants_kv:
                for area, pitch in zip((self.dk, self.dv), self.pitches, strict=True):
                    s.clear(area, k.mul(count, pitch))
            with k.loop(low, high) as block:
                self._block(k.mul(block, s.cut.block), keys)
            if self.spec.wants_kv:
                targets = (self.dk, self.dk_out, self.pitches[0], self.heads.depth), (
                    self.dv, self.dv_out, self.pitches[1], self.heads.width,
                )  # fmt: skip
                for area, target, pitch, features in targets:
                    self._store_rows(area, target, pitch, features, start, count)

    def _at(self, batch: Int) -> None:
        s, h, spec = self.scores, self.heads, self.spec
        s.at(batch)
        over_q, over_k, over_v = (h.queries, h.depth), (h.keys, h.depth), (h.keys, h.width)
        over_ct = h.queries, h.width
        self.q_turned = s.q
        self.ct_turned = s.turned(spec.ct, self.ct_buffer, over_ct, batch)
        self.lse, self.delta = (
            s.matrix(as_column(access), buffer, (h.queries, 1), batch)
            for access, buffer in zip((spec.lse, spec.delta), self.statistics, strict=True)
        )
        self.dq_out, self.dk_out, self.dv_out = (
            s.matrix(access, buffer, shape, batch)
            for access, buffer, shape in zip(
                (spec.dq, spec.dk, spec.dv), self.results, (over_q, over_k, over_v), strict=True
            )
        )

    def _block(self, first: Int, keys: tuple[Int, Int]) -> None:
        """A block of queries against the tiles ``keys``."""
        k, s, heads = self.k, self.scores, self.heads
        count = s.count(first)
        s.pack(self.q_turned, self.q, heads.depth, first, count)
        s.pack(self.ct_turned, self.ct, heads.width, first, count)
        for number, source in ((_LSE, self.lse), (_DELTA, self.delta)):
            for v in range(s.cut.vectors):
                self.state[number, v] = self._per_query(source, first, count, v)
        if self.spec.wants_q:
            s.clear(self.dq, heads.depth * s.cut.block)
        last = k.min(keys[1], s.visible(first))
        with k.loop(keys[0], last, s.cut.run) as low:
            high = k.min(k.add(low, s.cut.run), last)
            start = k.mul(low, s.cut.rows)
            present = k.sub(k.min(k.mul(high, s.cut.rows), heads.keys), start)
            s.write_scores(first, count, low, high, self.q, self.weights, lambda v, x: None)
            s.write_product(s.values, self.ct, heads.width, low, high, self.marks)
            self._weigh(present)
            if self.spec.wants_q:
                self._add_to_queries(start, present)
            if self.spec.wants_kv:
                tiles = low, high, k.sub(low, keys[0])
                q, ct = feed(self.q_turned), feed(self.ct_turned)
                self._add_to_keys(tiles, self.weights, ct, self.dv, heads.width, first, count)
                self._add_to_keys(tiles, self.marks, q, self.dk, heads.depth, first, count)
        if self.spec.wants_q:
            s.store_turned(self.dq, self.dq_out, heads.depth, first, count)

    def _per_query(self, source: Source, first: Int, count: Int, v: int) -> Reg:
        k, s = self.k, self.scores
        assert source.matrix.strides is not None
        stride = source.matrix.strides[0]
        place = k.mul(k.add(first, v * s.cut.lanes), stride)
        address = k.gep(source.base, place, MEMORY_TYPES[source.matrix.dtype])
        present = s.present(count, v)
        return load_lanes(k, address, source.matrix.dtype, stride, s.cut.lanes, present)

    def _weigh(self, keys: Int) -> None:
        """Scores become weights, products with the values the cotangents of the scores."""
        k, s = self.k, self.scores
        scale = k.const(s.vector, self.heads.scale)
        with k.loop(0, keys) as key:
            for v in range(s.cut.vectors):
                at, mark_at = s.slot(self.weights, key, v), s.slot(self.marks, key, v)
                shifted = k.fsub(k.load(s.vector, at), self.state[_LSE, v])
                weight = emit_op(k, "exp", (shifted,), (s.dtype,))
                k.store(weight, at)
                mark = k.fsub(k.load(s.vector, mark_at), self.state[_DELTA, v])
                k.store(k.fmul(k.fmul(weight, scale), mark), mark_at)

    def _add_to_queries(self, start: Int, keys: Int) -> None:
        """``dq^T += keys^T marks``"""
        k, s = self.k, self.scores
        lines = s.keys.at(k, start).transposed
        for loop, height in s.feature_tiles(self.heads.depth):
            with loop as t:
                feature = k.mul(t, s.cut.rows)
                acc = s.tile(lines.at(k, feature), s.packed(self.marks), height, keys)
                for i in range(height):
                    for v in range(s.cut.vectors):
                        at = s.slot(self.dq, k.add(feature, i), v)
                        k.store(k.fadd(k.load(s.vector, at), acc[i, v]), at)

    def _add_to_keys(
        self, tiles: Sequence[Int], factor: Reg, by: Feed, total: Reg, features: int,
        first: Int, count: Int,
    ) -> None:  # fmt: skip
        """``total[key] += factor[key, query] by[query]`` for tiles low to high, from a base on."""
        k, s, (low, high, base) = self.k, self.scores, tiles
        lanes, wide = s.cut.lanes, s.cut.block
        pitch = round_up(features, lanes)
        lines = Feed(s.dtype, factor, wide, 1)
        rows = by.from_index(k, first)
        for loop, height in s.each_tile(low, high):
            with loop as t:
                key = k.mul(k.sub(t, low), s.cut.rows)
                for column in range(0, features, wide):
                    row = pieces(min(wide, features - column), lanes)
                    acc = Accumulators(k, height, [accumulator_type(s.dtype, p.lanes) for p in row])
                    acc.clear()
                    columns = rows.at(k, column)
                    outer_tile(k, lines.at(k, key), columns, acc, height, row, count)
                    line = k.add(k.mul(base, s.cut.rows), key)
                    for i in range(height):
                        for v, piece in enumerate(row):
                            at = k.add(k.mul(k.add(line, i), pitch), column + piece.start)
                            address = k.gep(total, at, s.scalar)
                            old = k.load(accumulator_type(s.dtype, piece.lanes), address)
                            k.store(k.fadd(old, acc[i, v]), address)

    def _store_rows(
        self, source: Reg, target: Source, pitch: int, features: int, start: Int, count: Int
    ) -> None:  # fmt: skip
        k, s, lanes = self.k, self.scores, self.scores.cut.lanes
        with k.loop(0, count) as row:
            for column in range(0, features, lanes):
                at = k.gep(source, k.add(k.mul(row, pitch), column), s.scalar)
                value = k.load(s.vector, at)
                width = min(lanes, features - column)
                s.store_row(target, value, k.add(start, row), column, width)
