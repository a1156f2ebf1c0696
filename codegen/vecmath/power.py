"""rsqrt, cbrt, hypot, pow."""

from __future__ import annotations

from symgrad.codegen.vecmath.exponential import EXP, EXP_RANGE, INV_LN2, LN2_PARTS, clamp, reduced
from symgrad.codegen.vecmath.lanes import (
    INF,
    MIN_NORMAL,
    NAN,
    Lanes,
    Pair,
    exponent_of_two,
    fast_two_sum,
    fma,
    narrow,
    nearest,
    polynomial,
    scale_by_power,
    table,
    to_float,
    two_product,
    two_sum,
    where,
    widen,
)
from symgrad.codegen.vecmath.logarithm import parts
from symgrad.codegen.vecmath.rounding import round_even

# log((1 + s) / (1 - s)) = 2 s + s z p(z), z = s**2, |s| <= (sqrt(2) - 1) / (sqrt(2) + 1);
# minimax for p (f32 results, error 2**-37.6) and for q in p(z) = 2/3 + z q(z) (2**-58.3)
LOG = table(
    float="""
        0x1.555554fd8af3ep-1 0x1.999a7aadbb593p-2 0x1.2438ce4089314p-2 0x1.e2f7dcf4ec69bp-3
    """,
    double="""
        0x1.9999999999b3p-2 0x1.2492492457c98p-2 0x1.c71c722d780c2p-3 0x1.745ce9dd16338p-3
        0x1.3b1eed372c3a5p-3 0x1.0f7fcd442cae5p-3 0x1.0e43bcb55cc91p-3
    """,
)
TWO_THIRDS = float.fromhex("0x1.5555555555555p-1"), float.fromhex("0x1.5555555555555p-55")
# (1 + t)**(-1/3), minimax on sqrt(1/2) <= 1 + t <= sqrt(2), error 2**-20.1
RCBRT = table(
    double="""
        0x1.00000cac20839p+0 -0x1.5557eaea5207bp-2 0x1.c6cfabbbb64dp-3 -0x1.60666dcaae5ebp-3
        0x1.2ed5e6bf31dd2p-3 -0x1.217717eadda56p-3 0x1.7e056d5a4fb12p-4
    """,
)["double"]


def rsqrt(x: Lanes) -> Lanes:
    """``1 / sqrt(x)``"""
    return 1.0 / x.sqrt()


def cbrt(x: Lanes) -> Lanes:
    """Cube root: a polynomial for ``m**(-1/3)``, then Newton's steps."""
    if x.scalar == "float":
        return narrow(_cbrt(widen(x), 1))
    return _cbrt(x, 2)


def _cbrt(x: Lanes, steps: int) -> Lanes:
    a = abs(x)
    denormal = a < MIN_NORMAL["double"]
    exponent, m = parts(where(denormal, a * 2.0**54, a))
    e = to_float(exponent)
    third = nearest(e, 1 / 3)
    left = fma(third.value, -3.0, e)  # -1, 0 or 1
    one = x.const(1.0)
    up, down = left > 0.0, left < 0.0
    m_scaled = m * where(up, 2.0, where(down, 0.5, one))
    seed = polynomial(m - 1.0, RCBRT)
    inverse = seed * where(up, 2.0 ** (-1 / 3), where(down, 2.0 ** (1 / 3), one))
    slope = inverse * inverse
    root = m_scaled * slope
    slope = slope * (1 / 3)
    root = fma(fma(root * root, -root, m_scaled), slope, root)
    if steps > 1:  # the residual beyond the working precision
        square, square_error = two_product(root, root)
        cube, cube_error = two_product(square, root)
        residual = (m_scaled - cube) - fma(square_error, root, cube_error)
        root = fma(residual, slope, root)
    y = root * exponent_of_two(third.bits)
    y = where(denormal, y * 2.0**-18, y)
    return where((a > 0.0) & (a < INF), y.copysign(x), x)


