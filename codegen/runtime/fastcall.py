"""Calls from Python without ctypes: builtin functions whose body is our own native code.

Two builtins, driven by tables, so that no program needs code of its own:

    invoke(*slots)   runs a program on arrays as they are, or on addresses
    call(*arrays)    checks the arrays, makes the results, runs the program

``call`` takes exactly what the program was compiled for, C-contiguous arrays of the right
dtype and shape (or Python floats for a 0-d f64), and gives ``NotImplemented`` for anything
else: then the general path converts, or says what is wrong.

The checks read NumPy's array object where its documented structure has its fields.  Before
that is relied on, the fields of a live array are compared; where they differ, or where the
interpreter is not a CPython with its global lock, there are no fast calls, and
``supported()`` is False.  Addresses that change from process to process are in the tables,
never in the code, so the code can lie in the object cache.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from symgrad.codegen.emitter import Emitter, Reg
from symgrad.codegen.jit import CompileError
from symgrad.codegen.runtime.native import field, load_entries

Array = np.ndarray[Any, Any]
Signature = Sequence[tuple[np.dtype[Any], tuple[int, ...]]]

# PyObject and PyArrayObject_fields (NumPy C API, "Python types and C-structures").
_TYPE, _DATA, _NDIM, _DIMS, _DESCR, _FLAGS = 8, 16, 24, 32, 56, 64
_READABLE = 0x0001 | 0x0100  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_WRITEABLE = _READABLE | 0x0400
_NUMPY_API = {"array_type": 2, "new_scalar": 60, "new_array": 93}  # Type, Scalar, New
_METH_FASTCALL = 0x0080
_ROOM_WORDS = 2  # for a scalar of the largest dtype

_BLOCK = np.dtype(
    [
        ("run", np.uint64),
        ("program", np.uint64),
        ("release", np.int64),  # whether other Python threads go on meanwhile
        ("params", np.int64),
        ("results", np.int64),
        ("slots", np.uint64),  # one _SLOT for each parameter, then each result
        ("array_type", np.uint64),
        ("new_array", np.uint64),
        ("new_scalar", np.uint64),
        ("float_type", np.uint64),
        ("float64_type", np.uint64),
        ("not_implemented", np.uint64),
        ("none", np.uint64),
        ("unwrap", np.int64),  # whether a single result comes without its tuple
    ]
)
_SLOT = np.dtype(
    [
        ("descr", np.uint64),
        ("dims", np.uint64),
        ("ndim", np.int32),
        ("type_num", np.int32),
        ("flags", np.int32),  # those that an array must have
        ("is_float", np.int32),  # whether a Python float does too
    ]
)


class _Member(NamedTuple):
    """A field of one of the tables, for the native side."""

    offset: int
    type: str


def _members(dtype: np.dtype[Any]) -> dict[str, _Member]:
    kinds = {"u": "ptr", "i": "i"}
    members = {}
    for name, (kind, offset, *_) in (dtype.fields or {}).items():
        bits = "" if kind.kind == "u" else str(8 * kind.itemsize)
        members[name] = _Member(offset, kinds[kind.kind] + bits)
    return members


_BLOCK_MEMBERS, _SLOT_MEMBERS = _members(_BLOCK), _members(_SLOT)
_NULL = Reg("null", "ptr")


def _get(k: Emitter, member: _Member, table: Reg) -> Reg:
    return k.load(member.type, field(k, table, member.offset))


def _block(k: Emitter, name: str, block: Reg) -> Reg:
    return _get(k, _BLOCK_MEMBERS[name], block)


def _slot(k: Emitter, name: str, slot: Reg) -> Reg:
    return _get(k, _SLOT_MEMBERS[name], slot)


# -- native code -----------------------------------------------------------

_LONG = f"i{8 * ctypes.sizeof(ctypes.c_long)}"
_PYTHON = {
    "PyErr_Occurred": ("ptr",),
    "PyEval_RestoreThread": ("void", "ptr"),
    "PyEval_SaveThread": ("ptr",),
    "PyFloat_AsDouble": ("double", "ptr"),
    "PyLong_AsVoidPtr": ("ptr", "ptr"),
    "PyLong_FromLong": ("ptr", _LONG),
    "PyTuple_GetItem": ("ptr", "ptr", "i64"),
    "PyTuple_New": ("ptr", "i64"),
    "PyTuple_SetItem": ("i32", "ptr", "i64", "ptr"),
    "Py_DecRef": ("void", "ptr"),
    "Py_IncRef": ("void", "ptr"),
}
"""Functions of the C API that the builtins call: result and parameter types."""


def _python(k: Emitter, name: str, *arguments: Reg) -> Reg:
    result = k.call(name, _PYTHON[name][0], arguments)
    return result if result is not None else _NULL


def _emit_module(k: Emitter) -> Sequence[str]:
    for name, (result, *params) in _PYTHON.items():
        k.declare(name, result, params)
    _emit_run(k)
    _emit_accept(k)
    _emit_create(k)
    _emit_complete(k)
    _emit_produce(k)
    _emit_invoke(k)
    _emit_call(k)
    return ("invoke", "call")


@contextmanager
def _guarded(k: Emitter) -> Iterator[Callable[[Reg], None]]:
    """A body that is left as soon as a required condition does not hold."""
    done = k.label()

    def require(condition: Reg) -> None:
        onward = k.label()
        k.line(f"br i1 {condition}, label %{onward}, label %{done}")
        k.place(onward)

    yield require
    k.line(f"br label %{done}")
    k.place(done)


def _variable(k: Emitter, initial: Reg) -> Reg:
    """A local variable."""
    variable = k.alloca(initial.type)
    k.store(initial, variable)
    return variable


def _stack(k: Emitter, words: Reg) -> Reg:
    """Room for so many 8-byte words, until the function returns."""
    return k.op("ptr", f"alloca i64, i64 {words}, align 8")


def _emit_run(k: Emitter) -> None:
    """``run(block, addresses)``: whether the program ran; not without an open team."""
    with k.function("run", ("ptr", "ptr"), "i32", internal=True) as (block, addresses):
        run, program = _block(k, "run", block), _block(k, "program", block)
        status = k.alloca("i32")
        execute = f"call i32 {run}(ptr {program}, ptr {addresses}, ptr null)"
        with k.if_else(k.icmp("ne", _block(k, "release", block), 0)) as (let_go, hold):
            with let_go:
                state = _python(k, "PyEval_SaveThread")
                k.store(k.op("i32", execute), status)
                _python(k, "PyEval_RestoreThread", state)
            with hold:
                k.store(k.op("i32", execute), status)
        k.line(f"ret i32 {k.load('i32', status)}")


def _emit_accept(k: Emitter) -> None:
    """``accept(block, slot, object, room)``: the address of the object's data.

    That of a Python float is ``room``, where its value is put.  Null if it does not fit.
    """
    params = ("ptr", "ptr", "ptr", "ptr")
    with k.function("accept", params, "ptr", internal=True) as (block, slot, thing, room):
        found = _variable(k, _NULL)
        kind = k.load("ptr", field(k, thing, _TYPE))
        with k.if_else(k.icmp("eq", kind, _block(k, "array_type", block))) as (array, other):
            with array, _guarded(k) as require:
                descr = k.load("ptr", field(k, thing, _DESCR))
                require(k.icmp("eq", descr, _slot(k, "descr", slot)))
                wanted = _slot(k, "flags", slot)
                flags = k.bits("and", k.load("i32", field(k, thing, _FLAGS)), wanted)
                require(k.icmp("eq", flags, wanted))
                ndim = k.load("i32", field(k, thing, _NDIM))
                require(k.icmp("eq", ndim, _slot(k, "ndim", slot)))
                require(_same_dims(k, k.load("ptr", field(k, thing, _DIMS)), slot, ndim))
                k.store(k.load("ptr", field(k, thing, _DATA)), found)
            with other, _guarded(k) as require:
                require(k.icmp("ne", _slot(k, "is_float", slot), 0))
                python = k.icmp("eq", kind, _block(k, "float_type", block))
                numpy = k.icmp("eq", kind, _block(k, "float64_type", block))
                require(k.bits("or", python, numpy))
                k.store(_python(k, "PyFloat_AsDouble", thing), room)
                k.store(room, found)
        k.line(f"ret ptr {k.load('ptr', found)}")


def _same_dims(k: Emitter, dims: Reg, slot: Reg, ndim: Reg) -> Reg:
    """Whether all dimensions are the slot's."""
    wanted = _slot(k, "dims", slot)
    same = _variable(k, Reg("true", "i1"))
    with k.loop(0, k.cast("sext", ndim, "i64")) as i:
        have, want = k.load("i64", k.gep(dims, i, "i64")), k.load("i64", k.gep(wanted, i, "i64"))
        k.store(k.bits("and", k.load("i1", same), k.icmp("eq", have, want)), same)
    return k.load("i1", same)


