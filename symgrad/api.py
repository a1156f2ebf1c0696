"""Transforms of Python functions: compile, differentiate, vectorise.

Each takes a function and returns one; they work as decorators too and nest in any order.
The bodies here run on tracers: an inner ``grad`` names its inputs with ``identity`` ops
and pulls back into the very builder that the outer function is being traced into.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from symgrad import tree
from symgrad.api_function import Function
from symgrad.api_staging import (
    Callback,
    call_on_inputs,
    filled,
    fitting_leaves,
    floating_leaves,
    lifted_leaves,
    scalar_of,
    this_trace,
    transform,
)
from symgrad.ir import Func, Value
from symgrad.ir.adjoint import pull_back
from symgrad.ir.errors import UsageError
from symgrad.tracer import Tracer
from symgrad.tracing import stage


@transform
def jit(
    f: Callback,
    *,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    conv_precision: str | None = None,
) -> Function:
    """Compiles ``f`` for every signature it is called with.

    Static arguments are ordinary Python values that the traced code may branch on; each
    value gets its own program.  Arrays of donated arguments may be overwritten by results
    of the same type: do not use them after the call.  ``conv_precision`` is ``"default"``
    or ``"high"`` for this function's convolutions; see ``set_conv_precision``.

    A call may give arrays for the results, of their dtypes and shapes, which it returns:
    ``f(x, out=y)``, or ``out=(None, y)`` in the structure of the result with ``None`` where a
    fresh one is wanted.  They may overlap with arguments.  So may calls of derivatives.

    The body runs only while it is traced.  Arrays and tensors from outside are read at every
    call.  Numbers, truth values and strings are part of the program, which is traced again when
    one has changed that the code finds by name in a global, a closure, an attribute, a class, a
    module or a container.  What it reads in other ways (slots, properties, objects behind more
    than a few others, ``getattr`` with a computed name) stays as it was: make that an argument.
    """
    if conv_precision is not None:
        from symgrad.codegen.precision import checked

        checked(conv_precision, "jit")
    return Function(
        f,
        f,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
        conv_precision=conv_precision,
    )


# -- gradients -----------------------------------------------------------------------------


def _value_and_grad(
    name: str, f: Callback, argnums: int | Sequence[int], has_aux: bool
) -> Callable[..., tuple[Any, Any, Any]]:
    def body(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        result, specs, inputs = call_on_inputs(name, f, argnums, args, kwargs)
        aux = None
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise UsageError(f"{name}: with has_aux=True the function must return (value, aux)")
            result, aux = result
        out = scalar_of(name, f, result)
        trace = this_trace()
        flat = [v for leaves in inputs for v in leaves]
        seed = trace.builder.constant(1, out.value.type)
        grads = iter(filled(pull_back(trace.builder, [out.value], [seed], flat), flat))
        trees = [
            tree.unflatten(spec, [next(grads) for _ in leaves])
            for spec, leaves in zip(specs, inputs, strict=True)
        ]
        return out, aux, trees[0] if isinstance(argnums, int) else tuple(trees)

    return body


@transform
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


@transform
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


def stage_jvp(name: str, f: Callback, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """Result and tangent of ``f``: the pull-back, which is linear, pulled back."""
    trace = this_trace()
    builder = trace.builder
    result, specs, inputs = call_on_inputs(name, f, tuple(range(len(primals))), primals, {})
    flat = [v for leaves in inputs for v in leaves]
    values: list[Value] = []
    if len(tangents) != len(primals):
        raise UsageError(f"{name}: {len(primals)} primals but {len(tangents)} tangents")
    for spec, leaves, t in zip(specs, inputs, tangents, strict=True):
        types = [v.type for v in leaves]
        values += lifted_leaves(fitting_leaves(name, "the tangent", t, spec, types), types)
    outs, out_spec = floating_leaves(result)
    seeds = [
        builder.emit("identity", builder.constant(0, x.value.type))
        if x._kind == "f" else None
        for x in outs
    ]  # fmt: skip
    bars = pull_back(builder, [x.value for x in outs], seeds, flat)
    pairs = [(bar, t) for bar, t in zip(bars, values, strict=True) if bar is not None]
    wanted = [s for s in seeds if s is not None]
    pushed = iter(pull_back(builder, [b for b, _ in pairs], [t for _, t in pairs], wanted))
    tangent = [next(pushed) if s is not None else None for s in seeds]
    return result, tree.unflatten(out_spec, filled(tangent, [x.value for x in outs]))


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
    """The IR of ``f`` for these arguments; for a derivative, with its adjoint.

    Of a tensor in place of a function, the sum of the diagonal: torch has this name, too.
    """
    if not callable(f):
        return f.trace(*args, **kwargs)
    function = f if isinstance(f, Function) else Function(f, f)
    return function.traced(*args, **kwargs).func


def inspect(f: Callback, *args: Any, **kwargs: Any) -> Any:
    """All stages as attributes: source, ir, adjoint, optimized, llvm, asm, explain."""
    function = f if isinstance(f, Function) else Function(f, f)
    return function.stages(*args, **kwargs)
