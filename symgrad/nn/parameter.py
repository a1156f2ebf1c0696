"""Parameters: the tensors a module registers as its own to be trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from symgrad.tensors import Tensor, dtypes
from symgrad.tensors.contents import Handle
from symgrad.tensors.recorded import Leaf

Array = np.ndarray[Any, Any]


class Parameter(Tensor):
    """A tensor that a module trains: assigned to an attribute of one, it is registered there.

    ``data`` is a tensor, whose memory it shares outside the graph, or an array, which is copied.
    """

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        if isinstance(data, Tensor):
            plain = data.detach()
            super().__init__(plain._tracer)
            self._layout = plain._layout
        else:
            super().__init__(Handle(Leaf(_contents(data))))
        self.requires_grad = requires_grad

    @classmethod
    def of_array(cls, array: Array, *, requires_grad: bool = True) -> Parameter:
        """A parameter of an array that nobody else writes to."""
        made = cls.__new__(cls)
        Tensor.__init__(made, Handle(Leaf(array)), requires_grad=requires_grad)
        return made

    @classmethod
    def blank(cls, shape: tuple[int, ...], dtype: Any = None) -> Parameter:
        """A parameter of zeros, to be initialised; of the default type unless told otherwise."""
        wanted = dtypes.get_default_dtype() if dtype is None else dtypes.named(dtype)
        return cls.of_array(np.zeros(shape, wanted.numpy))

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def _contents(data: Any) -> Array:
    """The array of a new parameter."""
    if data is None:
        return np.empty(0, np.float32)
    if not isinstance(data, np.ndarray | np.generic):
        raise TypeError(f"cannot make a parameter of {type(data).__name__}; give a tensor")
    return np.array(data, order="C")
