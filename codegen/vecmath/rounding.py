"""round, floor, ceil, trunc, and the exact remainders fmod, rem, floor_div."""

from __future__ import annotations

from symgrad.codegen.vecmath.lanes import (
    MANTISSA,
    MIN_NORMAL,
    Lanes,
    narrow,
    scale_in_steps,
    two_product,
    where,
    widen,
)


def _rounded(name: str, x: Lanes) -> Lanes | None:
    """The rounding instruction of targets that have one: those with FMA do."""
    if not x.k.target.has_fma:
        return None
    return Lanes(x.k, x.k.intrinsic(name, x.reg))


def round_even(x: Lanes) -> Lanes:
    """The nearest integer, halves to even."""
    if (y := _rounded("roundeven", x)) is not None:
        return y
    unit = 2.0 ** MANTISSA[x.scalar]  # from here on every float is an integer
    a = abs(x)
    return where(a < unit, ((a + unit) - unit).copysign(x), x)


def floor(x: Lanes) -> Lanes:
    """The largest integer not above ``x``."""
    if (y := _rounded("floor", x)) is not None:
        return y
    near = round_even(x)
    return where(near > x, near - 1.0, near).copysign(x)


def ceil(x: Lanes) -> Lanes:
    """The smallest integer not below ``x``."""
    if (y := _rounded("ceil", x)) is not None:
        return y
    near = round_even(x)
    return where(near < x, near + 1.0, near).copysign(x)


def trunc(x: Lanes) -> Lanes:
    """The integer part."""
    if (y := _rounded("trunc", x)) is not None:
        return y
    return floor(abs(x)).copysign(x)


# -- remainders ------------------------------------------------------------

QUOTIENT_BITS = 51
"""Bits of quotient that one step of ``fmod`` finds; the product with them is exact."""


def _exponent(x: Lanes) -> Lanes:
    """Exponent of a positive f64, denormal or not."""
    denormal = x < MIN_NORMAL["double"]
    lifted = where(denormal, x * 2.0**54, x)
    lift = where(denormal, (x.bits() & 0) + 54, 0)
    return (lifted.bits() >> MANTISSA["double"]) - lift


def fmod(x: Lanes, y: Lanes) -> Lanes:
    """``x - n y`` with ``n = trunc(x / y)``, exactly, with the sign of ``x``; as C's fmod.

    Long division, ``QUOTIENT_BITS`` bits of the quotient at a time.
    """
    if x.scalar == "float":
        return narrow(fmod(widen(x), widen(y)))
    k = x.k
    a, b = abs(x), abs(y)
    slot = k.alloca(x.type)
    k.store(a.reg, slot)
    again, done = k.label(), k.label()
    k.line(f"br label %{again}")
    k.place(again)
    left = Lanes(k, k.load(x.type, slot))
    shift = _exponent(left) - _exponent(b) - QUOTIENT_BITS
    shift = where(shift > 0, shift, 0)
    divisor = scale_in_steps(b, shift)
    # Halved where it is huge: rounded up, the quotient could make the product overflow.
    huge = left > 2.0**1000
    halve, double = where(huge, left.const(0.5), 1.0), where(huge, left.const(2.0), 1.0)
    product, error = two_product(trunc(left / divisor) * halve, divisor)
    rest = ((left * halve - product) - error) * double
    rest = where(rest < 0.0, rest + divisor, rest)
    k.store(rest.reg, slot)
    k.line(f"br i1 {(rest >= b).any()}, label %{again}, label %{done}")
    k.place(done)
    rest = Lanes(k, k.load(x.type, slot))
    return where(a < b, x, rest.copysign(x))


def rem(x: Lanes, y: Lanes) -> Lanes:
    """``x - n y`` with ``n = floor(x / y)``, with the sign of ``y``; as Python's ``%``."""
    r = fmod(x, y)
    differ = (r < 0.0) ^ (y < 0.0)
    return where(r.eq(0.0), r.copysign(y), where(differ, r + y, r))


def floor_div(x: Lanes, y: Lanes) -> Lanes:
    """``floor(x / y)`` of the exact quotient; ``x / y`` for a zero divisor."""
    r = fmod(x, y)
    ratio = x / y
    whole = (x - r) / y
    differ = ((r < 0.0) ^ (y < 0.0)) & r.ne(0.0)
    whole = where(differ, whole - 1.0, whole)
    near = floor(whole)
    near = where(whole - near > 0.5, near + 1.0, near)
    near = where(whole.eq(0.0), (whole * 0.0).copysign(ratio), near)
    return where(y.eq(0.0), ratio, near)
