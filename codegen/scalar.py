"""Elementwise IR operations as instructions, on vectors of any lane count.

``emit_op`` turns one IR op into registers, ``emit_region`` a whole region over
0-d values; the same code serves scalars (one lane) and vectors.  Operand and
result types follow ``REGISTER_TYPES``: bool is ``i1``, half types are computed
in f32 (see ``conversions``).

The semantics are NumPy's: ``maximum`` and ``minimum`` propagate nan, integer
division rounds to minus infinity and gives 0 for a zero divisor, shifts by the
width or more give 0 (or the sign).  Nothing here is undefined behaviour: a float
outside an integer's range converts to its nearest value, nan to 0.  Ordinary
arithmetic is never contracted, so it equals NumPy's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from symgrad.codegen import vecmath
from symgrad.codegen.conversions import constant, convert, kind_of
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, bytes_of, lanes_of, scalar_of, vec

if TYPE_CHECKING:
    from symgrad.ir.graph import Op, Region

Rule = Callable[..., Reg]


# -- floats ----------------------------------------------------------------


def _compare(ordered: str, unsigned: str) -> dict[str, Rule]:
    """A comparison as the rule of each kind of operand."""
    signed = unsigned.replace("u", "s", 1) if unsigned[0] == "u" else unsigned

    return {
        "f": lambda k, a, b: k.fcmp(ordered, a, b),
        "i": lambda k, a, b: k.icmp(signed, a, b),
        "u": lambda k, a, b: k.icmp(unsigned, a, b),
        "b": lambda k, a, b: k.icmp(unsigned, a, b),
    }


def _extremum(ordered: str) -> Rule:
    """maximum or minimum of floats: nan if either operand is."""

    def rule(k: Emitter, a: Reg, b: Reg) -> Reg:
        # The select alone is one max instruction, which returns b if either is nan.
        best = k.select(k.fcmp(ordered, a, b), a, b)
        return k.select(k.fcmp("uno", a, a), a, best)

    return rule


def _float_sign(k: Emitter, x: Reg) -> Reg:
    one, zero = k.const(x.type, 1.0), k.zero(x.type)
    signed = k.select(k.fcmp("oeq", x, zero), zero, k.intrinsic("copysign", one, x))
    return k.select(k.fcmp("uno", x, x), x, signed)


def _is_finite(k: Emitter, x: Reg) -> Reg:
    return k.fcmp("olt", k.intrinsic("fabs", x), k.const(x.type, float("inf")))


def _scale(k: Emitter, ct: Reg, slope: Reg) -> Reg:
    """A product for which 0 times anything is 0."""
    return k.select(k.fcmp("oeq", ct, k.zero(ct.type)), ct, k.fmul(ct, slope))


def _relu(k: Emitter, x: Reg) -> Reg:
    zero = k.zero(x.type)
    return k.select(k.fcmp("olt", x, zero), zero, x)


_FLOAT: dict[str, Rule] = {
    "neg": lambda k, x: k.fneg(x),
    "abs": lambda k, x: k.intrinsic("fabs", x),
    "sign": _float_sign,
    "relu": _relu,
    "sqrt": lambda k, x: k.intrinsic("sqrt", x),
    "isnan": lambda k, x: k.fcmp("uno", x, x),
    "isfinite": _is_finite,
    "logical_not": lambda k, x: k.fcmp("oeq", x, k.zero(x.type)),
    "add": lambda k, a, b: k.fadd(a, b),
    "sub": lambda k, a, b: k.fsub(a, b),
    "mul": lambda k, a, b: k.fmul(a, b),
    "div": lambda k, a, b: k.fdiv(a, b),
    "scale": _scale,
    "maximum": _extremum("ogt"),
    "minimum": _extremum("olt"),
    "copysign": lambda k, a, b: k.intrinsic("copysign", a, b),
}


# -- integers --------------------------------------------------------------


def _same(k: Emitter, x: Reg) -> Reg:
    return x


def _always(value: int) -> Rule:
    return lambda k, x: k.const(vec("i1", lanes_of(x.type)), value)


def _bits(name: str) -> Rule:
    return lambda k, a, b: k.bits(name, a, b)


def _not(k: Emitter, x: Reg) -> Reg:
    return k.bits("xor", x, k.const(x.type, -1))


def _is_zero(k: Emitter, x: Reg) -> Reg:
    return k.icmp("eq", x, k.zero(x.type))


def _width(x: Reg) -> int:
    return 8 * bytes_of(scalar_of(x.type))


def _int_abs(k: Emitter, x: Reg) -> Reg:
    return k.intrinsic("smax", x, k.op(x.type, f"sub {x.type} {k.zero(x.type)}, {x}"))


def _int_sign(k: Emitter, x: Reg) -> Reg:
    low = k.intrinsic("smax", x, k.const(x.type, -1))
    return k.intrinsic("smin", low, k.const(x.type, 1))


def _shift(name: str) -> Rule:
    """Shifts by the width or more give what repeated shifting by one would."""

    def rule(k: Emitter, a: Reg, b: Reg) -> Reg:
        last = k.const(b.type, _width(a) - 1)
        clamped = k.op(a.type, f"{name} {a.type} {a}, {k.intrinsic('umin', b, last)}")
        if name == "ashr":
            return clamped
        return k.select(k.icmp("ugt", b, last), k.zero(a.type), clamped)

    return rule


def _quotient(k: Emitter, a: Reg, b: Reg, *, signed: bool) -> Reg:
    """``a / b`` rounded to zero; 0 for a zero divisor, and the overflow wraps."""
    by_zero, one = _is_zero(k, b), k.const(b.type, 1)
    divisor = k.select(by_zero, one, b)
    if signed:  # the smallest number divided by -1 is the one quotient that overflows
        flips = k.icmp("eq", b, k.const(b.type, -1))
        divisor = k.select(flips, one, divisor)
    if _width(a) <= 32:
        # CPUs have no vector integer division; f64 holds both operands exactly and
        # rounds their quotient by less than its distance from the next integer.
        real = vec("double", lanes_of(a.type))
        name = "sitofp" if signed else "uitofp"
        ratio = k.fdiv(k.cast(name, a, real), k.cast(name, divisor, real))
        holds = "i64" if _width(a) == 32 and not signed else "i32"
        quotient = k.cast("fptosi", ratio, vec(holds, lanes_of(a.type)))
        if quotient.type != a.type:
            quotient = k.cast("trunc", quotient, a.type)
    else:
        quotient = k.op(a.type, f"{'sdiv' if signed else 'udiv'} {a.type} {a}, {divisor}")
    if signed:
        negated = k.op(a.type, f"sub {a.type} {k.zero(a.type)}, {a}")
        quotient = k.select(flips, negated, quotient)
    return k.select(by_zero, k.zero(a.type), quotient)


def _fmod(k: Emitter, a: Reg, b: Reg, *, signed: bool) -> Reg:
    """Remainder with the dividend's sign; 0 for a zero divisor."""
    q = _quotient(k, a, b, signed=signed)
    r = k.as_reg(k.sub(a, k.mul(q, b)))
    return k.select(_is_zero(k, b), k.zero(a.type), r)


