"""The kernel of ``attention``: a block of queries at a time, softmax online."""

from __future__ import annotations

from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.attention import (
    Blocking,
    Heads,
    Scores,
    Scratch,
    as_column,
    in_turn,
)
from symgrad.codegen.kernels.lanes import store_lanes
from symgrad.codegen.kernels.microkernel import Accumulators, Feed
from symgrad.codegen.kernels.pack import round_up
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.scalar import emit_op
from symgrad.codegen.target import Target
from symgrad.ir.record import record


@record
class AttentionSpec:
    """``attention``: ``out`` over batch, queries and width, ``lse`` over batch and queries."""

    heads: Heads
    out: Access
    lse: Access


@record
class _Areas:
    """Where a thread's arrays lie in its scratch, in bytes."""

    q: int
    weights: int
    sums: int
    factor: int
    mask: int
    bytes: int

    @staticmethod
    def of(heads: Heads, target: Target) -> _Areas:
        cut, scratch = Blocking.of(heads, target), Scratch(heads.dtype)
        return _Areas(
            scratch.take(round_up(heads.depth, cut.lanes), cut.block),
            scratch.take(cut.run_keys, cut.block),
            scratch.take(heads.width, cut.block),
            scratch.take(cut.block),
            scratch.take(round_up(cut.run_keys, cut.lanes) * heads.turns_mask, cut.block),
            scratch.bytes,
        )


def lower_attention(spec: AttentionSpec, target: Target, threads: int) -> Lowering:
    """One kernel.  Buffers: q, k, v, the mask if there is one, the result, lse."""
    scratch = threads * _Areas.of(spec.heads, target).bytes
    buffers = tuple(range(5 + (spec.heads.mask is not None)))
    return Lowering((Phase("attention", emit_attention, spec, buffers, scratch),))


def emit_attention(k: Emitter, name: str, spec: AttentionSpec) -> None:
    """The kernel; its arguments are the buffers of ``lower_attention`` and scratch."""
    with k.function(name, ("ptr noalias", "i64", "i64")) as (args, tid, nth):
        _Forward(k, spec, args, tid).emit(tid, nth)


_TOP, _TOTAL, _FACTOR = range(3)
"""What is kept per query: the greatest score, the denominator, by how much sums shrink."""


