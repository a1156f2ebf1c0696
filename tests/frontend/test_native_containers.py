"""Arguments by name and in containers are found by native code, results put into such by it."""

from __future__ import annotations

import collections
import gc
import sys
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest
from symgrad.codegen.runtime import fastcall, vectorcall
from symgrad.ir.errors import DTypeError, UsageError

import symgrad as sg
from symgrad import api_function

X = np.linspace(-1, 1, 10)
Y = np.linspace(0, 3, 10)


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that gets longer with every call that native code passes on."""
    calls: list[None] = []

    def current_trace() -> Any:
        calls.append(None)
        return original()

    original = api_function.current_trace
    monkeypatch.setattr(api_function, "current_trace", current_trace)
    return calls


def alike(found: Any, expected: Any) -> None:
    """The same containers, in dicts in the same order, of the same arrays."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            alike(f, e)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def is_native(calls: list[None], function: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether native code answers a call, which must not differ from the general answer."""
    with vectorcall.pause():
        expected = function(*args, **kwargs)
    before = len(calls)
    alike(function(*args, **kwargs), expected)
    return not fastcall.supported() or len(calls) == before


def product(p: Any, x: Any) -> Any:
    """Uses every leaf of ``p``."""
    total = 0.0
    for i, leaf in enumerate(sg.tree.flatten(p)[0]):
        total = total + ((i + 1) * leaf * x).sum()
    return total


