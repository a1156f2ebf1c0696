"""Replaces formulas by equal ones that lose no digits and do not overflow on the way.

Runs on values and derivatives alike: the adjoint of log(sum(exp(x))) holds
exp(x) / sum(exp(x)), which overflows where the logarithm itself would.
"""

from __future__ import annotations

from symgrad.ir.graph import NONPOSITIVE, Func, Op, Value, insertion, scalar_constant
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import reduce as rd
from symgrad.ir.passes.algebra import made_by
from symgrad.ir.passes.canonicalize import RULES as NORMAL_FORM
from symgrad.ir.rewrite import Rule, rewrite, rule

_PRODUCTS = ("mul", "scale")


def stabilize(func: Func) -> Func:
    """Returns ``func`` in normal form with its delicate formulas in their stable forms."""
    return rewrite(func, (*RULES, *NORMAL_FORM))


# -- near 0 and near 1 ---------------------------------------------------------------------


def _beside_one(value: Value) -> Value | None:
    """``x`` of ``1 + x``, or ``-x`` of ``1 - x``."""
    if inner := made_by(value, "add"):
        for one, other in (inner.operands, inner.operands[::-1]):
            if scalar_constant(one) == 1:
                return other
    if (inner := made_by(value, "sub")) and scalar_constant(inner.operands[0]) == 1:
        return -inner.operands[1]
    return None


@rule("log")
def log_of_one_plus(op: Op, x: Value) -> Value | None:
    """log(1 + x) = log1p(x)"""
    rest = _beside_one(x)
    result: Value | None = None if rest is None else ew.log1p(rest)
    return result


@rule("sub", "add")
def exp_minus_one(op: Op, x: Value, y: Value) -> Value | None:
    """exp(x) - 1 = expm1(x) and 1 - exp(x) = -expm1(x)"""
    step = 1 if op.name == "sub" else -1
    if (inner := made_by(x, "exp")) and scalar_constant(y) == step:
        result: Value = ew.expm1(*inner.operands)
        return result
    if (inner := made_by(y, "exp")) and scalar_constant(x) == step:
        result = ew.expm1(*inner.operands)
        return -result if op.name == "sub" else result
    return None


@rule("sub", "add")
def one_minus_erf(op: Op, x: Value, y: Value) -> Value | None:
    """1 - erf(x) = erfc(x) and 1 + erf(x) = erfc(-x)"""
    result: Value
    if (inner := made_by(y, "erf")) and scalar_constant(x) == 1:
        (u,) = inner.operands
        result = ew.erfc(u if op.name == "sub" else -u)
        return result
    if op.name == "add" and (inner := made_by(x, "erf")) and scalar_constant(y) == 1:
        result = ew.erfc(-inner.operands[0])
        return result
    return None


# -- logarithms of exponentials -------------------------------------------------------------


@rule("log")
def log_of_exp(op: Op, x: Value) -> Value | None:
    """log(exp(x)) = x and log(exp(x) / y) = x - log(y)"""
    if inner := made_by(x, "exp"):
        return inner.operands[0]
    if (quotient := made_by(x, "div")) and (inner := made_by(quotient.operands[0], "exp")):
        difference: Value = inner.operands[0] - ew.log(quotient.operands[1])
        return difference
    return None


@rule("log")
def log_of_two_exps(op: Op, x: Value) -> Value | None:
    """log(exp(x) + exp(y)) = logaddexp(x, y)"""
    if exps := _two_exps(x):
        result: Value = ew.logaddexp(*exps)
        return result
    return None


def _two_exps(value: Value) -> tuple[Value, Value] | None:
    inner = made_by(value, "add")
    if inner is None:
        return None
    first, second = (made_by(v, "exp") for v in inner.operands)
    return (first.operands[0], second.operands[0]) if first and second else None


