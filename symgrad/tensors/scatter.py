"""Elements and slices replaced or added up by position: the counterparts of reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.numpy import core
from symgrad.tensors.apply import NOTHING, apply
from symgrad.tensors.arithmetic import scaled
from symgrad.tensors.axes import one_axis
from symgrad.tensors.creation import full
from symgrad.tensors.elementwise import broadcast_shape, cast, declared, is_number
from symgrad.tensors.handle import Tensor
from symgrad.tensors.indexing import _key, _wrapped, check_positions, size_along
from symgrad.tensors.positions import flat, put_along
from symgrad.tracer import Tracer
from symgrad.tracing import stage


def _made(label: str, compute: Callable[..., Any], *operands: Any, saves: str = NOTHING) -> Tensor:
    shown = [x for x in operands if isinstance(x, Tensor) and x._kind == "f"]
    result: Tensor = apply(label, compute, operands, parents=shown, saves=saves)
    return result


def _fitting(index: Tensor, src: Tensor, input: Tensor, axis: int) -> None:
    """Checks the shapes of a scatter along an axis."""
    for a, (n, s, m) in enumerate(zip(index.shape, src.shape, input.shape, strict=False)):
        if n > s or (a != axis and n > m):
            raise RuntimeError(
                f"Expected index {list(index.shape)} to be no larger than self "
                f"{list(input.shape)} apart from dimension {axis} and to be no larger size than "
                f"src {list(src.shape)}"
            )


def _same_type(name: str, input: Tensor, src: Tensor) -> None:
    if input._dtype != src._dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")


def _corner(src: Tracer, shape: tuple[int, ...]) -> Any:
    """The part of a source that an index of a smaller shape uses."""
    if src.shape == shape:
        return src
    return stage("slice", src, start=(0,) * src.ndim, stop=shape, step=(1,) * src.ndim)


@declared
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None,
    reduce: str | None = None,
) -> Tensor:  # fmt: skip
    """A copy with elements along an axis replaced, added to or multiplied."""
    source = value if src is None else src
    if reduce is not None:
        kind = {"add": "sum", "multiply": "prod"}.get(reduce)
        if kind is None:
            raise RuntimeError("reduce argument must be either add or multiply.")
        if is_number(source):
            source = full(tuple(index.shape), source, dtype=input.dtype)
        return scatter_reduce(input, dim, index, source, kind)
    axis = one_axis(dim, input.ndim)
    check_positions(index, size_along(input, axis), axis, "scatter")
    if is_number(source) or not isinstance(source, Tensor):

        def fill(x: Tracer, i: Tracer) -> Any:
            new = core.broadcast(snp.array(source, dtype=x.dtype), i.shape)
            return put_along(x, i, new, axis)

        return _made("ScatterBackward1", fill, input, index)
    _same_type("scatter", input, source)
    _fitting(index, source, input, axis)

    def compute(x: Tracer, i: Tracer, new: Tracer) -> Any:
        return put_along(x, i, _corner(new, i.shape), axis)

    return _made("ScatterBackward0", compute, input, index, source)


@declared
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy with ``src`` added at positions along an axis."""
    axis = one_axis(dim, input.ndim)
    _same_type("scatter", input, src)
    check_positions(index, size_along(input, axis), axis, "scatter_add")
    _fitting(index, src, input, axis)

    def compute(x: Tracer, i: Tracer, new: Tracer) -> Any:
        return put_along(x, i, _corner(new, i.shape), axis, "scatter_add")

    return _made("ScatterAddBackward0", compute, input, index, src)


@declared
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *,
    include_self: bool = True,
) -> Tensor:  # fmt: skip
    """A copy with elements along an axis combined with those sent to them."""
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(
            "reduce argument must be either sum, prod, mean, amax or amin, got " + str(reduce)
        )
    axis = one_axis(dim, input.ndim)
    _same_type("scatter", input, src)
    check_positions(index, size_along(input, axis), axis, "scatter_reduce")
    _fitting(index, src, input, axis)

    def compute(x: Tracer, i: Tracer, new: Tracer) -> Any:
        dtype, new = x.dtype, _corner(new, i.shape)
        if dtype.kind == "b":
            x, new = cast(x, np.dtype(np.int64)), cast(new, np.dtype(np.int64))
        if reduce in ("sum", "mean"):
            result = _added(x, i, new, axis, include_self, mean=reduce == "mean")
        else:
            result = _combined(x, i, new, axis, include_self, reduce)
        return cast(result, dtype)

    return _made("ScatterReduceBackward0", compute, input, index, src, saves="inputs")


def _sent(x: Tracer, i: Tracer, axis: int) -> Any:
    """How many elements are sent to each place."""
    ones = snp.ones(i.shape, np.int64)
    zeros = cast(x, np.dtype(np.int64)) * 0
    return put_along(zeros, i, snp.array(ones), axis, "scatter_add")


def _added(x: Tracer, i: Tracer, new: Tracer, axis: int, own: bool, *, mean: bool) -> Any:
    counts = _sent(x, i, axis)
    start = x if own else snp.where(counts > 0, snp.array(0, dtype=x.dtype), x)
    total = put_along(start, i, new, axis, "scatter_add")
    if not mean:
        return total
    number = counts + 1 if own else snp.maximum(counts, 1)
    return total / cast(number, x.dtype) if x._kind == "f" else total // number


