"""Derivative and vectorising transforms: values, structures, nesting orders, conventions."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

import symgrad as sg

X = np.random.default_rng(2).uniform(0.2, 1.2, 5)
A = np.random.default_rng(3).uniform(-1.0, 1.0, (5, 5))


def cube(x: Any) -> Any:
    return np.sum(x**3)


def mixing(x: Any) -> Any:
    return np.sin(A @ x) * x


def double_exponential(x: Any) -> Any:
    return np.exp(2 * x)


# -- each transform ------------------------------------------------------------------------


def test_grad_as_function_and_as_decorator() -> None:
    np.testing.assert_allclose(sg.grad(cube)(X), 3 * X**2)

    @sg.grad
    def plain(x: Any) -> Any:
        return np.sum(np.exp(x))

    @sg.value_and_grad(argnums=(1, 0))
    def pair(x: Any, y: Any) -> Any:
        return np.sum(x * y**2)

    np.testing.assert_allclose(plain(X), np.exp(X))
    value, (dy, dx) = pair(X, X + 1)
    np.testing.assert_allclose(value, np.sum(X * (X + 1) ** 2))
    np.testing.assert_allclose(dx, (X + 1) ** 2)
    np.testing.assert_allclose(dy, 2 * X * (X + 1))


def test_grad_keeps_name_and_documentation() -> None:
    assert sg.grad(cube).__name__ == "cube"
    assert sg.jit(cube).__wrapped__ is cube


def test_has_aux() -> None:
    def f(x: Any) -> Any:
        return cube(x), {"twice": 2 * x, "note": "kept"}

    slope, aux = sg.grad(f, has_aux=True)(X)
    np.testing.assert_allclose(slope, 3 * X**2)
    np.testing.assert_allclose(aux["twice"], 2 * X)
    assert aux["note"] == "kept"
    (value, aux), slope = sg.value_and_grad(f, has_aux=True)(X)
    np.testing.assert_allclose(value, cube(X))


def test_unused_argument_has_zero_gradient() -> None:
    slopes = sg.grad(lambda x, y: cube(x), argnums=(0, 1))(X, np.ones((2, 2)))
    np.testing.assert_array_equal(slopes[1], np.zeros((2, 2)))
    np.testing.assert_array_equal(sg.grad(lambda x: 3.0)(X), np.zeros(5))


def test_keyword_arguments_and_constants() -> None:
    f = sg.grad(lambda x, *, power: np.sum(x**power))
    np.testing.assert_allclose(f(X, power=3.0), 3 * X**2)


def test_vjp_and_jvp() -> None:
    jacobian = np.cos(A @ X)[:, None] * A * X[:, None] + np.diag(np.sin(A @ X))
    out, pullback = sg.vjp(mixing, X)
    np.testing.assert_allclose(out, mixing(X))
    for seed in np.eye(5)[:2]:
        (ct,) = pullback(seed)
        np.testing.assert_allclose(ct, seed @ jacobian)
    out, tangent = sg.jvp(mixing, (X,), (np.ones(5),))
    np.testing.assert_allclose(out, mixing(X))
    np.testing.assert_allclose(tangent, jacobian @ np.ones(5))
    for transform in (sg.jacobian, sg.jacrev, sg.jacfwd):
        np.testing.assert_allclose(transform(mixing)(X), jacobian)


def test_vjp_of_containers_and_several_arguments() -> None:
    def f(p: Any, y: Any) -> Any:
        return {"a": p["w"] * y, "b": (p["w"].sum(), p["c"] * 2)}

    out, pullback = sg.vjp(f, {"w": X, "c": 1.5}, X + 1)
    np.testing.assert_allclose(out["b"][1], 3.0)
    dp, dy = pullback({"a": np.ones(5), "b": (2.0, 3.0)})
    np.testing.assert_allclose(dp["w"], X + 1 + 2)
    np.testing.assert_allclose(dp["c"], 6.0)
    np.testing.assert_allclose(dy, X)


def test_jacobian_blocks_of_containers() -> None:
    def f(p: Any, y: Any) -> Any:
        return p["u"][:, None] * y, np.sum(p["v"])

    p, y = {"u": X, "v": np.ones((2, 2))}, np.arange(1.0, 4.0)
    for transform in (sg.jacrev, sg.jacfwd):
        first, second = transform(f, argnums=(0, 1))(p, y)
        assert first[0]["u"].shape == (5, 3, 5)
        assert first[0]["v"].shape == (5, 3, 2, 2)
        assert first[1].shape == (5, 3, 3)
        assert second[0]["v"].shape == (2, 2)
        np.testing.assert_allclose(first[0]["u"], np.einsum("ij,k->ikj", np.eye(5), y))


def test_hessian_and_hvp() -> None:
    def f(x: Any) -> Any:
        return np.sum(np.sin(A @ x) ** 2)

    h = sg.hessian(f)(X)
    np.testing.assert_allclose(h, h.T, atol=1e-12)
    numeric = np.array([(sg.grad(f)(X + e) - sg.grad(f)(X - e)) / 2e-5 for e in 1e-5 * np.eye(5)])
    np.testing.assert_allclose(h, numeric, atol=1e-7)
    v = np.arange(5.0)
    np.testing.assert_allclose(sg.hvp(f, X, v), h @ v)
    np.testing.assert_allclose(sg.hvp(f, (X,), (v,)), h @ v)
    two = sg.hvp(lambda x, y: np.sum(x**2 * y), (X, X + 1), (v, 0 * v))
    np.testing.assert_allclose(two[0], 2 * (X + 1) * v)
    np.testing.assert_allclose(two[1], 2 * X * v)


def test_vmap() -> None:
    batch = np.random.default_rng(4).uniform(size=(7, 5))
    np.testing.assert_allclose(sg.vmap(mixing)(batch), np.stack([mixing(x) for x in batch]))
    np.testing.assert_allclose(
        sg.vmap(lambda x, a: a @ x, in_axes=(1, None), out_axes=1)(batch.T, A), A @ batch.T
    )
    tree = sg.vmap(lambda p, s: (p["x"] * s, s), in_axes=({"x": 0}, 0))(
        {"x": batch}, np.arange(7.0)
    )
    np.testing.assert_allclose(tree[0], batch * np.arange(7.0)[:, None])
    outer = sg.vmap(lambda x: sg.vmap(lambda y: np.sum(x * y))(batch))(batch)
    np.testing.assert_allclose(outer, batch @ batch.T)


def test_stop_gradient() -> None:
    np.testing.assert_allclose(sg.grad(lambda x: np.sum(x * sg.stop_gradient(x)))(X), X)
    np.testing.assert_array_equal(sg.stop_gradient({"a": X})["a"], X)


# -- nesting -------------------------------------------------------------------------------


NESTED = {
    "grad of grad": lambda f: sg.grad(sg.grad(f)),
    "jit outside": lambda f: sg.jit(sg.grad(sg.grad(f))),
    "jit inside": lambda f: sg.grad(sg.grad(sg.jit(f))),
    "jit between": lambda f: sg.grad(sg.jit(sg.grad(sg.jit(f)))),
    "jvp of grad": lambda f: lambda x: sg.jvp(sg.grad(f), (x,), (1.0,))[1],
    "grad of jvp": lambda f: sg.grad(lambda x: sg.jvp(f, (x,), (1.0,))[1]),
    "jvp of jvp": lambda f: lambda x: sg.jvp(lambda y: sg.jvp(f, (y,), (1.0,))[1], (x,), (1.0,))[1],
    "grad of vjp": lambda f: sg.grad(lambda x: sg.vjp(f, x)[1](1.0)[0]),
    "vjp of grad": lambda f: lambda x: sg.vjp(sg.grad(f), x)[1](1.0)[0],
    "hessian": sg.hessian,
    "jacfwd of jacrev": lambda f: sg.jacfwd(sg.jacrev(f)),
    "jacrev of jacfwd": lambda f: sg.jacrev(sg.jacfwd(f)),
    "jacobian of grad": lambda f: sg.jacobian(sg.grad(f)),
    "hvp": lambda f: lambda x: sg.hvp(f, x, 1.0),
    "vmap of grad of grad": lambda f: lambda x: sg.vmap(sg.grad(sg.grad(f)))(np.full(3, x))[1],
    "grad of vmap of grad": lambda f: sg.grad(lambda x: sg.vmap(sg.grad(f))(x + np.zeros(1))[0]),
    "grad of sum of vmap": lambda f: sg.grad(sg.grad(lambda x: sg.vmap(f)(x + np.zeros(3)).mean())),
}


@pytest.mark.parametrize("name", NESTED)
def test_second_derivatives_in_every_nesting(name: str) -> None:
    second = NESTED[name](lambda x: np.sin(x) * x**2)
    x = 0.7
    expected = (2 - x**2) * np.sin(x) + 4 * x * np.cos(x)
    np.testing.assert_allclose(second(x), expected, 1e-12)


def test_derivatives_by_different_variables_do_not_mix() -> None:
    # d/dx (x * d/dy (x + y)) = 1, where mixing up perturbations gives 2.
    inner = sg.grad(lambda x: x * sg.grad(lambda y: x + y)(1.0))
    assert inner(1.0) == 1.0
    assert sg.grad(lambda x: x * sg.jvp(lambda y: x + y, (1.0,), (1.0,))[1])(1.0) == 1.0


def test_third_and_fourth_derivative() -> None:
    f: Any = double_exponential
    for order in range(1, 5):
        f = sg.grad(f)
        np.testing.assert_allclose(f(0.3), 2**order * np.exp(0.6), 1e-12)


def test_pullback_inside_vmap_and_jit() -> None:
    _, pullback = sg.vjp(mixing, X)
    rows = sg.vmap(lambda ct: pullback(ct)[0])(np.eye(5))
    np.testing.assert_allclose(rows, sg.jacobian(mixing)(X))

    @sg.jit
    def inside(x: Any) -> Any:
        _, pull = sg.vjp(mixing, x)
        return sg.vmap(lambda ct: pull(ct)[0])(np.eye(5))

    np.testing.assert_allclose(inside(X), rows)


# -- containers ----------------------------------------------------------------------------


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Model:
    w: Any
    layers: list[Any]


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: {"a": a, "b": b}, lambda a, b: [a, b], lambda a, b: (a, {"deep": [b]}),
        Point, lambda a, b: Model(a, [b, None]),
    ],
)  # fmt: skip
def test_gradients_have_the_structure_of_the_argument(make: Any) -> None:
    def leaves(p: Any) -> list[Any]:
        if isinstance(p, dict):
            return [x for k in sorted(p) for x in leaves(p[k])]
        if isinstance(p, (list, tuple)):
            return [x for item in p for x in leaves(item)]
        if isinstance(p, Model):
            return [p.w, *leaves(p.layers)]
        return [] if p is None else [p]

    def f(p: Any) -> Any:
        a, b = leaves(p)
        return np.sum(a**2) * b

    value, slope = sg.value_and_grad(f)(make(X, 2.0))
    assert type(slope) is type(make(X, 2.0))
    da, db = leaves(slope)
    np.testing.assert_allclose(value, 2 * np.sum(X**2))
    np.testing.assert_allclose(da, 4 * X)
    np.testing.assert_allclose(db, np.sum(X**2))


# -- dtypes --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_keep_the_dtype(dtype: Any) -> None:
    x = X.astype(dtype)
    value, slope = sg.value_and_grad(lambda x: np.sum(np.tanh(x) * 2.0))(x)
    assert value.dtype == slope.dtype == dtype
    np.testing.assert_allclose(slope, 2 * (1 - np.tanh(x) ** 2), 1e-6)


def test_mixed_dtypes() -> None:
    slopes = sg.grad(lambda x, y: np.sum(x * y), argnums=(0, 1))(X.astype(np.float32), X)
    assert slopes[0].dtype == np.float32
    assert slopes[1].dtype == np.float64


# -- conventions ---------------------------------------------------------------------------


def slope_at(f: Any, *x: float) -> Any:
    return sg.grad(lambda v: np.sum(f(v)))(np.array(x))


CONVENTIONS = {
    "abs at 0": (abs, [0.0], [0.0]),
    "relu at 0": (lambda x: np.maximum(x, 0), [-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
    "sign": (np.sign, [-1.0, 0.0], [0.0, 0.0]),
    "norm at 0": (np.linalg.norm, [0.0, 0.0], [0.0, 0.0]),
    "norm along an axis at 0": (lambda x: np.linalg.norm(x[None], axis=1), [0.0, 0.0], [0.0, 0.0]),
    "p-norm at 0": (lambda x: np.linalg.norm(x, 3), [0.0, 0.0], [0.0, 0.0]),
    "root of a sum of squares at 0": (lambda x: np.sqrt(np.sum(x**2)), [0.0, 0.0], [0.0, 0.0]),
    "root of a product sum at 0": (lambda x: np.sqrt(np.sum(x * x)), [0.0, 0.0], [0.0, 0.0]),
    "root of an inner product at 0": (lambda x: np.sqrt(x @ x), [0.0, 0.0], [0.0, 0.0]),
    "standard deviation of equal numbers": (np.std, [1.0, 1.0], [0.0, 0.0]),
    "plain root at 0": (np.sqrt, [0.0], [np.inf]),
    "untaken branch": (
        lambda x: np.where(x > 0, np.log(np.where(x > 0, x, 1)), 0),
        [0.0, 2.0],
        [0, 0.5],
    ),
    "untaken branch unguarded": (lambda x: np.where(x > 0, np.log(x), 0.0), [0.0, 2.0], [0.0, 0.5]),
    "untaken root": (lambda x: np.where(x > 0, np.sqrt(x), 0.0), [0.0, 4.0], [0.0, 0.25]),
    "maximum of equal": (lambda x: np.maximum(x, x[::-1]), [3.0, 3.0], [1.0, 1.0]),
    "ties over the array": (np.max, [1.0, 5.0, 5.0], [0.0, 0.5, 0.5]),
    "ties along an axis": (lambda x: np.max(x, axis=0), [1.0, 5.0, 5.0], [0.0, 1.0, 0.0]),
    "min along an axis": (lambda x: np.min(x, axis=-1), [1.0, 1.0, 5.0], [1.0, 0.0, 0.0]),
    "prod with a zero": (np.prod, [2.0, 0.0, 5.0], [0.0, 10.0, 0.0]),
    "square at 0": (lambda x: x**2, [0.0], [0.0]),
    "power 0 at 0": (lambda x: x**0, [0.0], [0.0]),
    "clip": (lambda x: np.clip(x, -1, 1), [-2.0, 0.5, 2.0], [0.0, 1.0, 0.0]),
    "floor": (np.floor, [1.5], [0.0]),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_derivative_conventions(name: str) -> None:
    f, at, expected = CONVENTIONS[name]
    np.testing.assert_allclose(slope_at(f, *at), expected, 1e-14)


def test_maximum_shares_a_tie() -> None:
    slopes = sg.grad(np.maximum, argnums=(0, 1))(1.5, 1.5)
    assert slopes == (0.5, 0.5)


# -- against finite differences ------------------------------------------------------------


M = np.random.default_rng(5).uniform(0.3, 1.3, (3, 4))
SMOOTH = {
    "softmax": lambda x: (
        np.exp(x - x.max(axis=1, keepdims=True))
        / np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)
    ),
    "logsumexp": lambda x: np.log(np.sum(np.exp(x))),
    "moments": lambda x: (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5),
    "std": lambda x: np.std(x, axis=1),
    "norms": lambda x: np.linalg.norm(x, axis=1) + np.linalg.norm(x, 3, axis=1),
    "einsum": lambda x: np.einsum("ij,kj,kl->il", x, x, x),
    "products": lambda x: np.prod(x, axis=1) + np.cumprod(x, axis=0)[1, 0],
    "running sums": lambda x: np.cumsum(x, axis=1) * np.diff(np.cumsum(x))[:4],
    "indexing": lambda x: x[[0, 0, 2], 1:] * x[1, None, [2, 0, 1]],
    "shapes": lambda x: np.roll(np.pad(x, 1, mode="reflect"), 1, 0).T[::-1] * 2,
    "joins": lambda x: np.concatenate([x, np.stack([x[0], x[1] ** 2])]) * np.tile(x[:1], (5, 1)),
    "powers": lambda x: x**x + x**-1.5 + 2.0**x,
    "hyperbolic": lambda x: np.tanh(x) * np.arcsinh(x) + np.logaddexp(x, x.T.reshape(3, 4)),
    "triangles": lambda x: np.tril(x @ x.T) + np.diag(np.diag(x)),
    "convolution": lambda x: (
        np.convolve(x[0], x[1, :3]) * np.correlate(x[2], x[0, :1], "full").sum()
    ),
    "selection": lambda x: (
        np.where(x > 0.8, np.sin(x), x**2)
        + np.take_along_axis(x, np.argmax(x, 1, keepdims=True), 1)
    ),
    "interval": lambda x: np.trapezoid(np.exp(-x), np.array([0.0, 1.0, 3.0, 4.0])),
    "horner": lambda x: np.polyval(x[0], x[1]),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_finite_differences_to_second_order(name: str) -> None:
    sg.check_grads(SMOOTH[name], (M,), order=2)


def test_check_grads_finds_a_wrong_derivative() -> None:
    with pytest.raises(AssertionError, match=r"order 1"):
        sg.check_grads(lambda x: x * sg.stop_gradient(x), (X,))
    with pytest.raises(AssertionError, match=r"order 2"):
        # Right slope 2x by value, constant by derivative.
        sg.check_grads(
            lambda x: sg.stop_gradient(2 * x) * (x - sg.stop_gradient(x)) + sg.stop_gradient(x * x),
            (X,),
        )


# -- stages --------------------------------------------------------------------------------


def test_stages_are_readable() -> None:
    f = sg.jit(cube)
    assert "reduce_sum" in str(f.ir(X))
    assert str(f.ir(X)) == str(sg.trace(cube, X))
    assert len(f.adjoint(X).results) == 2
    assert len(sg.jit(lambda x: np.sum(A @ x)).adjoint(X).results) == 2
    assert "fused" in str(f.optimized(X))
    assert "define" in f.llvm(X)
    assert f.asm(X)
    assert "kernel" in f.explain(X)
    assert "kernel calls" in str(f.profile(X))
    stages = sg.inspect(sg.grad(cube), X)
    assert "def cube" in stages.source
    assert str(stages.ir) == str(f.ir(X))
    assert stages.adjoint == sg.trace(sg.grad(cube), X)


def test_ops_know_the_users_line() -> None:
    func = sg.trace(mixing, X)
    assert {op.loc.file for op in func.ops if op.loc} == {__file__}