@rule("log1p")
def log1p_of_exp(op: Op, x: Value) -> Value | None:
    """log1p(exp(x)) = max(x, 0) + log1p(exp(-|x|))"""
    inner = made_by(x, "exp")
    if inner is None or not x.type.dtype.is_float or inner.operands[0].facts & NONPOSITIVE:
        return None
    return _softplus(inner.operands[0])


def _softplus(x: Value) -> Value:
    result: Value = ew.relu(x) + ew.log1p(ew.exp(-ew.abs(x)))
    return result


@rule("log")
def log_of_sigmoid(op: Op, x: Value) -> Value | None:
    """log(sigmoid(x)) = -softplus(-x) and log(1 - sigmoid(x)) = -softplus(x)"""
    if (inner := made_by(x, "sigmoid")) and x.type.dtype.is_float:
        return -_softplus(-inner.operands[0])
    if (outer := made_by(x, "sub")) and scalar_constant(outer.operands[0]) == 1:
        inner = made_by(outer.operands[1], "sigmoid")
        return -_softplus(inner.operands[0]) if inner and x.type.dtype.is_float else None
    return None


@rule("log")
def log_of_sum_of_exps(op: Op, x: Value) -> Value | None:
    """log(sum(exp(x))) = m + log(sum(exp(x - m))) with m = max(x)"""
    sums = _sum_of_exps(x)
    if sums is None:
        return None
    argument, axes = sums
    top = _top(argument, axes)
    shifted = argument - rd.spread(top, argument, axes)
    result: Value = top + ew.log(rd.reduce_sum(ew.exp(shifted), axes=axes))
    return result


