"""``checkpoint`` and ``custom_vjp``: derivatives taken in a way of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import DifferentiationError, ShapeError, UsageError

import symgrad as sg
from symgrad import ir, tree

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


# -- checkpoint ----------------------------------------------------------------------------


def chain(wrap: Callable[[Any], Any], steps: int) -> Callable[..., Any]:
    """Steps of a good deal of intermediate values each; odd ones are nested."""

    def block(x: Array, w: Array) -> Any:
        for k in range(4):
            x = np.tanh(np.sin(x @ w) * np.exp(-x)) + k
        return x

    def twice(x: Array, w: Array) -> Any:
        return wrap(block)(x, w) * 2 - wrap(block)(x, w.T)

    def loss(x: Array, ws: Any) -> Any:
        for i in range(steps):
            x = wrap(twice if i % 2 else block)(x, ws[i])
        return (x * x).sum()

    return loss


def kept_and_not() -> tuple[Any, Any]:
    plain, saving = (sg.grad(chain(wrap, 4), (0, 1)) for wrap in (lambda f: f, sg.checkpoint))
    return plain, saving


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "rtol"), [("f4", 1e-5), ("f8", 1e-13)])
def test_gradients_are_the_same(threads: int, dtype: str, rtol: float) -> None:
    x, ws = RNG.normal(size=(7, 5)).astype(dtype), RNG.normal(size=(4, 5, 5)).astype(dtype)
    before = sg.get_num_threads()
    sg.set_num_threads(threads)
    try:
        plain, saving = (g(x, ws) for g in kept_and_not())
    finally:
        sg.set_num_threads(before)
    for a, b in zip(plain, saving, strict=True):
        np.testing.assert_allclose(b, a, rtol, rtol)


def arena(gradient: Any, *args: Any) -> float:
    """Bytes that a run needs beside parameters and results."""
    found = re.search(r"arena ([\d.]+) (\w+)", gradient.explain(*args))
    assert found is not None
    size, unit = found.groups()
    return float(size) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_memory_is_less() -> None:
    """Without checkpoints, values of all steps live at once; with them, those of one."""
    x, ws = RNG.normal(size=(64, 32)), RNG.normal(size=(12, 32, 32))
    plain, saving = (sg.grad(chain(wrap, 12), (0, 1)) for wrap in (lambda f: f, sg.checkpoint))
    assert arena(saving, x, ws) < 0.5 * arena(plain, x, ws)


def test_values_are_computed_again_and_not_shared() -> None:
    def count(f: Any) -> int:
        gradient = sg.grad(lambda x: f(x).sum())
        func = gradient.optimized(np.ones(5))
        return sum(op.name == "exp" for op in func.walk())

    def body(x: Array) -> Any:
        return np.exp(np.sin(x) + 1)

    assert count(sg.checkpoint(body)) == count(body) == 1  # the value itself is not asked for

    def both(f: Any) -> Any:
        return sg.value_and_grad(lambda x: f(x).sum()).optimized(np.ones(5))

    names = [op.name for op in both(sg.checkpoint(body)).walk()]
    assert names.count("exp") == names.count("sin") == 2
    assert [op.name for op in both(body).walk()].count("exp") == 1


def test_checkpoint_under_the_transforms() -> None:
    scale = RNG.normal(size=5)  # captured by the body

    @sg.checkpoint
    def body(x: Array, options: dict[str, Any]) -> Any:
        y = np.sin(x * scale) * options["factor"]
        return {"y": y * options["by"], "name": options["name"]}, y.sum()

    def f(x: Array, by: Array) -> Any:
        parts, total = body(x, {"factor": 3, "by": by, "name": "it"})
        assert parts["name"] == "it"
        return (parts["y"] ** 2).sum() + total

    def plain(x: Array, by: Array) -> Any:
        y = np.sin(x * scale) * 3
        return ((y * by) ** 2).sum() + y.sum()

    x, by = RNG.normal(size=(2, 5))
    assert f(x, by) == pytest.approx(plain(x, by), rel=1e-13)  # a plain call
    transforms: list[tuple[Any, Any]] = [
        (sg.jit, (x, by)),
        (lambda g: sg.grad(g, (0, 1)), (x, by)),
        (sg.hessian, (x, by)),
        (lambda g: sg.vmap(sg.grad(g), in_axes=(0, None)), (np.stack([x, by]), by)),
        (lambda g: lambda x, by: sg.jvp(g, (x, by), (by, x)), (x, by)),
        (lambda g: lambda x, by: sg.vjp(g, x, by)[1](2.0), (x, by)),
    ]
    for transform, args in transforms:
        found, expected = (tree.flatten(transform(g)(*args))[0] for g in (f, plain))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, 1e-12, 1e-12)
    sg.check_grads(f, (x, by), order=2)


def test_loops_in_checkpoints_and_checkpoints_in_loops() -> None:
    def run(wrap: Any) -> Any:
        def inner(s: Array, x: Array) -> Any:
            return sg.scan(lambda s, w: (np.tanh(s * w), s), s, x)

        def outer(s: Array, x: Array) -> Any:
            s, ys = wrap(inner)(s, x)
            return s, ys.sum()

        def loss(s: Array, xs: Array) -> Any:
            last, ys = sg.scan(outer, s, xs)
            return (wrap(np.exp)(last)).sum() + ys.sum()

        return sg.grad(loss, (0, 1))

    s, xs = RNG.normal(size=3), RNG.normal(size=(4, 5, 3))
    for a, b in zip(run(sg.checkpoint)(s, xs), run(lambda f: f)(s, xs), strict=True):
        np.testing.assert_allclose(a, b, 1e-12)


def test_text_and_interpreter() -> None:
    x, ws = RNG.normal(size=(3, 3)), RNG.normal(size=(4, 3, 3))
    gradient = kept_and_not()[1]
    func = gradient.adjoint(x, ws)
    assert {"checkpoint", "barrier"} <= {op.name for op in func.walk()}
    assert ir.parse(str(func)) == ir.verify(func)
    for got, want in zip(gradient(x, ws), ir.interpret(func, [x, ws]), strict=True):
        np.testing.assert_allclose(got, want, 1e-12)


# -- custom_vjp ----------------------------------------------------------------------------


@sg.custom_vjp
def clipped(x: Array, limits: dict[str, Any]) -> Any:
    """The identity, with its cotangent kept between limits."""
    return x * 1.0


clipped.defvjp(
    lambda x, limits: (x * 1.0, limits),
    lambda limits, ct: (np.clip(ct, limits["low"], limits["high"]), None),
)


def test_the_rule_is_what_counts() -> None:
    def f(x: Array) -> Any:
        return (clipped(x, {"low": -1.0, "high": 1.0}) * np.array([-3.0, 0.5, 7.0])).sum()

    np.testing.assert_array_equal(sg.grad(f)(np.ones(3)), [-1, 0.5, 1])
    assert f(np.ones(3)) == 4.5
    limits = {"low": -1.0, "high": 1.0}
    by_limits = sg.grad(lambda limits: clipped(np.ones(3), limits).sum())(limits)
    assert by_limits == {"low": 0, "high": 0}


def sine() -> Any:
    """Its rule uses itself and a sibling that uses it again, as rules do."""

    @sg.custom_vjp
    def sin(x: Any) -> Any:
        return np.sin(x)

    @sg.custom_vjp
    def cos(x: Any) -> Any:
        return np.cos(x)

    sin.defvjp(lambda x: (sin(x), x), lambda x, ct: (ct * cos(x),))
    cos.defvjp(lambda x: (cos(x), x), lambda x, ct: (-ct * sin(x),))
    return sin


def test_higher_orders() -> None:
    sin = sine()
    slopes = [sin]
    for _ in range(3):
        slopes.append(sg.grad(slopes[-1]))
    x = 0.7
    for f, expected in zip(slopes, (np.sin(x), np.cos(x), -np.sin(x), -np.cos(x)), strict=True):
        assert f(x) == pytest.approx(expected, rel=1e-15)
    sg.check_grads(lambda x: sin(x * x).sum(), (np.linspace(0, 1, 3),), order=2)
    deep = sin
    for _ in range(9):
        deep = sg.grad(deep)
    with pytest.raises(DifferentiationError, match="derivatives of this order"):
        deep(x)


def tripled() -> Any:
    """A wrong rule, on purpose, to see where it is used: three times the product's."""

    @sg.custom_vjp
    def product(x: Any, y: Any) -> Any:
        return x * y, x + y

    product.defvjp(
        lambda x, y: ((x * y, x + y), (x, y, "text", 3)),
        lambda res, ct: (res[3] * ct[0] * res[1] + ct[1], res[3] * ct[0] * res[0] + ct[1]),
    )
    return product


