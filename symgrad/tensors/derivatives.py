"""Derivatives of recordings: the IR's adjoint sweep over the ops behind given values.

The sweep runs on a copy of the graph as plain IR.  Its result, a region that computes
cotangents from the values the graph started from, is kept by the structure of the graph:
the same training step, recorded again, is differentiated by making one op.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from symgrad.bounded import Bounded
from symgrad.ir import Builder, Func, Value
from symgrad.ir.adjoint import depends, pull_back
from symgrad.ir.graph import Region
from symgrad.tensors.graphs import Recording, ancestors
from symgrad.tensors.record import RECORDER, SweptBuilder
from symgrad.tensors.recorded import contents_of, ends_a_graph, is_known

LIMIT = 512
"""Derivatives kept."""

Visit = Callable[[Value], Value]


@dataclass(frozen=True, slots=True)
class _Adjoint:
    """The cotangents of some values of a graph, as IR."""

    region: Region
    sources: tuple[int, ...]
    """What the region's parameters stand for, by number in the recording."""
    results: tuple[int | None, ...]
    """For each value asked for its place among the region's results; ``None`` for a zero."""
    made_by: tuple[str, ...]
    """For each of the region's results the op it comes from."""


_adjoints: Bounded[_Adjoint] = Bounded(LIMIT)


Cotangent = tuple[Value, str]
"""A recorded derivative, and the name of the op that it comes from."""


def cotangents(
    outputs: Sequence[Value],
    weights: Sequence[Value | None],
    inputs: Sequence[Value],
    watchers: Mapping[Value, Sequence[Visit]],
    *,
    detached: bool,
) -> list[Cotangent | None]:
    """Derivatives of the ``outputs``, weighted by ``weights``, by each of the ``inputs``.

    A weight of ``None`` is 1.  The derivatives are recorded; ``detached`` ones cannot be
    differentiated in turn.  ``watchers`` are called with the cotangents of these values,
    zeros if there are none, and may replace them.  ``None`` stands for a derivative that is zero
    because nothing leads from the input to an output.
    """
    given = [w for w in weights if w is not None]
    graph = graph_behind((*outputs, *watchers), also=(*outputs, *given, *inputs, *watchers))
    if watchers or any(op.name == "custom" for op in graph.ops):
        return _watched(graph, outputs, weights, inputs, watchers, detached)
    key = (
        graph.key,
        graph.numbered(outputs),
        tuple([None if w is None else graph.number(w) for w in weights]),
        graph.numbered(inputs),
        tuple([n for n, v in graph.results.items() if v.contents is not None]),  # type: ignore[attr-defined]
        detached,
    )
    adjoint = _adjoints.get(key)
    if adjoint is None:
        adjoint = _adjoints[key] = _differentiate(graph, outputs, weights, inputs, detached)
    made = RECORDER.builder.record(adjoint.region, [graph.value(n) for n in adjoint.sources])
    return [
        None if place is None else (made[place], adjoint.made_by[place])
        for place in adjoint.results
    ]


def graph_behind(outputs: Sequence[Value], also: Sequence[Value] = ()) -> Recording:
    """All that a derivative of ``outputs`` may need to know."""
    return Recording(ancestors(outputs, lambda value: not ends_a_graph(value)), also)


def _differentiate(
    graph: Recording,
    outputs: Sequence[Value],
    weights: Sequence[Value | None],
    inputs: Sequence[Value],
    detached: bool,
) -> _Adjoint:
    builder = Builder(locations=False)
    params = [builder.param_like(value) for value in graph.inputs]
    # What is differentiated again must know every value it read: one may be asked for.
    count = sum(len(op.region.results) for op in graph.ops)
    distinct = graph.numbered(inputs) if detached else range(count)
    values = graph.splice(builder, params, distinct)
    found = _swept(builder, graph, values, outputs, weights, inputs)
    ends = "stop_gradient" if detached else "identity"
    derivatives = [v for v in found if v is not None]
    results = [builder.emit(ends, v) for v in derivatives]
    known = {n for n, v in graph.results.items() if is_known(v)}
    origins = {id(v): n for n, v in values.items() if not detached or n < 0 or n in known}
    region, sources = _cut(builder.build(results), origins)
    places = iter(range(len(results)))
    return _Adjoint(
        region,
        tuple([origins[id(v)] for v in sources]),
        tuple([None if v is None else next(places) for v in found]),
        tuple(map(_maker, derivatives)),
    )


