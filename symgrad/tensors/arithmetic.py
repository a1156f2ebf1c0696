"""Arithmetic, limits, choice and comparison of tensors, where a table row does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.dispatch import HANDLERS
from symgrad.tensors import dtypes
from symgrad.tensors.apply import INPUTS, NOTHING, RESULT, apply
from symgrad.tensors.elementwise import (
    FUNCTIONS,
    NO_DERIVATIVE,
    backward_name,
    binary,
    cast,
    declared,
    enter,
    floating,
    in_type,
    is_number,
    matched,
    operand,
)
from symgrad.tensors.halves import computed
from symgrad.tensors.handle import Tensor
from symgrad.tensors.plans import OTHERS, remembered
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage


def scaled(input: Any, other: Any, alpha: Any) -> Any:
    """``alpha * other``, to be added to ``input``: only beside booleans a boolean."""
    if alpha == 1:
        return other
    if isinstance(other, Tensor) and other._dtype.kind == "b":
        dtype = dtypes.promote((input, other))
        if dtype.kind == "b":
            return FUNCTIONS["bitwise_and"](other, bool(alpha))
        other = other.to(dtypes.named(dtype))
    return mul(other, alpha) if isinstance(other, Tensor) else other * alpha


def combined(op: str, x: Any, y: Any, alpha: Any, **named: Any) -> Tensor:
    """``x`` and ``alpha * y`` added or subtracted; half types are rounded but once."""
    if alpha != 1 and (dtype := dtypes.promote((x, y))).itemsize < computed(dtype).itemsize:
        return binary(op, op, x, y, NOTHING, scale=in_type(alpha, dtype), **named)
    return binary(op, op, x, scaled(x, y, alpha), NOTHING, **named)


@declared
@remembered
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other``"""
    return combined("add", input, other, alpha)


@declared
@remembered
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``"""
    if "b" in (getattr(x, "_dtype", np.dtype(int)).kind for x in (input, other)):
        raise RuntimeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. If you are "
            "trying to invert a mask, use the `~` or `logical_not()` operator instead."
        )
    return combined("sub", input, other, alpha)


@declared
@remembered
def rsub(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """``other - alpha * input``"""
    number = is_number(other)
    label, parents = (f"RsubBackward{int(number)}", (input,) if number else (other, input))
    return combined("sub", other, input, alpha, label=label, parents=parents)


@declared
@remembered
def mul(input: Any, other: Any) -> Tensor:
    """``input * other``"""
    if is_number(input):  # as torch, which shows the tensor first
        input, other = other, input
    dtype = computed(dtypes.promote((input, other)))
    return binary("mul", "mul", input, other, OTHERS, dtype=dtype)


@declared
@remembered
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; with ``rounding_mode`` "floor" or "trunc" of that."""
    if rounding_mode not in (None, "floor", "trunc"):
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"'{rounding_mode}'"
        )
    if rounding_mode is None:
        return binary("div", "div", input, other, INPUTS, dtype=floating((input, other)))
    if rounding_mode == "floor":
        dtype = computed(dtypes.promote((input, other)))
        return binary("div", "floor_div", input, other, NOTHING, dtype=dtype, label="DivBackward2")
    dtype = computed(dtypes.promote((input, other)))
    bring = matched((input, other), dtype)

    def compute(x: Any, y: Any) -> Any:
        x, y = bring(x, y)
        if dtype.kind == "f":
            return stage("trunc", stage("div", x, y))
        return stage("floor_div", x - stage("fmod", x, y), y)

    made: Tensor = apply("DivBackward2", compute, (input, other), saves=NOTHING)
    return made


@declared
@remembered
def floor_divide(input: Any, other: Any) -> Tensor:
    """``div`` rounded down."""
    dtype = computed(dtypes.promote((input, other)))
    return binary("//", "floor_div", input, other, NOTHING, dtype=dtype,
                  label=f"{NO_DERIVATIVE} aten::floor_divide")  # fmt: skip


@declared
@remembered
def reciprocal(input: Tensor) -> Tensor:
    """``1 / input``"""
    dtype = floating((input,))

    def compute(x: Tracer) -> Any:
        return stage("div", constant(1, dtype, x.shape), cast(x, dtype))

    made: Tensor = apply("ReciprocalBackward0", compute, (input,), saves=RESULT)
    return made


