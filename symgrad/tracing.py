"""Tracing: an ordinary NumPy function run on tracers leaves its operations in a builder.

A ``Trace`` owns the builder, the parameters and the concrete arrays met on the way,
which become hidden parameters so that later changes to them are seen.

For other front ends: ``emit`` inserts one IR op on tracers, arrays and numbers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from symgrad.codegen.runtime import vectorcall
from symgrad.dispatch import HANDLERS
from symgrad.ir import Builder, TensorType, Value, dtype_of
from symgrad.ir.errors import DTypeError, InternalError, TraceError
from symgrad.ir.graph import Op
from symgrad.ir.interp import evaluate
from symgrad.ir.opdef import Array, lookup
from symgrad.ir.types import type_of_array
from symgrad.operators import NUMBERS, is_tensor
from symgrad.tracer import Tracer, describe, is_traced, lost_in_tracing

__all__ = [
    "HANDLERS",
    "Trace",
    "Tracer",
    "constant",
    "current_trace",
    "emit",
    "is_traced",
    "same_contents",
    "stage",
]


class _Active(threading.local):
    """The open traces of this thread, innermost last."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def push(self, trace: Trace) -> None:
        """Opens a trace; compiled functions that are called from now on run their bodies."""
        vectorcall.paused.append(None)
        self.traces.append(trace)

    def pop(self) -> Trace:
        """Closes the innermost trace."""
        vectorcall.paused.pop()
        return self.traces.pop()


_active = _Active()


def current_trace() -> Trace | None:
    """The innermost open trace of this thread."""
    return _active.traces[-1] if _active.traces else None


class Capture:
    """A concrete array met while tracing: a hidden parameter read at every call."""

    def __init__(self, array: Array, value: Value) -> None:
        self.array = array
        self.value = value
        self.snapshot = array.copy()

    def settle(self) -> Array:
        """What to read at a call, decided when the trace is over.

        An array that the function itself changed after using it was a scratch buffer:
        the copy made when it was used stands in for it.
        """
        if not same_contents(self.array, self.snapshot):
            self.array = self.snapshot
        self.snapshot = self.array
        return self.array


class TensorCapture:
    """A tensor met while tracing: as ``Capture``, but its contents need not be looked at."""

    def __init__(self, tensor: Any, value: Value) -> None:
        self.tensor = tensor
        self.value = value
        self.seen: Any = tensor._value()

    def settle(self) -> Any:
        """What to read at a call: the tensor, or what it was where the function changed it.

        Asked when the function has run; from then on nothing holds what the tensor held.
        """
        if self.seen is not None and self.tensor._value() is not self.seen:
            self.tensor = type(self.tensor).of_value(self.seen)
        self.seen = None
        return self.tensor


def _not_derived(tensor: Any) -> None:
    return None


