"""Cheap facts about values, derived op by op on insertion.

A *tame* value is finite whenever the function's inputs are, overflow aside: a
cotangent of 0 times a tame slope is 0 without any check, so ``scale`` becomes
a plain ``mul``.  The sign facts serve to show that a divisor is harmless.
"""

from __future__ import annotations

from math import isfinite

from symgrad.ir.graph import NONNEGATIVE, NONPOSITIVE, POSITIVE, TAME, Op, Value

_ALWAYS_TAME = frozenset("tanh sigmoid erf erfc atan sign iota argmax argmin".split())
_TAME_OF_TAME = frozenset(
    "identity stop_gradient barrier custom_vjp neg add sub mul scale scale_both abs floor ceil"
    " round trunc maximum minimum relu sin cos asinh select copysign convert reshape transpose"
    " broadcast_to slice pad concatenate reverse gather scatter scatter_add dynamic_slice"
    " dynamic_update_slice reduce_sum reduce_max reduce_min cumsum moments dot_general conv"
    " conv_input_grad conv_weight_grad window_sum window_sum_grad window_max window_max_scatter"
    " window_max_gather logaddexp hypot recurrence".split()
)
_RESHAPING = frozenset(
    "identity stop_gradient reshape transpose broadcast_to slice reverse gather convert"
    " reduce_max reduce_min".split()
)
_NONNEGATIVE_RESULT = frozenset("abs exp exp2 sqrt relu sigmoid cosh hypot erfc".split())
_OF_PAIR = frozenset("add mul div maximum minimum select".split())
_SIGNED = _RESHAPING | _NONNEGATIVE_RESULT | _OF_PAIR | {"constant", "neg", "reduce_sum", "moments"}


def is_tame(value: Value) -> bool:
    """Whether a value is finite for finite inputs (overflow aside)."""
    return bool(value.facts & TAME) or not value.type.dtype.is_inexact


def is_positive(value: Value) -> bool:
    """Whether a value is known to be bounded away from 0 from above."""
    return bool(value.facts & POSITIVE)


def derive_facts(op: Op) -> None:
    """Sets the facts of a new op's results from those of its operands."""
    facts, signed = TAME if _tame(op) else 0, op.name in _SIGNED
    for value in op.results:
        value.facts = facts | _sign(op, value.index) if signed else facts


def _tame(op: Op) -> bool:
    name, operands = op.name, op.operands
    if name == "constant":
        payload = op.attrs["value"]
        if type(payload) is float:
            return isfinite(payload)
        return all(isfinite(abs(n)) for n in (payload if isinstance(payload, tuple) else [payload]))
    if name in _ALWAYS_TAME:
        return True
    for v in operands:
        if not v.facts & TAME and v.type.dtype.is_inexact:
            return False
    if name in ("div", "log", "log2", "log10", "rsqrt"):
        return is_positive(operands[-1])
    if name == "sqrt":
        return bool(operands[0].facts & NONNEGATIVE)
    if name == "log1p":
        return bool(operands[0].facts & NONNEGATIVE)
    if name in ("exp", "exp2", "expm1"):
        return bool(operands[0].facts & NONPOSITIVE)
    if name in ("scan", "checkpoint"):  # the body knows of its parameters what holds for operands
        return all(map(is_tame, op.regions[0].results))
    return name in _TAME_OF_TAME


def _sign(op: Op, index: int) -> int:
    """What is known of a result's sign; ``op`` is one of ``_SIGNED``."""
    name, facts = op.name, [v.facts for v in op.operands]
    if name == "constant":
        payload = op.attrs["value"]
        if type(payload) is float:
            return _flags(payload >= 0, payload > 0) | (NONPOSITIVE if payload <= 0 else 0)
        numbers = payload if isinstance(payload, tuple) else (payload,)
        if any(isinstance(n, complex) for n in numbers):
            return 0
        return _flags(all(n >= 0 for n in numbers), all(n > 0 for n in numbers)) | (
            NONPOSITIVE if all(n <= 0 for n in numbers) else 0
        )
    if name in _RESHAPING:
        return facts[0] & (NONNEGATIVE | POSITIVE | NONPOSITIVE)
    if name == "reduce_sum":
        return facts[0] & (NONNEGATIVE | NONPOSITIVE)
    if name == "neg":
        return (
            NONPOSITIVE if facts[0] & NONNEGATIVE else _flags(bool(facts[0] & NONPOSITIVE), False)
        )
    if name in _NONNEGATIVE_RESULT:
        strict = name == "cosh" or (name == "sqrt" and bool(facts[0] & POSITIVE))
        return _flags(True, strict)
    if name == "moments":
        return _flags(index == 1, False)
    return _sign_of_pair(name, op, facts[-2:])


def _sign_of_pair(name: str, op: Op, facts: list[int]) -> int:
    square = name == "mul" and op.operands[0] is op.operands[1]
    if not (facts[0] | facts[1]) & (NONNEGATIVE | POSITIVE):  # as a rule
        return NONNEGATIVE if square else 0
    nonneg = [bool(f & NONNEGATIVE) for f in facts]
    positive = [bool(f & POSITIVE) for f in facts]
    if name == "maximum":
        return _flags(any(nonneg), any(positive))
    if name == "add":
        return _flags(all(nonneg), all(nonneg) and any(positive))
    if name == "mul":
        return _flags(square or all(nonneg), all(positive))
    if name == "div":
        return _flags(nonneg[0] and positive[1], False)
    return _flags(all(nonneg), all(positive))


def _flags(nonnegative: bool, positive: bool) -> int:
    return (NONNEGATIVE if nonnegative or positive else 0) | (POSITIVE if positive else 0)
