"""``Function``: an operation whose derivative its author gives, as Python code on tensors.

The results of ``forward`` become those of an op ``custom``, which stands between them and the
inputs; when a backward pass comes to it, ``backward`` runs on the cotangents that have
arrived.  What it does is recorded like everything else.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.ir import Value
from symgrad.ir.errors import UsageError
from symgrad.ir.ops.structural import PULLBACKS, Pullback
from symgrad.tensors import anomaly
from symgrad.tensors.apply import write
from symgrad.tensors.contents import Handle, stands_for
from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import ByHand, saved
from symgrad.tensors.record import RECORDER, recording
from symgrad.tensors.recorded import leaf_of
from symgrad.tensors.state import is_grad_enabled, no_grad
from symgrad.tracer import Tracer


class FunctionCtx:
    """What ``forward`` leaves for ``backward``: tensors, settings, any attributes."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        """Whether a derivative by each of the arguments is wanted."""
        self._saved: tuple[Tensor | None, ...] = ()
        self._call: Callable[[], _Call | None] = lambda: None
        self._constant: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialises = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps arguments and results of ``forward``; a later change to them is an error."""
        for x in tensors:
            if x is not None and not isinstance(x, Tensor):
                raise TypeError(
                    "save_for_backward can only save variables, but argument is of type "
                    f"{type(x).__name__}"
                )
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was saved; results are part of the graph."""
        call = self._call()
        if call is None:
            return self._saved
        return tuple([x if x is None else call.in_graph(x) for x in self._saved])

    def mark_non_differentiable(self, *results: Tensor) -> None:
        """Says that these results of ``forward`` have no derivative."""
        self._constant = results

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` gets zeros, or ``None``, for results that nothing depends on."""
        self._materialises = value

    def mark_dirty(self, *args: Tensor) -> None:
        """Says that ``forward`` wrote into these arguments; it must return them."""
        self._dirty = args


class Function:
    """Base of operations with their own ``forward(ctx, ...)`` and ``backward(ctx, *grads)``.

    Both are static methods; ``Subclass.apply(...)`` runs the operation.  ``forward`` runs
    untracked.  With a static method ``setup_context(ctx, inputs, output)``, ``forward`` takes
    no ``ctx``.  ``backward`` gets the cotangent of each result and returns one gradient, or
    ``None``, for each argument.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The operation; define it in the subclass."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
        )

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps what ``backward`` needs, where ``forward`` takes no ``ctx``."""

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The derivative; define it in the subclass, under this name or as ``vjp``."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom "
            "autograd.Function to use it with backward mode AD."
        )

    vjp = backward

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """The results of ``forward``, tracked if an argument is."""
        if any(isinstance(x, Tracer) for x in args):
            raise UsageError(
                f"{cls.__name__}.apply takes tensors: inside grad and jit its own derivative "
                "would be lost"
            )
        needs = tuple([isinstance(x, Tensor) and x.requires_grad for x in args])
        ctx = FunctionCtx(needs)
        origins = _Origins(args, needs) if any(needs) else None
        with no_grad():
            if cls.setup_context is Function.setup_context:
                output = cls.forward(ctx, *args, **kwargs)
            else:
                output = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, output)
        results = output if isinstance(output, tuple) else (output,)
        if any(not any(x is r for r in results) for x in ctx._dirty):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as "
                "output. The inputs that are modified inplace must all be outputs of the Function."
            )
        shown = results if origins is None else _Call(cls, ctx, origins, results).results()
        return shown if isinstance(output, tuple) else shown[0]


class _Origins:
    """Where the arguments of a function come from, noted before ``forward`` may change them."""

    def __init__(self, args: Sequence[Any], needs: Sequence[bool]) -> None:
        self.count = len(args)
        self.tensors = [x for x in args if isinstance(x, Tensor)]
        self.edges = [x._edge() for x in self.tensors]
        self.places = [i for i, x in enumerate(args) if isinstance(x, Tensor)]
        """Which of the arguments the edges come from."""
        needed = [(i, x) for i, x in enumerate(args) if needs[i]]
        self.inputs = [(i, x.shape, x.dtype) for i, x in needed]
        """Places, shapes and types of the arguments that a derivative is wanted by."""
        self.values = [x._value() for _, x in needed]


