"""``Tensor``: a handle on an array, or on a value that is yet to be computed.

The contents are a ``Tracer`` of the recorder: that is where views, aliases and in-place
writes live, in the same way as in a traced function.  A tensor adds what differentiation
needs: whether it is wanted, what it came from, where its gradient lies.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from symgrad.ir import Value
from symgrad.ir.opdef import Array
from symgrad.tensors import dtypes
from symgrad.tensors.contents import (
    Handle,
    alias,
    cut_off,
    is_unshared_alias,
    origin,
    stands_for,
    unseen,
)
from symgrad.tensors.hooks import Hooks, Removable, Retaining, registered
from symgrad.tensors.layout import Layout
from symgrad.tensors.nodes import AccumulateGrad, Node, make_node, storage_version
from symgrad.tensors.python_values import PythonValues
from symgrad.tensors.record import RECORDER, compute, recording
from symgrad.tensors.recorded import (
    Recorded,
    array_of,
    contents_of,
    ends_a_graph,
    is_known,
    leaf_of,
    references_each,
)
from symgrad.tensors.refusals import (
    BY_HAND,
    LEAF_FLAGS,
    NON_LEAF_GRAD,
    check_gradient,
    check_leaf,
    check_writable,
)
from symgrad.tensors.several import values_of
from symgrad.tensors.standing import written
from symgrad.tracer import Tracer

_CPU = dtypes.device()


class Tensor(PythonValues):
    """A multi-dimensional array that remembers how it was computed; torch's interface."""

    # Most tensors are results that soon are gone: they cost no more than what all have.  What
    # every operation and every training step looks at lies in slots.
    __slots__ = (
        "__dict__", "__weakref__", "_accumulate", "_base", "_gradient", "_node", "_reference",
        "_requires_grad", "_tracer",
    )  # fmt: skip
    _tracer: Tracer
    _requires_grad: bool
    _node: Node | None
    _accumulate: AccumulateGrad | None
    _foreseen: Any = None
    """The leaves a loss depends on and its derivatives by them, made when it was looked at."""
    _gradient: Tensor | Value | None
    """A bare value until somebody looks at it, as most gradients are never looked at: ``_grad``."""
    _reference: weakref.ref[Tensor] | None
    """See ``_as_reference``."""
    _base: Tensor | None
    _seen = 0
    _layout: Layout | None = None
    """Where the elements of a view lie; ``None`` for memory in row-major order."""
    _is_left_out = False
    """Whether this is a view that was made under ``no_grad`` of a tensor that needs a gradient."""
    _by_hand: tuple[str, Node | None] | None = None
    """Of a view whose derivative its author gives: its name, and the node that its base had."""
    _retaining: Retaining | None = None
    """What fills the gradient of a tensor that is no leaf, where that is wanted."""
    _spent = False
    """Whether a backward pass has used up the graph behind this."""
    _hooks: Hooks | None = None
    _accumulated: Hooks | None = None
    """Hooks for a leaf that has got its gradient."""

    _construct: ClassVar[Callable[[Any, Sequence[int]], Tracer]]
    """Set by ``creation``: the memory of ``Tensor(data)`` or ``Tensor(2, 3)``."""
    _foresee: ClassVar[Callable[[Tensor], Sequence[Value]]]
    """Set by ``engine``: what to compute together with a loss that is looked at."""
    _awaiting: ClassVar[dict[int, weakref.ref[Tensor]]] = {}
    """What the next program computes beside its own, by identity: see ``_await``."""

    if TYPE_CHECKING:  # the methods that symgrad.tensors.methods adds
        T: Tensor
        mT: Tensor  # noqa: N815

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def detach_(self) -> Tensor: ...

    __array_priority__ = 2000  # before NumPy's arrays in mixed arithmetic

    def __init__(self, tracer: Any = (), *sizes: int, requires_grad: bool = False) -> None:
        """Of a handle; users give data or sizes, for a tensor of the default type."""
        if not isinstance(tracer, Tracer):
            tracer = Tensor._construct(tracer, sizes)
        self._tracer, self._node, self._requires_grad = tracer, None, requires_grad
        self._base = self._gradient = self._accumulate = self._reference = None

    @classmethod
    def of_array(cls, array: Array, *, requires_grad: bool = False) -> Tensor:
        """A tensor of an array that nobody else writes to."""
        return cls(Handle(leaf_of(array)), requires_grad=requires_grad)

    @classmethod
    def of_value(cls, value: Value, node: Node | None = None) -> Tensor:
        """A tensor of a recorded value, which ``node`` tells the origin of."""
        made = cls.__new__(cls)
        made._tracer, made._node, made._requires_grad = Handle(value), node, False
        made._base = made._gradient = made._accumulate = made._reference = None
        return made

    # -- contents --------------------------------------------------------------------------

    def _value(self) -> Value:
        """The present value."""
        tracer = self._tracer
        if type(tracer) is Handle and tracer._shared is None:  # nobody else can have changed it
            return tracer._value
        with recording():
            value = tracer.value
        del tracer
        if is_unshared_alias([self._tracer]):
            self._tracer = Handle(value)
        return value

    def _array(self) -> Array:
        """The present contents, not to be written to."""
        value = self._value()
        if not is_known(value):
            is_loss = self._node is not None and not self._spent and self.numel() == 1
            self._compute_with_mates(value, Tensor._foresee(self) if is_loss else ())
        return array_of(contents_of(value))  # type: ignore[arg-type]

    def _compute_with_mates(self, value: Value, also: Sequence[Value]) -> None:
        """Computes this tensor, whose value is pending, with all that the same backward pass made:
        tensors, and gradients that nobody has looked at."""
        maker: Any = value.op
        mates, maker.mates = maker.mates, ()
        alive = [t for ref in mates if (t := ref()) is not None]
        leaves = [t for t in alive if isinstance(t._gradient, Value)]
        gradients: list[Any] = [t._gradient for t in leaves]
        tensors = [t for t in alive if t is not self and not is_known(t._value())]
        Tensor._compute([self, *tensors], also=[*also, *gradients])
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf._gradient = leaf_of(gradient.contents, gradient.type)

    @staticmethod
    def _compute(
        tensors: Sequence[Tensor], spent: Sequence[Recorded] = (), also: Sequence[Value] = ()
    ) -> None:
        """Computes tensors, values, and all that awaits the next program, by one program.

        For ``spent`` see ``compute``.
        """
        waiting = [t for ref in Tensor._awaiting.values() if (t := ref()) is not None]
        Tensor._awaiting.clear()
        wanted = (*tensors, *waiting)
        values = values_of(wanted)
        views = [t for t in wanted if t._tracer._view is not None]
        compute([*values, *[t._root()._value for t in views], *also], spent)
        # What is known, and needs no derivative, lets go of the graph behind it.
        for tensor, value, others in zip(wanted, values, references_each(values), strict=True):
            if tensor._node is not None and not tensor._spent:
                continue
            if others == _ITS_HANDLE and contents_of(value) is not None:
                value.op = None
            else:
                _let_go(tensor._tracer)
        for view in views:
            if ends_a_graph((root := view._root())._value):
                _let_go(root)

    @staticmethod
    def _await(tensors: Iterable[Tensor]) -> None:
        """Has the next program compute these, if they are there by then.

        So a loss costs no second program, and neither it nor memory that was written to holds
        on to what it came from.
        """
        for tensor in tensors:
            Tensor._awaiting[id(tensor)] = tensor._as_reference()

    def _as_reference(self) -> weakref.ref[Tensor]:
        """A weak reference, which is there for good: every training step needs it."""
        if self._reference is None:
            self._reference = weakref.ref(self)
        return self._reference

    def _root(self) -> Tracer:
        """The memory that this is a view of."""
        tracer = self._tracer
        while tracer._view is not None:
            tracer = tracer._view.base
        return tracer

    def _replace(self, new: Tensor, *, seen: bool = False) -> None:
        """Puts a value of the same type into the memory: as part of the graph, if that is ``seen``
        to by the caller, or unseen by it."""
        with recording():
            value, old = new._value(), self._value()
            emit = RECORDER.builder.emit
            made = emit("identity", value) if seen else unseen(old, value)
            root = self._root()
            before = root._value
            self._tracer.rebind(Tracer(RECORDER, made))
            if not seen and self._base is not None and self._base.requires_grad:
                root._value = unseen(before, root._value)
                written()

    def _take(self, value: Value) -> None:
        """As ``_replace``, by a value that is nobody else's."""
        if type(self._tracer) is Handle:
            self._tracer.take(value)
        else:
            with recording():
                self._tracer.rebind(Tracer(RECORDER, value))

    def _set_array(self, array: Array) -> None:
        """Takes over an array that nobody else writes to, of any type; unseen by the graph."""
        value = leaf_of(array, self._tracer._value.type if _fits(array, self._tracer) else None)
        if value.type is not self._tracer._value.type:
            self._tracer, self._layout = Handle(value), None
            written()
        else:
            self._take(value)

    # -- attributes ------------------------------------------------------------------------

    @property
    def _dtype(self) -> np.dtype[Any]:
        return self._tracer.dtype

    @property
    def _kind(self) -> str:
        return self._tracer._kind

    @property
    def dtype(self) -> dtypes.dtype:
        """Element type."""
        return dtypes.named(self._tracer.dtype)

    @property
    def shape(self) -> dtypes.Size:
        """Sizes of the axes."""
        return dtypes.Size(self._tracer.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._tracer.ndim

    @property
    def device(self) -> dtypes.device:
        """Where the memory is."""
        return _CPU

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self._tracer.size

    def type(self, dtype: Any = None) -> Any:
        """The legacy name of the type, ``torch.FloatTensor``; with a type, converted to it."""
        if dtype is None:
            return dtypes.legacy_name(self._dtype)
        return self.to(dtype)

    @property
    def _version(self) -> int:
        return storage_version(self._tracer)

    # -- differentiation -------------------------------------------------------------------

    def _sync(self) -> None:
        """A view follows its base into the graph when that was written to."""
        base = self._base
        if base is None:
            return
        base._value()  # an array outside may have been written to
        if self._seen != base._version:
            base._sync()
            if self._by_hand is not None:
                name, before = self._by_hand
                if base._node is not before:
                    where = "its base or another view of its base has been"
                    raise RuntimeError(BY_HAND.format(name, where))
                return
            self._seen = base._version
            if (edge := base._edge()) is not None:
                self._node = make_node("AsStridedBackward0", (edge,))
                self._retain_anew()

    @property
    def requires_grad(self) -> bool:
        """Whether a derivative by this tensor, or through it, may be asked for."""
        if self._base is not None:
            self._sync()
        return self._requires_grad or self._node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if self._node is not None and not wanted:
            raise RuntimeError(LEAF_FLAGS)
        if wanted and self._kind not in "fc":
            raise RuntimeError(
                "Only Tensors of floating point and complex dtype can require gradients"
            )
        if self._node is None and bool(wanted) != self._requires_grad:
            if wanted:
                # What was recorded before does not depend on this leaf.
                self._tracer._value = cut_off(self._value())
                written()
            self._requires_grad = bool(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets ``requires_grad``; returns the tensor."""
        if requires_grad and self._kind not in "fc":
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor is an input of the graph, or outside it."""
        self._sync()
        return self._node is None

    @property
    def grad_fn(self) -> Node | None:
        """The operation the tensor came from; ``None`` for leaves."""
        self._sync()
        return self._node

    def _edge(self) -> Node | None:
        """The node that stands for this tensor in the graph."""
        if self._base is not None:
            self._sync()
        if self._node is not None or not self._requires_grad:
            return self._node
        tracer, known = self._tracer, self._accumulate
        is_plain = type(tracer) is Handle and tracer._shared is None
        value = tracer._value if is_plain else self._value()
        if known is None or known.value is not value:
            known = self._accumulate = AccumulateGrad(self, value)
        return known

    @property
    def _grad(self) -> Tensor | None:
        """``grad`` without its warnings."""
        gradient = self._gradient
        if isinstance(gradient, Value):
            self._gradient = made = Tensor.of_value(gradient)
            if (maker := gradient.op) is not None and maker.mates:  # type: ignore[attr-defined]
                maker.mates.append(made._as_reference())  # type: ignore[attr-defined]
            return made
        return gradient

    @_grad.setter
    def _grad(self, new: Tensor | None) -> None:
        self._gradient = new

    @property
    def grad(self) -> Tensor | None:
        """What backward passes have left here."""
        if self._gradient is None and self._node is not None and self._retaining is None:
            warnings.warn(NON_LEAF_GRAD, UserWarning, stacklevel=2)
        return self._grad

    @grad.setter
    def grad(self, new: Tensor | None) -> None:
        check_gradient(self, new)
        self._gradient = new

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Removable:
        """Calls ``hook(gradient)`` in backward passes; a result replaces the gradient."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self._node is None:
            self._hooks = {} if self._hooks is None else self._hooks
            return registered(self._hooks, hook)

        def visit(cotangent: Value) -> Value:
            result = hook(Tensor.of_value(cotangent))
            return cotangent if result is None else result._value()

        entry = (origin(self._value()), visit)
        watchers = self._node.watchers
        watchers.append(entry)
        return Removable(lambda: watchers.remove(entry) if entry in watchers else None)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], Any]) -> Removable:
        """Calls ``hook(tensor)`` whenever a backward pass has added to the leaf's ``grad``."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self._node is not None:
            raise RuntimeError(
                "post accumulate grad hooks cannot be registered on non-leaf tensors"
            )
        self._accumulated = {} if self._accumulated is None else self._accumulated
        return registered(self._accumulated, hook)

    def retain_grad(self) -> None:
        """Makes backward passes fill ``grad`` though this is no leaf."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self._node is not None and self._retaining is None:
            self._retaining = Retaining(self)
            self._retain_anew()

    def _retain_anew(self) -> None:
        """After a write that the graph has seen, it is the gradient by what was written."""
        if self._retaining is not None and self._node is not None:
            self._retaining.watch(self._node, origin(self._value()))

    @property
    def retains_grad(self) -> bool:
        """Whether ``retain_grad`` was called on a tensor that is no leaf."""
        return self._retaining is not None

    def detach(self) -> Tensor:
        """The same memory outside the graph."""
        result = Tensor(alias(self._tracer, detached=True))
        result._layout = self._layout
        return result

    @property
    def data(self) -> Tensor:
        """The same memory outside the graph, as ``detach``."""
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(new).__name__}")
        if self.requires_grad and new._kind not in "fc":
            raise RuntimeError(
                "data set to a tensor that requires gradients must be floating point or complex "
                "dtype"
            )
        if self._node is None:
            tracer = alias(new._tracer, detached=True)
        elif new._value().type is self._value().type:
            tracer = stands_for(new._tracer, self._value())
        else:
            raise RuntimeError(
                f"the data of a tensor that {self._node.name()} computed cannot become that of a "
                f"tensor of another type: {new._value().type} in place of {self._value().type}"
            )
        self._tracer, self._layout, self._base = tracer, new._layout, None
        written()

    def set_(self, source: Tensor | None = None) -> Tensor:
        """Shows the memory of another tensor from now on, or none."""
        self._check_leaf()
        self.data = Tensor.of_array(np.empty(0, self._dtype)) if source is None else source
        return self

    _check_leaf, _check_writable = check_leaf, check_writable

    # -- as an object ----------------------------------------------------------------------

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        from symgrad.tensors.printing import render

        return render(self)

    def __deepcopy__(self, memo: Any) -> Tensor:
        if self._node is not None:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol at the moment."
            )
        copy = type(self).of_array(self._array().copy(), requires_grad=self._requires_grad)
        memo[id(self)] = copy
        return copy

    def __copy__(self) -> Tensor:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._tracer, copy._node = self._tracer, self._node
        copy._requires_grad, copy._base = self._requires_grad, self._base
        copy._gradient, copy._accumulate, copy._reference = self._grad, self._accumulate, None
        return copy

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self._array(), self.requires_grad)


def _rebuilt(kind: type[Tensor], array: Array, requires_grad: bool) -> Tensor:
    """A tensor that was pickled."""
    return kind.of_array(array, requires_grad=requires_grad)


def own_handle(x: Any) -> Handle | None:
    """The handle of a tensor whose memory is neither another's nor shared with an array."""
    handle = x._tracer if isinstance(x, Tensor) else None
    if type(handle) is not Handle or handle._view is not None or handle._shared is not None:
        return None
    return handle


def _fits(array: Array, tracer: Tracer) -> bool:
    return bool(array.dtype == tracer.dtype and array.shape == tracer.shape)


_ITS_HANDLE = 1
"""References to a value that only one tensor has."""


def _let_go(tracer: Tracer) -> None:
    """Forgets where a known value comes from."""
    value: Any = tracer._value
    if value.op is not None and value.contents is not None:
        tracer._value = leaf_of(value.contents, value.type)
