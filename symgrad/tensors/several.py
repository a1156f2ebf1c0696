"""What is done with many tensors at once, as training steps do: in few calls.

Each function spares for tensors of the common kind the call of the method that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from symgrad.ir import Value
from symgrad.tensors.contents import Handle
from symgrad.tensors.nodes import Node
from symgrad.tensors.standing import written

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor


def values_of(tensors: Iterable[Tensor]) -> list[Value]:
    """The present values of tensors."""
    return [
        t._tracer._value if type(t._tracer) is Handle and t._tracer._shared is None else t._value()
        for t in tensors
    ]


def give_values(tensors: Iterable[Tensor], values: Iterable[Value]) -> None:
    """Each tensor takes a value that is nobody else's: see ``Tensor._take``."""
    for tensor, value in zip(tensors, values, strict=True):
        handle = tensor._tracer
        if type(handle) is Handle and handle._shared is None:
            handle._value = value
            handle.version += 1
            if handle.stands:
                written()
        else:
            tensor._take(value)


def edges_of(tensors: Iterable[Tensor]) -> list[Node | None]:
    """The nodes that stand for tensors in the graph; ``None`` for those outside it."""
    return [
        t._edge() if t._base is not None or (t._node is None and t._requires_grad) else t._node
        for t in tensors
    ]


def need_gradient(tensors: Iterable[Tensor]) -> bool:
    """Whether a derivative by any of these tensors, or through it, may be asked for."""
    return True in [
        t._node is not None or t._requires_grad or (t._base is not None and t.requires_grad)
        for t in tensors
    ]
