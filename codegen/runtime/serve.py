"""A call's way through native code: arguments taken, results made, the program run.

Internal functions that ``fastcall``'s entries are made of; each becomes a part of these.
Those that return an ``i1`` tell whether all went well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Int, Reg
from symgrad.codegen.runtime import cpython
from symgrad.codegen.runtime.calltable import (
    ARRAY,
    BLOCK,
    FLOAT,
    INT,
    LEAF,
    LIST,
    ORDER,
    SCALAR,
    SLOT,
    SOURCE,
    STEP,
    TUPLE,
)
from symgrad.codegen.runtime.cpython import NULL, get, python
from symgrad.codegen.runtime.native import field
from symgrad.codegen.runtime.source import CELL, ITEM

_ROOM_WORDS = 2  # for a scalar of the largest dtype


def emit_serve(k: Emitter) -> None:
    """Defines ``run`` and ``serve`` in the module of ``k``."""
    cpython.declare_functions(k)
    _emit_run(k)
    _emit_fetch(k)
    _emit_intact(k)
    emit_accept(k)
    _emit_collect(k)
    _emit_create(k)
    _emit_place(k)
    _emit_complete(k)
    _emit_contain(k)
    _emit_pack(k)
    _emit_serve(k)


# -- how the code below is written ---------------------------------------------------------


@contextmanager
def guarded(k: Emitter) -> Iterator[Callable[[Reg], None]]:
    """A body that is left as soon as a required condition does not hold."""
    done = k.label()

    def require(condition: Reg) -> None:
        onward = k.label()
        k.line(f"br i1 {condition}, label %{onward}, label %{done}")
        k.place(onward)

    yield require
    k.line(f"br label %{done}")
    k.place(done)


def inlined(
    k: Emitter, name: str, params: Sequence[str], result: str
) -> AbstractContextManager[tuple[Reg, ...]]:
    """A function that becomes a part of those that call it."""
    return k.function(name, params, result, internal=True, attributes="alwaysinline")


def variable(k: Emitter, initial: Reg) -> Reg:
    """A local variable."""
    variable = k.alloca(initial.type)
    k.store(initial, variable)
    return variable


def stack(k: Emitter, words: Int) -> Reg:
    """Room for so many 8-byte words, until the function returns."""
    return k.op("ptr", f"alloca i64, i64 {words}, align 8")


def pointers(k: Emitter, count: Int) -> Reg:
    """Room for so many pointers, null at first."""
    pointers = stack(k, count)
    with k.loop(0, count) as i:
        k.store(NULL, k.gep(pointers, i, "ptr"))
    return pointers


def truth(k: Emitter, thing: Reg) -> Reg:
    """Whether a pointer is not null, or a number not zero."""
    return k.icmp("ne", thing, NULL if thing.type == "ptr" else 0)


def both(k: Emitter, flag: Reg, condition: Reg) -> None:
    """Clears a flag where a condition does not hold."""
    k.store(k.bits("and", k.load("i1", flag), condition), flag)


TRUE, FALSE = Reg("true", "i1"), Reg("false", "i1")


# -- arguments -----------------------------------------------------------------------------


def _emit_run(k: Emitter) -> None:
    """``run(block, addresses)``: 0 if the program ran, for which it may need an open team."""
    with inlined(k, "run", ("ptr", "ptr"), "i32") as (block, addresses):
        run, program = BLOCK.get(k, "run", block), BLOCK.get(k, "program", block)
        status = k.alloca("i32")
        execute = f"call i32 {run}(ptr {program}, ptr {addresses}, ptr null)"
        with k.if_else(truth(k, BLOCK.get(k, "release", block))) as (let_go, hold):
            with let_go:
                state = python(k, "PyEval_SaveThread")
                k.store(k.op("i32", execute), status)
                python(k, "PyEval_RestoreThread", state)
            with hold:
                k.store(k.op("i32", execute), status)
        k.line(f"ret i32 {k.load('i32', status)}")


def _emit_fetch(k: Emitter) -> None:
    """``fetch(source)``: a new reference to what is there now, null if there is nothing."""
    with k.function("fetch", ("ptr",), "ptr", internal=True) as (source,):
        root = SOURCE.get(k, "root", source)
        python(k, "Py_IncRef", root)
        thing = variable(k, root)
        with k.loop(0, SOURCE.get(k, "count", source)) as i:
            step = STEP.at(k, SOURCE.get(k, "steps", source), i)
            kind, key = STEP.get(k, "kind", step), STEP.get(k, "key", step)
            holder = k.load("ptr", thing)
            with k.if_(truth(k, holder)):
                with k.if_else(k.icmp("eq", kind, CELL)) as (cell, other):
                    with cell:
                        k.store(python(k, "PyCell_Get", holder), thing)
                    with other, k.if_else(k.icmp("eq", kind, ITEM)) as (item, attribute):
                        with item:
                            k.store(python(k, "PyObject_GetItem", holder, key), thing)
                        with attribute:
                            k.store(python(k, "PyObject_GetAttr", holder, key), thing)
                python(k, "Py_DecRef", holder)
        found = k.load("ptr", thing)
        with k.if_(k.icmp("eq", found, NULL)):
            python(k, "PyErr_Clear")
        k.line(f"ret ptr {found}")


def _emit_intact(k: Emitter) -> None:
    """``intact(block)``: whether all that the program watches is what it was."""
    with inlined(k, "intact", ("ptr",), "i1") as (block,):
        same = variable(k, TRUE)
        with k.loop(0, BLOCK.get(k, "watch_count", block)) as i:
            source = SOURCE.at(k, BLOCK.get(k, "watches", block), i)
            found = k.op("ptr", f"call ptr @fetch(ptr {source})")
            both(k, same, k.icmp("eq", found, SOURCE.get(k, "expected", source)))
            python(k, "Py_DecRef", found)  # null is fine
        k.line(f"ret i1 {k.load('i1', same)}")


def emit_accept(k: Emitter) -> None:
    """``accept(block, slot, object, room)``: the address of its data, null if it does not fit.

    That of a Python int is put into ``room``, which is null where there is none.
    """
    with inlined(k, "accept", ("ptr",) * 4, "ptr") as (block, slot, thing, room):
        found = variable(k, NULL)
        kind, accepts = get(k, "ptr", thing, cpython.TYPE), SLOT.get(k, "accepts", slot)

        def takes(what: int) -> Reg:
            return truth(k, k.bits("and", accepts, what))

        is_array = k.icmp("eq", kind, BLOCK.get(k, "array_type", block))
        with k.if_else(k.bits("and", is_array, takes(ARRAY))) as (array, other):
            with array, guarded(k) as require:
                descr = get(k, "ptr", thing, cpython.DESCR)
                require(k.icmp("eq", descr, SLOT.get(k, "descr", slot)))
                wanted = SLOT.get(k, "flags", slot)
                flags = k.bits("and", get(k, "i32", thing, cpython.FLAGS), wanted)
                require(k.icmp("eq", flags, wanted))
                ndim = get(k, "i32", thing, cpython.NDIM)
                require(k.icmp("eq", ndim, SLOT.get(k, "ndim", slot)))
                require(_same_dims(k, get(k, "ptr", thing, cpython.DIMS), slot, ndim))
                k.store(get(k, "ptr", thing, cpython.DATA), found)
            with other:
                python_float = k.icmp("eq", kind, BLOCK.get(k, "float_type", block))
                numpy_scalar = k.icmp("eq", kind, SLOT.get(k, "scalar_type", slot))
                fits = k.bits(
                    "or",
                    k.bits("and", python_float, takes(FLOAT)),
                    k.bits("and", numpy_scalar, takes(SCALAR)),
                )
                with k.if_(fits):
                    k.store(field(k, thing, cpython.SCALAR), found)
                python_int = k.icmp("eq", kind, BLOCK.get(k, "int_type", block))
                with k.if_(k.bits("and", python_int, takes(INT))):
                    k.store(python(k, "PyLong_AsLongLong", thing), room)
                    k.store(room, found)
                    with k.if_(truth(k, python(k, "PyErr_Occurred"))):  # it is too large
                        python(k, "PyErr_Clear")
                        k.store(NULL, found)
        k.line(f"ret ptr {k.load('ptr', found)}")


def _same_dims(k: Emitter, dims: Reg, slot: Reg, ndim: Reg) -> Reg:
    """Whether all dimensions are the slot's."""
    wanted = SLOT.get(k, "dims", slot)
    same = variable(k, TRUE)
    with k.loop(0, k.cast("sext", ndim, "i64")) as i:
        have, want = k.load("i64", k.gep(dims, i, "i64")), k.load("i64", k.gep(wanted, i, "i64"))
        both(k, same, k.icmp("eq", have, want))
    return k.load("i1", same)


