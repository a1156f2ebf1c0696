"""``grad_fn``: what is known of the operation a tensor came from.

A node records names, edges and which operands the derivative will read; the derivative
itself is the IR's.  ``AccumulateGrad`` nodes remember the value a leaf had when it was
used, so that a later change of the leaf does not reach back.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from symgrad.ir import Value
from symgrad.tensors import dtypes
from symgrad.tracer import Tracer

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor


def storage_version(tracer: Tracer) -> int:
    """How often the memory behind a handle, shared by its views, was written to."""
    while tracer._view is not None:
        tracer = tracer._view.base
    return tracer.version


Saved = tuple[Any, ...]
"""Operands and results that a derivative reads, in one tuple: of each its memory, the version of
that at the time, and the kind of node it came from."""


def saved(tensors: Iterable[Tensor]) -> Saved:
    """Tensors as they are now, to be read by a derivative."""
    found: list[Any] = []
    for t in tensors:
        x = t._tracer
        found += x, x.version if x._view is None else storage_version(x), type(t._node)
    return tuple(found)


def each(saved: Saved) -> Iterator[tuple[Tracer, int, type[Node] | type[None]]]:
    """What was saved, one by one."""
    parts = iter(saved)
    return zip(parts, parts, parts, strict=True)


def _changed(tracer: Tracer, version: int, kind: type[Node] | type[None], now: int) -> RuntimeError:
    """The error for memory that was written to since, and is at the version ``now``."""
    title = kind.title() if issubclass(kind, Node) else ""
    source = title.removesuffix("0").removesuffix("Backward")
    which = f", which is output 0 of {source}," if source else ""
    text = f"[{dtypes.legacy_name(tracer.dtype)} {list(tracer.shape)}]"
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an "
        f"inplace operation: {text}{which} is at version {now}; expected version "
        f"{version} instead. Hint: enable anomaly detection to find the operation "
        "that failed to compute its gradient, with "
        "torch.autograd.set_detect_anomaly(True, check_nan=False)."
    )


_BUILT_IN = frozenset({"AccumulateGrad", "CopyBackwards", "CopySlices", "NotImplemented"})


class Node:
    """The operation behind a tensor; its class is named as torch's."""

    __slots__ = ("__weakref__", "_watchers", "parents", "saved", "saves")

    def __init__(
        self,
        parents: tuple[Node | None, ...],
        saves: bool = False,
        saved: Saved | None = (),
    ) -> None:
        self.parents = parents
        self.saves = saves
        self.saved = saved
        """What the derivative reads; ``None`` once a backward pass has used it up."""
        self._watchers: list[tuple[Value, Callable[[Value], Value]]] | None = None

    @property
    def watchers(self) -> list[tuple[Value, Callable[[Value], Value]]]:
        """Values made here whose cotangents hooks want to see."""
        if self._watchers is None:
            self._watchers = []
        return self._watchers

    def save(self, tensor: Tensor) -> None:
        """Adds a tensor to what the derivative reads."""
        self.saved = (*(self.saved or ()), *saved([tensor]))

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """The nodes of the operands; ``None`` where no derivative is needed."""
        return tuple((parent, 0) for parent in self.parents)

    @classmethod
    def title(cls) -> str:
        """The operation's name, with its namespace where torch shows that."""
        name = cls.__name__
        return f"torch::autograd::{name}" if name in _BUILT_IN else name

    def name(self) -> str:
        """The operation's name."""
        return self.title()

    def use(self, *, retain: bool) -> None:
        """Called by each backward pass: checks that what was saved is there and unchanged."""
        if self.saved is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved "
                "tensors after they have already been freed). Saved intermediate values of the "
                "graph are freed when you call .backward() or autograd.grad(). Specify "
                "retain_graph=True if you need to backward through the graph a second time or "
                "if you need to access saved tensors after calling backward."
            )
        saved = self.saved
        for i in range(0, len(saved), 3):
            tracer = saved[i]
            now = tracer.version if tracer._view is None else storage_version(tracer)
            if now != saved[i + 1]:
                raise _changed(tracer, saved[i + 1], saved[i + 2], now)
        if self.saves and not retain:
            self.saved = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object at {id(self):#x}>"


class AccumulateGrad(Node):
    """A leaf: where backward passes leave gradients."""

    __slots__ = ("_value", "variable")

    def __init__(self, variable: Tensor, value: Value) -> None:
        self.parents = self.saved = ()
        self.saves, self._watchers = False, None
        self.variable = variable
        # Whoever can still be differentiated holds the value: a loss that is kept after its
        # backward pass must not keep the parameters it was computed from.
        self._value = weakref.ref(value) if value.op is None else lambda: value

    @property
    def value(self) -> Value | None:
        """The value that was used, if anybody still needs it."""
        return self._value()


class NotImplemented(Node):
    """An operation that no derivative is defined for."""

    __slots__ = ()

    operation: ClassVar[str]

    def use(self, *, retain: bool) -> None:
        """Refuses."""
        raise RuntimeError(f"derivative for {self.operation} is not implemented")


class ByHand(Node):
    """An operation whose derivative its author gives."""

    __slots__ = ("silent",)

    silent: frozenset[int]
    """The places of parents for which the last backward pass was told that there is none."""

    @classmethod
    def named(cls, name: str, parents: Sequence[Node | None], *, saves: bool) -> ByHand:
        """A node of a class ``name``."""
        node: ByHand = type(name, (cls,), {"__slots__": ()})(tuple(parents), saves)
        node.silent = frozenset()
        return node


@functools.cache
def kind_of_node(name: str) -> type[Node]:
    """The class of nodes ``name``; with an operation behind it, that operation's own."""
    name, _, operation = name.partition(" ")
    if operation:
        return type(name, (NotImplemented,), {"__slots__": (), "operation": operation})
    return type(name, (Node,), {"__slots__": ()})


def make_node(name: str, parents: Sequence[Node | None], *, saves: bool = False) -> Node:
    """A node of the class ``name``."""
    return kind_of_node(name)(tuple(parents), saves)


def reachable(roots: Sequence[Node]) -> list[Node]:
    """The nodes that lead to ``roots``, each once."""
    return _reached(roots, lambda node: node.parents)


def told(roots: Sequence[Node]) -> list[Node]:
    """The nodes that a backward pass brought a gradient to, if only one of zeros."""

    def parents(node: Node) -> Sequence[Node | None]:
        if isinstance(node, ByHand) and node.silent:
            return [p for i, p in enumerate(node.parents) if i not in node.silent]
        return node.parents

    return _reached(roots, parents)


def _reached(roots: Sequence[Node], parents: Callable[[Node], Sequence[Node | None]]) -> list[Node]:
    found = dict.fromkeys(roots)
    stack = list(found)
    while stack:
        for parent in parents(stack.pop()):
            if parent is not None and parent not in found:
                found[parent] = None
                stack.append(parent)
    return list(found)


def on_the_way(roots: Sequence[Node], targets: Container[int]) -> list[Node]:
    """The nodes that a sweep from ``roots`` passes to reach nodes with these ids."""
    leads: dict[int, bool] = {}
    passed: list[Node] = []
    stack = [(node, False) for node in roots]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            parents = [p for p in node.parents if p is not None]
            leads[id(node)] = any(id(p) in targets or leads[id(p)] for p in parents)
            if leads[id(node)]:
                passed.append(node)
        elif id(node) not in leads:
            leads[id(node)] = False
            stack.append((node, True))
            stack += [(p, False) for p in node.parents if p is not None]
    return passed