def test_custom_vjp_under_the_transforms() -> None:
    product = tripled()

    def f(x: Any, y: Any) -> Any:
        p, s = product(x, y)
        return (p * 2).sum() + s.sum()

    x, y = RNG.normal(size=(2, 4))
    expected = 6 * y + 1, 6 * x + 1
    for g in (sg.grad(f, (0, 1)), sg.jit(sg.grad(f, (0, 1)))):
        for a, b in zip(g(x, y), expected, strict=True):
            np.testing.assert_allclose(a, b, 1e-14)
    np.testing.assert_allclose(sg.vjp(f, x, y)[1](1.0)[0], expected[0], 1e-14)
    tangent = sg.jvp(f, (x, y), (y, x))[1]
    assert tangent == pytest.approx(expected[0] @ y + expected[1] @ x)
    np.testing.assert_allclose(sg.jacobian(lambda x: product(x, y)[0])(x), np.diag(3 * y), 1e-14)
    by_x = sg.vmap(sg.grad(f), in_axes=(0, None))(x, y[0])
    np.testing.assert_allclose(by_x, np.full(4, 6 * y[0] + 1), 1e-14)
    total = sg.grad(lambda y: sg.vmap(f, in_axes=(0, None))(x, y).sum())(y[0])
    assert total == pytest.approx((6 * x + 1).sum())
    slopes = sg.grad(lambda x: sg.scan(lambda s, a: (s + f(a, s), None), 0.0, x)[0])(x)
    assert slopes.shape == (4,)
    hessian = sg.hessian(f, (0, 1))(x, y)
    np.testing.assert_allclose(hessian[0][1], 6 * np.eye(4), 1e-14)
    saving = sg.grad(sg.checkpoint(f), (0, 1))(x, y)
    np.testing.assert_allclose(saving[0], expected[0], 1e-14)