def _emit_create(k: Emitter) -> None:
    """``create(block, slot, items, i, room)``: where the data of result ``i`` shall go.

    A new array, put into the tuple ``items``, or the room for a 0-d result, which
    becomes a scalar in ``complete``.  Null with NumPy's error.
    """
    params = ("ptr", "ptr", "ptr", "i64", "ptr")
    with k.function("create", params, "ptr", internal=True) as (block, slot, items, i, room):
        address = _variable(k, room)
        ndim = _slot(k, "ndim", slot)
        with k.if_(_truth(k, ndim)):
            k.store(_NULL, address)
            make, kind = _block(k, "new_array", block), _block(k, "array_type", block)
            dims, number = _slot(k, "dims", slot), _slot(k, "type_num", slot)
            what = f"ptr {kind}, i32 {ndim}, ptr {dims}, i32 {number}"
            rest = "ptr null, ptr null, i32 0, i32 0, ptr null"
            array = k.op("ptr", f"call ptr {make}({what}, {rest})")
            with k.if_(k.icmp("ne", array, _NULL)):
                _python(k, "PyTuple_SetItem", items, i, array)
                k.store(k.load("ptr", field(k, array, _DATA)), address)
        k.line(f"ret ptr {k.load('ptr', address)}")


def _emit_complete(k: Emitter) -> None:
    """``complete(block, slot, items, i, room)``: a 0-d result as NumPy's functions give it."""
    params = ("ptr", "ptr", "ptr", "i64", "ptr")
    with k.function("complete", params, internal=True) as (block, slot, items, i, room):
        is_scalar = k.icmp("eq", _slot(k, "ndim", slot), 0)
        with k.if_(is_scalar):
            make, descr = _block(k, "new_scalar", block), _slot(k, "descr", slot)
            scalar = k.op("ptr", f"call ptr {make}(ptr {room}, ptr {descr}, ptr null)")
            _python(k, "PyTuple_SetItem", items, i, scalar)


