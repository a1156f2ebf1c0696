"""Exact identities of elementwise ops.

Results stay bit for bit; only the sign of a zero or a nan may differ, and a constant
power of a small exponent becomes products or roots, as NumPy's own ``**`` does.
"""

from __future__ import annotations

import math
from typing import Any

from symgrad.ir.graph import NONNEGATIVE, Op, Value, scalar_constant
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.rewrite import Rule, rule
from symgrad.ir.types import DType, bool_

_HALF_RANGE = 14
_SINGLE_RANGE = 126


def made_by(value: Value, *names: str) -> Op | None:
    """The op that makes ``value`` if it is one of ``names``."""
    return value.op if value.op is not None and value.op.name in names else None


def is_power_of_two(number: Any, dtype: DType) -> bool:
    """Whether products with ``number`` or its reciprocal are exact (barring overflow)."""
    if isinstance(number, complex) or not dtype.is_inexact or not math.isfinite(number):
        return False
    mantissa, exponent = math.frexp(number)
    return abs(mantissa) == 0.5 and abs(exponent) <= (
        _HALF_RANGE if dtype.name == "f16" else _SINGLE_RANGE
    )


# -- sums and signs ---------------------------------------------------------------------


@rule("add")
def add_zero(op: Op, x: Value, y: Value) -> Value | None:
    """x + 0 = x"""
    return x if scalar_constant(y) == 0 else y if scalar_constant(x) == 0 else None


@rule("sub")
def sub_zero(op: Op, x: Value, y: Value) -> Value | None:
    """x - 0 = x and 0 - x = -x"""
    return x if scalar_constant(y) == 0 else -y if scalar_constant(x) == 0 else None


@rule("sub")
def sub_self(op: Op, x: Value, y: Value) -> Value | None:
    """x - x = 0 for integers (a float may be nan or infinite)"""
    return ew.zeros_like(x) if x is y and x.type.dtype.is_integer else None


@rule("neg")
def neg_of_neg(op: Op, x: Value) -> Value | None:
    """-(-x) = x"""
    inner = made_by(x, "neg")
    return inner.operands[0] if inner else None


@rule("neg")
def neg_of_sub(op: Op, x: Value) -> Value | None:
    """-(x - y) = y - x"""
    inner = made_by(x, "sub")
    return inner.operands[1] - inner.operands[0] if inner else None


@rule("neg")
def neg_of_constant_multiple(op: Op, x: Value) -> Value | None:
    """-(x c) = x (-c)"""
    inner = made_by(x, "mul")
    if inner is None or not x.type.dtype.is_inexact:
        return None
    left, right = inner.operands
    if scalar_constant(right) is not None:
        return left * -right
    return right * -left if scalar_constant(left) is not None else None


@rule("add")
def add_of_neg(op: Op, x: Value, y: Value) -> Value | None:
    """x + (-y) = x - y"""
    if inner := made_by(y, "neg"):
        return x - inner.operands[0]
    if inner := made_by(x, "neg"):
        return y - inner.operands[0]
    return None


@rule("sub")
def sub_of_neg(op: Op, x: Value, y: Value) -> Value | None:
    """x - (-y) = x + y"""
    inner = made_by(y, "neg")
    return x + inner.operands[0] if inner else None


@rule("mul", "div", "scale")
def product_of_neg(op: Op, x: Value, y: Value) -> Value | None:
    """(-x) y = -(x y), and a constant takes the sign: (-x) c = x (-c)"""
    for at, (one, other) in enumerate(((x, y), (y, x))):
        inner = made_by(one, "neg")
        if inner is None or not x.type.dtype.is_inexact:
            continue
        constant = scalar_constant(other) is not None and op.name != "scale"
        pair = (inner.operands[0], -other if constant else other)
        product: Value = op.opdef(*(pair if at == 0 else pair[::-1]))
        return product if constant else -product
    return None


@rule("abs", "cos", "cosh")
def even_of_neg(op: Op, x: Value) -> Value | None:
    """f(-x) = f(x) for even f"""
    inner = made_by(x, "neg")
    if inner is None or not x.type.dtype.is_inexact:
        return None
    result: Value = op.opdef(inner.operands[0])
    return result


# -- products, quotients, powers -----------------------------------------------------------


@rule("mul")
def mul_zero(op: Op, x: Value, y: Value) -> Value | None:
    """x 0 = 0 for integers"""
    zero = scalar_constant(x) == 0 or scalar_constant(y) == 0
    return ew.zeros_like(x) if zero and x.type.dtype.is_integer else None


@rule("mul")
def mul_minus_one(op: Op, x: Value, y: Value) -> Value | None:
    """x (-1) = -x"""
    if not x.type.dtype.is_inexact:
        return None
    return -x if scalar_constant(y) == -1 else -y if scalar_constant(x) == -1 else None


@rule("mul")
def mul_of_constant_multiple(op: Op, x: Value, y: Value) -> Value | None:
    """(x c) d = x (c d) where c or d is a power of two, so that no rounding changes"""
    for one, outer in ((x, y), (y, x)):
        inner = made_by(one, "mul")
        d = scalar_constant(outer)
        if inner is None or d is None:
            continue
        for base, factor in (inner.operands, inner.operands[::-1]):
            c = scalar_constant(factor)
            if c is not None and any(is_power_of_two(n, x.type.dtype) for n in (c, d)):
                return base * (factor * outer)
    return None


