"""What functions are called with, leaf by leaf: arrays, numbers, tensors and traced values.

Tensors are known here by their type alone, which need not have been imported yet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from symgrad.ir import TensorType, dtype_of
from symgrad.ir.errors import DTypeError, UsageError
from symgrad.operators import NUMBERS, is_tensor
from symgrad.tracer import Tracer, lost_in_tracing


def leaf_type(x: Any) -> tuple[TensorType, type | None]:
    """IR type of an argument, and its Python type if that is a plain number.

    Raises ``DTypeError`` for what is no array.
    """
    if type(x) in NUMBERS:
        return TensorType(dtype_of(type(x))), (None if type(x) is bool else type(x))
    if is_tensor(x):
        return x._tracer._value.type, None
    if not isinstance(x, (np.ndarray, np.generic, Tracer)):
        raise DTypeError(f"a {type(x).__name__} is no array")
    if lost := lost_in_tracing(type(x)):
        raise DTypeError(lost)
    return TensorType(dtype_of(x.dtype), tuple(x.shape)), None


def signature(x: Any) -> Any:
    """What must be equal for a compiled program to take a leaf in the place of another."""
    return _SIGNATURES[type(x)](x)


def signatures(leaves: Iterable[Any]) -> list[Any]:
    """The signatures of leaves."""
    return [_SIGNATURES[type(x)](x) for x in leaves]


def array_of(x: Any) -> Any:
    """The contents of a tensor that needs no gradient, not to be written to; else ``x``.

    Raises ``UsageError`` where a derivative would be lost.
    """
    if not is_tensor(x):
        return x
    from symgrad.tensors.state import is_grad_enabled

    if x.requires_grad and is_grad_enabled():
        raise UsageError(
            f"the graph of a tensor {x._tracer._value.type} that requires a gradient ends here; "
            "pass x.detach(), or call under no_grad()"
        )
    return x._array()


class _Signatures(dict[type, Callable[[Any], Any]]):
    """How to tell leaves of each type apart: found out when a type is first met."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        tensors = sys.modules.get("symgrad.tensors.handle")
        found: Callable[[Any], Any] = type
        if issubclass(kind, (np.ndarray, np.generic)) and not lost_in_tracing(kind):
            found = _of_array
        elif tensors is not None and issubclass(kind, tensors.Tensor):
            found = _of_tensor
        return self.setdefault(kind, found)


def _of_array(x: Any) -> Any:
    return x.dtype, x.shape


def _of_tensor(x: Any) -> Any:
    return x._tracer._value.type  # one object for each type, which equals no array's


_SIGNATURES = _Signatures()
