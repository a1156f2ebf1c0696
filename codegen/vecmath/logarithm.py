"""log, log2, log10, log1p, asinh, acosh, atanh, logaddexp.

All rest on ``x = 2**e (1 + f)`` with ``1 + f`` about 1 and ``log(1 + f) = f + tail``,
the tail known to more bits than the sum can hold.
"""

from __future__ import annotations

from symgrad.codegen.vecmath.exponential import exp
from symgrad.codegen.vecmath.lanes import (
    BIAS,
    INF,
    MANTISSA,
    MIN_NORMAL,
    NAN,
    Lanes,
    Pair,
    fast_two_sum,
    fma,
    polynomial,
    table,
    to_float,
    two_product,
    two_sum,
    where,
)

# f32: log(1 + f) = f - f**2 / 2 + f**3 q(f), minimax on |f| <= 1/3, error 2**-28.7
# f64: log((1 + s) / (1 - s)) = 2 s + s z q(z), z = s**2, minimax on the s of
#      sqrt(1/2) <= 1 + f <= sqrt(2), that is f = 2 s / (1 - s), error 2**-58.8
LOG = table(
    float="""
        0x1.555556p-2 -0x1.ffff0ep-3 0x1.99977ep-3 -0x1.559906p-3 0x1.24f48cp-3 -0x1.f38a3cp-4
        0x1.b87e5ap-4 -0x1.071096p-3 0x1.ebd004p-4
    """,
    double="""
        0x1.5555555555592p-1 0x1.999999997fd3dp-2 0x1.24924941f89fap-2 0x1.c71c5202ce8cdp-3
        0x1.746640572404p-3 0x1.39a193ae1fc5ap-3 0x1.2f070082fa5d2p-3
    """,
)
LOWEST = {"float": 0x3F2AAAAB, "double": 0x3FE6A09E667F3BCD}
"""Bits of the smallest ``1 + f``: 2/3 and sqrt(1/2)."""

