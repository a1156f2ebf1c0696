"""Functions whose derivative is taken in a way of their own: ``checkpoint``, ``custom_vjp``."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api import jit
from symgrad.api_leaves import leaf_type
from symgrad.api_staging import Callback, this_trace, transform
from symgrad.ir import Builder, TensorType, Value
from symgrad.ir.errors import DTypeError, ShapeError, UsageError
from symgrad.operators import is_tensor
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, current_trace

MAX_ORDER = 3
"""Derivatives that a rule has which uses its own function."""


def _is_array(x: Any) -> bool:
    return isinstance(x, (Tracer, np.ndarray)) or is_tensor(x)


# -- checkpoint ----------------------------------------------------------------------------


@transform
def checkpoint(f: Callback) -> Any:
    """``f``, of whose values none are kept for the derivative: they are computed again there.

    That is slower, and takes less memory: of everything inside ``f``, only its arguments and
    results live from the forward to the backward pass.  Calls outside ``jit``, ``grad`` and
    the other transforms are calls of ``f``.
    """

    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        if current_trace() is None:
            return f(*args, **kwargs)
        trace = this_trace()
        leaves, spec = tree.flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if _is_array(x)]
        given = [trace.lift(leaves[i]) for i in places]
        with Trace(getattr(f, "__name__", "body")) as inner:
            params = [_parameter(inner, v, leaf_type(leaves[i])[1])
                      for i, v in zip(places, given, strict=True)]  # fmt: skip
            for i, param in zip(places, params, strict=True):
                leaves[i] = param
            new_args, new_kwargs = tree.unflatten(spec, leaves)
            outs, out_spec = tree.flatten(f(*new_args, **new_kwargs))
            traced = [i for i, x in enumerate(outs) if _is_array(x)]
            results = [inner.lift(outs[i]) for i in traced]
        if not results:
            return tree.unflatten(out_spec, outs)
        hidden = list(inner.outer.values())
        region = inner.builder.region(
            [*(p for _, p in hidden), *(p.value for p in params)], results
        )
        consts = [trace.lift(x) for x, _ in hidden]
        made = trace.builder.emit("checkpoint", *consts, *given, regions=(region,))
        for i, value in zip(traced, made if isinstance(made, tuple) else (made,), strict=True):
            outs[i] = Tracer(trace, value, leaf_type(outs[i])[1])
        return tree.unflatten(out_spec, outs)

    return run


def _parameter(trace: Trace, like: Value, weak: type | None = None) -> Tracer:
    param = trace.parameter(like.type, weak=weak)
    param.value.facts = like.facts
    return param


# -- custom_vjp ----------------------------------------------------------------------------


class custom_vjp:  # noqa: N801  (a decorator)
    """``f`` with a derivative of your own, which ``defvjp`` gives.

        @sg.custom_vjp
        def f(x, y): ...

        f.defvjp(fwd, bwd)

    ``fwd(*args)`` returns ``(f(*args), residuals)``; ``bwd(residuals, ct)`` takes the cotangent
    of the result, in its structure, to a tuple with one cotangent per argument, in the
    structure of that, or ``None`` for none.  Arguments ``nondiff_argnums`` are static; ``bwd``
    takes them first.  Where ``f`` may be differentiated, ``fwd`` runs in its place.  Both rules
    are traced, so they are compiled, vectorised by ``vmap`` and differentiated again; one that
    calls ``f`` itself has derivatives up to order 3.
    """

    def __init__(self, f: Callback, nondiff_argnums: int | Sequence[int] = ()) -> None:
        functools.update_wrapper(self, f)
        self.name = getattr(f, "__name__", "f")
        numbers = [nondiff_argnums] if isinstance(nondiff_argnums, int) else nondiff_argnums
        self._f = f
        self._static = frozenset(numbers)
        self._rules: tuple[Callback, Callback] | None = None
        self._depth = threading.local()
        self._compiled = jit(self._stage, static_argnums=tuple(numbers))

    def defvjp(self, fwd: Callback, bwd: Callback) -> None:
        """Gives the derivative: the forward rule and the backward rule."""
        self._rules = fwd, bwd
        self._compiled.forget()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            bound = inspect.signature(self._f).bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        return self._stage(*args) if current_trace() is not None else self._compiled(*args)

    def _stage(self, *args: Any) -> Any:
        if self._rules is None:
            raise UsageError(
                f"custom_vjp: {self.name} has no derivative yet; give it one with "
                f"{self.name}.defvjp(fwd, bwd)"
            )
        depth = getattr(self._depth, "now", 0)
        self._depth.now = depth + 1
        try:
            return self._call(args, is_last=depth >= MAX_ORDER)
        finally:
            self._depth.now = depth

    def _call(self, args: tuple[Any, ...], *, is_last: bool) -> Any:
        fwd, bwd = self._rules or (self._f, self._f)
        trace = this_trace()
        dynamic = [x for i, x in enumerate(args) if i not in self._static]
        fixed = [x for i, x in enumerate(args) if i in self._static]
        leaves, _spec = tree.flatten(dynamic)
        inputs = [trace.lift(x) for x in leaves]
        result, residuals = self._forward(fwd, args, is_last)
        outs, out_spec = tree.flatten(result)
        values = [trace.lift(x) for x in outs]
        kept, kept_spec = tree.flatten(residuals)
        places = [i for i, x in enumerate(kept) if _is_array(x)]
        saved = [trace.lift(kept[i]) for i in places]
        region, consts = Builder().region([], []), list[Value]()
        smooth = [v for v in inputs if v.type.dtype.is_inexact]
        if not is_last:
            with Trace(f"{self.name}_bwd") as inner:
                params = [_parameter(inner, v) for v in saved]
                for i, param in zip(places, params, strict=True):
                    kept[i] = param
                cts = [inner.parameter(v.type) if v.type.dtype.is_inexact else None for v in values]
                for ct in cts:
                    if ct is not None:
                        ct.value.facts = 0
                answer = bwd(*fixed, tree.unflatten(kept_spec, kept), tree.unflatten(out_spec, cts))
                parts = self._fitted(answer, dynamic, [v.type for v in inputs])
            hidden = list(inner.outer.values())
            consts = [trace.lift(x) for x, _ in hidden]
            region = inner.builder.region(
                [*(p for _, p in hidden), *(p.value for p in params),
                 *(ct.value for ct in cts if ct is not None)],
                parts,
            )  # fmt: skip
        if not values or not smooth:
            return result
        made = trace.builder.emit(
            "custom_vjp", *smooth, *consts, *(() if is_last else saved), *values,
            regions=(region,), inputs=len(smooth), outputs=len(values),
        )  # fmt: skip
        linked = made if isinstance(made, tuple) else (made,)
        return tree.unflatten(out_spec, [Tracer(trace, v) for v in linked])

    def _forward(self, fwd: Callback, args: tuple[Any, ...], is_last: bool) -> tuple[Any, Any]:
        if is_last:
            return self._f(*args), ()
        answer = fwd(*args)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise UsageError(
                f"custom_vjp: the forward rule of {self.name} must return (result, residuals), "
                f"got a {type(answer).__name__}"
            )
        return answer

    def _fitted(self, answer: Any, args: Sequence[Any], types: Sequence[TensorType]) -> list[Value]:
        """The cotangents of the floating arguments, checked leaf by leaf."""
        trace = this_trace()
        where = f"custom_vjp: the backward rule of {self.name}"
        parts = list(answer) if isinstance(answer, (tuple, list)) else None
        if parts is None or len(parts) != len(args):
            found = f"a {type(answer).__name__}" if parts is None else f"{len(parts)} of them"
            raise UsageError(
                f"{where} must return a tuple with a cotangent for each of {len(args)} arguments, "
                f"got {found}"
            )
        remaining = iter(types)
        fitted = []
        for n, (part, arg) in enumerate(zip(parts, args, strict=True)):
            leaves, spec = tree.flatten(arg)
            given, own = (leaves, spec) if part is None else tree.flatten(part)
            if own != spec:
                raise UsageError(f"{where} gave argument {n} the structure {own}, not {spec}")
            for x, t in zip(given, [next(remaining) for _ in leaves], strict=True):
                if not t.dtype.is_inexact:
                    continue
                if part is None:
                    fitted.append(trace.builder.constant(0, t))
                    continue
                try:
                    found_type = leaf_type(x)[0]
                except DTypeError as error:
                    raise DTypeError(f"{where}: {error.message} (argument {n})") from None
                if found_type.shape != t.shape:
                    raise ShapeError(
                        f"{where} gave {found_type} for argument {n}, which is {t}; the shapes "
                        "must be the same: sum over axes along which it was broadcast"
                    )
                value = Tracer(trace, trace.lift(x, t.dtype.numpy))
                fitted.append(value.astype(t.dtype.numpy).value)
        return fitted
