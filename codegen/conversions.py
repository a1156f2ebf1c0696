"""Values between memory and registers, and from dtype to dtype, as instructions.

In registers (``REGISTER_TYPES``) bool is ``i1`` and half types are f32; in memory
(``MEMORY_TYPES``) they are bytes and halves.  All of it serves any lane count.
"""

from __future__ import annotations

import math
from typing import Any

from symgrad.codegen.access import MEMORY_TYPES, REGISTER_TYPES
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, bytes_of, lanes_of, mangle, scalar_of, vec

# -- memory <-> register ---------------------------------------------------


def from_memory(k: Emitter, value: Reg, dtype: str) -> Reg:
    """A loaded value (scalar or vector of ``MEMORY_TYPES[dtype]``) as computed with."""
    if dtype == "bool":
        return k.icmp("ne", value, 0)
    if dtype == "f16":
        return _extend_half(k, value)
    if dtype == "bf16":
        return k.cast("fpext", value, vec("float", lanes_of(value.type)))
    return value


def to_memory(k: Emitter, value: Reg, dtype: str) -> Reg:
    """A computed value as it is stored: a vector of ``MEMORY_TYPES[dtype]``, rounded to even."""
    lanes = lanes_of(value.type)
    if dtype == "bool":
        return k.cast("zext", value, vec("i8", lanes))
    if dtype == "f16":
        return _round_half(k, value)
    if dtype == "bf16":
        high = k.bits("lshr", _rounded_bfloat(k, value), 16)
        return k.cast("bitcast", k.cast("trunc", high, vec("i16", lanes)), vec("bfloat", lanes))
    return value


def _rounded_bfloat(k: Emitter, value: Reg) -> Reg:
    """The bits of an f32 of which, rounded to even, the upper half is a bf16."""
    bits = k.cast("bitcast", value, vec("i32", lanes_of(value.type)))
    odd = k.bits("and", k.bits("lshr", bits, 16), 1)
    rounded = k.add(k.add(bits, 0x7FFF), odd)
    quiet = k.bits("or", bits, 1 << 22)
    return k.select(k.fcmp("uno", value, value), quiet, k.as_reg(rounded))


def _extend_half(k: Emitter, value: Reg) -> Reg:
    """f16 to f32, exactly."""
    lanes = lanes_of(value.type)
    if k.target.has_fma:  # such CPUs convert half types in hardware
        return k.cast("fpext", value, vec("float", lanes))
    wide = vec("i32", lanes)
    bits = k.cast("zext", k.cast("bitcast", value, vec("i16", lanes)), wide)
    sign = k.bits("shl", k.bits("and", bits, 0x8000), 16)
    magnitude = k.bits("shl", k.bits("and", bits, 0x7FFF), 13)
    # Reading the shifted bits as f32 is off by the difference of the biases,
    # 127 - 15; the multiplication corrects it and normalises denormals.
    scaled = k.fmul(
        k.cast("bitcast", magnitude, vec("float", lanes)), k.const(vec("float", lanes), 2.0**112)
    )
    special = k.icmp("uge", magnitude, 0x7C00 << 13)
    body = k.select(special, k.bits("or", magnitude, 0x7F800000), k.cast("bitcast", scaled, wide))
    return k.cast("bitcast", k.bits("or", body, sign), vec("float", lanes))


def _round_half(k: Emitter, value: Reg) -> Reg:
    """f32 to f16, to nearest even."""
    lanes = lanes_of(value.type)
    if k.target.has_fma:
        return k.cast("fptrunc", value, vec("half", lanes))
    wide, single = vec("i32", lanes), vec("float", lanes)
    bits = k.cast("bitcast", value, wide)
    sign = k.cast("trunc", k.bits("and", k.bits("lshr", bits, 16), 0x8000), vec("i16", lanes))
    magnitude = k.bits("and", bits, 0x7FFFFFFF)
    # Normal results: move the bias and round on the 13 bits that fall away.
    odd = k.bits("and", k.bits("lshr", magnitude, 13), 1)
    rebiased = k.add(k.add(magnitude, 0xFFF - (112 << 23)), odd)
    normal = k.bits("lshr", k.as_reg(rebiased), 13)
    # Denormal results: adding 2**-1 aligns the last kept bit with f32's last one.
    shifted = k.fadd(k.cast("bitcast", magnitude, single), k.const(single, 0.5))
    tiny = k.sub(k.cast("bitcast", shifted, wide), 0x3F000000)
    small = k.icmp("ult", magnitude, 113 << 23)
    half = k.select(small, k.as_reg(tiny), normal)
    half = k.select(k.icmp("uge", magnitude, 143 << 23), k.const(wide, 0x7C00), half)
    half = k.select(k.icmp("ugt", magnitude, 0x7F800000), k.const(wide, 0x7E00), half)
    word = k.bits("or", k.cast("trunc", half, vec("i16", lanes)), sign)
    return k.cast("bitcast", word, vec("half", lanes))


