"""torch's names of element types and shapes, and its rules of type promotion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from symgrad.ir import dtype_of, types
from symgrad.ir.types import DType


class dtype:  # noqa: N801  (torch's name)
    """An element type under torch's name; ``ir`` is the IR's type."""

    __slots__ = ("_legacy", "ir", "name")

    def __init__(self, name: str, ir: DType, legacy: str) -> None:
        self.name, self.ir, self._legacy = name, ir, legacy

    @property
    def numpy(self) -> np.dtype[Any]:
        """NumPy's dtype; for bfloat16 that of the package ml_dtypes."""
        return self.ir.numpy

    @property
    def dtype(self) -> np.dtype[Any]:
        """By this NumPy takes it for its own dtype, in comparisons, too."""
        return self.numpy

    @property
    def is_floating_point(self) -> bool:
        """Whether elements are real floating-point numbers."""
        return self.ir.is_float

    @property
    def is_complex(self) -> bool:
        """Whether elements are complex numbers."""
        return self.ir.kind == "c"

    @property
    def is_signed(self) -> bool:
        """Whether elements may be negative."""
        return self.ir.kind in "if"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.ir.bytes

    @property
    def scalar_name(self) -> str:
        """What torch's error texts call the type: ``Float``, ``Long``."""
        return self._legacy

    def __repr__(self) -> str:
        return f"torch.{self.name}"


bfloat16 = dtype("bfloat16", types.bf16, "BFloat16")
float16 = dtype("float16", types.f16, "Half")
float32 = dtype("float32", types.f32, "Float")
float64 = dtype("float64", types.f64, "Double")
uint8 = dtype("uint8", types.u8, "Byte")
int8 = dtype("int8", types.i8, "Char")
int16 = dtype("int16", types.i16, "Short")
int32 = dtype("int32", types.i32, "Int")
int64 = dtype("int64", types.i64, "Long")
bool_ = dtype("bool", types.bool_, "Bool")

_ALL = (bfloat16, float16, float32, float64, uint8, int8, int16, int32, int64, bool_)
_BY_TYPE = {t.ir: t for t in _ALL}
PUBLIC = {
    **{t.name: t for t in _ALL},
    **{"half": float16, "float": float32, "double": float64},
    **{"short": int16, "int": int32, "long": int64},
}
"""The types by all their names in torch; three of them would hide Python's own here."""


class device:  # noqa: N801  (torch's name)
    """Where tensors are: the CPU."""

    __slots__ = ("index", "type")

    def __init__(self, type: Any = "cpu", index: int | None = None) -> None:
        name, _, number = str(type).partition(":")
        if name != "cpu" or number not in ("", "0"):
            raise RuntimeError(f"device {type!s} is not there: all tensors are on the CPU")
        self.type = "cpu"
        self.index = int(number) if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (device, str)) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        place = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{place})"


class finfo:  # noqa: N801  (torch's name)
    """Limits of a floating-point type."""

    def __init__(self, dtype: dtype | None = None) -> None:
        kind = get_default_dtype() if dtype is None else dtype
        if not kind.is_floating_point:
            raise TypeError(
                f"torch.finfo() requires a floating point input type. Use torch.iinfo to handle "
                f"'{kind!r}'"
            )
        info = limits(kind.numpy)
        self.bits, self.dtype = info.bits, kind.name
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.tiny)
        self.resolution = 10.0**-info.precision

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.tiny:g}, tiny={self.tiny:g}, "
            f"dtype={self.dtype})"
        )


def limits(dtype: np.dtype[Any]) -> Any:
    """NumPy's ``finfo`` of any floating-point type."""
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes

    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


class iinfo:  # noqa: N801  (torch's name)
    """Limits of an integer type."""

    def __init__(self, dtype: dtype) -> None:
        if not dtype.ir.is_integer:
            raise TypeError(
                f"torch.iinfo() requires an integer input type. Use torch.finfo to handle '{dtype}'"
            )
        info = np.iinfo(dtype.numpy)
        self.bits, self.max, self.min, self.dtype = info.bits, info.max, info.min, dtype.name

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


class Default:
    """What ``torch.tensor(1.0)`` has, unless told otherwise."""

    dtype: dtype = float32


def set_default_dtype(new: dtype) -> None:
    """Chooses the type of floating-point literals and of created tensors."""
    if not (isinstance(new, dtype) and new.is_floating_point):
        raise TypeError(f"only floating-point types are supported as the default type, got {new}")
    if new.itemsize < float32.itemsize:
        raise TypeError(
            f"{new} as the default type is not supported: half types have to be asked for, by "
            "dtype= or x.to(...)"
        )
    Default.dtype = new


def get_default_dtype() -> dtype:
    """The type of floating-point literals."""
    return Default.dtype


def named(spec: Any) -> dtype:
    """The torch type of a NumPy dtype, a Python type or a torch type."""
    if isinstance(spec, dtype):
        return spec
    known = dtype_of(spec)
    if known not in _BY_TYPE:
        raise TypeError(f"tensors of dtype {known.numpy} are not supported")
    return _BY_TYPE[known]


def legacy_name(spec: Any) -> str:
    """What ``Tensor.type`` calls an element type: ``torch.FloatTensor``."""
    return f"torch.{named(spec).scalar_name}Tensor"


class Size(tuple):  # type: ignore[type-arg]
    """A shape."""

    __slots__ = ()

    def __new__(cls, sizes: Iterable[Any] = ()) -> Size:
        return super().__new__(cls, sizes)

    def __add__(self, other: Any) -> Size:
        return Size(super().__add__(tuple(other)))

    def numel(self) -> Any:
        """Number of elements."""
        count = 1
        for n in self:
            count *= n
        return count

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    __str__ = __repr__


_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}  # V: NumPy's letter for bfloat16


def promote(operands: Iterable[Any]) -> np.dtype[Any]:
    """The common type of tensors and Python numbers.

    Kinds are ordered bool < integer < floating; within the highest kind, tensors with
    axes decide before 0-d ones, and those before Python numbers, which take the default
    type.
    """
    tiers: list[list[np.dtype[Any]]] = [[], [], []]
    for x in operands:
        spec = getattr(x, "_dtype", None)
        if spec is not None:
            tiers[0 if x.ndim else 1].append(spec)
        else:
            tiers[2].append(_of_number(x))
    best = None
    for tier in tiers:
        if tier:
            own = tier[0]
            for other in tier[1:]:
                own = _pair(own, other)
            if best is None or _RANK[own.kind] > _RANK[best.kind]:
                best = own
    return best if best is not None else Default.dtype.numpy


def _of_number(x: Any) -> np.dtype[Any]:
    kind = np.asarray(x).dtype.kind
    if kind == "f":
        return Default.dtype.numpy
    return np.dtype({"b": np.bool_, "i": np.int64, "u": np.int64, "c": np.complex64}[kind])


def _pair(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    if a == b:
        return a
    if _RANK[a.kind] != _RANK[b.kind]:
        return a if _RANK[a.kind] > _RANK[b.kind] else b
    if a.itemsize == b.itemsize == 2 and _RANK[a.kind] == _RANK["f"]:  # neither holds the other
        return float32.numpy
    return np.promote_types(a, b)


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The type that results of both have."""
    return named(_pair(type1.numpy, type2.numpy))


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether an in-place operation may convert between kinds of types: never to a lesser one."""
    if from_.ir.kind == "i" and to.ir.kind == "u":
        return True
    return _RANK[from_.ir.kind] <= _RANK[to.ir.kind]