def test_surroundings_and_static_arguments() -> None:
    scale = np.array([1.0, 2.0, 3.0])

    def power(x: Any, n: int) -> Any:
        return x**n

    power = sg.custom_vjp(power, nondiff_argnums=1)
    power.defvjp(lambda x, n: (x**n, x), lambda n, x, ct: (n * ct * x ** (n - 1) * scale,))
    x = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(power(x, 3), x**3)
    np.testing.assert_allclose(power(x, n=3), x**3)
    gradient = sg.grad(lambda x: power(x, 3).sum())
    np.testing.assert_allclose(gradient(x), 3 * x**2 * scale, 1e-14)
    scale[:] = 1
    np.testing.assert_allclose(gradient(x), 3 * x**2, 1e-14)
    gradient = sg.grad(lambda w: sg.grad(lambda x: power(x * w, 3).sum())(x).sum())
    assert np.isfinite(gradient(2.0))


def test_on_tensors() -> None:
    sin = sine()
    x = sg.tensor([0.1, 0.2], requires_grad=True)
    (sin(x) * 2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.cos(x.detach().numpy()), 1e-6)


def test_rules_in_text_and_interpreter() -> None:
    gradient = sg.grad(lambda x: sine()(x).sum())
    x = np.linspace(0, 1, 3)
    func = gradient.adjoint(x)
    primal = sg.jit(sine()).ir(x)
    assert "custom_vjp" in [op.name for op in primal.ops]
    for f in (func, primal):
        assert ir.parse(str(f)) == ir.verify(f)
    np.testing.assert_allclose(ir.interpret(primal, [x])[0], np.sin(x))
    parsed = ir.adjoint.value_and_grad(ir.parse(str(sg.jit(lambda x: sine()(x).sum()).ir(x))))
    np.testing.assert_allclose(ir.interpret(parsed, [x])[1], np.cos(x))


def with_rule(fwd: Any, bwd: Any) -> Any:
    f = sg.custom_vjp(lambda x, y: x.sum() * y)
    f.defvjp(fwd, bwd)
    return lambda: sg.grad(lambda x: f(x, 2.0))(np.ones(3))


def residuals(x: Any, y: Any) -> Any:
    return x.sum() * y, (x, y)


@pytest.mark.parametrize(
    ("kind", "run", "text"),
    [
        (UsageError, lambda: sg.custom_vjp(lambda x: x)(1.0), "no derivative yet.*defvjp"),
        (UsageError, with_rule(lambda x, y: x.sum(), lambda r, ct: (ct, ct)), "must return"),
        (UsageError, with_rule(residuals, lambda r, ct: ct), "a cotangent for each of 2 .* Tracer"),
        (UsageError, with_rule(residuals, lambda r, ct: (ct,)), "2 arguments, got 1"),
        (UsageError, with_rule(residuals, lambda r, ct: ((ct, ct), ct)), "structure"),
        (ShapeError, with_rule(residuals, lambda r, ct: (ct, ct)),
         r"gave f64\[\] for argument 0, which is f64\[3\]"),
        (TypeError, with_rule(residuals, lambda r, ct: ("no", ct)), "a str is no array"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(kind: type[Exception], run: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        run()
