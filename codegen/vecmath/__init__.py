"""Inlined vector math: the transcendental operations as polynomials.

``emit`` writes the code of a function by its IR op name for any number of lanes
(one included) of ``float`` or ``double``, on any target, with or without FMA.
Every function is right for nan, infinities, signed zeros, denormals, overflow and
underflow, over the whole range of its arguments.  The errors given are the largest
seen, against a correctly rounded reference, on a million arguments of all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, mangle
from symgrad.codegen.vecmath import (
    error_function,
    exponential,
    inverse,
    logarithm,
    power,
    rounding,
    trigonometric,
)
from symgrad.codegen.vecmath.lanes import Lanes

FUNCTIONS: dict[str, Callable[..., Lanes]] = {
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "expm1": exponential.expm1,
    "sigmoid": exponential.sigmoid,
    "sinh": exponential.sinh,
    "cosh": exponential.cosh,
    "tanh": exponential.tanh,
    "log": logarithm.log,
    "log2": logarithm.log2,
    "log10": logarithm.log10,
    "log1p": logarithm.log1p,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    "tan": trigonometric.tan,
    "asin": inverse.asin,
    "acos": inverse.acos,
    "atan": inverse.atan,
    "atan2": inverse.atan2,
    "erf": error_function.erf,
    "erfc": error_function.erfc,
    "pow": power.pow,
    "cbrt": power.cbrt,
    "rsqrt": power.rsqrt,
    "hypot": power.hypot,
    "round": rounding.round_even,
    "floor": rounding.floor,
    "ceil": rounding.ceil,
    "trunc": rounding.trunc,
    "fmod": rounding.fmod,
    "rem": rounding.rem,
    "floor_div": rounding.floor_div,
    "logaddexp": logarithm.logaddexp,
    "asinh": logarithm.asinh,
    "acosh": logarithm.acosh,
    "atanh": logarithm.atanh,
}
"""The functions by IR op name."""


def emit(k: Emitter, name: str, operands: Sequence[Reg], *, outline: bool = False) -> Reg:
    """The function ``name`` of registers of one float type.

    With ``outline`` its code stands once in the module, as an internal function that
    is called: for regions so large that inlining would multiply the code.
    """
    type = operands[0].type
    if not outline:
        return FUNCTIONS[name](*(Lanes(k, reg) for reg in operands)).reg
    symbol = f"vecmath_{name}_{mangle(type)}"
    k.define_once(symbol, type, [type] * len(operands), lambda *regs: emit(k, name, regs))
    return k.op(type, f"call {type} @{symbol}({', '.join(f'{type} {reg}' for reg in operands)})")


def emit_sin_and_cos(k: Emitter, x: Reg, *, outline: bool = False) -> tuple[Reg, Reg]:
    """Sine and cosine of one register; see ``emit``."""
    if not outline:
        sine, cosine = trigonometric.sin_and_cos(Lanes(k, x))
        return sine.reg, cosine.reg
    symbol, place = f"vecmath_sin_and_cos_{mangle(x.type)}", k.alloca(x.type)

    def body(x: Reg, place: Reg) -> Reg:
        sine, cosine = emit_sin_and_cos(k, x)
        k.store(cosine, place)
        return sine

    k.define_once(symbol, x.type, [x.type, "ptr"], body)
    found = k.op(x.type, f"call {x.type} @{symbol}({x.type} {x}, ptr {place})")
    return found, k.load(x.type, place)
