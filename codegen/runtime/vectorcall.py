"""Instances of a Python class that native code answers for: no bytecode runs in between.

CPython calls an object through a function pointer in the object itself, where its type says
so (PEP 590).  ``answered_natively`` derives such a type from an ordinary class: behind the
fields of the class an instance has room for that pointer and for the *desk*, an object that
the native function finds its tables in.  As long as the pointer is null, as it is at first,
a call is the class's own ``__call__``.

Nothing here needs the code generator: a class may be declared long before any code is
compiled.  Where the interpreter does not play along, the class is left as it is, and
``answer`` does nothing.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_POINTER = ctypes.sizeof(ctypes.c_void_p)
ENTRY = 64
"""Offset of an instance's function pointer: a constant, so that code may contain it."""
DESK = ENTRY + _POINTER
"""Offset of the desk."""
_NAME = "_desk"

# Constants of CPython's headers.
_HAVE_VECTORCALL, _DEFAULT = 1 << 11, 1 << 18  # Py_TPFLAGS_...
_TP_MEMBERS = 72  # Py_tp_members
_T_OBJECT_EX, _T_PYSSIZET, _READONLY = 16, 19, 1

paused: list[None] = []
"""While there is anything in it, native code passes every call on to ``__call__``.

A list, because adding to it and taking from it are single steps to other threads.
"""


@contextmanager
def pause() -> Iterator[None]:
    """Within, every call in the process goes to ``__call__``: something wants to see it."""
    paused.append(None)
    try:
        yield
    finally:
        paused.pop()


class _Member(ctypes.Structure):
    """``PyMemberDef``"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("offset", ctypes.c_ssize_t),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Slot(ctypes.Structure):
    """``PyType_Slot``"""

    _fields_ = (("slot", ctypes.c_int), ("value", ctypes.c_void_p))


class _Spec(ctypes.Structure):
    """``PyType_Spec``"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.POINTER(_Slot)),
    )


_keep: list[Any] = []
"""What the interpreter goes on pointing to."""

C = TypeVar("C", bound=type)


def answered_natively(cls: C) -> C:
    """Class decorator: instances may be given a native function that answers their calls.

    The result is a subclass that passes for the class itself; it cannot be subclassed, and
    is the class itself where the interpreter does not support it.
    """
    try:
        derived = _derive(cls) if _suits(cls) else None
    except (AttributeError, TypeError, SystemError):
        derived = None
    return cls if derived is None or not _works(derived) else derived


def _suits(cls: type) -> bool:
    """Whether the interpreter is a CPython whose objects are laid out as assumed here."""
    is_debug_build = hasattr(sys, "gettotalrefcount")  # it asserts a tp_call before it inherits it
    return (
        sys.implementation.name == "cpython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
        and not is_debug_build
        and cls.__basicsize__ <= ENTRY
        and cls.__itemsize__ == 0
    )


def _derive(cls: C) -> C:
    members = (_Member * 3)(
        _Member(b"__vectorcalloffset__", _T_PYSSIZET, ENTRY, _READONLY, None),
        _Member(_NAME.encode(), _T_OBJECT_EX, DESK, 0, None),  # counted, traversed and cleared
        _Member(),
    )
    slots = (_Slot * 2)(_Slot(_TP_MEMBERS, ctypes.addressof(members)), _Slot())
    name = f"{cls.__module__}.{cls.__qualname__}".encode()
    spec = _Spec(name, DESK + _POINTER, 0, _HAVE_VECTORCALL | _DEFAULT, slots)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object)(
        ("PyType_FromSpecWithBases", ctypes.pythonapi)
    )
    derived: C = make(ctypes.addressof(spec), (cls,))
    derived.__doc__ = cls.__doc__
    _keep.append((members, slots, spec, name))
    return derived


def _works(derived: type) -> bool:
    """Tries an instance: calls, its attributes, its references."""
    probe: Any = object.__new__(derived)
    desk = [object()]
    before = sys.getrefcount(desk)
    setattr(probe, _NAME, desk)
    probe.itself = probe
    tracked = gc.is_tracked(probe) and any(x is desk for x in gc.get_referents(probe))
    there = ctypes.c_size_t.from_address(id(probe) + DESK).value == id(desk)
    empty = ctypes.c_size_t.from_address(id(probe) + ENTRY).value == 0
    counted = sys.getrefcount(desk) == before + 1
    delattr(probe, _NAME)
    del probe.itself
    return tracked and there and empty and counted and sys.getrefcount(desk) == before


def answer(instance: object, entry: int, desk: object) -> bool:
    """Has the native function at ``entry`` answer the calls of an instance.

    It gets what PEP 590 says and finds ``desk`` in the instance; where there is none, or
    where it does not know the answer, it calls ``__call__``.  Whether this works here.
    """
    if type(instance).__basicsize__ != DESK + _POINTER or not hasattr(type(instance), _NAME):
        return False
    setattr(instance, _NAME, desk)
    ctypes.c_size_t.from_address(id(instance) + ENTRY).value = entry
    return True


def retire(instance: object) -> None:
    """Takes the desk away: calls go to ``__call__``."""
    if getattr(instance, _NAME, None) is not None:
        delattr(instance, _NAME)
