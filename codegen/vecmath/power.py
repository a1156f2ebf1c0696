"""rsqrt, cbrt, hypot, pow."""

from __future__ import annotations

from collections.abc import Callable

from symgrad.codegen.vecmath.exponential import EXP, EXP_RANGE, INV_LN2, LN2_PARTS, clamp, reduced
from symgrad.codegen.vecmath.lanes import (
    INF,
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
    two_product,
    where,
    widen,
)
from symgrad.codegen.vecmath.logarithm import exponent_and_rest
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
# (1 + t)**(-1/3), minimax on 2/3 <= 1 + t <= sqrt(2), error 2**-16.7 and 2**-21.8
RCBRT = table(
    float="""
        0x1.00008d93ed9cep+0 -0x1.55456802445b6p-2 0x1.c4cda0f214b11p-3 -0x1.65ca914971a98p-3
        0x1.55cd538bdd89ep-3 -0x1.f8ecaacec3cd4p-4
    """,
    double="""
        0x1.fffff8d79c116p-1 -0x1.5556388d19c4bp-2 0x1.c7372e7be6a84p-3 -0x1.61830652e575fp-3
        0x1.22ec71482184fp-3 -0x1.061cf77754ab8p-3 0x1.16757fc94bdd8p-3 -0x1.91fe8f8fe0c68p-4
    """,
)


def rsqrt(x: Lanes) -> Lanes:
    """``1 / sqrt(x)``.  Error below 1.48 ulp."""
    return 1.0 / x.sqrt()


def cbrt(x: Lanes) -> Lanes:
    """Cube root: a polynomial for ``m**(-1/3)``, then Newton's steps.

    Error below 0.53 (f32) and 0.61 ulp (f64).
    """
    a = abs(x)
    e, m = exponent_and_rest(a)
    third = nearest(e, 1 / 3)
    left = fma(third.value, -3.0, e)  # -1, 0 or 1
    one = x.const(1.0)
    up, down = left > 0.0, left < 0.0
    m_scaled = m * where(up, 2.0, where(down, 0.5, one))
    seed = polynomial(m - 1.0, RCBRT[x.scalar])
    inverse = seed * where(up, 2.0 ** (-1 / 3), where(down, 2.0 ** (1 / 3), one))
    slope = inverse * inverse
    root = m_scaled * slope
    slope = slope * (1 / 3)
    if x.scalar == "double":
        root = fma(fma(root * root, -root, m_scaled), slope, root)
    # The last of Newton's steps takes the residual beyond the working precision.
    square, square_error = two_product(root, root)
    cube, cube_error = two_product(square, root)
    residual = (m_scaled - cube) - fma(square_error, root, cube_error)
    root = fma(residual, slope, root)
    y = root * exponent_of_two(third.bits)
    return where((a > 0.0) & (a < INF), y.copysign(x), x)


def hypot(x: Lanes, y: Lanes) -> Lanes:
    """``sqrt(x**2 + y**2)`` without overflow; infinite if either is, even beside nan.

    Error below 0.501 ulp.
    """
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
    """``x ** y`` as C's pow: ``exp(y log |x|)``, the logarithm to some 65 bits.

    Negative numbers have integer powers only; ``1 ** y`` and ``x ** 0`` are 1 even for nan.
    Error below 0.51 (f32) and 0.79 ulp (f64).
    """
    if x.scalar == "float":
        return narrow(_pow(widen(x), widen(y), _power_wide))
    return _pow(x, y, _power)


def _pow(x: Lanes, y: Lanes, power: Callable[[Lanes, Lanes], Lanes]) -> Lanes:
    """The sign and the special cases around the power of a positive number."""
    a = abs(x)
    value = where(a.eq(1.0), 1.0, power(a, y))
    half = y * 0.5
    whole = round_even(y).eq(y)
    odd = whole & round_even(half).ne(half)
    value = where(odd, value.copysign(x), value)
    value = where((x < 0.0) & (x > -INF) & ~whole, NAN, value)
    value = where(x.isnan(), NAN, value)
    return where(x.eq(1.0) | y.eq(0.0), 1.0, value)


def _exponent(a: Lanes, y: Lanes, log: Lanes) -> Lanes:
    """``y log(a)``, within the range of exp, also for ``a`` 0 or infinite."""
    log = where(a.eq(0.0), -INF, where(a.eq(INF), INF, log))
    return clamp(y * log, *EXP_RANGE["double"])


def _power_wide(a: Lanes, y: Lanes) -> Lanes:
    """``a ** y`` of positive f64, good to some 30 bits."""
    e, m = exponent_and_rest(a)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    log_m = fma(s * z, polynomial(z, LOG["float"]), s + s)
    exponent = _exponent(a, y, fma(e, sum(LN2_PARTS["double"]), log_m))
    n = nearest(exponent, INV_LN2)
    r = fma(n.value, -sum(LN2_PARTS["double"]), exponent)
    return scale_by_power(fma(r * r, polynomial(r, EXP["wide"]), r) + 1.0, n)


def _power(a: Lanes, y: Lanes) -> Lanes:
    """``a ** y`` of positive f64, good to the last place."""
    log = _log(a)
    exponent = _exponent(a, y, log.hi)
    product, error = two_product(y, log.hi)
    below = where(exponent.eq(product), fma(y, log.lo, error), 0.0)
    n, r, tail = reduced(exponent, below)
    one, lost = fast_two_sum(1.0, r)
    return scale_by_power(one + (lost + tail), n)


def _log(a: Lanes) -> Pair:
    """Logarithm of positive f64 with an error of 2**-65."""
    e, m = exponent_and_rest(a)
    s = Pair(m - 1.0, a.const(0.0)) / Pair(*fast_two_sum(1.0, m))
    # log(m) = 2 s + s z p(z); whatever is not ``s`` itself is at most a 60th of it, so
    # that the errors of these products and of q need not be followed any further.
    z, z_low = two_product(s.hi, s.hi)
    z_low = fma(s.hi + s.hi, s.lo, z_low)
    p, p_low = fast_two_sum(TWO_THIRDS[0], z * polynomial(z, LOG["double"]))
    p_low = p_low + TWO_THIRDS[1]
    zp, zp_low = two_product(z, p)
    zp_low = fma(z, p_low, fma(z_low, p, zp_low))
    szp, szp_low = two_product(s.hi, zp)
    szp_low = fma(s.hi, zp_low, fma(s.lo, zp, szp_low))
    log_m, lost = fast_two_sum(s.hi + s.hi, szp)
    lost = lost + (szp_low + (s.lo + s.lo))
    high, low = LN2_PARTS["double"]
    total, rest = fast_two_sum(e * high, log_m)
    return Pair(*fast_two_sum(total, fma(e, low, rest + lost)))
