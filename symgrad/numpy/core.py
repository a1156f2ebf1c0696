"""What the families of NumPy functions share: registration, dtypes, broadcasting, axes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir import dtype_of
from symgrad.ir.errors import DTypeError, ShapeError, UnsupportedError
from symgrad.operators import NUMBERS, is_tensor
from symgrad.tracer import Tracer, call_traced, is_traced
from symgrad.tracing import constant, current_trace, stage

F = TypeVar("F", bound=Callable[..., Any])

SUPPORTED: dict[str, Callable[..., Any]] = {}
"""The public functions of ``symgrad.numpy`` by name."""


def implements(*keys: Any, name: str | None = None) -> Callable[[F], F]:
    """Makes a function the traced form of a NumPy function (and of its aliases).

    The public function under the same name calls NumPy's own when nothing it is given
    is traced.
    """

    def register(function: F) -> F:
        HANDLERS.update(dict.fromkeys(keys, function))
        SUPPORTED[name or keys[0].__name__] = _public(function, keys[0])
        return function

    return register


def _public(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original, updated=())
    def public(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_traced, args)) or any(map(is_traced, kwargs.values())):
            return call_traced(original, function, args, kwargs, args[0] if args else None)
        return original(*args, **kwargs)

    return public


# -- operands ------------------------------------------------------------------------------


def traced(x: Any, dtype: Any = None) -> Tracer:
    """Any array-like as a tracer of the current trace, nested lists stacked."""
    if isinstance(x, (list, tuple)):
        x = HANDLERS["array"](x) if is_traced(x) else np.asarray(x)
    if isinstance(x, Tracer) and x.trace is current_trace():
        return x if dtype is None else astype(x, dtype)
    trace = current_trace()
    if trace is None:
        result: Tracer = stage("identity", x)  # raises: the tracer has escaped
        return result
    weak = type(x) if type(x) in NUMBERS and type(x) is not bool else None
    if isinstance(x, Tracer):
        weak = x.weak
    lifted = Tracer(trace, trace.lift(x), weak)
    return lifted if dtype is None else astype(lifted, dtype)


def astype(x: Any, dtype: Any) -> Tracer:
    """``x`` converted to ``dtype`` (no longer weak)."""
    dtype = np.dtype(dtype)
    if type(x) in NUMBERS:
        return constant(np.asarray(x, dtype), dtype)
    x = traced(x)
    if x.dtype == dtype:
        return x if x.weak is None else Tracer(x.trace, x.value)
    if dtype.kind == "b":
        result: Tracer = stage("ne", x, constant(0, x.dtype, x.shape))
        return result
    if x.dtype.kind == "c" and dtype.kind != "c":
        raise UnsupportedError(f"astype: complex {x.dtype} to real {dtype} cannot be traced")
    from symgrad.ir import dtype_of

    result = stage("convert", x, dtype=dtype_of(dtype))
    return result


HANDLERS["astype"] = HANDLERS[np.astype] = astype


def dtype_key(x: Any) -> Any:
    """What stands for an operand in NumPy's promotion: its dtype, or a Python type."""
    if isinstance(x, Tracer):
        return x.weak or x.dtype
    if type(x) in NUMBERS:
        return np.dtype(bool) if type(x) is bool else type(x)
    if isinstance(x, (np.dtype, type)):
        return np.dtype(x)
    if is_tensor(x):  # whose value need not be computed for that
        return x._dtype
    return np.asarray(x).dtype if not is_traced(x) else traced(x).dtype


@implements(np.result_type)
def result_type(*operands: Any) -> np.dtype[Any]:
    """NumPy's promotion (NEP 50): Python numbers do not decide the precision."""
    keys = [dtype_key(x) for x in operands]
    result: np.dtype[Any] = np.result_type(*(k(0) if isinstance(k, type) else k for k in keys))
    return result


def float_type(x: Tracer, name: str) -> np.dtype[Any]:
    """The floating dtype a mean or norm of ``x`` has."""
    if x.dtype.kind in "biu":
        return np.dtype(np.float64)
    if not dtype_of(x.dtype).is_float:
        raise DTypeError(f"{name}: operands of dtype {x.dtype} are not supported")
    return x.dtype


