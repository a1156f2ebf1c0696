"""Operators of tracers: what ``x + y`` and ``x += y`` come to.

They follow NumPy's rules, or in programs on tensors those of tensors.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad.dispatch import HANDLERS

if TYPE_CHECKING:
    from symgrad.tracer import Tracer

NUMBERS = (bool, int, float, complex)


def _operator(ufunc: np.ufunc, *, swap: bool = False) -> Callable[[Any, Any], Tracer]:
    def operate(self: Any, other: Any) -> Any:
        if not is_operand(other):
            return NotImplemented
        left, right = (other, self) if swap else (self, other)
        return weaken(_rule(ufunc, self, other)(left, right), left, right)

    return operate


def _promotes(x: Tracer, other: Any) -> bool:
    """Whether the dtype of a result depends on whose rules hold, NumPy's or those of tensors."""
    if is_tensor(other):
        return bool(other._dtype != x.dtype)
    is_traced = isinstance(other, Operators)
    return x.dtype.kind not in "fc" or (is_traced and other.dtype != x.dtype)


def _rule(ufunc: np.ufunc, x: Tracer, other: Any) -> Callable[..., Any]:
    """What an operator does, by the rules of NumPy or by those of tensors."""
    if x.trace.takes_tensors and _promotes(x, other):
        return functools.partial(HANDLERS["on tensors"], _OPERATORS[ufunc])
    return HANDLERS[ufunc]


_OPERATORS: dict[np.ufunc, Callable[..., Any]] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul,
    np.true_divide: operator.truediv, np.floor_divide: operator.floordiv,
    np.remainder: operator.mod, np.divmod: divmod, np.power: operator.pow,
    np.matmul: operator.matmul, np.bitwise_and: operator.and_, np.bitwise_or: operator.or_,
    np.bitwise_xor: operator.xor, np.left_shift: operator.lshift,
    np.right_shift: operator.rshift, np.equal: operator.eq, np.not_equal: operator.ne,
    np.less: operator.lt, np.less_equal: operator.le, np.greater: operator.gt,
    np.greater_equal: operator.ge,
}  # fmt: skip


def _inplace(ufunc: np.ufunc) -> Callable[[Any, Any], Any]:
    def operate(self: Tracer, other: Any) -> Any:
        if not is_operand(other):
            return NotImplemented
        result = _rule(ufunc, self, other)(self, other)
        if not self.ndim:  # as a NumPy scalar, a 0-d tracer is immutable
            return weaken(result, self, other)
        self.assign(result, ufunc.__name__)
        return self

    return operate


def _unary(ufunc: np.ufunc) -> Callable[[Any], Tracer]:
    return lambda self: weaken(HANDLERS[ufunc](self), self)


class Operators:
    """The operators of a ``Tracer``, which is the only class with them."""

    __slots__ = ()
    weak: type | None

    __add__, __radd__, __iadd__ = _operator(np.add), _operator(np.add, swap=True), _inplace(np.add)
    __sub__, __isub__ = _operator(np.subtract), _inplace(np.subtract)
    __rsub__ = _operator(np.subtract, swap=True)
    __mul__, __imul__ = _operator(np.multiply), _inplace(np.multiply)
    __rmul__ = _operator(np.multiply, swap=True)
    __truediv__, __itruediv__ = _operator(np.true_divide), _inplace(np.true_divide)
    __rtruediv__ = _operator(np.true_divide, swap=True)
    __floordiv__, __ifloordiv__ = _operator(np.floor_divide), _inplace(np.floor_divide)
    __rfloordiv__ = _operator(np.floor_divide, swap=True)
    __mod__, __imod__ = _operator(np.remainder), _inplace(np.remainder)
    __rmod__ = _operator(np.remainder, swap=True)
    __divmod__, __rdivmod__ = _operator(np.divmod), _operator(np.divmod, swap=True)
    __pow__, __ipow__ = _operator(np.power), _inplace(np.power)
    __rpow__ = _operator(np.power, swap=True)
    __matmul__, __imatmul__ = _operator(np.matmul), _inplace(np.matmul)
    __rmatmul__ = _operator(np.matmul, swap=True)
    __and__, __iand__ = _operator(np.bitwise_and), _inplace(np.bitwise_and)
    __rand__ = _operator(np.bitwise_and, swap=True)
    __or__, __ior__ = _operator(np.bitwise_or), _inplace(np.bitwise_or)
    __ror__ = _operator(np.bitwise_or, swap=True)
    __xor__, __ixor__ = _operator(np.bitwise_xor), _inplace(np.bitwise_xor)
    __rxor__ = _operator(np.bitwise_xor, swap=True)
    __lshift__, __ilshift__ = _operator(np.left_shift), _inplace(np.left_shift)
    __rlshift__ = _operator(np.left_shift, swap=True)
    __rshift__, __irshift__ = _operator(np.right_shift), _inplace(np.right_shift)
    __rrshift__ = _operator(np.right_shift, swap=True)
    __eq__ = _operator(np.equal)  # type: ignore[assignment]
    __ne__ = _operator(np.not_equal)  # type: ignore[assignment]
    __lt__, __le__ = _operator(np.less), _operator(np.less_equal)
    __gt__, __ge__ = _operator(np.greater), _operator(np.greater_equal)
    __neg__, __pos__ = _unary(np.negative), _unary(np.positive)
    __abs__, __invert__ = _unary(np.absolute), _unary(np.invert)
    __hash__ = None  # type: ignore[assignment]  # as arrays: == is elementwise


def is_operand(x: Any) -> bool:
    """Whether arithmetic takes ``x``: a tracer, an array, a tensor or a number."""
    known = isinstance(x, (Operators, np.ndarray, np.generic, list, tuple, *NUMBERS))
    return known or is_tensor(x)


def is_tensor(x: Any) -> bool:
    """Whether a value is a tensor, whose type need not have been imported yet."""
    tensors = sys.modules.get("symgrad.tensors.handle")
    return tensors is not None and isinstance(x, tensors.Tensor)


def weaken(result: Any, *operands: Any) -> Any:
    """Marks the result of an operator on nothing but Python numbers as one itself."""
    if all(map(_stands_for_a_number, operands)):
        kinds = {"f": float, "i": int, "c": complex}
        for x in result if isinstance(result, tuple) else (result,):
            x.weak = kinds.get(x._kind)
    return result


def _stands_for_a_number(x: Any) -> bool:
    return x.weak is not None if isinstance(x, Operators) else type(x) in NUMBERS
