"""Element types and tensor types of the IR, with their text form ``f32[8,3]``."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ParseError
from symgrad.ir.record import record


@record
class DType:
    """One element type.

    ``kind`` is ``"b"`` bool, ``"i"``/``"u"`` signed/unsigned integer, ``"f"`` real and
    ``"c"`` complex floating point; ``bytes`` is the size of one element in memory.
    """

    name: str
    kind: str
    bytes: int

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype (``bf16`` comes from the optional package ml_dtypes)."""
        return _numpy_dtype(self.name)

    @property
    def is_float(self) -> bool:
        """Whether values are real floating-point numbers."""
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        """Whether values are integers (bool is none)."""
        return self.kind in "iu"

    @property
    def is_inexact(self) -> bool:
        """Whether values are real or complex floating-point numbers."""
        return self.kind in "fc"

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


bool_ = DType("bool", "b", 1)
i8, i16, i32, i64 = (DType(f"i{8 * n}", "i", n) for n in (1, 2, 4, 8))
u8, u16, u32, u64 = (DType(f"u{8 * n}", "u", n) for n in (1, 2, 4, 8))
f16, f32, f64 = (DType(f"f{8 * n}", "f", n) for n in (2, 4, 8))
bf16 = DType("bf16", "f", 2)
c64, c128 = (DType(f"c{8 * n}", "c", n) for n in (8, 16))

DTYPES: dict[str, DType] = {
    t.name: t for t in (bool_, i8, i16, i32, i64, u8, u16, u32, u64, f16, bf16, f32, f64, c64, c128)
}
_NUMPY_NAMES = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bf16":
        try:
            import ml_dtypes
        except ImportError:
            raise DTypeError(
                "bfloat16 needs the package ml_dtypes, for NumPy has no such type; install it "
                "with: pip install ml_dtypes"
            ) from None
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    t = DTYPES[name]
    return np.dtype("bool" if t.kind == "b" else f"{_NUMPY_NAMES[t.kind]}{8 * t.bytes}")


@functools.cache
def _by_numpy_name() -> dict[str, DType]:
    names = {
        ("bool" if t.kind == "b" else f"{_NUMPY_NAMES[t.kind]}{8 * t.bytes}"): t
        for t in DTYPES.values()
        if t is not bf16
    }
    return {**names, "bfloat16": bf16}


def dtype_of(spec: object) -> DType:
    """The ``DType`` of a NumPy dtype, a Python type, a name or a ``DType``.

    Raises ``DTypeError`` for dtypes the IR does not have (strings, objects, dates).
    """
    if isinstance(spec, DType):
        return spec
    if isinstance(spec, str) and spec in DTYPES:
        return DTYPES[spec]
    try:
        dtype = np.dtype(spec)  # type: ignore[call-overload]
    except TypeError:
        raise DTypeError(f"{spec!r} is not a dtype; known: {', '.join(DTYPES)}") from None
    return _of_numpy(dtype)


@functools.cache  # a dtype's name is slow to get
def _of_numpy(dtype: np.dtype[Any]) -> DType:
    if dtype.name not in _by_numpy_name():
        known = ", ".join(DTYPES)
        raise DTypeError(f"arrays of dtype {dtype.name} cannot be traced; known: {known}")
    return _by_numpy_name()[dtype.name]


_types: dict[tuple[DType, tuple[int, ...]], TensorType] = {}


@dataclass(frozen=True, slots=True, eq=False)
class TensorType:
    """dtype and shape of a value; ``f32[]`` is a scalar.

    There is one object for each type, so that types compare and hash by identity: they are
    in the keys of ops, kernels and programs.
    """

    dtype: DType
    shape: tuple[int, ...] = ()

    def __new__(cls, dtype: DType, shape: tuple[int, ...] = ()) -> TensorType:
        key = dtype, shape
        known = _types.get(key)
        return known if known is not None else _types.setdefault(key, object.__new__(cls))

    def __reduce__(self) -> Any:
        return TensorType, (self.dtype, self.shape)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in memory of a dense array of this type."""
        return self.size * self.dtype.bytes

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        """The same dtype with another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another dtype."""
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return _text(self)

    __repr__ = __str__


@functools.cache  # printed with every value, and there are few types
def _text(type: TensorType) -> str:
    return f"{type.dtype}[{','.join(map(str, type.shape))}]"


_TYPE_TEXT = re.compile(r"(\w+)\[([\d,\s]*)\]")


def parse_type(text: str) -> TensorType:
    """``"f32[8,3]"`` as a type; raises ``ParseError``."""
    match = _TYPE_TEXT.fullmatch(text.strip())
    if match is None or match[1] not in DTYPES:
        raise ParseError(f"{text!r} is not a type; write for example f32[8,3] or f64[]")
    return TensorType(DTYPES[match[1]], tuple(int(n) for n in match[2].split(",") if n.strip()))


def type_of_array(array: np.ndarray[Any, Any]) -> TensorType:
    """The type of a NumPy array."""
    return _type_of(array.dtype, array.shape)


@functools.lru_cache(maxsize=4096)
def _type_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorType:
    return TensorType(dtype_of(dtype), shape)
