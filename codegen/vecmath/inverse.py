"""asin, acos, atan, atan2."""

from __future__ import annotations

from symgrad.codegen.vecmath.exponential import at_most
from symgrad.codegen.vecmath.lanes import (
    BIAS,
    INF,
    NAN,
    Lanes,
    Pair,
    fast_two_sum,
    fma,
    polynomial,
    table,
    where,
)

# asin(x) = x + x z q(z), z = x**2, minimax on |x| <= 1/2, error 2**-29.8 and 2**-59.2
ASIN = table(
    float="""
        0x1.55554cp-3 0x1.33387cp-4 0x1.6caedp-5 0x1.0491bcp-5 0x1.d91ddp-7 0x1.33566ep-5
    """,
    double="""
        0x1.5555555555577p-3 0x1.333333332e0ffp-4 0x1.6db6db72143ffp-5 0x1.f1c71a945ffeap-6
        0x1.6e8bdeee2d90cp-6 0x1.1c49ef7fcc814p-6 0x1.ca1fa012cf74cp-7 0x1.7584fe83d8233p-7
        0x1.613f5b8f2a177p-7 0x1.e5ce156e145d4p-9 0x1.63a7aaf81f3b5p-6 -0x1.580c69ff2615p-6
        0x1.0b4b25ac840fp-5
    """,
)
# atan(x) = x + x z q(z), z = x**2, minimax on |x| <= tan(π/8), errors below 2**-28, 2**-57
ATAN = table(
    float="-0x1.55554ap-2 0x1.999194p-3 -0x1.23b4e6p-3 0x1.b1e872p-4 -0x1.f1d998p-5",
    double="""
        -0x1.555555555553dp-2 0x1.999999999578ep-3 -0x1.24924922a8ac9p-3 0x1.c71c70e463fedp-4
        -0x1.745cf8af9838fp-4 0x1.3b1116281e601p-4 -0x1.10eb981995a1cp-4 0x1.df0d871024e39p-5
        -0x1.9ccb022f6baf1p-5 0x1.37c27b121b274p-5 -0x1.25413e61b97e3p-6
    """,
)
TAN_EIGHTH = 0.41421356237309503
HALF_PI = {
    "float": (float.fromhex("0x1.921fb6p+0"), float.fromhex("-0x1.777a5cp-25")),
    "double": (float.fromhex("0x1.921fb54442d18p+0"), float.fromhex("0x1.1a62633145c07p-54")),
}


def _asin_parts(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """Whether ``|x| > 1/2``; asin of ``|x|``, there of ``sqrt((1 - |x|) / 2)``, in two parts."""
    a = abs(x)
    large = a > 0.5
    z = where(large, (1.0 - a) * 0.5, a * a)
    s = where(large, z.sqrt(), a)
    return large, s, s * z * polynomial(z, ASIN[x.scalar])


def asin(x: Lanes) -> Lanes:
    """Odd polynomial for ``|x| <= 1/2``, else ``π/2 - 2 asin(sqrt((1 - |x|) / 2))``.

    Error below 1.10 ulp.
    """
    high, low = HALF_PI[x.scalar]
    large, s, rest = _asin_parts(x)
    total, lost = fast_two_sum(high, s * -2.0)
    return where(large, total + (lost + fma(rest, -2.0, low)), s + rest).copysign(x)


def acos(x: Lanes) -> Lanes:
    """``2 asin(sqrt((1 - x) / 2))`` for ``x > 1/2``, otherwise by symmetry from π or π/2.

    Error below 1.07 ulp.
    """
    high, low = HALF_PI[x.scalar]
    large, s, rest = _asin_parts(x)
    zero, near_one = x.const(0.0), x > 0.5
    factor = x.const(1.0).copysign(x) * where(large, x.const(2.0), -1.0)
    start = where(large, where(near_one, zero, 2.0 * high), high)
    below = where(large, where(near_one, zero, 2.0 * low), low)
    total, lost = fast_two_sum(start, s * factor)
    return total + (lost + fma(rest, factor, below))


def _angle(smaller: Lanes, larger: Lanes, swapped: Lanes, back: Lanes | None) -> Lanes:
    """``atan(smaller / larger)``, reflected at π/4 where swapped, at π/2 where ``back``.

    Above π/8 the ratio is ``(smaller - larger) / (smaller + larger)``, an angle from π/4.
    """
    high, low = HALF_PI[smaller.scalar]
    zero = smaller.const(0.0)
    upper = smaller > TAN_EIGHTH * larger
    above = where(upper, smaller - larger, smaller)
    below = fast_two_sum(larger, where(upper, smaller, zero))
    ratio = Pair(above, zero) / Pair(*below)
    t = ratio.hi
    z = t * t
    rest = fma(t * z, polynomial(z, ATAN[t.scalar]), ratio.lo)
    turns = where(upper, zero + 0.5, where(swapped, zero + 1.0, 0.0))
    mirrored = swapped
    if back is not None:
        turns = where(back, 2.0 - turns, turns)
        mirrored = swapped ^ back
    t, rest = where(mirrored, -t, t), where(mirrored, -rest, rest)
    total, lost = fast_two_sum(turns * high, t)
    return total + (lost + fma(turns, low, rest))


def atan(x: Lanes) -> Lanes:
    """Arc tangent, with the ratio ``1 / |x|`` above 1.  Error below 1.25 ulp."""
    a = at_most(abs(x), 2.0**60)
    swapped = a > 1.0
    smaller, larger = where(swapped, 1.0, a), where(swapped, a, 1.0)
    return _angle(smaller, larger, swapped, None).copysign(x)


def atan2(y: Lanes, x: Lanes) -> Lanes:
    """The angle of the point ``(x, y)``, in [-π, π], for all signed zeros and infinities.

    Error below 1.26 ulp.
    """
    a, b = abs(y), abs(x)
    swapped = a > b
    smaller, larger = where(swapped, b, a), where(swapped, a, b)
    # inf/inf stands for 1/1, a finite number over inf for 0/1, and 0/0 for 0/1.
    infinite = larger.eq(INF)
    smaller = where(infinite, where(smaller.eq(INF), smaller.const(1.0), 0.0), smaller)
    larger = where(infinite | larger.eq(0.0), 1.0, larger)
    # The sum must not overflow, and no product of the division underflow.
    huge, small = larger > 2.0 ** (BIAS[x.scalar] - 7), larger < 1.0
    lift = 2.0**60 if x.scalar == "float" else 2.0**200
    scale = where(huge, x.const(2.0**-9), where(small, x.const(lift), 1.0))
    angle = _angle(smaller * scale, larger * scale, swapped, x.bits() < 0)
    return where(x.isnan() | y.isnan(), NAN, angle.copysign(y))
