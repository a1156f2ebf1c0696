"""asin, acos, atan, atan2."""

from __future__ import annotations

from symgrad.codegen.vecmath.lanes import (
    BIAS,
    INF,
    NAN,
    Lanes,
    Pair,
    fast_two_sum,
    fma,
    horner,
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
# atan(x) = x + x z q(z), z = x**2, minimax on |x| <= 1, errors below 2**-26, 2**-56
ATAN = table(
    float="""
        -0x1.55553ep-2 0x1.9991fcp-3 -0x1.2421b2p-3 0x1.c099dap-4 -0x1.583432p-4 0x1.dac8b8p-5
        -0x1.fecf38p-6 0x1.65a432p-7 -0x1.d62c5p-10
    """,
    double="""
        -0x1.555555555554dp-2 0x1.9999999998c28p-3 -0x1.2492492456adcp-3 0x1.c71c71b6299b6p-4
        -0x1.745d15d03a93cp-4 0x1.3b139bceff218p-4 -0x1.1110326b60563p-4 0x1.e1d48733a38e7p-5
        -0x1.aeda525abca56p-5 0x1.84b450dd8ae0dp-5 -0x1.5f242425e35c5p-5 0x1.390454b3e509fp-5
        -0x1.0c940fcd5c351p-5 0x1.ac7824d2f6b99p-6 -0x1.30f9bcee1067fp-6 0x1.72db96b8e1a2ep-7
        -0x1.6fd09def946cdp-8 0x1.1a03ba89df22p-9 -0x1.36d965510a346p-11 0x1.b3acb21a3f56fp-14
        -0x1.2263f83697419p-17
    """,
)
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


def _angle(ratio: Pair, swapped: Lanes, back: Lanes | None) -> Lanes:
    """``atan(ratio)`` of a ratio from 0 to 1; mirrored at π/4 where swapped, at π/2 where back."""
    t, scalar = ratio.hi, ratio.hi.scalar
    high, low = HALF_PI[scalar]
    z = t * t
    # Even and odd terms apart would nearly cancel where ``z`` is about 1.
    rest = fma(t * z, horner(z, ATAN[scalar]), ratio.lo)
    zero = t.const(0.0)
    start, below = where(swapped, high, zero), where(swapped, low, zero)
    mirrored = swapped
    if back is not None:
        start = where(back, 2.0 * high - start, start)
        below = where(back, 2.0 * low - below, below)
        mirrored = swapped ^ back
    t, rest = where(mirrored, -t, t), where(mirrored, -rest, rest)
    total, lost = fast_two_sum(start, t)
    return total + (lost + (rest + below))


def atan(x: Lanes) -> Lanes:
    """Arc tangent, of ``1 / |x|`` where that is smaller.  Error below 1.25 ulp."""
    a = abs(x)
    swapped = a > 1.0
    t = where(swapped, 1.0 / a, a)
    return _angle(Pair(t, t.const(0.0)), swapped, None).copysign(x)


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
    zero = x.const(0.0)
    ratio = Pair(smaller * scale, zero) / Pair(larger * scale, zero)
    angle = _angle(ratio, swapped, x.bits() < 0)
    return where(x.isnan() | y.isnan(), NAN, angle.copysign(y))
