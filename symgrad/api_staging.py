"""What the bodies of transforms share: naming inputs, calling, checking, filling in zeros."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api_function import Function
from symgrad.api_leaves import leaf_type
from symgrad.ir import TensorType, Value
from symgrad.ir.errors import DifferentiationError, DTypeError, ShapeError, UsageError
from symgrad.ir.reroll import rolled
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, current_trace

Callback = Callable[..., Any]


def transform(make: Callable[..., Function]) -> Callable[..., Any]:
    """Lets a maker of functions serve as ``@make``, ``@make(option=...)`` and ``make(f)``."""

    @functools.wraps(make)
    def apply(f: Callback | None = None, *args: Any, **kwargs: Any) -> Any:
        if f is None:
            return lambda g: make(g, *args, **kwargs)
        if not callable(f):
            raise UsageError(f"{make.__name__}: needs a function, got {type(f).__name__}")
        return make(f, *args, **kwargs)

    return apply


def this_trace() -> Trace:
    trace = current_trace()
    if trace is None:
        raise UsageError("a derivative was staged outside any trace")
    return trace


def _inputs(name: str, arg: Any, text: str) -> tuple[Any, list[Value]]:
    """``arg`` with every leaf renamed by ``identity``, and those values."""
    trace = this_trace()
    leaves, spec = tree.flatten(arg)
    renamed = []
    for x, where in zip(leaves, tree.names(arg, text), strict=True):
        try:
            type_, weak = leaf_type(x)
        except DTypeError as error:
            raise DTypeError(
                f"{name}: argument {where} has no derivative: {error.message}; choose the "
                "arguments to differentiate by argnums"
            ) from None
        if not type_.dtype.is_float:
            remedy = "pass a float" if type_.shape == () else "convert it with astype(float)"
            raise DifferentiationError(
                f"{name}: argument {where} is {type_} and derivatives exist only for floating "
                f"dtypes; {remedy} or choose other arguments by argnums"
            )
        value = trace.lift(x, np.dtype(float))
        renamed.append(Tracer(trace, trace.builder.emit("identity", value), weak))
    return tree.unflatten(spec, renamed), [x.value for x in renamed]


def _numbers(name: str, argnums: int | Sequence[int], count: int) -> list[int]:
    given = [argnums] if isinstance(argnums, int) else list(argnums)
    for n in given:
        if not -count <= n < count:
            raise UsageError(
                f"{name}: argnums={argnums} but the function was called with {count} positional "
                "arguments; differentiated arguments are passed by position"
            )
    return [n % count for n in given]


def call_on_inputs(
    name: str, f: Callback, argnums: int | Sequence[int], args: tuple[Any, ...], kwargs: Any
) -> tuple[Any, list[Any], list[list[Value]]]:
    """``f``'s result with the chosen arguments renamed; those arguments and their values."""
    replaced = list(args)
    values = []
    numbers = _numbers(name, argnums, len(args))
    for n in numbers:
        replaced[n], leaves = _inputs(name, args[n], _parameter_name(f, n))
        values.append(leaves)
    originals = [replaced[n] for n in numbers]
    specs = [tree.flatten(x)[1] for x in originals]
    return _rolled(f(*replaced, **kwargs)), specs, values


def _rolled(result: Any) -> Any:
    """A result with the long runs of equal steps behind it as loops: these differentiate, and
    compile, in the time of one step."""
    trace = this_trace()
    leaves, spec = tree.flatten(result)
    traced = [x for x in leaves if isinstance(x, Tracer) and x.trace is trace]
    before = [x.value for x in traced]
    after = rolled(trace.builder, before)
    pairs = zip(traced, before, after, strict=True)
    new = {id(x): Tracer(trace, v, x.weak) for x, old, v in pairs if v is not old}
    return tree.unflatten(spec, [new.get(id(x), x) for x in leaves]) if new else result


def _parameter_name(f: Callback, n: int) -> str:
    try:
        return list(inspect.signature(f).parameters)[n]
    except (TypeError, ValueError, IndexError):
        return f"arg{n}"


def filled(values: Sequence[Value | None], like: Sequence[Value]) -> list[Tracer]:
    """Cotangents as tracers, zeros where there is none."""
    trace = this_trace()
    return [
        Tracer(trace, trace.builder.constant(0, x.type) if v is None else v)
        for v, x in zip(values, like, strict=True)
    ]


def scalar_of(name: str, f: Callback, result: Any) -> Tracer:
    """The result a gradient is taken of; refuses anything but a real scalar."""
    called = getattr(f, "__name__", "the function")
    leaves, spec = tree.flatten(result)
    if not spec.is_leaf():
        raise DifferentiationError(
            f"{name}: {called} must return one scalar, got a {type(result).__name__}; return "
            "(value, rest) and pass has_aux=True to carry more along"
        )
    try:
        type_, weak = leaf_type(leaves[0])
    except DTypeError as error:
        raise DTypeError(f"{name}: {called} must return one scalar: {error.message}") from None
    if type_.shape or not type_.dtype.is_float:
        raise DifferentiationError(
            f"{name}: {called} must return a floating scalar, got {type_}; reduce it (for example "
            "with .sum() or .mean()) or use symgrad.jacobian"
        )
    trace = this_trace()
    return Tracer(trace, trace.lift(result), weak)


def floating_leaves(result: Any) -> tuple[list[Tracer], tree.Spec]:
    """The leaves of a result as tracers of the current trace."""
    trace = this_trace()
    leaves, spec = tree.flatten(result)
    return [Tracer(trace, trace.lift(x)) for x in leaves], spec


def fitting_leaves(
    name: str, what: str, given: Any, spec: tree.Spec, types: Sequence[TensorType]
) -> list[Any]:
    """The leaves of tangents or cotangents, which must have the structure and the shapes."""
    leaves, own = tree.flatten(given)
    if own != spec and not (spec.is_leaf() and own.is_leaf()):
        raise UsageError(f"{name}: {what} must have the structure {spec}, got {own}")
    for x, t in zip(leaves, types, strict=True):
        kind, _ = leaf_type(x)
        if kind.shape != t.shape:
            raise ShapeError(f"{name}: {what} of {t} must have its shape, got {kind}")
    return leaves


def lifted_leaves(leaves: Sequence[Any], types: Sequence[TensorType]) -> list[Value]:
    """Leaves as values of the current trace, in the dtypes of ``types``."""
    trace = this_trace()
    dtypes = [t.dtype.numpy for t in types]
    return [
        Tracer(trace, trace.lift(x, dtype)).astype(dtype).value
        for x, dtype in zip(leaves, dtypes, strict=True)
    ]
