"""Attention: means of values, weighted by how well keys answer queries.

``attention`` and its gradient are ops of their own so that the scores need not exist as
an array: the code generator makes and uses them block by block.  What the forward pass
leaves for the gradient is one number per query, the logarithm of the sum of exponentials
(T. Dao et al., "FlashAttention", 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value, insertion
from symgrad.ir.opdef import Array, OpDef, Sample, op
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import reduce as rd
from symgrad.ir.ops import shape as sh
from symgrad.ir.ops.linalg import dot_general
from symgrad.ir.ops.structural import identity
from symgrad.ir.types import DType, TensorType, bool_, f32, i32

FEW_QUERIES = 8
"""Below this the op is expanded: vectors run along the queries, and would be mostly empty."""

_PLAIN = {"scale": 0.5, "causal": False}
_SHAPES = ((2, 9, 3), (2, 5, 3), (2, 5, 4))
_SCORES = (2, 9, 5)
_MASKED = (None, None, None, bool_)
_GRAD_SHAPES = ((2, 9, 4), *_SHAPES, (2, 9), (2, 9))


def statistics_dtype(dtype: DType) -> DType:
    """What ``lse`` is kept in: f32 for half types."""
    return f32 if dtype.bytes < f32.bytes else dtype


@op(
    "attention",
    samples=[
        Sample(_SHAPES, _PLAIN),
        Sample(((10, 3), (12, 3), (12, 2)), {"scale": 0.5, "causal": True}),
        Sample((*_SHAPES, _SCORES), _PLAIN),
        Sample((*_SHAPES, _SCORES), _PLAIN, ((-2, 2),) * 3 + ((-1, 3),), _MASKED),
        Sample(((3, 2), (4, 2), (4, 2)), {"scale": 1.0, "causal": True}),
    ],
)
def attention(
    q: TensorType, k: TensorType, v: TensorType, *mask: TensorType, scale: float, causal: bool
) -> tuple[TensorType, TensorType]:
    """``softmax(scale q k^T + mask) v`` for ``q[..., L, D]``, ``k[..., S, D]``, ``v[..., S, E]``.

    A boolean ``mask[..., L, S]`` says which keys count, any other is added to the scores.
    With ``causal``, query i sees the keys up to i only.  A query without any key gives 0.
    The second result, ``lse[..., L]``, is the logarithm of the softmax's denominator, and
    infinity for a query without any key.
    """
    _check("attention", q, k, v, mask)
    statistics = TensorType(statistics_dtype(q.dtype), q.shape[:-1])
    return q.with_shape((*q.shape[:-1], v.shape[-1])), statistics


@op(
    "attention_grad",
    samples=[
        Sample(_GRAD_SHAPES, _PLAIN, ((-2, 2),) * 4 + ((1, 2), (-1, 1))),
        Sample(
            ((10, 2), (10, 3), (12, 3), (12, 2), (10,), (10,)), {"scale": 0.5, "causal": True},
            ((-2, 2),) * 4 + ((1, 2), (-1, 1)),
        ),
        Sample(
            (*_GRAD_SHAPES, _SCORES), _PLAIN, ((-2, 2),) * 4 + ((1, 2), (-1, 1), (-1, 3)),
            (*(None,) * 6, bool_),
        ),
        Sample(
            ((3, 2), (3, 2), (4, 2), (4, 2), (3,), (3,)), {"scale": 1.0, "causal": True},
            ((-2, 2),) * 4 + ((1, 2), (-1, 1)),
        ),
    ],
)  # fmt: skip
def attention_grad(
    ct: TensorType,
    q: TensorType,
    k: TensorType,
    v: TensorType,
    lse: TensorType,
    delta: TensorType,
    *mask: TensorType,
    scale: float,
    causal: bool,
) -> tuple[TensorType, TensorType, TensorType]:
    """Cotangents of ``q``, ``k`` and ``v`` of ``attention`` given that of its first result.

    With the weights ``p = exp(scale q k^T + mask - lse)`` and the scores' cotangent
    ``d = p (ct v^T - delta)`` they are ``scale d k``, ``scale d^T q`` and ``p^T ct``.
    ``delta[..., L]`` is the sum of ``ct`` times the result over its last axis.
    """
    _check("attention_grad", q, k, v, mask)
    statistics = TensorType(statistics_dtype(q.dtype), q.shape[:-1])
    if ct != q.with_shape((*q.shape[:-1], v.shape[-1])) or (lse, delta) != (statistics,) * 2:
        raise ShapeError(
            f"attention_grad: ct {ct}, lse {lse} and delta {delta} do not fit q {q} and v {v}"
        )
    return q, k, v


def _check(
    name: str, q: TensorType, k: TensorType, v: TensorType, mask: Sequence[TensorType]
) -> None:
    if q.dtype.kind != "f" or not q.dtype == k.dtype == v.dtype:
        raise DTypeError(f"{name}: operands must have one floating dtype, got {q}, {k}, {v}")
    fits = (
        min(q.rank, k.rank, v.rank) >= 2
        and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        and q.shape[-1] == k.shape[-1]
        and k.shape[-2] == v.shape[-2]
        and 0 not in k.shape[-2:]
    )
    if not fits:
        raise ShapeError(
            f"{name}: needs q[..., L, D], k[..., S, D], v[..., S, E] with a key, got {q}, {k}, {v}"
        )
    scores = (*q.shape[:-1], k.shape[-2])
    if len(mask) > 1 or any(m.shape != scores or m.dtype not in (bool_, q.dtype) for m in mask):
        listed = ", ".join(map(str, mask))
        raise ShapeError(
            f"{name}: the mask must be one array {scores} of bool or {q.dtype}, got {listed}"
        )


# -- NumPy references ------------------------------------------------------------------------


def _scores(q: Array, k: Array, mask: Sequence[Array], scale: float, causal: bool) -> Array:
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * q.dtype.type(scale)
    for m in mask:
        scores = np.where(m, scores, -np.inf) if m.dtype == bool else scores + m
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    return np.asarray(scores)


def _widened(*arrays: Array) -> list[Array]:
    wide = np.float32 if arrays[0].dtype.itemsize < 4 else arrays[0].dtype
    return [a if a.dtype == bool else a.astype(wide) for a in arrays]


@attention.evaluate
def _attention(
    q: Array, k: Array, v: Array, *mask: Array, scale: float, causal: bool
) -> tuple[Array, Array]:
    dtype = q.dtype
    q, k, v, *masks = _widened(q, k, v, *mask)
    scores = _scores(q, k, masks, scale, causal)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    result = np.matmul(weights, v) / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        lse = np.where(total == 0, np.inf, top + np.log(total))
    return result.astype(dtype), lse[..., 0].astype(q.dtype)


@attention_grad.evaluate
def _attention_grad(
    ct: Array, q: Array, k: Array, v: Array, lse: Array, delta: Array, *mask: Array,
    scale: float, causal: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    dtype = q.dtype
    ct, q, k, v, *masks = _widened(ct, q, k, v, *mask)
    weights = np.exp(_scores(q, k, masks, scale, causal) - lse[..., None])
    d = weights * (np.matmul(ct, np.swapaxes(v, -1, -2)) - delta[..., None]) * q.dtype.type(scale)
    turned = np.swapaxes(d, -1, -2), np.swapaxes(weights, -1, -2)
    results = np.matmul(d, k), np.matmul(turned[0], q), np.matmul(turned[1], ct)
    return results[0].astype(dtype), results[1].astype(dtype), results[2].astype(dtype)


# -- the same in basic ops ----------------------------------------------------------------------


def _product(x: Value, y: Value, x_axis: int, y_axis: int) -> Value:
    """Matrices multiplied over the given axes of each (-1 or -2), batched over the rest."""
    lead = tuple(range(x.rank - 2))
    result: Value = dot_general(
        x, y, lhs_contract=(x.rank + x_axis,), rhs_contract=(y.rank + y_axis,),
        lhs_batch=lead, rhs_batch=lead,
    )  # fmt: skip
    return result


def _per_query(y: Value, like: Value) -> Value:
    return rd.spread(y, like, (like.rank - 1,))


def _scores_formula(q: Value, k: Value, mask: Sequence[Value], scale: float, causal: bool) -> Value:
    scores = _product(q, k, -1, -1) * scale
    never = insertion.builder.constant(float("-inf"), scores.type)
    for m in mask:
        scores = ew.where(m, scores, never) if m.type.dtype == bool_ else scores + m
    if causal:
        rows, columns = (
            sh.iota(shape=scores.shape, axis=scores.rank - back, dtype=i32) for back in (2, 1)
        )
        scores = ew.where(ew.ge(rows, columns), scores, never)
    return scores


def _attention_formula(
    q: Value, k: Value, v: Value, *mask: Value, scale: float, causal: bool
) -> tuple[Value, Value]:
    dtype = q.type.dtype
    q, k, v, *masks = _in_statistics_dtype(q, k, v, *mask)
    scores = _scores_formula(q, k, masks, scale, causal)
    last = (scores.rank - 1,)
    top = insertion.builder.emit("stop_gradient", rd.reduce_max(scores, axes=last))
    top = ew.where(ew.isfinite(top), top, 0.0)
    weights = ew.exp(scores - _per_query(top, scores))
    total = rd.reduce_sum(weights, axes=last)
    nothing = ew.eq(total, insertion.builder.constant(0, total.type))
    safe = ew.where(nothing, 1.0, total)
    result = _product(weights, v, -1, -2)
    result = result / _per_query(safe, result)
    return _as(result, dtype), ew.where(nothing, float("inf"), top + ew.log(safe))


def _attention_grad_formula(
    ct: Value, q: Value, k: Value, v: Value, lse: Value, delta: Value, *mask: Value,
    scale: float, causal: bool,
) -> tuple[Value, Value, Value]:  # fmt: skip
    dtype = q.type.dtype
    ct, q, k, v, *masks = _in_statistics_dtype(ct, q, k, v, *mask)
    weights, d = _weights_and_cotangent(ct, q, k, v, lse, delta, masks, scale, causal)
    d = d * scale
    results = _product(d, k, -1, -2), _product(d, q, -2, -2), _product(weights, ct, -2, -2)
    return _as(results[0], dtype), _as(results[1], dtype), _as(results[2], dtype)


def _weights_and_cotangent(
    ct: Value, q: Value, k: Value, v: Value, lse: Value, delta: Value,
    mask: Sequence[Value], scale: float, causal: bool,
) -> tuple[Value, Value]:  # fmt: skip
    """The weights and the cotangent of the scores (after scale and mask)."""
    scores = _scores_formula(q, k, mask, scale, causal)
    weights = ew.exp(scores - _per_query(lse, scores))
    return weights, weights * (_product(ct, v, -1, -1) - _per_query(delta, scores))


def _in_statistics_dtype(*values: Value) -> list[Value]:
    wide = statistics_dtype(values[0].type.dtype)
    return [v if v.type.dtype == bool_ else _as(v, wide) for v in values]


def _as(value: Value, dtype: DType) -> Value:
    converted: Value = value if value.type.dtype == dtype else ew.convert(value, dtype=dtype)
    return converted


# -- derivatives, expansion, batching -------------------------------------------------------------


@attention.adjoint
def _attention_adjoint(
    cts: Sequence[Value | None],
    ys: Sequence[Value],
    q: Value,
    k: Value,
    v: Value,
    *mask: Value,
    scale: float,
    causal: bool,
) -> tuple[Value | None, ...]:
    y, lse = ys
    ct = insertion.builder.constant(0, y.type) if cts[0] is None else cts[0]
    wide_ct, wide_y = _in_statistics_dtype(ct, y)
    delta = rd.reduce_sum(wide_ct * wide_y, axes=(y.rank - 1,))
    if cts[1] is not None:  # lse grows with a score by its weight, as if ct v^T were 1 more
        delta = delta - cts[1]
    grads = attention_grad(ct, q, k, v, lse, delta, *mask, scale=scale, causal=causal)
    if not mask or mask[0].type.dtype == bool_:
        return (*grads, *(None for _ in mask))
    ct, q, k, v, bias = _in_statistics_dtype(ct, q, k, v, *mask)
    _, d = _weights_and_cotangent(ct, q, k, v, lse, delta, [bias], scale, causal)
    return (*grads, _as(d, mask[0].type.dtype))


@attention_grad.adjoint
def _attention_grad_adjoint(
    cts: Sequence[Value | None], ys: Sequence[Value], *operands: Value, scale: float, causal: bool
) -> list[Value | None]:
    from symgrad.ir.adjoint import pull_back
    from symgrad.ir.builder import Builder

    builder = insertion.builder
    assert isinstance(builder, Builder)
    # Derivatives of the gradient are rare: they go through the scores as arrays.
    inputs = [identity(v) for v in operands]
    results = _attention_grad_formula(*inputs, scale=scale, causal=causal)
    return pull_back(builder, results, cts, inputs)


def _expands(formula: Callable[..., Any], queries: int) -> Callable[..., Any]:
    """The formula where the operand number ``queries`` has few of them; otherwise ``None``."""

    def expansion(*operands: Value, **attrs: Any) -> Any:
        few = operands[queries].shape[-2] < FEW_QUERIES
        return formula(*operands, **attrs) if few else None

    return expansion


def _batches(definition: OpDef) -> None:
    definition.batch(
        lambda size, operands, batched, **attrs: definition(
            *sh.add_batch(size, operands, batched), **attrs
        )
    )


attention.expand(_expands(_attention_formula, 0))
attention_grad.expand(_expands(_attention_grad_formula, 1))
_batches(attention)
_batches(attention_grad)
