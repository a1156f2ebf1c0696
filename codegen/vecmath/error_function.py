"""erf and erfc."""

from __future__ import annotations

from symgrad.codegen.vecmath.exponential import EXP, INV_LN2, LN2_PARTS, at_most, exp, reduced
from symgrad.codegen.vecmath.lanes import (
    Lanes,
    Pair,
    fast_two_sum,
    fma,
    narrow,
    nearest,
    polynomial,
    scale_by_power,
    table,
    two_product,
    two_sum,
    where,
    widen,
)

# erf(x) = x + x q(z), z = x**2, minimax on |x| <= 1, error 2**-27.7 and 2**-56.3
ERF = table(
    float="""
        0x1.06eba8p-3 -0x1.81273ep-2 0x1.ce2cf8p-4 -0x1.b7f90cp-6 0x1.5405bp-8 -0x1.a3f6fp-11
        0x1.496a0cp-14
    """,
    double="""
        0x1.06eba8214db69p-3 -0x1.812746b0379e6p-2 0x1.ce2f21a042b2p-4 -0x1.b82ce3128499ep-6
        0x1.565bcd0db030ep-8 -0x1.c02db3d8ed9c9p-11 0x1.f9a321a12b622p-14
        -0x1.f4d1df3a4f3bap-17 0x1.b9def1ab0996ap-20 -0x1.5f1d37328751ep-23
        0x1.f7a416f9f8989p-27 -0x1.386acfe1aa44bp-30 0x1.0579d4726df4cp-34
    """,
)
# log(erfc(x)), minimax on 1 <= x <= 4 and 1 <= x <= 6, weighted with erfc(x): the
# error of erf(x) = 1 - erfc(x) is 2**-28.8 and 2**-55.9
ERF_TAIL = table(
    float="""
        -0x1.72eebp-12 -0x1.2085bp+0 -0x1.46c58cp-1 -0x1.a60a4ap-4 0x1.6541bp-6 -0x1.814be6p-9
        0x1.852ba4p-13
    """,
    double="""
        -0x1.8c11632b909c2p-23 -0x1.20dd556356487p+0 -0x1.45f432a076722p-1
        -0x1.a4d9a803df80dp-4 0x1.388e7dc471747p-6 0x1.27f5cf3177532p-12
        -0x1.d03e647fcf163p-10 0x1.510a8032af615p-11 -0x1.81a111e89cc36p-15
        -0x1.248543af40b6ap-14 0x1.7786f46383c0fp-15 -0x1.137c42dddc0fep-16
        0x1.20a9d9788d72cp-18 -0x1.c5b7815b0ac44p-21 0x1.0c0b12eb7e967p-23
        -0x1.d08feaebe7493p-27 0x1.1785fc25cfeb6p-30 -0x1.a1e50df326756p-35
        0x1.2469085e19647p-40
    """,
)
ERF_ONE = {"float": 4.0, "double": 6.0}
# (1 + 2 x) exp(x**2) erfc(x) in t = (x - 4) / (x + 4) (after Shepherd and Laframboise),
# minimax for 0 <= x <= 10.3 and 0.7 <= x <= 27.5, error 2**-35.8 and 2**-58 but for the
# rounding of the first coefficient, which therefore has a second part
ERFC = table(
    float="""
        0x1.3ba5916e902fep+0 -0x1.1df1ad1fe8c64p-3 0x1.f7f5e623d9012p-7 0x1.16ecf67b81b2fp-4
        -0x1.9ddb3da507cfcp-4 0x1.7fed5abcb6a2bp-4 -0x1.0fafa3d0b717bp-4 0x1.30879b64cee6fp-5
        -0x1.095b207f8ecaap-6 0x1.47df571dd89ap-8 -0x1.a09052a47c2p-11 -0x1.60c14dc4597e4p-13
        0x1.032a7986d1a73p-12 0x1.7ed3a961a9019p-15
    """,
    double="""
        0x1.3ba5916e9fd7fp+0 -0x1.1df1ad154a28dp-3 0x1.f7f5df66fd70cp-7 0x1.16ecefcfa5229p-4
        -0x1.9ddb23c3e8a36p-4 0x1.7fee004e16636p-4 -0x1.0fb06dfe55c84p-4 0x1.3079edf5d8b5cp-5
        -0x1.0962388208c49p-6 0x1.49c672c38a9d7p-8 -0x1.8d4a9d5bba24dp-11
        -0x1.a1df5b143c48dp-13 0x1.3be08bd168468p-13 -0x1.9951d531968c1p-16
        -0x1.7896a7296fcecp-17 0x1.7ed3c77238b66p-18 0x1.3edf9a376cea4p-22
        -0x1.b63fa2c04f989p-21 0x1.2a4d905984a3ep-24 0x1.aeaf9c03d69d5p-24
        -0x1.c55e10e1a138cp-27 -0x1.23041bad186dp-27
    """,
)
ERFC_FIRST_LOW = float.fromhex("-0x1.a487dcc510f1p-55")
ERFC_ERF = 0.75
ERFC_ZERO = {"float": 10.2, "double": 27.3}


def erf(x: Lanes) -> Lanes:
    """Odd polynomial for ``|x| < 1``, else 1 minus ``exp`` of one.  Error below 1.10 ulp."""
    a = at_most(abs(x), ERF_ONE[x.scalar])
    z = a * a
    small = fma(a, polynomial(z, ERF[x.scalar]), a)
    large = 1.0 - exp(polynomial(a, ERF_TAIL[x.scalar]))
    return where(a < 1.0, small, large).copysign(x)


def erfc(x: Lanes) -> Lanes:
    """``exp(-x**2) p(t) / (1 + 2 x)``, and 2 minus that for negative ``x``.

    Error below 0.501 (f32) and 1.09 ulp (f64).
    """
    if x.scalar == "float":
        return narrow(_erfc_wide(widen(x)))
    a = at_most(abs(x), ERFC_ZERO["double"])
    square, error = two_product(a, a)
    n, r, tail = reduced(-square, -error)
    one, lost = fast_two_sum(1.0, r)
    lost = lost + tail
    first, *others = ERFC["double"]
    t = (a - 4.0) / (a + 4.0)
    p = fast_two_sum(first, fma(t, polynomial(t, others), ERFC_FIRST_LOW))
    ratio = Pair(*p) / Pair(*two_sum(a + a, a.const(1.0)))
    y = fma(one, ratio.hi, fma(one, ratio.lo, lost * ratio.hi))
    y = scale_by_power(y, n)
    y = where(x < 0.0, 2.0 - y, y)
    # Near 0 the polynomial would need more terms than that of erf.
    one, lost = fast_two_sum(1.0, -x)
    small = one + fma(-x, polynomial(x * x, ERF["double"]), lost)
    return where(a < ERFC_ERF, small, y)


def _erfc_wide(x: Lanes) -> Lanes:
    """erfc in f64 with the polynomials for f32 results."""
    a = at_most(abs(x), ERFC_ZERO["float"])
    square = a * a
    n = nearest(square, -INV_LN2)
    r = fma(n.value, -sum(LN2_PARTS["double"]), -square)
    power = fma(r * r, polynomial(r, EXP["wide"]), r) + 1.0
    first, *others = ERFC["float"]
    t = (a - 4.0) / (a + 4.0)
    y = scale_by_power(power, n) * fma(t, polynomial(t, others), first) / fma(a, 2.0, 1.0)
    return where(x < 0.0, 2.0 - y, y)
