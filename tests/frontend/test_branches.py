"""``cond`` and ``while_loop`` against Python's own ``if`` and ``while``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import DifferentiationError, DTypeError, ShapeError, UsageError
from symgrad.ir.opdef import REGISTRY

import symgrad as sg
from symgrad import ir, tree
from symgrad.tracing import emit

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def python_cond(p: Any, f: Any, g: Any, *xs: Any) -> Any:
    return f(*xs) if p else g(*xs)


def python_while(c: Any, b: Any, x: Any) -> Any:
    while c(x):
        x = b(x)
    return x


def assert_alike(found: Any, expected: Any, rtol: float) -> None:
    (a, spec), (b, other) = tree.flatten(found), tree.flatten(expected)
    assert spec == other
    for x, y in zip(a, b, strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_allclose(x, y, rtol, rtol)


def branching(m: Array, choose: Any) -> Callable[..., Any]:
    """Products and sums on one side, elementwise work on the other; ``m`` is captured."""

    def yes(x: Array, parts: Any) -> Any:
        return {"a": np.tanh(x @ m) * parts[0], "b": (x.sum(), parts[1] + 1)}

    def no(x: Array, parts: Any) -> Any:
        return {"a": np.exp(-x) * m[0], "b": (parts[0] * 1, parts[1])}

    return lambda p, x, parts: choose(p, yes, no, x, parts)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 1e-5), ("f8", 1e-13)])
@pytest.mark.parametrize("n", [1, 5, 300])
def test_values(threads: int, dtype: str, rtol: float, n: int) -> None:
    m, x = (RNG.normal(size=s).astype(dtype) for s in ((n, n), n))
    scale, count = np.dtype(dtype).type(0.5), np.int64(3)
    run = sg.jit(branching(m, sg.cond))
    before = sg.get_num_threads()
    sg.set_num_threads(threads)
    try:
        for p in (True, False):
            expected = branching(m, python_cond)(p, x, (scale, count))
            assert_alike(run(np.bool_(p), x, (scale, count)), expected, rtol)
            assert_alike(branching(m, sg.cond)(p, x, (scale, count)), expected, rtol)
    finally:
        sg.set_num_threads(before)


def loss(choose: Any) -> Callable[..., Any]:
    def run(p: Any, m: Array, x: Array, s: Any) -> Any:
        found = branching(m, choose)(p, x, (s, 1))
        return (found["a"] ** 2).sum() + found["b"][0] * s

    return run


@pytest.mark.parametrize("p", [True, False])
def test_gradients(p: bool) -> None:
    m, x = RNG.normal(size=(4, 4)), RNG.normal(size=4)
    found = sg.value_and_grad(loss(sg.cond), (1, 2, 3))(np.bool_(p), m, x, 0.7)
    expected = sg.value_and_grad(
        lambda m, x, s: loss(python_cond)(p, m, x, s), (0, 1, 2)
    )(m, x, 0.7)  # fmt: skip
    assert_alike(found, expected, 1e-12)
    sign = 1.0 if p else -1.0
    chosen = lambda m, x, s: loss(sg.cond)(s * sign > 0, m, x, s)  # noqa: E731
    sg.check_grads(chosen, (m, x, 0.7), order=2)
    hessians = [
        sg.hessian(f, (0, 1))(x, 0.7)
        for f in (lambda x, s: chosen(m, x, s), lambda x, s: loss(python_cond)(p, m, x, s))
    ]
    assert_alike(*hessians, 1e-11)
    tangents = [
        sg.jvp(f, (x, 0.7), (x, 0.1))
        for f in (lambda x, s: chosen(m, x, s), lambda x, s: loss(python_cond)(p, m, x, s))
    ]
    assert_alike(*tangents, 1e-11)


def test_vmap() -> None:
    """Over the condition: a choice; over the rest: the branch runs on the batch."""
    m, xs = RNG.normal(size=(4, 4)), RNG.normal(size=(6, 4))
    by_sign = lambda x: loss(sg.cond)(x.sum() > 0, m, x, 0.5)  # noqa: E731
    found = sg.vmap(sg.value_and_grad(by_sign))(xs)
    plain = loss(python_cond)
    sides = {p: sg.value_and_grad(functools.partial(plain, p, m)) for p in (True, False)}
    one = [sides[bool(x.sum() > 0)](x, 0.5) for x in xs]
    for i in (0, 1):
        np.testing.assert_allclose(found[i], [pair[i] for pair in one], 1e-12)
    for p in (True, False):
        found = sg.vmap(sg.grad(loss(sg.cond), 2), in_axes=(None, None, 0, None))(p, m, xs, 0.5)
        for i, x in enumerate(xs):
            np.testing.assert_allclose(found[i], sides[p](x, 0.5)[1], 1e-12)
    assert "when" in str(sg.vmap(loss(sg.cond), in_axes=(None, None, 0, None))
                         .ir(np.bool_(True), m, xs, 0.5))  # fmt: skip


def test_only_one_side_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native code calls NumPy for eigenvalues, which can be counted."""
    calls = []
    eigh = REGISTRY["eigh"]
    rule = eigh.evaluate_rule
    assert rule is not None
    monkeypatch.setattr(eigh, "evaluate_rule", lambda x: calls.append(0) or rule(x))

    def run(p: Any, x: Array) -> Any:
        return sg.cond(p, lambda x: emit("eigh", x)[1], lambda x: x * 2, x)

    x = np.diag([1.0, 2.0, 4.0])
    for f in (sg.jit(run), sg.grad(lambda p, x: run(p, x).sum(), 1)):
        calls.clear()
        f(np.bool_(False), x)
        assert not calls
        f(np.bool_(True), x)
        assert calls


