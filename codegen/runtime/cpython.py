"""CPython's and NumPy's objects as native code sees them, and the C functions it calls.

The fields read here are those of the documented structures: ``PyObject``, ``PyVarObject``,
``PyFloatObject``, NumPy's array object and its scalars.  Before that is relied on,
``supported`` compares them with live objects.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime.native import field

# PyObject, PyVarObject and PyDictObject, PyListObject, PyFloatObject and NumPy's scalars,
# PyArrayObject_fields.
TYPE, COUNT, LIST_ITEMS, SCALAR = 8, 16, 24, 16
DATA, NDIM, DIMS, DESCR, FLAGS = 16, 24, 32, 56, 64
READABLE = 0x0001 | 0x0100  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
WRITEABLE = READABLE | 0x0400
METH_FASTCALL = 0x0080

_NUMPY_API = {"array_type": 2, "new_scalar": 60, "new_array": 94}  # Type, Scalar, NewFromDescr
_TP_ALLOC = 47  # Py_tp_alloc
_LONG = f"i{8 * ctypes.sizeof(ctypes.c_long)}"
_FUNCTIONS = {
    "PyCell_Get": ("ptr", "ptr"),
    "PyDict_GetItemWithError": ("ptr", "ptr", "ptr"),
    "PyDict_New": ("ptr",),
    "PyDict_SetItem": ("i32", "ptr", "ptr", "ptr"),
    "PyErr_Clear": ("void",),
    "PyErr_Occurred": ("ptr",),
    "PyEval_RestoreThread": ("void", "ptr"),
    "PyEval_SaveThread": ("ptr",),
    "PyList_New": ("ptr", "i64"),
    "PyLong_AsLongLong": ("i64", "ptr"),
    "PyLong_AsVoidPtr": ("ptr", "ptr"),
    "PyLong_FromLong": ("ptr", _LONG),
    "PyObject_GetAttr": ("ptr", "ptr", "ptr"),
    "PyObject_GetAttrString": ("ptr", "ptr", "ptr"),
    "PyObject_GetItem": ("ptr", "ptr", "ptr"),
    "PyObject_Vectorcall": ("ptr", "ptr", "ptr", "i64", "ptr"),
    "PyTuple_New": ("ptr", "i64"),
    "Py_DecRef": ("void", "ptr"),
    "Py_IncRef": ("void", "ptr"),
}
"""Functions of the C API that native code calls: result and parameter types."""

NULL = Reg("null", "ptr")


def declare_functions(k: Emitter) -> None:
    """Declares all of ``python``'s functions."""
    for name, (result, *params) in _FUNCTIONS.items():
        k.declare(name, result, params)


def python(k: Emitter, name: str, *arguments: Reg) -> Reg:
    """Calls a function of the C API."""
    result = k.call(name, _FUNCTIONS[name][0], arguments)
    return result if result is not None else NULL


def long_of(k: Emitter, number: Reg) -> Reg:
    """An ``i32`` as a Python int."""
    wide = number if _LONG == "i32" else k.cast("sext", number, _LONG)
    return python(k, "PyLong_FromLong", wide)


def get(k: Emitter, type: str, thing: Reg, offset: int) -> Reg:
    """A field of an object."""
    return k.load(type, field(k, thing, offset))


# -- what lies where ---------------------------------------------------------------------------


@functools.cache
def supported() -> bool:
    """Whether this interpreter and this NumPy are laid out as the native code expects.

    Never where there is no global lock: nothing here counts references atomically.
    """
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    return object.__basicsize__ == DATA and all(_checks())


def _peek(kind: Any, thing: object, offset: int) -> Any:
    return kind.from_address(id(thing) + offset).value


def _checks() -> Iterator[bool]:
    probe = np.arange(6, dtype=np.float32).reshape(2, 3)
    yield _peek(ctypes.c_size_t, probe, TYPE) == id(np.ndarray)
    yield bool(numpy_functions())
    yield _peek(ctypes.c_size_t, probe, DATA) == probe.ctypes.data
    yield _peek(ctypes.c_int, probe, NDIM) == 2
    yield _peek(ctypes.c_size_t, probe, DIMS) != 0
    dims = _peek(ctypes.c_size_t, probe, DIMS)
    yield list((ctypes.c_ssize_t * 2).from_address(dims)) == [2, 3]
    yield _peek(ctypes.c_size_t, probe, DESCR) == id(probe.dtype)
    yield _peek(ctypes.c_int, probe, FLAGS) & WRITEABLE == WRITEABLE
    yield _peek(ctypes.c_double, 1.2345, SCALAR) == 1.2345
    for items in ([], [None] * 3, {}, dict.fromkeys(range(7))):
        yield _peek(ctypes.c_ssize_t, items, COUNT) == len(items)
    pair = [object(), object()]
    first = _peek(ctypes.c_size_t, pair, LIST_ITEMS)
    yield list((ctypes.c_size_t * 2).from_address(first)) == [id(x) for x in pair]
    yield _peek(ctypes.c_ssize_t, (1, 2), COUNT) == 2
    yield tuple_items() != 0


@functools.cache
def tuple_items() -> int:
    """Offset of a tuple's items, before which newer interpreters keep its hash; 0 if unknown."""
    probe = object(), object()
    for offset in (COUNT + 8, COUNT + 16):
        if all(_peek(ctypes.c_size_t, probe, offset + 8 * i) == id(x) for i, x in enumerate(probe)):
            return offset
    return 0


@functools.cache
def numpy_functions() -> dict[str, int]:
    """Addresses from NumPy's table of C functions; empty where it is not as documented."""
    try:
        capsule = np._core.multiarray._ARRAY_API  # type: ignore[attr-defined]
    except AttributeError:  # before NumPy 2
        capsule = np.core.multiarray._ARRAY_API  # type: ignore[attr-defined]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_size_t, (ctypes.py_object, ctypes.c_char_p)
    table = pointer(capsule, None)
    found = {
        name: ctypes.c_size_t.from_address(table + index * ctypes.sizeof(ctypes.c_void_p)).value
        for name, index in _NUMPY_API.items()
    }
    return found if found["array_type"] == id(np.ndarray) else {}


@functools.cache
def scalar_allocator(dtype: np.dtype[Any]) -> int:
    """Address of ``alloc(type, 0)``, which makes a scalar to be filled in; 0 where none may.

    There are but two scalars of booleans, and they must not be written to.
    """
    if dtype == np.bool_ or not _holds_its_value(dtype):
        return 0
    slot = ctypes.pythonapi.PyType_GetSlot
    slot.restype, slot.argtypes = ctypes.c_size_t, (ctypes.py_object, ctypes.c_int)
    return int(slot(dtype.type, _TP_ALLOC) or 0)


@functools.cache
def _holds_its_value(dtype: np.dtype[Any]) -> bool:
    """Whether a scalar's bytes lie right behind its header."""
    if dtype.hasobject or dtype.isbuiltin != 1 or dtype.type.__itemsize__:
        return False
    if dtype.type.__basicsize__ < SCALAR + dtype.itemsize:
        return False
    value = np.frombuffer(bytes(range(1, 1 + dtype.itemsize)), dtype)[0]
    return ctypes.string_at(id(value) + SCALAR, dtype.itemsize) == bytes(value.data)


def scalar_type(dtype: np.dtype[Any]) -> type | None:
    """The type of scalars that may be read where they lie; ``None`` if there is none."""
    if dtype == np.bool_:
        return None
    return dtype.type if _holds_its_value(dtype) else None
