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
  computed as the array leaves a convolution or matmul is not recomputed.
- Where a product's or convolution's result, read nowhere else, flows into one written
  value and on into more, the nest is cut behind that value: the first part is an epilogue.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Func, Op, Region, Value, scalar_constant

ANCHORS = frozenset(("dot_general", "conv", "conv_input_grad", "conv_weight_grad"))
"""Ops whose kernels can apply an epilogue to their result."""
_VIEWS = frozenset(("broadcast_to", "transpose", "reshape"))
_ARITHMETIC = ("neg", "add", "sub", "mul", "scale", "abs", "sign", "relu", "maximum", "minimum")
_LOGIC = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "logical_not", "isnan")
_CHEAP = frozenset((*_ARITHMETIC, *_LOGIC, "select", "convert"))
"""Ops of about one cycle per vector."""
_CHEAP_FLOPS = 8
_REDUCE = "reduce_"

Shape = tuple[int, ...]
Axes = tuple[int | None, ...]
_Key = tuple[int, Axes]


def fuse(func: Func, *, max_operands: int = 24, max_ops: int = 200) -> Func:
    """Returns ``func`` with all elementwise ops and reductions in ``fused`` nests.

    ``max_operands`` bounds the arrays a nest reads, ``max_ops`` the ops of its region.
    """
    return _Fusion(func, max_operands, max_ops).run()


# -- what an operand is, seen through broadcasts and transposes ------------------------


@dataclass(frozen=True, slots=True)
class _View:
    """A value read through views: its axis i runs along ``axes[i]`` of the reader."""

    source: Value
    axes: Axes  # None: an axis of size 1 that the reader does not have

    @property
    def key(self) -> _Key:
        return id(self.source), self.axes


def _points(shape: Shape) -> Shape:
    """A shape without its axes of size 1: equal points are visited in equal order."""
    return tuple(n for n in shape if n != 1)


def _match_axes(shape: Shape, other: Shape) -> Axes:
    """Where the axes of ``shape`` lie in ``other``, a shape of the same points."""
    if shape == other:
        return tuple(range(len(shape)))
    big = iter([a for a, n in enumerate(other) if n != 1])
    return tuple(next(big) if n != 1 else None for n in shape)


def _through(op: Op) -> Axes | None:
    """Result axis of each operand axis if ``op`` only rearranges axes, else ``None``."""
    (x,) = op.operands
    if op.name == "broadcast_to":
        return tuple(op.attrs["axes"])
    if op.name == "transpose":
        return tuple(op.attrs["axes"].index(a) for a in range(x.rank))
    if _points(x.shape) == _points(op.result.shape):
        return _match_axes(x.shape, op.result.shape)
    return None


def _is_reduce(op: Op) -> bool:
    return op.name.startswith(_REDUCE)


def _is_nest(op: Op) -> bool:
    """Whether the op belongs into a nest."""
    return op.opdef.elementwise or _is_reduce(op)


def _space(op: Op) -> Shape:
    return op.operands[0].shape


# -- nests -------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Nest:
    """Ops of one nest in program order, and the values others read."""

    level: int
    phase: int = 1  # 0 epilogue, 1 ordinary, 2 reductions over other axes
    ops: list[Op] = field(default_factory=list)
    axes: Shape | None = None  # the axes, in points, of its reductions