def _floored(k: Emitter, a: Reg, b: Reg) -> tuple[Reg, Reg, Reg]:
    """Truncated quotient and remainder, and where flooring must correct them."""
    q = _quotient(k, a, b, signed=True)
    r = k.as_reg(k.sub(a, k.mul(q, b)))
    differ = k.icmp("slt", k.bits("xor", r, b), k.zero(a.type))
    wrong = k.bits("and", k.icmp("ne", r, k.zero(a.type)), differ)
    return q, r, wrong


def _floor_div(k: Emitter, a: Reg, b: Reg) -> Reg:
    q, _, wrong = _floored(k, a, b)
    floored = k.select(wrong, k.as_reg(k.sub(q, 1)), q)
    return k.select(_is_zero(k, b), k.zero(a.type), floored)


def _rem(k: Emitter, a: Reg, b: Reg) -> Reg:
    _, r, wrong = _floored(k, a, b)
    floored = k.select(wrong, k.as_reg(k.add(r, b)), r)
    return k.select(_is_zero(k, b), k.zero(a.type), floored)


def _int_pow(k: Emitter, base: Reg, exponent: Reg, *, signed: bool) -> Reg:
    """``base ** exponent`` modulo 2**width, by squaring.

    NumPy raises for negative exponents; here the exact power is rounded to zero,
    so only powers of 1 and -1 are not 0.
    """
    result, square, left = k.alloca(base.type), k.alloca(base.type), k.alloca(base.type)
    one = k.const(base.type, 1)
    k.store(one, result)
    k.store(base, square)
    k.store(exponent, left)
    with k.loop(0, _width(base)):
        power, s, e = (k.load(base.type, slot) for slot in (result, square, left))
        odd = k.icmp("ne", k.bits("and", e, one), k.zero(e.type))
        k.store(k.select(odd, k.as_reg(k.mul(power, s)), power), result)
        k.store(k.as_reg(k.mul(s, s)), square)
        k.store(k.bits("lshr", e, one), left)
    power = k.load(base.type, result)
    if not signed:
        return power
    unit = k.icmp("eq", _int_abs(k, base), one)
    kept = k.bits("or", unit, k.icmp("sge", exponent, k.zero(exponent.type)))
    return k.select(kept, power, k.zero(base.type))


_INTEGER: dict[str, Rule] = {
    "neg": lambda k, x: k.op(x.type, f"sub {x.type} {k.zero(x.type)}, {x}"),
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), _same),
    "isnan": _always(0),
    "isfinite": _always(1),
    "logical_not": _is_zero,
    "bitwise_not": _not,
    "add": lambda k, a, b: k.add(a, b),
    "sub": lambda k, a, b: k.sub(a, b),
    "mul": lambda k, a, b: k.mul(a, b),
    "and": _bits("and"),
    "or": _bits("or"),
    "xor": _bits("xor"),
    "shift_left": _shift("shl"),
}

