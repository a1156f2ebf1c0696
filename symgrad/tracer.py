"""Tracers: stand-ins for arrays that exist only when the compiled function runs.

A ``Tracer`` knows shape and dtype, answers NumPy's protocols (operators,
``__array_ufunc__``, ``__array_function__``) and forwards them to ``symgrad.numpy``,
which enters its functions in ``HANDLERS``.  In-place writes rebind the handle to a new
SSA value; views remember how to read and write their base, so aliases behave as in
NumPy.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad.dispatch import HANDLERS, full_name, nearest, refuse_unknown, without_out
from symgrad.ir import Value
from symgrad.ir.errors import DTypeError, SymgradError, TraceError, UnsupportedError
from symgrad.ir.opdef import Array
from symgrad.operators import Operators

if TYPE_CHECKING:
    from symgrad.tracing import Trace


class _View:
    """How a view reads its base, and how a write to it changes the base."""

    __slots__ = ("base", "key", "memory", "read", "version", "write")

    def __init__(
        self,
        base: Tracer,
        read: Callable[[Tracer], Tracer],
        write: Callable[[Tracer, Tracer], Tracer] | None,
        key: Any,
        memory: Array | None,
    ) -> None:
        self.base, self.read, self.write, self.key = base, read, write, key
        self.memory = memory
        self.version = base.version


class _Size(int):
    """A number of elements that, called, gives the shape or a part of it."""

    _shape: tuple[int, ...]

    def __new__(cls, count: int, shape: tuple[int, ...]) -> _Size:
        made = super().__new__(cls, count)
        made._shape = shape
        return made

    def __call__(self, dim: int | None = None) -> Any:
        return self._shape if dim is None else self._shape[dim]


_TENSORS_OWN = frozenset("max min std var repeat sort argsort transpose flatten diagonal".split())
"""Methods that tensors have under the names of arrays' own, and that do something else."""


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__

    def call(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        if self._is_of_tensors(name, kwargs):
            return self.__getattr__(name)(*args, **kwargs)
        return call_traced(function, HANDLERS[function], (self, *args), kwargs, self)

    return call


class Tracer(Operators):
    """A stand-in for an array during tracing, with the interface of ``numpy.ndarray``.

    ``weak`` is the Python number type it stands for, if it does: such an operand does
    not decide the dtype of a result (NEP 50).
    """

    __slots__ = ("__weakref__", "_value", "_view", "trace", "version", "weak")

    def __init__(self, trace: Trace, value: Value, weak: type | None = None) -> None:
        self.trace = trace
        self.weak = weak
        self.version = 0
        self._value = value
        self._view: _View | None = None

    # -- the value behind the handle -------------------------------------------------------

    @property
    def value(self) -> Value:
        """The present SSA value."""
        self._refresh()
        return self._value

    def _refresh(self) -> None:
        """Reads a view anew if its base, maybe a view itself, was written to since."""
        view = self._view
        if view is None or not self.trace.is_open:
            return
        view.base._refresh()
        if view.version != view.base.version:
            with self.trace.resumed():
                self._value = view.read(view.base)._value
            view.version = view.base.version
            self.version += 1

    def as_view_of(
        self,
        base: Tracer,
        read: Callable[[Tracer], Tracer],
        write: Callable[[Tracer, Tracer], Tracer] | None,
        key: Any = None,
        memory: Array | None = None,
    ) -> Tracer:
        """Marks this tracer, just made by ``read(base)``, as a view.

        ``write(base, new)`` is ``base`` with the view's elements replaced by ``new``;
        ``None`` makes the view read-only.  ``memory`` is the same view of ``base.memory``.
        """
        if base.trace is self.trace:
            self._view = _View(base, read, write, key, memory)
        return self

    @property
    def memory(self) -> Array:
        """An array laid out as NumPy's would be: it tells whether more views are possible.

        Nothing is ever stored there, so it takes no memory.
        """
        known = None if self._view is None else self._view.memory
        return np.empty(self.shape, bool) if known is None else known

    def rebind(self, new: Tracer) -> None:
        """Replaces the contents: what in-place operations end in."""
        if not self.trace.is_current:
            raise TraceError(
                f"{describe(self)} was made while {self.trace.name} was traced and cannot be "
                "changed in place outside it. Return the new value instead"
            )
        view = self._view
        if view is not None:
            if view.write is None:
                raise TraceError(
                    f"{describe(self)} is a read-only view (a broadcast or a diagonal); "
                    "write to a copy: x = x.copy()"
                )
            view.base.rebind(self.trace.distinct(view.write(view.base, new), new))
            if not self.trace.rereads_views:
                view.version = view.base.version
        self._value = new.value if view is not None else self.trace.written(self._value, new.value)
        self.version += 1

    def assign(self, new: Any, what: str) -> None:
        """``self[...] = new`` with NumPy's same-kind casting and broadcasting."""
        dtype = HANDLERS[np.result_type](new, self)
        if not np.can_cast(dtype, self.dtype, "same_kind"):
            raise DTypeError(
                f"{what}: a result of dtype {dtype} cannot be stored in place in {describe(self)}; "
                f"write x = x.astype({dtype}) first"
            )
        cast = HANDLERS["astype"](new, self.dtype)
        self.rebind(HANDLERS[np.broadcast_to](cast, self.shape))

    # -- attributes ------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes: concrete while tracing."""
        return self._value.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._value.shape)

    @property
    def size(self) -> int:
        """Number of elements; of what stands for a tensor also the method of that name."""
        count = self._value.type.size
        return _Size(count, self.shape) if self.trace.takes_tensors else count

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype."""
        return self._value.type.dtype.numpy

    @property
    def _kind(self) -> str:
        """``f`` for real floating-point elements and so on: NumPy does not know bfloat16's."""
        return self._value.type.dtype.kind

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._value.type.bytes

    T = property(lambda self: HANDLERS[np.transpose](self))  # noqa: PLW0108
    mT = property(_method(np.matrix_transpose))  # noqa: N815
    real = property(_method(np.real))
    imag = property(_method(np.imag))
    flat = property(_method(np.ravel))
    device = "cpu"

    # -- methods ---------------------------------------------------------------------------

    sum, prod, mean, std, var = (_method(f) for f in (np.sum, np.prod, np.mean, np.std, np.var))
    max, min, argmax, argmin = (_method(f) for f in (np.max, np.min, np.argmax, np.argmin))
    any, all, cumsum, cumprod = (_method(f) for f in (np.any, np.all, np.cumsum, np.cumprod))
    clip, round, conj, dot = (_method(f) for f in (np.clip, np.round, np.conjugate, np.dot))
    diagonal, ravel, squeeze, swapaxes = (
        _method(f) for f in (np.diagonal, np.ravel, np.squeeze, np.swapaxes)
    )
    take, repeat, nonzero, ptp = (_method(f) for f in (np.take, np.repeat, np.nonzero, np.ptp))
    argsort, conjugate, searchsorted, put, compress = (
        _method(f) for f in (np.argsort, np.conjugate, np.searchsorted, np.put, np.compress)
    )

    def _is_of_tensors(self, name: str, kwargs: dict[str, Any] | None = None) -> bool:
        """Whether a method is the one of tensors, in a function that was called with some."""
        if name in _TENSORS_OWN and self.trace.takes_tensors:
            return True
        return kwargs is not None and ("dim" in kwargs or "keepdim" in kwargs)

    def __getattr__(self, name: str) -> Any:
        """What tensors have and arrays do not: see ``tensors.traced``."""
        find = HANDLERS.get("attribute of tensors")
        if find is None or name.startswith("_"):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return find(self, name)

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Tracer:
        """``ndarray.reshape``: sizes as one tuple or as several arguments."""
        target = shape[0] if len(shape) == 1 else shape
        result: Tracer = HANDLERS[np.reshape](self, target, order=order, copy=copy)
        return result

    def transpose(self, *axes: Any) -> Tracer:
        """``ndarray.transpose``: axes as one tuple, as several arguments or none."""
        if axes and self._is_of_tensors("transpose"):
            return self.__getattr__("transpose")(*axes)  # type: ignore[no-any-return]
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        result: Tracer = HANDLERS[np.transpose](self, order)
        return result

    def flatten(self, order: Any = "C", *rest: Any) -> Tracer:
        """A one-dimensional copy."""
        if order != "C" and self._is_of_tensors("flatten"):
            return self.__getattr__("flatten")(order, *rest)  # type: ignore[no-any-return]
        result: Tracer = HANDLERS[np.copy](HANDLERS[np.ravel](self, order))
        return result

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = "unsafe", subok: bool = True,
        copy: bool = True,
    ) -> Tracer:  # fmt: skip
        """The elements converted to another dtype; without ``copy`` maybe this very array."""
        if not np.can_cast(self.dtype, dtype, casting):
            raise DTypeError(f"astype: {describe(self)} does not cast to {dtype} under {casting!r}")
        result: Tracer = HANDLERS["astype"](self, dtype)
        return fresh(result, self) if copy else result

    def copy(self, order: str = "C") -> Tracer:
        """An independent handle on the same value."""
        return Tracer(self.trace, self.value, self.weak)

    def sort(self, *args: Any, **kwargs: Any) -> Any:
        """Sorts in place; what stands for a tensor gives its sorted elements and positions."""
        if self._is_of_tensors("sort", kwargs):
            return self.__getattr__("sort")(*args, **kwargs)
        return self.assign(HANDLERS[np.sort](self, *args, **kwargs), "sort")

    def partition(self, kth: Any, axis: int = -1, *args: Any, **kwargs: Any) -> None:
        """Puts elements in place around the one at ``kth``."""
        self.assign(HANDLERS[np.partition](self, kth, axis, *args, **kwargs), "partition")

    def fill(self, value: Any) -> None:
        """Sets every element to ``value``."""
        self.assign(value, "fill")

    def __round__(self, decimals: int | None = None) -> Tracer:
        """``round(x)``: an integer, or with a number of decimals a number like ``x``."""
        result: Tracer = HANDLERS[np.round](self, decimals or 0)
        return result if decimals is not None else HANDLERS["astype"](result, np.int64)

    def item(self, *args: Any) -> Any:
        """Refused: a traced value has no Python number."""
        return self.trace.concrete(self, "list")

    def tolist(self) -> Any:
        """Refused: a traced value has no Python list."""
        return self.trace.concrete(self, "list")

    # -- containers ------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tracer:
        result: Tracer = HANDLERS["getitem"](self, key)
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        view = value._view if isinstance(value, Tracer) else None
        if view is not None and view.base is self and view.key == repr(key):
            return  # the second half of x[key] += v: the view has already written through
        self.rebind(HANDLERS["setitem"](self, key, value))

    def __len__(self) -> int:
        if not self.ndim:
            raise TraceError(f"len() of unsized {describe(self)}")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tracer]:
        if not self.ndim:
            raise TraceError(f"iteration over 0-d {describe(self)}; it has no axis to run along")
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, item: Any) -> bool:
        return bool(self.trace.concrete(self, "bool"))

    # -- Python values, which the trace refuses --------------------------------------------

    def __bool__(self) -> bool:
        return bool(self.trace.concrete(self, "bool"))

    def __float__(self) -> float:
        return float(self.trace.concrete(self, "assign" if _is_item_assignment() else "number"))

    def __int__(self) -> int:
        return int(self.trace.concrete(self, "assign" if _is_item_assignment() else "number"))

    def __complex__(self) -> complex:
        return complex(self.trace.concrete(self, "number"))

    def __index__(self) -> int:
        return int(self.trace.concrete(self, "index"))

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        wanted = "assign" if _is_item_assignment() else "array"
        return np.asarray(self.trace.concrete(self, wanted), *args, **kwargs)

    # -- NumPy's protocols -----------------------------------------------------------------

    __array_priority__ = 1000

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        handler = HANDLERS.get(ufunc if method == "__call__" else (ufunc, method))
        if handler is None and method == "__call__":  # scipy.special and the like, by name
            handler = HANDLERS.get(ufunc.__name__)
        if handler is None and method == "outer" and ufunc in HANDLERS:
            handler = functools.partial(HANDLERS["outer"], ufunc)
        if handler is None:
            name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
            raise unsupported(name, inputs)
        if method == "__call__":
            refuse_unknown(ufunc, handler, kwargs)
        result = fresh(handler(*inputs, **kwargs), self)
        return result if out is None else _store(out, result, ufunc.__name__)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        handler = HANDLERS.get(function)
        if handler is None:
            raise unsupported(full_name(function), [*args, *kwargs.values()])
        return call_traced(function, handler, args, kwargs, self)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return sys.modules["symgrad.numpy"]

    def __repr__(self) -> str:
        return f"Tracer<{describe(self)}>"

    def __format__(self, spec: str) -> str:
        return repr(self)