class Trace:
    """One function being traced: its builder, parameters and captured arrays.

    As a context manager it is the trace new operations go to; leaving it closes it.  A
    trace opened within another takes that one's values as hidden parameters, and leaves
    it to the outermost to capture arrays.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.builder = Builder()
        self.is_open = True
        self.parent = current_trace()
        self.takes_tensors: bool = self.parent is not None and self.parent.takes_tensors
        """Whether the function was called with tensors, whose methods its values then have."""
        self.captures: list[Capture | TensorCapture] = []
        self.guards: list[tuple[weakref.ref[Array], Array]] = []
        """Arrays whose contents shaped the trace (indices, masks), with those contents."""
        self.outer: dict[int, tuple[Tracer, Value]] = {}
        """Values of enclosing traces used here, with the parameters that stand for them."""
        self.derive: Callable[[Any], Value | None] = _not_derived
        """What the function made of captured tensors alone, computed in this trace from those."""
        self._captured: dict[int, Capture] = {}
        self._tensors: dict[int, TensorCapture] = {}

    def __enter__(self) -> Trace:
        _active.push(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self.is_open = False
        if _active.pop() is not self:
            raise InternalError("traces were closed out of order")

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """New operations go to this trace for a while, though another one is innermost."""
        _active.push(self)
        try:
            yield
        finally:
            _active.pop()

    @property
    def is_current(self) -> bool:
        """Whether new operations go to this trace."""
        return current_trace() is self

    def parameter(self, type: TensorType, name: str = "", weak: type | None = None) -> Tracer:
        """A new parameter of the function being traced."""
        return Tracer(self, self.builder.param(type, name), weak)

    def stage(self, name: str, *operands: Any, **attrs: Any) -> Any:
        """Inserts an op and wraps its result, or its tuple of results."""
        result = self.builder.emit(name, *(self.lift(x) for x in operands), **attrs)
        if isinstance(result, tuple):
            return tuple(Tracer(self, self.untracked(v)) for v in result)
        return Tracer(self, self.untracked(result))

    def untracked(self, value: Value) -> Value:
        """A new value, which under ``no_grad`` no derivative passes through."""
        if self._tracks(value):
            return value
        stopped: Value = self.builder.emit("stop_gradient", value)
        return stopped

    def written(self, old: Value, new: Value) -> Value:
        """What a write of ``new`` leaves of ``old``; derivatives do not notice one under
        ``no_grad``."""
        if self._tracks(old):
            return new
        passed: Value = self.builder.emit("straight_through", old, new)
        return passed

    def _tracks(self, value: Value) -> bool:
        if not self.takes_tensors or not value.type.dtype.is_float:
            return True
        return bool(HANDLERS["is_grad_enabled"]())

    rereads_views = False
    """Whether a view that was written through is read from its base again."""

    def distinct(self, x: Tracer, other: Tracer) -> Tracer:
        """``x`` with another value than ``other``, where values tell one thing from another."""
        return x

    def lift(self, x: Any, dtype: np.dtype[Any] | None = None) -> Value:
        """The value of a tracer, array or number in this trace.

        Numbers become constants of ``dtype``; arrays and tensors become hidden parameters.
        """
        if isinstance(x, Tracer):
            return x.value if x.trace is self else self._lift_outer(x)
        if is_tensor(x):
            return self._capture_tensor(x)
        if isinstance(x, np.ndarray) and x.ndim:
            return self._capture(x)
        return self.builder.constant(np.asarray(x, dtype))

    def _lift_outer(self, x: Tracer) -> Value:
        if not x.trace.is_open or x.trace not in _active.traces:
            raise _escaped(x)
        value = x.value
        if id(value) not in self.outer:
            param = self.builder.param_like(value)
            self.outer[id(value)] = Tracer(x.trace, value), param
        return self.outer[id(value)][1]

    def _capture(self, array: Array) -> Value:
        if self.parent is not None:
            return self._lift_outer(Tracer(self.parent, self.parent.lift(array)))
        if lost := lost_in_tracing(type(array)):
            raise DTypeError(f"an array from outside the function cannot be traced: {lost}")
        known = self._captured.get(id(array))
        if known is None or not same_contents(array, known.snapshot):
            name = f"captured{len(self.captures)}"
            known = Capture(array, self.builder.param(type_of_array(array), name))
            self._captured[id(array)] = known
            self.captures.append(known)
        return known.value

    def _capture_tensor(self, tensor: Any) -> Value:
        if self.parent is not None:
            return self._lift_outer(Tracer(self.parent, self.parent.lift(tensor)))
        if (derived := self.derive(tensor)) is not None:
            return derived
        known = self._tensors.get(id(tensor))
        if known is None or tensor._value() is not known.seen:
            type = tensor._tracer._value.type
            name = f"captured{len(self.captures)}"
            known = TensorCapture(tensor, self.builder.param(type, name))
            self._tensors[id(tensor)] = known
            self.captures.append(known)
        return known.value

    def guard(self, array: Array) -> None:
        """Notes that the trace holds only while ``array`` has its present contents."""
        if self.parent is not None:
            self.parent.guard(array)
        else:
            self.guards.append((weakref.ref(array), array.copy()))

    def concrete(self, x: Tracer, wanted: str) -> Any:
        """The Python value that a traced one is asked for: none, so ``TraceError``.

        Every such request passes through here: specialising the trace on a guessed value,
        guarded at run time, would be answered in this place.
        """
        reason, remedy = _CONCRETE[wanted]
        raise TraceError(f"{reason.format(describe(x))}. {remedy}")


_STATIC = "or mark the argument it depends on as static (static_argnums=...)"
_CONCRETE = {
    "bool": (
        "the truth value of {} is not known while tracing, so `if`, `while`, `and`, `or`, `not` "
        "cannot use it",
        f"Choose with np.where(condition, x, y), {_STATIC}",
    ),
    "number": (
        "{} has no Python number while tracing, so float(), int() and the math module cannot "
        "use it",
        f"Use NumPy functions (np.sin for math.sin, x.astype(int) for int(x)), {_STATIC}",
    ),
    "index": (
        "{} has no Python integer while tracing, so range(), slices and shapes cannot use it",
        f"Index with it directly (x[i]), {_STATIC}",
    ),
    "list": (
        "{} has no Python values while tracing, so item() and tolist() cannot use it",
        "Keep computing with the array itself and convert what the function returns",
    ),
    "array": (
        "{} cannot become a plain NumPy array while tracing",
        "Use np.stack([...]) or symgrad.numpy.array([...]) to collect traced values in place of "
        "np.array, and leave out np.asarray",
    ),
    "assign": (
        "{} cannot be assigned into a plain NumPy array",
        "Make the array with np.zeros_like(x) of a traced x or with symgrad.numpy.zeros(shape), "
        "or join the parts with np.stack or np.concatenate",
    ),
}


def same_contents(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype and shape, and all elements the same bits."""
    if a is b or a.dtype != b.dtype:
        return a is b
    if a.itemsize > 8:  # no integers are as wide
        return np.array_equal(a, b, equal_nan=True)
    bits = f"u{a.itemsize}"  # compared many times as fast as numbers, of which some are NaN
    return np.array_equal(a.view(bits), b.view(bits))


