"""Parameters: the tensors a module registers as its own to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from symgrad.tensors import Tensor, dtypes
from symgrad.tensors.contents import Handle
from symgrad.tensors.recorded import leaf_of

Array = np.ndarray[Any, Any]


class Parameter(Tensor):
    """A tensor that a module trains: assigned to an attribute of one, it is registered there.

    ``data`` is a tensor, whose memory it shares outside the graph, or an array, which is copied.
    """

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        _show(self, data)
        self.requires_grad = requires_grad

    @classmethod
    def of_array(cls, array: Array, *, requires_grad: bool = True) -> Parameter:
        """A parameter of an array that nobody else writes to."""
        made = cls.__new__(cls)
        Tensor.__init__(made, Handle(leaf_of(array)), requires_grad=requires_grad)
        return made

    @classmethod
    def blank(cls, shape: tuple[int, ...], dtype: Any = None) -> Parameter:
        """A parameter of zeros, to be initialised; of the default type unless told otherwise."""
        wanted = dtypes.get_default_dtype() if dtype is None else dtypes.named(dtype)
        return cls.of_array(np.zeros(shape, wanted.numpy))

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Buffer(Tensor):
    """A tensor that a module keeps but does not train: assigned to an attribute of one, it is
    registered there, to be saved if it is ``persistent``."""

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        _show(self, data)
        self.persistent = persistent


_UNSHAPED = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in "
    "`load_state_dict` when trying to load an uninitialized parameter into an initialized one. "
    "Call `forward` to initialize the parameters before accessing their attributes."
)


class _Uninitialized(Tensor):
    """A tensor of a lazy layer, whose shape is not known yet."""

    _becomes: ClassVar[type[Tensor]]

    def materialize(self, shape: Sequence[int], device: Any = None, dtype: Any = None) -> None:
        """Makes it an ordinary tensor of a shape, of zeros."""
        wanted = self._dtype if dtype is None else dtypes.named(dtype).numpy
        self.__class__ = self._becomes  # type: ignore[assignment]
        self._set_array(np.zeros(tuple(shape), wanted))

    @property
    def shape(self) -> Any:
        """Raises ``RuntimeError``."""
        raise RuntimeError(_UNSHAPED)

    def detach(self) -> Any:
        """The tensor itself: there is nothing to share."""
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter whose shape is not known yet."""

    _becomes = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        wanted = dtypes.get_default_dtype() if dtype is None else dtypes.named(dtype)
        super().__init__(np.empty(0, wanted.numpy), requires_grad)


class UninitializedBuffer(_Uninitialized):
    """A buffer whose shape is not known yet."""

    _becomes = Tensor

    def __init__(self, requires_grad: bool = False, device: Any = None, dtype: Any = None) -> None:
        wanted = dtypes.get_default_dtype() if dtype is None else dtypes.named(dtype)
        super().__init__(Handle(leaf_of(np.empty(0, wanted.numpy))), requires_grad=requires_grad)


def is_lazy(x: Any) -> bool:
    """Whether ``x`` is a tensor whose shape is not known yet."""
    return isinstance(x, _Uninitialized)


def _show(made: Tensor, data: Any) -> None:
    """Makes a new tensor one of the memory of another, or of a copy of an array."""
    if isinstance(data, Tensor):
        plain = data.detach()
        Tensor.__init__(made, plain._tracer)
        made._layout = plain._layout
    else:
        Tensor.__init__(made, Handle(leaf_of(_contents(data))))


def _contents(data: Any) -> Array:
    """The array of a new parameter."""
    if data is None:
        return np.empty(0, np.float32)
    if not isinstance(data, np.ndarray | np.generic):
        raise TypeError(f"cannot make a parameter of {type(data).__name__}; give a tensor")
    return np.array(data, order="C")