def _emit_collect(k: Emitter) -> None:
    """``collect(block, args, addresses, held, rooms)``: whether all parameters are there and fit.

    ``held`` gets the references to those that are read from elsewhere; ``rooms`` has a word for
    each.
    """
    with inlined(k, "collect", ("ptr",) * 5, "i1") as (block, args, *memory):
        addresses, held, rooms = memory
        slots, visible = BLOCK.get(k, "slots", block), BLOCK.get(k, "visible", block)
        fits = variable(k, TRUE)
        with k.loop(0, BLOCK.get(k, "params", block)) as i:
            slot, address = SLOT.at(k, slots, i), variable(k, NULL)
            source, thing = SLOT.get(k, "source", slot), variable(k, NULL)
            with k.if_else(truth(k, source)) as (hidden, argument):
                with hidden:
                    found = k.op("ptr", f"call ptr @fetch(ptr {source})")
                    k.store(found, k.gep(held, k.sub(i, visible), "ptr"))
                    k.store(found, thing)
                with argument:
                    k.store(k.load("ptr", k.gep(args, i, "ptr")), thing)
            there = k.load("ptr", thing)
            with k.if_(truth(k, there)):
                what = f"ptr {block}, ptr {slot}, ptr {there}, ptr {k.gep(rooms, i, 'i64')}"
                k.store(k.op("ptr", f"call ptr @accept({what})"), address)
            k.store(k.load("ptr", address), k.gep(addresses, i, "ptr"))
            both(k, fits, truth(k, k.load("ptr", address)))
        k.line(f"ret i1 {k.load('i1', fits)}")