def _combined(x: Tracer, i: Tracer, new: Tracer, axis: int, own: bool, reduce: str) -> Any:
    """Every pair of a place and a source along the axis is compared: exact, any order."""
    at = snp.moveaxis(x, axis, -1)
    for a in range(x.ndim):  # the index may be smaller than the array: pad it with -1
        if a != axis and i.shape[a] < x.shape[a]:
            high = tuple(x.shape[b] - i.shape[b] if b == a else 0 for b in range(x.ndim))
            none = (0,) * x.ndim
            i = stage("pad", i, low=none, high=high, interior=none, value=-1)
            new = stage("pad", new, low=none, high=high, interior=none, value=0)
    i, new = (snp.moveaxis(v, axis, -1) for v in (i, new))
    places = np.arange(at.shape[-1]).reshape(-1, 1)
    hits = snp.expand_dims(i, -2) == places
    neutral: Any = {"prod": 1, "amax": -np.inf, "amin": np.inf}[reduce]
    if x.dtype.kind in "iu" and reduce != "prod":
        info = np.iinfo(x.dtype)
        neutral = info.min if reduce == "amax" else info.max
    fill = snp.array(neutral, dtype=x.dtype)
    sources = snp.where(hits, snp.expand_dims(new, -2), fill)
    first = snp.expand_dims(at, -1)
    if not own:
        first = snp.where(snp.any(hits, axis=-1, keepdims=True), fill, first)
    every = snp.concatenate([first, sources], -1)
    if reduce == "prod":
        result = snp.prod(every, axis=-1, dtype=x.dtype)
    else:
        result = stage("reduce_max" if reduce == "amax" else "reduce_min", every,
                       axes=(every.ndim - 1,), ties="split")  # fmt: skip
    return snp.copy(snp.moveaxis(result, -1, axis))


# -- slices --------------------------------------------------------------------------------


def _by_slices(op: str, axis: int) -> Callable[[Tracer, Tracer, Tracer], Any]:
    def compute(x: Tracer, i: Tracer, new: Tracer) -> Any:
        if not x.ndim:
            x, new = core.reshape(x, (1,)), core.reshape(new, (1,))
            return core.reshape(compute(x, i, new), ())
        front = core.transposed(new, [axis, *(a for a in range(x.ndim) if a != axis)])
        return stage(op, x, front, cast(core.reshape(i, (i.size,)), np.int64), axes=(axis,))

    return compute


@declared
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """A copy with slices of ``source`` added to the slices that ``index`` numbers."""
    axis = one_axis(dim, input.ndim)
    if input._dtype != source._dtype:
        raise RuntimeError(
            f"index_add_(): self ({input.dtype.scalar_name}) and source "
            f"({source.dtype.scalar_name}) must have the same scalar type"
        )
    check_positions(index, size_along(input, axis), axis, "index_add")
    added = scaled(input, source, alpha)
    return _made("IndexAddBackward0", _by_slices("scatter_add", axis), input, index, added)


@declared
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy with the slices that ``index`` numbers replaced."""
    axis = one_axis(dim, input.ndim)
    if input._dtype != source._dtype:
        raise RuntimeError(
            "index_copy_(): self and source expected to have the same dtype, but got (self) "
            f"{input.dtype.scalar_name} and (source) {source.dtype.scalar_name}"
        )
    check_positions(index, size_along(input, axis), axis, "index_copy")
    return _made("IndexCopyBackward0", _by_slices("scatter", axis), input, index, source)


@declared
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy with one number in the slices that ``index`` numbers."""
    axis = one_axis(dim, input.ndim)
    places = _wrapped(index, size_along(input, axis), "index_fill")
    fill = _by_slices("scatter", axis)

    def compute(x: Tracer, i: Tracer, *v: Tracer) -> Any:
        shape = tuple(i.size if a == axis else n for a, n in enumerate(x.shape))
        new = cast(v[0], x.dtype) if v else snp.array(value, dtype=x.dtype)
        return fill(x, i, core.broadcast(new, shape))

    extra = (value,) if isinstance(value, Tensor) else ()
    return _made(f"IndexFillBackward{len(extra)}", compute, input, places, *extra)


@declared
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy with ``values`` put at, or added to, the elements an index chooses."""
    plain, _, _ = _key(input, tuple(indices))

    def compute(x: Tracer, new: Tracer) -> Any:
        numbers = np.arange(x.size).reshape(x.shape)[plain]
        places = np.ascontiguousarray(numbers.reshape(-1))
        spread = flat(core.broadcast(cast(new, x.dtype), numbers.shape))
        op = "scatter_add" if accumulate else "scatter"
        return core.reshape(stage(op, flat(x), spread, places, axes=(0,)), x.shape)

    return _made("IndexPutBackward0", compute, input, values)


@declared
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """A copy with elements of the flattened tensor replaced or added to."""
    places = _wrapped(index, input.numel(), "put_")
    if index.numel() != source.numel():
        raise RuntimeError(
            "put_(): Expected source and index to have the same number of elements, but got "
            f"source.numel() = {source.numel()}, index.numel() = {index.numel()}"
        )

    def compute(x: Tracer, i: Tracer, new: Tracer) -> Any:
        op = "scatter_add" if accumulate else "scatter"
        return core.reshape(stage(op, flat(x), flat(new), flat(i), axes=(0,)), x.shape)

    return _made("PutBackward0", compute, input, places, source)


@declared
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy with the elements where a mask holds replaced by those of ``source`` in turn."""
    if input._dtype != source._dtype:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{input.dtype.scalar_name} and {source.dtype.scalar_name}"
        )
    shape = broadcast_shape(input._tracer.shape, mask._tracer.shape)
    places = np.flatnonzero(np.broadcast_to(mask._array(), shape))
    if places.size > source.numel():
        raise RuntimeError("masked_scatter: expected at least as many source elements as mask ones")

    def compute(x: Tracer, new: Tracer) -> Any:
        wide = core.broadcast(x, shape)
        used = core.sliced(flat(new), 0, 0, places.size)
        return core.reshape(stage("scatter", flat(wide), used, places, axes=(0,)), shape)

    return _made("MaskedScatterBackward0", compute, input, source)
