"""What a tensor holds: a tracer of the recorder, whose memory others may share.

Memory is written to in two ways.  What the graph sees is an operation like any other.  Writes
that it does not see (through ``detach()`` or ``data``, under ``no_grad``, by an array outside)
are ``unseen``: they change what is computed from now on, and derivatives pass as if nothing had
happened.  Tensors that share memory never share a value, which derivatives are told by.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import numpy as np

from symgrad.ir import Value
from symgrad.ir.opdef import Array
from symgrad.tensors.layout import WHOLE
from symgrad.tensors.record import RECORDER, materialise, recording
from symgrad.tensors.recorded import contents_of, ends_a_graph, leaf_of, references
from symgrad.tensors.standing import written
from symgrad.tracer import Tracer
from symgrad.tracing import same_contents


class _Loan:
    """A copy of a tensor's contents in the hands of somebody outside.

    Arrays outside are views of ``lent``.  That is gone with the last of them; what was written
    to it by then is still in ``array``, which is the same memory.
    """

    def __init__(self, contents: Array) -> None:
        memory = np.empty(max(contents.nbytes, 1), np.uint8)
        self.array: Array = np.ndarray(contents.shape, contents.dtype, memory)
        self.array[...] = contents
        # A view of this array ends at it, and not at the memory: that is no array here.
        lent: Array = np.ndarray(contents.shape, contents.dtype, memoryview(memory))  # type: ignore[arg-type]
        self._lent = weakref.ref(lent)
        self.hold: Array | None = lent
        """Until it is handed out."""

    @property
    def lent(self) -> Array | None:
        """The array outside, while anybody has it."""
        return self._lent()


class Handle(Tracer):
    """The memory of a tensor that is no view, maybe shared with a NumPy array."""

    # Every result has a handle, and every operation looks at those of its operands: slots are
    # read at once, what all handles have in common they have from their class.
    __slots__ = ("_shared", "stands")
    trace = RECORDER
    weak = None
    _shared: Array | _Loan | None
    stands: bool
    """Whether somebody may go on with its contents until it is ``written``, see ``standing``."""

    def __init__(self, value: Value) -> None:
        self._value, self._view, self._shared, self.version = value, None, None, 0
        self.stands = False

    def share(self, array: Array) -> None:
        """Shares an array outside, which sees and makes changes; what is recorded uses copies."""
        self._shared = array
        self._tell()

    def lend(self) -> Array:
        """An array outside that sees and makes changes, as long as somebody has it."""
        shared = self._shared
        if isinstance(shared, np.ndarray):
            return shared
        lent = None if shared is None else shared.lent
        if lent is None:
            with recording():
                self._shared = loan = _Loan(materialise([self.value])[0])
            lent, loan.hold = loan.hold, None
            self._tell()
        assert lent is not None
        return lent

    def outside(self) -> Array | None:
        """The memory that an array outside has or had."""
        return self._shared.array if isinstance(self._shared, _Loan) else self._shared

    def _refresh(self) -> None:
        shared = self.outside()
        if shared is None:
            return
        is_over = isinstance(self._shared, _Loan) and self._shared.lent is None
        if not same_contents(shared, materialise([self._value])[0]):
            self._value = unseen(self._value, leaf_of(np.array(shared, order="C")))
            self.version += 1
        if is_over:
            self._shared = None

    def rebind(self, new: Tracer) -> None:
        """Replaces the contents, those of the array outside included."""
        super().rebind(new)
        self._tell()
        if self._shared is not None:
            self._publish()

    def take(self, value: Value) -> None:
        """As ``rebind`` for a value of its own."""
        self._value = value
        self.version += 1
        self._tell()
        if self._shared is not None:
            self._publish()

    def _tell(self) -> None:
        if self.stands:
            written()

    def _publish(self) -> None:
        """Makes the contents seen by the array outside."""
        shared = self.outside()
        if shared is not None:
            shared[...] = materialise([self._value])[0]


def cut_off(value: Value) -> Value:
    """The same contents as a value of its own that comes from nowhere."""
    contents = contents_of(value)
    if contents is not None:
        return leaf_of(contents, value.type)
    return RECORDER.builder.emit("stop_gradient", value)  # type: ignore[no-any-return]


def unseen(old: Value, new: Value) -> Value:
    """What a write of ``new`` leaves of the value ``old`` that no derivative notices."""
    if old.type.dtype.kind not in "fc" or ends_a_graph(old):
        return cut_off(new)
    return RECORDER.builder.emit("straight_through", old, new)  # type: ignore[no-any-return]


def origin(value: Value) -> Value:
    """What a value was before ``unseen`` writes: a derivative by that is one by all of them."""
    while value.op is not None and value.op.name == "straight_through":
        value = value.op.operands[0]
    return value


def unseen_write(
    write: Callable[[Tracer, Tracer], Tracer] | None,
) -> Callable[[Tracer, Tracer], Tracer] | None:
    """A way to write to a view, such that derivatives by its base do not notice."""
    if write is None:
        return None
    return lambda base, new: Tracer(RECORDER, unseen(base.value, write(base, new).value))


def alias(x: Tracer, *, detached: bool = False) -> Tracer:
    """A handle that shares the memory of ``x``; writes to a detached one are ``unseen``."""

    def read(base: Tracer) -> Tracer:
        value = base.value
        made = cut_off(value) if detached else RECORDER.builder.emit("identity", value)
        return Tracer(RECORDER, made)

    def write(base: Tracer, new: Tracer) -> Tracer:
        return new

    with recording():
        return read(x).as_view_of(x, read, unseen_write(write) if detached else write, WHOLE)


def stands_for(x: Tracer, old: Value) -> Tracer:
    """A handle that shares the memory of ``x``, which takes the place of the value ``old`` behind
    the graph's back."""
    made = Tracer(RECORDER, unseen(old, x.value))
    itself = weakref.ref(made)

    def read(base: Tracer) -> Tracer:
        present = itself()
        return Tracer(RECORDER, unseen(old if present is None else present._value, base.value))

    return made.as_view_of(x, read, unseen_write(lambda base, new: new), WHOLE)


def is_unshared_alias(held: Sequence[Tracer]) -> bool:
    """Whether the tracer in ``held`` is an alias of memory that nothing else knows any more.

    It must be referred to from one other place: the attribute of a tensor.
    """
    view = held[0]._view
    if view is None or view.key != WHOLE or not isinstance(view.base, Handle):
        return False
    is_shared = view.base._shared is not None
    return not is_shared and references(held[0]) == _HERE and references(view.base) == 1


_HERE = 2
"""References to a tracer from the tensor and from a container."""
