"""Methods and operators of ``Tensor``, made from the tables of shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.tensors import creation, products, reductions, shapes  # noqa: F401
from symgrad.tensors.apply import write
from symgrad.tensors.elementwise import FUNCTIONS, is_number
from symgrad.tensors.engine import backward_from
from symgrad.tensors.forgotten import Hinting
from symgrad.tensors.handle import Tensor
from symgrad.tensors.indexing import getitem, setitem
from symgrad.tensors.interchange import numpy
from symgrad.tensors.state import no_grad

_INPLACE = """add sub mul div pow remainder fmod floor_divide clamp exp log sqrt rsqrt neg abs sin
cos tanh sigmoid relu round floor ceil trunc square reciprocal erf masked_fill tril triu
bitwise_and bitwise_or bitwise_xor logical_and logical_or""".split()
"""Functions whose name with ``_`` writes the result into the tensor."""


def in_place(target: Tensor, result: Tensor, name: str = "") -> Tensor:
    """Ends an in-place operation: the result must be of a kind the tensor can hold."""
    if np.can_cast(result._dtype, target._dtype, "same_kind"):
        return write(target, result.to(target.dtype), name)
    raise RuntimeError(
        f"result type {result.dtype.scalar_name} can't be cast to the desired output type "
        f"{target.dtype.scalar_name}"
    )


def _inplace(name: str) -> Callable[..., Tensor]:
    function = FUNCTIONS[name]

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        others = [x for x in args if isinstance(x, Tensor)]
        self._check_writable(any(x.requires_grad for x in others))
        return in_place(self, function(self, *args, **kwargs))

    method.__name__ = f"{name}_"
    method.__doc__ = f"``{name}``, written into the tensor."
    return method


def _operator(name: str, *, swap: bool = False) -> Callable[[Any, Any], Any]:
    function = FUNCTIONS[name]

    def operate(self: Tensor, other: Any) -> Any:
        if not (isinstance(other, (Tensor, np.ndarray)) or is_number(other)):
            return NotImplemented
        return function(other, self) if swap else function(self, other)

    return operate


def _fill(self: Tensor, value: Any) -> Tensor:
    """Writes one number everywhere."""
    self._check_writable(False)
    number = value.item() if isinstance(value, Tensor) else value
    return write(self, creation.full_like(self, number), "FillBackward0")


def _zero(self: Tensor) -> Tensor:
    """Writes zeros."""
    self._check_writable(False)
    return write(self, creation.zeros_like(self), "ZeroBackward0")


def _copy(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Writes the elements of another tensor, converted and broadcast."""
    self._check_writable(src.requires_grad)
    return write(self, shapes.expand(src.to(self.dtype), tuple(self.shape)), "CopyBackwards")


def _random(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._check_writable(False)
        with no_grad():
            return write(self, draw(self, *args, **kwargs))

    return method


def _normal(self: Tensor, mean: float = 0, std: float = 1) -> Tensor:
    drawn: Tensor = creation.randn_like(self) * std + mean
    return drawn


def _uniform(self: Tensor, low: float = 0, high: float = 1) -> Tensor:
    drawn: Tensor = creation.rand_like(self) * (high - low) + low
    return drawn


def _rsub(self: Tensor, other: Any) -> Any:
    known = isinstance(other, (Tensor, np.ndarray)) or is_number(other)
    return FUNCTIONS["rsub"](self, other) if known else NotImplemented


def _rdiv(self: Tensor, other: Any) -> Any:
    if is_number(other):
        return FUNCTIONS["mul"](FUNCTIONS["reciprocal"](self), other)  # as torch does
    return (
        FUNCTIONS["div"](other, self) if isinstance(other, (Tensor, np.ndarray)) else NotImplemented
    )


def _equal(self: Tensor, other: Any) -> Any:
    known = isinstance(other, (Tensor, np.ndarray)) or is_number(other)
    return FUNCTIONS["eq"](self, other) if known else NotImplemented


_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "pow": "pow", "mod": "remainder",
    "floordiv": "floor_divide", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor",
}  # fmt: skip

for _special, _name in _OPERATORS.items():
    setattr(Tensor, f"__{_special}__", _operator(_name))
    setattr(Tensor, f"__r{_special}__", _operator(_name, swap=True))
    if _name != "matmul":
        setattr(Tensor, f"__i{_special}__", _inplace(_name))
for _name in ("ne", "lt", "le", "gt", "ge"):
    setattr(Tensor, f"__{_name}__", _operator(_name))


def _detached(self: Tensor) -> Tensor:
    """Takes the tensor itself out of the graph."""
    plain = self.detach()
    self._tracer, self._node, self._requires_grad = plain._tracer, None, False
    self._base, self._origin = None, plain._origin
    return self


_METHODS: dict[str, Any] = {
    **{name: function for name, function in FUNCTIONS.items() if not name.startswith("_")},
    **{name[1:]: FUNCTIONS[name] for name in FUNCTIONS if name.startswith("_")},
    **{f"{name}_": _inplace(name) for name in _INPLACE},
    "__rsub__": _rsub,
    "__rtruediv__": _rdiv,
    "__neg__": FUNCTIONS["neg"],
    "__pos__": lambda self: self,
    "__abs__": FUNCTIONS["abs"],
    "__invert__": FUNCTIONS["bitwise_not"],
    "__eq__": _equal,
    "__getitem__": getitem,
    "__setitem__": setitem,
    "backward": backward_from,
    "numpy": numpy,
    "fill_": _fill,
    "zero_": _zero,
    "copy_": _copy,
    "normal_": _random(_normal),
    "uniform_": _random(_uniform),
    "detach_": _detached,
    "new_zeros": lambda self, *size, **kw: creation.zeros(*size, **{"dtype": self.dtype, **kw}),
    "new_ones": lambda self, *size, **kw: creation.ones(*size, **{"dtype": self.dtype, **kw}),
    "new_tensor": lambda self, data, **kw: creation.tensor(data, **{"dtype": self.dtype, **kw}),
    "nelement": Tensor.numel,
    "ndimension": Tensor.dim,
    "is_floating_point": lambda self: self.dtype.is_floating_point,
    "element_size": lambda self: self.dtype.itemsize,
    "cpu": lambda self: self,
    "is_contiguous": lambda self: True,
    "type_as": lambda self, other: self.to(other.dtype),
}


_SUMMARIES = "sum mean prod max min amax amin median norm std var".split()
"""Methods that losses end with: a forgotten pair of parentheses gets a hint."""

for _name, _method in _METHODS.items():
    setattr(Tensor, _name, Hinting(_method) if _name in _SUMMARIES else _method)


def _transposed(self: Tensor) -> Tensor:
    """The axes reversed."""
    return shapes.permute(self, tuple(reversed(range(self.ndim))))


Tensor.T = property(_transposed)  # type: ignore[assignment]
Tensor.mT = property(lambda self: shapes.transpose(self, -2, -1))  # type: ignore[assignment]
