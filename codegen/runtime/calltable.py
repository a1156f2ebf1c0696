"""The tables by which native code answers a call: what a program takes, reads and returns.

One native function serves all programs; a ``CallTable`` tells it about one of them.  All
addresses that change from process to process are in these tables and never in the code, so
that the code can lie in the object cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime import cpython, native, vectorcall
from symgrad.codegen.runtime.source import Source
from symgrad.ir.record import record

Signature = Sequence[tuple[np.dtype[Any], tuple[int, ...]]]

ARRAY, FLOAT, SCALAR, INT = 1, 2, 4, 8
"""What may be passed: an array, a Python float (for a 0-d f64), a NumPy scalar, a Python int
(for a 0-d i64)."""
LEAF, TUPLE, LIST, DICT, NONE = range(5)
"""What is found among arguments, and what results are put together to."""
ARGUMENT, KEYWORD = -1, -2
"""In place of the number of a container: the arguments themselves."""

_BLOCK = np.dtype(
    [
        ("run", np.uint64),
        ("program", np.uint64),
        ("release", np.int64),  # whether other Python threads go on meanwhile
        ("entry", np.uint64),  # code of the program's own for usual calls, or null
        ("steps", np.uint64),  # what that code runs
        ("visible", np.int64),  # parameters that a call is given
        ("positional", np.int64),  # arguments by position
        ("keywords", np.int64),  # and by name
        ("items", np.uint64),  # so many of _ITEM, if the parameters are not just the former
        ("item_count", np.int64),
        ("params", np.int64),  # with those that are read from elsewhere
        ("results", np.int64),
        ("slots", np.uint64),  # one _SLOT for each parameter, then each result
        ("watch_count", np.int64),
        ("watches", np.uint64),  # so many of _SOURCE
        ("constants", np.uint64),  # objects among the leaves of what is returned
        ("constant_count", np.int64),
        ("recipe", np.uint64),  # _ORDERs: how the leaves are put together
        ("recipe_length", np.int64),
        ("array_type", np.uint64),
        ("new_array", np.uint64),
        ("new_scalar", np.uint64),
        ("float_type", np.uint64),
        ("int_type", np.uint64),
        ("tuple_type", np.uint64),
        ("tuple_items", np.int64),  # offset of a tuple's items
        ("none", np.uint64),
        ("not_implemented", np.uint64),
    ]
)
_SLOT = np.dtype(
    [
        ("descr", np.uint64),
        ("dims", np.uint64),
        ("bytes", np.int64),
        ("scalar_type", np.uint64),
        ("scalar_alloc", np.uint64),
        ("source", np.uint64),  # a _SOURCE, or null for an argument
        ("ndim", np.int32),
        ("flags", np.int32),  # those that an array must have
        ("accepts", np.int64),  # of ARRAY, FLOAT, SCALAR, INT
    ]
)
_ITEM = np.dtype(
    [
        ("holder", np.int64),  # number of the item it lies in, or ARGUMENT, KEYWORD
        ("way", np.int64),  # what the holder is: TUPLE for arguments, DICT for keywords
        ("place", np.int64),  # its position in a tuple or list
        ("key", np.uint64),  # its key in a dict
        ("leaf", np.int64),  # number of the parameter that it is, or -1
        ("type", np.uint64),  # what a container must be
        ("count", np.int64),  # and how many it must hold, or -1
    ]
)
_ORDER = np.dtype([("kind", np.int64), ("count", np.int64), ("keys", np.uint64)])
_SOURCE = np.dtype(
    [
        ("root", np.uint64),
        ("steps", np.uint64),  # so many of _STEP
        ("count", np.int64),
        ("expected", np.uint64),  # the object that must be found there, or null
    ]
)
_STEP = np.dtype([("kind", np.int64), ("key", np.uint64)])
_DESK = np.dtype(
    [
        ("paused", np.uint64),  # the list ``vectorcall.paused``
        ("out_name", np.uint64),  # the text "out"; null where the function has its own `out`
        ("tuple_items", np.int64),
        ("count", np.int64),
        ("blocks", np.uint64),  # addresses of so many _BLOCKs
    ]
)


class Record:
    """A structure of a table, for the native side: loads fields by name."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.bytes = dtype.itemsize
        self._fields = {
            name: (offset, "ptr" if kind.kind == "u" else f"i{8 * kind.itemsize}")
            for name, (kind, offset, *_) in (dtype.fields or {}).items()
        }

    def get(self, k: Emitter, name: str, table: Reg) -> Reg:
        """The field ``name`` of the structure at ``table``."""
        offset, type = self._fields[name]
        return k.load(type, native.field(k, table, offset))

    def at(self, k: Emitter, tables: Reg, i: Any) -> Reg:
        """The address of structure ``i`` of an array."""
        return k.gep(tables, k.mul(i, self.bytes), "i8")


