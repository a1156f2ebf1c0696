"""Attention: weighted means of values, by how well keys answer queries.

A. Vaswani et al., "Attention is all you need" (2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError
from symgrad.nn.faces import FitError, for_tensors
from symgrad.nn.functions.dropout import kept, random_key
from symgrad.nn.functions.linear import linear
from symgrad.tensors import Tensor
from symgrad.tensors.softmax import softmax
from symgrad.tracing import emit

Array = Any


def _dropout_key(p: float, like: Array) -> Any:
    """The key for dropping out weights; ``None`` if none are."""
    if p == 0:
        return None
    return Tensor.of_array(random_key()) if isinstance(like, Tensor) else random_key()


def _product(x: Array, y: Array, axis: int) -> Array:
    """``x[..., l, d]`` times ``y`` over the axis ``axis`` of ``y``, batched over the others."""
    lead = tuple(range(x.ndim - 2))
    return emit(
        "dot_general", x, y, lhs_contract=(x.ndim - 1,), rhs_contract=(axis % y.ndim,),
        lhs_batch=lead, rhs_batch=lead,
    )  # fmt: skip


def _weights(query: Array, key: Array, masks: tuple[Array | None, ...], causal: bool) -> Array:
    """``softmax(query key^T)`` for ``[..., L, D]`` and ``[..., S, D]``.

    Boolean masks say which keys take part, others are added.  A query without any key gets
    weights 0.
    """
    scores = _product(query, key, -1)
    allowed = None
    if causal:
        rows, columns = scores.shape[-2:]
        allowed = snp.expand_dims(snp.arange(rows), 1) >= snp.arange(columns)
    for mask in masks:
        if mask is None:
            continue
        if mask.dtype.kind == "b":
            allowed = mask if allowed is None else allowed & mask
        else:
            scores = scores + mask
    if allowed is None:
        return softmax(scores, -1)
    allowed = snp.broadcast_to(allowed, scores.shape)
    weights = softmax(snp.where(allowed, scores, float(np.finfo(scores.dtype).min) / 2), -1)
    return snp.where(allowed, weights, weights * 0)


def _one_mask(masks: Sequence[Array | None], shape: tuple[int, ...], dtype: Any) -> list[Array]:
    """The masks of ``_weights`` as at most one, over all scores."""
    allowed, bias = None, None
    for mask in masks:
        if mask is None:
            continue
        if mask.dtype.kind == "b":
            allowed = mask if allowed is None else allowed & mask
        else:
            bias = mask if bias is None else bias + mask
    if bias is None:
        return [] if allowed is None else [snp.broadcast_to(allowed, shape)]
    if allowed is not None:
        bias = snp.where(allowed, bias, -math.inf)
    return [snp.broadcast_to(bias, shape).astype(dtype)]


def _attend(
    query: Array, key: Array, value: Array, masks: Sequence[Array | None], causal: bool,
    scale: float,
) -> Array:  # fmt: skip
    """``softmax(scale query key^T + masks) value``; the scores are no array."""
    shape = (*query.shape[:-1], key.shape[-2])
    mask = _one_mask(masks, shape, query.dtype)
    mixed, _ = emit("attention", query, key, value, *mask, scale=float(scale), causal=bool(causal))
    return mixed


@for_tensors("ScaledDotProductFlashAttentionForCpuBackward0")
def _attention(
    query: Array, key: Array, value: Array, mask: Array | None, dropout_key: Array | None,
    dropout_p: float, causal: bool, scale: float, repeats: int,
) -> Array:  # fmt: skip
    if repeats > 1:
        key, value = (snp.repeat(x, repeats, axis=-3) for x in (key, value))
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (snp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (query, key, value))
    if dropout_key is None:
        return _attend(query, key, value, (mask,), causal, scale)
    weights = _weights(query * scale, key, (mask,), causal)
    weights = weights * kept(dropout_key, dropout_p, weights.shape, weights.dtype)
    return _product(weights, value, -2)


def scaled_dot_product_attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:  # fmt: skip
    """``softmax(scale query key^T + mask) value`` for ``[..., L, D]``, ``[..., S, D]``.

    A boolean ``attn_mask`` says which keys take part, another is added.  ``is_causal`` lets
    query i see the keys up to i.  ``scale`` is ``1 / sqrt(D)`` unless given; with
    ``enable_gqa`` several heads of the query share one of key and value.
    """
    if is_causal and attn_mask is not None:
        raise FitError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when "
            "is_causal=True"
        )
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise FitError(
            f"scaled_dot_product_attention: query {list(query.shape)}, key {list(key.shape)} and "
            f"value {list(value.shape)} do not fit; they must be [..., L, D], [..., S, D], "
            "[..., S, E]"
        )
    repeats = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return _attention(
        query, key, value, attn_mask, _dropout_key(dropout_p, query), dropout_p, is_causal, factor,
        repeats,
    )  # fmt: skip


# -- several heads -------------------------------------------------------------------------


@for_tensors("TransposeBackward0")
def _heads(x: Array, weight: Array, bias: Array | None, heads: int, batch_first: bool) -> Array:
    """``linear``, cut into heads: ``[N, heads, L, E / heads]``."""
    y = linear(x, weight, bias)
    cut = snp.reshape(y, (*y.shape[:2], heads, -1))
    return snp.transpose(cut, (0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


@for_tensors("SplitBackward0", saves=("x", "weight", "bias"))
def _packed_heads(
    x: Array, weight: Array, bias: Array | None, heads: int, batch_first: bool, part: int
) -> Array:
    size = weight.shape[0] // 3
    rows = slice(part * size, (part + 1) * size)
    return _heads(x, weight[rows], None if bias is None else bias[rows], heads, batch_first)


@for_tensors("CatBackward0")
def _with_more_keys(x: Array, bias: Array | None, zero: bool) -> Array:
    """``[N, heads, S, D]`` with a learned key (or value) and a zero one after the others."""
    n, heads, _, size = x.shape
    parts = [x]
    if bias is not None:
        row = snp.reshape(bias, (1, heads, 1, size))
        parts.append(snp.broadcast_to(row, (n, heads, 1, size)))
    if zero:
        parts.append(snp.zeros((n, heads, 1, size), dtype=x.dtype))
    return snp.concatenate(parts, axis=2)


def _head_masks(
    query: Array, key: Array, attn_mask: Array | None, padding_mask: Array | None
) -> list[Array]:
    """Masks as ``_weights`` takes them, over ``[N, heads, L, S]`` or shapes that widen to it."""
    n, heads, length, _ = query.shape
    extra = key.shape[2] - next(
        (m.shape[-1] for m in (attn_mask, padding_mask) if m is not None), key.shape[2]
    )
    masks = []
    if attn_mask is not None:
        shape = (n, heads, length, -1) if attn_mask.ndim == 3 else (1, 1, length, -1)
        masks.append(snp.reshape(attn_mask, shape))
    if padding_mask is not None:
        masks.append(snp.reshape(padding_mask, (n, 1, 1, -1)))
    widened = [snp.pad(m, [*[(0, 0)] * 3, (0, extra)]) if extra else m for m in masks]
    return [snp.logical_not(m) if m.dtype.kind == "b" else m for m in widened]


@for_tensors("SoftmaxBackward0")
def _head_weights(
    query: Array, key: Array, attn_mask: Array | None, padding_mask: Array | None
) -> Array:
    masks = _head_masks(query, key, attn_mask, padding_mask)
    return _weights(query * (1 / math.sqrt(query.shape[-1])), key, tuple(masks), False)


@for_tensors("ScaledDotProductFlashAttentionForCpuBackward0")
def _heads_attend(
    query: Array, key: Array, value: Array, attn_mask: Array | None, padding_mask: Array | None
) -> Array:
    masks = _head_masks(query, key, attn_mask, padding_mask)
    return _attend(query, key, value, masks, False, 1 / math.sqrt(query.shape[-1]))


@for_tensors("MulBackward0")
def _thinned(weights: Array, key: Array, p: float) -> Array:
    return weights * kept(key, p, weights.shape, weights.dtype)


@for_tensors("UnsafeViewBackward0")
def _mixed(weights: Array, value: Array) -> Array:
    return _product(weights, value, -2)


@for_tensors("AddmmBackward0")
def _joined(mixed: Array, out_weight: Array, out_bias: Array | None, batch_first: bool) -> Array:
    ordered = snp.transpose(mixed, (0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    return linear(snp.reshape(ordered, (*ordered.shape[:2], -1)), out_weight, out_bias)


@for_tensors("MeanBackward1")
def _mean_over_heads(weights: Array) -> Array:
    return snp.mean(weights, axis=1)


@for_tensors("ViewBackward0")
def _axis_added(x: Array, axis: int) -> Array:
    return snp.expand_dims(x, axis)


@for_tensors("SqueezeBackward1")
def _axis_removed(x: Array, axis: int) -> Array:
    return snp.squeeze(x, axis=axis)


def multi_head_attention_forward(
    query: Array, key: Array, value: Array, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Array | None, in_proj_bias: Array | None, bias_k: Array | None,
    bias_v: Array | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Array,
    out_proj_bias: Array | None, training: bool = True, key_padding_mask: Array | None = None,
    need_weights: bool = True, attn_mask: Array | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Array | None = None,
    k_proj_weight: Array | None = None, v_proj_weight: Array | None = None, *,
    average_attn_weights: bool = True, is_causal: bool = False, batch_first: bool = False,
) -> tuple[Array, Array | None]:  # fmt: skip
    """Attention by several heads: ``(output, weights)``; ``[L, N, E]``, or ``[L, E]`` unbatched.

    Boolean masks say which keys are left out, others are added: ``attn_mask`` ``[L, S]`` or
    ``[N * heads, L, S]``, ``key_padding_mask`` ``[N, S]``.  The weights are the mean over heads
    unless told otherwise, ``None`` if not needed.
    """
    if query.shape[-1] != embed_dim_to_check:
        raise FitError(
            f"was expecting embedding dimension of {embed_dim_to_check}, but got {query.shape[-1]}"
        )
    batched = query.ndim == 3
    if not batched:
        same = query is key, key is value
        query = _axis_added(query, 1)
        key = query if same[0] else _axis_added(key, 1)
        value = key if same[1] else _axis_added(value, 1)
        if key_padding_mask is not None:
            key_padding_mask = _axis_added(key_padding_mask, 0)
    batch_first = batch_first and batched
    if is_causal and attn_mask is None:
        raise UsageError("Need attn_mask if specifying the is_causal hint.")
    if use_separate_proj_weight:
        size = embed_dim_to_check
        parts = [None] * 3
        if in_proj_bias is not None:
            parts = [in_proj_bias[i * size : (i + 1) * size] for i in range(3)]
        given = zip(
            (query, key, value), (q_proj_weight, k_proj_weight, v_proj_weight), parts, strict=True
        )
        q, k, v = (_heads(x, w, b, num_heads, batch_first) for x, w, b in given)
    else:
        q, k, v = (
            _packed_heads(x, in_proj_weight, in_proj_bias, num_heads, batch_first, part)
            for part, x in enumerate((query, key, value))
        )
    if bias_k is not None or add_zero_attn:
        k, v = _with_more_keys(k, bias_k, add_zero_attn), _with_more_keys(v, bias_v, add_zero_attn)
    shown = None
    if need_weights or (training and dropout_p):
        used = _head_weights(q, k, attn_mask, key_padding_mask)
        if training and dropout_p:
            used = _thinned(used, _dropout_key(dropout_p, query), dropout_p)
        mixed = _mixed(used, v)
        if need_weights:
            shown = _mean_over_heads(used) if average_attn_weights else used
    else:
        mixed = _heads_attend(q, k, v, attn_mask, key_padding_mask)
    output = _joined(mixed, out_proj_weight, out_proj_bias, batch_first)
    if not batched:
        output = _axis_removed(output, 1)
        shown = None if shown is None else _axis_removed(shown, 0)
    return output, shown