def _sum_of_exps(value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """``x`` and the axes of ``sum(exp(x))``, unless ``x`` has been shifted by its maximum."""
    outer = made_by(value, "reduce_sum")
    inner = outer and made_by(outer.operands[0], "exp")
    if not outer or not inner or not value.type.dtype.is_float:
        return None
    (x,) = inner.operands
    if shift := made_by(x, "sub"):
        top = made_by(shift.operands[1], "broadcast_to")
        if top and made_by(top.operands[0], "reduce_max", "select"):
            return None
    return x, outer.attrs["axes"]


def _top(x: Value, axes: tuple[int, ...]) -> Value:
    """The maximum along axes, 0 where that is infinite and would make nan of a difference."""
    top = rd.reduce_max(x, axes=axes)
    return ew.where(ew.isfinite(top), top, 0.0)


# -- quotients of exponentials ------------------------------------------------------------------


@rule("div")
def logistic(op: Op, x: Value, y: Value) -> Value | None:
    """x / (1 + exp(-y)) = x sigmoid(y), which does not divide by infinity"""
    rest = _beside_one(y) if made_by(y, "add") else None
    inner = made_by(rest, "exp") if rest is not None else None
    if inner is None or not y.type.dtype.is_float:
        return None
    result: Value = x * ew.sigmoid(-inner.operands[0])
    return result


def _factors(value: Value) -> tuple[Value | None, Value]:
    """``(c, f)`` of a product ``c f``; ``(None, value)`` of anything else."""
    inner = made_by(value, *_PRODUCTS)
    return (inner.operands[0], inner.operands[1]) if inner else (None, value)


def _are_opposite(x: Value, y: Value) -> bool:
    one, other = made_by(x, "neg"), made_by(y, "neg")
    return bool((one and one.operands[0] is y) or (other and other.operands[0] is x))


@rule(*_PRODUCTS)
def exp_times_sigmoid(op: Op, x: Value, y: Value) -> Value | None:
    """exp(x) sigmoid(-x) = sigmoid(x), also within a product: no infinity times 0"""
    for left, right in ((x, y), (y, x)):
        exp = made_by(right, "exp")
        if exp is None:
            continue
        other, factor = _factors(left)
        for rest, candidate in ((other, factor), (factor, other)):
            sigmoid = made_by(candidate, "sigmoid") if candidate is not None else None
            if sigmoid and _are_opposite(sigmoid.operands[0], exp.operands[0]):
                value: Value = ew.sigmoid(exp.operands[0])
                return value if rest is None else rest * value
    return None


def _quotient(value: Value) -> tuple[Value, Value] | None:
    """``(c, d)`` of ``c / d``, ``c (1 / d)`` or ``scale(c, 1 / d)``."""
    if inner := made_by(value, "div"):
        return inner.operands[0], inner.operands[1]
    if inner := made_by(value, *_PRODUCTS):
        for c, reciprocal in (inner.operands, inner.operands[::-1]):
            below = made_by(reciprocal, "div")
            if below and scalar_constant(below.operands[0]) == 1:
                return c, below.operands[1]
    return None


@rule(*_PRODUCTS)
def sigmoid_cancels(op: Op, x: Value, y: Value) -> Value | None:
    """(c / s) (s t) = c t for s = sigmoid(x), where s may underflow; 1 - s = sigmoid(-x)"""
    for left, right in ((x, y), (y, x)):
        quotient, product = _quotient(left), made_by(right, "mul")
        sigmoid = made_by(quotient[1], "sigmoid") if quotient else None
        if not quotient or not sigmoid or not product:
            continue
        c, s = quotient
        for one, t in (product.operands, product.operands[::-1]):
            if one is s:
                rest = _beside_one(t)
                if rest is not None and _are_opposite(rest, s):
                    t = ew.sigmoid(-sigmoid.operands[0])  # noqa: PLW2901
                return c * t
    return None


@rule(*_PRODUCTS, "div")
def share_of_exps(op: Op, x: Value, y: Value) -> Value | None:
    """c exp(x) / (exp(x) + exp(y)) = c sigmoid(x - y);
    c exp(x) / sum(exp(x)) = c exp(x - m) / sum(exp(x - m)) with m = max(x)"""
    if op.name == "div":
        exp = made_by(x, "exp")
        return _share(exp.operands[0], None, y) if exp else None
    for left, right in ((x, y), (y, x)):
        exp = made_by(right, "exp")
        if exp is None:
            continue
        if quotient := _quotient(left):
            return _share(exp.operands[0], *quotient)
        spread = made_by(left, "broadcast_to")
        if spread and (quotient := _quotient(spread.operands[0])):
            c, d = (insertion.builder.emit("broadcast_to", v, **spread.attrs) for v in quotient)
            return _share(exp.operands[0], c, d)
    return None


def _share(x: Value, c: Value | None, total: Value) -> Value | None:
    """``c exp(x) / total`` in a stable form, if ``total`` is a sum that ``exp(x)`` is in."""
    result: Value
    if (exps := _two_exps(total)) and x in exps:
        other = exps[1] if exps[0] is x else exps[0]
        result = ew.sigmoid(x - other)
        return result if c is None else c * result
    spread = made_by(total, "broadcast_to")
    sums = _sum_of_exps(spread.operands[0]) if spread else None
    if sums is None or sums[0] is not x or not spread:
        return None
    axes = sums[1]
    if spread.attrs["axes"] != tuple(a for a in range(x.rank) if a not in axes):
        return None
    powers = ew.exp(x - rd.spread(_top(x, axes), x, axes))
    result = powers / rd.spread(rd.reduce_sum(powers, axes=axes), x, axes)
    return result if c is None else c * result


# -- roots ---------------------------------------------------------------------------------


@rule("sqrt")
def sqrt_of_square(op: Op, x: Value) -> Value | None:
    """sqrt(x x) = |x|"""
    inner = made_by(x, "mul")
    if inner is None or inner.operands[0] is not inner.operands[1] or x.type.dtype.kind != "f":
        return None
    result: Value = ew.abs(inner.operands[0])
    return result


RULES: tuple[Rule, ...] = (
    log_of_exp,
    log_of_sigmoid,
    log_of_two_exps,
    log_of_sum_of_exps,
    log_of_one_plus,
    log1p_of_exp,
    exp_minus_one,
    one_minus_erf,
    logistic,
    exp_times_sigmoid,
    sigmoid_cancels,
    share_of_exps,
    sqrt_of_square,
)