# Logarithms of 2, and 1 / log(base), in two parts; the first ones of logarithms are so
# short that products with an exponent are exact.
LN2 = {
    "float": (float.fromhex("0x1.62e4p-1"), float.fromhex("0x1.7f7d1cf79abcap-20")),
    "double": (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}
INV_LN2 = {
    "float": (float.fromhex("0x1.715476p+0"), float.fromhex("0x1.4ae0c0p-26")),
    "double": (float.fromhex("0x1.71547652b82fep+0"), float.fromhex("0x1.777d0ffda0d24p-56")),
}
INV_LN10 = {
    "float": (float.fromhex("0x1.bcb7b2p-2"), float.fromhex("-0x1.5b235ep-27")),
    "double": (float.fromhex("0x1.bcb7b1526e50ep-2"), float.fromhex("0x1.95355baaafad3p-57")),
}
LOG10_2 = {
    "float": (float.fromhex("0x1.344p-2"), float.fromhex("0x1.3509f79fef312p-18")),
    "double": (float.fromhex("0x1.344135p-2"), float.fromhex("0x1.3ef3fde623e25p-31")),
}


def _tail(f: Lanes) -> Lanes:
    """``log(1 + f) - f``."""
    square = f * f
    if f.scalar == "float":
        return fma(square * f, polynomial(f, LOG["float"]), square * -0.5)
    s = f / (f + 2.0)
    z = s * s
    half = square * 0.5
    # 2 s = f - s f, and s f = f**2 / 2 - s f**2 / 2
    return s * fma(z, polynomial(z, LOG["double"]), half) - half


def _parts(x: Lanes) -> tuple[Lanes, Lanes]:
    """Biased exponent, as an integer, and ``1 + f`` of a normal positive number."""
    scalar = x.scalar
    mantissa = MANTISSA[scalar]
    one = BIAS[scalar] << mantissa
    shifted = x.bits() + (one - LOWEST[scalar])
    near_one = ((shifted & ((1 << mantissa) - 1)) + LOWEST[scalar]).floats()
    return shifted >> mantissa, near_one


def exponent_and_rest(x: Lanes) -> tuple[Lanes, Lanes]:
    """``e``, as a float, and ``1 + f`` of a positive number, denormal or not."""
    bias, lift = BIAS[x.scalar], MANTISSA[x.scalar] + 2
    denormal = x < MIN_NORMAL[x.scalar]
    biased, near_one = _parts(where(denormal, x * 2.0**lift, x))
    return to_float(biased, where(denormal, x.const(bias + lift), float(bias))), near_one


def _finish(x: Lanes, y: Lanes) -> Lanes:
    """``y`` where ``x`` is positive and finite, else what a logarithm gives there."""
    y = where(x.eq(INF), x, y)
    return where(x > 0.0, y, where(x.eq(0.0), x.const(-INF), NAN))


def log(x: Lanes) -> Lanes:
    """Natural logarithm.  Error below 0.82 ulp."""
    high, low = LN2[x.scalar]
    e, near_one = exponent_and_rest(x)
    f = near_one - 1.0
    return _finish(x, fma(e, high, f + fma(e, low, _tail(f))))


def _log_to_base(x: Lanes, octave: tuple[float, float], scale: tuple[float, float]) -> Lanes:
    """``e octave + (f + tail) scale``."""
    e, near_one = exponent_and_rest(x)
    f = near_one - 1.0
    rest = f * scale[1]
    if octave[1]:
        rest = fma(e, octave[1], rest)
    rest = fma(_tail(f), scale[0], rest)
    return _finish(x, fma(e, octave[0], fma(f, scale[0], rest)))


def log2(x: Lanes) -> Lanes:
    """Logarithm to base 2, exact for powers of 2.  Error below 1.35 (f32) and 0.98 ulp (f64)."""
    return _log_to_base(x, (1.0, 0.0), INV_LN2[x.scalar])


def log10(x: Lanes) -> Lanes:
    """Logarithm to base 10.  Error below 1.10 (f32) and 0.90 ulp (f64)."""
    return _log_to_base(x, LOG10_2[x.scalar], INV_LN10[x.scalar])


def log1p_of(x: Pair) -> Lanes:
    """``log(1 + x)`` for finite ``x > -1`` known beyond the working precision."""
    scalar = x.hi.scalar
    high, low = LN2[scalar]
    total, lost = two_sum(x.hi.const(1.0), x.hi)
    biased, near_one = _parts(total)
    # The same scaling for what the sum lost; there is nothing left of it far out.
    inverse = ((2 * BIAS[scalar] - biased) << MANTISSA[scalar]).floats()
    lost = where(total < 2.0**100, (lost + x.lo) * inverse, 0.0)
    f, rest = fast_two_sum(near_one - 1.0, lost)
    e = to_float(biased, float(BIAS[scalar]))
    whole, error = fast_two_sum(e * high, f)
    return whole + (fma(e, low, error) + fma(rest, 1.0 - f, _tail(f)))


def log1p(x: Lanes) -> Lanes:
    """``log(1 + x)``, accurate near 0.  Error below 0.84 ulp."""
    y = log1p_of(Pair(x, x.const(0.0)))
    y = where(abs(x) < 2.0 ** -(MANTISSA[x.scalar] + 2), x, y)  # keeps -0 and denormals
    y = where(x.eq(INF), x, y)
    return where(x > -1.0, y, where(x.eq(-1.0), x.const(-INF), NAN))


def logaddexp(a: Lanes, b: Lanes) -> Lanes:
    """``log(e**a + e**b)``; the error is relative to the larger of operand and result."""
    larger = where(a > b, a, b)
    gap = where(a.eq(b), 0.0, -abs(a - b))
    y = larger + log1p(exp(gap))
    return where(gap.isnan(), gap, y)


# -- inverse hyperbolic functions ------------------------------------------

HUGE = 2.0**29


def _log_of_large(a: Lanes, argument: Pair) -> Lanes:
    """``log1p(argument)``, or ``log(2 a)`` where ``a`` is huge."""
    huge = a > HUGE
    hi = where(huge, a, argument.hi)
    lo = where(huge, -1.0, argument.lo)
    y = log1p_of(Pair(hi, lo)) + where(huge, a.const(sum(LN2[a.scalar])), 0.0)
    return where(a < INF, y, a)


def asinh(x: Lanes) -> Lanes:
    """``log1p(a + a**2 / (1 + sqrt(1 + a**2)))`` with the sign of ``x``.

    Error below 1.02 (f32) and 0.99 ulp (f64).
    """
    a = abs(x)
    square = a * a
    argument = fast_two_sum(a, square / ((square + 1.0).sqrt() + 1.0))
    return where(a < 2.0**-28, x, _log_of_large(a, Pair(*argument)).copysign(x))


def acosh(x: Lanes) -> Lanes:
    """``log1p(t + sqrt(2 t + t**2))`` with ``t = x - 1``; nan below 1.

    Error below 0.88 (f32) and 0.99 ulp (f64).
    """
    t = x - 1.0
    hi, lo = two_sum(x, x.const(1.0))
    product, error = two_product(t, hi)
    root = Pair(product, fma(t, lo, error)).sqrt()
    hi, lo = fast_two_sum(root.hi, t)
    return where(x < 1.0, NAN, _log_of_large(x, Pair(hi, lo + root.lo)))


def atanh(x: Lanes) -> Lanes:
    """``log1p(2 a / (1 - a)) / 2`` with the sign of ``x``; infinite at 1, nan beyond.

    Error below 0.94 (f32) and 0.87 ulp (f64).
    """
    a = abs(x)
    ratio = Pair(a + a, a.const(0.0)) / Pair(*fast_two_sum(1.0, -a))
    y = where(a < 2.0**-28, a, 0.5 * log1p_of(ratio))
    return where(a < 1.0, y, where(a.eq(1.0), x.const(INF), NAN)).copysign(x)
