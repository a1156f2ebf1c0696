"""torch's names of element types and shapes, and its rules of type promotion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from symgrad.ir import dtype_of


class dtype:  # noqa: N801  (torch's name)
    """An element type under torch's name; ``numpy`` is NumPy's dtype."""

    __slots__ = ("_legacy", "name", "numpy")

    def __init__(self, name: str, spec: Any, legacy: str) -> None:
        self.name, self._legacy = name, legacy
        self.numpy: np.dtype[Any] = np.dtype(spec)

    @property
    def dtype(self) -> np.dtype[Any]:
        """By this NumPy takes it for its own dtype, in comparisons, too."""
        return self.numpy

    @property
    def is_floating_point(self) -> bool:
        """Whether elements are real floating-point numbers."""
        return self.numpy.kind == "f"

    @property
    def is_complex(self) -> bool:
        """Whether elements are complex numbers."""
        return self.numpy.kind == "c"

    @property
    def is_signed(self) -> bool:
        """Whether elements may be negative."""
        return self.numpy.kind in "if"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    @property
    def scalar_name(self) -> str:
        """What torch's error texts call the type: ``Float``, ``Long``."""
        return self._legacy

    def __repr__(self) -> str:
        return f"torch.{self.name}"


float16 = dtype("float16", np.float16, "Half")
float32 = dtype("float32", np.float32, "Float")
float64 = dtype("float64", np.float64, "Double")
uint8 = dtype("uint8", np.uint8, "Byte")
int8 = dtype("int8", np.int8, "Char")
int16 = dtype("int16", np.int16, "Short")
int32 = dtype("int32", np.int32, "Int")
int64 = dtype("int64", np.int64, "Long")
bool_ = dtype("bool", np.bool_, "Bool")

_BY_NUMPY = {
    t.numpy: t for t in (float16, float32, float64, uint8, int8, int16, int32, int64, bool_)
}
PUBLIC = {
    **{t.name: t for t in _BY_NUMPY.values()},
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
        info = np.finfo(kind.numpy)
        self.bits, self.dtype = info.bits, kind.name
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.tiny)
        self.resolution = float(info.resolution)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.tiny:g}, tiny={self.tiny:g}, "
            f"dtype={self.dtype})"
        )


class iinfo:  # noqa: N801  (torch's name)
    """Limits of an integer type."""

    def __init__(self, dtype: dtype) -> None:
        if dtype.numpy.kind not in "iu":
            raise TypeError(
                f"torch.iinfo() requires an integer input type. Use torch.finfo to handle '{dtype}'"
            )
        info = np.iinfo(dtype.numpy)
        self.bits, self.max, self.min, self.dtype = info.bits, info.max, info.min, dtype.name

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


class _Default:
    """What ``torch.tensor(1.0)`` has, unless told otherwise."""

    dtype: dtype = float32


def set_default_dtype(new: dtype) -> None:
    """Chooses the type of floating-point literals and of created tensors."""
    if not (isinstance(new, dtype) and new.is_floating_point):
        raise TypeError(f"only floating-point types are supported as the default type, got {new}")
    _Default.dtype = new


def get_default_dtype() -> dtype:
    """The type of floating-point literals."""
    return _Default.dtype


def named(spec: Any) -> dtype:
    """The torch type of a NumPy dtype, a Python type or a torch type."""
    if isinstance(spec, dtype):
        return spec
    as_numpy = dtype_of(spec).numpy if spec is not np.float64 else np.dtype(np.float64)
    if as_numpy not in _BY_NUMPY:
        raise TypeError(f"tensors of dtype {as_numpy} are not supported")
    return _BY_NUMPY[as_numpy]


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


_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


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
    return best if best is not None else _Default.dtype.numpy


def _of_number(x: Any) -> np.dtype[Any]:
    kind = np.asarray(x).dtype.kind
    if kind == "f":
        return _Default.dtype.numpy
    return np.dtype({"b": np.bool_, "i": np.int64, "u": np.int64, "c": np.complex64}[kind])


def _pair(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    if a == b:
        return a
    if _RANK[a.kind] != _RANK[b.kind]:
        return a if _RANK[a.kind] > _RANK[b.kind] else b
    return np.promote_types(a, b)


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The type that results of both have."""
    return named(_pair(type1.numpy, type2.numpy))


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether an in-place operation may convert between kinds of types: never to a lesser one."""
    order = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
    if from_.numpy.kind == "i" and to.numpy.kind == "u":
        return True
    return order[from_.numpy.kind] <= order[to.numpy.kind]
