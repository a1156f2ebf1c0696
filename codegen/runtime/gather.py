"""Native code that finds a call's arrays where they lie: in keywords, tuples, lists and dicts.

It follows the ``Item``s of a program's table one by one.  A container must be of exactly the
type that the program was made for, and hold as much; then the same places hold the same leaves.
"""

from __future__ import annotations

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime import cpython
from symgrad.codegen.runtime.calltable import ARGUMENT, BLOCK, DICT, ITEM, LIST
from symgrad.codegen.runtime.cpython import NULL, get, python
from symgrad.codegen.runtime.serve import (
    TRUE,
    both,
    guarded,
    inlined,
    pointers,
    release,
    stack,
    truth,
    variable,
)


def emit_gather(k: Emitter) -> None:
    """Defines ``serve_items`` in the module of ``k``."""
    _emit_keyword(k)
    _emit_inside(k)
    _emit_gather(k)
    _emit_serve_items(k)


def _emit_keyword(k: Emitter) -> None:
    """``keyword(block, args, names, key)``: the argument of that name, null if there is none."""
    with inlined(k, "keyword", ("ptr",) * 4, "ptr") as (block, args, names, key):
        found = variable(k, NULL)
        with k.if_(truth(k, names)):
            texts = k.gep(names, BLOCK.get(k, "tuple_items", block), "i8")
            values = k.gep(args, BLOCK.get(k, "positional", block), "ptr")
            with k.loop(0, get(k, "i64", names, cpython.COUNT)) as i:
                with k.if_(k.icmp("eq", k.load("ptr", k.gep(texts, i, "ptr")), key)):
                    k.store(k.load("ptr", k.gep(values, i, "ptr")), found)
        k.line(f"ret ptr {k.load('ptr', found)}")


def _emit_inside(k: Emitter) -> None:
    """``inside(block, item, holder)``: what lies in a container, null if there is nothing."""
    with inlined(k, "inside", ("ptr",) * 3, "ptr") as (block, item, holder):
        way, found = ITEM.get(k, "way", item), variable(k, NULL)
        with k.if_else(k.icmp("eq", way, DICT)) as (by_key, by_place):
            with by_key:
                key = ITEM.get(k, "key", item)
                k.store(python(k, "PyDict_GetItemWithError", holder, key), found)
            with by_place:
                first = k.gep(holder, BLOCK.get(k, "tuple_items", block), "i8")
                items = variable(k, first)
                with k.if_(k.icmp("eq", way, LIST)):
                    k.store(get(k, "ptr", holder, cpython.LIST_ITEMS), items)
                place = k.gep(k.load("ptr", items), ITEM.get(k, "place", item), "ptr")
                k.store(k.load("ptr", place), found)
        k.line(f"ret ptr {k.load('ptr', found)}")


def _emit_gather(k: Emitter) -> None:
    """``gather(block, args, names, things, leaves)``: whether the items are all there.

    ``things`` gets a reference to each, as far as there are such, and is null at first;
    ``leaves`` gets those that are parameters, in their order.
    """
    with inlined(k, "gather", ("ptr",) * 5, "i1") as (block, args, names, things, leaves):
        good, table = variable(k, TRUE), BLOCK.get(k, "items", block)
        with k.loop(0, BLOCK.get(k, "item_count", block)) as i, guarded(k) as require:
            require(k.load("i1", good))
            item, thing = ITEM.at(k, table, i), variable(k, NULL)
            number = ITEM.get(k, "holder", item)
            with k.if_else(k.icmp("sge", number, 0)) as (nested, outermost):
                with nested:
                    holder = k.load("ptr", k.gep(things, number, "ptr"))
                    call = f"call ptr @inside(ptr {block}, ptr {item}, ptr {holder})"
                    k.store(k.op("ptr", call), thing)
                with outermost, k.if_else(k.icmp("eq", number, ARGUMENT)) as (by_place, by_name):
                    with by_place:
                        place = k.gep(args, ITEM.get(k, "place", item), "ptr")
                        k.store(k.load("ptr", place), thing)
                    with by_name:
                        key = ITEM.get(k, "key", item)
                        what = f"ptr {block}, ptr {args}, ptr {names}, ptr {key}"
                        k.store(k.op("ptr", f"call ptr @keyword({what})"), thing)
            found = k.load("ptr", thing)
            both(k, good, truth(k, found))
            require(truth(k, found))
            python(k, "Py_IncRef", found)
            k.store(found, k.gep(things, i, "ptr"))
            leaf = ITEM.get(k, "leaf", item)
            with k.if_else(k.icmp("sge", leaf, 0)) as (array, container):
                with array:
                    k.store(found, k.gep(leaves, leaf, "ptr"))
                with container:
                    both(k, good, _fits(k, item, found))
        k.line(f"ret i1 {k.load('i1', good)}")


def _emit_serve_items(k: Emitter) -> None:
    """``serve_items(block, args, names, given, whole)``: ``serve`` with the leaves of the items."""
    with k.function("serve_items", ("ptr",) * 5, "ptr", internal=True) as (block, *call):
        args, names, given, whole = call
        count, answer = BLOCK.get(k, "item_count", block), variable(k, NULL)
        things, leaves = pointers(k, count), stack(k, BLOCK.get(k, "visible", block))
        where = f"ptr {block}, ptr {args}, ptr {names}, ptr {things}, ptr {leaves}"
        with k.if_(k.op("i1", f"call i1 @gather({where})")):
            arguments = f"ptr {block}, ptr {leaves}, ptr {given}, ptr {whole}"
            k.store(k.op("ptr", f"call ptr @serve({arguments})"), answer)
        release(k, things, count)
        k.line(f"ret ptr {k.load('ptr', answer)}")


def _fits(k: Emitter, item: Reg, container: Reg) -> Reg:
    """Whether a container has the type and the size it must have."""
    kind = get(k, "ptr", container, cpython.TYPE)
    fits = variable(k, k.icmp("eq", kind, ITEM.get(k, "type", item)))
    count = ITEM.get(k, "count", item)
    with k.if_(k.bits("and", k.load("i1", fits), k.icmp("sge", count, 0))):
        both(k, fits, k.icmp("eq", get(k, "i64", container, cpython.COUNT), count))
    return k.load("i1", fits)
