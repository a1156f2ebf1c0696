"""Branches and loops that a traced value decides on: ``cond`` and ``while_loop``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api import jit
from symgrad.api_leaves import leaf_type
from symgrad.api_staging import Callback, this_trace
from symgrad.ir import Region, Value
from symgrad.ir.errors import DTypeError, ShapeError, UsageError
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, current_trace


def cond(p: Any, f: Callable[..., Any], g: Callable[..., Any], *xs: Any) -> Any:
    """``f(*xs)`` if ``p`` is true, else ``g(*xs)``: only that one runs.

    ``p`` is a truth value or number; both functions return one structure of arrays of the same
    shapes and dtypes.  With a traced ``p`` both are traced; differentiated, only the pull-back of
    the one that ran does so.  Under ``vmap`` over ``p`` both run, and results are selected.
    """
    if not isinstance(p, Tracer):
        return f(*xs) if _truth(p) else g(*xs)
    trace = this_trace()
    flag = _flag("cond", Tracer(trace, trace.lift(p)))
    leaves, spec = tree.flatten(xs)
    given = [trace.lift(x) for x in leaves]
    weak = [leaf_type(x)[1] for x in leaves]
    sides = [_Traced(side, given, weak, spec) for side in (f, g)]
    names = [side.trace.name for side in sides]
    if sides[0].spec != sides[1].spec:
        raise UsageError(
            f"cond: {names[0]} returns {sides[0].spec} and {names[1]} {sides[1].spec}; both must "
            "have one structure"
        )
    dtypes = [_common(names, x, y) for x, y in zip(*(s.outs for s in sides), strict=True)]
    if not dtypes:
        return tree.unflatten(sides[0].spec, [])
    regions = [side.region(dtypes) for side in sides]
    results = [trace.builder.constant(0, v.type) for v in regions[0].results]
    flags = flag, Tracer(trace, flag.value)
    for side, region, is_set in zip(sides, regions, (flags[0], ~flags[1]), strict=True):
        consts = [trace.lift(x) for x, _ in side.trace.outer.values()]
        made = trace.builder.emit(
            "when", is_set.value, *results, *consts, *given, regions=(region,), count=len(results)
        )
        results = list(made) if isinstance(made, tuple) else [made]
    return tree.unflatten(sides[0].spec, [Tracer(trace, v) for v in results])


def while_loop(c: Callable[[Any], Any], b: Callable[[Any], Any], x: Any) -> Any:
    """The state after ``x = b(x)`` as long as ``c(x)`` is true.

    ``x`` may be a nested container of arrays; ``b`` keeps its structure, shapes and dtypes, and
    ``c`` returns one truth value.  Under ``vmap`` steps run until all examples are through.  There
    is no derivative, as the number of steps is not known: ``scan`` and ``fori_loop`` have one.
    """
    if current_trace() is None:
        return _compiled(c, b)(x)
    trace = this_trace()
    leaves, spec = tree.flatten(x)
    state = [trace.lift(leaf) for leaf in leaves]
    if not state:
        raise UsageError("while_loop: the state has no array; pass what the loop changes")
    first = _flag("while_loop", c(tree.unflatten(spec, [Tracer(trace, v) for v in state])))
    with Trace(getattr(b, "__name__", "body")) as inner:
        params = [inner.parameter(v.type) for v in state]
        for param in params:
            param.value.facts = 0
        found, own = tree.flatten(b(tree.unflatten(spec, params)))
        if own != spec:
            raise UsageError(
                f"while_loop: the state is {spec} before a step of {inner.name} and {own} after it"
            )
        new = [inner.lift(y, v.type.dtype.numpy) for y, v in zip(found, state, strict=True)]
        for label, before, after in zip(tree.names(x, "x"), state, new, strict=True):
            if after.type != before.type:
                raise ShapeError(
                    f"while_loop: {label} is {before.type} before a step of {inner.name} and "
                    f"{after.type} after it; give x the shape and dtype that a step returns"
                )
        again = _flag("while_loop", c(tree.unflatten(spec, [Tracer(inner, v) for v in new])))
    hidden = list(inner.outer.values())
    region = inner.builder.region(
        [*(p for _, p in hidden), *(p.value for p in params)], [again.value, *new]
    )
    consts = [trace.lift(outer) for outer, _ in hidden]
    made = trace.builder.emit(
        "while_loop", *consts, first.value, *state, regions=(region,), consts=len(consts)
    )
    values = made if isinstance(made, tuple) else (made,)
    return tree.unflatten(spec, [Tracer(trace, v) for v in values])


@functools.lru_cache(maxsize=64)
def _compiled(c: Callback, b: Callback) -> Callback:
    run: Callback = jit(lambda x: while_loop(c, b, x))
    return run


class _Traced:
    """One side of a ``cond``, traced on parameters for the values of its arguments."""

    def __init__(
        self, f: Callback, given: Sequence[Value], weak: Sequence[type | None], spec: tree.Spec
    ) -> None:
        with Trace(getattr(f, "__name__", "f")) as self.trace:
            self._params = [
                self.trace.parameter(v.type, weak=w) for v, w in zip(given, weak, strict=True)
            ]
            for param, v in zip(self._params, given, strict=True):
                param.value.facts = v.facts
            self.outs, self.spec = tree.flatten(f(*tree.unflatten(spec, self._params)))

    def region(self, dtypes: Sequence[np.dtype[Any]]) -> Region:
        """The side with results of these dtypes."""
        with self.trace.resumed():
            results = [
                Tracer(self.trace, self.trace.lift(x, t)).astype(t).value
                for x, t in zip(self.outs, dtypes, strict=True)
            ]
        hidden = [p for _, p in self.trace.outer.values()]
        return self.trace.builder.region([*hidden, *(p.value for p in self._params)], results)


def _common(names: Sequence[str], x: Any, y: Any) -> np.dtype[Any]:
    """The dtype of a result of both sides; Python numbers adapt to the other."""
    (first, weak), (second, other_weak) = leaf_type(x), leaf_type(y)
    if first.shape != second.shape:
        raise ShapeError(
            f"cond: {names[0]} returns {first} where {names[1]} returns {second}; both must have "
            "one shape"
        )
    if weak is None and other_weak is None and first.dtype != second.dtype:
        raise DTypeError(
            f"cond: {names[0]} returns {first} where {names[1]} returns {second}; convert one of "
            "them with astype"
        )
    found = second if weak is not None else first
    if weak is not None and other_weak is not None:
        return np.result_type(first.dtype.numpy, second.dtype.numpy)
    return found.dtype.numpy


def _truth(p: Any) -> bool:
    if np.ndim(p):
        raise ShapeError(f"cond: the condition is one truth value, got shape {list(np.shape(p))}")
    return bool(p)


def _flag(name: str, p: Any) -> Tracer:
    """A truth value as a traced one."""
    trace = this_trace()
    value = trace.lift(p)
    if value.shape:
        raise ShapeError(
            f"{name}: the condition must be one truth value, got {value.type}; reduce it with "
            ".any() or .all(), or choose elementwise with np.where"
        )
    return Tracer(trace, value).astype(bool)
