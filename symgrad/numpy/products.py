"""Products of arrays: every one is a contraction of two labelled operands.

``contract`` turns labels as einsum writes them into ``dot_general``: labels of one
operand alone are summed first, shared ones are batch axes if the result has them and
contracted if not.  ``matmul``, ``dot``, ``tensordot``, ``outer`` and ``einsum`` only
choose labels.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import ShapeError, UnsupportedError
from symgrad.numpy.core import (
    astype,
    broadcast,
    implements,
    one_axis,
    refuse,
    reshape,
    result_type,
    transposed,
    types_text,
)
from symgrad.tracer import Tracer
from symgrad.tracing import stage

Labels = Sequence[int]


def contract(x: Tracer, xs: Labels, y: Tracer, ys: Labels, out: Labels) -> Tracer:
    """The sum of products over all labels that ``out`` leaves away.

    ``xs``, ``ys`` and ``out`` label the axes; equal labels have equal sizes.
    """
    if x.dtype.kind == "b":  # counts round, but never to 0; products of floats are the fastest
        counts = contract(astype(x, np.float32), xs, astype(y, np.float32), ys, out)
        return astype(counts, bool)
    x, xs = _simplified(x, xs, {*ys, *out})
    y, ys = _simplified(y, ys, {*xs, *out})
    shared = [k for k in xs if k in ys]
    batch = [k for k in shared if k in out]
    summed = [k for k in shared if k not in out]
    labels = [*batch, *(k for k in xs if k not in shared), *(k for k in ys if k not in shared)]
    if summed:
        product = stage(
            "dot_general", x, y,
            lhs_contract=tuple(xs.index(k) for k in summed),
            rhs_contract=tuple(ys.index(k) for k in summed),
            lhs_batch=tuple(xs.index(k) for k in batch),
            rhs_batch=tuple(ys.index(k) for k in batch),
        )  # fmt: skip
        return transposed(product, [labels.index(k) for k in out])
    return _along(x, xs, y, ys, out) * _along(y, ys, x, xs, out)


def _along(x: Tracer, xs: list[int], other: Tracer, others: list[int], out: Labels) -> Tracer:
    """``x`` laid along the labels of the result, as one factor of a pointwise product."""
    order = sorted(range(x.ndim), key=lambda a: out.index(xs[a]))
    ordered = transposed(x, order)
    sizes = dict(zip(others, other.shape, strict=True)) | dict(zip(xs, x.shape, strict=True))
    result: Tracer = stage(
        "broadcast_to", ordered, shape=tuple(sizes[k] for k in out),
        axes=tuple(out.index(xs[a]) for a in order),
    )  # fmt: skip
    return result


def _simplified(x: Tracer, labels: Labels, needed: set[int]) -> tuple[Tracer, list[int]]:
    """Takes diagonals of repeated labels and sums over those nobody else needs."""
    names = list(labels)
    for label in dict.fromkeys(k for k in names if names.count(k) > 1):
        while names.count(label) > 1:
            i = names.index(label)
            j = names.index(label, i + 1)
            x = HANDLERS[np.diagonal](x, 0, i, j)
            names = [k for a, k in enumerate(names) if a not in (i, j)] + [label]
    alone = tuple(a for a, k in enumerate(names) if k not in needed)
    if alone:
        x = stage("reduce_sum", x, axes=alone)
        names = [k for k in names if k in needed]
    return x, names


def _pair(*operands: Any, dtype: Any = None) -> list[Tracer]:
    dtype = result_type(*operands) if dtype is None else dtype
    return [astype(x, dtype) for x in operands]


@implements(np.matmul)
def matmul(x1: Any, x2: Any, dtype: Any = None, casting: Any = None) -> Tracer:
    """Products of the matrices in the last two axes, the others broadcasting."""
    refuse("matmul", casting=casting)
    x, y = _pair(x1, x2, dtype=dtype)
    if not x.ndim or not y.ndim:
        raise ShapeError(f"matmul: 0-d operands are not allowed, got {types_text((x, y))}; use *")
    inner = x.shape[-1], y.shape[-2 if y.ndim > 1 else 0]
    if inner[0] != inner[1]:
        hint = _transposition_hint(x, y)
        raise ShapeError(f"matmul: inner sizes differ, got {x._value.type} @ {y._value.type}{hint}")
    rank = max(x.ndim, y.ndim, 2) - 2  # batch labels 0 ... rank-1, rows -1, columns -2, inner -3
    xs = [*range(rank - max(x.ndim - 2, 0), rank), -1, -3] if x.ndim > 1 else [-3]
    ys = [*range(rank - max(y.ndim - 2, 0), rank), -3, -2] if y.ndim > 1 else [-3]
    out = [*range(rank), *([-1] if x.ndim > 1 else []), *([-2] if y.ndim > 1 else [])]
    return _contract_stretched("matmul", x, xs, y, ys, out)


def _transposition_hint(x: Tracer, y: Tracer) -> str:
    if x.ndim == y.ndim == 2:
        if x.shape[0] == y.shape[0]:
            return "; did you mean x.T @ y?"
        if x.shape[1] == y.shape[1]:
            return "; did you mean x @ y.T?"
    return "; the last axis of the first must match the last but one of the second"


def _contract_stretched(
    name: str, x: Tracer, xs: list[int], y: Tracer, ys: list[int], out: list[int]
) -> Tracer:
    """``contract`` where an axis of size 1 stretches to its partner's size."""
    sizes: dict[int, int] = {}
    for operand, labels in ((x, xs), (y, ys)):
        for k, n in zip(labels, operand.shape, strict=True):
            if sizes.get(k, 1) != 1 and n not in (1, sizes[k]):
                raise ShapeError(
                    f"{name}: sizes {sizes[k]} and {n} do not match, got {types_text((x, y))}"
                )
            sizes[k] = n if sizes.get(k, 1) == 1 else sizes[k]
    (x, xs), (y, ys) = (_unstretched(v, labels, sizes) for v, labels in ((x, xs), (y, ys)))
    missing = [k for k in out if k not in xs and k not in ys]
    result = contract(x, xs, y, ys, [k for k in out if k not in missing])
    return reshape(result, [sizes[k] for k in out]) if missing else result


