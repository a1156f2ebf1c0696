"""Memory handed to other libraries and taken from them as DLPack capsules.

NumPy does this for all types that it has.  bfloat16, which it has not, goes through it as
``uint16``, and the capsule says what the bits mean: the protocol's structures are those of
``dlpack.h``, and only the element type in them is read or changed.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.ir.types import bf16


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    """``DLTensor`` as far as the element type."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
    )


_UNSIGNED, _BFLOAT = 1, 4
"""Codes of element types."""
_STARTS = {b"dltensor": 0, b"dltensor_versioned": 32}
"""Where the tensor begins: behind version, context, deleter and flags since version 1."""


def capsule_of(array: Array, **options: Any) -> Any:
    """A capsule of an array's memory; ``options`` are those of ``__dlpack__``."""
    if array.dtype.kind != "V":
        return array.__dlpack__(**options)
    capsule = array.view(np.uint16).__dlpack__(**options)
    _element_type(capsule).code = _BFLOAT
    return capsule


def array_of(source: Any) -> Array:
    """An array on the memory of an object with ``__dlpack__``."""
    taken = _Taken(source)
    array = np.from_dlpack(taken)
    return array.view(bf16.numpy) if taken.is_bfloat else array


class _Taken:
    """An object with ``__dlpack__`` as NumPy understands it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.is_bfloat = False

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._source.__dlpack__(**options)
        element = _element_type(capsule)
        if (element.code, element.bits) == (_BFLOAT, 16):
            self.is_bfloat, element.code = True, _UNSIGNED
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._source.__dlpack_device__()


def _element_type(capsule: Any) -> _DataType:
    """The element type in a capsule, to be read or changed in place."""
    api, handle = ctypes.pythonapi, ctypes.py_object(capsule)
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    name = get_name(handle)
    tensor = _DLTensor.from_address(get_pointer(handle, name) + _STARTS[name])
    element: _DataType = tensor.dtype
    return element
