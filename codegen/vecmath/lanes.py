"""Vectors with arithmetic operators, so that numerical code reads as formulas.

A ``Lanes`` is a register together with the emitter it belongs to: ``x * y + 1.0``
emits a multiplication and an addition for every lane.  Nothing is reordered or
contracted; ``fma`` says where one rounding is wanted.

Error-free transformations (``two_sum``, ``two_product``) and ``Pair``, an
unevaluated sum of two floats, carry results beyond the working precision, with
and without hardware FMA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, bytes_of, lanes_of, scalar_of, vec
from symgrad.ir.record import record

INTEGER = {"float": "i32", "double": "i64"}
MANTISSA = {"float": 23, "double": 52}
BIAS = {"float": 127, "double": 1023}
MIN_NORMAL = {"float": 2.0**-126, "double": 2.0**-1022}
INF = float("inf")
NAN = float("nan")

Table = Mapping[str, Sequence[float]]
"""Polynomial coefficients, lowest first, by LLVM scalar type."""


def table(**texts: str) -> dict[str, tuple[float, ...]]:
    """Coefficient tables from lists of hexadecimal floats."""
    return {
        kind: tuple(float.fromhex(word) for word in text.split()) for kind, text in texts.items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """A vector value; a Python number as the other operand is put in every lane."""

    k: Emitter
    reg: Reg

    @property
    def type(self) -> str:
        """LLVM type, ``<16 x float>``."""
        return self.reg.type

    @property
    def scalar(self) -> str:
        """LLVM type of one lane."""
        return scalar_of(self.reg.type)

    @property
    def count(self) -> int:
        """Number of lanes."""
        return lanes_of(self.reg.type)

    # -- arithmetic --------------------------------------------------------

    def lift(self, value: Lanes | float) -> Reg:
        """A register of this type."""
        return value.reg if isinstance(value, Lanes) else self.k.const(self.type, value)

    def const(self, value: float) -> Lanes:
        """``value`` in every lane."""
        return Lanes(self.k, self.lift(value))

    def _op(self, float_name: str, int_name: str, a: Reg, b: Reg) -> Lanes:
        name = float_name if self.scalar in INTEGER else int_name
        return Lanes(self.k, self.k.op(self.type, f"{name} {self.type} {a}, {b}"))

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._op("fadd", "add", self.reg, self.lift(other))

    def __radd__(self, other: float) -> Lanes:
        return self._op("fadd", "add", self.lift(other), self.reg)

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._op("fsub", "sub", self.reg, self.lift(other))

    def __rsub__(self, other: float) -> Lanes:
        return self._op("fsub", "sub", self.lift(other), self.reg)

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._op("fmul", "mul", self.reg, self.lift(other))

    def __rmul__(self, other: float) -> Lanes:
        return self._op("fmul", "mul", self.lift(other), self.reg)

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._op("fdiv", "", self.reg, self.lift(other))

    def __rtruediv__(self, other: float) -> Lanes:
        return self._op("fdiv", "", self.lift(other), self.reg)

    def __neg__(self) -> Lanes:
        return Lanes(self.k, self.k.fneg(self.reg))

    def __abs__(self) -> Lanes:
        return Lanes(self.k, self.k.intrinsic("fabs", self.reg))

    # -- integers and masks ------------------------------------------------

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._op("", "and", self.reg, self.lift(other))

    def __or__(self, other: Lanes | int) -> Lanes:
        return self._op("", "or", self.reg, self.lift(other))

    def __xor__(self, other: Lanes | int) -> Lanes:
        return self._op("", "xor", self.reg, self.lift(other))

    def __lshift__(self, other: Lanes | int) -> Lanes:
        return self._op("", "shl", self.reg, self.lift(other))

    def __rshift__(self, other: Lanes | int) -> Lanes:
        """A logical shift: the sign is not kept."""
        return self._op("", "lshr", self.reg, self.lift(other))

    def __invert__(self) -> Lanes:
        return self ^ -1

    # -- comparisons -------------------------------------------------------

    def _compare(self, float_name: str, int_name: str, other: Lanes | float) -> Lanes:
        if self.scalar in INTEGER:
            return Lanes(self.k, self.k.fcmp(float_name, self.reg, self.lift(other)))
        return Lanes(self.k, self.k.icmp(int_name, self.reg, self.lift(other)))

    def __lt__(self, other: Lanes | float) -> Lanes:
        return self._compare("olt", "slt", other)

    def __le__(self, other: Lanes | float) -> Lanes:
        return self._compare("ole", "sle", other)

    def __gt__(self, other: Lanes | float) -> Lanes:
        return self._compare("ogt", "sgt", other)

    def __ge__(self, other: Lanes | float) -> Lanes:
        return self._compare("oge", "sge", other)

    def eq(self, other: Lanes | float) -> Lanes:
        """Where equal."""
        return self._compare("oeq", "eq", other)

    def ne(self, other: Lanes | float) -> Lanes:
        """Where not equal, or unordered."""
        return self._compare("une", "ne", other)

    def isnan(self) -> Lanes:
        """Where nan."""
        return self._compare("uno", "", self)

    # -- representation ----------------------------------------------------

    def cast(self, name: str, scalar: str) -> Lanes:
        """A conversion instruction to lanes of another type."""
        return Lanes(self.k, self.k.cast(name, self.reg, vec(scalar, self.count)))

    def bits(self) -> Lanes:
        """The representation as integers of the same width."""
        return self.cast("bitcast", INTEGER[self.scalar])

    def floats(self) -> Lanes:
        """Integers reinterpreted as floats of the same width."""
        return self.cast("bitcast", "float" if self.scalar == "i32" else "double")

    def high_half(self) -> Lanes:
        """The leading half of the significand: its products are exact."""
        keep = -(1 << (12 if self.scalar == "float" else 27))
        return (self.bits() & keep).floats()

    def copysign(self, sign: Lanes) -> Lanes:
        """This magnitude with the sign of ``sign``."""
        return Lanes(self.k, self.k.intrinsic("copysign", self.reg, sign.reg))

    def sign_bit(self) -> Lanes:
        """The sign's bit alone, as an integer."""
        bits = self.bits()
        return bits & -(1 << (31 if self.scalar == "float" else 63))

    def sqrt(self) -> Lanes:
        """Correctly rounded square root."""
        return Lanes(self.k, self.k.intrinsic("sqrt", self.reg))

    def any(self) -> Reg:
        """Whether a mask holds in any lane, as one ``i1``."""
        return self.k.reduce("or", self.reg)