BLOCK, SLOT, SOURCE, STEP, DESK, ITEM, ORDER = map(
    Record, (_BLOCK, _SLOT, _SOURCE, _STEP, _DESK, _ITEM, _ORDER)
)


@record
class Item:
    """A thing that a call is given: a leaf, or a container whose items follow it.

    ``holder`` is the number of the container that it lies in, or ``ARGUMENT`` or ``KEYWORD``;
    ``place`` its position or key there.  A container must be of this very ``kind`` and hold
    ``count`` things.
    """

    holder: int
    place: Any
    kind: int = LEAF
    count: int = 0


@record
class Order:
    """A step of putting results together, on a pile.

    ``LEAF`` puts leaf number ``count`` on top; any other ``kind`` makes a container of the
    ``count`` uppermost things and puts it in their place.
    """

    kind: int
    count: int
    keys: tuple[Any, ...] = ()
    """Of a dict, in the order of its things."""


@record
class Interface:
    """What a program looks like to its callers.

    ``params`` and ``results`` are the dtype and shape of its slots.  The last parameters,
    as many as there are ``sources``, are arrays that are read from there at every call.
    ``watched`` objects must be where they were, or the program does not apply.
    """

    params: Signature
    results: Signature
    sources: Sequence[Source] = ()
    watched: Sequence[tuple[Source, Any]] = ()
    types: Sequence[type] | None = None
    """The Python types the arguments have to have; ``None`` for any that will do."""
    constants: Sequence[Any] = ()
    """Leaves of what is returned that are no results: they are numbered behind these."""
    recipe: Sequence[Order] = ()
    """How the leaves are put together: in the end one thing is left.  By default a tuple."""
    items: Sequence[Item] = ()
    """Where the parameters are found among the arguments, their leaves in the parameters'
    order.  By default they are the arguments by position."""


class Table(np.ndarray[Any, Any]):
    """Memory for the native side that keeps alive what it points to."""

    keeps: tuple[Any, ...]


def _table(rows: np.ndarray[Any, Any], *keeps: Any) -> Table:
    table = rows.view(Table)
    table.keeps = keeps
    return table


def entry_table(run: int, program: int, release: bool) -> Table:
    """A block for ``invoke``, which looks at no signature."""
    block = _table(np.zeros((), _BLOCK))
    block["run"], block["program"], block["release"] = run, program, release
    for name, address in cpython.numpy_functions().items():
        block[name] = address
    block["tuple_items"] = cpython.tuple_items()
    names = {"float_type": float, "int_type": int, "tuple_type": tuple, "none": None}
    for name, thing in (names | {"not_implemented": NotImplemented}).items():
        block[name] = id(thing)
    return block


