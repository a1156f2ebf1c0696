"""Elementwise functions under torch's names: one table row each.

A row says which IR op it is, what ``grad_fn`` is called and what its derivative reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.numpy import core
from symgrad.operators import NUMBERS
from symgrad.tensors import dtypes
from symgrad.tensors.apply import INPUTS, NOTHING, RESULT, apply
from symgrad.tensors.creation import tensor
from symgrad.tensors.halves import computed
from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import make_node
from symgrad.tensors.plans import remembered
from symgrad.tensors.state import is_grad_enabled
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage

F = TypeVar("F", bound=Callable[..., Any])

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions that are tensor methods too, by name."""

_FLOATING = {  # integers are converted to the default type
    "exp": RESULT, "exp2": RESULT, "expm1": RESULT, "sqrt": RESULT, "rsqrt": RESULT,
    "tanh": RESULT, "sigmoid": RESULT, "tan": RESULT, "log": INPUTS, "log2": INPUTS,
    "log10": INPUTS, "log1p": INPUTS, "sin": INPUTS, "cos": INPUTS, "asin": INPUTS,
    "acos": INPUTS, "atan": INPUTS, "sinh": INPUTS, "cosh": INPUTS, "asinh": INPUTS,
    "acosh": INPUTS, "atanh": INPUTS, "erf": INPUTS, "erfc": INPUTS, "erfinv": INPUTS,
    "lgamma": INPUTS,
}  # fmt: skip
_KEEPING = {
    "neg": NOTHING, "abs": INPUTS, "sign": NOTHING, "floor": NOTHING, "ceil": NOTHING,
    "round": NOTHING, "trunc": NOTHING, "relu": RESULT,
}  # fmt: skip
_ALIASES = {
    "negative": "neg", "absolute": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "fix": "trunc", "greater": "gt",
    "less": "lt", "greater_equal": "ge", "less_equal": "le", "not_equal": "ne",
}  # fmt: skip
_BINARY = {  # the IR op, what is read, the kind of its second operand in grad_fn names
    "maximum": ("maximum", INPUTS), "minimum": ("minimum", INPUTS), "fmod": ("fmod", INPUTS),
    "remainder": ("rem", INPUTS), "logaddexp": ("logaddexp", INPUTS), "hypot": ("hypot", INPUTS),
    "copysign": ("copysign", INPUTS), "atan2": ("atan2", INPUTS),
    "bitwise_and": ("and", NOTHING), "bitwise_or": ("or", NOTHING),
    "bitwise_xor": ("xor", NOTHING), "bitwise_left_shift": ("shift_left", NOTHING),
    "bitwise_right_shift": ("shift_right", NOTHING),
}  # fmt: skip
_FLOAT_RESULT = {"logaddexp", "hypot", "copysign", "atan2"}
_BY_OPERAND = {"fmod": (1, 0), "remainder": (1, 0), "copysign": (0, 1)}
"""Functions whose ``grad_fn`` is numbered by whether the second operand is a tensor or not."""
_COMPARISONS = "eq ne lt le gt ge".split()


NO_DERIVATIVE = "NotImplemented"


"""The ``grad_fn`` of what torch does not differentiate, though it would be 0 nearly everywhere:
followed by the name of the operation."""
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "** or pow()"}


def cast(x: Tracer, dtype: Any) -> Tracer:
    """A traced value converted to a dtype, or the one it is computed in: see ``halves``."""
    result: Tracer = HANDLERS["astype"](x, computed(np.dtype(dtype)))
    return result


def backward_name(name: str) -> str:
    """What torch calls the ``grad_fn`` of a function: ``exp`` gives ``ExpBackward0``."""
    text = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return f"{text.replace('1p', '1P')}Backward0"


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape; torch's error where there is none."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        a, b = shapes[0], shapes[-1]
        for back in range(1, min(len(a), len(b)) + 1):
            if a[-back] != b[-back] and 1 not in (a[-back], b[-back]):
                where = max(len(a), len(b)) - back
                raise RuntimeError(
                    f"The size of tensor a ({a[-back]}) must match the size of tensor b "
                    f"({b[-back]}) at non-singleton dimension {where}"
                ) from None
        raise


def floating(operands: tuple[Any, ...]) -> np.dtype[Any]:
    """What the common type is computed in; the default one if that is no floating-point type."""
    dtype = computed(dtypes.promote(operands))
    return dtype if dtype.kind in "fc" else dtypes.get_default_dtype().numpy


def is_number(x: Any) -> bool:
    """Whether ``x`` is a Python or NumPy number."""
    return isinstance(x, (*NUMBERS, np.generic))


def operand(x: Any, name: str, other: Any) -> Any:
    """``x`` as an operand: a tensor or a number, else ``TypeError``."""
    if isinstance(x, Tensor) or is_number(x):
        return x
    if isinstance(x, np.ndarray):
        from symgrad.tensors.interchange import from_numpy

        return from_numpy(x)
    raise TypeError(
        f"unsupported operand type(s) for {_SYMBOLS.get(name, name)}: "
        f"'{type(other).__name__}' and '{type(x).__name__}'"
    )