class _Forward:
    def __init__(self, k: Emitter, spec: AttentionSpec, args: Reg, tid: Reg) -> None:
        self.k, self.spec = k, spec
        count = 5 + (spec.heads.mask is not None)
        buffers = [k.load("ptr", k.gep(args, i, "ptr")) for i in range(count + 1)]
        self.out, self.lse = buffers[count - 2 : count]
        areas = _Areas.of(spec.heads, k.target)
        area = k.gep(buffers[-1], k.mul(tid, areas.bytes), "i8")
        mask = k.gep(area, areas.mask, "i8")
        self.scores = s = Scores(k, spec.heads, buffers[: count - 2], mask)
        self.q, self.weights, self.sums, self.factor = (
            k.gep(area, at, "i8") for at in (areas.q, areas.weights, areas.sums, areas.factor)
        )
        self.state = Accumulators(k, 3, [s.vector] * s.cut.vectors)

    def emit(self, tid: Reg, nth: Reg) -> None:
        """Blocks of queries in turn: causal ones take longer the later they come."""
        k, s = self.k, self.scores
        with in_turn(k, prod(self.spec.heads.batch) * s.blocks, tid, nth) as task:
            batch, block = k.divmod(task, s.blocks)
            s.at(batch)
            self._block(batch, k.mul(block, s.cut.block))

    def _block(self, batch: Int, first: Int) -> None:
        k, s, heads = self.k, self.scores, self.spec.heads
        count = s.count(first)
        s.pack(s.q, self.q, heads.depth, first, count)
        s.clear(self.sums, heads.width * s.cut.block)
        for v in range(s.cut.vectors):
            self.state[_TOP, v] = k.const(s.vector, float("-inf"))
            self.state[_TOTAL, v] = k.zero(s.vector)
        visible = s.visible(first)
        with k.loop(0, visible, s.cut.run) as low:
            high = k.min(k.add(low, s.cut.run), visible)
            tops = Accumulators(k, 1, [s.vector] * s.cut.vectors)
            for v in range(s.cut.vectors):
                tops[0, v] = self.state[_TOP, v]

            def raise_top(v: int, scores: Reg, tops: Accumulators = tops) -> None:
                tops[0, v] = self._op("maximum", tops[0, v], scores)

            s.write_scores(first, count, low, high, self.q, self.weights, raise_top)
            start = k.mul(low, s.cut.rows)
            keys = k.sub(k.min(k.mul(high, s.cut.rows), heads.keys), start)
            self._weigh(tops, keys)
            self._add_values(start, keys)
        self._finish(batch, first, count)

    def _op(self, name: str, *operands: Reg) -> Reg:
        return emit_op(self.k, name, operands, (self.scores.dtype,) * len(operands))

    def _shift(self, top: Reg) -> Reg:
        """The greatest score, or 0 where that is infinite and would make nan of a difference."""
        k = self.k
        return k.select(self._op("isfinite", top), top, k.zero(top.type))

    def _weigh(self, tops: Accumulators, keys: Int) -> None:
        """Scores of a run become weights; the denominators grow."""
        k, s, state = self.k, self.scores, self.state
        shifts = []
        for v in range(s.cut.vectors):
            shift = self._shift(tops[0, v])
            state[_FACTOR, v] = factor = self._op("exp", k.fsub(state[_TOP, v], shift))
            state[_TOTAL, v] = k.fmul(state[_TOTAL, v], factor)
            state[_TOP, v] = tops[0, v]
            shifts.append(shift)
        with k.loop(0, keys) as key:
            for v, shift in enumerate(shifts):
                at = s.slot(self.weights, key, v)
                weight = self._op("exp", k.fsub(k.load(s.vector, at), shift))
                k.store(weight, at)
                state[_TOTAL, v] = k.fadd(state[_TOTAL, v], weight)

    def _add_values(self, start: Int, keys: Int) -> None:
        """``sums = factor sums + values^T weights``"""
        k, s, rows = self.k, self.scores, self.scores.cut.rows
        values = s.values.at(k, start).transposed
        for loop, height in s.feature_tiles(self.spec.heads.width):
            with loop as t:
                feature = k.mul(t, rows)
                lines: Feed = values.at(k, feature)
                acc = s.tile(lines, s.packed(self.weights), height, keys)
                for i in range(height):
                    for v in range(s.cut.vectors):
                        at = s.slot(self.sums, k.add(feature, i), v)
                        old = k.load(s.vector, at)
                        k.store(k.fma(old, self.state[_FACTOR, v], acc[i, v]), at)

    def _finish(self, batch: Int, first: Int, count: Int) -> None:
        """Divides by the denominators, stores both results."""
        k, s, heads = self.k, self.scores, self.spec.heads
        zero, one = k.zero(s.vector), k.const(s.vector, 1)
        shape = (heads.queries, 1)
        lse = s.matrix(as_column(self.spec.lse), self.lse, shape, batch)
        assert lse.matrix.strides is not None
        stride = lse.matrix.strides[0] if heads.queries > 1 else 1
        for v in range(s.cut.vectors):
            total = self.state[_TOTAL, v]
            nothing = k.fcmp("oeq", total, zero)
            factor = k.select(nothing, zero, k.fdiv(one, total))
            k.store(factor, s.slot(self.factor, 0, v))
            value = k.fadd(self._shift(self.state[_TOP, v]), self._op("log", total))
            value = k.select(nothing, k.const(s.vector, float("inf")), value)
            place = k.mul(k.add(first, v * s.cut.lanes), stride)
            address = k.gep(lse.base, place, MEMORY_TYPES[self.spec.lse.dtype])
            store_lanes(k, value, address, self.spec.lse.dtype, stride, s.present(count, v))
        out = s.matrix(self.spec.out, self.out, (heads.queries, heads.width), batch)
        s.store_turned(self.sums, out, heads.width, first, count, self.factor)
