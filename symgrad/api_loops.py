"""Loops with carried state: one body in the program, however many steps it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api import jit
from symgrad.api_staging import Callback, this_trace
from symgrad.ir import TensorType, Value
from symgrad.ir.errors import ShapeError, UsageError
from symgrad.ir.graph import TAME, Region
from symgrad.ir.hoist import hoist
from symgrad.tracing import Trace, Tracer, current_trace

Body = Callable[[Any, Any], tuple[Any, Any]]


def scan(
    f: Body, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """``(state, ys)`` after ``state, y = f(state, x)`` for each element ``x`` of ``xs``.

    ``init``, ``xs``, and what ``f`` returns may be nested containers of arrays; all arrays of
    ``xs`` have one leading length, which ``length`` gives where there are none.  The state
    keeps its structure, shapes and dtypes.  ``ys`` are stacked along a new leading axis, in the
    order of ``xs`` also when the steps run in ``reverse``.
    """
    if current_trace() is None:
        eager: tuple[Any, Any] = _compiled(f, length, reverse)(init, xs)
        return eager
    trace = this_trace()
    state_leaves, state_spec = tree.flatten(init)
    state = [trace.lift(x) for x in state_leaves]
    each_leaves, each_spec = tree.flatten(xs)
    each = [trace.lift(x) for x in each_leaves]
    length = _length(each, length)
    labels = tree.names(init, "init")
    makers = state_spec, each_spec, labels
    body = _Body(f, state, each, makers, tame=True)
    if not body.is_as_tame_as_assumed:
        body = _Body(f, state, each, makers, tame=False)
    outer = [x.value if x.trace is trace else trace.lift(x) for x in body.outer]
    region, consts = hoist(trace.builder, body.region, outer)
    made = trace.builder.emit(
        "scan", *consts, *state, *each, regions=(region,), consts=len(consts),
        carries=len(state), length=length, reverse=reverse,
    )  # fmt: skip
    values = made if isinstance(made, tuple) else (made,)
    results = [Tracer(trace, v) for v in values[: len(region.results)]]
    last, ys = results[: len(state)], results[len(state) :]
    return tree.unflatten(state_spec, last), tree.unflatten(body.given_spec, ys)


def fori_loop(start: int, stop: int, f: Callable[[Any, Any], Any], init: Any) -> Any:
    """The state after ``state = f(i, state)`` for each ``i`` from ``start`` to before ``stop``."""
    steps = np.arange(start, stop)
    state, _ = scan(_counted(f), init, steps)
    return state


@functools.lru_cache(maxsize=64)
def _counted(f: Callable[[Any, Any], Any]) -> Body:
    return lambda state, i: (f(i, state), None)


@functools.lru_cache(maxsize=64)
def _compiled(f: Body, length: int | None, reverse: bool) -> Callback:
    run: Callback = jit(lambda init, xs: scan(f, init, xs, length, reverse))
    return run


def _length(each: Sequence[Value], length: int | None) -> int:
    if any(not v.shape for v in each):
        raise ShapeError("scan: xs has a number among its arrays; a step takes an element of each")
    found = {v.shape[0] for v in each} | ({length} if length is not None else set())
    if len(found) != 1:
        raise ShapeError(
            f"scan: the arrays of xs have lengths {sorted(found)}; they need one common length"
            if found
            else "scan: pass arrays xs to run over, or length=... for the number of steps"
        )
    return found.pop()


class _Body:
    """The body traced once: a region, and the values around it that it uses.

    Rules for derivatives leave out checks for infinity where values are *tame* (see
    ``ir/facts.py``).  That of the state is an assumption, to be kept by a step.
    """

    def __init__(
        self, f: Body, state: Sequence[Value], each: Sequence[Value],
        makers: tuple[tree.Spec, tree.Spec, Sequence[str]], *, tame: bool,
    ) -> None:  # fmt: skip
        state_spec, each_spec, labels = makers
        with Trace(getattr(f, "__name__", "body")) as trace:
            carried = [trace.parameter(v.type) for v in state]
            for param, v in zip(carried, state, strict=True):
                param.value.facts = v.facts & TAME if tame else 0
            element = [trace.parameter(v.type.with_shape(v.shape[1:])) for v in each]
            for param, v in zip(element, each, strict=True):
                param.value.facts = v.facts
            found = f(tree.unflatten(state_spec, carried), tree.unflatten(each_spec, element))
            if not isinstance(found, tuple) or len(found) != 2:
                raise UsageError(
                    f"scan: {trace.name} must return a pair (state, y), not "
                    f"{type(found).__name__}; return (state, None) if a step gives nothing"
                )
            leaves, spec = tree.flatten(found[0])
            if spec != state_spec:
                raise UsageError(
                    f"scan: the state is {state_spec} before a step of {trace.name} and {spec} "
                    "after it; return the structure that init has"
                )
            types = [v.type for v in state]
            new = [trace.lift(x, t.dtype.numpy) for x, t in zip(leaves, types, strict=True)]
            _check_state(trace.name, labels, types, new)
            given, self.given_spec = tree.flatten(found[1])
            results = [*new, *(trace.lift(y) for y in given)]
        self.outer = [tracer for tracer, _ in trace.outer.values()]
        params = [param for _, param in trace.outer.values()]
        params += [x.value for x in (*carried, *element)]
        self.region: Region = trace.builder.region(params, results)
        assumed = zip(carried, new, strict=True)
        self.is_as_tame_as_assumed = all(v.facts & x.value.facts & TAME or not x.value.facts & TAME
                                         for x, v in assumed)  # fmt: skip


def _check_state(
    name: str, labels: Sequence[str], types: Sequence[TensorType], new: Sequence[Value]
) -> None:
    for label, before, value in zip(labels, types, new, strict=True):
        if value.type != before:
            raise ShapeError(
                f"scan: {label} is {before} before a step of {name} and {value.type} after it; "
                "both must be the same: give init the shape and dtype that a step returns"
            )
