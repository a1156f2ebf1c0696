"""Calls from Python without ctypes and without bytecode: functions of the C API, compiled here.

Three functions, driven by tables (``calltable``), so that no program needs code of its own:

    invoke(*slots)   runs a program on arrays as they are, or on addresses
    call(*arrays)    checks the arrays, makes the results, runs the program
    vectorcall       the same for an object that is called (``vectorcall``), whose programs it
                     tries one after the other

Where a program is short, what it is usually called with is left to code of its own (``entry``).

They take exactly what a program was compiled for: C-contiguous arrays of the right dtype and
shape, or scalars where a 0-d array would do.  For anything else ``call`` gives
``NotImplemented`` and ``vectorcall`` goes on to ``__call__``: then the general path converts,
or says what is wrong.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.objects import CompileError
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime import cpython, vectorcall
from symgrad.codegen.runtime.calltable import (
    BLOCK,
    DESK,
    ORDER,
    TUPLE,
    Table,
    desk_of,
    entry_table,
)
from symgrad.codegen.runtime.cpython import NULL, get, python
from symgrad.codegen.runtime.gather import emit_gather
from symgrad.codegen.runtime.native import load_entries, loaded_once
from symgrad.codegen.runtime.serve import (
    FALSE,
    TRUE,
    both,
    emit_serve,
    guarded,
    inlined,
    stack,
    truth,
    variable,
)


def _emit_module(k: Emitter) -> Sequence[str]:
    emit_serve(k)
    emit_gather(k)
    _emit_invoke(k)
    _emit_call(k)
    _emit_unpack(k)
    _emit_answer(k)
    _emit_general(k)
    _emit_vectorcall(k)
    return ("invoke", "call", "vectorcall")


# -- the three entries ---------------------------------------------------------------------


def _emit_invoke(k: Emitter) -> None:
    """The builtin ``invoke(*slots) -> status``; ``self`` is the array of the block."""
    with k.function("invoke", ("ptr", "ptr", "i64"), "ptr", internal=True) as (self, args, count):
        block = get(k, "ptr", self, cpython.DATA)
        array_type = BLOCK.get(k, "array_type", block)
        addresses = stack(k, count)
        with k.loop(0, count) as i:
            thing, place = k.load("ptr", k.gep(args, i, "ptr")), k.gep(addresses, i, "ptr")
            is_array = k.icmp("eq", get(k, "ptr", thing, cpython.TYPE), array_type)
            with k.if_else(is_array) as (array, number):
                with array:
                    k.store(get(k, "ptr", thing, cpython.DATA), place)
                with number:
                    k.store(python(k, "PyLong_AsVoidPtr", thing), place)
        answer = variable(k, NULL)
        with k.if_(k.icmp("eq", python(k, "PyErr_Occurred"), NULL)):
            status = k.op("i32", f"call i32 @run(ptr {block}, ptr {addresses})")
            k.store(cpython.long_of(k, status), answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _emit_call(k: Emitter) -> None:
    """The builtin ``call(*params) -> results`` and ``call(*params, *results) -> results``."""
    with k.function("call", ("ptr", "ptr", "i64"), "ptr", internal=True) as (self, args, count):
        block = get(k, "ptr", self, cpython.DATA)
        visible, results = BLOCK.get(k, "visible", block), BLOCK.get(k, "results", block)
        answer = variable(k, NULL)
        with guarded(k) as require:
            filled = k.icmp("eq", count, k.add(visible, results))
            require(k.bits("or", filled, k.icmp("eq", count, visible)))
            given = k.select(filled, k.gep(args, visible, "ptr"), NULL)
            served = k.op("ptr", f"call ptr @serve(ptr {block}, ptr {args}, ptr {given}, ptr null)")
            k.store(served, answer)
        with k.if_(_refused(k, k.load("ptr", answer))):
            refusal = BLOCK.get(k, "not_implemented", block)
            python(k, "Py_IncRef", refusal)
            k.store(refusal, answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _refused(k: Emitter, answer: Reg) -> Reg:
    """Whether there is neither an answer nor an error."""
    refused = variable(k, FALSE)
    with k.if_(k.icmp("eq", answer, NULL)):
        k.store(k.icmp("eq", python(k, "PyErr_Occurred"), NULL), refused)
    return k.load("i1", refused)


def _emit_unpack(k: Emitter) -> None:
    """``unpack(block, out, given, fills)``: whether ``out`` is one thing for each result.

    ``fills`` is set to whether none of these is None.
    """
    with inlined(k, "unpack", ("ptr",) * 4, "i1") as (block, out, given, fills):
        results, length = (BLOCK.get(k, x, block) for x in ("results", "recipe_length"))
        none, good = BLOCK.get(k, "none", block), variable(k, FALSE)
        with k.if_else(k.icmp("eq", length, 1)) as (single, several):
            with single:
                k.store(out, given)
                k.store(k.icmp("ne", out, none), fills)
                k.store(k.icmp("eq", results, 1), good)
            with several, guarded(k) as require:
                kind = get(k, "ptr", out, cpython.TYPE)
                require(k.icmp("eq", kind, BLOCK.get(k, "tuple_type", block)))
                require(k.icmp("eq", get(k, "i64", out, cpython.COUNT), results))
                flat = k.icmp("eq", length, k.add(results, 1))
                require(k.bits("and", flat, k.icmp("eq", BLOCK.get(k, "constant_count", block), 0)))
                last = ORDER.at(k, BLOCK.get(k, "recipe", block), results)
                require(k.icmp("eq", ORDER.get(k, "kind", last), TUPLE))
                k.store(TRUE, fills)
                items = k.gep(out, BLOCK.get(k, "tuple_items", block), "i8")
                with k.loop(0, results) as i:
                    item = k.load("ptr", k.gep(items, i, "ptr"))
                    k.store(item, k.gep(given, i, "ptr"))
                    both(k, fills, k.icmp("ne", item, none))
                k.store(TRUE, good)
        k.line(f"ret i1 {k.load('i1', good)}")


def _emit_answer(k: Emitter) -> None:
    """``answer(block, args, names, out)``: ``serve`` with the leaves of the arguments, and with
    results in ``out``, unless that is null."""
    with inlined(k, "answer", ("ptr",) * 4, "ptr") as (block, args, names, out):
        given, whole = variable(k, NULL), variable(k, NULL)
        good, fills = variable(k, TRUE), variable(k, FALSE)
        with k.if_(truth(k, out)):
            places = stack(k, BLOCK.get(k, "results", block))
            k.store(places, given)
            arguments = f"ptr {block}, ptr {out}, ptr {places}, ptr {fills}"
            k.store(k.op("i1", f"call i1 @unpack({arguments})"), good)
            k.store(k.select(k.load("i1", fills), out, NULL), whole)
        answer = variable(k, NULL)
        with k.if_(k.load("i1", good)):
            memory = f"ptr {k.load('ptr', given)}, ptr {k.load('ptr', whole)}"
            within = truth(k, BLOCK.get(k, "item_count", block))
            with k.if_else(within) as (nested, flat):
                with nested:
                    call = f"call ptr @serve_items(ptr {block}, ptr {args}, ptr {names}, {memory})"
                    k.store(k.op("ptr", call), answer)
                with flat:
                    call = f"call ptr @serve(ptr {block}, ptr {args}, {memory})"
                    k.store(k.op("ptr", call), answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _emit_general(k: Emitter) -> None:
    """``general(callable, args, count, names)``: calls ``__call__``."""
    name = k.constant_table("call_name", "i8", [str(c) for c in b"__call__\0"])
    with k.function("general", ("ptr", "ptr", "i64", "ptr"), "ptr", internal=True) as arguments:
        callable_, args, count, names = arguments
        method = python(k, "PyObject_GetAttrString", callable_, name)
        answer = variable(k, NULL)
        with k.if_(truth(k, method)):
            k.store(python(k, "PyObject_Vectorcall", method, args, count, names), answer)
            python(k, "Py_DecRef", method)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _emit_vectorcall(k: Emitter) -> None:
    """``vectorcall(callable, args, count, names)``, a ``vectorcallfunc``."""
    types = ("ptr", "ptr", "i64", "ptr")
    with k.function("vectorcall", types, "ptr", internal=True) as (callable_, args, flags, names):
        count = k.bits("and", flags, (1 << 63) - 1)  # without PY_VECTORCALL_ARGUMENTS_OFFSET
        answer, failed = variable(k, NULL), variable(k, FALSE)
        desk = get(k, "ptr", callable_, vectorcall.DESK)
        with k.if_(truth(k, desk)):
            python(k, "Py_IncRef", desk)  # the callable may get another one meanwhile
            _ask_programs(k, get(k, "ptr", desk, cpython.DATA), args, count, names, answer, failed)
            python(k, "Py_DecRef", desk)
        neither = k.bits("xor", k.load("i1", failed), TRUE)
        open_ = k.bits("and", k.icmp("eq", k.load("ptr", answer), NULL), neither)
        with k.if_(open_):
            call = f"call ptr @general(ptr {callable_}, ptr {args}, i64 {count}, ptr {names})"
            k.store(k.op("ptr", call), answer)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _ask_programs(
    k: Emitter, table: Reg, args: Reg, count: Reg, names: Reg, answer: Reg, failed: Reg
) -> None:
    """Puts the answer of the first program that applies into ``answer``, or sets ``failed``."""
    with guarded(k) as require:
        paused = get(k, "i64", DESK.get(k, "paused", table), cpython.COUNT)
        require(k.icmp("eq", paused, 0))
        out, named = variable(k, NULL), variable(k, k.as_reg(0))
        with k.if_(truth(k, names)):
            texts = k.gep(names, DESK.get(k, "tuple_items", table), "i8")
            k.store(get(k, "i64", names, cpython.COUNT), named)
            every = k.load("i64", named)
            with k.loop(0, every) as i:
                name = k.load("ptr", k.gep(texts, i, "ptr"))
                with k.if_(k.icmp("eq", name, DESK.get(k, "out_name", table))):
                    k.store(k.load("ptr", k.gep(args, k.add(count, i), "ptr")), out)
                    k.store(k.as_reg(k.sub(every, 1)), named)
        blocks, wanted = DESK.get(k, "blocks", table), k.load("ptr", out)
        keywords = k.load("i64", named)
        with k.loop(0, DESK.get(k, "count", table)) as i, guarded(k) as require_this:
            done = k.bits("or", k.load("i1", failed), truth(k, k.load("ptr", answer)))
            require_this(k.bits("xor", done, TRUE))
            block = k.load("ptr", k.gep(blocks, i, "ptr"))
            require_this(k.icmp("eq", count, BLOCK.get(k, "positional", block)))
            require_this(k.icmp("eq", keywords, BLOCK.get(k, "keywords", block)))
            entry = BLOCK.get(k, "entry", block)
            with k.if_(truth(k, entry)):
                call = f"call ptr {entry}(ptr {block}, ptr {args}, ptr {wanted})"
                k.store(k.op("ptr", call), answer)
                _note_failure(k, answer, failed)
            done = k.bits("or", k.load("i1", failed), truth(k, k.load("ptr", answer)))
            require_this(k.bits("xor", done, TRUE))
            call = f"call ptr @answer(ptr {block}, ptr {args}, ptr {names}, ptr {wanted})"
            k.store(k.op("ptr", call), answer)
            _note_failure(k, answer, failed)


def _note_failure(k: Emitter, answer: Reg, failed: Reg) -> None:
    """Sets ``failed`` where there is no answer but an error."""
    with k.if_(k.icmp("eq", k.load("ptr", answer), NULL)):
        k.store(truth(k, python(k, "PyErr_Occurred")), failed)


# -- the Python side -------------------------------------------------------


class _Method(ctypes.Structure):
    """``PyMethodDef``"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@functools.cache