def where(mask: Lanes, a: Lanes | float, b: Lanes | float) -> Lanes:
    """``a`` where the mask holds, else ``b``; one of them is a ``Lanes``."""
    like = a if isinstance(a, Lanes) else b
    assert isinstance(like, Lanes)
    return Lanes(mask.k, mask.k.select(mask.reg, like.lift(a), like.lift(b)))


def fma(a: Lanes, b: Lanes | float, c: Lanes | float) -> Lanes:
    """``a * b + c``, in one rounding where the target can."""
    return Lanes(a.k, a.k.fma(a.reg, a.lift(b), a.lift(c)))


def widen(x: Lanes) -> Lanes:
    """f32 lanes as f64."""
    return x.cast("fpext", "double")


def narrow(x: Lanes) -> Lanes:
    """f64 lanes rounded to f32."""
    return x.cast("fptrunc", "float")


def horner(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """``sum(c[i] * x**i)``, one term after the other."""
    value = x.const(coefficients[-1])
    for term in coefficients[-2::-1]:
        value = fma(value, x, term)
    return value


def polynomial(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """``sum(c[i] * x**i)``: Horner's rule in ``x**2`` for even and odd terms apart.

    One multiplication more than plain Horner, for half of its latency.  A single number,
    which often hangs on the one before, takes Estrin's tree: a third less again.
    """
    if len(coefficients) < 6:
        return horner(x, coefficients)
    if x.count == 1:
        return _estrin(x, coefficients)
    z = x * x
    return fma(horner(z, coefficients[1::2]), x, horner(z, coefficients[::2]))


def _estrin(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    terms: list[Lanes | float] = list(coefficients)
    while len(terms) > 2:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        terms = [*(fma(x, high, low) for low, high in pairs), *terms[len(terms) & ~1 :]]
        x = x * x
    low, high = terms
    return fma(x, high, low)


# -- exponents -------------------------------------------------------------


@record
class Whole:
    """An integer per lane: as a float, and in the low bits of an integer of the same width."""

    value: Lanes
    bits: Lanes

    def __sub__(self, other: int) -> Whole:
        return Whole(self.value - float(other), self.bits - other)


def nearest(x: Lanes, scale: float) -> Whole:
    """An integer nearest to ``x * scale``; below ``2**(mantissa - 2)`` in magnitude.

    Adding ``1.5 * 2**mantissa`` leaves the integer in the last bits of the sum: this
    needs neither a rounding nor a conversion instruction, which not all targets have.
    """
    magic = 1.5 * 2.0 ** MANTISSA[x.scalar]
    shifted = fma(x, scale, magic)
    return Whole(shifted - magic, shifted.bits())


def to_float(n: Lanes, bias: Lanes | float) -> Lanes:
    """``n - bias`` as floats of the same width, for ``n`` below ``2**(mantissa - 2)``."""
    if n.scalar == "i32":
        return n.cast("sitofp", "float") - bias
    magic = 1.5 * 2.0**52  # as in ``nearest``, backwards
    return (n + 0x4338000000000000).floats() - (bias + magic)


def exponent_of_two(n: Lanes) -> Lanes:
    """``2**n`` for ``n`` in the low bits and the range of normal numbers."""
    scalar = "float" if n.scalar == "i32" else "double"
    return ((n + BIAS[scalar]) << MANTISSA[scalar]).floats()


def scale_by_power(x: Lanes, n: Whole) -> Lanes:
    """``x * 2**n``, rounded once, right down to denormals and up to infinity."""
    k, size = x.k, bytes_of(x.type)
    if k.target.vector_bytes < 64 or size % 64:
        return scale_in_steps(x, n.bits)
    if size > 64:
        parts = [scale_by_power(*pair) for pair in zip(_halves(x), _whole_halves(n), strict=True)]
        return Lanes(k, k.shuffle(parts[0].reg, parts[1].reg, range(x.count)))
    # AVX-512 has an instruction for it.
    letter, mask = ("s", "i16") if x.scalar == "float" else ("d", "i8")
    name = f"llvm.x86.avx512.mask.scalef.p{letter}.512"
    k.declare(name, x.type, [x.type, x.type, x.type, mask, "i32"])
    operands = f"{x.type} {x.reg}, {x.type} {n.value.reg}, {x.type} poison, {mask} -1, i32 4"
    return Lanes(k, k.op(x.type, f"call {x.type} @{name}({operands})"))


def _halves(x: Lanes) -> list[Lanes]:
    half = x.count // 2
    return [
        Lanes(x.k, x.k.shuffle(x.reg, x.reg, range(start, start + half))) for start in (0, half)
    ]


def _whole_halves(n: Whole) -> list[Whole]:
    return [Whole(*pair) for pair in zip(_halves(n.value), _halves(n.bits), strict=True)]


def scale_in_steps(x: Lanes, n: Lanes) -> Lanes:
    """``x * 2**n`` for ``n`` in the low bits of an integer: ``2**n`` may not be representable."""
    half = n >> 1
    return x * exponent_of_two(half) * exponent_of_two(n - half)


# -- beyond the working precision ------------------------------------------


def fast_two_sum(a: Lanes | float, b: Lanes) -> tuple[Lanes, Lanes]:
    """``a + b`` exactly, as rounded sum and error; wants ``|a| >= |b|`` or ``a == 0``."""
    total = b + a if isinstance(a, Lanes) else a + b
    return total, b - (total - a)


def two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """``a + b`` exactly, as rounded sum and error (Knuth)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def two_product(a: Lanes, b: Lanes | float) -> tuple[Lanes, Lanes]:
    """``a * b`` exactly, as rounded product and error (Dekker's where there is no FMA)."""
    product = a * b
    if a.k.target.has_fma:
        return product, fma(a, b, -product)
    a_high = a.high_half()
    a_low = a - a_high
    b = b if isinstance(b, Lanes) else a.const(b)
    b_high = b.high_half()
    b_low = b - b_high
    error = a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low
    return product, error


@record
class Pair:
    """The unevaluated sum ``hi + lo`` with ``lo`` below half a unit of ``hi``'s last place."""

    hi: Lanes
    lo: Lanes

    def __truediv__(self, other: Pair) -> Pair:
        inverse = 1.0 / other.hi
        hi = self.hi * inverse
        product, error = two_product(hi, other.hi)
        left = (self.hi - product) - error + (self.lo - hi * other.lo)
        return Pair(*fast_two_sum(hi, left * inverse))

    def sqrt(self) -> Pair:
        """The square root; of 0 it is 0."""
        hi = self.hi.sqrt()
        square, error = two_product(hi, hi)
        left = (self.hi - square) - error + self.lo
        return Pair(hi, where(hi > 0.0, left / (hi + hi), 0.0))

    def value(self) -> Lanes:
        """The sum, rounded."""
        return self.hi + self.lo