class _Call:
    """One application of a function to arguments of which some need a derivative."""

    def __init__(
        self,
        function: type[Function],
        ctx: FunctionCtx,
        origins: _Origins,
        results: Sequence[Any],
    ) -> None:
        self._title = function.__name__
        self.name = f"{self._title}Backward"
        overridden = function.backward is not Function.backward
        self._backward: Callable[..., Any] = function.backward if overridden else function.vjp
        self._ctx, self._raw = ctx, results
        self._inputs, self._count = origins.inputs, origins.count
        self._edges, self._places = origins.edges, origins.places
        self._args = origins.tensors
        self._node: Callable[[], ByHand | None] = lambda: None
        self.sources: list[Value] = origins.values
        """The values of the arguments that a derivative is wanted by."""
        self._tracked = [i for i, x in enumerate(results) if self._differentiable(x)]
        self._types = {i: (results[i].shape, results[i].dtype) for i in self._tracked}

    def _differentiable(self, result: Any) -> bool:
        constant = any(result is x for x in self._ctx._constant)
        return isinstance(result, Tensor) and result.dtype.is_floating_point and not constant

    def results(self) -> tuple[Any, ...]:
        """The results of ``forward``, connected to the arguments where tracking is on."""
        results = list(self._raw)
        if not is_grad_enabled() or not self._tracked:
            return tuple(results)
        self._ctx._call = weakref.ref(self)
        kept = [x for x in self._ctx._saved if x is not None]
        node = ByHand.named(self.name, self._edges, saves=bool(kept))
        self._node = weakref.ref(node)
        for i, value in zip(self._tracked, self._linked(), strict=True):
            is_dirty = any(results[i] is x for x in self._ctx._dirty)
            made = Tensor.of_value(value) if is_dirty else self._shown(i, value)
            made._node = node
            anomaly.note(node, made)
            results[i] = write(results[i], made) if is_dirty else made
        node.saved = saved(kept)
        self._args = []
        return tuple(results)

    def _shown(self, place: int, value: Value) -> Tensor:
        """A result with the derivative by hand; an argument, or a view, stays in its memory."""
        raw: Tensor = self._raw[place]
        if raw._tracer._view is None and not any(raw is x for x in self._args):
            return Tensor.of_value(value)
        made = Tensor(stands_for(raw._tracer, value))
        made._layout = raw._layout
        root = raw._root()
        base = next((x for x in self._args if x._root() is root), raw)
        made._base = base if base._base is None else base._base
        made._seen = made._base._version
        made._by_hand = f"Output {place} of {self._title}", made._base._node
        return made

    def _linked(self) -> Sequence[Value]:
        values = [self._raw[i]._value() for i in self._tracked]
        return linked(self.sources, values, self._pullback)

    def in_graph(self, saved: Tensor) -> Tensor:
        """A tensor that ``forward`` saw or made, as others see it.

        A result is connected anew, where somebody may differentiate by it: to keep the first
        one's value here would keep the graph alive that leads here.
        """
        if is_grad_enabled():
            for place, i in enumerate(self._tracked):
                if self._raw[i] is saved:
                    return Tensor(Handle(self._linked()[place]))
        return saved

    def _pullback(self, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        arrived = dict(zip(self._tracked, cotangents, strict=True))
        given = [self._cotangent(i, arrived.get(i)) for i in range(len(self._raw))]
        answer = self._backward(self._ctx, *given)
        parts = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        if any(p is not None for p in parts[self._count :]) or len(parts) < self._count:
            raise RuntimeError(
                f"function {self.name} returned an incorrect number of gradients (expected "
                f"{self._count}, got {len(parts)})"
            )
        if (node := self._node()) is not None:
            places = enumerate(self._places)
            node.silent = frozenset(edge for edge, i in places if parts[i] is None)
        return [self._fitted(i, parts[i], shape, dtype) for i, shape, dtype in self._inputs]

    def _cotangent(self, place: int, value: Value | None) -> Tensor | None:
        if value is not None:
            return Tensor.of_value(value)
        if place not in self._types or not self._ctx._materialises:
            return None
        shape, dtype = self._types[place]
        return Tensor.of_array(np.zeros(shape, dtype.numpy))

    def _fitted(self, place: int, gradient: Any, shape: Any, dtype: Any) -> Value | None:
        """A gradient as its argument's type: summed over axes that were stretched."""
        if gradient is None:
            return None
        if not isinstance(gradient, Tensor):
            raise TypeError(
                f"{self.name}: expected Variable or None (got {type(gradient).__name__})"
            )
        try:
            fits = np.broadcast_shapes(shape, gradient.shape) == tuple(gradient.shape)
        except ValueError:
            fits = False
        if not fits:
            raise RuntimeError(
                f"Function {self.name} returned an invalid gradient at index {place} - got "
                f"{list(gradient.shape)} but expected shape compatible with {list(shape)}"
            )
        extra = gradient.ndim - len(shape)
        axes = [*range(extra), *(extra + a for a, n in enumerate(shape)
                                 if n == 1 and gradient.shape[extra + a] != 1)]  # fmt: skip
        if axes:
            gradient = gradient.sum(tuple(axes)).reshape(tuple(shape))
        return gradient.to(dtype)._value()  # type: ignore[no-any-return]


def linked(inputs: Sequence[Value], values: Sequence[Value], pullback: Pullback) -> Sequence[Value]:
    """The ``values``, as if ``pullback`` were their derivative by ``inputs``."""
    builder = RECORDER.builder
    key = leaf_of(np.zeros((), np.bool_))
    PULLBACKS[key] = pullback
    with recording():
        made = builder.emit("custom", key, *inputs, *values, count=len(values))
    return made if isinstance(made, tuple) else (made,)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a ``backward`` whose own derivative is wrong: asking for one is an error."""

    @functools.wraps(backward)
    def untracked(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        with no_grad():
            answer = backward(ctx, *grad_outputs)
        if not is_grad_enabled():
            return answer
        call = ctx._call()
        inputs = [x._value() for x in grad_outputs if isinstance(x, Tensor)]
        inputs += [] if call is None else call.sources
        parts = answer if isinstance(answer, tuple) else (answer,)
        guarded = tuple([_guarded(p, inputs) if isinstance(p, Tensor) else p for p in parts])
        return guarded if isinstance(answer, tuple) else guarded[0]

    return untracked


def _guarded(gradient: Tensor, inputs: Sequence[Value]) -> Tensor:
    (value,) = linked(inputs, [gradient._value()], _refuse)
    return Tensor(Handle(value))


def _refuse(cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    raise RuntimeError(
        "trying to differentiate twice a function that was marked with @once_differentiable"
    )