def call_table(
    run: int, program: int, release: bool, interface: Interface, owner: object,
    entry: tuple[int, int] = (0, 0),
) -> Table:  # fmt: skip
    """The block of a program for ``call``; ``owner`` lives as long as it does.

    ``entry`` has the addresses of the program's own entry, if any, and of its steps.
    """
    face = interface
    visible = len(face.params) - len(face.sources)
    slots = np.zeros(len(face.params) + len(face.results), _SLOT)
    shapes = [np.array(shape, np.intp) for _, shape in (*face.params, *face.results)]
    sources, watches = _sources([(s, None) for s in face.sources]), _sources(face.watched)
    for i, (dtype, shape) in enumerate((*face.params, *face.results)):
        slot, is_param = slots[i], i < len(face.params)
        scalar = cpython.scalar_type(dtype) if shape == () else None
        slot["descr"], slot["dims"] = id(dtype), shapes[i].ctypes.data
        slot["ndim"], slot["bytes"] = len(shape), dtype.itemsize * int(np.prod(shape))
        slot["flags"] = cpython.READABLE if is_param else cpython.WRITEABLE
        slot["scalar_type"] = 0 if scalar is None else id(scalar)
        slot["scalar_alloc"] = 0 if scalar is None else cpython.scalar_allocator(dtype)
        slot["accepts"] = ARRAY
        if i < visible:
            slot["accepts"] = _accepted(dtype, scalar, face.types[i] if face.types else None)
        elif is_param:
            slot["source"] = sources.ctypes.data + (i - visible) * _SOURCE.itemsize
    results = len(face.results)
    recipe = face.recipe or [*(Order(LEAF, i) for i in range(results)), Order(TUPLE, results)]
    orders, constants, items = _orders(recipe), _addresses(face.constants), _items(face.items)
    holders = [item.holder for item in face.items]
    block = entry_table(run, program, release)
    block["entry"], block["steps"] = entry
    for name, value in {
        "visible": visible, "params": len(face.params), "results": results,
        "positional": holders.count(ARGUMENT) if holders else visible,
        "keywords": holders.count(KEYWORD), "items": items.ctypes.data, "item_count": len(items),
        "slots": slots.ctypes.data, "watches": watches.ctypes.data, "watch_count": len(watches),
        "constants": constants.ctypes.data, "constant_count": len(constants),
        "recipe": orders.ctypes.data, "recipe_length": len(orders),
    }.items():  # fmt: skip
        block[name] = value
    block.keeps = (face, owner, slots, shapes, sources, watches, orders, constants, items)
    return block


def _accepted(dtype: np.dtype[Any], scalar: type | None, type_: type | None) -> int:
    if scalar is None:
        return ARRAY if type_ in (None, np.ndarray) else 0
    if type_ is None:
        return ARRAY | SCALAR | (FLOAT if dtype == np.float64 else 0)
    return {float: FLOAT, int: INT}.get(type_, ARRAY | SCALAR)  # these two mean the same


def _addresses(things: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.array([id(x) for x in things], np.uint64)


_TYPES = {TUPLE: tuple, LIST: list, DICT: dict, NONE: type(None)}


def _items(items: Sequence[Item]) -> Table:
    """Rows of _ITEM."""
    rows, leaves = np.zeros(len(items), _ITEM), 0
    for row, item in zip(rows, items, strict=True):
        outermost = {ARGUMENT: TUPLE, KEYWORD: DICT}
        way = outermost.get(item.holder) or items[item.holder].kind
        row["holder"], row["way"] = item.holder, way
        row["key" if way == DICT else "place"] = id(item.place) if way == DICT else item.place
        row["leaf"], row["count"] = -1, -1
        if item.kind == LEAF:
            row["leaf"] = leaves
            leaves += 1
        else:
            row["type"] = id(_TYPES[item.kind])
            row["count"] = -1 if item.kind == NONE else item.count
    return _table(rows, list(items))


def _orders(recipe: Sequence[Order]) -> Table:
    """Rows of _ORDER."""
    rows, keys = np.zeros(len(recipe), _ORDER), [_addresses(order.keys) for order in recipe]
    for row, order, own in zip(rows, recipe, keys, strict=True):
        row["kind"], row["count"], row["keys"] = order.kind, order.count, own.ctypes.data
    return _table(rows, list(recipe), keys)


def _sources(pairs: Sequence[tuple[Source, Any]]) -> Table:
    """Rows of _SOURCE for sources and, where not ``None``, what must be found there."""
    rows, all_steps = np.zeros(len(pairs), _SOURCE), []
    for row, (source, expected) in zip(rows, pairs, strict=True):
        steps = np.array([(kind, id(key)) for kind, key in source.steps], _STEP)
        all_steps.append(steps)
        row["root"], row["steps"] = id(source.root), steps.ctypes.data
        row["count"], row["expected"] = len(steps), 0 if expected is None else id(expected)
    return _table(rows, list(pairs), all_steps)


def desk_of(tables: Sequence[Table], *, takes_out: bool) -> Table:
    """What a function answers from: the tables of its programs, tried in this order.

    ``takes_out`` says whether the keyword ``out`` belongs to the call itself.
    """
    blocks = np.array([table.ctypes.data for table in tables], np.uint64)
    out = sys.intern("out")
    desk = _table(np.zeros((), _DESK), list(tables), blocks, out)
    desk["paused"], desk["out_name"] = id(vectorcall.paused), id(out) if takes_out else 0
    desk["tuple_items"] = cpython.tuple_items()
    desk["count"], desk["blocks"] = len(blocks), blocks.ctypes.data
    return desk