@rule("div")
def div_by_power_of_two(op: Op, x: Value, y: Value) -> Value | None:
    """x / c = x (1 / c) where c is a power of two; other divisors stay, for exactness"""
    c = scalar_constant(y)
    return x * (1 / c) if c is not None and is_power_of_two(c, x.type.dtype) else None


@rule("pow")
def pow_of_small_exponent(op: Op, x: Value, y: Value) -> Value | None:
    """x^3 = x x x, x^4 = (x^2)^2, x^(1/2) = sqrt x, x^(-1/2) = 1 / sqrt x"""
    exponent = scalar_constant(y)
    if exponent in (0.5, -0.5) and x.type.dtype.is_float:
        root: Value = ew.sqrt(x) if exponent > 0 else ew.rsqrt(x)
        return root
    if exponent == 2:
        return x * x
    if exponent == 3:
        return x * x * x
    return (x * x) * (x * x) if exponent == 4 else None


# -- selections, comparisons, logic ------------------------------------------------------------


@rule("select")
def select_of_constant(op: Op, c: Value, x: Value, y: Value) -> Value | None:
    """select(True, x, y) = x and select(False, x, y) = y"""
    condition = scalar_constant(c)
    return None if condition is None else x if condition else y


@rule("select")
def select_of_not(op: Op, c: Value, x: Value, y: Value) -> Value | None:
    """select(not c, x, y) = select(c, y, x)"""
    inner = made_by(c, "logical_not")
    return ew.where(inner.operands[0], y, x) if inner else None


@rule("select")
def select_of_select(op: Op, c: Value, x: Value, y: Value) -> Value | None:
    """select(c, select(c, x, _), y) = select(c, x, y), likewise on the other side"""
    if (inner := made_by(x, "select")) and inner.operands[0] is c:
        return ew.where(c, inner.operands[1], y)
    if (inner := made_by(y, "select")) and inner.operands[0] is c:
        return ew.where(c, x, inner.operands[2])
    return None


@rule("select")
def select_of_truths(op: Op, c: Value, x: Value, y: Value) -> Value | None:
    """select(c, True, False) = c and select(c, False, True) = not c"""
    if x.type.dtype != bool_ or None in (pair := (scalar_constant(x), scalar_constant(y))):
        return None
    negated: Value = ew.logical_not(c)
    return c if pair == (True, False) else negated


@rule("logical_not")
def not_of_not(op: Op, x: Value) -> Value | None:
    """not not x = x, not (x = y) = (x != y), not (x != y) = (x = y)"""
    if inner := made_by(x, "logical_not"):
        return inner.operands[0]
    if inner := made_by(x, "eq", "ne"):
        opposite: Value = (ew.ne if inner.name == "eq" else ew.eq)(*inner.operands)
        return opposite
    return None


@rule("and", "or", "maximum", "minimum")
def idempotent(op: Op, x: Value, y: Value) -> Value | None:
    """f(x, x) = x"""
    return x if x is y else None


@rule("and", "or")
def logic_with_constant(op: Op, x: Value, y: Value) -> Value | None:
    """x and True = x, x and False = False, x or False = x, x or True = True"""
    if x.type.dtype != bool_:
        return None
    for one, other in ((x, y), (y, x)):
        truth = scalar_constant(other)
        if truth is not None:
            return one if truth == (op.name == "and") else other
    return None


@rule("relu", "abs")
def clamp_of_nonnegative(op: Op, x: Value) -> Value | None:
    """relu(x) = |x| = x where x is known not to be negative"""
    return x if x.facts & NONNEGATIVE and x.type.dtype.is_float else None


@rule("convert")
def convert_of_convert(op: Op, x: Value) -> Value | None:
    """convert(convert(x, A), B) = convert(x, B) where A holds every value of x"""
    inner = made_by(x, "convert")
    if inner is None or not _holds(op.operands[0].type.dtype, inner.operands[0].type.dtype):
        return None
    result: Value = ew.convert(inner.operands[0], dtype=op.attrs["dtype"])
    return result


_MANTISSA = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53, "c64": 24, "c128": 53}


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of ``narrow`` is one of ``wide``."""
    if narrow.kind == "b" or wide == narrow:
        return True
    if wide.kind == "b":
        return False
    if narrow.is_integer:
        bits = narrow.bytes * 8 - (narrow.kind == "i")
        if wide.is_integer:
            signs = wide.kind == "i" or narrow.kind == "u"
            return signs and wide.bytes * 8 - (wide.kind == "i") >= bits
        return _MANTISSA[wide.name] >= bits
    if not wide.is_inexact or (narrow.kind == "c" and wide.kind != "c"):
        return False
    if {wide.name, narrow.name} == {"f16", "bf16"}:  # one has the digits, the other the range
        return False
    return _MANTISSA[wide.name] >= _MANTISSA[narrow.name]


RULES: tuple[Rule, ...] = (
    add_zero,
    sub_zero,
    sub_self,
    neg_of_neg,
    neg_of_sub,
    neg_of_constant_multiple,
    add_of_neg,
    sub_of_neg,
    product_of_neg,
    even_of_neg,
    mul_zero,
    mul_minus_one,
    mul_of_constant_multiple,
    div_by_power_of_two,
    pow_of_small_exponent,
    select_of_constant,
    select_of_not,
    select_of_select,
    select_of_truths,
    not_of_not,
    idempotent,
    logic_with_constant,
    clamp_of_nonnegative,
    convert_of_convert,
)