ARGUMENTS = {
    "dict": {"w": X, "b": Y, "a": 2.5},
    "tuple": (X, Y),
    "list": [X, Y, 1.5],
    "nested": {"layers": [{"w": X, "b": (Y, None)}, {"w": Y, "b": (X, None)}], "scale": (3.0, 4)},
    "empty": {"x": X, "nothing": (), "none": None, "more": [{}, []]},
    "numbers": {3: X, 1: Y},
    "one": (X,),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_containers_are_looked_into(general: list[None], name: str) -> None:
    p = ARGUMENTS[name]
    f = sg.jit(product)
    f(p, X)
    assert is_native(general, f, p, X)
    changed = sg.tree.map_leaves(lambda x: x + 1 if isinstance(x, np.ndarray) else x, p)
    assert is_native(general, f, changed, Y)
    assert f(changed, Y) == pytest.approx(product(changed, Y), rel=1e-13)
    g = sg.value_and_grad(lambda x, p: product(p, x))
    g(X, p)
    assert is_native(general, g, X, p)


def test_results_come_in_containers(general: list[None]) -> None:
    f = sg.jit(lambda x: {"b": x, "a": [x + 1, (x * 2, {})], "n": None, 3: [], "t": "text"})
    f(X)
    assert is_native(general, f, X)
    assert list(f(X)) == ["b", "a", "n", 3, "t"]
    g = sg.value_and_grad(lambda p: (p["w"] * p["b"]).sum())
    p = {"w": X, "b": Y}  # the keys not in their order
    g(p)
    assert is_native(general, g, p)
    assert f(X)["a"] is not f(X)["a"]


def test_names_come_in_any_order(general: list[None]) -> None:
    f = sg.jit(lambda x, y, *, a=1.0, b=2.0: x * a + y * b)
    expected = X * 3.0 + Y * 4.0
    for call in (
        lambda: f(X, Y, a=3.0, b=4.0), lambda: f(X, Y, b=4.0, a=3.0),
        lambda: f(X, b=4.0, y=Y, a=3.0), lambda: f(b=4.0, a=3.0, y=Y, x=X),
    ):  # fmt: skip
        alike(call(), expected)
    before = len(general)
    for _ in range(3):
        alike(f(X, Y, b=4.0, a=3.0), expected)
        alike(f(X, b=4.0, y=Y, a=3.0), expected)
        alike(f(y=Y, a=3.0, x=X, b=4.0), expected)
    assert len(general) == before or not fastcall.supported()
    alike(f(X, Y, a=3.0), X * 3.0 + Y * 2.0)
    with pytest.raises(TypeError):
        f(X, Y, a=3.0, c=4.0)
    alike(f(X, Y, **{"".join(["a"]): 3.0, "".join(["b"]): 4.0}), expected)


def test_out_beside_containers_and_names(general: list[None]) -> None:
    f = sg.jit(lambda p, k=1.0: (p["a"] + k, p["b"] * k))
    p, out = {"a": X, "b": Y}, (np.empty(10), np.empty(10))
    f(p, k=2.0)
    before = len(general)
    for call in (lambda: f(p, k=2.0, out=out), lambda: f(p, out=out, k=2.0)):
        assert call() is out
        alike(out, (X + 2, Y * 2))
    assert len(general) == before or not fastcall.supported()
    f(p, k=2.0, out=(X, out[1]))  # not apart from what is read: computed first
    alike(f(p, k=2.0, out=(None, out[1])), (X + 2, Y * 2))
    g = sg.jit(lambda x: [x, x + 1])
    g(X)
    with pytest.raises(UsageError, match="structure"):
        g(X, out=out)
    alike(g(X, out=list(out)), [X, X + 1])
    h = sg.jit(lambda x: {"a": x, "b": x + 1})
    h(X)
    for wrong in (out, list(out), out[0]):
        with pytest.raises(UsageError, match="structure"):
            h(X, out=wrong)
    alike(h(X, out={"a": out[1], "b": out[0]}), {"a": X, "b": X + 1})


class Pair(NamedTuple):
    first: Any
    second: Any


class Dict(dict):  # type: ignore[type-arg]
    pass


def test_other_containers_are_other_programs_or_errors() -> None:
    f = sg.jit(product)
    for p in ({"a": X, "b": Y}, [X, Y], (X, Y)):
        f(p, X)
    expected = product((X, Y), X)
    for p in (
        (X, Y), [X, Y], Pair(X, Y), {"a": X, "b": Y}, {"b": Y, "a": X},
        collections.OrderedDict(a=X, b=Y), collections.defaultdict(list, a=X, b=Y),
    ):  # fmt: skip
        assert f(p, X) == pytest.approx(expected)
    for p in ([X, Y, Y], (X, Y, Y), {"a": X, "b": Y, "c": Y}):
        assert f(p, X) == pytest.approx(product((X, Y, Y), X))
    for p in ([X], (X,), {"a": X}, {"c": X}):
        assert f(p, X) == pytest.approx(product((X,), X))
    for p in ([X, [Y]], (X, (Y,)), {"a": X, "b": {"c": Y}}):
        assert f(p, X) == pytest.approx(expected)
    for p in ((X, Y.astype("f4")), (X[::-1], Y), [X, 2.0], (X[:1], Y)):
        assert f(p, X) == pytest.approx(product(p, X))
    g = sg.jit(lambda p: p["a"] * 2)
    g({"a": X})
    for wrong in ({"b": X}, {}, None, X, (X,)):
        with pytest.raises(Exception):  # noqa: B017, PT011 (it is the function's own)
            g(wrong)
    np.testing.assert_array_equal(g({"a": X}), X * 2)


def test_whole_numbers(general: list[None]) -> None:
    f = sg.jit(lambda x, n: x * n)
    for n in (3, -7, 0, 2**40, True, np.int64(5), np.int32(5), 2.0):
        expected = X * n
        alike(f(X, n), expected)
        alike(f(X, n), expected)
    assert is_native(general, f, X, 2**62)
    for huge in (2**63, -(2**70)):
        with pytest.raises((UsageError, DTypeError)):  # as without native code
            f(X, huge)
    assert is_native(general, f, X, 3)
    g = sg.jit(lambda n, m: n // m)
    assert g(7, 2) == 3
    assert is_native(general, g, -7, 2)


def test_containers_may_change_between_calls() -> None:
    f = sg.jit(product)
    p: Any = {"a": X, "b": [Y]}
    for _ in range(2):
        f(p, X)
    p["a"] = X + 1
    assert f(p, X) == pytest.approx(product(p, X))
    p["b"][0] = Y * 2
    assert f(p, X) == pytest.approx(product(p, X))
    p["b"].append(X)
    assert f(p, X) == pytest.approx(product(p, X))
    del p["b"][:]
    assert f(p, X) == pytest.approx(product(p, X))
    p["c"] = p.pop("a")
    assert f(p, X) == pytest.approx(product(p, X))


def test_nothing_is_kept_and_nothing_let_go_of_twice() -> None:
    f = sg.jit(lambda p, *, k: {"s": [p["a"] * k, (p["b"][0] + k,)], "t": None})
    x, y, k = X.copy(), Y.copy(), np.array(2.0)
    p = {"a": x, "b": [y]}
    wrong: tuple[Any, ...] = ({"a": x, "c": [y]}, {"a": x, "b": {0.5: y}}, {"a": x, "b": []})
    things = (x, y, k, p, p["b"], *wrong)
    f(p, k=k)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(300):
        found = f(p, k=k)
        counts = [sys.getrefcount(found["s"]), sys.getrefcount(found["s"][0])]
        assert counts == [2, 2]
        for q in wrong:
            with pytest.raises(Exception):  # noqa: B017, PT011
                f(q, k=k)
    del found, q
    gc.collect()
    assert [sys.getrefcount(thing) for thing in things] == before


def test_a_key_that_raises_is_an_error_like_any_other() -> None:
    class Key(str):
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = str.__hash__

    f = sg.jit(lambda p: p["a"] * 2)
    f({"a": X})
    with pytest.raises(ZeroDivisionError):
        f({Key("a"): X})
    np.testing.assert_array_equal(f({"a": X}), X * 2)


def test_arrays_outlive_a_container_that_is_emptied_meanwhile() -> None:
    f = sg.jit(lambda p: np.sin(np.exp(-p["a"])).sum())
    size = 1 << 20
    f({"a": np.zeros(size)})
    for _ in range(5):
        p = {"a": np.full(size, 0.5)}
        found: list[Any] = []
        thread = threading.Thread(target=lambda p=p, found=found: found.append(f(p)))
        thread.start()
        while thread.is_alive() and p:
            p.clear()
        scribbled = [np.zeros(size) for _ in range(4)]
        thread.join()
        if found:  # else the thread came too late, and f complained
            assert found[0] == pytest.approx(size * np.sin(np.exp(-0.5)))
        del scribbled