# -- results -------------------------------------------------------------------------------


def new_array(k: Emitter, block: Reg, slot: Reg, ndim: Int) -> Reg:
    """A new array of a slot's dtype and shape; null with an error."""
    make, descr = BLOCK.get(k, "new_array", block), SLOT.get(k, "descr", slot)
    python(k, "Py_IncRef", descr)  # the new array takes it over
    kind, dims = BLOCK.get(k, "array_type", block), SLOT.get(k, "dims", slot)
    what = f"ptr {kind}, ptr {descr}, i32 {ndim}, ptr {dims}"
    return k.op("ptr", f"call ptr {make}({what}, ptr null, ptr null, i32 0, ptr null)")


def new_scalar(k: Emitter, slot: Reg) -> Reg:
    """A new scalar of a slot's dtype, which has a writeable one; null with an error."""
    allocate, kind = (SLOT.get(k, f"scalar_{x}", slot) for x in ("alloc", "type"))
    return k.op("ptr", f"call ptr {allocate}(ptr {kind}, i64 0)")


def _emit_create(k: Emitter) -> None:
    """``create(block, slot, made, room)``: where the data of a new result shall go.

    The object is put into ``made``, except a 0-d result that is no writeable scalar: that
    goes to ``room`` for the moment.  Null with an error.
    """
    with inlined(k, "create", ("ptr",) * 4, "ptr") as (block, slot, made, room):
        address = variable(k, room)

        def settle(thing: Reg, data: Callable[[], Reg]) -> None:
            k.store(thing, made)
            k.store(NULL, address)
            with k.if_(truth(k, thing)):
                k.store(data(), address)

        ndim = SLOT.get(k, "ndim", slot)
        with k.if_else(truth(k, ndim)) as (array, scalar):
            with array:
                new = new_array(k, block, slot, ndim)
                settle(new, lambda: get(k, "ptr", new, cpython.DATA))
            with scalar, k.if_(truth(k, SLOT.get(k, "scalar_alloc", slot))):
                one = new_scalar(k, slot)
                settle(one, lambda: field(k, one, cpython.SCALAR))
        k.line(f"ret ptr {k.load('ptr', address)}")


