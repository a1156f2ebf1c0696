"""Typed registers, and LLVM's types and literals as text."""

from __future__ import annotations

import functools
import struct

FLOATS = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}
"""LLVM's floating-point types, and what they are called in an intrinsic's name."""
_BYTES = {"float": 4, "double": 8, "half": 2, "bfloat": 2, "ptr": 8, "i1": 1}


class Reg(str):
    """An SSA register or constant: its text, with its LLVM type beside it."""

    __slots__ = ("type",)
    type: str

    def __new__(cls, text: str, type: str) -> Reg:
        reg = super().__new__(cls, text)
        reg.type = type
        return reg


Int = int | Reg


def vec(scalar: str, lanes: int) -> str:
    """The LLVM type of ``lanes`` elements of ``scalar``; the scalar itself for 1."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


@functools.cache
def scalar_of(type: str) -> str:
    """Element type of a vector type, or the type itself."""
    return type[type.index("x") + 2 : -1] if type.startswith("<") else type


@functools.cache
def lanes_of(type: str) -> int:
    """Elements of a vector type; 1 for a scalar."""
    return int(type[1 : type.index(" ")]) if type.startswith("<") else 1


@functools.cache
def bytes_of(type: str) -> int:
    """Size in memory of a scalar or vector type."""
    scalar = scalar_of(type)
    size = _BYTES.get(scalar) or int(scalar[1:]) // 8
    return size * lanes_of(type)


@functools.cache
def mangle(type: str) -> str:
    """A type as it stands in an intrinsic's name: ``v16f32``."""
    scalar = scalar_of(type)
    name = "p0" if scalar == "ptr" else FLOATS.get(scalar, scalar)
    return f"v{lanes_of(type)}{name}" if type.startswith("<") else name


def float_text(value: float, scalar: str) -> str:
    """The exact LLVM literal of ``value`` rounded to ``scalar``."""
    if scalar == "float":
        try:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            value = float("inf") if value > 0 else float("-inf")
    elif scalar == "half":
        return "0xH" + struct.pack(">e", value).hex().upper()
    elif scalar == "bfloat":
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        return f"0xR{(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16:04X}"
    return "0x" + struct.pack(">d", value).hex().upper()
