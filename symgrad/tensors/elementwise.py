"""Elementwise functions under torch's names: one table row each.

A row says which IR op it is, what ``grad_fn`` is called and what its derivative reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

import symgrad.numpy as snp
from symgrad.numpy import core
from symgrad.tensors import dtypes
from symgrad.tensors.apply import INPUTS, NOTHING, OTHERS, RESULT, apply, stage
from symgrad.tensors.creation import tensor
from symgrad.tensors.handle import Tensor
from symgrad.tracer import HANDLERS, NUMBERS, Tracer
from symgrad.tracing import constant

F = TypeVar("F", bound=Callable[..., Any])

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions that are tensor methods too, by name."""

_FLOATING = {  # integers are converted to the default type
    "exp": RESULT, "exp2": RESULT, "expm1": RESULT, "sqrt": RESULT, "rsqrt": RESULT,
    "tanh": RESULT, "sigmoid": RESULT, "tan": RESULT, "log": INPUTS, "log2": INPUTS,
    "log10": INPUTS, "log1p": INPUTS, "sin": INPUTS, "cos": INPUTS, "asin": INPUTS,
    "acos": INPUTS, "atan": INPUTS, "sinh": INPUTS, "cosh": INPUTS, "asinh": INPUTS,
    "acosh": INPUTS, "atanh": INPUTS, "erf": INPUTS, "erfc": INPUTS,
}  # fmt: skip
_KEEPING = {
    "neg": NOTHING, "abs": INPUTS, "sign": NOTHING, "floor": NOTHING, "ceil": NOTHING,
    "round": NOTHING, "trunc": NOTHING, "relu": RESULT,
}  # fmt: skip
_ALIASES = {"negative": "neg", "absolute": "abs", "arcsin": "asin", "arccos": "acos",
            "arctan": "atan", "multiply": "mul", "subtract": "sub", "divide": "div",
            "true_divide": "div", "clip": "clamp", "greater": "gt", "less": "lt",
            "greater_equal": "ge", "less_equal": "le", "not_equal": "ne"}  # fmt: skip
_BINARY = {
    "maximum": ("maximum", INPUTS), "minimum": ("minimum", INPUTS), "fmod": ("fmod", INPUTS),
    "remainder": ("rem", INPUTS), "logaddexp": ("logaddexp", INPUTS), "hypot": ("hypot", INPUTS),
    "copysign": ("copysign", INPUTS), "floor_divide": ("floor_div", NOTHING),
    "bitwise_and": ("and", NOTHING), "bitwise_or": ("or", NOTHING),
    "bitwise_xor": ("xor", NOTHING),
}  # fmt: skip
_COMPARISONS = "eq ne lt le gt ge".split()


def cast(x: Tracer, dtype: Any) -> Tracer:
    """A traced value converted to a dtype."""
    result: Tracer = HANDLERS["astype"](x, dtype)
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
        f"unsupported operand type(s) for {name}: '{type(other).__name__}' and '{type(x).__name__}'"
    )


def matched(operands: tuple[Any, ...], dtype: Any) -> Callable[..., list[Tracer]]:
    """Brings operands to one dtype and shape."""
    shape = broadcast_shape(*(x._tracer.shape for x in operands if isinstance(x, Tensor)))

    def bring(*values: Any) -> list[Tracer]:
        return [
            core.broadcast(cast(v, dtype), shape)
            if isinstance(v, Tracer)
            else constant(v, dtype, shape)
            for v in values
        ]

    return bring


def binary(
    name: str, op: str, x: Any, y: Any, saves: str, *, dtype: Any = None, label: str = "",
    parents: Any = None,
) -> Tensor:  # fmt: skip
    """An IR op on two operands, promoted and broadcast."""
    x, y = operand(x, name, y), operand(y, name, x)
    if not (isinstance(x, Tensor) or isinstance(y, Tensor)):
        x = tensor(x)
    bring = matched((x, y), dtype or dtypes.promote((x, y)))
    result: Tensor = apply(
        label or backward_name(name),
        lambda a, b: stage(op, *bring(a, b)),
        (x, y),
        saves=saves,
        parents=(x, y) if parents is None else parents,
    )
    return result


def _floating(x: Tensor) -> Any:
    return x._dtype if x._dtype.kind in "fc" else dtypes.get_default_dtype().numpy


def _declare_floating(name: str, saves: str) -> None:
    def function(input: Tensor) -> Tensor:
        dtype = _floating(input)
        made: Tensor = apply(
            backward_name(name), lambda x: stage(name, cast(x, dtype)), (input,), saves=saves
        )
        return made

    _enter(function, name, f"``{name}`` of each element.")


def _declare_keeping(name: str, saves: str) -> None:
    def function(input: Tensor) -> Tensor:
        if input._dtype.kind != "f" and name in ("floor", "ceil", "round", "trunc"):
            return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]
        made: Tensor = apply(backward_name(name), lambda x: stage(name, x), (input,), saves=saves)
        return made

    _enter(function, name, f"``{name}`` of each element.")


def _declare_binary(name: str, op: str, saves: str) -> None:
    def function(input: Any, other: Any) -> Tensor:
        return binary(name, op, input, other, saves)

    _enter(function, name, f"``{name}`` of two operands, broadcast.")