def _emit_place(k: Emitter) -> None:
    """``place(block, given, counted, addresses, made, rooms)``: whether there is memory for all
    results.

    ``given`` is null or has for each result an array to be filled, or null or None.  Such
    an array must fit and lie apart from the parameters and the other results.  ``made`` gets
    a reference to each result that is an object already; to given ones only if ``counted``.
    """
    types = ("ptr", "ptr", "i1", "ptr", "ptr", "ptr")
    with inlined(k, "place", types, "i1") as (block, given, counted, *memory):
        addresses, made, rooms = memory
        params, slots = BLOCK.get(k, "params", block), BLOCK.get(k, "slots", block)
        none, good = BLOCK.get(k, "none", block), variable(k, TRUE)
        with k.loop(0, BLOCK.get(k, "results", block)) as i:
            number = k.add(params, i)
            slot, place = SLOT.at(k, slots, number), k.gep(made, i, "ptr")
            array, address = variable(k, NULL), variable(k, NULL)
            with k.if_(truth(k, given)):
                one = k.load("ptr", k.gep(given, i, "ptr"))
                k.store(k.select(k.icmp("eq", one, none), NULL, one), array)
            target = k.load("ptr", array)
            with k.if_else(truth(k, target)) as (fill, make):
                with fill, guarded(k) as require:
                    call = f"call ptr @accept(ptr {block}, ptr {slot}, ptr {target}, ptr null)"
                    data = k.op("ptr", call)
                    require(truth(k, data))
                    require(_lies_apart(k, slots, addresses, number, data))
                    with k.if_(counted):
                        python(k, "Py_IncRef", target)
                        k.store(target, place)
                    k.store(data, address)
                with make:
                    room = k.gep(rooms, k.mul(i, _ROOM_WORDS), "i64")
                    call = f"call ptr @create(ptr {block}, ptr {slot}, ptr {place}, ptr {room})"
                    k.store(k.op("ptr", call), address)
            found = k.load("ptr", address)
            k.store(found, k.gep(addresses, number, "ptr"))
            both(k, good, truth(k, found))
        k.line(f"ret i1 {k.load('i1', good)}")


def _lies_apart(k: Emitter, slots: Reg, addresses: Reg, number: Int, data: Reg) -> Reg:
    """Whether the memory at ``data`` for slot ``number`` meets that of no slot before it."""
    apart = variable(k, TRUE)
    begin = k.cast("ptrtoint", data, "i64")
    end = k.add(begin, SLOT.get(k, "bytes", SLOT.at(k, slots, number)))
    with k.loop(0, number) as i:
        other = k.cast("ptrtoint", k.load("ptr", k.gep(addresses, i, "ptr")), "i64")
        other_end = k.add(other, SLOT.get(k, "bytes", SLOT.at(k, slots, i)))
        before, behind = k.icmp("ule", other_end, begin), k.icmp("ule", end, other)
        both(k, apart, k.bits("or", before, behind))
    return k.load("i1", apart)