def _emit_produce(k: Emitter) -> None:
    """``produce(block, addresses)``: makes the results, runs, gives them in a tuple.

    ``addresses`` holds the parameters' and has space for the results'.  Null when the
    program did not run, or with a Python error.
    """
    with k.function("produce", ("ptr", "ptr"), "ptr", internal=True) as (block, addresses):
        params, results = _block(k, "params", block), _block(k, "results", block)
        first = k.gep(_block(k, "slots", block), k.mul(params, _SLOT.itemsize), "i8")
        rooms = _stack(k, k.as_reg(k.mul(results, _ROOM_WORDS)))
        items = _python(k, "PyTuple_New", results)
        made, finished = _variable(k, Reg("true", "i1")), _variable(k, Reg("false", "i1"))

        def each(function: str, i: Reg) -> str:
            slot = k.gep(first, k.mul(i, _SLOT.itemsize), "i8")
            room = k.gep(rooms, k.mul(i, _ROOM_WORDS), "i64")
            return f"@{function}(ptr {block}, ptr {slot}, ptr {items}, i64 {i}, ptr {room})"

        with _guarded(k) as require:
            require(k.icmp("ne", items, _NULL))
            with k.loop(0, results) as i:
                address = k.op("ptr", f"call ptr {each('create', i)}")
                k.store(address, k.gep(addresses, k.add(params, i), "ptr"))
                k.store(k.bits("and", k.load("i1", made), k.icmp("ne", address, _NULL)), made)
            require(k.load("i1", made))
            status = k.op("i32", f"call i32 @run(ptr {block}, ptr {addresses})")
            require(k.icmp("eq", status, 0))
            with k.loop(0, results) as i:
                k.line(f"call void {each('complete', i)}")
            k.store(k.icmp("eq", _python(k, "PyErr_Occurred"), _NULL), finished)
        answer = _variable(k, items)
        with k.if_else(k.load("i1", finished)) as (good, bad):
            with good, k.if_(_truth(k, _block(k, "unwrap", block))):
                only = _python(k, "PyTuple_GetItem", items, Reg("0", "i64"))
                _python(k, "Py_IncRef", only)
                _python(k, "Py_DecRef", items)
                k.store(only, answer)
            with bad:
                _python(k, "Py_DecRef", items)  # null is fine, and so are null items
                k.store(_NULL, answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _truth(k: Emitter, number: Reg) -> Reg:
    return k.icmp("ne", number, 0)


def _emit_invoke(k: Emitter) -> None:
    """The builtin ``invoke(*slots) -> status``; ``self`` is the array of the block."""
    with k.function("invoke", ("ptr", "ptr", "i64"), "ptr", internal=True) as (self, args, count):
        block = k.load("ptr", field(k, self, _DATA))
        array_type = _block(k, "array_type", block)
        addresses = _stack(k, count)
        with k.loop(0, count) as i:
            thing, place = k.load("ptr", k.gep(args, i, "ptr")), k.gep(addresses, i, "ptr")
            is_array = k.icmp("eq", k.load("ptr", field(k, thing, _TYPE)), array_type)
            with k.if_else(is_array) as (array, number):
                with array:
                    k.store(k.load("ptr", field(k, thing, _DATA)), place)
                with number:
                    k.store(_python(k, "PyLong_AsVoidPtr", thing), place)
        answer = _variable(k, _NULL)
        with k.if_(k.icmp("eq", _python(k, "PyErr_Occurred"), _NULL)):
            status = k.op("i32", f"call i32 @run(ptr {block}, ptr {addresses})")
            code = status if _LONG == "i32" else k.cast("sext", status, _LONG)
            k.store(_python(k, "PyLong_FromLong", code), answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _emit_call(k: Emitter) -> None:
    """The builtin ``call(*params) -> results`` and ``call(*params, *results) -> None``."""
    with k.function("call", ("ptr", "ptr", "i64"), "ptr", internal=True) as (self, args, count):
        block = k.load("ptr", field(k, self, _DATA))
        params, results = _block(k, "params", block), _block(k, "results", block)
        total = k.as_reg(k.add(params, results))
        addresses, rooms = _stack(k, total), _stack(k, total)
        answer = _variable(k, _NULL)
        fits = _variable(k, Reg("true", "i1"))
        with _guarded(k) as require:
            given = k.icmp("eq", count, total)
            require(k.bits("or", given, k.icmp("eq", count, params)))
            with k.loop(0, count) as i:
                slot = k.gep(_block(k, "slots", block), k.mul(i, _SLOT.itemsize), "i8")
                thing, room = k.load("ptr", k.gep(args, i, "ptr")), k.gep(rooms, i, "i64")
                arguments = f"ptr {block}, ptr {slot}, ptr {thing}, ptr {room}"
                address = k.op("ptr", f"call ptr @accept({arguments})")
                k.store(address, k.gep(addresses, i, "ptr"))
                k.store(k.bits("and", k.load("i1", fits), k.icmp("ne", address, _NULL)), fits)
            require(k.load("i1", fits))
            with k.if_else(given) as (in_place, fresh):
                with in_place, _guarded(k) as require_run:
                    status = k.op("i32", f"call i32 @run(ptr {block}, ptr {addresses})")
                    require_run(k.icmp("eq", status, 0))
                    none = _block(k, "none", block)
                    _python(k, "Py_IncRef", none)
                    k.store(none, answer)
                with fresh:
                    k.store(k.op("ptr", f"call ptr @produce(ptr {block}, ptr {addresses})"), answer)
        with _guarded(k) as require:
            require(k.icmp("eq", k.load("ptr", answer), _NULL))
            require(k.icmp("eq", _python(k, "PyErr_Occurred"), _NULL))
            refusal = _block(k, "not_implemented", block)
            _python(k, "Py_IncRef", refusal)
            k.store(refusal, answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


# -- the Python side -------------------------------------------------------


class _Method(ctypes.Structure):
    """``PyMethodDef``"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Block(np.ndarray[Any, Any]):
    """The builtins' ``self``: a table that keeps alive what it points to."""

    keeps: tuple[Any, ...]


@functools.cache
def supported() -> bool:
    """Whether this interpreter and this NumPy are laid out as the native code expects."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    probe = np.arange(6, dtype=np.float32).reshape(2, 3)
    here = id(probe)

    def peek(kind: Any, offset: int) -> Any:
        return kind.from_address(here + offset).value

    header = object.__basicsize__ == _DATA and peek(ctypes.c_size_t, _TYPE) == id(np.ndarray)
    if not header or not _numpy_functions():
        return False
    dims = peek(ctypes.c_size_t, _DIMS)
    return (
        peek(ctypes.c_size_t, _DATA) == probe.ctypes.data
        and peek(ctypes.c_int, _NDIM) == 2
        and list((ctypes.c_ssize_t * 2).from_address(dims)) == [2, 3]
        and peek(ctypes.c_size_t, _DESCR) == id(probe.dtype)
        and peek(ctypes.c_int, _FLAGS) & _WRITEABLE == _WRITEABLE
        and bool(_methods())
    )


@functools.cache
def _numpy_functions() -> dict[str, int]:
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
def _methods() -> tuple[_Method, ...]:
    """Definitions of ``invoke`` and ``call``, which live as long as the process."""
    try:
        invoke, call = load_entries("symgrad_calls", _emit_module)
    except CompileError:  # an interpreter without one of the C API's functions
        return ()
    return tuple(
        _Method(name, address, _METH_FASTCALL, None)
        for name, address in ((b"invoke", invoke), (b"call", call))
    )


def _builtin(method: _Method, block: _Block) -> Callable[..., Any]:
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p),
    )
    function: Callable[..., Any] = make(ctypes.addressof(method), block, None)
    return function


def make_invoke(run: int, program: int, release: bool) -> Callable[..., int]:
    """``invoke(*slots) -> status`` of the native ``run(program, addresses, null)``."""
    return _builtin(_methods()[0], _block_of(run, program, release))


def make_call(
    run: int,
    program: int,
    release: bool,
    params: Signature,
    results: Signature,
    unwrap: bool,
    owner: object,
) -> Callable[..., Any]:
    """``call(*params) -> results`` and ``call(*params, *results) -> None``.

    ``unwrap`` gives a single result without its tuple; ``owner`` lives as long as the call.
    """
    slots = np.zeros(len(params) + len(results), _SLOT)
    shapes = [np.array(shape, np.intp) for _, shape in (*params, *results)]
    for i, (dtype, shape) in enumerate((*params, *results)):
        is_param = i < len(params)
        slots[i] = (
            id(dtype),
            shapes[i].ctypes.data,
            len(shape),
            dtype.num,
            _READABLE if is_param else _WRITEABLE,
            is_param and shape == () and dtype == np.float64,
        )
    block = _block_of(run, program, release)
    block["params"], block["results"] = len(params), len(results)
    block["slots"], block["unwrap"] = slots.ctypes.data, unwrap
    block.keeps = (slots, shapes, params, results, owner)
    return _builtin(_methods()[1], block)


def _block_of(run: int, program: int, release: bool) -> _Block:
    block = np.zeros((), _BLOCK).view(_Block)
    block["run"], block["program"], block["release"] = run, program, release
    for name, address in _numpy_functions().items():
        block[name] = address
    block["float_type"], block["float64_type"] = id(float), id(np.float64)
    block["not_implemented"], block["none"] = id(NotImplemented), id(None)
    return block
