"""A call's way through code of one program's own: what ``serve`` reads from tables is known.

A program that is over in a microsecond spends more of a call on loops over tables than on its
kernels.  Its *entry* is straight-line code: the checks of an array compare with constants, the
kernels' arguments are filled in and the kernels called one after the other.  It takes the
usual call alone, arrays for everything but numbers, and gives null for any other: then the
tables are asked, which know them all.

The entry takes no lock.  Whoever runs such a program holds the interpreter's lock from the
first kernel to the last (``release_gil`` of ``NativeProgram``), so there is one at a time.
Addresses that differ from process to process are read from the program's tables, so that the
code can lie in the object cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.jit import compile_modules
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime import cpython
from symgrad.codegen.runtime.calltable import BLOCK, LEAF, SLOT, TUPLE, Interface
from symgrad.codegen.runtime.cpython import NULL, get, python
from symgrad.codegen.runtime.native import field
from symgrad.codegen.runtime.serve import (
    FALSE,
    TRUE,
    emit_accept,
    guarded,
    new_array,
    new_scalar,
    truth,
    variable,
)
from symgrad.codegen.target import Target
from symgrad.ir.record import record

MOST = 8
"""Parameters, results and kernels of a program that gets an entry: more take their time anyway."""
_NAME = "entry"
_KERNEL, _POINTERS, _STEP_BYTES = 0, 8, 24
"""Where a step's kernel and the kernel's arguments are, see ``program``."""


@record
class Face:
    """What the code of an entry depends on."""

    params: tuple[tuple[int, ...], ...]
    """Shapes, the parameters' and the results'."""
    results: tuple[tuple[int, ...], ...]
    bytes: tuple[int, ...]
    """Sizes of the parameters, then of the results."""
    in_tuple: bool
    """Whether a tuple of the results is returned; else there is one result."""
    kernels: tuple[tuple[tuple[int, int, int], ...], ...]
    """For each kernel call the pointers to fill in: their number, slot and offset in bytes."""


def face_of(interface: Interface, kernels: Sequence[Sequence[tuple[int, int, int]]]) -> Face | None:
    """The face of a program that may have an entry; ``None`` for others.

    It reads nothing but its arguments by position and returns its results as they are.
    """
    count = len(interface.results)
    leaves = [(LEAF, i) for i in range(count)]
    recipe = [(order.kind, order.count) for order in interface.recipe]
    in_tuple = recipe in ([], [*leaves, (TUPLE, count)])
    others = (
        interface.sources, interface.watched, interface.constants, interface.items,
        [dtype for dtype, shape in interface.results
         if shape == () and not cpython.scalar_allocator(dtype)],
    )  # fmt: skip
    most = max(len(interface.params), count, len(kernels))
    if any(others) or not (in_tuple or recipe == leaves[:1]) or most > MOST or not count:
        return None
    sides = (interface.params, interface.results)
    params, results = (tuple(shape for _, shape in side) for side in sides)
    sizes = tuple(_bytes(dtype.itemsize, shape) for side in sides for dtype, shape in side)
    return Face(params, results, sizes, in_tuple, tuple(map(tuple, kernels)))


def _bytes(size: int, shape: tuple[int, ...]) -> int:
    for n in shape:
        size *= n
    return size


def load_entry(face: Face) -> int:
    """Address of an entry's code."""
    k = Emitter(Target.host())
    cpython.declare_functions(k)
    emit_accept(k)
    _Entry(k, face).emit()
    return compile_modules({_NAME: k.module()}, k.target)[_NAME]


Require = Callable[[Reg], None]