def _emit_complete(k: Emitter) -> None:
    """``complete(block, made, rooms)``: makes scalars of the results that are in a room."""
    with inlined(k, "complete", ("ptr",) * 3, "i1") as (block, made, rooms):
        params, slots = BLOCK.get(k, "params", block), BLOCK.get(k, "slots", block)
        results, good = BLOCK.get(k, "results", block), variable(k, TRUE)
        with k.loop(0, results) as i:
            place = k.gep(made, i, "ptr")
            with k.if_(k.icmp("eq", k.load("ptr", place), NULL)):
                descr = SLOT.get(k, "descr", SLOT.at(k, slots, k.add(params, i)))
                room = k.gep(rooms, k.mul(i, _ROOM_WORDS), "i64")
                make = BLOCK.get(k, "new_scalar", block)
                scalar = k.op("ptr", f"call ptr {make}(ptr {room}, ptr {descr}, ptr null)")
                k.store(scalar, place)
                both(k, good, truth(k, scalar))
        constants = BLOCK.get(k, "constants", block)
        with k.loop(0, BLOCK.get(k, "constant_count", block)) as i:
            constant = k.load("ptr", k.gep(constants, i, "ptr"))
            python(k, "Py_IncRef", constant)
            k.store(constant, k.gep(made, k.add(results, i), "ptr"))
        k.line(f"ret i1 {k.load('i1', good)}")


def _emit_pack(k: Emitter) -> None:
    """``pack(block, leaves)``: the leaves put together by the recipe; takes them over.

    Null with an error.
    """
    with inlined(k, "pack", ("ptr", "ptr"), "ptr") as (block, leaves):
        recipe, length = (BLOCK.get(k, f"recipe{x}", block) for x in ("", "_length"))
        pile, height = stack(k, length), variable(k, k.as_reg(0))
        complete = variable(k, TRUE)
        with k.loop(0, length) as i:
            order, top = ORDER.at(k, recipe, i), k.load("i64", height)
            kind, count = (ORDER.get(k, x, order) for x in ("kind", "count"))
            with k.if_else(k.icmp("eq", kind, LEAF)) as (leaf, many):
                with leaf:
                    k.store(k.load("ptr", k.gep(leaves, count, "ptr")), k.gep(pile, top, "ptr"))
                    k.store(k.as_reg(k.add(top, 1)), height)
                with many:
                    first, made = k.gep(pile, k.sub(top, count), "ptr"), variable(k, NULL)
                    with k.if_else(k.icmp("eq", kind, TUPLE)) as (often, seldom):
                        with often:
                            new = python(k, "PyTuple_New", count)
                            items = k.gep(new, BLOCK.get(k, "tuple_items", block), "i8")
                            _fill(k, new, items, first, count)
                            k.store(new, made)
                        with seldom:
                            call = f"call ptr @contain(ptr {order}, ptr {first})"
                            k.store(k.op("ptr", call), made)
                    both(k, complete, truth(k, k.load("ptr", made)))
                    k.store(k.load("ptr", made), first)
                    k.store(k.as_reg(k.add(k.sub(top, count), 1)), height)
        with k.if_(k.icmp("eq", k.load("i1", complete), 0)):  # null, or has null in it
            python(k, "Py_DecRef", k.load("ptr", pile))
            k.store(NULL, pile)
        k.line(f"ret ptr {k.load('ptr', pile)}")


def _fill(k: Emitter, new: Reg, items: Reg, things: Reg, count: Reg) -> None:
    """Moves things into a container, or gives them back where there is none."""
    with k.if_else(truth(k, new)) as (there, out_of_memory):
        with there, k.loop(0, count) as i:
            k.store(k.load("ptr", k.gep(things, i, "ptr")), k.gep(items, i, "ptr"))
        with out_of_memory:
            release(k, things, count)