# -- shapes --------------------------------------------------------------------------------


def types_text(operands: Iterable[Any]) -> str:
    """``f64[3], f64[4]`` for error texts."""
    return ", ".join(
        str(x._value.type) if isinstance(x, Tracer) else f"{np.asarray(x).dtype}{list(np.shape(x))}"
        for x in operands
    )


def common_shape(name: str, operands: Sequence[Tracer]) -> tuple[int, ...]:
    """The shape operands broadcast to; ``ShapeError`` when they do not."""
    shapes = {x.shape for x in operands}
    if len(shapes) == 1:
        return shapes.pop()
    try:
        return np.broadcast_shapes(*(x.shape for x in operands))
    except ValueError:
        raise ShapeError(
            f"{name}: shapes do not broadcast, got {types_text(operands)}; sizes must agree from "
            "the last axis on or be 1, so insert axes with x[:, None] where they should not pair"
        ) from None


def broadcast(x: Tracer, shape: tuple[int, ...]) -> Tracer:
    """NumPy's broadcasting as an explicit ``broadcast_to`` that stretches no axis of size 1."""
    if x.shape == shape:
        return x
    offset = len(shape) - x.ndim
    kept = [a for a, n in enumerate(x.shape) if n == shape[a + offset]]
    squeezed = reshape(x, tuple(x.shape[a] for a in kept))
    result: Tracer = stage(
        "broadcast_to", squeezed, shape=shape, axes=tuple(a + offset for a in kept)
    )
    return result


def reshape(x: Tracer, shape: Sequence[int]) -> Tracer:
    """The elements under another, fully known shape."""
    if x.shape == tuple(shape):
        return x
    result: Tracer = stage("reshape", x, shape=tuple(shape))
    return result


def transposed(x: Tracer, axes: Sequence[int]) -> Tracer:
    """The axes in another order."""
    if list(axes) == list(range(x.ndim)):
        return x
    result: Tracer = stage("transpose", x, axes=tuple(axes))
    return result


def sliced(x: Tracer, axis: int, start: int, stop: int, step: int = 1) -> Tracer:
    """``x[start:stop:step]`` along one axis, within bounds."""
    lo, hi, by = [0] * x.ndim, list(x.shape), [1] * x.ndim
    lo[axis], hi[axis], by[axis] = start, max(start, stop), step
    result: Tracer = stage("slice", x, start=tuple(lo), stop=tuple(hi), step=tuple(by))
    return result


def one_axis(name: str, axis: Any, x: Tracer, rank: int | None = None) -> int:
    """One axis counted from the front."""
    rank = x.ndim if rank is None else rank
    index = operator.index(axis)
    if not -rank <= index < rank:
        raise ShapeError(f"{name}: axis {index} is out of bounds for {x._value.type}")
    return index % rank


def along(name: str, a: Any, axis: Any) -> tuple[Tracer, int]:
    """An array and one axis of it; with ``None`` the flattened array and its only axis."""
    x = traced(a)
    return (reshape(x, (x.size,)), 0) if axis is None else (x, one_axis(name, axis, x))


def many_axes(name: str, axis: Any, x: Tracer, rank: int | None = None) -> tuple[int, ...]:
    """An axis argument as sorted axes: ``None`` means all."""
    if axis is None:
        return tuple(range(x.ndim if rank is None else rank))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [one_axis(name, a, x, rank) for a in given]
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{name}: axis {axis} names an axis of {x._value.type} twice")
    return tuple(sorted(axes))


def sizes(shape: Any) -> tuple[int, ...]:
    """A shape argument as a tuple of Python integers."""
    if isinstance(shape, (list, tuple)):
        return tuple(operator.index(n) for n in shape)
    if isinstance(shape, np.ndarray):
        return tuple(int(n) for n in shape)
    return (operator.index(shape),)


def refuse(name: str, **given: Any) -> None:
    """Refuses keyword arguments that only matter to memory layout or have no traced form."""
    for key, value in given.items():
        if value is not None:
            raise UnsupportedError(f"{name}: {key}={value!r} cannot be traced; leave it out")