def _unstretched(x: Tracer, labels: list[int], sizes: dict[int, int]) -> tuple[Tracer, list[int]]:
    """Without the axes of size 1 that stand for a larger one."""
    kept = [a for a, k in enumerate(labels) if x.shape[a] == sizes[k]]
    return reshape(x, [x.shape[a] for a in kept]), [labels[a] for a in kept]


@implements(np.dot)
def dot(a: Any, b: Any) -> Tracer:
    """Sum over the last axis of ``a`` and the last but one of ``b``."""
    x, y = _pair(a, b)
    if not x.ndim or not y.ndim:
        return x * y
    at = max(y.ndim - 2, 0)
    if x.shape[-1] != y.shape[at]:
        hint = _transposition_hint(x, y)
        raise ShapeError(f"dot: inner sizes differ, got {types_text((x, y))}{hint}")
    return tensordot(x, y, ((x.ndim - 1,), (at,)))


@implements(np.vdot)
def vdot(a: Any, b: Any) -> Tracer:
    """The inner product of all elements."""
    return dot(HANDLERS[np.ravel](a), HANDLERS[np.ravel](b))


@implements(np.inner)
def inner(a: Any, b: Any) -> Tracer:
    """Sum over the last axes of both."""
    x, y = _pair(a, b)
    if not x.ndim or not y.ndim:
        return x * y
    return tensordot(x, y, ((x.ndim - 1,), (y.ndim - 1,)))


@implements(np.outer, np.linalg.outer)
def outer(a: Any, b: Any) -> Tracer:
    """All products of one element of each."""
    x, y = (HANDLERS[np.ravel](v) for v in _pair(a, b))
    return contract(x, [0], y, [1], [0, 1])


@implements(np.tensordot, np.linalg.tensordot)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Tracer:
    """Sum over pairs of axes; a number takes the last of ``a`` with the first of ``b``."""
    x, y = _pair(a, b)
    if isinstance(axes, (int, np.integer)):
        axes = (range(x.ndim - int(axes), x.ndim), range(int(axes)))
    left, right = ([v] if isinstance(v, (int, np.integer)) else list(v) for v in axes)
    left = [one_axis("tensordot", i, x) for i in left]
    right = [one_axis("tensordot", i, y) for i in right]
    if len(left) != len(right) or any(
        x.shape[i] != y.shape[j] for i, j in zip(left, right, strict=False)
    ):
        raise ShapeError(
            f"tensordot: axes {tuple(left)} of {x._value.type} do not match axes {tuple(right)} of "
            f"{y._value.type}"
        )
    ys = [x.ndim + i for i in range(y.ndim)]
    for i, j in zip(left, right, strict=True):
        ys[j] = i
    out = [*(i for i in range(x.ndim) if i not in left), *(k for k in ys if k >= x.ndim)]
    return contract(x, list(range(x.ndim)), y, ys, out)