class _Entry:
    """Writes ``entry(block, args, out)``: the results, or null if the call is none for it.

    ``out`` is null or what the caller wants to be filled.
    """

    def __init__(self, k: Emitter, face: Face) -> None:
        self.k, self.face = k, face

    def emit(self) -> None:
        k, face = self.k, self.face
        with k.function(_NAME, ("ptr", "ptr", "ptr"), "ptr") as (block, args, out):
            self.block, self.slots = block, BLOCK.get(k, "slots", block)
            answer = variable(k, NULL)
            made = [variable(k, NULL) for _ in face.results]
            places = [variable(k, NULL) for _ in face.results]
            with guarded(k) as require:
                sources = [self._argument(args, i, require) for i in range(len(face.params))]
                ready = variable(k, FALSE)
                with k.if_else(truth(k, out)) as (fill, make):
                    with fill, guarded(k) as require_fit:
                        self._take(out, sources, places, require_fit)
                        k.store(TRUE, ready)
                    with make, guarded(k) as require_made:
                        self._make(made, places, require_made)
                        k.store(TRUE, ready)
                with k.if_else(k.load("i1", ready)) as (go, stop):
                    with go:
                        self._run([*sources, *(k.load("ptr", place) for place in places)])
                        self._hand_over(out, made, answer)
                    with stop:
                        self._give_back(made)
            k.line(f"ret ptr {k.load('ptr', answer)}")

    # -- arguments ---------------------------------------------------------------------

    def _slot(self, number: int) -> Reg:
        return SLOT.at(self.k, self.slots, number)

    def _argument(self, args: Reg, number: int, require: Require) -> Reg:
        """The address of a parameter's data."""
        k, shape = self.k, self.face.params[number]
        slot, thing = self._slot(number), k.load("ptr", k.gep(args, number, "ptr"))
        if shape:
            return self._array(slot, thing, shape, cpython.READABLE, require)
        room = k.alloca("i64")  # for a Python int's value
        what = f"ptr {self.block}, ptr {slot}, ptr {thing}, ptr {room}"
        found = k.op("ptr", f"call ptr @accept({what})")
        require(truth(k, found))
        return found

    def _array(
        self, slot: Reg, thing: Reg, shape: tuple[int, ...], wanted: int, require: Require
    ) -> Reg:
        """The address of an array's data; it must be one of the slot's dtype and this shape."""
        k = self.k
        kind = get(k, "ptr", thing, cpython.TYPE)
        require(k.icmp("eq", kind, BLOCK.get(k, "array_type", self.block)))
        descr, flags = get(k, "ptr", thing, cpython.DESCR), get(k, "i32", thing, cpython.FLAGS)
        require(k.icmp("eq", descr, SLOT.get(k, "descr", slot)))
        require(k.icmp("eq", k.bits("and", flags, wanted), wanted))
        require(k.icmp("eq", get(k, "i32", thing, cpython.NDIM), len(shape)))
        dims = get(k, "ptr", thing, cpython.DIMS)
        for axis, n in enumerate(shape):
            require(k.icmp("eq", k.load("i64", k.gep(dims, axis, "i64")), n))
        return get(k, "ptr", thing, cpython.DATA)

    # -- results -----------------------------------------------------------------------

    def _take(
        self, out: Reg, sources: Sequence[Reg], places: Sequence[Reg], require: Require
    ) -> None:
        """Takes the given arrays' memory; they must fit, and lie apart from all before them."""
        k, face, things = self.k, self.face, [out]
        if face.in_tuple:
            kind = get(k, "ptr", out, cpython.TYPE)
            require(k.icmp("eq", kind, BLOCK.get(k, "tuple_type", self.block)))
            require(k.icmp("eq", get(k, "i64", out, cpython.COUNT), len(face.results)))
            items = self._items(out)
            things = [k.load("ptr", k.gep(items, i, "ptr")) for i in range(len(face.results))]
        known = list(sources)
        for i, (thing, shape) in enumerate(zip(things, face.results, strict=True)):
            slot = self._slot(len(face.params) + i)
            data = self._array(slot, thing, shape, cpython.WRITEABLE, require)
            begin = k.cast("ptrtoint", data, "i64")
            end = k.add(begin, face.bytes[len(known)])
            for other, size in zip(known, face.bytes, strict=False):
                start = k.cast("ptrtoint", other, "i64")
                before = k.icmp("ule", k.as_reg(k.add(start, size)), begin)
                require(k.bits("or", before, k.icmp("ule", k.as_reg(end), start)))
            known.append(data)
            k.store(data, places[i])

    def _make(self, made: Sequence[Reg], places: Sequence[Reg], require: Require) -> None:
        """Makes the results: arrays, and scalars to be filled in."""
        k, block = self.k, self.block
        for i, shape in enumerate(self.face.results):
            slot = self._slot(len(self.face.params) + i)
            new = new_array(k, block, slot, len(shape)) if shape else new_scalar(k, slot)
            require(truth(k, new))
            k.store(new, made[i])
            data = get(k, "ptr", new, cpython.DATA) if shape else field(k, new, cpython.SCALAR)
            k.store(data, places[i])

    def _hand_over(self, out: Reg, made: Sequence[Reg], answer: Reg) -> None:
        """Puts what is returned into ``answer``; null with an error."""
        k = self.k
        with k.if_else(truth(k, out)) as (given, fresh):
            with given:
                python(k, "Py_IncRef", out)
                k.store(out, answer)
            with fresh:
                if not self.face.in_tuple:
                    k.store(k.load("ptr", made[0]), answer)
                    return
                new = python(k, "PyTuple_New", Reg(str(len(made)), "i64"))
                k.store(new, answer)
                with k.if_else(truth(k, new)) as (there, out_of_memory):
                    with there:
                        items = self._items(new)
                        for i, one in enumerate(made):
                            k.store(k.load("ptr", one), k.gep(items, i, "ptr"))
                    with out_of_memory:
                        self._give_back(made)

    def _items(self, tuple_: Reg) -> Reg:
        return self.k.gep(tuple_, BLOCK.get(self.k, "tuple_items", self.block), "i8")

    def _give_back(self, made: Sequence[Reg]) -> None:
        for one in made:
            python(self.k, "Py_DecRef", self.k.load("ptr", one))  # null is fine

    # -- the program -------------------------------------------------------------------

    def _run(self, slots: Sequence[Reg]) -> None:
        """Calls all kernels, on one thread."""
        k, steps = self.k, BLOCK.get(self.k, "steps", self.block)
        for number, patches in enumerate(self.face.kernels):
            step = field(k, steps, number * _STEP_BYTES)
            pointers = k.load("ptr", field(k, step, _POINTERS))
            for place, slot, offset in patches:
                k.store(field(k, slots[slot], offset), k.gep(pointers, place, "ptr"))
            kernel = k.load("ptr", field(k, step, _KERNEL))
            k.line(f"call void {kernel}(ptr {pointers}, i64 0, i64 1)")
