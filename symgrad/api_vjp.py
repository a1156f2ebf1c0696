"""The pull-back as a function of its own: one traced program cut in two.

The forward half returns the results and the residuals, which are the values the backward
half needs; the backward half runs once per cotangent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api_backend import compile_func, register_owner
from symgrad.api_captures import Environment, Surroundings
from symgrad.api_function import MAX_PROGRAMS, Traced, trace_body
from symgrad.api_leaves import array_of, leaf_type
from symgrad.api_staging import (
    Callback,
    call_on_inputs,
    filled,
    fitting_leaves,
    floating_leaves,
    lifted_leaves,
    this_trace,
)
from symgrad.bounded import Bounded
from symgrad.ir import Builder, Func, Op, TensorType, Value
from symgrad.ir.adjoint import pull_back
from symgrad.operators import is_tensor
from symgrad.tracing import current_trace


def vjp(f: Callback, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """``(f(*primals), pullback)``: the pull-back takes a cotangent of the result, in its
    structure, to a tuple of cotangents of the primals."""
    if current_trace() is not None:
        return _stage_vjp(f, primals)
    return _halves_of(f)(primals)


def _stage_vjp(f: Callback, primals: tuple[Any, ...]) -> tuple[Any, Any]:
    trace = this_trace()
    numbers = tuple(range(len(primals)))
    result, specs, inputs = call_on_inputs("vjp", f, numbers, primals, {})
    outs, out_spec = floating_leaves(result)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        if not trace.is_current:  # under another transform: the same, traced there
            cotangents: tuple[Any, ...] = vjp(f, *primals)[1](cotangent)
            return cotangents
        types = [x.value.type for x in outs]
        given = fitting_leaves("vjp", "the cotangent", cotangent, out_spec, types)
        cts = lifted_leaves(given, types)
        flat = [v for leaves in inputs for v in leaves]
        grads = iter(filled(pull_back(trace.builder, [x.value for x in outs], cts, flat), flat))
        return tuple(
            tree.unflatten(spec, [next(grads) for _ in leaves])
            for spec, leaves in zip(specs, inputs, strict=True)
        )

    return result, pullback


@functools.lru_cache(maxsize=64)
def _halves_of(f: Callback) -> _Halves:
    return _Halves(f)


class _Halves:
    """Forward and backward programs of a function, per signature."""

    def __init__(self, f: Callback) -> None:
        self.f = f
        self.programs: Bounded[_Pair] = Bounded(MAX_PROGRAMS)
        register_owner(self)

    def forget(self) -> None:
        """Drops the compiled programs."""
        self.programs.clear()

    def __call__(self, primals: tuple[Any, ...]) -> tuple[Any, Any]:
        leaves, spec = tree.flatten(primals)
        if any(map(is_tensor, leaves)):
            return self._on_tensors(tree.unflatten(spec, [array_of(x) for x in leaves]))
        key = spec, tuple(leaf_type(x) for x in leaves)
        pair = self.programs.get(key)
        captured = None if pair is None else pair.environment.current()
        if pair is None or captured is None:
            pair = self.programs[key] = _Pair(self.f, primals)
            captured = pair.environment.arrays()
        return pair.run(self.f, primals, [*leaves, *map(array_of, captured)])

    def _on_tensors(self, primals: tuple[Any, ...]) -> tuple[Any, Any]:
        from symgrad.tensors.compiled import as_tensor

        result, pullback = self(primals)

        def pull(cotangent: Any) -> tuple[Any, ...]:
            cts = pullback(tree.map_leaves(array_of, cotangent))
            return tuple(tree.map_leaves(as_tensor, list(cts)))

        return tree.map_leaves(as_tensor, result), pull


class _Pair:
    """The two programs for one signature."""

    def __init__(self, f: Callback, primals: tuple[Any, ...]) -> None:
        name = getattr(f, "__name__", "f")
        shapes: list[TensorType] = []
        specs: list[tree.Spec] = []

        def joint(*args: Any) -> Any:
            """Results, then a parameter per result, then the cotangents of the arguments."""
            result, pullback = _stage_vjp(f, args)
            outs, spec = floating_leaves(result)
            shapes.extend(x.value.type for x in outs)
            specs.append(spec)
            cts = [this_trace().parameter(t, f"ct{i}") for i, t in enumerate(shapes)]
            return [outs, pullback(tree.unflatten(spec, cts)), cts]

        def names() -> list[str]:
            return [n for i, x in enumerate(primals) for n in tree.names(x, f"arg{i}")]

        surroundings = Surroundings(f)
        traced = trace_body(joint, name, primals, {}, names, surroundings)
        self.out_types, self.out_spec = shapes, specs[0]
        self.environment = Environment(surroundings, traced.captures, traced.guards)
        forward, backward = _cut(traced, len(shapes))
        self.forward, self.backward = compile_func(forward), compile_func(backward)

    def run(self, f: Callback, primals: Any, arguments: Sequence[Any]) -> tuple[Any, Any]:
        """The result, and the pull-back that holds on to the residuals.

        ``arguments`` are the leaves of ``primals``, and what was captured.
        """
        results = list(self.forward(arguments))
        outs, residuals = results[: len(self.out_types)], results[len(self.out_types) :]
        spec = tree.flatten(primals)[1]

        def pullback(cotangent: Any) -> tuple[Any, ...]:
            if current_trace() is not None:
                cotangents: tuple[Any, ...] = vjp(f, *primals)[1](cotangent)
                return cotangents
            types = self.out_types
            given = fitting_leaves("vjp", "the cotangent", cotangent, self.out_spec, types)
            cts = [np.asarray(x, t.dtype.numpy) for x, t in zip(given, types, strict=True)]
            result: tuple[Any, ...] = tree.unflatten(spec, self.backward([*residuals, *cts]))
            return result

        return tree.unflatten(self.out_spec, outs), pullback


def _cut(traced: Traced, outs: int) -> tuple[Func, Func]:
    """The forward and the backward half of a joint function.

    Its results are the outputs, the cotangents of its arguments, and the parameters that
    stand for the cotangents of the outputs.
    """
    func = traced.func
    cts = func.results[len(func.results) - outs :]
    grads = func.results[outs : len(func.results) - outs]
    late = {id(v) for v in cts}  # values that depend on a cotangent
    ops = [op for op in func.ops if _depends(op, late)]
    builder = Builder(locations=False)
    new: dict[int, Value] = {}
    residuals: list[Value] = []
    for v in (*(v for op in ops for v in op.operands), *grads):
        if id(v) in late or id(v) in new:
            continue
        if v.op is not None and not v.op.operands:
            new[id(v)] = builder.copy(v.op, ())  # a constant costs nothing to make again
        else:
            new[id(v)] = builder.param_like(v, f"residual{len(residuals)}")
            residuals.append(v)
    for i, v in enumerate(cts):
        new[id(v)] = builder.param_like(v, f"ct{i}")
    for op in ops:
        with builder.at(op.loc):
            made = builder.copy(op, [new[id(v)] for v in op.operands])
        made = made if isinstance(made, tuple) else (made,)
        new.update((id(old), v) for old, v in zip(op.results, made, strict=True))
    backward = builder.build([new[id(v)] for v in grads], f"{func.name}_backward")
    params = tuple(p for p in func.params if all(p is not ct for ct in cts))
    results = (*func.results[:outs], *residuals)
    backward_ops = set(ops)
    early = tuple(op for op in func.ops if op not in backward_ops)
    return Func(func.name, params, early, results), backward


def _depends(op: Op, late: set[int]) -> bool:
    """Whether an op has a late operand; then its results are late too."""
    if not any(id(v) in late for v in op.operands):
        return False
    late.update(id(v) for v in op.results)
    return True