# -- constants and conversions ---------------------------------------------


def constant(k: Emitter, dtype: str, value: Any, lanes: int = 1) -> Reg:
    """A Python or NumPy scalar in every lane; half types are rounded first."""
    scalar = REGISTER_TYPES[dtype]
    if kind_of(dtype) == "f":
        return k.const(vec(scalar, lanes), _rounded(float(value), dtype))
    number = int(value)
    if dtype == "u64" and number >= 1 << 63:  # LLVM literals are signed
        number -= 1 << 64
    return k.const(vec(scalar, lanes), number)


def _rounded(value: float, dtype: str) -> float:
    """A literal rounded to a half type; other types round when printed."""
    import numpy as np

    if dtype == "f16":
        with np.errstate(over="ignore"):
            return float(np.float16(value))
    if dtype == "bf16" and not math.isnan(value):
        with np.errstate(over="ignore"):
            bits = int(np.float32(value).view(np.uint32))
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return float(np.uint32(bits).view(np.float32))
    return value


def convert(k: Emitter, value: Reg, source: str, target: str) -> Reg:
    """``value`` of IR dtype ``source`` as ``target``, like ``ndarray.astype``.

    Floats beyond an integer type's range give its nearest value, nan gives 0.
    """
    if source == target:
        return value
    type = vec(REGISTER_TYPES[target], lanes_of(value.type))
    kinds = kind_of(source) + kind_of(target)
    if kinds == "ff":
        return _convert_float(k, value, type, target)
    if kinds[1] == "b":
        zero = k.zero(value.type)
        return k.fcmp("une", value, zero) if kinds[0] == "f" else k.icmp("ne", value, zero)
    if kinds[1] == "f":
        wide = k.cast("sitofp" if kinds[0] == "i" else "uitofp", value, type)
        return _through_memory(k, wide, target)
    if kinds[0] == "f":
        name = f"llvm.fpto{'si' if kinds[1] == 'i' else 'ui'}.sat.{mangle(type)}"
        name += f".{mangle(value.type)}"
        k.declare(name, type, (value.type,))
        return k.op(type, f"call {type} @{name}({value.type} {value})")
    narrow, wide_bytes = bytes_of(type), bytes_of(value.type)
    if kinds[0] == "b":
        return k.cast("zext", value, type)
    if narrow == wide_bytes:
        return value
    if narrow < wide_bytes:
        return k.cast("trunc", value, type)
    return k.cast("sext" if kinds[0] == "i" else "zext", value, type)


def _convert_float(k: Emitter, value: Reg, type: str, target: str) -> Reg:
    if type == value.type:
        return _through_memory(k, value, target)
    if scalar_of(type) == "double":
        return k.cast("fpext", value, type)
    if target == "f32":
        return k.cast("fptrunc", value, type)
    # f64 -> f32 -> half would round twice. Rounding to odd first keeps the bit
    # that decides the second rounding.
    near = k.cast("fptrunc", value, type)
    back = k.cast("fpext", near, value.type)
    bits = k.cast("bitcast", near, vec("i32", lanes_of(type)))
    below = k.fcmp("olt", k.intrinsic("fabs", back), k.intrinsic("fabs", value))
    step = k.select(below, k.const(bits.type, 1), k.const(bits.type, -1))
    even = k.icmp("eq", k.bits("and", bits, 1), 0)
    inexact = k.bits("and", k.fcmp("one", back, value), even)
    odd = k.select(inexact, k.as_reg(k.add(bits, step)), bits)
    return _through_memory(k, k.cast("bitcast", odd, type), target)


def _through_memory(k: Emitter, value: Reg, dtype: str) -> Reg:
    """Rounds an f32 register to a half type; other values are exact already."""
    if dtype == "bf16":  # is the upper half of an f32, in which it may stay
        return k.cast("bitcast", k.bits("and", _rounded_bfloat(k, value), -1 << 16), value.type)
    return from_memory(k, to_memory(k, value, dtype), dtype) if dtype in _HALF else value


_HALF = ("f16", "bf16")


def kind_of(dtype: str) -> str:
    """``f``, ``i``, ``u`` or ``b``."""
    if dtype not in MEMORY_TYPES:
        raise NotImplementedError(f"no vector code for elements of type {dtype}")
    return "f" if dtype in _HALF else dtype[0]