_SIGNED: dict[str, Rule] = {
    **_INTEGER,
    "abs": _int_abs,
    "sign": _int_sign,
    "maximum": lambda k, a, b: k.intrinsic("smax", a, b),
    "minimum": lambda k, a, b: k.intrinsic("smin", a, b),
    "floor_div": _floor_div,
    "rem": _rem,
    "fmod": lambda k, a, b: _fmod(k, a, b, signed=True),
    "pow": lambda k, a, b: _int_pow(k, a, b, signed=True),
    "shift_right": _shift("ashr"),
}

_UNSIGNED: dict[str, Rule] = {
    **_INTEGER,
    "abs": _same,
    "sign": lambda k, x: k.intrinsic("umin", x, k.const(x.type, 1)),
    "maximum": lambda k, a, b: k.intrinsic("umax", a, b),
    "minimum": lambda k, a, b: k.intrinsic("umin", a, b),
    "floor_div": lambda k, a, b: _quotient(k, a, b, signed=False),
    "rem": lambda k, a, b: _fmod(k, a, b, signed=False),
    "fmod": lambda k, a, b: _fmod(k, a, b, signed=False),
    "pow": lambda k, a, b: _int_pow(k, a, b, signed=False),
    "shift_right": _shift("lshr"),
}

_BOOL: dict[str, Rule] = {
    **dict.fromkeys(("abs", "sign", "floor", "ceil", "round", "trunc"), _same),
    "isnan": _always(0),
    "isfinite": _always(1),
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    **dict.fromkeys(("add", "or", "maximum"), _bits("or")),
    **dict.fromkeys(("mul", "and", "minimum"), _bits("and")),
    "xor": _bits("xor"),
}

_RULES = {"f": _FLOAT, "i": _SIGNED, "u": _UNSIGNED, "b": _BOOL}
for _name, _ordered, _unsigned in (
    ("eq", "oeq", "eq"),
    ("ne", "une", "ne"),
    ("lt", "olt", "ult"),
    ("le", "ole", "ule"),
    ("gt", "ogt", "ugt"),
    ("ge", "oge", "uge"),
):
    for _kind_name, _rule in _compare(_ordered, _unsigned).items():
        _RULES[_kind_name][_name] = _rule


# -- ops and regions -------------------------------------------------------


def emit_op(
    k: Emitter,
    name: str,
    operands: Sequence[Reg],
    dtypes: Sequence[str],
    attrs: Mapping[str, Any] | None = None,
    *,
    outline: bool = False,
) -> Reg:
    """The elementwise IR op ``name`` on registers of IR dtypes ``dtypes``.

    Operands have equal lane counts.  With ``outline`` vector math is called, not
    inlined.  Raises ``NotImplementedError`` for an op that has no meaning on the dtype.
    """
    if name == "select":
        return k.select(*operands)
    if name == "convert":
        target = (attrs or {})["dtype"]
        return convert(k, operands[0], dtypes[0], getattr(target, "name", target))
    if name == "stop_gradient":
        return operands[0]
    kind = kind_of(dtypes[0])
    if kind == "f" and name in vecmath.FUNCTIONS:
        return vecmath.emit(k, name, operands, outline=outline)
    rule = _RULES[kind].get(name)
    if rule is None:
        raise NotImplementedError(f"no vector code for {name} on {', '.join(dtypes)}")
    return rule(k, *operands)


def emit_region(
    k: Emitter,
    region: Region,
    operands: Sequence[Reg],
    lanes: int = 0,
    *,
    outline: bool = False,
) -> list[Reg]:
    """Emits a region over 0-d values, one register per region parameter.

    ``lanes`` is needed only where no operand tells it.  ``outline`` is for regions
    with many transcendental ops.  Returns one register per region result.
    """
    lanes = lanes or lanes_of(operands[0].type)
    registers = dict(zip(region.params, operands, strict=True))
    partners = sine_and_cosine(region.ops)
    for op in region.ops:
        (result,) = op.results
        if result in registers:  # with its partner
            continue
        if op.name == "constant":
            value = op.attrs["value"]
            registers[result] = constant(k, result.type.dtype.name, value, lanes)
        elif id(op) in partners:
            both = vecmath.emit_sin_and_cos(k, registers[op.operands[0]], outline=outline)
            for each, reg in zip(partners[id(op)], both, strict=True):
                registers[each.result] = reg
        else:
            args = [registers[v] for v in op.operands]
            dtypes = [v.type.dtype.name for v in op.operands]
            registers[result] = emit_op(k, op.name, args, dtypes, op.attrs, outline=outline)
    return [registers[v] for v in region.results]


def sine_and_cosine(ops: Sequence[Op]) -> dict[int, tuple[Op, Op]]:
    """For each op by its id the sine and the cosine of one value that it is one of: they are best
    computed together."""
    sines, cosines = (
        {op.operands[0]: op for op in ops if op.name == name} for name in ("sin", "cos")
    )
    pairs = [
        (sine, cosines[angle])
        for angle, sine in sines.items()
        if angle in cosines and angle.type.dtype.name in ("f32", "f64")
    ]
    return {id(op): pair for pair in pairs for op in pair}