def _emit_contain(k: Emitter) -> None:
    """``contain(order, things)``: a list or dict of things, which it takes over.

    Null with an error.
    """
    with k.function("contain", ("ptr", "ptr"), "ptr", internal=True) as (order, things):
        kind, count = (ORDER.get(k, x, order) for x in ("kind", "count"))
        made = variable(k, NULL)
        with k.if_else(k.icmp("eq", kind, LIST)) as (a_list, a_dict):
            with a_list:
                new = python(k, "PyList_New", count)
                k.store(new, made)
                items = variable(k, NULL)
                with k.if_(truth(k, new)):
                    k.store(get(k, "ptr", new, cpython.LIST_ITEMS), items)
                _fill(k, new, k.load("ptr", items), things, count)
            with a_dict:
                new, keys = python(k, "PyDict_New"), ORDER.get(k, "keys", order)
                good = variable(k, truth(k, new))
                with k.loop(0, count) as i:
                    key, thing = (k.load("ptr", k.gep(p, i, "ptr")) for p in (keys, things))
                    both(k, good, truth(k, thing))
                    with k.if_(k.load("i1", good)):
                        status = python(k, "PyDict_SetItem", new, key, thing)
                        both(k, good, k.icmp("eq", status, 0))
                release(k, things, count)  # the dict has references of its own
                k.store(k.select(k.load("i1", good), new, NULL), made)
                with k.if_(k.icmp("eq", k.load("i1", good), 0)):
                    python(k, "Py_DecRef", new)
        k.line(f"ret ptr {k.load('ptr', made)}")


def _emit_serve(k: Emitter) -> None:
    """``serve(block, args, given, whole)``: what the program returns.

    Null if it does not apply or did not run, or with an error.  ``whole`` is null or what
    to return, put together already, because all results are ``given``: the caller holds it,
    and with it them, so that they are not counted one by one.
    """
    with k.function("serve", ("ptr",) * 4, "ptr", internal=True) as (block, args, given, whole):
        params, results = BLOCK.get(k, "params", block), BLOCK.get(k, "results", block)
        hidden = k.sub(params, BLOCK.get(k, "visible", block))
        leaves = k.add(results, BLOCK.get(k, "constant_count", block))
        slots, rooms = k.add(params, results), stack(k, k.mul(results, _ROOM_WORDS))
        addresses = stack(k, k.add(slots, params))
        numbers = k.gep(addresses, slots, "i64")
        held, made = pointers(k, hidden), pointers(k, leaves)
        answer, ran = variable(k, NULL), variable(k, FALSE)
        fresh = k.icmp("eq", whole, NULL)
        with guarded(k) as require:
            require(k.op("i1", f"call i1 @intact(ptr {block})"))
            arguments = f"ptr {block}, ptr {args}, ptr {addresses}, ptr {held}, ptr {numbers}"
            require(k.op("i1", f"call i1 @collect({arguments})"))
            memory = f"ptr {addresses}, ptr {made}, ptr {rooms}"
            place = f"call i1 @place(ptr {block}, ptr {given}, i1 {fresh}, {memory})"
            require(k.op("i1", place))
            status = k.op("i32", f"call i32 @run(ptr {block}, ptr {addresses})")
            require(k.icmp("eq", status, 0))
            k.store(TRUE, ran)
        with k.if_else(fresh) as (assemble, hand_back):
            with assemble:
                complete = variable(k, k.load("i1", ran))
                with k.if_(k.load("i1", complete)):
                    finish = f"call i1 @complete(ptr {block}, ptr {made}, ptr {rooms})"
                    k.store(k.op("i1", finish), complete)
                with k.if_else(k.load("i1", complete)) as (good, bad):
                    with good:
                        k.store(k.op("ptr", f"call ptr @pack(ptr {block}, ptr {made})"), answer)
                    with bad:
                        release(k, made, leaves)
            with hand_back, k.if_(k.load("i1", ran)):
                python(k, "Py_IncRef", whole)
                k.store(whole, answer)
        release(k, held, hidden)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def release(k: Emitter, things: Reg, count: Int) -> None:
    """Gives references back."""
    with k.loop(0, count) as i:
        python(k, "Py_DecRef", k.load("ptr", k.gep(things, i, "ptr")))  # null is fine
