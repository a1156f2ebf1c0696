"""What a tensor holds: a tracer of the recorder, whose memory an array outside may share."""

from __future__ import annotations

import weakref

import numpy as np

from symgrad.ir import Value
from symgrad.ir.opdef import Array
from symgrad.tensors.layout import WHOLE
from symgrad.tensors.record import RECORDER, materialise, recording
from symgrad.tensors.recorded import Leaf
from symgrad.tracer import Tracer


class Handle(Tracer):
    """The memory of a tensor that is no view, maybe shared with a NumPy array."""

    __slots__ = ("_is_published", "_shared")

    def __init__(self, value: Value) -> None:
        self.trace, self.weak, self.version = RECORDER, None, 0
        self._value, self._view = value, None
        self._is_published = True
        self._shared: Array | weakref.ref[Array] | None = None

    @property
    def shared(self) -> Array | None:
        """An array outside that sees and makes changes; what is recorded uses copies."""
        return self._shared() if isinstance(self._shared, weakref.ref) else self._shared

    @shared.setter
    def shared(self, array: Array) -> None:
        self._shared = array

    def lend(self, array: Array) -> None:
        """Shares an array of its own as long as somebody outside keeps it, or a view of it."""
        self._shared = weakref.ref(array)

    def _refresh(self) -> None:
        if self._shared is None or not self._is_published:
            return
        shared = self.shared
        if shared is not None and not _same(shared, materialise([self._value])[0]):
            self._value = Leaf(np.array(shared, order="C"))
            self.version += 1

    def rebind(self, new: Tracer) -> None:
        """Replaces the contents, those of the array outside included."""
        super().rebind(new)
        self.publish()

    def take(self, value: Value) -> None:
        """As ``rebind`` for a value of its own; ``publish`` must follow."""
        self._value, self._is_published = value, False
        self.version += 1

    def publish(self) -> None:
        """Makes the contents seen by the array outside."""
        self._is_published = True
        if self._shared is not None and (shared := self.shared) is not None:
            shared[...] = materialise([self._value])[0]


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def distinct(x: Tracer) -> Tracer:
    """A handle of its own on a value of its own, which a derivative can be taken by."""
    return Tracer(RECORDER, RECORDER.builder.emit("identity", x.value))


def alias(x: Tracer, *, detached: bool = False) -> Tracer:
    """A handle that shares the memory of ``x``."""
    op = "stop_gradient" if detached else "identity"

    def read(base: Tracer) -> Tracer:
        return Tracer(RECORDER, RECORDER.builder.emit(op, base.value))

    with recording():
        return read(x).as_view_of(x, read, lambda base, new: new, WHOLE)