@implements(np.vecdot, np.linalg.vecdot)
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Tracer:
    """Inner products along an axis, the others broadcasting."""
    x, y = (HANDLERS[np.moveaxis](v, axis, -1) for v in _pair(x1, x2))
    rank = max(x.ndim, y.ndim)
    xs, ys = (list(range(rank - v.ndim, rank)) for v in (x, y))
    return _contract_stretched("vecdot", x, xs, y, ys, list(range(rank - 1)))


@implements(np.kron)
def kron(a: Any, b: Any) -> Tracer:
    """The Kronecker product."""
    x, y = _pair(a, b)
    rank = max(x.ndim, y.ndim)
    x, y = (reshape(v, (1,) * (rank - v.ndim) + v.shape) for v in (x, y))
    xs, ys = list(range(0, 2 * rank, 2)), list(range(1, 2 * rank, 2))
    product = contract(x, xs, y, ys, list(range(2 * rank)))
    return reshape(product, [n * m for n, m in zip(x.shape, y.shape, strict=True)])


@implements(np.cross, np.linalg.cross)
def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: Any = None
) -> Tracer:
    """The vector product of 3-vectors."""
    if axis is not None:
        axisa = axisb = axisc = axis
    x = HANDLERS[np.moveaxis](_pair(a, b)[0], axisa, -1)
    y = HANDLERS[np.moveaxis](_pair(a, b)[1], axisb, -1)
    if x.shape[-1] != 3 or y.shape[-1] != 3:
        raise ShapeError(f"cross: needs vectors of 3 elements, got {types_text((x, y))}")
    (a0, a1, a2), (b0, b1, b2) = ([v[..., i] for i in range(3)] for v in (x, y))
    parts = [a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0]
    result: Tracer = HANDLERS[np.moveaxis](HANDLERS[np.stack](parts, -1), -1, axisc)
    return result


@implements(np.convolve)
def convolve(a: Any, v: Any, mode: str = "full") -> Tracer:
    """The discrete convolution of two sequences."""
    return _correlated(a, v, mode, flip=True)


@implements(np.correlate)
def correlate(a: Any, v: Any, mode: str = "valid") -> Tracer:
    """The sliding inner product of two sequences."""
    return _correlated(a, v, mode, flip=False)


