"""Turns groups of ops into ``fused`` ops: regions, maps and an order to emit them in."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Func, Op, Region, Value, scalar_constant
from symgrad.ir.passes.nests import (
    REDUCE,
    Key,
    Nest,
    Shape,
    Uses,
    View,
    belongs_in_nest,
    is_reduce,
    match_axes,
    space_of,
)


def emit_nests(func: Func, uses: Uses, nests: Sequence[Nest]) -> Func:
    """Rebuilds ``func`` from nests and remaining ops, as near to program order as their
    dependences allow."""
    order = {op: i for i, op in enumerate(func.ops)}
    bodies = [body for nest in nests if (body := _Body(uses, nest)).outputs]
    others = [op for op in func.ops if not belongs_in_nest(op) and uses.stays(op)]
    units: list[_Body | Op] = [*bodies, *others]
    makers = {id(v): i for i, unit in enumerate(units) for v in _made(unit)}
    waiting, followers = [0] * len(units), defaultdict(list)
    for i, unit in enumerate(units):
        for maker in {makers[id(v)] for v in _used(unit) if id(v) in makers}:
            waiting[i] += 1
            followers[maker].append(i)
    priority = [order[u if isinstance(u, Op) else u.nest.ops[-1]] for u in units]
    ready = [(priority[i], i) for i in range(len(units)) if not waiting[i]]
    heapq.heapify(ready)
    builder = Builder(locations=False)
    new = {id(p): builder.param_like(p, p.name) for p in func.params}
    while ready:
        _, i = heapq.heappop(ready)
        unit = units[i]
        results = _copy(builder, unit, new) if isinstance(unit, Op) else unit.emit(builder, new)
        new.update((id(v), r) for v, r in zip(_made(unit), results, strict=True))
        for follower in followers[i]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, (priority[follower], follower))
    return builder.build([new[id(v)] for v in func.results], func.name)


class _Body:
    """A nest's region, operands and results."""

    def __init__(self, uses: Uses, nest: Nest) -> None:
        self.uses = uses
        self.nest = nest
        self.builder = Builder(locations=False)
        self.outputs: list[Value] = []
        self.reduce: list[tuple[str, Shape] | None] = []
        self.space = _common(space_of(op) for op in nest.ops)
        self._params: dict[Key, Value] = {}
        self._views: dict[Key, View] = {}
        self._scalars: dict[int, Value] = {}
        results: list[Value] = []
        points = [op for op in nest.ops if not is_reduce(op)]
        for op in points:
            value = self._compute(op)
            if id(op.result) in uses.written:
                self._output(op, value, results, None)
        for op in nest.ops:
            if is_reduce(op):
                table = match_axes(space_of(op), self.space)
                axes = tuple(a for i in op.attrs["axes"] if (a := table[i]) is not None)
                kind = op.name.removeprefix(REDUCE)
                self._output(op, self._scalar(uses.sources[op][0], op), results, (kind, axes))
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
        key = id(op.results[0])
        known = self._scalars.get(key)
        if known is None:
            operands = [self._scalar(view, op) for view in self.uses.sources[op]]
            known = self._scalars[key] = self.builder.copy(op, operands)
        return known

    def _scalar(self, view: View, reader: Op) -> Value:
        """The 0-d value of an operand: a number, something computed here, or a parameter."""
        source = view.source
        known = self._scalars.get(id(source))
        if known is not None:
            return known
        if (number := scalar_constant(source)) is not None:
            type = source.type.with_shape(())
            constant: Value = self.builder.emit("constant", value=number, type=type)
            self._scalars[id(source)] = constant
            return constant
        made = source.op is not None and source.op.opdef.elementwise
        is_read = id(source) in self.uses.written and id(source) not in self.nest.recomputed
        if made and source.op is not None and not is_read:
            return self._compute(source.op)
        table = match_axes(space_of(reader), self.space)
        axes = tuple(None if a is None else table[a] for a in view.axes)
        view = View(source, axes)
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
            operands.append(_reshaped(builder, operand, shape))
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
        return [_reshaped(builder, r, v.shape) for r, v in zip(many, self.outputs, strict=True)]


def _reshaped(builder: Builder, value: Value, shape: Shape) -> Value:
    if value.type.shape == shape:
        return value
    reshaped: Value = builder.emit("reshape", value, shape=shape)
    return reshaped


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