def test_no_cotangent_from_the_side_that_did_not_run() -> None:
    f = sg.grad(lambda x: sg.cond(x > 0, np.sqrt, lambda x: 0.0 * x + 1, x))
    assert f(0.0) == 0
    assert f(4.0) == 0.25


def test_numbers_adapt_and_structures_nest() -> None:
    def relu(x: Any) -> Any:
        return sg.cond(x > 0, lambda: x, lambda: 0.0)

    assert sg.jit(relu)(np.float32(-2)).dtype == np.float32
    assert sg.grad(relu)(3.0) == 1

    def sign(x: Any) -> Any:
        inner = lambda x: sg.cond(x < 0, lambda x: -x, lambda x: x * 0, x)  # noqa: E731
        return sg.cond(x > 0, lambda x: x * x, inner, x)

    for x, expected in ((3.0, 6.0), (-2.0, -1.0), (0.0, 0.0)):
        assert sg.grad(sign)(x) == expected
    assert sg.cond(1, lambda: "a", lambda: "b") == "a"


def test_in_loops_and_checkpoints() -> None:
    def run(choose: Any, loop: Any, wrap: Any) -> Any:
        def step(s: Any, x: Any) -> Any:
            s = choose(x > 0, lambda s, x: np.sin(s) * x, lambda s, x: s - x, s, x)
            return s, s * x

        return lambda s, xs: sum(y.sum() for y in loop(wrap(step), s, xs))

    def unrolled(f: Any, s: Any, xs: Array) -> Any:
        ys = []
        for x in xs:
            s, y = f(s, x)
            ys.append(y)
        return s, np.stack(ys)

    xs = RNG.normal(size=7)
    fixed = lambda p, f, g, *a: np.where(p, f(*a), g(*a))  # noqa: E731
    expected = sg.value_and_grad(run(fixed, unrolled, lambda f: f), (0, 1))(0.3, xs)
    for wrap in (lambda f: f, sg.checkpoint):
        found = sg.value_and_grad(run(sg.cond, sg.scan, wrap), (0, 1))(0.3, xs)
        assert_alike(found, expected, 1e-12)


# -- while_loop ----------------------------------------------------------------------------


def collatz(loop: Any) -> Callable[[Any], Any]:
    """Steps until 1 is reached."""

    def step(s: Any) -> Any:
        n, count = s
        return sg.numpy.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    return lambda n: loop(lambda s: s[0] != 1, step, (n, 0))[1]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 27])