@declared
@remembered
def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent``"""
    dtype = dtypes.promote((input, exponent))
    if is_number(exponent) and dtype.kind in "iu" and exponent < 0:
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    input, exponent = operand(input, "pow", exponent), operand(exponent, "pow", input)
    number = 0 if is_number(exponent) else 2 if is_number(input) else 1
    bring = matched((input, exponent), dtype)
    shown = [x for x in (input, exponent) if isinstance(x, Tensor)]

    def compute(x: Any, y: Any) -> Any:
        x, y = bring(x, y)
        return x & ~y | x if dtype.kind == "b" else HANDLERS[np.power](x, y)

    made: Tensor = apply(f"PowBackward{number}", compute, (input, exponent), parents=shown)
    return made


@declared
@remembered
def float_power(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent`` in float64."""
    return pow(*(x.double() if isinstance(x, Tensor) else float(x) for x in (input, exponent)))


@declared
@remembered
def square(input: Tensor) -> Tensor:
    """``input ** 2``"""
    return pow(input, 2)


# -- several operands ----------------------------------------------------------------------


def _declare_combined(name: str, formula: Callable[..., Any], options: str = "") -> None:
    def combined(input: Tensor, *tensors: Any, **given: Any) -> Tensor:
        unknown = given.keys() - {options}
        if unknown:
            raise TypeError(f"{name}() got an unexpected keyword argument '{min(unknown)}'")
        operands = (input, *tensors)
        dtype = computed(dtypes.promote(operands))
        factor = in_type(given.get(options, 1), dtype)
        bring = matched(operands, dtype)

        def compute(*values: Any) -> Any:
            return formula(factor, *bring(*values))

        read = tuple([x for x in tensors if isinstance(x, Tensor)])  # what is added to is not
        made: Tensor = apply(backward_name(name), compute, operands, saves=read)
        return made

    enter(remembered(combined), name, f"``{name}`` of torch.")


_declare_combined("addcmul", lambda value, x, a, b: x + _times(a * b, value), "value")
_declare_combined("addcdiv", lambda value, x, a, b: x + _times(a / b, value), "value")


def _times(x: Any, factor: Any) -> Any:
    return x if factor == 1 else x * factor


@declared
@remembered
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """``input + weight * (end - input)``"""
    operands = (input, end, weight)
    if input._dtype != end._dtype:
        raise RuntimeError(
            f"expected dtype {_native(input)} for `end` but got dtype {_native(end)}"
        )
    bring = matched(operands, computed(input._dtype))

    def compute(x: Any, y: Any, w: Any) -> Any:
        x, y, w = bring(x, y, w)
        return x + w * (y - x)

    number = int(isinstance(weight, Tensor))
    saves = operands if number else NOTHING  # by a number's product nothing is read
    made: Tensor = apply(f"LerpBackward{number}", compute, operands, saves=saves)
    return made


def _native(x: Tensor) -> str:
    names = {"Long": "int64_t", "BFloat16": "c10::BFloat16", "Half": "c10::Half"}
    return names.get(x.dtype.scalar_name, x.dtype.scalar_name.lower())


def _limited(label: str, input: Tensor, low: Any, high: Any) -> Tensor:
    """At a bound the whole cotangent goes to the input, as in torch."""
    bounds = [b for b in (low, high) if b is not None]
    has_low, has_high = low is not None, high is not None
    bring = matched((input, *bounds), dtypes.promote((input, *bounds)))

    def compute(*values: Any) -> Any:
        x, *limits = bring(*values)
        if has_low:
            bound = limits.pop(0)
            x = stage("select", stage("lt", x, bound), bound, x)
        if has_high:
            x = stage("select", stage("gt", x, limits[0]), limits[0], x)
        return x

    made: Tensor = apply(label, compute, (input, *bounds))
    return made


@declared
@remembered
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """The elements limited to [min, max]."""
    bounds = [b for b in (min, max) if b is not None]
    if not bounds:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    numbers = all(is_number(b) for b in bounds)
    return _limited(f"ClampBackward{int(numbers)}", input, min, max)


@declared
@remembered
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """The elements, at least ``min``."""
    return _limited(f"ClampMinBackward{int(isinstance(min, Tensor))}", input, min, None)