def supported() -> bool:
    """Whether there are fast calls in this interpreter and with this NumPy."""
    return cpython.supported() and bool(_methods())


@loaded_once
def _entries() -> tuple[int, ...]:
    """Addresses of the three functions; none where the C API lacks what they call."""
    try:
        return tuple(load_entries("symgrad_calls", _emit_module))
    except CompileError:
        return ()


@loaded_once  # the interpreter keeps their addresses: no thread may put others in their place
def _methods() -> tuple[_Method, ...]:
    """Definitions of ``invoke`` and ``call``, which live as long as the process."""
    names = (b"invoke", b"call")
    pairs = zip(names, _entries(), strict=False)
    return tuple(_Method(name, address, cpython.METH_FASTCALL, None) for name, address in pairs)


def _builtin(method: _Method, table: Table) -> Callable[..., Any]:
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p),
    )
    function: Callable[..., Any] = make(ctypes.addressof(method), table, None)
    return function


def make_invoke(run: int, program: int, release: bool) -> Callable[..., int]:
    """``invoke(*slots) -> status`` of the native ``run(program, addresses, null)``."""
    return _builtin(_methods()[0], entry_table(run, program, release))


def make_call(table: Table) -> Callable[..., Any]:
    """``call(*params) -> results`` and ``call(*params, *results) -> results``."""
    return _builtin(_methods()[1], table)


def answer_with(function: object, tables: Sequence[Table], *, takes_out: bool) -> None:
    """Has native code answer the calls of ``function`` with these programs, if it can.

    The class of ``function`` is one of ``vectorcall.answered_natively``.  ``takes_out``:
    arrays for the results may be passed as ``out``.
    """
    if tables and supported():
        vectorcall.answer(function, _entries()[2], desk_of(tables, takes_out=takes_out))
    else:
        vectorcall.retire(function)