def _swept(
    builder: Builder,
    graph: Recording,
    values: Mapping[int, Value],
    outputs: Sequence[Value],
    weights: Sequence[Value | None],
    inputs: Sequence[Value],
    visit: Callable[[Value, Value], Value] | None = None,
    idle: Sequence[Value] = (),
) -> list[Value | None]:
    """The adjoint sweep over copies of a graph's values, which ``values`` has by number.

    It starts from the ``idle`` values as well, with zeros.
    """
    seeds = [
        builder.constant(1, out.type) if w is None else values[graph.number(w)]
        for out, w in zip(outputs, weights, strict=True)
    ]
    seeds += [builder.constant(0, value.type) for value in idle]
    ends, starts = (
        [values[n] for n in graph.numbered(side)] for side in ((*outputs, *idle), inputs)
    )
    return pull_back(builder, ends, seeds, starts, visit)


def _maker(value: Value) -> str:
    """The name of the op that a derivative comes from."""
    return "clone" if value.op is None else value.op.name


def _cut(func: Func, known: Container[int]) -> tuple[Region, list[Value]]:
    """``func`` as far as its results need it, computed from the values with these ids.

    Returns the values of ``func`` that the region's parameters stand for, too.
    """
    builder = Builder(locations=False)
    entered: dict[int, Value] = {}
    values: dict[int, Value] = {}

    def enter(value: Value) -> None:
        values[id(value)] = param = builder.param_like(value)
        entered[id(param)] = value

    for value in func.params:
        enter(value)
    for op in func.ops:
        made = builder.copy(op, [values[id(v)] for v in op.operands])
        for old, new in zip(op.results, made if isinstance(made, tuple) else (made,), strict=True):
            values[id(old)] = new
            if id(old) in known and op.name != "constant":
                enter(old)
    body = builder.region((), [values[id(v)] for v in func.results])
    used = {id(v): v for op in body.ops for v in op.operands if id(v) in entered}
    params = tuple(used.values())
    return Region(params, body.ops, body.results), [entered[id(p)] for p in params]


def _watched(
    graph: Recording,
    outputs: Sequence[Value],
    weights: Sequence[Value | None],
    inputs: Sequence[Value],
    watchers: Mapping[Value, Sequence[Visit]],
    detached: bool,
) -> list[Cotangent | None]:
    """The sweep op by op, calling ``watchers``, and derivatives given by hand, on its way.

    Nothing of it is kept.
    """
    builder = SweptBuilder()
    start = builder.mark()
    values = graph.splice(builder, graph.inputs)
    copies = {id(copy): graph.value(n) for n, copy in values.items()}
    for number, copy in values.items():
        if number >= 0:
            copy.contents = contents_of(graph.value(number))  # type: ignore[attr-defined]

    def visit(value: Value, cotangent: Value) -> Value:
        original = copies.get(id(value))
        for watcher in () if original is None else watchers.get(original, ()):
            cotangent = watcher(cotangent)
        return cotangent

    # Watchers see zeros too where nothing leads to an output but the nodes do.
    roots = [values[n] for n in graph.numbered(outputs)]
    idle = [w for w in watchers if not depends(roots, [values[graph.number(w)]])]
    try:
        ways = (*inputs, *watchers)  # what watches nothing differentiable is seen to as well
        found = _swept(builder, graph, values, outputs, weights, ways, visit, idle)[: len(inputs)]
    finally:
        builder.let_go()
    if not detached:
        found = _reading(found, copies, start)
    ends = "stop_gradient" if detached else "identity"
    return [None if v is None else (RECORDER.builder.emit(ends, v), _maker(v)) for v in found]


def _reading(
    found: Sequence[Value | None], copies: Mapping[int, Value], start: int
) -> list[Value | None]:
    """Derivatives that were computed from copies of values, computed from the values.

    Only ops made since ``start`` are made anew; ``copies`` has the values by their copies' ids.
    """

    def is_new(value: Value) -> bool:
        return value.op is not None and value.op.seq > start and id(value) not in copies

    results = [v for v in found if v is not None]
    made = Recording(
        ancestors(results, is_new), also=results, is_input=lambda value: not is_new(value)
    )
    values = made.splice(RECORDER.builder, [copies.get(id(v), v) for v in made.inputs])
    return [None if v is None else values[made.number(v)] for v in found]
