"""Groups elementwise work, broadcasts and reductions into ``fused`` nests.

Afterwards these hold, and the code generator builds on them:

- No elementwise op and no ``reduce_*`` remains outside ``fused``; a single one makes a
  region of one op.  ``constant`` numbers are inside the regions; small constant arrays,
  ``iota``, and every other op stay ops of their own.
- ``broadcast_to``, ``transpose`` and reshapes by axes of size 1 read by nests only are gone:
  they are ``maps``.  One read by another op, or returned, stays an op.
- A nest has one iteration space: the operand shape of its ops.  All its reductions run over
  the same axes; their results are read by other nests only.  Results per point
  (``reduce`` is ``None``) come first.
- Region values are 0-d; regions contain elementwise ops and 0-d constants alone, at most
  ``max_ops`` (cheap recomputed ones aside); a nest has at most ``max_operands`` operands,
  unless one op alone needs more.

The policy rests on *levels*: the level of an op is the number of nest boundaries that must
lie before it.  Only an edge between elementwise ops of the same points costs nothing; one
through a broadcast, out of a reduction or out of any other op costs 1.  Ops of one level
and the same points that an uncounted edge joins form a nest.  Because every edge between
nests climbs (level, phase), no cycle can arise, and nests of the same (level, phase) are
independent: siblings that read a common big array become one nest with several results, so
that the array is read once.

- An op is first sunk to the level of its earliest consumer, so masks and conversions are
  made where they are used and arrays live short.
- A value read by several nests is written once, or recomputed in each of them where that
  is cheap: few flops, nothing transcendental, and fewer bytes moved.  What could be
  computed as the array leaves a convolution or matmul is not recomputed.  Even of a written
  value a nest makes its own copy, instead of reading it, if it reads all that takes anyway:
  the mask of a rectified array, say, from what was normalised.
- Where a product's or convolution's result, read nowhere else, flows into one written
  value and on into a reduction, the nest is cut behind that value: the first part is an
  epilogue, which may have several results but no reduction.  (Sums that follow may still be
  taken by the product's kernel: that is for the code generator to see.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from symgrad.ir.graph import Func, Op, Value, scalar_constant
from symgrad.ir.passes.nest_emission import emit_nests
from symgrad.ir.passes.nests import (
    Key,
    Nest,
    Shape,
    Uses,
    View,
    belongs_in_nest,
    is_reduce,
    points_of,
    space_of,
)

ANCHORS = frozenset(("dot_general", "conv", "conv_input_grad", "conv_weight_grad"))
"""Ops whose kernels can apply an epilogue to their result."""
_ARITHMETIC = ("neg", "add", "sub", "mul", "scale", "abs", "sign", "relu", "maximum", "minimum")
_LOGIC = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "logical_not", "isnan")
_CHEAP = frozenset((*_ARITHMETIC, *_LOGIC, "select", "convert"))
"""Ops of about one cycle per vector."""
_CHEAP_FLOPS = 8
_SMALL = range(256, 1 << 14)
"""Points of nests that are cut into smaller parts, if they must be cut: such parts compile in
less time and read fewer arrays in turn.  With fewer points it would be calls that take the
time, with more points the values that pass from part to part through memory: then nests may be
twice as large before they are cut."""
_PERIOD, _ALIKE = 50, 12
"""Ops that a cut may move back by, and of which it compares the names."""


def fuse(func: Func, *, max_operands: int = 24, max_ops: int = 200) -> Func:
    """Returns ``func`` with all elementwise ops and reductions in ``fused`` nests.

    ``max_operands`` bounds the arrays a nest reads, ``max_ops`` the ops of its region; nests of
    many points may have twice as many.
    """
    uses = Uses(func)
    return emit_nests(func, uses, _Grouping(func, uses, max_operands, max_ops).run())


class _Grouping:
    """Decides which ops form nests and which values are written."""

    def __init__(self, func: Func, uses: Uses, max_operands: int, max_ops: int) -> None:
        self.func = func
        self.uses = uses
        self.max_operands = max_operands
        self.max_ops = max_ops
        self.level: dict[Op, int] = {}
        self.nest: dict[Op, Nest] = {}
        self.order = {op: i for i, op in enumerate(func.ops)}
        self.expression: dict[Op, tuple[int, dict[int, Value]]] = {}
        """Flops of an elementwise op from written values on, and those of them that are big."""

    def run(self) -> list[Nest]:
        self._assign_levels()
        nests = self._merge_siblings(self._cut_epilogues(self._form_nests()))
        parts = [part for nest in nests for part in self._bounded(nest)]
        for part in parts:
            self._recompute_read(part)
        return parts

    # -- levels ------------------------------------------------------------------------

    def _assign_levels(self) -> None:
        level = self.level
        for op in self.func.ops:
            least = 0
            if op in self.uses.sources:
                for view in self.uses.sources[op]:
                    source = view.source.op
                    if source is not None and source.name != "constant":
                        least = max(least, level[source] + (not view.is_free))
            else:
                for value in op.operands:
                    source = self.uses.view(value).source.op
                    if source is not None and source.name != "constant":
                        least = max(least, level[source] + (not belongs_in_nest(source)))
            level[op] = least
        for op in reversed(self.func.ops):
            if op.opdef.elementwise and id(op.result) not in self.uses.written:
                level[op] = min(level[r] for r in self.uses.readers[id(op.result)])

    # -- forming nests -------------------------------------------------------------------

    def _form_nests(self) -> list[Nest]:
        """Joins ops of a level along free edges; decides what is written."""
        parent: dict[Op, Op] = {}

        def find(op: Op) -> Op:
            while parent[op] is not op:
                parent[op] = op = parent[parent[op]]
            return op

        members = [op for op in self.func.ops if belongs_in_nest(op)]
        for op in members:
            parent[op] = op
            if is_reduce(op):
                continue
            for view in self.uses.sources[op]:
                source = view.source.op
                if source in parent and self._joins(view, op):
                    parent[find(source)] = op
        nests: dict[Op, Nest] = {}
        others: dict[tuple[Nest | int, Shape], Nest] = {}
        for op in members:
            if is_reduce(op):
                self._place_reduction(op, others)
                continue
            root = find(op)
            if root not in nests:
                nests[root] = Nest(self.level[op])
            self._place(op, nests[root])
        self._decide_written(members)
        return list(dict.fromkeys(self.nest[op] for op in members))

    def _joins(self, view: View, reader: Op) -> bool:
        source = view.source.op
        return source is not None and view.is_free and self.level[source] == self.level[reader]

    def _place(self, op: Op, nest: Nest) -> None:
        nest.ops.append(op)
        self.nest[op] = nest

    def _place_reduction(self, op: Op, others: dict[tuple[Nest | int, Shape], Nest]) -> None:
        """Into its operand's nest, unless that has reductions over other axes."""
        (view,) = self.uses.sources[op]
        axes = self._reduced_points(op)
        home = self.nest[view.source.op] if self._joins(view, op) and view.source.op else None
        if home is not None and home.axes in (None, axes):
            home.axes = axes
            self._place(op, home)
            return
        key = (home if home is not None else id(op), axes)
        if key not in others:
            others[key] = Nest(self.level[op], 1 if home is None else 2, axes=axes)
        self._place(op, others[key])

    @staticmethod
    def _reduced_points(op: Op) -> Shape:
        """A reduction's axes, numbered without the axes of size 1."""
        shape = space_of(op)
        big = [a for a, n in enumerate(shape) if n != 1]
        return tuple(big.index(a) for a in op.attrs["axes"] if shape[a] != 1)

    # -- what is written and what recomputed ---------------------------------------------

    def _decide_written(self, members: Sequence[Op]) -> None:
        expression = self.expression
        for op in members:
            if is_reduce(op):
                continue
            expression[op] = self._expression(op, expression)
            if id(op.result) in self.uses.written:
                continue
            nests = {self.nest[r] for r in self.uses.readers[id(op.result)]}
            if len(nests | {self.nest[op]}) > 1 and not self._recomputes(
                op, len(nests), *expression[op]
            ):
                self.uses.written.add(id(op.result))

    def _expression(
        self, op: Op, known: dict[Op, tuple[int, dict[int, Value]]]
    ) -> tuple[int, dict[int, Value]]:
        """Flops of an op from written values on, and those of them that are big."""
        flops = 1 if op.name in _CHEAP else _CHEAP_FLOPS + 1
        leaves: dict[int, Value] = {}
        for view in self.uses.sources[op]:
            source = view.source
            if flops > _CHEAP_FLOPS:
                return flops, {}
            if source.op in known and id(source) not in self.uses.written:
                more, below = known[source.op]
                flops, leaves = flops + more, {**leaves, **below}
            elif source.type.size == op.result.type.size and scalar_constant(source) is None:
                leaves[id(source)] = source
        return flops, leaves

    def _recomputes(self, op: Op, nests: int, flops: int, leaves: dict[int, Value]) -> bool:
        """Whether reading ``leaves`` once more per nest beats writing and reading the value."""
        if flops > _CHEAP_FLOPS:
            return False
        if any(self._is_lone_anchor(leaf) for leaf in leaves.values()):
            return False
        # Written: one store (counting twice, the line is read too) and a load per other nest.
        return len(leaves) * (nests - 1) <= nests + 1

    def _recompute_read(self, nest: Nest) -> None:
        """Finds the written values that a nest makes again from what it reads anyway."""
        views = [view for op in nest.ops for view in self.uses.sources[op]]
        read = {key[-1] for key in self._reads(nest)}
        for view in views:
            source = view.source.op
            if source in self.expression and not self._is_array(view.source):
                read |= self.expression[source][1].keys()  # for it is made here
        operands = {v.key for v in views if self._is_array(v.source)}
        for view in views:
            source = view.source.op
            if source not in self.expression or id(view.source) not in read:
                continue
            flops, leaves = self.expression[source]
            room = len(operands) + _CHEAP_FLOPS * (1 + len(nest.recomputed))
            cheap = flops <= _CHEAP_FLOPS and room <= self.max_operands
            if cheap and leaves and leaves.keys() <= read and self._reads_freely(nest, source):
                nest.recomputed.add(id(view.source))

    def _is_array(self, value: Value) -> bool:
        """Whether a value is not made point by point where it is used."""
        return value.op not in self.expression or id(value) in self.uses.written

    def _reads_freely(self, nest: Nest, source: Op) -> bool:
        """Whether a nest reads the result of an op at its own points alone."""
        return all(
            view.is_free
            for op in nest.ops
            for view in self.uses.sources[op]
            if view.source.op is source
        )

    def _is_lone_anchor(self, value: Value) -> bool:
        """Whether a value is an anchor's result that one op alone reads."""
        return (
            value.op is not None
            and value.op.name in ANCHORS
            and len(self.uses.readers[id(value)]) == 1
            and id(value) not in self.uses.outside
        )

    # -- epilogues -------------------------------------------------------------------------

    def _cut_epilogues(self, nests: Iterable[Nest]) -> list[Nest]:
        result = []
        for nest in nests:
            head = self._epilogue(nest) if nest.phase == 1 else None
            if head is not None:
                nest.ops = [op for op in nest.ops if op not in head]
                first = Nest(nest.level, 0)
                for op in sorted(head, key=self.order.__getitem__):
                    self._place(op, first)
                result.append(first)
            result.append(nest)
        return result

    def _epilogue(self, nest: Nest) -> set[Op] | None:
        """The ops up to the first written value, where they can follow a product's kernel
        and something that cannot comes after them."""
        if nest.axes is None:
            return None
        written = [
            op for op in nest.ops if not is_reduce(op) and id(op.result) in self.uses.written
        ]
        if not written or written[0] is nest.ops[-1]:
            return None
        head: set[Op] = set()
        stack, anchors = [written[0]], 0
        while stack:
            op = stack.pop()
            if op in head:
                continue
            head.add(op)
            for view in self.uses.sources[op]:
                source = view.source.op
                if source is not None and self.nest.get(source) is nest:
                    stack.append(source)
                anchors += self._is_lone_anchor(view.source)
        others = [op for op in nest.ops if op not in head]
        escapes = any(
            id(v.source) in {id(h.result) for h in head} and v.source is not written[0].result
            for op in others
            for v in self.uses.sources[op]
        )
        return head if anchors and others and not escapes else None

    # -- siblings --------------------------------------------------------------------------

    def _merge_siblings(self, nests: Iterable[Nest]) -> list[Nest]:
        """Makes one nest of those of a (level, phase) that read a common big array."""
        kept: dict[Nest, None] = {}
        readers: dict[tuple[int, int, Shape, int], Nest] = {}  # by what ``_reads`` says
        for nest in nests:
            reads, own = self._reads(nest), nest
            for key in reads:
                host = readers.get(key)
                if host is not None and host in kept and self._fit(host, nest):
                    nest = self._joined(host, nest)  # noqa: PLW2901
                    del kept[host]
            kept[nest] = None
            readers.update(dict.fromkeys(reads if nest is own else self._reads(nest), nest))
        return list(kept)

    def _joined(self, first: Nest, second: Nest) -> Nest:
        axes = first.axes if second.axes is None else second.axes
        both = Nest(first.level, first.phase, axes=axes)
        for op in sorted((*first.ops, *second.ops), key=self.order.__getitem__):
            self._place(op, both)
        return both

    def _reads(self, nest: Nest) -> list[tuple[int, int, Shape, int]]:
        """The arrays that a nest reads at each point, with its level, phase and points."""
        points = points_of(space_of(nest.ops[0]))
        size = math.prod(points)
        found: dict[int, None] = {}
        for op in nest.ops:
            for view in self.uses.sources[op]:
                source = view.source
                inside = source.op is not None and self.nest.get(source.op) is nest
                if source.type.size == size > 1 and not inside and scalar_constant(source) is None:
                    found[id(source)] = None
        return [(nest.level, nest.phase, points, source) for source in found]

    def _fit(self, host: Nest, nest: Nest) -> bool:
        axes_agree = host.axes is None or nest.axes is None or host.axes == nest.axes
        small = len(host.ops) + len(nest.ops) <= self.max_ops
        return axes_agree and small and self._anchors(host) == self._anchors(nest)

    def _anchors(self, nest: Nest) -> set[int]:
        return {
            id(view.source)
            for op in nest.ops
            for view in self.uses.sources[op]
            if self._is_lone_anchor(view.source)
        }

    # -- bounds ------------------------------------------------------------------------------

    def _bounded(self, nest: Nest) -> list[Nest]:
        """Cuts a nest into runs of program order that keep the bounds."""
        points, cuts = math.prod(space_of(nest.ops[0])), [0]
        limit = self.max_ops * (2 if points >= _SMALL.stop else 1)
        if len(nest.ops) > limit and points in _SMALL:
            limit = max(1, limit // 4)
        operands: set[Key] = set()
        inside: set[int] = set()
        at = 0
        while at < len(nest.ops):
            op = nest.ops[at]
            reads = {
                view.key
                for view in self.uses.sources[op]
                if id(view.source) not in inside and scalar_constant(view.source) is None
            }
            full = at - cuts[-1] >= limit or len(operands | reads) > self.max_operands
            if full and at > cuts[-1]:
                at = _alike(nest.ops, cuts[-1], at)
                cuts.append(at)
                operands, inside = set(), set()
                continue
            operands |= reads
            inside.update(map(id, op.results))
            at += 1
        if len(cuts) == 1:
            return [nest]
        parts = [Nest(nest.level, nest.phase, axes=nest.axes) for _ in cuts]
        for part, (start, stop) in zip(parts, pairwise([*cuts, at]), strict=True):
            for op in nest.ops[start:stop]:
                self._place(op, part)
        self._write_across(nest.ops)
        return parts

    def _write_across(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if not is_reduce(op) and any(
                self.nest[r] is not self.nest[op] for r in self.uses.readers[id(op.result)]
            ):
                self.uses.written.add(id(op.result))


def _alike(ops: Sequence[Op], start: int, end: int) -> int:
    """Where best to cut a run that began at ``start`` and may go on to ``end`` at most.

    A program that repeats itself is cut at the same place of its period, so that its parts
    are alike and share a kernel.
    """
    head = [op.name for op in ops[start : start + _ALIKE]]
    for cut in range(end, max(end - _PERIOD, (start + end) // 2), -1):
        if [op.name for op in ops[cut : cut + _ALIKE]] == head:
            return cut
    return end
