"""Builtin calls of a program: exactly its signature or NotImplemented, and no leaks."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symgrad.codegen import jit
from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.runtime import cpython, fastcall, threads
from symgrad.codegen.runtime.calltable import LEAF, Interface, Order
from symgrad.codegen.runtime.program import NativeProgram, Step
from symgrad.codegen.target import Target

import symgrad

F64 = np.dtype(np.float64)

pytestmark = pytest.mark.skipif(not fastcall.supported(), reason="no fast calls here")


def copies(scalar: str, sizes: tuple[int, ...]) -> NativeProgram:
    """Copies each parameter to the result of the same number, twice for good measure."""
    k = Emitter(Target.host())
    with k.function("copies", ("ptr", "i64", "i64")) as (args, _tid, _nth):
        for i, size in enumerate(sizes):
            source = k.load("ptr", k.gep(args, i, "ptr"))
            target = k.load("ptr", k.gep(args, len(sizes) + i, "ptr"))
            with k.loop(0, size) as j:
                k.store(k.load(scalar, k.gep(source, j, scalar)), k.gep(target, j, scalar))
    address = jit.compile_modules({"copies": k.module()}, k.target)
    slots = 2 * len(sizes)
    step = Step("copies", tuple((i, 0) for i in range(slots)), parallel=False)
    return NativeProgram([step], address, slots, release_gil=len(sizes) % 2 == 0)


def bind(dtype: np.dtype[Any], *shapes: tuple[int, ...], unwrap: bool = False) -> Any:
    names = {np.dtype(np.float64): "f64", np.dtype(np.float32): "f32", np.dtype(np.bool_): "bool"}
    names |= {np.dtype(np.int64): "i64", np.dtype(np.int8): "i8", np.dtype(np.float16): "f16"}
    scalar = "i16" if dtype == np.float16 else MEMORY_TYPES[names[dtype]]
    program = copies(scalar, tuple(int(np.prod(shape)) for shape in shapes))
    signature = [(dtype, shape) for shape in shapes]
    return program.bind(Interface(signature, signature, recipe=(Order(LEAF, 0),) if unwrap else ()))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 17), (2, 1, 33), (0,), (4, 0)])
@pytest.mark.parametrize("name", ["float64", "float32", "float16", "int64", "int8", "bool"])
def test_results_have_the_right_type(name: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(name)
    call = bind(dtype, shape, unwrap=True)
    x = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    y = call(x)
    assert type(y) is (dtype.type if shape == () else np.ndarray)
    assert y.dtype == dtype
    assert y.shape == shape
    np.testing.assert_array_equal(y, x)
    if shape:
        assert y.flags.c_contiguous
        assert y.flags.writeable
        assert y.flags.owndata


def test_several_results_come_in_a_tuple() -> None:
    a, b, c = np.arange(3.0), np.array(2.5), np.ones((2, 2))
    results = bind(F64, (3,), (), (2, 2))(a, b, c)
    assert type(results) is tuple
    for result, expected in zip(results, (a, b, c), strict=True):
        np.testing.assert_array_equal(result, expected)
    assert type(bind(F64, (3,))(a)) is tuple


@pytest.mark.parametrize(
    ("shapes", "change", "has_entry"),
    [
        (((3,), (), (2, 2)), {}, True),
        (((5,),), {"recipe": (Order(LEAF, 0),)}, True),
        (((5,), (), (7,)), {"recipe": (Order(LEAF, 1),)}, False),  # not its results as they are
        (((5,),), {"constants": (None,)}, False),
        (((5,), (3,)), {}, False),  # lets go of the interpreter's lock
        (((1,),) * 9, {}, False),  # too many
    ],
)
def test_usual_programs_have_an_entry(
    shapes: tuple[tuple[int, ...], ...], change: dict[str, Any], has_entry: bool
) -> None:
    program = copies("double", tuple(int(np.prod(shape)) for shape in shapes))
    signature = [(F64, shape) for shape in shapes]
    table = program.call_table(Interface(signature, signature, **change), with_entry=True)
    assert table is not None
    assert (table["entry"] != 0) == has_entry


def test_given_results_are_filled() -> None:
    call = bind(F64, (3,), ())
    a, out, scalar_out = np.arange(3.0), np.zeros(3), np.zeros(())
    assert call(a, 7.0, out, scalar_out) == (out, scalar_out)
    np.testing.assert_array_equal(out, a)
    assert scalar_out == 7
    assert call(a, 7.0, out, 1.0) is NotImplemented  # a float is no place for a result
    out.flags.writeable = False
    assert call(a, 7.0, out, scalar_out) is NotImplemented


def test_python_and_numpy_floats_are_scalars() -> None:
    call = bind(F64, (), unwrap=True)
    for value in (0.5, np.float64(0.5), np.array(0.5)):
        assert call(value) == 0.5
    for other in (1, True, np.float32(1), np.array(1), np.array([0.5]), 1j, None, "x"):
        assert call(other) is NotImplemented
    assert bind(np.dtype(np.float32), ())(0.5) is NotImplemented


def test_anything_else_is_left_to_the_general_path() -> None:
    call = bind(F64, (2, 3))
    x = np.arange(6.0).reshape(2, 3)

    class Other(np.ndarray[Any, Any]):
        pass

    unaligned = np.zeros(49, np.uint8)[1:].view(F64).reshape(2, 3)
    for wrong in (
        x.astype(np.float32), x.astype(">f8"), x.reshape(3, 2), x.reshape(6), x[None], x.T,
        np.asfortranarray(x), np.zeros((4, 3))[::2], np.zeros((2, 6))[:, ::2], unaligned,
        x.view(Other), x.tolist(), 1.0, None, x.astype(object),
    ):  # fmt: skip
        assert call(wrong) is NotImplemented
    for count in (0, 3, 4):
        assert call(*[x] * count) is NotImplemented
    np.testing.assert_array_equal(call(x)[0], x)
    readonly = x.copy()
    readonly.flags.writeable = False
    np.testing.assert_array_equal(call(readonly)[0], x)
    np.testing.assert_array_equal(call(np.stack([x, x])[1])[0], x)


def test_nothing_leaks() -> None:
    call, single = bind(F64, (3,), ()), bind(F64, (), unwrap=True)
    x, out, scalar_out = np.arange(3.0), np.zeros(3), np.zeros(())
    watched = (x, out, scalar_out, F64, None, NotImplemented, np.ndarray, np.float64, 0.123)

    def work() -> None:
        for _ in range(500):
            call(x, 1.0)
            call(x, 1.0, out, scalar_out)
            call(x)
            call(x, x)
            single(0.123)
            single(scalar_out)

    work()
    gc.collect()
    before, blocks = [sys.getrefcount(w) for w in watched], sys.getallocatedblocks()
    work()
    gc.collect()
    after = [sys.getrefcount(w) for w in watched]
    assert all(abs(a - b) < 20 for a, b in zip(after, before, strict=True)), (before, after)
    assert abs(sys.getallocatedblocks() - blocks) < 100


def test_a_call_keeps_its_program() -> None:
    program = copies("double", (3,))
    call = program.bind(Interface([(F64, (3,))], [(F64, (3,))]))
    alive = weakref.ref(program)
    del program
    gc.collect()
    np.testing.assert_array_equal(call(np.arange(3.0))[0], np.arange(3.0))
    del call
    gc.collect()
    assert alive() is None


def test_a_stopped_team_is_asked_for() -> None:
    k = Emitter(Target.host())
    with k.function("count", ("ptr", "i64", "i64")) as (args, tid, nth):
        k.store(nth, k.gep(k.load("ptr", k.gep(args, 1, "ptr")), tid, "i64"))
    address = jit.compile_modules({"count": k.module()}, k.target)
    i64 = np.dtype(np.int64)
    program = NativeProgram([Step("count", ((0, 0), (1, 0)))], address, 2, threads=2)
    call = program.bind(Interface([(i64, ())], [(i64, (2,))], recipe=(Order(LEAF, 0),)))
    before = threads.get_num_threads()
    threads.set_num_threads(2)
    try:
        threads.process_team().stop()
        x, out = np.array(0), np.zeros(2, np.int64)
        assert call(x) is NotImplemented
        program.run([x.ctypes.data, out.ctypes.data])
        assert call(x).tolist() == out.tolist() == [2, 2]
    finally:
        threads.set_num_threads(before)


def test_python_threads_call_at_once() -> None:
    call = bind(F64, (50,), (50,))
    failures = []

    def work(seed: int) -> None:
        for i in range(2000):
            x, y = np.full(50, float(i + seed)), np.full(50, float(i - seed))
            a, b = call(x, y)
            if not ((a == x).all() and (b == y).all()):
                failures.append((seed, i))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


@pytest.mark.parametrize("fast", [True, False])
def test_slots_are_arrays_or_addresses(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastcall, "supported", lambda: fast)
    program = copies("double", (3,))
    x, y = np.arange(3.0), np.zeros(3)
    subclass = x.view(np.recarray)
    for slots in ([x, y], [x.ctypes.data, y], [x, y.ctypes.data], [subclass, y]):
        y[:] = 0
        program.run(slots)
        np.testing.assert_array_equal(y, x)
    y[:] = 0
    program.run_timed([x, y])
    np.testing.assert_array_equal(y, x)
    with pytest.raises(TypeError):
        program.run([1.5, y])  # type: ignore[list-item]


def test_the_signature_must_fit_the_program() -> None:
    with pytest.raises(ValueError, match="has 2 slots, got 1 parameters and 0 results"):
        copies("double", (3,)).bind(Interface([(F64, (3,))], []))


def test_without_fast_calls_all_goes_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastcall, "supported", lambda: False)
    program = copies("double", (3,))
    x, y = np.arange(3.0), np.zeros(3)
    program.run([x.ctypes.data, y.ctypes.data])
    np.testing.assert_array_equal(y, x)
    assert program.bind(Interface([(F64, (3,))], [(F64, (3,))]))(x) is NotImplemented


def test_an_unknown_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"DATA": 24, "DIMS": 40, "DESCR": 48, "FLAGS": 72, "SCALAR": 24, "COUNT": 24}
    try:
        for name, offset in wrong.items():
            cpython.supported.cache_clear()
            with monkeypatch.context() as patch:
                patch.setattr(cpython, name, offset)
                assert not cpython.supported(), name
    finally:
        cpython.supported.cache_clear()
    assert cpython.supported()


def test_the_native_code_is_the_same_in_every_process() -> None:
    """No address of this process is in it: the object cache serves all."""
    code = (
        "from symgrad.codegen.emitter import Emitter\n"
        "from symgrad.codegen.runtime import fastcall\n"
        "from symgrad.codegen.target import Target\n"
        "k = Emitter(Target.host()); fastcall._emit_module(k); print(k.module())"
    )
    root = Path(symgrad.__file__).parent.parent
    run = [sys.executable, "-c", code]
    texts = [subprocess.check_output(run, cwd=root, text=True) for _ in range(2)]
    assert texts[0] == texts[1]