@declared
@remembered
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """The elements, at most ``max``."""
    return _limited(f"ClampMaxBackward{int(isinstance(max, Tensor))}", input, None, max)


# -- truth ---------------------------------------------------------------------------------


def _bits(op: str, name: str) -> None:
    def function(input: Any, other: Any) -> Tensor:
        return binary(name, op, input, other, NOTHING, dtype=np.dtype(bool))

    enter(remembered(function), name, f"``{name}`` of truth values.")


for _op in ("and", "or", "xor"):
    _bits(_op, f"logical_{_op}")


@declared
@remembered
def logical_not(input: Tensor) -> Tensor:
    """Where an element is zero or false."""
    return FUNCTIONS["eq"](input, 0)  # type: ignore[no-any-return]


@declared
@remembered
def bitwise_not(input: Tensor) -> Tensor:
    """The bits, or truth values, inverted."""
    made: Tensor = apply("", HANDLERS[np.invert], (input,))
    return made


def _declare_test(name: str, function: Callable[[Any], Any], doc: str) -> None:
    def test(input: Tensor) -> Tensor:
        made: Tensor = apply("", function, (input,))
        return made

    enter(remembered(test), name, doc)


for _name, _test, _doc in (
    ("isnan", snp.isnan, "Where an element is not a number."),
    ("isfinite", snp.isfinite, "Where an element is finite."),
    ("isinf", snp.isinf, "Where an element is infinite."),
    ("isposinf", lambda x: snp.isinf(x) & (x > 0), "Where an element is positive infinity."),
    ("isneginf", lambda x: snp.isinf(x) & (x < 0), "Where an element is negative infinity."),
    ("isreal", lambda x: constant(True, bool, x.shape), "Where an element is real: everywhere."),
    ("signbit", lambda x: snp.signbit(x) if x._kind == "f" else x < 0,
     "Where the sign bit is set."),
):  # fmt: skip
    _declare_test(_name, _test, _doc)


@declared
@remembered
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Where ``|input - other| <= atol + rtol * |other|``."""
    if input._dtype != other._dtype:
        raise RuntimeError(f"{_scalar(input)} did not match {_scalar(other)}")
    bring = matched((input, other), input._dtype)

    def compute(x: Any, y: Any) -> Any:
        x, y = bring(x, y)
        wide = x.dtype if x._kind == "f" else np.float64
        gap = abs(cast(x, wide) - cast(y, wide))
        near = snp.isfinite(gap) & (gap <= atol + rtol * abs(cast(y, wide)))
        near = near | (x == y)
        return near | (snp.isnan(x) & snp.isnan(y)) if equal_nan else near

    made: Tensor = apply("", compute, (input, other))
    return made


def _scalar(x: Tensor) -> str:
    return x.dtype.scalar_name


@declared
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether all elements agree within tolerances."""
    return bool(isclose(input, other, rtol, atol, equal_nan)._array().all())


@declared
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return input.shape == other.shape and bool(np.array_equal(input._array(), other._array()))


@declared
@remembered
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where the condition holds, ``other`` elsewhere; alone, the places where."""
    if input is None:
        return FUNCTIONS["nonzero"](condition, as_tuple=True)
    if condition._dtype.kind != "b":
        raise RuntimeError(
            "where expected condition to be a boolean tensor, but got a tensor with dtype "
            f"{condition.dtype.scalar_name}"
        )
    dtype = dtypes.promote((input, other))
    tensors = tuple(x for x in (input, other) if isinstance(x, Tensor))
    bring = matched((condition, *tensors), dtype)
    truth = matched((condition, *tensors), np.dtype(bool))

    def compute(c: Any, x: Any, y: Any) -> Any:
        return stage("select", *truth(c), *bring(x, y))

    operands = (condition, input, other)
    saved = (condition,) if isinstance(condition, Tensor) else ()
    return apply("WhereBackward0", compute, operands, saves=saved, parents=operands)


for _alias, _original in (
    ("subtract", "sub"), ("multiply", "mul"), ("divide", "div"), ("true_divide", "div"),
    ("clip", "clamp"), ("arctan2", "atan2"),
):  # fmt: skip
    FUNCTIONS[_alias] = FUNCTIONS[_original]