def _declare_comparison(name: str) -> None:
    def function(input: Any, other: Any) -> Tensor:
        return binary(name, name, input, other, NOTHING)

    _enter(function, name, f"Where ``input {name} other``, as booleans.")


def _enter(function: Callable[..., Any], name: str, doc: str = "") -> None:
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


def _scaled(other: Any, alpha: Any) -> Any:
    return (
        other if alpha == 1 else mul(other, alpha) if isinstance(other, Tensor) else other * alpha
    )


@declared
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other``"""
    return binary("add", "add", input, _scaled(other, alpha), NOTHING)


@declared
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``"""
    return binary("sub", "sub", input, _scaled(other, alpha), NOTHING)


@declared
def rsub(input: Tensor, other: Any) -> Tensor:
    """``other - input``"""
    number = is_number(other)
    label, parents = ("RsubBackward1", (input,)) if number else ("", None)
    return binary("sub", "sub", other, input, NOTHING, label=label, parents=parents)


@declared
def mul(input: Any, other: Any) -> Tensor:
    """``input * other``"""
    if is_number(input):  # as torch, which shows the tensor first
        input, other = other, input
    return binary("mul", "mul", input, other, OTHERS)


@declared
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; with ``rounding_mode`` "floor" or "trunc" of that."""
    if rounding_mode == "floor":
        return FUNCTIONS["floor_divide"](input, other)  # type: ignore[no-any-return]
    dtype = dtypes.promote((input, other))
    if dtype.kind not in "fc":
        dtype = dtypes.get_default_dtype().numpy
    quotient = binary("div", "div", input, other, INPUTS, dtype=dtype)
    return FUNCTIONS["trunc"](quotient) if rounding_mode == "trunc" else quotient


@declared
def reciprocal(input: Tensor) -> Tensor:
    """``1 / input``"""
    dtype = _floating(input)

    def compute(x: Tracer) -> Any:
        return stage("div", constant(1, dtype, x.shape), cast(x, dtype))

    made: Tensor = apply("ReciprocalBackward0", compute, (input,), saves=RESULT)
    return made


@declared
def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent``"""
    dtype = dtypes.promote((input, exponent))
    if is_number(exponent) and dtype.kind in "iu" and exponent < 0:
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    number = 0 if is_number(exponent) else 2 if is_number(input) else 1
    bring = matched((input, exponent), dtype)
    shown = [x for x in (input, exponent) if isinstance(x, Tensor)]

    def compute(x: Any, y: Any) -> Any:
        return HANDLERS[np.power](*bring(x, y))

    made: Tensor = apply(f"PowBackward{number}", compute, (input, exponent), parents=shown)
    return made


@declared
def square(input: Tensor) -> Tensor:
    """``input ** 2``"""
    return pow(input, 2)


@declared
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the points ``(other, input)``."""
    return binary("atan2", "atan2", input, other, INPUTS, label="Atan2Backward0")


@declared
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """The elements limited to [min, max]."""
    bounds = [b for b in (min, max) if b is not None]
    if not bounds:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    numbers = all(is_number(b) for b in bounds)
    dtype = dtypes.promote((input, *bounds))
    bring = matched((input, *bounds), dtype)

    def compute(x: Tracer, *limits: Any) -> Any:
        x, *low_high = bring(x, *limits)
        if min is not None:
            x = stage("maximum", x, low_high.pop(0))
        return stage("minimum", x, low_high[0]) if low_high else x

    made: Tensor = apply(f"ClampBackward{int(numbers)}", compute, (input, *bounds))
    return made


def _bits(op: str, name: str) -> None:
    def function(input: Any, other: Any) -> Tensor:
        return binary(name, op, input, other, NOTHING, dtype=np.dtype(bool))

    _enter(function, name, f"``{name}`` of truth values.")


for _op in ("and", "or", "xor"):
    _bits(_op, f"logical_{_op}")


@declared
def logical_not(input: Tensor) -> Tensor:
    """Where an element is zero or false."""
    return FUNCTIONS["eq"](input, 0)  # type: ignore[no-any-return]


@declared
def bitwise_not(input: Tensor) -> Tensor:
    """The bits, or truth values, inverted."""
    made: Tensor = apply("", HANDLERS[np.invert], (input,))
    return made


@declared
def isnan(input: Tensor) -> Tensor:
    """Where an element is not a number."""
    made: Tensor = apply("", snp.isnan, (input,))
    return made


@declared
def isfinite(input: Tensor) -> Tensor:
    """Where an element is finite."""
    made: Tensor = apply("", snp.isfinite, (input,))
    return made


@declared
def isinf(input: Tensor) -> Tensor:
    """Where an element is infinite."""
    made: Tensor = apply("", snp.isinf, (input,))
    return made


@declared
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where the condition holds, ``other`` elsewhere; alone, the places where."""
    if input is None:
        return FUNCTIONS["nonzero"](condition, as_tuple=True)
    dtype = dtypes.promote((input, other))
    tensors = tuple(x for x in (input, other) if isinstance(x, Tensor))
    bring = matched((condition, *tensors), dtype)
    truth = matched((condition, *tensors), np.dtype(bool))

    def compute(c: Any, x: Any, y: Any) -> Any:
        return stage("select", *truth(c), *bring(x, y))

    return apply("WhereBackward0", compute, (condition, input, other), parents=(input, other))


for _alias, _name in _ALIASES.items():
    FUNCTIONS[_alias] = FUNCTIONS[_name]
