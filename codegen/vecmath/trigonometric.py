"""sin, cos, tan over the whole range.

Sine and cosine subtract the nearest multiple of π (of an odd half of it), which
leaves one odd polynomial and a sign; the tangent works with multiples of π/2 and
divides.  Below ``LARGE`` the multiple is subtracted in three parts whose products
with it are exact.  Larger arguments are rare: a vector that has one calls a
function that multiplies the significand by those bits of 2/π that matter for its
exponent (Payne and Hanek).

f32 functions compute in f64, where reduction and polynomials are much shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, lanes_of, mangle
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
    two_product,
    where,
    widen,
)
from symgrad.ir.record import record

# sin(r) = r + r z q(z), z = r**2, minimax on |r| <= π/2, error 2**-35.3 and 2**-57.7
SIN = table(
    float="""
        -0x1.5555554765a31p-3 0x1.11110c48ffa3p-7 -0x1.a017d94a9bbe3p-13 0x1.717074f043c7cp-19
        -0x1.9a67863199301p-26
    """,
    double="""
        -0x1.5555555555555p-3 0x1.11111111110c1p-7 -0x1.a01a01a0148a4p-13
        0x1.71de3a5287179p-19 -0x1.ae6454cb043e7p-26 0x1.6123cb138565dp-33
        -0x1.ae4317d958ec4p-41 0x1.8829041558238p-49
    """,
)
# The same for |r| <= π/4, error 2**-37.5 and 2**-57.1
SIN_QUARTER = table(
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
COS_QUARTER = table(
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
FRACTION = 1216
TWO_OVER_PI_DIGITS = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424d"
    "d2e006492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639"
    "835339f49c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f46"
    "3f669e5fea2d7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6bab",
    16,
)
"""``floor(2/π * 2**FRACTION)``."""

HALF_PI = tuple(
    float.fromhex(h) for h in ("0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2e037073p-69")
)
"""π/2 in parts of 33, 33 and 53 bits: products of the first two with small integers are exact."""
HALF_PI_FUSED = tuple(
    float.fromhex(h) for h in ("0x1.921fb54442d18p+0", "0x1.1a626331p-54", "0x1.1701b839a252p-88")
)
"""π/2 in parts of 53, 33 and 53 bits: what is left of a number when multiples of the first are
taken from it is a double again, though the multiple is none.  The third part is so small that
what it adds never needs to be carried."""
HALF_PI_FIXED = 14488038916154245685
"""``round(π/2 * 2**63)``."""
LARGE = 2.0**20


# -- reduction -------------------------------------------------------------


@record
class Turns:
    """The reduction ``x + offset π/2 = n (size π/2) + r``, ``x >= 0`` and ``|r| <= size π/4``."""

    size: int
    offset: int

    def reduce(self, x: Lanes, *, short: bool = False) -> tuple[Lanes, Lanes, Lanes]:
        """``n`` in the low bits of an integer, ``r`` and what that could not hold, of f64 lanes.

        ``short`` is enough for f32 results and leaves the third part 0.
        """
        k = x.k
        values = self._reduce_small(x, short)
        slots = [k.alloca(value.type) for value in values]
        for value, slot in zip(values, slots, strict=True):
            k.store(value.reg, slot)
        large = x >= LARGE
        with k.if_(large.any()):
            finite = large & (x < INF)  # the remainder of inf is nan already
            exact = [k.alloca(value.type) for value in values]
            # The offset is an operand, so that sine and cosine share this code.
            name = f"vecmath_reduce_{self.size}_{mangle(x.type)}"
            params = [x.type, "i64", "ptr", "ptr", "ptr"]
            k.define_once(name, "void", params, partial(self._reduce_each, k))
            k.call(name, "void", [x.reg, Reg(str(self.offset), "i64"), *exact])
            for value, source, slot in zip(values, exact, slots, strict=True):
                k.store(k.select(finite.reg, k.load(value.type, source), value.reg), slot)
        n, hi, lo = (
            Lanes(k, k.load(value.type, slot)) for value, slot in zip(values, slots, strict=True)
        )
        return n, hi, lo

    def fold(self, x: Lanes, *, short: bool = False) -> tuple[Lanes, Lanes]:
        """``r`` in two parts, ``|r| <= π/2`` and ``sin(r) = sin(x + offset π/2)``.

        For single numbers and half turns: a number that is small already, which often hangs
        on the one before, need not wait for a reduction.  Among the lanes of a vector some
        other number would.
        """
        k = x.k
        hi, lo = k.alloca(x.type), k.alloca(x.type)

        def settle(r: Lanes, tail: Lanes) -> None:
            k.store(r.reg, hi)
            k.store(tail.reg, lo)

        def reduced() -> None:
            n, r, tail = self.reduce(abs(x), short=short)
            sign = n << 63 if self.offset else (n << 63) ^ x.sign_bit()
            settle(*((part.bits() ^ sign).floats() for part in (r, tail)))

        if self.offset:
            reduced()
        else:
            with k.if_else((abs(x) <= math.pi / 2).reg) as (near, far):
                with near:
                    settle(x, x.const(0.0))
                with far:
                    reduced()
        return Lanes(k, k.load(x.type, hi)), Lanes(k, k.load(x.type, lo))

    def _reduce_small(self, x: Lanes, short: bool) -> tuple[Lanes, Lanes, Lanes]:
        """The reduction of numbers below ``LARGE`` (Cody and Waite)."""
        has_fma = x.k.target.has_fma
        first, second, third = (p * self.size for p in (HALF_PI_FUSED if has_fma else HALF_PI))
        scale, shift = TWO_OVER_PI / self.size, self.offset / self.size
        turns = nearest(fma(x, scale, shift), 1.0) if shift else nearest(x, scale)
        n = turns.value - shift if shift else turns.value
        start = fma(n, -first, x)
        if short:
            return turns.bits, fma(n, -(second + third), start), x.const(0.0)
        middle = n * second
        r = start - middle
        tail = fma(n, -third, (start - r) - middle)
        return turns.bits, *((r, tail) if has_fma else fast_two_sum(r, tail))

    def _reduce_each(self, k: Emitter, x: Reg, offset: Reg, n: Reg, hi: Reg, lo: Reg) -> None:
        """Stores the exact reduction of every lane of ``x``."""
        name = f"vecmath_reduce_{self.size}"
        params = ["double", "i64", "ptr", "ptr", "ptr"]
        k.define_once(name, "void", params, partial(self._reduce_large, k))
        spilled = k.alloca(x.type)
        k.store(x, spilled)
        with k.loop(0, lanes_of(x.type)) as i:
            results = [k.gep(n, i, "i64"), k.gep(hi, i, "double"), k.gep(lo, i, "double")]
            one = k.load("double", k.gep(spilled, i, "double"))
            k.call(name, "void", [one, offset, *results])

    def _reduce_large(self, k: Emitter, x: Reg, offset: Reg, n: Reg, hi: Reg, lo: Reg) -> None:
        """Reduces one number of ``LARGE`` or more.

        ``x = m 2**e`` with an integer ``m``.  Of ``m * 2/π``, in quarter turns, only the
        value modulo 4 counts: so bits of 2/π above ``2**(2 - e)`` are not needed, and of
        the product the 126 bits below suffice, as no double comes closer than 2**-62 to
        a multiple of π/2.  All is arithmetic modulo 2**128, in units of 2**-126.
        """
        bits = k.cast("bitcast", x, "i64")
        biased = k.bits("lshr", bits, 52)
        exponent = k.sub(k.max(biased, 1000), 1075)  # other lanes may hold small numbers
        significand = k.bits("or", k.bits("and", bits, (1 << 52) - 1), 1 << 52)

        body = TWO_OVER_PI_DIGITS.to_bytes(FRACTION // 8 + 32, "little")
        digits = k.constant_table("vecmath_two_over_pi", "i8", [str(b) for b in body])
        shift = k.sub(FRACTION - 190, exponent)
        window = k.gep(digits, k.bits("lshr", shift, 3), "i8")
        low, middle, high = _shifted(k, window, k.bits("and", shift, 7))
        wide = k.cast("zext", significand, "i128")
        carry = k.bits("lshr", k.mul(k.cast("zext", low, "i128"), wide), 64)
        quarters = k.add(k.mul(k.cast("zext", middle, "i128"), wide), carry)
        above = k.as_reg(k.add(k.mul(high, significand), k.bits("shl", offset, 62)))
        quarters = k.add(quarters, k.bits("shl", k.cast("zext", above, "i128"), 64))

        point = 125 + self.size  # bits below one turn of this size
        whole = k.bits("lshr", k.add(quarters, 1 << (point - 1)), point)
        k.store(k.cast("trunc", whole, "i64"), n)
        # The signed distance from that many turns, normalised to 64 bits.
        signed = k.bits("shl", quarters, 128 - point)
        negative = k.icmp("slt", signed, 0)
        distance = k.select(negative, k.as_reg(k.sub(k.zero("i128"), signed)), signed)
        zeros = _leading_zeros(k, distance)
        top = k.cast("trunc", k.bits("lshr", k.bits("shl", distance, zeros), 64), "i64")
        # Times π/2 in fixed point, then as two floats of 32 bits each.
        product = k.mul(k.cast("zext", top, "i128"), HALF_PI_FIXED)
        power = k.bits("shl", k.sub(1023, k.cast("trunc", zeros, "i64")), 52)
        sign = k.bits("shl", k.cast("zext", negative, "i64"), 63)
        unit = k.cast("bitcast", k.bits("or", power, sign), "double")
        parts = []
        for place, weight in ((96, 2.0**-31), (64, 2.0**-63)):
            word = k.cast("zext", k.cast("trunc", k.bits("lshr", product, place), "i32"), "i64")
            part = k.fmul(k.cast("sitofp", word, "double"), k.const("double", weight * self.size))
            parts.append(Lanes(k, k.fmul(part, unit)))
        for value, slot in zip(fast_two_sum(*parts), (hi, lo), strict=True):
            k.store(value.reg, slot)


def _shifted(k: Emitter, words: Reg, bits: Reg) -> list[Reg]:
    """Three words of 64 bits, out of four at any address, moved right by less than a word."""
    k.declare("llvm.fshr.i64", "i64", ("i64",) * 3)
    w = [k.load("i64", k.gep(words, i, "i64"), 1) for i in range(4)]
    call = "call i64 @llvm.fshr.i64"
    return [k.op("i64", f"{call}(i64 {w[i + 1]}, i64 {w[i]}, i64 {bits})") for i in range(3)]


def _leading_zeros(k: Emitter, x: Reg) -> Reg:
    name = f"llvm.ctlz.{x.type}"
    k.declare(name, x.type, (x.type, "i1"))
    return k.op(x.type, f"call {x.type} @{name}({x.type} {x}, i1 false)")


# -- functions -------------------------------------------------------------


def _sine(x: Lanes, offset: int, scalar: str) -> Lanes:
    """``sin(x + offset π/2)`` with the polynomial for results of type ``scalar``."""
    if x.scalar != "double":
        return narrow(_sine(widen(x), offset, scalar))
    turns, short = Turns(2, offset), scalar == "float"
    if x.count == 1:
        r, tail = turns.fold(x, short=short)
        y = _sine_of_reduced(r, tail, scalar)
        # The sign of -0, without a way through integer registers.
        return y if offset else where(r.eq(0.0), r, y)
    n, r, tail = turns.reduce(abs(x), short=short)
    y = (_sine_of_reduced(r, tail, scalar).bits() ^ (n << 63)).floats()
    return y if offset else (y.bits() ^ x.sign_bit()).floats()


def _sine_of_reduced(r: Lanes, tail: Lanes, scalar: str) -> Lanes:
    """``sin(r + tail)``, ``|r| <= π/2``."""
    z = r * r
    if scalar == "float":
        return fma(r * z, polynomial(z, SIN[scalar]), r)
    first, *others = SIN[scalar]
    _, lost = two_product(r, r)
    s = fma(z, first, fma(lost, first, z * z * polynomial(z, others)))
    return r + fma(r, s, fma(z, tail * -0.5, tail))


def sin(x: Lanes) -> Lanes:
    """Sine; nan of infinities.  Error below 0.501 (f32) and 1.5 ulp (f64)."""
    (sine,) = _unless_small(x, [_sine_of_small], lambda: [_sine(x, 0, x.scalar)])
    return sine


def cos(x: Lanes) -> Lanes:
    """Cosine; nan of infinities.  Error below 0.501 (f32) and 1.7 ulp (f64)."""
    (cosine,) = _unless_small(x, [_cosine_of_small], lambda: [_sine(x, 1, x.scalar)])
    return cosine


def sin_and_cos(x: Lanes) -> tuple[Lanes, Lanes]:
    """Sine and cosine, nan of infinities, for less than what the two take one by one.

    One reduction to a quarter turn gives both a short polynomial; in odd quadrants they change
    places.  Error below 0.501 (f32) and 0.9 ulp (f64).
    """
    if x.scalar != "double":
        sine, cosine = _sine_and_cosine(widen(x), x.scalar)
        return narrow(sine), narrow(cosine)
    sine, cosine = _unless_small(
        x, [_sine_of_small, _cosine_of_small], lambda: _sine_and_cosine(x, x.scalar)
    )
    return sine, cosine


def _unless_small(
    x: Lanes, small: Sequence[Callable[[Lanes], Lanes]], others: Callable[[], Sequence[Lanes]]
) -> Sequence[Lanes]:
    """What ``others`` makes of ``x``; functions of ``|x| <= π/4`` for a single f64 that is small.

    A single number often hangs on the one before, and then the time from argument to result
    counts (see ``Turns.fold``).
    """
    k = x.k
    if x.count > 1 or x.scalar != "double":
        return others()
    slots = [k.alloca(x.type) for _ in small]
    with k.if_else((abs(x) <= math.pi / 4).reg) as (near, far):
        with near:
            for function, slot in zip(small, slots, strict=True):
                k.store(function(x).reg, slot)
        with far:
            for value, slot in zip(others(), slots, strict=True):
                k.store(value.reg, slot)
    return [Lanes(k, k.load(x.type, slot)) for slot in slots]


def _sine_of_small(x: Lanes) -> Lanes:
    """``sin(x)`` of an f64, ``|x| <= π/4``."""
    z = x * x
    return fma(x * z, polynomial(z, SIN_QUARTER["double"]), x).copysign(x)


def _cosine_of_small(x: Lanes) -> Lanes:
    """``cos(x)`` of an f64, ``|x| <= π/4``."""
    z = x * x
    one = fma(z, -0.5, 1.0)
    lost = fma(z, -0.5, 1.0 - one)
    return one + fma(z * z, polynomial(z, COS_QUARTER["double"]), lost)


def _sine_and_cosine(x: Lanes, scalar: str) -> tuple[Lanes, Lanes]:
    n, *parts = _quarter(abs(x), scalar)
    sine, cosine = (high + low for high, low in parts)
    odd = (n & 1).ne(0)
    first, second = where(odd, cosine, sine), where(odd, sine, cosine)
    sign, turned = (n & 2) << 62, ((n + 1) & 2) << 62
    return (
        (first.bits() ^ sign ^ x.sign_bit()).floats(),
        (second.bits() ^ turned).floats(),
    )


def _quarter(x: Lanes, scalar: str) -> tuple[Lanes, tuple[Lanes, Lanes], tuple[Lanes, Lanes]]:
    """The quadrant of an f64 ``x >= 0``, and the sine and cosine of what remains, each as a
    number and what is to be added to it."""
    n, r, tail = Turns(1, 0).reduce(x, short=scalar == "float")
    z = r * r
    one = fma(z, -0.5, 1.0)
    lost = fma(r, -tail, fma(z, -0.5, 1.0 - one)) if scalar != "float" else tail
    sine_rest = fma(r * z, polynomial(z, SIN_QUARTER[scalar]), tail)
    cosine_rest = fma(z * z, polynomial(z, COS_QUARTER[scalar]), lost)
    return n, (r, sine_rest), (one, cosine_rest)


def tan(x: Lanes) -> Lanes:
    """``sin(r) / cos(r)``, in odd quadrants ``-cos(r) / sin(r)``; nan of infinities.

    Error below 0.501 (f32) and 1.17 ulp (f64).
    """
    y = _tangent(abs(x), x.scalar)
    return (y.bits() ^ x.sign_bit()).floats()


def _tangent(x: Lanes, scalar: str) -> Lanes:
    if x.scalar != "double":
        return narrow(_tangent(widen(x), scalar))
    n, *parts = _quarter(x, scalar)
    odd = (n & 1).ne(0)
    if scalar == "float":
        sine, cosine = (high + low for high, low in parts)
        return where(odd, -cosine, sine) / where(odd, sine, cosine)
    sines, cosines = (fast_two_sum(*pair) for pair in parts)
    above = Pair(*(where(odd, -c, s) for s, c in zip(sines, cosines, strict=True)))
    below = Pair(*(where(odd, s, c) for s, c in zip(sines, cosines, strict=True)))
    return (above / below).hi
