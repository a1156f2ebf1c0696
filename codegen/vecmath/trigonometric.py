"""sin, cos, tan over the whole range.

``x = n π/2 + r`` with ``|r| <= π/4``; the low bits of ``n`` choose between the
polynomials of sine and cosine and the sign.  Below ``LARGE`` the multiple of π/2 is
subtracted in three parts whose products with ``n`` are exact.  Larger arguments
are rare: a vector that has one calls a function that multiplies the significand
by the bits of 2/π that matter for its exponent (Payne and Hanek).

f32 functions compute in f64, where reduction and polynomials are much shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from symgrad.codegen.emitter import Emitter, Reg, lanes_of, mangle
from symgrad.codegen.vecmath.lanes import (
    INF,
    Lanes,
    Pair,
    fast_two_sum,
    fma,
    narrow,
    nearest,
    polynomial,
    table,
    where,
    widen,
)

# sin(r) = r + r z q(z), z = r**2, minimax on |r| <= π/4, error 2**-37.5 and 2**-57.1
SIN = table(
    float="""
        -0x1.5555554c7037dp-3 0x1.111108692f1d2p-7 -0x1.a00f7e2d3d9bdp-13
        0x1.6cd1b5c2f47b1p-19
    """,
    double="""
        -0x1.5555555555555p-3 0x1.111111111110bp-7 -0x1.a01a01a018a67p-13
        0x1.71de3a53301b6p-19 -0x1.ae64528ce9143p-26 0x1.61208be6ccf11p-33
        -0x1.aaa2161e0b7bdp-41
    """,
)
# cos(r) = 1 - z/2 + z**2 q(z), minimax on |r| <= π/4, error 2**-43.2 and 2**-59.9
COS = table(
    float="""
        0x1.5555554f4e50fp-5 -0x1.6c16b898dace6p-10 0x1.a01120327c619p-16
        -0x1.242ad86d4708ep-22
    """,
    double="""
        0x1.555555555554cp-5 -0x1.6c16c16c15181p-10 0x1.a01a019cb2178p-16
        -0x1.27e4f80a34976p-22 0x1.1ee9ec195990dp-29 -0x1.8faeb660dd3cap-37
    """,
)

TWO_OVER_PI = float.fromhex("0x1.45f306dc9c883p-1")
# π/2 in parts of 33, 33 and 53 bits
HALF_PI = tuple(
    float.fromhex(h) for h in ("0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2e037073p-69")
)
LARGE = 2.0**20


FRACTION = 1216
TWO_OVER_PI_DIGITS = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424d"
    "d2e006492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639"
    "835339f49c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f46"
    "3f669e5fea2d7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6bab",
    16,
)
"""``floor(2/π * 2**FRACTION)``."""


# -- reduction -------------------------------------------------------------


def _reduced(x: Lanes) -> tuple[Lanes, ...]:
    """``n``, in the low bits of an integer, ``r`` and what that could not hold, of f64 lanes."""
    k = x.k
    first, second, third = HALF_PI
    n, bits = nearest(x, TWO_OVER_PI)
    start = fma(n, -first, x)
    middle = n * second
    r = start - middle
    values = bits, *fast_two_sum(r, fma(n, -third, (start - r) - middle))
    slots = [k.alloca(value.type) for value in values]
    for value, slot in zip(values, slots, strict=True):
        k.store(value.reg, slot)

    magnitude = abs(x)
    large = magnitude >= LARGE
    with k.if_(large.any()):
        finite = large & (magnitude < INF)  # the remainder of inf is nan already
        exact = [k.alloca(value.type) for value in values]
        name = f"vecmath_reduce_{mangle(x.type)}"
        k.define_once(name, "void", [x.type, "ptr", "ptr", "ptr"], partial(_reduce_each, k))
        k.call(name, "void", [x.reg, *exact])
        for value, source, slot in zip(values, exact, slots, strict=True):
            k.store(k.select(finite.reg, k.load(value.type, source), value.reg), slot)
    return tuple(
        Lanes(k, k.load(value.type, slot)) for value, slot in zip(values, slots, strict=True)
    )


def _reduce_each(k: Emitter, x: Reg, n: Reg, hi: Reg, lo: Reg) -> None:
    """Stores the exact reduction of every lane of ``x``."""
    k.define_once(
        "vecmath_reduce", "void", ["double", "ptr", "ptr", "ptr"], partial(_reduce_large, k)
    )
    spilled = k.alloca(x.type)
    k.store(x, spilled)
    with k.loop(0, lanes_of(x.type)) as i:
        results = [k.gep(n, i, "i64"), k.gep(hi, i, "double"), k.gep(lo, i, "double")]
        value = k.load("double", k.gep(spilled, i, "double"))
        k.call("vecmath_reduce", "void", [value, *results])


def _reduce_large(k: Emitter, x: Reg, n: Reg, hi: Reg, lo: Reg) -> None:
    """Reduces one number of magnitude ``LARGE`` or more.

    ``x = m 2**e`` with an integer ``m``.  Of ``m * 2/π``, in quarter turns, only the
    value modulo 4 counts: so bits of 2/π above ``2**(2 - e)`` are not needed, and the
    190 bits below suffice, as no double comes closer than 2**-62 to a multiple
    of π/2.  All is arithmetic modulo 2**192, with the point below the second bit.
    """
    bits = k.cast("bitcast", x, "i64")
    biased = k.bits("and", k.bits("lshr", bits, 52), 0x7FF)
    exponent = k.sub(k.max(biased, 1000), 1075)  # other lanes may hold small numbers
    significand = k.bits("or", k.bits("and", bits, (1 << 52) - 1), 1 << 52)

    body = TWO_OVER_PI_DIGITS.to_bytes(FRACTION // 8 + 32, "little")
    bytes_ = k.constant_table("vecmath_two_over_pi", "i8", [str(b) for b in body])
    shift = k.sub(FRACTION - 190, exponent)
    window = k.load("i256", k.gep(bytes_, k.bits("lshr", shift, 3), "i8"), 1)
    window = k.bits("lshr", window, k.cast("zext", k.bits("and", shift, 7), "i256"))
    turns = k.mul(k.cast("trunc", window, "i192"), k.cast("zext", significand, "i192"))

    quadrant = k.cast("trunc", k.bits("lshr", k.add(turns, 1 << 189), 190), "i64")
    minus = k.bits("ashr", bits, 63)
    k.store(k.as_reg(k.sub(k.bits("xor", quadrant, minus), minus)), n)
    # The signed distance from that quadrant, normalised to 64 bits.
    signed = k.bits("shl", turns, 2)
    negative = k.icmp("slt", signed, 0)
    distance = k.select(negative, k.as_reg(k.sub(k.zero("i192"), signed)), signed)
    zeros = _leading_zeros(k, distance)
    top = k.cast("trunc", k.bits("lshr", k.bits("shl", distance, zeros), 128), "i64")
    # Times π/2 in fixed point, then as two floats of 32 bits each.
    half_pi = 14488038916154245685  # round(π/2 * 2**63)
    product = k.mul(k.cast("zext", top, "i128"), half_pi)
    scale = k.bits("shl", k.sub(1023, k.cast("trunc", zeros, "i64")), 52)
    flips = k.bits("xor", k.cast("zext", negative, "i64"), minus)
    scale = k.bits("or", scale, k.bits("shl", flips, 63))
    unit = k.cast("bitcast", scale, "double")
    parts = []
    for place, weight in ((96, 2.0**-31), (64, 2.0**-63)):
        word = k.cast("zext", k.cast("trunc", k.bits("lshr", product, place), "i32"), "i64")
        part = k.fmul(k.cast("sitofp", word, "double"), k.const("double", weight))
        parts.append(Lanes(k, k.fmul(part, unit)))
    for value, slot in zip(fast_two_sum(*parts), (hi, lo), strict=True):
        k.store(value.reg, slot)


def _leading_zeros(k: Emitter, x: Reg) -> Reg:
    name = f"llvm.ctlz.{x.type}"
    k.declare(name, x.type, (x.type, "i1"))
    return k.op(x.type, f"call {x.type} @{name}({x.type} {x}, i1 false)")


# -- functions -------------------------------------------------------------


def _sin(r: Lanes, tail: Lanes, coefficients: Sequence[float]) -> tuple[Lanes, Lanes]:
    z = r * r
    return r, fma(r * z, polynomial(z, coefficients), tail)


def _cos(r: Lanes, tail: Lanes, coefficients: Sequence[float]) -> tuple[Lanes, Lanes]:
    z = r * r
    half = z * 0.5
    one = 1.0 - half
    lost = (1.0 - one) - half
    return one, lost + fma(z * z, polynomial(z, coefficients), -(r * tail))


def _circular(x: Lanes, turn: int, scalar: str) -> Lanes:
    """``sin(x + turn π/2)`` with the polynomials for results of type ``scalar``."""
    if x.scalar != "double":
        return narrow(_circular(widen(x), turn, x.scalar))
    n, r, tail = _reduced(x)
    n = n + turn if turn else n
    sines, cosines = _sin(r, tail, SIN[scalar]), _cos(r, tail, COS[scalar])
    odd = (n & 1).ne(0)
    hi, lo = (where(odd, c, s) for s, c in zip(sines, cosines, strict=True))
    return ((hi + lo).bits() ^ ((n >> 1) << 63)).floats()


def sin(x: Lanes) -> Lanes:
    """Sine; nan of infinities."""
    return where(x.eq(0.0), x, _circular(x, 0, x.scalar))


def cos(x: Lanes) -> Lanes:
    """Cosine; nan of infinities."""
    return _circular(x, 1, x.scalar)


def tan(x: Lanes) -> Lanes:
    """``sin(r) / cos(r)``, in odd quadrants ``-cos(r) / sin(r)``."""
    return where(x.eq(0.0), x, _tan(x, x.scalar))


def _tan(x: Lanes, scalar: str) -> Lanes:
    if x.scalar != "double":
        return narrow(_tan(widen(x), x.scalar))
    n, r, tail = _reduced(x)
    sine = Pair(*fast_two_sum(*_sin(r, tail, SIN[scalar])))
    cosine = Pair(*fast_two_sum(*_cos(r, tail, COS[scalar])))
    odd = (n & 1).ne(0)
    above = Pair(where(odd, -cosine.hi, sine.hi), where(odd, -cosine.lo, sine.lo))
    below = Pair(where(odd, sine.hi, cosine.hi), where(odd, sine.lo, cosine.lo))
    return (above / below).hi