# -- building blocks for the front ends ----------------------------------------------------


def _escaped(x: Tracer) -> TraceError:
    return TraceError(
        f"{describe(x)} escaped: it was made while {x.trace.name} was traced and that "
        "trace is over. Return it from the function instead of storing it outside"
    )


def stage(name: str, *operands: Any, **attrs: Any) -> Any:
    """Inserts an op into the current trace; ``TraceError`` when there is none."""
    trace = current_trace()
    if trace is None:
        for x in operands:
            if isinstance(x, Tracer):
                raise _escaped(x)
        raise InternalError(f"{name} was staged outside any trace")
    return trace.stage(name, *operands, **attrs)


def constant(value: Any, dtype: Any, shape: tuple[int, ...] = ()) -> Tracer:
    """One number for every element of a traced array."""
    trace = current_trace()
    if trace is None:
        raise InternalError("a constant was staged outside any trace")
    return Tracer(trace, trace.builder.constant(value, TensorType(dtype_of(dtype), shape)))


def emit(name: str, *operands: Any, **attrs: Any) -> Any:
    """One IR op on tracers, arrays and numbers: ``emit("conv", x, w, stride=(1, 1), ...)``.

    With a tracer among the operands the op is traced and the result is a tracer (a tuple
    for ops with several results); otherwise it is evaluated at once by its NumPy reference
    and the result is an array.  Numbers take the first array's dtype and, for elementwise
    ops, its shape.  Raises ``ShapeError`` or ``DTypeError`` from the op's type rule.
    """
    like = next((x for x in operands if isinstance(x, (Tracer, np.ndarray))), None)
    traced = any(isinstance(x, Tracer) for x in operands)
    if like is not None:
        shape = like.shape if lookup(name).elementwise else ()
        operands = tuple(
            x
            if not isinstance(x, NUMBERS)
            else constant(x, like.dtype, shape)
            if traced
            else np.full(shape, x, like.dtype)
            for x in operands
        )
    return stage(name, *operands, **attrs) if traced else _evaluate(name, operands, attrs)


def _evaluate(name: str, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    opdef = lookup(name)
    arrays = [np.asarray(x) for x in operands]
    bound = opdef.bind_attrs(attrs)
    values = tuple(Value(type_of_array(a)) for a in arrays)
    op = Op(opdef, values, bound, opdef.result_types([v.type for v in values], bound))
    with np.errstate(all="ignore"):
        results = evaluate(op, arrays)
    return results if len(results) > 1 else results[0]
