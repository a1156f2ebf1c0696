"""Transforms of Python functions: compile, differentiate, vectorise.

Each takes a function and returns one; they work as decorators too and nest in any order.
The bodies here run on tracers: an inner ``grad`` names its inputs with ``identity`` ops
and pulls back into the very builder that the outer function is being traced into.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api_function import Function, leaf_type
from symgrad.ir import Func, TensorType, Value
from symgrad.ir.adjoint import pull_back
from symgrad.ir.errors import DifferentiationError, DTypeError, ShapeError, UsageError
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, current_trace, stage

Callback = Callable[..., Any]


def _decorator(transform: Callable[..., Function]) -> Callable[..., Any]:
    """Lets ``@transform(option=...)`` work beside ``transform(f, option=...)``."""

    @functools.wraps(transform)
    def apply(f: Callback | None = None, *args: Any, **kwargs: Any) -> Any:
        if f is None:
            return lambda g: transform(g, *args, **kwargs)
        if not callable(f):
            raise UsageError(f"{transform.__name__}: needs a function, got {type(f).__name__}")
        return transform(f, *args, **kwargs)

    return apply


@_decorator
def jit(
    f: Callback,
    *,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
) -> Function:
    """Compiles ``f`` for every signature it is called with.

    Static arguments are ordinary Python values that the traced code may branch on; each
    value gets its own program.  Arrays of donated arguments may be overwritten by results
    of the same type: do not use them after the call.
    """
    return Function(
        f,
        f,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
    )


# -- inside a trace ------------------------------------------------------------------------


def _trace() -> Trace:
    trace = current_trace()
    if trace is None:
        raise UsageError("a derivative was staged outside any trace")
    return trace


def _inputs(name: str, arg: Any, text: str) -> tuple[Any, list[Value]]:
    """``arg`` with every leaf renamed by ``identity``, and those values."""
    trace = _trace()
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


def _call_on_inputs(
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
    return f(*replaced, **kwargs), specs, values


def _parameter_name(f: Callback, n: int) -> str:
    import inspect

    try:
        return list(inspect.signature(f).parameters)[n]
    except (TypeError, ValueError, IndexError):
        return f"arg{n}"


def _filled(values: Sequence[Value | None], like: Sequence[Value]) -> list[Tracer]:
    """Cotangents as tracers, zeros where there is none."""
    trace = _trace()
    return [
        Tracer(trace, trace.builder.constant(0, x.type) if v is None else v)
        for v, x in zip(values, like, strict=True)
    ]


def _scalar(name: str, f: Callback, result: Any) -> Tracer:
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
    trace = _trace()
    return Tracer(trace, trace.lift(result), weak)


# -- gradients -----------------------------------------------------------------------------


def _value_and_grad(
    name: str, f: Callback, argnums: int | Sequence[int], has_aux: bool
) -> Callable[..., tuple[Any, Any, Any]]:
    def body(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        result, specs, inputs = _call_on_inputs(name, f, argnums, args, kwargs)
        aux = None
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise UsageError(f"{name}: with has_aux=True the function must return (value, aux)")
            result, aux = result
        out = _scalar(name, f, result)
        trace = _trace()
        flat = [v for leaves in inputs for v in leaves]
        seed = trace.builder.constant(1, out.value.type)
        grads = iter(_filled(pull_back(trace.builder, [out.value], [seed], flat), flat))
        trees = [
            tree.unflatten(spec, [next(grads) for _ in leaves])
            for spec, leaves in zip(specs, inputs, strict=True)
        ]
        return out, aux, trees[0] if isinstance(argnums, int) else tuple(trees)

    return body


@_decorator
def value_and_grad(
    f: Callback, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Function:
    """``(f(...), gradient)`` by the arguments ``argnums``, in their structure.

    With ``has_aux`` the function returns ``(value, aux)``, and so does the first part of the
    result.  Raises ``DifferentiationError`` unless the value is a floating scalar.
    """
    inner = _value_and_grad("value_and_grad", f, argnums, has_aux)

    def body(*args: Any, **kwargs: Any) -> Any:
        value, aux, grads = inner(*args, **kwargs)
        return ((value, aux), grads) if has_aux else (value, grads)

    return Function(body, f, derivative=True)


@_decorator
def grad(f: Callback, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """The gradient of a scalar function by the arguments ``argnums``, in their structure.

    With ``has_aux`` the function returns ``(value, aux)`` and the result is
    ``(gradient, aux)``.  Raises ``DifferentiationError`` unless the value is a floating scalar.
    """
    inner = _value_and_grad("grad", f, argnums, has_aux)

    def body(*args: Any, **kwargs: Any) -> Any:
        _, aux, grads = inner(*args, **kwargs)
        return (grads, aux) if has_aux else grads

    return Function(body, f, derivative=True)


# -- products with the Jacobian ------------------------------------------------------------


def floating_leaves(result: Any) -> tuple[list[Tracer], tree.Spec]:
    """The leaves of a result as tracers of the current trace."""
    trace = _trace()
    leaves, spec = tree.flatten(result)
    return [Tracer(trace, trace.lift(x)) for x in leaves], spec


def matched_leaves(
    name: str, what: str, given: Any, spec: tree.Spec, types: Sequence[TensorType]
) -> list[Value]:
    """The leaves of tangents or cotangents, which must fit ``spec`` and ``types``."""
    leaves, own = tree.flatten(given)
    if own.num_leaves != spec.num_leaves or (own != spec and not spec.is_leaf()):
        raise UsageError(f"{name}: {what} must have the structure {spec}, got {own}")
    trace = _trace()
    values = []
    for x, t in zip(leaves, types, strict=True):
        kind, _ = leaf_type(x)
        if kind.shape != t.shape:
            raise ShapeError(f"{name}: {what} of {t} must have its shape, got {kind}")
        lifted = Tracer(trace, trace.lift(x, t.dtype.numpy))
        values.append(lifted.astype(t.dtype.numpy).value)
    return values


def stage_jvp(name: str, f: Callback, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """Result and tangent of ``f``: the pull-back, which is linear, pulled back."""
    trace = _trace()
    builder = trace.builder
    result, specs, inputs = _call_on_inputs(name, f, tuple(range(len(primals))), primals, {})
    flat = [v for leaves in inputs for v in leaves]
    values: list[Value] = []
    if len(tangents) != len(primals):
        raise UsageError(f"{name}: {len(primals)} primals but {len(tangents)} tangents")
    for spec, leaves, t in zip(specs, inputs, tangents, strict=True):
        values += matched_leaves(name, "the tangent", t, spec, [v.type for v in leaves])
    outs, out_spec = floating_leaves(result)
    seeds = [
        builder.emit("identity", builder.constant(0, x.value.type))
        if x.dtype.kind == "f" else None
        for x in outs
    ]  # fmt: skip
    bars = pull_back(builder, [x.value for x in outs], seeds, flat)
    pairs = [(bar, t) for bar, t in zip(bars, values, strict=True) if bar is not None]
    wanted = [s for s in seeds if s is not None]
    pushed = iter(pull_back(builder, [b for b, _ in pairs], [t for _, t in pairs], wanted))
    tangent = [next(pushed) if s is not None else None for s in seeds]
    return result, tree.unflatten(out_spec, _filled(tangent, [x.value for x in outs]))


def _tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


@functools.lru_cache(maxsize=64)
def _jvp_of(f: Callback) -> Function:
    return Function(
        lambda primals, tangents: stage_jvp("jvp", f, primals, tangents), f, derivative=True
    )


def jvp(f: Callback, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """``f(*primals)`` and its directional derivative along ``tangents``, of equal structure."""
    result: tuple[Any, Any] = _jvp_of(f)(_tuple(primals), _tuple(tangents))
    return result


@functools.lru_cache(maxsize=64)
def _hvp_of(f: Callback) -> Function:
    def body(primals: tuple[Any, ...], vectors: tuple[Any, ...]) -> Any:
        slopes = grad(f, argnums=tuple(range(len(primals))))
        tangent = stage_jvp("hvp", slopes, primals, vectors)[1]
        return tangent[0] if len(primals) == 1 else tangent

    return Function(body, f, derivative=True)


def hvp(f: Callback, primals: Any, vectors: Any) -> Any:
    """The Hessian of a scalar function times ``vectors``, without forming it.

    ``primals`` and ``vectors`` are one array each, or tuples of arguments; the result is a
    tuple when there are several.
    """
    return _hvp_of(f)(_tuple(primals), _tuple(vectors))


def stop_gradient(x: Any) -> Any:
    """``x``, a constant for every derivative; containers leaf by leaf."""

    def stop(leaf: Any) -> Any:
        return stage("stop_gradient", leaf) if isinstance(leaf, Tracer) else leaf

    return tree.map_leaves(stop, x)


# -- stages --------------------------------------------------------------------------------


def trace(f: Callback, *args: Any, **kwargs: Any) -> Func:
    """The IR of ``f`` for these arguments; for a derivative, with its adjoint."""
    function = f if isinstance(f, Function) else Function(f, f)
    return function.traced(*args, **kwargs).func


def inspect(f: Callback, *args: Any, **kwargs: Any) -> Any:
    """All stages as attributes: source, ir, adjoint, optimized, llvm, asm, explain."""
    function = f if isinstance(f, Function) else Function(f, f)
    return function.stages(*args, **kwargs)