def call_traced(
    function: Callable[..., Any], handler: Callable[..., Any], args: tuple[Any, ...],
    kwargs: dict[str, Any], operand: Any,
) -> Any:  # fmt: skip
    """A NumPy function in its traced form, which knows nothing of ``out``."""
    args, out = without_out(function, args, kwargs)
    refuse_unknown(function, handler, kwargs)
    result = fresh(handler(*args, **kwargs), operand)
    if out is None:
        return result
    return _store(out if isinstance(out, tuple) else (out,), result, function.__name__)


def _store(out: Sequence[Any], result: Any, name: str) -> Any:
    """Puts results into the arrays given as ``out``."""
    results = result if isinstance(result, tuple) else (result,)
    for target, new in zip(out, results, strict=True):
        if isinstance(target, Tracer):
            target.assign(new, name)
        elif target is not None:
            new.trace.concrete(new, "assign")
    return out[0] if len(out) == 1 else tuple(out)


def _is_item_assignment() -> bool:
    """Whether the innermost Python frame outside symgrad is executing ``a[i] = v``."""
    frame = sys._getframe(2)
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "STORE_SUBSCR"


def unsupported(name: str, operands: Sequence[Any]) -> SymgradError:
    """The error for a NumPy function that has no traced form."""
    listed = ", ".join(describe(x) for x in operands if isinstance(x, Tracer))
    return UnsupportedError(f"np.{name} cannot be traced (operands {listed}); {nearest(name)}")


def lost_in_tracing(kind: type) -> str | None:
    """What is wrong with arrays of a type that computes otherwise than arrays do, if it does."""
    if issubclass(kind, np.matrix):
        return "a matrix multiplies with *, arrays do not; pass np.asarray(x) and use @"
    masked = sys.modules.get("numpy.ma")
    if masked is not None and issubclass(kind, masked.MaskedArray):
        return "the mask of a masked array would be lost; pass x.filled(...) or x.data"
    return None


def is_traced(x: Any) -> bool:
    """Whether ``x`` is a tracer or a container with one in it."""
    if isinstance(x, (list, tuple)):
        return any(is_traced(item) for item in x)
    return isinstance(x, Tracer)


def fresh(result: Any, operand: Any) -> Any:
    """A result that is the operand itself as an array of its own, as NumPy's would be."""
    return result.copy() if result is operand and isinstance(result, Tracer) else result


def describe(x: Tracer) -> str:
    """A tracer in an error text: ``f64[3] (argument x)`` or ``bool[] (gt, model.py:7)``."""
    value = x._value
    if value.op is None:
        return f"traced {value.type} (argument {value.name})"
    loc = value.op.loc
    return f"traced {value.type} (result of {value.op.name}{f', {loc}' if loc else ''})"
