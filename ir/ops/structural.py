"""Constants, identities, derivatives given by hand, and the fused scalar region."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from symgrad.ir.errors import DifferentiationError, ShapeError, UsageError, VerifyError
from symgrad.ir.graph import Region, Value
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.ops.shape import add_batch
from symgrad.ir.types import TensorType

REDUCERS = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}
"""The ways ``fused`` can combine the points of its space."""


@op("constant", differentiable=False)
def constant(*, value: Any, type: TensorType) -> TensorType:
    """One number for every element, or the elements in row-major order."""
    if isinstance(value, tuple) and len(value) != type.size:
        raise ShapeError(f"constant: {len(value)} elements for {type}")
    return type


@constant.evaluate
def _constant(*, value: Any, type: TensorType) -> Array:
    array = np.array(value, type.dtype.numpy)
    return array.reshape(type.shape) if array.ndim else np.full(type.shape, array)


@op("identity", samples=[Sample(((3, 4),))])
def identity(x: TensorType) -> TensorType:
    """A distinct name for the same value: what a derivative is taken by."""
    return x


identity.evaluate(lambda x: x)
identity.adjoint(lambda ct, y, x: (ct,))
identity.batch(lambda size, operands, batched: identity(*operands))


@op("stop_gradient", samples=[Sample(((3, 4),))], differentiable=False)
def stop_gradient(x: TensorType) -> TensorType:
    """The value without its derivative."""
    return x


stop_gradient.evaluate(lambda x: x)
stop_gradient.batch(lambda size, operands, batched: stop_gradient(*operands))


@op("straight_through", differentiable=(True, False))
def straight_through(x: TensorType, contents: TensorType) -> TensorType:
    """The second operand with the derivative of the first: what is left of a value whose memory
    was written to behind the graph's back.

    Y. Bengio, N. Léonard, A. Courville, "Estimating or propagating gradients through stochastic
    neurons" (2013).
    """
    if x != contents:
        raise ShapeError(f"straight_through: contents {contents} in place of {x}")
    return x


straight_through.evaluate(lambda x, contents: contents)
straight_through.adjoint(lambda ct, y, x, contents: (ct, None))
straight_through.batch(
    lambda size, operands, batched: straight_through(*add_batch(size, operands, batched))
)
straight_through.expand(lambda x, contents: identity(contents))


Pullback = Callable[[Sequence[Value | None]], Sequence[Value | None]]
"""From the cotangents of results to those of inputs."""
PULLBACKS: MutableMapping[Value, Pullback] = WeakKeyDictionary()
"""Derivatives given by hand, for the values that stand for them as operands of ``custom``."""


@op("custom", differentiable=(False, True))
def custom(key: TensorType, *operands: TensorType, count: int) -> tuple[TensorType, ...]:
    """The last ``count`` operands, with a derivative by those before that was given by hand.

    ``PULLBACKS`` has it under the value that is ``key``; what is in there has no meaning.
    """
    if not 0 < count <= len(operands):
        raise UsageError(f"custom: count={count} for {len(operands)} operands")
    return operands[len(operands) - count :]


@custom.evaluate
def _custom(key: Array, *operands: Array, count: int) -> Any:
    values = operands[len(operands) - count :]
    return values if count > 1 else values[0]


@custom.expand
def _custom_values(key: Value, *operands: Value, count: int) -> Any:
    values = operands[len(operands) - count :]
    return values if count > 1 else values[0]


@custom.adjoint
def _custom_adjoint(
    ct: Any, result: Any, key: Value, *operands: Value, count: int
) -> tuple[Value | None, ...]:
    pullback = PULLBACKS.get(key) if hasattr(key, "__weakref__") else None
    if pullback is None:
        raise DifferentiationError(
            "custom: the derivative given by hand is not part of this function; take it where "
            "the function was recorded"
        )
    parts = pullback(ct if count > 1 else (ct,))
    return (None, *parts, *(None,) * count)


@op("fused", differentiable=False)
def fused(
    *operands: TensorType,
    space: tuple[int, ...],
    maps: tuple[tuple[int, ...], ...],
    reduce: tuple[tuple[str, tuple[int, ...]] | None, ...],
    region: Region,
) -> tuple[TensorType, ...]:
    """A scalar program run at every point of an iteration space.

    ``maps[i]`` tells which axis of the space each axis of operand i runs along, so
    broadcasts (axes left out) and transposes cost nothing.  ``reduce[j]`` is
    ``None`` for a result per point, or ``(kind, axes)`` for one combined over
    ``axes`` by sum, prod, max, min, any or all.
    """
    for t, axes in zip(operands, maps, strict=True):
        if t.shape != tuple(space[a] for a in axes):
            raise ShapeError(f"fused: operand {t} does not fit axes {axes} of space {space}")
    for t, p in zip(operands, region.params, strict=True):
        if p.type != t.with_shape(()):
            raise VerifyError(f"fused: region parameter {p.type} for operand {t}")
    results = []
    for value, how in zip(region.results, reduce, strict=True):
        gone = how[1] if how else ()
        if value.type.shape or (how and how[0] not in REDUCERS):
            raise VerifyError(f"fused: result {value.type} with reduction {how}")
        shape = [n for axis, n in enumerate(space) if axis not in gone]
        results.append(value.type.with_shape(shape))
    return tuple(results)


@fused.evaluate
def _fused(
    *operands: Array,
    space: tuple[int, ...],
    maps: Sequence[tuple[int, ...]],
    reduce: Sequence[tuple[str, tuple[int, ...]] | None],
    region: Region,
) -> Any:
    # The region's ops are elementwise, so they run on whole arrays as they stand.
    env = {
        id(param): _spread(array, axes, space)
        for param, array, axes in zip(region.params, operands, maps, strict=True)
    }
    for inner in region.ops:
        rule = inner.opdef.evaluate_rule
        if rule is None:
            raise VerifyError(f"fused: {inner.name} cannot stand in a scalar region")
        env[id(inner.result)] = rule(*(env[id(v)] for v in inner.operands), **inner.attrs)
    results = []
    for value, how in zip(region.results, reduce, strict=True):
        array = np.broadcast_to(env[id(value)], space)
        if how is not None:
            array = REDUCERS[how[0]].reduce(array, axis=how[1], dtype=value.type.dtype.numpy)
        results.append(np.asarray(array))
    return tuple(results) if len(results) > 1 else results[0]


def _spread(array: Array, axes: Sequence[int], space: Sequence[int]) -> Array:
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    shape = [1] * len(space)
    for i in order:
        shape[axes[i]] = array.shape[i]
    return np.broadcast_to(array.transpose(order).reshape(shape), tuple(space))