def in_type(number: Any, dtype: np.dtype[Any]) -> Any:
    """A number as an element of a type would hold it: rounded, cut to an integer, wrapped."""
    if dtype.kind == "f" and dtype.itemsize > 2:
        return number
    with np.errstate(all="ignore"):
        return np.asarray(number).astype(dtype).item()


def matched(operands: tuple[Any, ...], dtype: Any) -> Callable[..., list[Tracer]]:
    """Brings operands to one dtype, or the one it is computed in, and shape."""
    wide = computed(np.dtype(dtype))
    shape = broadcast_shape(*(x._tracer.shape for x in operands if isinstance(x, Tensor)))

    def bring(*values: Any) -> list[Tracer]:
        return [
            core.broadcast(cast(v, wide), shape)
            if isinstance(v, Tracer)
            else constant(in_type(v, dtype), wide, shape)
            for v in values
        ]

    return bring


def binary(
    name: str, op: str, x: Any, y: Any, saves: str, *, dtype: Any = None, label: str = "",
    parents: Any = None, scale: Any = 1,
) -> Tensor:  # fmt: skip
    """An IR op on two operands, promoted and broadcast, the second one times ``scale``."""
    x, y = operand(x, name, y), operand(y, name, x)
    if not (isinstance(x, Tensor) or isinstance(y, Tensor)):
        x = tensor(x)
    dtype = dtype or dtypes.promote((x, y))
    if op in _DIVISIONS and dtype.kind in "iu" and is_number(y) and y == 0:
        raise RuntimeError("ZeroDivisionError")
    bring = matched((x, y), dtype)

    def scaled(a: Any, b: Any) -> Any:
        a, b = bring(a, b)
        return stage(op, a, b * scale)

    result: Tensor = apply(
        label or backward_name(name),
        (lambda a, b: stage(op, *bring(a, b))) if scale == 1 else scaled,
        (x, y),
        saves=saves,
        parents=(x, y) if parents is None else parents,
    )
    return result


_DIVISIONS = ("floor_div", "rem", "fmod")


def _floating(x: Tensor) -> Any:
    return computed(x._dtype) if x._kind in "fc" else dtypes.get_default_dtype().numpy


def _declare_floating(name: str, saves: str) -> None:
    def function(input: Tensor) -> Tensor:
        dtype = _floating(input)
        made: Tensor = apply(
            backward_name(name), lambda x: stage(name, cast(x, dtype)), (input,), saves=saves
        )
        return made

    enter(remembered(function), name, f"``{name}`` of each element.")


def _declare_keeping(name: str, saves: str) -> None:
    def function(input: Tensor) -> Tensor:
        if input._kind != "f" and name in ("floor", "ceil", "round", "trunc"):
            return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]
        if input._dtype.kind == "b" and name in ("sign", "abs"):
            return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]
        if input._kind != "f" and name == "relu":
            return FUNCTIONS["clamp"](input, 0)  # type: ignore[no-any-return]
        made: Tensor = apply(backward_name(name), lambda x: stage(name, x), (input,), saves=saves)
        return made

    enter(remembered(function), name, f"``{name}`` of each element.")


def _declare_binary(name: str, op: str, saves: str) -> None:
    numbered = _BY_OPERAND.get(name)
    stem = backward_name(name).removesuffix("0")

    def function(input: Any, other: Any) -> Tensor:
        label = f"{stem}{numbered[is_number(other)] if numbered else 0}"
        if numbered and is_number(input) and name == "remainder":
            label = f"{NO_DERIVATIVE} aten::remainder"
        dtype = floating((input, other)) if name in _FLOAT_RESULT else None
        return binary(name, op, input, other, saves, dtype=dtype, label=label)

    enter(remembered(function), name, f"``{name}`` of two operands, broadcast.")


def _declare_comparison(name: str) -> None:
    def function(input: Any, other: Any) -> Tensor:
        return binary(name, name, input, other, NOTHING)

    enter(remembered(function), name, f"Where ``input {name} other``, as booleans.")


def without_derivative(result: Tensor, operation: str, *operands: Tensor) -> Tensor:
    """Marks a result such that a backward pass which comes to it raises."""
    if is_grad_enabled() and any(x.requires_grad for x in operands) and result._kind == "f":
        edges = [x._edge() for x in operands]
        result._node = make_node(f"{NO_DERIVATIVE} {operation}", edges)
    return result


def enter(function: Callable[..., Any], name: str, doc: str = "") -> None:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = function.__doc__ or doc
    FUNCTIONS[name] = function


def declared(function: F) -> F:
    """Enters a function in ``FUNCTIONS``."""
    FUNCTIONS[function.__name__] = function
    return function


for _name, _saves in _FLOATING.items():
    _declare_floating(_name, _saves)
for _name, _saves in _KEEPING.items():
    _declare_keeping(_name, _saves)
for _name, (_op, _saves) in _BINARY.items():
    _declare_binary(_name, _op, _saves)
for _name in _COMPARISONS:
    _declare_comparison(_name)
for _alias, _name in _ALIASES.items():
    FUNCTIONS[_alias] = FUNCTIONS[_name]