def test_a_loop_of_unknown_length(n: int) -> None:
    expected = collatz(python_while)(n)
    assert sg.jit(collatz(sg.while_loop))(n) == expected
    assert collatz(sg.while_loop)(n) == expected


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 1e-5), ("f8", 1e-12)])
def test_state_of_arrays(threads: int, dtype: str, rtol: float) -> None:
    """The power method: to the largest eigenvalue, with a product in each step."""
    a = RNG.normal(size=(40, 40)).astype(dtype)
    a = a @ a.T / 40
    start = np.ones(40, dtype)

    def power(loop: Any) -> Callable[[Array, Array], Any]:
        def run(a: Array, v: Array) -> Any:
            def step(s: Any) -> Any:
                w = a @ s["v"]
                size = np.sqrt((w * w).sum())
                return {"v": w / size, "size": size, "steps": s["steps"] + 1}

            state = {"v": v, "size": v[0] * 0, "steps": np.int64(0)}
            return loop(lambda s: s["steps"] < 9, step, state)

        return run

    before = sg.get_num_threads()
    sg.set_num_threads(threads)
    try:
        assert_alike(sg.jit(power(sg.while_loop))(a, start), power(python_while)(a, start), rtol)
    finally:
        sg.set_num_threads(before)


def test_vmap_of_a_loop() -> None:
    numbers = np.array([1, 2, 3, 7, 27, 9])
    expected = [collatz(python_while)(int(n)) for n in numbers]
    np.testing.assert_array_equal(sg.vmap(collatz(sg.while_loop))(numbers), expected)

    def grown(x: Any, limit: Any, factor: Any) -> Any:
        return sg.while_loop(lambda s: s < limit, lambda s: s * factor, x)

    for axes in ((0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)):
        args = [np.array([1.0, 2.5, 40.0]), np.array([3.0, 50.0, 7.0]), np.array([2.0, 3.0, 1.5])]
        given = [a if axis == 0 else a[0] for a, axis in zip(args, axes, strict=True)]
        found = sg.vmap(grown, in_axes=axes)(*given)
        for i in range(3):
            x, limit, factor = (g[i] if np.ndim(g) else g for g in given)
            want = python_while(lambda s: s < limit, lambda s: s * factor, x)  # noqa: B023
            assert found[i] == want


def test_a_loop_has_no_derivative_but_its_surroundings_do() -> None:
    run = lambda x: sg.while_loop(lambda s: s < 10, lambda s: s * 2, x)  # noqa: E731
    for transform in (sg.grad, lambda f: lambda x: sg.jvp(f, (x,), (1.0,))):
        with pytest.raises(DifferentiationError, match="scan or symgrad"):
            transform(run)(1.0)
    assert sg.grad(lambda x: x * sg.stop_gradient(run(x)))(1.5) == 12


def test_text_and_interpreter() -> None:
    m, x = RNG.normal(size=(3, 3)), RNG.normal(size=3)
    gradient = sg.grad(loss(sg.cond), (1, 2, 3))
    cases = [(gradient, (np.bool_(p), m, x, 0.7)) for p in (True, False)]
    cases += [(sg.jit(collatz(sg.while_loop)), (7,))]
    for f, args in cases:
        for func in (f.adjoint(*args) if f is gradient else f.ir(*args), f.optimized(*args)):
            assert ir.parse(str(func)) == ir.verify(func)
            arrays = [np.asarray(a, p.type.dtype.numpy)
                      for a, p in zip(args, func.params, strict=True)]  # fmt: skip
            found = tree.flatten(f(*args))[0]
            for got, want in zip(found, ir.interpret(func, arrays)[-len(found) :], strict=True):
                np.testing.assert_allclose(got, want, 1e-12)


@pytest.mark.parametrize(
    ("kind", "run", "text"),
    [
        (UsageError, lambda x: sg.cond(x[0] > 0, lambda: x, lambda: (x, x)), "one structure"),
        (ShapeError, lambda x: sg.cond(x[0] > 0, lambda: x, lambda: x[0]), "one shape"),
        (DTypeError, lambda x: sg.cond(x[0] > 0, lambda: x, lambda: x.astype("f4")), "astype"),
        (ShapeError, lambda x: sg.cond(x > 0, lambda: x, lambda: x), r"\.any\(\) .* np\.where"),
        (ShapeError, lambda x: sg.while_loop(lambda s: s > 0, lambda s: s, x), "one truth value"),
        (ShapeError, lambda x: sg.while_loop(lambda s: s.sum() > 0, lambda s: s[0], x),
         r"x is f64\[3\] before a step of <lambda> and f64\[\] after it"),
        (UsageError, lambda x: sg.while_loop(lambda s: s.sum() > 0, lambda s: (s, s), x), "before"),
        (UsageError, lambda x: sg.while_loop(lambda s: True, lambda s: s, ()), "no array"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(kind: type[Exception], run: Callable[..., Any], text: str) -> None:
    with pytest.raises(kind, match=text):
        sg.jit(run)(np.ones(3))
