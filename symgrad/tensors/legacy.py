"""Typed constructors and questions about tensors that torch has at its top level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.tensors import creation, dtypes
from symgrad.tensors.elementwise import broadcast_shape
from symgrad.tensors.handle import Tensor
from symgrad.tensors.state import MODE


def _constructor(kind: dtypes.dtype) -> Callable[..., Tensor]:
    def construct(*args: Any) -> Tensor:
        if len(args) == 1 and isinstance(args[0], (list, tuple, np.ndarray, Tensor)):
            return creation.tensor(args[0], dtype=kind)
        return creation.zeros(*args, dtype=kind)

    construct.__name__ = f"{kind.scalar_name}Tensor"
    construct.__doc__ = f"A tensor of {kind} from data, or of a shape."
    return construct


_KINDS = (
    dtypes.bfloat16, dtypes.float16, dtypes.float32, dtypes.float64, dtypes.uint8, dtypes.int8,
    dtypes.int16, dtypes.int32, dtypes.int64, dtypes.bool_,
)  # fmt: skip


def is_tensor(obj: Any) -> bool:
    """Whether an object is a tensor."""
    return isinstance(obj, Tensor)


def result_type(tensor1: Any, tensor2: Any) -> dtypes.dtype:
    """The type of an operation on two operands."""
    return dtypes.named(dtypes.promote((tensor1, tensor2)))


def broadcast_shapes(*given: Any) -> dtypes.Size:
    """The shape that shapes broadcast to."""
    return dtypes.Size(broadcast_shape(*((s,) if isinstance(s, int) else tuple(s) for s in given)))


def typename(obj: Any) -> str:
    """The name of a tensor's type, or of another object's."""
    if isinstance(obj, Tensor):
        return str(obj.type())
    kind = obj if isinstance(obj, type) else type(obj)
    return f"{kind.__module__}.{kind.__qualname__}"


def fill(input: Tensor, value: Any) -> Tensor:
    """A copy of the shape and type with one number everywhere."""
    from symgrad.tensors.apply import apply
    from symgrad.tensors.methods import _filled

    copy = input.detach().clone()
    filled = _filled(copy, value)
    if not input.requires_grad:
        return filled.clone() if isinstance(value, Tensor) else filled
    shown = (input, value) if isinstance(value, Tensor) else (input,)
    label = f"FillBackward{int(isinstance(value, Tensor))}"
    made: Tensor = apply(label, lambda x, f: f + 0 * x, (input, filled), parents=shown, saves="")
    return made


def get_default_device() -> dtypes.device:
    """Where tensors are made: the CPU."""
    return dtypes.device("cpu")


PUBLIC: dict[str, Any] = {
    **{f"{kind.scalar_name}Tensor": _constructor(kind) for kind in _KINDS},
    **{f.__name__: f for f in (is_tensor, result_type, broadcast_shapes, typename, fill,
                               get_default_device)},
    "numel": Tensor.numel,
    "detach": Tensor.detach,
    "is_floating_point": lambda input: input.is_floating_point(),
    "is_complex": lambda input: input.is_complex(),
    "is_nonzero": bool,
    "is_same_size": lambda input, other: input.shape == other.shape,
    "is_conj": lambda input: False,
    "is_inference": lambda input: MODE.inference and False,
    "is_neg": lambda input: False,
    "is_signed": lambda input: input.is_signed(),
    "newaxis": None,
    "conj": lambda input: input,
    "real": lambda input: input,
    "zero_": lambda input: input.zero_(),
}  # fmt: skip
