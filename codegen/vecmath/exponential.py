"""exp, exp2, expm1, sigmoid, sinh, cosh, tanh.

All rest on one reduction (Cody and Waite): ``x = n ln 2 + r`` with ``|r| <= ln 2 / 2``,
so that ``exp(x) = 2**n (1 + r + r**2 q(r))``.  The first part of ``ln 2`` has so few
bits that its product with ``n`` is exact.
"""

from __future__ import annotations

from symgrad.codegen.vecmath.lanes import (
    MANTISSA,
    Lanes,
    Pair,
    Whole,
    exponent_of_two,
    fast_two_sum,
    fma,
    nearest,
    polynomial,
    scale_by_power,
    table,
    where,
)

INV_LN2 = float.fromhex("0x1.71547652b82fep+0")
LN2_PARTS = {
    "float": (float.fromhex("0x1.62e4p-1"), float.fromhex("0x1.7f7d1cf79abcap-20")),
    "double": (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}

# exp(r) = 1 + r + r**2 q(r), minimax on |r| <= ln 2 / 2, error 2**-27.7, 2**-56.5;
# "wide" is for f32 results computed in f64, error 2**-34.3
EXP = table(
    wide="""
        0x1.00000042f788fp-1 0x1.55555597e442dp-3 0x1.5554803f12dcdp-5 0x1.11107d15e2f83p-7
        0x1.6d96991809d4bp-10 0x1.a1b7d1a282959p-13
    """,
    float="0x1p-1 0x1.55548ep-3 0x1.55545ep-5 0x1.123b64p-7 0x1.6db40ep-10",
    double="""
        0x1.000000000000bp-1 0x1.5555555555561p-3 0x1.555555555001ep-5 0x1.111111110d67bp-7
        0x1.6c16c185ab4d2p-10 0x1.a01a01bacd484p-13 0x1.a0199688c2b05p-16
        0x1.71dddff81f5d5p-19 0x1.28b0537012fafp-22 0x1.af85452ae4396p-26
    """,
)
# sinh(x) = x + x z q(z), z = x**2, minimax on |x| <= 1, error 2**-27.5 and 2**-56.6
SINH = table(
    float="0x1.555556p-3 0x1.111134p-7 0x1.9ffe92p-13 0x1.7a15aep-19",
    double="""
        0x1.5555555555556p-3 0x1.11111111110a6p-7 0x1.a01a01a0289a5p-13 0x1.71de3a465abc3p-19
        0x1.ae64671b6365ap-26 0x1.611a5602310cep-33 0x1.b4c7627bcc207p-41
    """,
)

# Beyond these, exp is 0 or infinite, exp2 likewise, and expm1 is -1.
EXP_RANGE = {"float": (-104.0, 89.0), "double": (-746.0, 710.0)}
EXP2_RANGE = {"float": (-151.0, 129.0), "double": (-1076.0, 1025.0)}
EXPM1_LOW = {"float": -18.0, "double": -40.0}
COSH_HIGH = {"float": 91.0, "double": 712.0}


def at_most(x: Lanes, high: float) -> Lanes:
    """The smaller of the two; nan stays."""
    return where(x > high, high, x)


def clamp(x: Lanes, low: float, high: float) -> Lanes:
    """``x`` within bounds; nan stays."""
    return at_most(where(x < low, low, x), high)


def reduced(x: Lanes, below: Lanes | None = None) -> tuple[Whole, Lanes, Lanes]:
    """``n``, ``r`` and ``tail`` of ``exp(x) = 2**n (1 + r + tail)``.

    The error is far below the last place of the sum, about 2**-4 units.  ``below``
    is what ``x`` could not hold of the argument.
    """
    high, low = LN2_PARTS[x.scalar]
    n = nearest(x, INV_LN2)
    start, rest = fma(n.value, -high, x), None
    if below is not None:
        start, rest = fast_two_sum(start, below)
    r = fma(n.value, -low, start)
    lost = fma(n.value, -low, start - r)
    lost = lost if rest is None else lost + rest
    return n, r, fma(r * r, polynomial(r, EXP[x.scalar]), lost)


def exp(x: Lanes) -> Lanes:
    """``e**x``, denormal results included.  Error below 1.06 ulp."""
    high, low = LN2_PARTS[x.scalar]
    x = clamp(x, *EXP_RANGE[x.scalar])
    n = nearest(x, INV_LN2)
    r = fma(n.value, -low, fma(n.value, -high, x))
    return scale_by_power(fma(r * r, polynomial(r, EXP[x.scalar]), r) + 1.0, n)


def exp2(x: Lanes) -> Lanes:
    """``2**x``, exact for integers.  Error below 1.06 ulp."""
    x = clamp(x, *EXP2_RANGE[x.scalar])
    n = nearest(x, 1.0)
    high, low = LN2_PARTS[x.scalar]
    r = (x - n.value) * (high + low)
    return scale_by_power(fma(r * r, polynomial(r, EXP[x.scalar]), r) + 1.0, n)


def expm1_pair(x: Lanes) -> Pair:
    """Half of ``exp(x) - 1`` beyond the working precision, for ``x`` not below -40 (f32: -18)."""
    n, r, tail = reduced(x)
    half = exponent_of_two(n.bits - 1)  # 2**n may overflow
    hi, lo = fast_two_sum(half - 0.5, half * r)
    return Pair(*fast_two_sum(hi, fma(half, tail, lo)))


def expm1(x: Lanes) -> Lanes:
    """``e**x - 1``, accurate near 0.  Error below 1.10 (f32) and 1.40 ulp (f64)."""
    half = expm1_pair(clamp(x, EXPM1_LOW[x.scalar], EXP_RANGE[x.scalar][1])).hi
    tiny = abs(x) < 2.0 ** -(MANTISSA[x.scalar] + 2)  # keeps -0 and denormals
    return where(tiny, x, half + half)


def sigmoid(x: Lanes) -> Lanes:
    """``1 / (1 + e**-x)``, as ``e**x / (1 + e**x)`` for negative ``x`` to keep all digits.

    Error below 1.79 ulp.
    """
    a = abs(x)
    e = exp(-a)
    total = e + 1.0
    y = where(x < 0.0, e, 1.0) / total
    # What rounding took from the divisor; far out it is nothing, and e * e denormal.
    lost = where(a < -EXPM1_LOW[x.scalar], e - (total - 1.0), 0.0)
    inverse = where(x < 0.0, 1.0 - y, y)
    return fma(lost * inverse, -y, y)


def tanh(x: Lanes) -> Lanes:
    """``h / (h + 1)`` with ``h = expm1(2 |x|) / 2``.  Error below 1.48 ulp."""
    half = expm1_pair(at_most(2.0 * abs(x), -EXPM1_LOW[x.scalar]))
    h = half.hi
    total = h + 1.0
    y = h / total
    inverse = 1.0 - y
    lost = where(h < 1.0, h - (total - 1.0), 0.0)
    return fma(fma(half.lo, inverse, -(lost * y)), inverse, y).copysign(x)


def _exp_and_inverse(x: Lanes) -> tuple[Whole, Lanes, Lanes, Lanes]:
    """``n``, ``hi``, ``lo``, ``i`` of ``exp(x) = 2**n (hi + lo)``, ``exp(-x) = 2**n i``, x >= 0."""
    n, r, tail = reduced(x)
    hi, lo = fast_two_sum(1.0, r)
    lo = lo + tail
    # exp(-2x) vanishes against 1 where 4**-n is out of range.
    inverse = exponent_of_two(n.bits * -2) / (hi + lo)
    return n, hi, lo, where(x < -EXPM1_LOW[x.scalar], inverse, 0.0)


def sinh(x: Lanes) -> Lanes:
    """Odd polynomial for ``|x| < 1``, else half ``e**x - e**-x``.  Error below 0.79 ulp."""
    a = at_most(abs(x), COSH_HIGH[x.scalar])
    n, hi, lo, inverse = _exp_and_inverse(a)
    large = scale_by_power(hi + (lo - inverse), n - 1)
    z = a * a
    small = fma(a * z, polynomial(z, SINH[x.scalar]), a)
    return where(a < 1.0, small, large).copysign(x)


def cosh(x: Lanes) -> Lanes:
    """Half the sum of two exponentials.  Error below 0.88 ulp."""
    n, hi, lo, inverse = _exp_and_inverse(at_most(abs(x), COSH_HIGH[x.scalar]))
    return scale_by_power(hi + (lo + inverse), n - 1)