class _Fusion:
    """One run of the pass over one function."""

    def __init__(self, func: Func, max_operands: int, max_ops: int) -> None:
        self.func = func
        self.max_operands = max_operands
        self.max_ops = max_ops
        self.views: dict[int, _View] = {}
        self.sources: dict[Op, list[_View]] = {}  # operands of the ops that go into nests
        self.readers: dict[int, list[Op]] = defaultdict(list)  # by source value
        self.outside: set[int] = set()  # values returned or read by ops that are in no nest
        self.written: set[int] = set()  # values that must exist as arrays
        self.level: dict[Op, int] = {}
        self.nest: dict[Op, _Nest] = {}
        self.order = {op: i for i, op in enumerate(func.ops)}

    def run(self) -> Func:
        self._find_readers()
        self._assign_levels()
        nests = self._merge_siblings(self._cut_epilogues(self._form_nests()))
        nests = [part for nest in nests for part in self._bounded(nest)]
        return self._emit(nests)

    # -- analysis ----------------------------------------------------------------------

    def _view(self, value: Value) -> _View:
        return self.views.get(id(value)) or _View(value, tuple(range(value.rank)))

    def _find_readers(self) -> None:
        for op in self.func.ops:
            if op.name in _VIEWS and (axes := _through(op)) is not None:
                inner = self._view(op.operands[0])
                composed = tuple(None if a is None else axes[a] for a in inner.axes)
                self.views[id(op.result)] = _View(inner.source, composed)
        self.outside.update(id(v) for v in self.func.results)
        for op in reversed(self.func.ops):
            if _is_nest(op):
                self._read(op)
            elif self._stays(op):
                self.outside.update(id(v) for v in op.operands)
        self.written |= self.outside

    def _stays(self, op: Op) -> bool:
        """Whether an op that is in no nest is needed: views that nests look through are not."""
        return id(op.results[0]) not in self.views or id(op.results[0]) in self.outside

    def _read(self, op: Op) -> None:
        self.sources[op] = [self._view(v) for v in op.operands]
        for view in self.sources[op]:
            self.readers[id(view.source)].append(op)
            if not self._is_free(view, op):
                self.written.add(id(view.source))

    def _is_free(self, view: _View, reader: Op) -> bool:
        """Whether the source can be computed in the reader's nest, point by point."""
        op, space = view.source.op, _space(reader)
        if op is None or not op.opdef.elementwise:
            return False
        kept = [a for a in view.axes if a is not None and space[a] != 1]
        return _points(view.source.shape) == _points(space) and kept == sorted(kept)

    # -- levels ------------------------------------------------------------------------

    def _assign_levels(self) -> None:
        level = self.level
        for op in self.func.ops:
            level[op] = max((self._least(v, op) for v in op.operands), default=0)
        for op in reversed(self.func.ops):
            if op.opdef.elementwise and id(op.result) not in self.written:
                level[op] = min(level[r] for r in self.readers[id(op.result)])

    def _least(self, value: Value, reader: Op) -> int:
        """The least level of ``reader`` as far as this operand goes."""
        view = self._view(value)
        source = view.source.op
        if source is None or source.name == "constant":
            return 0
        if not _is_nest(reader):
            return self.level[source] + (not _is_nest(source))
        return self.level[source] + (not self._is_free(view, reader))

    # -- forming nests -------------------------------------------------------------------

    def _form_nests(self) -> list[_Nest]:
        """Joins ops of a level along free edges; decides what is written."""
        parent: dict[Op, Op] = {}

        def find(op: Op) -> Op:
            while parent[op] is not op:
                parent[op] = op = parent[parent[op]]
            return op

        members = [op for op in self.func.ops if _is_nest(op)]
        for op in members:
            parent[op] = op
            if _is_reduce(op):
                continue
            for view in self.sources[op]:
                source = view.source.op
                if source in parent and self._joins(view, op):
                    parent[find(source)] = find(op)
        nests: dict[Op, _Nest] = {}
        others: dict[tuple[_Nest | int, Shape], _Nest] = {}
        for op in members:
            if _is_reduce(op):
                self._place_reduction(op, others)
                continue
            root = find(op)
            if root not in nests:
                nests[root] = _Nest(self.level[op])
            self._place(op, nests[root])
        self._decide_written(members)
        return list(dict.fromkeys(self.nest[op] for op in members))

    def _joins(self, view: _View, reader: Op) -> bool:
        source = view.source.op
        return (
            source is not None
            and self._is_free(view, reader)
            and self.level[source] == self.level[reader]
        )

    def _place(self, op: Op, nest: _Nest) -> None:
        nest.ops.append(op)
        self.nest[op] = nest

    def _place_reduction(self, op: Op, others: dict[tuple[_Nest | int, Shape], _Nest]) -> None:
        """Into its operand's nest, unless that has reductions over other axes."""
        (view,) = self.sources[op]
        axes = self._reduced_points(op)
        home = self.nest[view.source.op] if self._joins(view, op) and view.source.op else None
        if home is not None and home.axes in (None, axes):
            home.axes = axes
            self._place(op, home)
            return
        key = (home if home is not None else id(op), axes)
        if key not in others:
            others[key] = _Nest(self.level[op], 1 if home is None else 2, axes=axes)
        self._place(op, others[key])

    @staticmethod
    def _reduced_points(op: Op) -> Shape:
        """A reduction's axes, numbered without the axes of size 1."""
        shape = _space(op)
        big = [a for a, n in enumerate(shape) if n != 1]
        return tuple(big.index(a) for a in op.attrs["axes"] if shape[a] != 1)

    # -- what is written and what recomputed ---------------------------------------------

    def _decide_written(self, members: Sequence[Op]) -> None:
        expression: dict[Op, tuple[int, dict[int, Value]]] = {}
        for op in members:
            if _is_reduce(op):
                continue
            expression[op] = self._expression(op, expression)
            if id(op.result) in self.written:
                continue
            nests = {self.nest[r] for r in self.readers[id(op.result)]}
            if len(nests | {self.nest[op]}) > 1 and not self._recomputes(
                op, len(nests), *expression[op]
            ):
                self.written.add(id(op.result))

    def _expression(
        self, op: Op, known: dict[Op, tuple[int, dict[int, Value]]]
    ) -> tuple[int, dict[int, Value]]:
        """Flops of an op from written values on, and those of them that are big."""
        flops = 1 if op.name in _CHEAP else _CHEAP_FLOPS + 1
        leaves: dict[int, Value] = {}
        for view in self.sources[op]:
            source = view.source
            if source.op in known and id(source) not in self.written:
                more, below = known[source.op]
                flops, leaves = flops + more, {**leaves, **below}
            elif source.type.size == op.result.type.size and scalar_constant(source) is None:
                leaves[id(source)] = source
        return min(flops, _CHEAP_FLOPS + 1), leaves

    def _recomputes(self, op: Op, nests: int, flops: int, leaves: dict[int, Value]) -> bool:
        """Whether reading ``leaves`` once more per nest beats writing and reading the value."""
        if flops > _CHEAP_FLOPS:
            return False
        if any(self._is_lone_anchor(leaf) for leaf in leaves.values()):
            return False
        # Written: one store (counting twice, the line is read too) and a load per other nest.
        return len(leaves) * (nests - 1) <= nests + 1

    def _is_lone_anchor(self, value: Value) -> bool:
        """Whether a value is an anchor's result that one op alone reads."""
        return (
            value.op is not None
            and value.op.name in ANCHORS
            and len(self.readers[id(value)]) == 1
            and id(value) not in self.outside
        )

    # -- epilogues -------------------------------------------------------------------------

    def _cut_epilogues(self, nests: Iterable[_Nest]) -> list[_Nest]:
        result = []
        for nest in nests:
            head = self._epilogue(nest) if nest.phase == 1 else None
            if head is not None:
                nest.ops = [op for op in nest.ops if op not in head]
                first = _Nest(nest.level, 0)
                for op in sorted(head, key=self.order.__getitem__):
                    self._place(op, first)
                result.append(first)
            result.append(nest)
        return result

    def _epilogue(self, nest: _Nest) -> set[Op] | None:
        """The ops up to the first written value, where they can follow a product's kernel
        and something else comes after them."""
        written = [
            op for op in nest.ops if not _is_reduce(op) and id(op.result) in self.written
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
            for view in self.sources[op]:
                source = view.source.op
                if source is not None and self.nest.get(source) is nest:
                    stack.append(source)
                anchors += self._is_lone_anchor(view.source)
        others = [op for op in nest.ops if op not in head]
        escapes = any(
            id(v.source) in {id(h.result) for h in head} and v.source is not written[0].result
            for op in others
            for v in self.sources[op]
        )
        return head if anchors and others and not escapes else None

    # -- siblings --------------------------------------------------------------------------

    def _merge_siblings(self, nests: Iterable[_Nest]) -> list[_Nest]:
        """Makes one nest of those of a (level, phase) that read a common big array."""
        kept: dict[_Nest, None] = {}
        readers: dict[tuple[int, int, Shape, int], _Nest] = {}  # by what ``_reads`` says
        for nest in nests:
            for key in self._reads(nest):
                host = readers.get(key)
                if host is not None and host in kept and self._fit(host, nest):
                    nest = self._joined(host, nest)  # noqa: PLW2901
                    del kept[host]
            kept[nest] = None
            readers.update(dict.fromkeys(self._reads(nest), nest))
        return list(kept)

    def _joined(self, first: _Nest, second: _Nest) -> _Nest:
        axes = first.axes if second.axes is None else second.axes
        both = _Nest(first.level, first.phase, axes=axes)
        for op in sorted((*first.ops, *second.ops), key=self.order.__getitem__):
            self._place(op, both)
        return both

    def _reads(self, nest: _Nest) -> list[tuple[int, int, Shape, int]]:
        """The arrays that a nest reads at each point, with its level, phase and points."""
        points = _points(_space(nest.ops[0]))
        size = math.prod(points)
        found: dict[int, None] = {}
        for op in nest.ops:
            for view in self.sources[op]:
                source = view.source
                inside = source.op is not None and self.nest.get(source.op) is nest
                if source.type.size == size > 1 and not inside and scalar_constant(source) is None:
                    found[id(source)] = None
        return [(nest.level, nest.phase, points, source) for source in found]

    def _fit(self, host: _Nest, nest: _Nest) -> bool:
        axes_agree = host.axes is None or nest.axes is None or host.axes == nest.axes
        small = len(host.ops) + len(nest.ops) <= self.max_ops
        return axes_agree and small and self._anchors(host) == self._anchors(nest)

    def _anchors(self, nest: _Nest) -> set[int]:
        return {
            id(view.source)
            for op in nest.ops
            for view in self.sources[op]
            if self._is_lone_anchor(view.source)
        }

    # -- bounds ------------------------------------------------------------------------------

    def _bounded(self, nest: _Nest) -> list[_Nest]:
        """Cuts a nest into runs of program order that keep the bounds."""
        parts = [_Nest(nest.level, nest.phase, axes=nest.axes)]
        operands: set[_Key] = set()
        inside: set[int] = set()
        for op in nest.ops:
            reads = {
                view.key
                for view in self.sources[op]
                if id(view.source) not in inside and scalar_constant(view.source) is None
            }
            part = parts[-1]
            full = len(part.ops) >= self.max_ops or len(operands | reads) > self.max_operands
            if part.ops and full:
                parts.append(_Nest(nest.level, nest.phase, axes=nest.axes))
                operands, inside = set(), set()
                reads = {v.key for v in self.sources[op]}
            operands |= reads
            inside.update(id(v) for v in op.results)
            self._place(op, parts[-1])
        if len(parts) > 1:
            self._write_across(nest.ops)
        return parts

    def _write_across(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if not _is_reduce(op) and any(
                self.nest[r] is not self.nest[op] for r in self.readers[id(op.result)]
            ):
                self.written.add(id(op.result))

    # -- emission ----------------------------------------------------------------------------

    def _emit(self, nests: Sequence[_Nest]) -> Func:
        """Rebuilds the function from nests and remaining ops, as near to program order
        as their dependences allow."""
        bodies = [body for nest in nests if (body := _Body(self, nest)).outputs]
        others = [op for op in self.func.ops if not _is_nest(op) and self._stays(op)]
        units: list[_Body | Op] = [*bodies, *others]
        makers = {id(v): i for i, unit in enumerate(units) for v in _made(unit)}
        waiting, followers = [0] * len(units), defaultdict(list)
        for i, unit in enumerate(units):
            for maker in {makers[id(v)] for v in _used(unit) if id(v) in makers}:
                waiting[i] += 1
                followers[maker].append(i)
        priority = [self.order[u if isinstance(u, Op) else u.nest.ops[-1]] for u in units]
        ready = [(priority[i], i) for i in range(len(units)) if not waiting[i]]
        heapq.heapify(ready)
        builder = Builder(locations=False)
        new = {id(p): builder.param(p.type, p.name) for p in self.func.params}
        while ready:
            _, i = heapq.heappop(ready)
            unit = units[i]
            results = _copy(builder, unit, new) if isinstance(unit, Op) else unit.emit(builder, new)
            new.update((id(v), r) for v, r in zip(_made(unit), results, strict=True))
            for follower in followers[i]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(ready, (priority[follower], follower))
        return builder.build([new[id(v)] for v in self.func.results], self.func.name)


class _Body:
    """A nest's region, operands and results."""

    def __init__(self, fusion: _Fusion, nest: _Nest) -> None:
        self.fusion = fusion
        self.nest = nest
        self.builder = Builder(locations=False)
        self.outputs: list[Value] = []
        self.reduce: list[tuple[str, Shape] | None] = []
        self.space = _common(_space(op) for op in nest.ops)
        self._params: dict[_Key, Value] = {}
        self._views: dict[_Key, _View] = {}
        self._scalars: dict[int, Value] = {}
        results: list[Value] = []
        points = [op for op in nest.ops if not _is_reduce(op)]
        for op in points:
            value = self._compute(op)
            if id(op.result) in fusion.written:
                self._output(op, value, results, None)
        for op in nest.ops:
            if _is_reduce(op):
                table = _match_axes(_space(op), self.space)
                axes = tuple(a for i in op.attrs["axes"] if (a := table[i]) is not None)
                kind = op.name.removeprefix(_REDUCE)
                self._output(op, self._scalar(op.operands[0], op), results, (kind, axes))
        self._close(results)

    def _close(self, results: list[Value]) -> None:
        """Makes the region, without the parameters that folding left unread."""
        body = self.builder.region((), results)
        used = {id(v) for inner in body.ops for v in inner.operands} | {id(v) for v in results}
        kept = [key for key, param in self._params.items() if id(param) in used]
        self.operands = [self._views[key] for key in kept]
        self.region = Region(tuple(self._params[key] for key in kept), body.ops, body.results)

    def _output(
        self, op: Op, value: Value, results: list[Value], how: tuple[str, Shape] | None
    ) -> None:
        self.outputs.append(op.result)
        results.append(value)
        self.reduce.append(how)

    def _compute(self, op: Op) -> Value:
        """The 0-d value of an elementwise op."""
        if id(op.result) not in self._scalars:
            operands = [self._scalar(v, op) for v in op.operands]
            with self.builder.at(op.loc):
                self._scalars[id(op.result)] = self.builder.copy(op, operands)
        return self._scalars[id(op.result)]

    def _scalar(self, value: Value, reader: Op) -> Value:
        """The 0-d value of an operand: a number, something computed here, or a parameter."""
        view = self.fusion._view(value)
        source = view.source
        if (number := scalar_constant(source)) is not None:
            return self.builder.constant(number, source.type.with_shape(()))
        if id(source) in self._scalars:
            return self._scalars[id(source)]
        made = source.op is not None and source.op.opdef.elementwise
        if made and source.op is not None and id(source) not in self.fusion.written:
            return self._compute(source.op)
        table = _match_axes(_space(reader), self.space)
        axes = tuple(None if a is None else table[a] for a in view.axes)
        view = _View(source, axes)
        if view.key not in self._params:
            self._views[view.key] = view
            param = self.builder.param(source.type.with_shape(()))
            param.facts = source.facts
            self._params[view.key] = param
        return self._params[view.key]

    def emit(self, builder: Builder, new: dict[int, Value]) -> list[Value]:
        """Emits the nest; returns its results in the shapes of the original values."""
        operands, maps = [], []
        for view in self.operands:
            kept = [i for i, a in enumerate(view.axes) if a is not None]
            operand = new[id(view.source)]
            shape = tuple(operand.shape[i] for i in kept)
            operands.append(builder.emit("reshape", operand, shape=shape))
            maps.append(tuple(view.axes[i] for i in kept))
        results = builder.emit(
            "fused",
            *operands,
            loc=self.nest.ops[-1].loc,
            regions=(self.region,),
            space=self.space,
            maps=tuple(maps),
            reduce=tuple(self.reduce),
        )
        many = results if isinstance(results, tuple) else (results,)
        return [
            builder.emit("reshape", r, shape=v.shape)
            for r, v in zip(many, self.outputs, strict=True)
        ]


def _common(shapes: Iterable[Shape]) -> Shape:
    """The most frequent shape, the first of equals."""
    counts: dict[Shape, int] = defaultdict(int)
    for shape in shapes:
        counts[shape] += 1
    return max(counts, key=counts.__getitem__)


def _made(unit: _Body | Op) -> Sequence[Value]:
    return unit.results if isinstance(unit, Op) else unit.outputs


def _used(unit: _Body | Op) -> Sequence[Value]:
    return unit.operands if isinstance(unit, Op) else [v.source for v in unit.operands]


def _copy(builder: Builder, op: Op, new: dict[int, Value]) -> tuple[Value, ...]:
    result = builder.copy(op, [new[id(v)] for v in op.operands])
    return result if isinstance(result, tuple) else (result,)