def hypot(x: Lanes, y: Lanes) -> Lanes:
    """``sqrt(x**2 + y**2)`` without overflow; infinite if either is, even beside nan."""
    a, b = abs(x), abs(y)
    infinite = a.eq(INF) | b.eq(INF)
    if x.scalar == "float":
        u, v = widen(x), widen(y)
        return where(infinite, INF, narrow((u * u + v * v).sqrt()))
    larger, smaller = where(a > b, a, b), where(a > b, b, a)
    # Squares of numbers scaled like this neither overflow nor lose digits.
    low, high = larger < 2.0**-450, larger > 2.0**450
    scale = where(low, x.const(2.0**600), where(high, x.const(2.0**-600), 1.0))
    back = where(low, x.const(2.0**-600), where(high, x.const(2.0**600), 1.0))
    larger, smaller = larger * scale, smaller * scale
    square, error = two_product(larger, larger)
    other, other_error = two_product(smaller, smaller)
    total, lost = fast_two_sum(square, other)
    root = Pair(total, lost + (error + other_error)).sqrt()
    return where(infinite, INF, root.value() * back)


def pow(x: Lanes, y: Lanes) -> Lanes:
    """``x ** y`` as C's pow: ``exp(y log |x|)`` with the logarithm to some 70 bits.

    Negative numbers have integer powers only; ``1 ** y`` and ``x ** 0`` are 1 even for nan.
    """
    if x.scalar == "float":
        return narrow(_pow(widen(x), widen(y), "float"))
    return _pow(x, y, "double")


def _pow(x: Lanes, y: Lanes, scalar: str) -> Lanes:
    a = abs(x)
    logarithm = _log(a, scalar)
    hi = where(a.eq(0.0), -INF, where(a.eq(INF), INF, logarithm.hi))
    exponent = clamp(y * hi, *EXP_RANGE["double"])
    if scalar == "float":
        n = nearest(exponent, INV_LN2)
        r = fma(n.value, -sum(LN2_PARTS["double"]), exponent)
        power = fma(r * r, polynomial(r, EXP["wide"]), r) + 1.0
    else:
        product, error = two_product(y, logarithm.hi)
        below = fma(y, logarithm.lo, error)
        n, r, tail = reduced(exponent, where(exponent.eq(product), below, 0.0))
        one, lost = fast_two_sum(1.0, r)
        power = one + (lost + tail)
    power = where(a.eq(1.0), 1.0, scale_by_power(power, n))

    half = y * 0.5
    whole = round_even(y).eq(y)
    odd = whole & round_even(half).ne(half)
    power = where(odd, power.copysign(x), power)
    power = where((x < 0.0) & (x > -INF) & ~whole, NAN, power)
    power = where(x.isnan(), NAN, power)
    return where(x.eq(1.0) | y.eq(0.0), 1.0, power)


def _log(a: Lanes, scalar: str) -> Pair:
    """Logarithm of positive f64, for results of type ``scalar``."""
    denormal = a < MIN_NORMAL["double"]
    exponent, m = parts(where(denormal, a * 2.0**54, a))
    e = to_float(exponent) - where(denormal, a.const(54.0), 0.0)
    high, low = LN2_PARTS["double"]
    if scalar == "float":
        s = (m - 1.0) / (m + 1.0)
        z = s * s
        y = fma(s * z, polynomial(z, LOG["float"]), s + s)
        return Pair(fma(e, high + low, y), a.const(0.0))
    ratio = Pair(m - 1.0, a.const(0.0)) / Pair(*fast_two_sum(1.0, m))
    square = ratio * ratio
    rest = square.hi * polynomial(square.hi, LOG["double"])
    factor = Pair(*fast_two_sum(TWO_THIRDS[0], rest))
    cubic = ratio * square * Pair(factor.hi, factor.lo + TWO_THIRDS[1])
    log_m = Pair(ratio.hi + ratio.hi, ratio.lo + ratio.lo) + cubic
    return Pair(*two_sum(e * high, e * low)) + log_m
