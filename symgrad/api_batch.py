"""Vectorisation over a batch axis, and the Jacobians built on it.

A Jacobian is the pull-back (or push-forward) of one cotangent (tangent), traced once
and then batched over a basis: what does not depend on it is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api_function import Function
from symgrad.api_leaves import leaf_type
from symgrad.api_staging import (
    Callback,
    call_on_inputs,
    filled,
    floating_leaves,
    this_trace,
    transform,
)
from symgrad.dispatch import HANDLERS
from symgrad.ir import TensorType, Value, dtype_of
from symgrad.ir.adjoint import pull_back
from symgrad.ir.batching import batch_into
from symgrad.ir.errors import DifferentiationError, ShapeError, UsageError
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, stage


def _batched(
    inner: Trace, params: Sequence[Value], arguments: Sequence[Value], results: Sequence[Value],
    size: int,
) -> list[Tracer]:  # fmt: skip
    """What was traced in ``inner``, into the current trace over a leading axis.

    ``params`` run along that axis of ``arguments``; values of outer traces do not.
    """
    trace = this_trace()
    hidden = list(inner.outer.values())
    region = inner.builder.region([*params, *(p for _, p in hidden)], results)
    values = [*arguments, *(trace.lift(x) for x, _ in hidden)]
    flags = [True] * len(params) + [False] * len(hidden)
    return [Tracer(trace, v) for v in batch_into(trace.builder, region, values, flags, size)]


@transform
def vmap(f: Callback, in_axes: Any = 0, out_axes: Any = 0) -> Function:
    """``f`` for one example as a function of a batch of them.

    ``in_axes`` gives the batch axis of each argument (``None``: the same for all
    examples), as one entry, one per argument, or a prefix of their structure; ``out_axes``
    says where the axis goes in the results.  Keyword arguments are batched over axis 0.
    """

    def body(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree.flatten((args, kwargs))
        per_argument = (
            list(in_axes) if isinstance(in_axes, (tuple, list)) else [in_axes] * len(args)
        )
        if len(per_argument) != len(args):
            raise UsageError(
                f"vmap: in_axes has {len(per_argument)} entries for {len(args)} arguments"
            )
        axes = [n for entry, arg in zip(per_argument, args, strict=True)
                for n in tree.spread_prefix(entry, arg)]  # fmt: skip
        axes += [0] * (len(leaves) - len(axes))
        trace = this_trace()
        lifted = [Tracer(trace, trace.lift(x), leaf_type(x)[1]) for x in leaves]
        size = _batch_size(lifted, axes)
        with Trace(getattr(f, "__name__", "f")) as inner:
            examples, params, arguments = [], [], []
            for x, axis in zip(lifted, axes, strict=True):
                if axis is None:
                    examples.append(x)
                    continue
                front = _front(x, axis)
                example = inner.parameter(x.value.type.with_shape(front[1:]))
                example.value.facts = x.value.facts
                examples.append(example)
                params.append(example.value)
                arguments.append((x, axis))
            new_args, new_kwargs = tree.unflatten(spec, examples)
            outs, out_spec = floating_leaves(f(*new_args, **new_kwargs))
            results = [x.value for x in outs]
        moved = [HANDLERS[np.moveaxis](x, axis, 0).value for x, axis in arguments]
        batched = _batched(inner, params, moved, results, size)
        result = tree.unflatten(out_spec, batched)
        places = tree.spread_prefix(out_axes, result)
        placed = [HANDLERS[np.moveaxis](x, 0, n) for x, n in zip(batched, places, strict=True)]
        return tree.unflatten(out_spec, placed)

    return Function(body, f)


def _front(x: Tracer, axis: int) -> tuple[int, ...]:
    """The shape with the batch axis first."""
    axis %= x.ndim
    return (x.shape[axis], *(n for a, n in enumerate(x.shape) if a != axis))


def _batch_size(leaves: Sequence[Tracer], axes: Sequence[int | None]) -> int:
    sizes = {}
    for x, axis in zip(leaves, axes, strict=True):
        if axis is None:
            continue
        if not -x.ndim <= axis < x.ndim:
            raise ShapeError(f"vmap: {x.value.type} has no axis {axis} to run over")
        sizes[x.shape[axis]] = x
    if len(sizes) != 1:
        listed = ", ".join(f"{n} of {x.value.type}" for n, x in sizes.items())
        raise ShapeError(
            f"vmap: batch axes differ in size: {listed}" if sizes else
            "vmap: no argument has a batch axis; give at least one in in_axes"
        )  # fmt: skip
    return next(iter(sizes))


# -- Jacobians -----------------------------------------------------------------------------


def _basis(t: TensorType) -> Value:
    """All unit tensors of a type along a leading axis."""
    n = t.size
    row, column = (stage("iota", shape=(n, n), axis=axis, dtype=dtype_of("i64")) for axis in (0, 1))
    eye = stage("convert", stage("eq", row, column), dtype=t.dtype)
    unit: Tracer = stage("reshape", eye, shape=(n, *t.shape))
    return unit.value


def _real(name: str, outs: Sequence[Tracer]) -> None:
    for x in outs:
        if x._kind != "f":
            raise DifferentiationError(
                f"{name}: the result {x.value.type} has no derivative; return floating arrays only"
            )


def _blocks(
    argnums: int | Sequence[int], specs: Sequence[tree.Spec], inputs: Sequence[Sequence[Value]],
    out_spec: tree.Spec, rows: Sequence[Sequence[Tracer]],
) -> Any:  # fmt: skip
    """One block per output leaf and input leaf, as a tree of trees."""
    per_output = []
    for row in rows:
        cells = iter(row)
        trees = [
            tree.unflatten(spec, [next(cells) for _ in leaves])
            for spec, leaves in zip(specs, inputs, strict=True)
        ]
        per_output.append(trees[0] if isinstance(argnums, int) else tuple(trees))
    return tree.unflatten(out_spec, per_output)


@transform
def jacrev(f: Callback, argnums: int | Sequence[int] = 0) -> Function:
    """The Jacobian row by row, from pull-backs: best for fewer outputs than inputs.

    One block of shape ``out.shape + in.shape`` per leaf of the result and of the arguments.
    """

    def body(*args: Any, **kwargs: Any) -> Any:
        with Trace(getattr(f, "__name__", "f")) as inner:
            result, specs, inputs = call_on_inputs("jacrev", f, argnums, args, kwargs)
            flat = [v for leaves in inputs for v in leaves]
            outs, out_spec = floating_leaves(result)
            _real("jacrev", outs)
            params = [inner.parameter(x.value.type).value for x in outs]
            pulled = [
                [g.value for g in filled(pull_back(inner.builder, [x.value], [p], flat), flat)]
                for x, p in zip(outs, params, strict=True)
            ]
        rows = []
        for x, p, grads in zip(outs, params, pulled, strict=True):
            t = x._value.type
            blocks = _batched(inner, [p], [_basis(t)], grads, t.size)
            rows.append([
                stage("reshape", b, shape=(*t.shape, *v.shape))
                for b, v in zip(blocks, flat, strict=True)
            ])  # fmt: skip
        return _blocks(argnums, specs, inputs, out_spec, rows)

    return Function(body, f, derivative=True)


@transform
def jacfwd(f: Callback, argnums: int | Sequence[int] = 0) -> Function:
    """The Jacobian column by column, from tangents: best for fewer inputs than outputs.

    One block of shape ``out.shape + in.shape`` per leaf of the result and of the arguments.
    """

    def body(*args: Any, **kwargs: Any) -> Any:
        with Trace(getattr(f, "__name__", "f")) as inner:
            builder = inner.builder
            result, specs, inputs = call_on_inputs("jacfwd", f, argnums, args, kwargs)
            flat = [v for leaves in inputs for v in leaves]
            outs, out_spec = floating_leaves(result)
            _real("jacfwd", outs)
            values = [x.value for x in outs]
            seeds = [builder.emit("identity", builder.constant(0, v.type)) for v in values]
            bars = pull_back(builder, values, seeds, flat)
            params = [inner.parameter(v.type).value for v in flat]
            pushed = [
                [t.value for t in filled(pull_back(builder, [bar], [p], seeds), values)]
                if bar is not None else [builder.constant(0, v.type) for v in values]
                for bar, p in zip(bars, params, strict=True)
            ]  # fmt: skip
        columns = []
        for v, p, tangents in zip(flat, params, pushed, strict=True):
            blocks = _batched(inner, [p], [_basis(v.type)], tangents, v.type.size)
            columns.append([_columns(b, v) for b in blocks])
        rows = [list(row) for row in zip(*columns, strict=True)]
        return _blocks(argnums, specs, inputs, out_spec, rows)

    return Function(body, f, derivative=True)


def _columns(block: Tracer, v: Value) -> Tracer:
    """``(n, *out)`` to ``(*out, *in)``."""
    last = stage("transpose", block, axes=(*range(1, block.ndim), 0))
    result: Tracer = stage("reshape", last, shape=(*block.shape[1:], *v.shape))
    return result


jacobian: Callable[..., Any] = jacrev
"""The Jacobian, by pull-backs."""


@transform
def hessian(f: Callback, argnums: int | Sequence[int] = 0) -> Function:
    """Second derivatives of ``f``: tangents of its pull-backs."""
    second = jacfwd(jacrev(f, argnums), argnums)
    return Function(second.body, f, derivative=True)
