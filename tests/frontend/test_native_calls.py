"""Calls of compiled functions: answered by native code where they fit, right in any case."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import tracemalloc
import types
import weakref

import numpy as np
import pytest
from symgrad.codegen.runtime import fastcall, vectorcall
from symgrad.codegen.runtime.threads import get_num_threads
from symgrad.ir.errors import DTypeError, ShapeError, UsageError

import symgrad as sg
from symgrad import api_function

native_only = pytest.mark.skipif(not fastcall.supported(), reason="no fast calls here")


@pytest.fixture
def general(monkeypatch):
    """A list that gets longer with every call that native code passes on."""
    calls: list[None] = []

    def current_trace():
        calls.append(None)
        return original()

    original = api_function.current_trace
    monkeypatch.setattr(api_function, "current_trace", current_trace)
    return calls


def is_native(calls, function, *args, **kwargs) -> bool:
    """Whether native code answers a call, which must not differ from the general answer."""
    with vectorcall.pause():
        expected = function(*args, **kwargs)
    before = len(calls)
    found = function(*args, **kwargs)
    same(found, expected)
    return len(calls) == before


def same(found, expected) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            same(f, e)
    else:
        np.testing.assert_array_equal(found, expected)
        assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


X = np.linspace(-1.2, 1.2, 10)


# -- what is answered natively -----------------------------------------------------------------


@native_only
def test_a_gradient_is_answered_natively(general) -> None:
    f = sg.value_and_grad(rosenbrock)
    f(X)
    assert is_native(general, f, X)
    assert is_native(general, f, X + 1)
    readonly = X.copy()
    readonly.flags.writeable = False
    assert is_native(general, f, readonly)
    assert is_native(general, f, np.stack([X, X])[1])


@native_only
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "bool"])
def test_several_signatures_are_answered_in_turn(general, dtype) -> None:
    f = sg.jit(lambda x, y: (x, np.where(x, y, y)))
    calls = [(np.ones(n, dtype), np.ones(n, dtype)) for n in (1, 3, 5)]
    for call in calls:
        f(*call)
    for call in calls:
        assert is_native(general, f, *call)
    before = len(general)
    f(np.ones(7, dtype), np.ones(7, dtype))  # compiled here
    assert len(general) == before + 1


@native_only
def test_scalars_keep_their_meaning(general) -> None:
    """A Python float does not widen an f32 array, a NumPy scalar of f64 does."""
    f = sg.jit(lambda x, a: x * a)
    x = np.ones(3, np.float32)
    for a, dtype in ((2.5, np.float32), (np.float64(2.5), np.float64), (np.array(2.5), np.float64)):
        assert f(x, a).dtype == dtype
    for a, dtype in ((2.5, np.float32), (np.float64(2.5), np.float64), (np.array(2.5), np.float64)):
        assert f(x, a).dtype == dtype
        assert is_native(general, f, x, a)
    assert f(x, 2).dtype == np.float32
    assert is_native(general, f, x, 2)
    assert f(x, np.float32(2.5)).dtype == np.float32


@native_only
@pytest.mark.parametrize("name", ["f2", "f4", "f8", "i1", "u2", "i8", "bool"])
def test_0d_results_are_numpy_scalars(general, name) -> None:
    f = sg.jit(lambda x: x + x)
    x = np.ones((), name)
    f(x)
    for given in (x, x[()]):
        if name != "bool" or given is x:  # a bool that is no array takes the general road
            assert is_native(general, f, given)
        assert type(f(given)) is np.dtype(name).type
        assert f(given) == x + x
    assert np.bool_(True) is np.True_


@native_only
def test_nested_tuples_and_constants_come_out_alike(general) -> None:
    f = sg.jit(lambda x, y: (x + 1, ((), (y, 7, None)), ("text", (x * y,))))
    f(1.5, X)
    assert is_native(general, f, 1.5, X)
    g = sg.value_and_grad(lambda x, y: (x * y).sum(), argnums=(0, 1))
    g(X, X)
    assert is_native(general, g, X, X)
    assert is_native(general, sg.jit(lambda: (3, "text")))


# -- what is not -------------------------------------------------------------------------------


class Sub(np.ndarray):
    pass


@pytest.mark.parametrize(
    "x",
    [
        X[::-1], np.repeat(X, 2)[::2], X.astype(np.float32), X.astype(">f8"), X.astype(int),
        X.view(Sub), X[:7], X[:4].reshape(2, 2)[0],
        np.concatenate([[0], X.view(np.uint8)]).astype(np.uint8)[1:].view(np.float64),
    ],
    ids=["reversed", "strided", "f32", "big-endian", "int", "subclass", "shorter", "row", "odd"],
)  # fmt: skip
def test_other_arrays_are_converted(x) -> None:
    f = sg.jit(lambda x: x * 2 + 1)
    f(X)
    np.testing.assert_array_equal(f(x), np.asarray(x) * 2 + 1)
    np.testing.assert_array_equal(f(X), X * 2 + 1)


def test_keywords_containers_and_mistakes() -> None:
    f = sg.jit(lambda x, y=2.0: x * y)
    f(X, 3.0)
    np.testing.assert_array_equal(f(X, 3.0), X * 3)
    np.testing.assert_array_equal(f(X, y=4.0), X * 4)
    np.testing.assert_array_equal(f(x=X, y=4.0), X * 4)
    np.testing.assert_array_equal(f(X), X * 2)
    for wrong in ((), (X, X, X)):
        with pytest.raises(TypeError):
            f(*wrong)
    with pytest.raises(TypeError):
        f(X, z=1)
    with pytest.raises(DTypeError, match="cannot be traced"):
        f("text")
    g = sg.grad(lambda p: (p["w"] * p["w"]).sum())
    for _ in range(2):
        np.testing.assert_array_equal(g({"w": X})["w"], 2 * X)


def test_static_and_donated_arguments() -> None:
    f = sg.jit(lambda x, n: x**n, static_argnums=1)
    for n in (2, 3, 2):
        np.testing.assert_allclose(f(X, n), X**n)
    g = sg.jit(lambda x: x + 1, donate_argnums=0)
    for _ in range(3):
        np.testing.assert_array_equal(g(X.copy()), X + 1)


# -- surroundings ------------------------------------------------------------------------------

SCALE = 2.0
WEIGHTS = np.arange(10.0)


def uses_globals(x):
    return (x * WEIGHTS * SCALE).sum()


@native_only
def test_globals_are_read_at_every_call(general, monkeypatch) -> None:
    f = sg.grad(uses_globals)
    f(X)
    assert is_native(general, f, X)
    np.testing.assert_array_equal(f(X), WEIGHTS * 2)
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "WEIGHTS", WEIGHTS + 1)  # rebound
    assert is_native(general, f, X)
    np.testing.assert_array_equal(f(X), WEIGHTS * 2)
    WEIGHTS[:] = 5  # changed in place
    np.testing.assert_array_equal(f(X), np.full(10, 10.0))
    monkeypatch.setattr(module, "SCALE", 3.0)
    np.testing.assert_array_equal(f(X), np.full(10, 15.0))
    assert is_native(general, f, X)
    monkeypatch.setattr(module, "SCALE", 2.0)  # the first program again, or an equal one
    np.testing.assert_array_equal(f(X), np.full(10, 10.0))
    for other in (np.full((2, 10), 4.0), np.full(10, 4, np.float32), np.full(20, 4.0)[::2]):
        monkeypatch.setattr(module, "WEIGHTS", other)
        np.testing.assert_array_equal(f(X), np.full(10, 8.0 * (other.ndim)))
    monkeypatch.delattr(module, "WEIGHTS")
    with pytest.raises(NameError, match="WEIGHTS"):
        f(X)


@native_only
def test_cells_items_and_attributes_are_read_at_every_call(general) -> None:
    def make():
        w, table = np.ones(10), {"v": [np.ones(10)]}
        owner = types.SimpleNamespace(u=np.ones(10), power=2)

        def inner(x):
            return (x**owner.power * w * table["v"][0] * owner.u).sum()

        def change(a, b, c, p):
            nonlocal w
            w, table["v"][0], owner.u, owner.power = a, b, c, p

        return sg.grad(inner), change

    f, change = make()
    np.testing.assert_allclose(f(X), 2 * X)
    assert is_native(general, f, X)
    change(X, X, X, 2)
    assert is_native(general, f, X)
    np.testing.assert_allclose(f(X), 2 * X**4)
    change(X, X, X, 3)
    np.testing.assert_allclose(f(X), 3 * X**5)


def test_arrays_that_shaped_the_trace_are_compared() -> None:
    mask = np.array([True, False, True])
    x = np.arange(3.0)
    f = sg.jit(lambda x: x[mask])
    f(x)
    np.testing.assert_array_equal(f(x), [0, 2])
    mask[:] = [False, True, True]
    np.testing.assert_array_equal(f(x), [1, 2])


def test_methods_see_their_instance(general) -> None:
    class Model:
        def __init__(self, w):
            self.w = w

        @sg.jit
        def __call__(self, x):
            return x * self.w

        @sg.jit
        def scaled(self, x, k):
            return x * self.w * k

    first, second = Model(np.full(10, 2.0)), Model(np.full(10, 3.0))
    for _ in range(2):
        np.testing.assert_array_equal(first.scaled(X, 2.0), X * 2 * 2)
        np.testing.assert_array_equal(second.scaled(X, 2.0), X * 3 * 2)
    first.w = np.full(10, 5.0)
    np.testing.assert_array_equal(first.scaled(X, 2.0), X * 5 * 2)


def test_calls_within_a_trace_are_traced() -> None:
    inner = sg.jit(lambda x: x * SCALE)
    inner(X), inner(1.5)
    np.testing.assert_allclose(sg.grad(lambda x: (inner(x) * inner(X)).sum())(X), X * SCALE**2)
    seen = []
    spying = sg.jit(lambda x: seen.append(x) or x)
    spying(1.5)
    outer = sg.jit(lambda x: x + spying(1.5))
    count = len(seen)
    assert outer(1.0) == 2.5
    assert seen[count:] == [1.5]  # its body ran on the number itself
    assert not vectorcall.paused


def test_calls_under_a_failing_trace() -> None:
    f = sg.jit(lambda x: x + 1)
    f(X)

    def fails(x):
        f(X)
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        sg.jit(fails)(X)
    assert not vectorcall.paused
    np.testing.assert_array_equal(f(X), X + 1)


def test_numbers_of_threads_and_precisions_start_anew() -> None:
    f = sg.jit(lambda x: x + 1)
    f(X)
    before = get_num_threads()
    try:
        for threads in (before + 1, before):
            sg.set_num_threads(threads)
            np.testing.assert_array_equal(f(X), X + 1)
    finally:
        sg.set_num_threads(before)


# -- out ---------------------------------------------------------------------------------------


@native_only
def test_results_go_where_they_are_told(general) -> None:
    f, g = sg.value_and_grad(rosenbrock), sg.grad(rosenbrock)
    value, slope = f(X)
    given, scalar = np.zeros(10), np.zeros(())
    g(X)
    before = len(general)
    assert g(X, out=given) is given
    np.testing.assert_array_equal(given, slope)
    places = (scalar, np.zeros(10))
    assert f(X, out=places) is places
    np.testing.assert_array_equal(places[1], slope)
    assert scalar == value
    found = f(X, out=(None, given))
    assert type(found[0]) is np.float64
    assert found[0] == value
    assert found[1] is given
    fresh = f(X, out=None)
    assert fresh[1] is not given
    assert len(general) == before + 1  # `out=None` is left to the general road


def test_out_in_any_structure() -> None:
    f = sg.jit(lambda x: {"a": (x + 1, x.sum()), "b": [x * 2, 3]})
    a, b, s = np.zeros(10), np.zeros(10), np.zeros(())
    for _ in range(2):
        found = f(X, out={"a": (a, s), "b": [b, None]})
        assert found["a"][0] is a
        assert found["a"][1] is s
        assert found["b"][0] is b
        assert found["b"][1] == 3
        np.testing.assert_array_equal(a, X + 1)
        np.testing.assert_array_equal(b, X * 2)
        assert s == pytest.approx(X.sum())
    g = sg.grad(lambda x, y: (x * x * y).sum(), argnums=(0, 1))
    found = g(X, X, out=(None, b))
    assert found[1] is b
    np.testing.assert_allclose(b, X * X)
    np.testing.assert_allclose(found[0], 2 * X * X)


@pytest.mark.parametrize("backend", ["native", "interp"])
def test_out_may_be_anywhere_in_memory(backend, monkeypatch) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp" if backend == "interp" else "")
    f = sg.jit(lambda x: (np.cumsum(x), x[::-1] * 2))
    expected = np.cumsum(X), X[::-1] * 2
    for _ in range(2):
        strided = np.zeros(20)[::2]
        backwards = np.zeros(10)[::-1]
        f(X, out=(strided, backwards))
        same((np.array(strided), np.array(backwards)), expected)
        x = X.copy()
        f(x, out=(x, None))  # over the argument
        np.testing.assert_array_equal(x, expected[0])
        buffer = np.zeros(15)
        buffer[3:13] = X
        f(buffer[3:13], out=(None, buffer[:10]))  # over a part of it
        np.testing.assert_array_equal(buffer[:10], expected[1])
    w = np.ones(10)
    g = sg.jit(lambda x: np.cumsum(x) + w[::-1])
    for _ in range(2):
        w[:] = X
        g(X, out=w)  # over what it captured
        np.testing.assert_array_equal(w, np.cumsum(X) + X[::-1])


def test_two_results_may_not_share_memory() -> None:
    f = sg.jit(lambda x: (x + 1, x + 2))
    memory = np.zeros(20)
    for _ in range(3):
        for out in ((memory[:10], memory[:10]), (memory[:10], memory[5:15])):
            with pytest.raises(UsageError, match=r"result 1 is .* overlaps"):
                f(X, out=out)
        assert not memory.any()
    f(X, out=(memory[::2], memory[1::2]))  # side by side
    np.testing.assert_array_equal(memory.reshape(10, 2), np.stack([X + 1, X + 2], 1))


def test_donated_arrays_that_are_other_arguments_too() -> None:
    def f(x, y, z):
        return x * 2 + 1, m @ y, z * 3 + y

    rng = np.random.default_rng(0)
    m = rng.normal(size=(64, 64))
    for donated in ((0,), (0, 1), (0, 1, 2), (2,)):
        compiled = sg.jit(f, donate_argnums=donated)
        for starts in ((0, 0, 0), (0, 8, 3), (20, 0, 10), (0, 64, 64), (0, 64, 128)):
            memory = rng.normal(size=(192, 64))
            given = [memory[s : s + 64] for s in starts]
            expected = f(*(x.copy() for x in given))
            for found, e in zip(compiled(*given), expected, strict=True):
                np.testing.assert_allclose(found, e, 1e-10, 1e-10)


def test_arrays_that_compute_otherwise_are_refused() -> None:
    f = sg.jit(lambda x: x * x)
    f(np.eye(2))  # a program for this signature there is
    masked, matrix = np.ma.array(np.eye(2), mask=np.eye(2)), np.eye(2).view(np.matrix)
    for x, remedy in ((masked, "filled"), (matrix, "use @")):
        with pytest.raises(DTypeError, match=rf"argument x .*{remedy}"):
            f(x)
        with pytest.raises(DTypeError, match=remedy):
            sg.jit(lambda y, x=x: y + x)(np.eye(2))


def test_out_of_large_results() -> None:
    f = sg.jit(lambda x: x + 1)
    x, out = np.arange(300_000.0), np.zeros(300_000)
    for _ in range(2):
        assert f(x, out=out) is out
        np.testing.assert_array_equal(out, x + 1)
        out[:] = 0
    donated = sg.jit(lambda x: x + 1, donate_argnums=0)
    assert donated(x.copy(), out=out) is out
    np.testing.assert_array_equal(out, x + 1)


def test_out_that_does_not_fit_is_refused() -> None:
    f = sg.jit(lambda x: (x + 1, 7))
    readonly = np.zeros(10)
    readonly.flags.writeable = False
    for _ in range(2):
        with pytest.raises(DTypeError, match=r"result 0 is f64\[10\], but out has .* float32"):
            f(X, out=(np.zeros(10, np.float32), None))
        with pytest.raises(ShapeError, match=r"result 0 is f64\[10\], but out has .*\(9,\)"):
            f(X, out=(np.zeros(9), None))
        with pytest.raises(UsageError, match="read-only"):
            f(X, out=(readonly, None))
        with pytest.raises(UsageError, match=r"structure of the result, \(\*, \*\)"):
            f(X, out=np.zeros(10))
        with pytest.raises(UsageError, match="always 7"):
            f(X, out=(None, np.zeros(())))
        with pytest.raises(UsageError, match="arrays or None, got a list"):
            f(X, out=([1.0], None))
        assert f(X, out=(None, None))[1] == 7
    with pytest.raises(UsageError, match="use the result itself"):
        sg.jit(lambda x: f(x, out=(np.zeros(10), None)))(X)


def test_a_parameter_of_ones_own_called_out() -> None:
    f = sg.jit(lambda x, out: x + out)
    for _ in range(2):
        np.testing.assert_array_equal(f(X, out=X), X + X)
        np.testing.assert_array_equal(f(X, X), X + X)
    g = sg.jit(lambda x, **more: x + more["out"])
    for _ in range(2):
        np.testing.assert_array_equal(g(X, out=X), X + X)


def test_out_is_for_arrays_only() -> None:
    f = sg.jit(lambda x: x + 1)
    with pytest.raises(UsageError, match="results are tensors"):
        f(sg.ones(3), out=np.zeros(3, np.float32))


# -- references, threads, interpreters ---------------------------------------------------------


@native_only
def test_references_are_exact(general) -> None:
    w = np.ones(10)
    f, g = sg.value_and_grad(lambda x: (x * w).sum()), sg.jit(lambda x: x * 2)
    out, scalar, name = np.zeros(10), np.zeros(()), 0.123456
    places = (scalar, out)
    f(X), g(name)
    watched = (w, X, out, scalar, places, name, X.dtype, np.ndarray, np.float64, f, g)

    def references(work, count: int) -> list[int]:
        for _ in range(count):
            work()
        gc.collect()
        return [sys.getrefcount(x) for x in watched]

    def native() -> None:
        f(X), f(X, out=places), f(X, out=(None, out)), g(name), g(name, out=scalar)

    def others() -> None:
        f(X[::-1]), f(X, out=(None, out[::-1])), g(1), g(X[:5]), g(out, out=out)

    before, calls, nones = references(native, 1), len(general), sys.getrefcount(None)
    assert references(native, 20_000) == before
    assert abs(sys.getrefcount(None) - nones) < 20
    assert len(general) == calls
    before = references(others, 2)  # compiles, and tells native code of it
    assert references(others, 100) == before


@native_only
def test_memory_stays_flat() -> None:
    f = sg.value_and_grad(rosenbrock)
    out = np.zeros(10)

    def work() -> None:
        for _ in range(5000):
            f(X)
            f(X, out=(None, out))
            f(X.astype(np.float32))

    work()
    tracemalloc.start()
    try:
        work()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        work()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_functions_die_with_their_programs() -> None:
    def make():
        w = np.ones(10)
        f = sg.jit(lambda x: x * w)
        f.itself = f
        f(X)
        return weakref.ref(f), weakref.ref(w)

    alive, captured = make()
    gc.collect()
    assert alive() is None
    assert captured() is None


def test_a_dying_function_can_still_be_called() -> None:
    """When a cycle is cleared, what native code needs may go first."""
    results = []

    class Calls:
        def __del__(self):
            results.append(self.f(X))

    f = sg.jit(lambda x: x + 1)
    f(X)
    f.last = Calls()
    f.last.f = f
    del f
    gc.collect()
    np.testing.assert_array_equal(results, [X + 1])
    g = sg.jit(lambda x: x + 2)
    g(X)
    vectorcall.retire(g)
    np.testing.assert_array_equal(g(X), X + 2)


def test_threads_call_and_compile_and_forget() -> None:
    scale = types.SimpleNamespace(k=np.ones(10))
    f = sg.value_and_grad(lambda x: (x * x * scale.k).sum())
    f(X)
    failures: list[object] = []

    def work(seed: int) -> None:
        x, out = X + seed, np.zeros(10)
        for i in range(1500):
            found = f(x, out=(None, out)) if i % 2 else f(x)
            if not np.allclose(found[1], 2 * x):
                failures.append(found)

    def disturb() -> None:
        for i in range(15):
            f(X[: 10 - i % 3] if scale.k.shape == () else X)
            f.forget()
            scale.k = np.ones(10)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    threads.append(threading.Thread(target=disturb))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []


def test_functions_are_ordinary_objects() -> None:
    f = sg.jit(rosenbrock)
    assert isinstance(f, api_function.Function)
    assert f.__name__ == "rosenbrock"
    assert type(f).__name__ == "Function"
    assert type(f).__doc__ == api_function.Function.__doc__
    assert callable(f)
    assert "rosenbrock" in repr(f)
    f(X)
    again = copy.copy(f)
    assert again(X) == f(X)
    assert again is not f
    f.attribute = 1
    assert f.attribute == 1


PLAIN = """
import sys, sysconfig
{setup}
import numpy as np
import symgrad as sg
from symgrad.api_function import Function
f = sg.value_and_grad(lambda x: (x * x).sum())
x, out = np.arange(4.0), np.zeros(4)
for _ in range(2):
    value, slope = f(x)
    assert value == 14 and slope.tolist() == [0, 2, 4, 6]
    found = f(x, out=(None, out))
    assert found[1] is out and out.tolist() == slope.tolist()
print({expected})
"""
WITHOUT = {
    "free-threaded": "sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1",
    "other interpreter": "sys.implementation.name = 'pypy'",
    "debug build": "sys.gettotalrefcount = int",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_interpreters_without_native_calls(name) -> None:
    code = PLAIN.format(setup=WITHOUT[name], expected="Function.__mro__.__len__()")
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, text=True).strip() == "2"  # Function and object


def test_a_layout_that_differs_is_noticed(monkeypatch) -> None:
    class Plain:
        def __call__(self):
            return "general"

    assert vectorcall.answered_natively(Plain)()() == "general"
    for name, wrong in (("ENTRY", 8), ("_T_OBJECT_EX", 6)):
        with monkeypatch.context() as patch:
            patch.setattr(vectorcall, name, wrong)
            cls = vectorcall.answered_natively(Plain)
        assert cls is Plain, name
        assert cls()() == "general"