def _correlated(a: Any, v: Any, mode: str, *, flip: bool) -> Tracer:
    x, w = _pair(a, v)
    swap = w.size > x.size
    if swap:
        x, w = w, x
    n = w.size
    padding = {"full": (n - 1, n - 1), "same": (n // 2, (n - 1) // 2), "valid": (0, 0)}
    if mode not in padding:
        raise UnsupportedError(f"convolve: mode={mode!r} is unknown; use full, same or valid")
    if flip:
        w = HANDLERS[np.flip](w)
    x, w = reshape(x, (1, 1, 1, x.size)), reshape(w, (1, 1, 1, n))
    one = {"stride": (1, 1), "dilation": (1, 1), "lhs_dilation": (1, 1)}
    y = stage("conv", x, w, padding=((0, 0), padding[mode]), **one)
    line = reshape(y, (y.size,))
    result: Tracer = HANDLERS[np.flip](line) if swap and not flip else line
    return result


# -- einsum --------------------------------------------------------------------------------


@implements(np.einsum)
def einsum(
    *operands: Any, optimize: Any = True, dtype: Any = None, casting: Any = None, order: Any = None
) -> Tracer:
    """Sums of products as the subscripts say, contracted pair by pair along a greedy path."""
    refuse("einsum", casting=None if casting == "safe" else casting)
    subscripts, raw = _parse_operands(operands)
    common = result_type(*raw) if dtype is None else dtype
    arrays = [astype(x, common) for x in raw]
    inputs, out = _parse(subscripts, arrays)
    _check_sizes(subscripts, inputs, arrays)
    items = list(zip(arrays, inputs, strict=True))
    for chosen in _path(items, out):
        picked = [items[i] for i in chosen]
        items = [item for i, item in enumerate(items) if i not in chosen]
        needed = {*out, *(k for _, labels in items for k in labels)}
        while len(picked) > 1:
            (x, xs), (y, ys) = picked[:2]
            later = needed | {k for _, labels in picked[2:] for k in labels}
            keep = [k for k in dict.fromkeys([*xs, *ys]) if k in later]
            if not items and len(picked) == 2:
                keep = out
            picked[:2] = [(contract(x, xs, y, ys, keep), keep)]
        items.append(picked[0])
    ((result, labels),) = items
    result, names = _simplified(result, labels, set(out))
    return transposed(result, [names.index(k) for k in out])


def _path(items: list[tuple[Tracer, list[int]]], out: list[int]) -> list[tuple[int, ...]]:
    """Which operands to contract, in order."""
    if len(items) < 2:
        return []
    if len(items) == 2:
        return [(0, 1)]
    number: dict[int, int] = {}
    interleaved: list[Any] = []
    for x, labels in items:
        small = [number.setdefault(k, len(number)) for k in labels]
        interleaved += [np.broadcast_to(0.0, x.shape), small]
    path = np.einsum_path(*interleaved, [number[k] for k in out], optimize="greedy")[0]
    return [tuple(step) for step in path[1:]]


def _parse_operands(operands: tuple[Any, ...]) -> tuple[str, list[Any]]:
    if isinstance(operands[0], str):
        return operands[0].replace(" ", ""), list(operands[1:])
    arrays, lists = list(operands[0::2]), list(operands[1::2])
    final = arrays.pop() if len(arrays) > len(lists) else None

    def text(labels: Any) -> str:
        return "".join("..." if k is Ellipsis else string.ascii_letters[k] for k in labels)

    subscripts = ",".join(map(text, lists))
    return (subscripts if final is None else f"{subscripts}->{text(final)}"), arrays


def _parse(subscripts: str, arrays: Sequence[Tracer]) -> tuple[list[list[int]], list[int]]:
    """Labels of every operand and of the result; axes of ``...`` get labels from 1000 on."""
    left, arrow, right = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) != len(arrays):
        raise ShapeError(f"einsum: {subscripts!r} names {len(terms)} operands, got {len(arrays)}")
    widest = 0
    inputs = []
    for term, x in zip(terms, arrays, strict=True):
        hidden = x.ndim - len(term.replace("...", "")) if "..." in term else 0
        if len(term.replace("...", "")) + hidden != x.ndim or hidden < 0:
            raise ShapeError(f"einsum: {term!r} does not fit {x._value.type}")
        widest = max(widest, hidden)
        inputs.append(_labels(term, hidden))
    if not arrow:
        flat = "".join(terms).replace("...", "")
        right = "..." + "".join(sorted(k for k in set(flat) if flat.count(k) == 1))
    out = _labels(right, widest if "..." in right else 0)
    if len(set(out)) < len(out) or any(all(k not in ks for ks in inputs) for k in out):
        raise ShapeError(f"einsum: the result labels of {subscripts!r} must be distinct inputs")
    return inputs, out


def _labels(term: str, hidden: int) -> list[int]:
    before, dots, after = term.partition("...")
    middle = [1000 + hidden - 1 - i for i in range(hidden)] if dots else []
    return [*map(ord, before), *middle, *map(ord, after)]


def _check_sizes(subscripts: str, inputs: list[list[int]], arrays: list[Tracer]) -> None:
    sizes: dict[int, int] = {}
    for labels, x in zip(inputs, arrays, strict=True):
        for k, n in zip(labels, x.shape, strict=True):
            sizes[k] = max(n, sizes.get(k, n)) if 1 in (n, sizes.get(k, n)) else sizes.get(k, n)
            if n not in (1, sizes[k]):
                name = chr(k) if k < 1000 else "..."
                raise ShapeError(
                    f"einsum: label {name!r} of {subscripts!r} has sizes {sizes[k]} and {n}, got "
                    f"{types_text(arrays)}"
                )
    for position, (labels, x) in enumerate(zip(inputs, arrays, strict=True)):
        shape = tuple(sizes[k] for k in labels)
        if shape != x.shape:
            arrays[position] = broadcast(x, shape)
