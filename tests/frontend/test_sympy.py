"""``from_sympy``: values and derivatives are SymPy's own, to the last digits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sympy as sp
from symgrad.ir.errors import DTypeError, ShapeError, UnsupportedError, UsageError
from sympy.codegen import cfunctions
from typer.testing import CliRunner

import symgrad as sg
from symgrad import ir
from symgrad.cli.app import app
from symgrad.symbolic.table import LOGIC, NUMBERS, RELATIONS

x, y, z = sp.symbols("x y z", real=True)
ABOVE_ONE = {sp.acosh, sp.asec, sp.acsc, sp.acoth}
FLAT = {sp.sign, sp.floor, sp.ceiling, sp.Heaviside}  # SymPy's derivatives are 0, or deltas
SLOPES = {sp.frac: (1,), sp.Mod: (1, -sp.floor(x / y))}  # which SymPy leaves open
ACCURACY = {sp.loggamma: 2e-14}  # it has zeros at 1 and 2
CONSTANT_FIRST = {sp.polygamma: 2}
COUNTS = {sp.atan2: 2, sp.Mod: 2, sp.Max: 2, sp.Min: 2, cfunctions.hypot: 2, cfunctions.fma: 3}


def exactly(e: Any, point: dict[Any, float]) -> float:
    """The value of an expression at floats, from 40 digits."""
    return float(sp.N(sp.sympify(e).subs({s: sp.Rational(v) for s, v in point.items()}), 40))


@pytest.mark.parametrize("function", NUMBERS, ids=lambda f: f.__name__)
def test_every_function_and_its_derivatives(function: Any) -> None:
    variables = (x, y, z)[: COUNTS.get(function, 1)]
    first = (CONSTANT_FIRST[function],) if function in CONSTANT_FIRST else ()
    e = function(*first, *variables)
    formula = sp.expand_func(e)
    slopes = SLOPES.get(function) or [sp.diff(formula, s) for s in variables]
    f = sg.from_sympy(e, variables)
    gradient = sg.grad(f, tuple(range(len(variables))))
    shift = 1 if function in ABOVE_ONE else 0
    for numbers in ((0.21, 0.43, 0.57), (0.93, 0.38, 0.75), (0.4, 0.6, 0.1)):
        at = [n + shift for n in numbers[: len(variables)]]
        point = dict(zip(variables, at, strict=True))
        assert f(*at) == pytest.approx(exactly(formula, point), rel=ACCURACY.get(function, 4e-15))
        expected = [0.0 if function in FLAT else exactly(e, point) for e in slopes]
        np.testing.assert_allclose(gradient(*at), expected, 3e-14, 1e-15)


def random_expression(rng: np.random.Generator, depth: int) -> Any:
    if depth == 0:
        leaves = (x, y, z, sp.Rational(int(rng.integers(1, 9)), 7), sp.pi, sp.Integer(-3))
        return leaves[rng.integers(len(leaves))]
    a, b = (random_expression(rng, depth - 1) for _ in range(2))
    made = [
        lambda: a + b, lambda: a - 2 * b, lambda: a * b, lambda: a / (b**2 + 1),
        lambda: sp.sin(a) * b, lambda: sp.exp(-(a**2)) + b, lambda: sp.sqrt(a**2 + 1) ** 3,
        lambda: sp.Piecewise((a, b > 0.1), (b, True)), lambda: sp.log(1 + a**2) - b,
        lambda: sp.atan(a) ** 5, lambda: (a**2 + 1) ** sp.Rational(-1, 2) - b,
        lambda: sp.Max(a, b + sp.Rational(1, 3)), lambda: sp.Abs(sp.tanh(a)) ** sp.Abs(b),
    ]  # fmt: skip
    return made[rng.integers(len(made))]()


@pytest.mark.parametrize("seed", range(12))
def test_random_expressions_to_second_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    e = random_expression(rng, 3) + x * y + z
    f = sg.from_sympy(e, (x, y, z))
    at = tuple(rng.uniform(0.2, 1.5, 3).tolist())
    point = dict(zip((x, y, z), at, strict=True))
    assert f(*at) == pytest.approx(exactly(e, point), rel=1e-13)
    grads = [sp.diff(e, s) for s in (x, y, z)]
    expected = [exactly(g, point) for g in grads]
    np.testing.assert_allclose(sg.grad(f, (0, 1, 2))(*at), expected, 1e-11, 1e-12)
    compiled = sg.from_sympy(grads, (x, y, z))
    np.testing.assert_allclose(compiled(*at), expected, 1e-12, 1e-13)
    found = sg.hessian(f, (0, 1, 2))(*at)
    for (i, g), (j, s) in itertools.product(enumerate(grads), enumerate((x, y, z))):
        want = exactly(sp.diff(g, s), point)
        assert found[i][j] == pytest.approx(want, rel=1e-9, abs=1e-10)


def test_shared_parts_are_computed_once() -> None:
    """As text this expression has 2**60 leaves."""
    e = x
    for _ in range(60):
        e = sp.Add(sp.Mul(e, sp.sin(e), evaluate=False), e, evaluate=False)
    f = sg.from_sympy(e, x)
    count = len(f.ir(0.5).ops)  # a failing assertion must not print the expression
    assert count == 3 * 60
    expected = 0.001
    for _ in range(60):
        expected = expected * np.sin(expected) + expected
    found = f(0.001)
    assert found == pytest.approx(expected, rel=1e-13)


def test_the_ir_is_that_of_the_formula_and_parses_back() -> None:
    f = sg.from_sympy(x**4 / y - 2 * x**2 + sp.sqrt(y), (x, y))
    func = f.ir(1.0, 2.0)
    assert sorted(op.name for op in func.ops) == sorted(
        "mul mul mul div sqrt add sub constant".split()
    )
    assert ir.parse(str(func)) == ir.verify(func)
    assert [p.name for p in func.params] == ["x", "y"]


def test_constants_are_rounded_once() -> None:
    """Together, as an exact number: not each by itself."""
    for e in (sp.pi * sp.sqrt(2) * sp.Rational(1, 3), sp.E**20 - sp.pi**17, sp.zeta(3)):
        assert sg.from_sympy(e * x, x)(1.0) == float(sp.N(e, 40))
        assert sg.from_sympy(x + e + 1, x)(0.0) == float(sp.N(e + 1, 40))
        assert sg.from_sympy(e, x)(0.0) == float(sp.N(e, 40))
    tenth = sp.Rational(1, 10)
    assert sg.from_sympy(x + tenth, x)(np.float32(0)) == np.float32(0.1)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_dtypes_and_broadcasting(dtype: str) -> None:
    f = sg.from_sympy({"a": x * y + sp.pi, "b": (sp.Integer(2), x > y)}, (x, y))
    a, b = np.linspace(0, 1, 3, dtype=dtype), np.linspace(0, 1, 2, dtype=dtype)[:, None]
    found = f(a, b)
    assert found["a"].dtype == found["b"][0].dtype == a.dtype
    np.testing.assert_allclose(found["a"], a * b + dtype_pi(dtype), 1e-6)
    np.testing.assert_array_equal(found["b"][0], np.full((2, 3), 2))
    np.testing.assert_array_equal(found["b"][1], a > b)
    assert f(1, 2)["a"] == 2 + np.pi
    assert f(x=1.0, y=2.0)["a"] == 2 + np.pi


def dtype_pi(dtype: str) -> Any:
    return np.dtype(dtype).type(np.pi)


def test_transforms() -> None:
    f = sg.from_sympy(x**2 * sp.sin(y), (x, y))
    a, b = np.linspace(0, 1, 5), np.linspace(1, 2, 5)
    np.testing.assert_allclose(sg.vmap(sg.grad(f))(a, b), 2 * a * np.sin(b))
    np.testing.assert_allclose(sg.jit(lambda a: f(a, 2 * a).sum())(a), (a**2 * np.sin(2 * a)).sum())
    sg.check_grads(f, (0.3, 0.7), order=2)


def test_vector_and_matrix_arguments() -> None:
    a = np.random.default_rng(0).normal(size=(3, 3))
    v = np.array([0.5, -1.0, 2.0])
    point = sg.from_sympy(sp.Matrix([[x, y * z], [1, x + z]]), [[x, y, z]])
    np.testing.assert_allclose(point(v), [[0.5, -2], [1, 2.5]])
    assert point(np.ones((3, 4))).shape == (2, 2, 4)
    np.testing.assert_allclose(point([0.5, -1.0, 2.0]), [[0.5, -2], [1, 2.5]])
    assert sg.jacobian(point)(v).shape == (2, 2, 3)
    m = sp.Matrix(2, 2, sp.symbols("a:d", real=True))
    inverse = sg.from_sympy(m.inv(), [m])
    np.testing.assert_allclose(inverse(a[:2, :2]), np.linalg.inv(a[:2, :2]))
    A, b = sp.MatrixSymbol("A", 3, 3), sp.MatrixSymbol("b", 3, 1)
    both = sg.from_sympy(
        [A * b - 2 * b, A.T * A + sp.Identity(3), A**3, A.I * b, sp.Trace(A) * sp.Determinant(A),
         A[0, 2] * b[1, 0], sp.hadamard_product(A, A), sp.ZeroMatrix(3, 1) + b,
         sp.ImmutableMatrix(3, 3, range(9)) * b],
        [A, b],
    )  # fmt: skip
    column = v[:, None]
    expected = [
        a @ column - 2 * column, a.T @ a + np.eye(3), a @ a @ a, np.linalg.solve(a, column),
        np.trace(a) * np.linalg.det(a), a[0, 2] * v[1], a * a, column,
        np.arange(9.0).reshape(3, 3) @ column,
    ]  # fmt: skip
    for given in (v, column):
        for got, want in zip(both(a, given), expected, strict=True):
            assert np.shape(got) == np.shape(want)
            np.testing.assert_allclose(got, want, 1e-12)
    base = sp.IndexedBase("u")
    i = sp.Symbol("i", integer=True)
    total = sg.from_sympy(sp.Sum(base[i] ** 2, (i, 0, 2)), base)
    np.testing.assert_allclose(sg.grad(total)(v), 2 * v)


def test_what_sympy_works_out_first() -> None:
    i, j = sp.symbols("i j", integer=True)
    plain = sp.Symbol("w")  # not known to be real
    cases: list[tuple[Any, Sequence[Any], Any]] = [
        (sp.Derivative(x**3, x), (x,), 3 * x**2),
        (sp.Derivative(sp.Abs(plain), plain), (plain,), sp.sign(plain)),
        (sp.Integral(sp.cos(y), (y, 0, x)), (x,), sp.sin(x)),
        (sp.Sum(x**i / sp.factorial(i), (i, 0, 3)), (x,), 1 + x + x**2 / 2 + x**3 / 6),
        (sp.Sum(x * i + j, (i, 0, j), (j, 1, 3)), (x,), x * 10 + 20),
        (sp.Product(x + i, (i, 1, 3)), (x,), (x + 1) * (x + 2) * (x + 3)),
        (sp.Sum(x, (i, 1, 0)), (x,), sp.Integer(0)),
        (sp.Subs(x**2 + y, y, 3), (x,), x**2 + 3),
    ]  # fmt: skip
    for e, args, expected in cases:
        found = sg.from_sympy(e, args)(0.7)
        assert found == pytest.approx(exactly(expected, {args[0]: 0.7}), rel=1e-14), e
    t = sp.Symbol("t")
    q = sp.Function("q")(t)
    energy = sg.from_sympy(sp.diff(q**2, t), [q, q.diff(t)])
    assert energy(3.0, 0.5) == 3.0


def test_conditions() -> None:
    p, q = sp.symbols("p q")
    cases = {
        sp.And(x > 0, y <= 1, sp.Ne(x, y)): lambda a, b: (a > 0) & (b <= 1) & (a != b),
        sp.Or(x < 0, sp.Not(sp.Eq(y, 0))): lambda a, b: (a < 0) | (b != 0),
        sp.Xor(x < 0, y < 0): lambda a, b: (a < 0) ^ (b < 0),
        sp.Implies(x < 0, y < 0): lambda a, b: (a >= 0) | (b < 0),
        sp.Equivalent(x < 0, y < 0): lambda a, b: (a < 0) == (b < 0),
        sp.ITE(x < 0, y < 1, y > 2): lambda a, b: np.where(a < 0, b < 1, b > 2),
        sp.And(x >= 0, sp.Eq(x, y)): lambda a, b: (a >= 0) & (a == b),
        sp.Contains(x, sp.Interval.Ropen(0, 1)): lambda a, b: (a >= 0) & (a < 1),
    }
    a, b = (m.ravel() for m in np.meshgrid([-1.0, 0.0, 0.5, 1.0, 3.0], [-1.0, 0.0, 1.0, 3.0]))
    for e, expected in cases.items():
        found = sg.from_sympy(e, (x, y))(a, b)
        np.testing.assert_array_equal(found, expected(a, b), str(e))
        assert found.dtype == bool
    choice = sg.from_sympy(sp.Piecewise((2, p & ~q), (x, q)), (x, p, q))
    flags = np.array([True, False, False]), np.array([False, True, False])
    np.testing.assert_array_equal(choice(5.0, *flags), [2, 5, np.nan])
    used = {type(part) for e in cases for part in sp.preorder_traversal(e)}
    assert used >= {*RELATIONS, *LOGIC} - {sp.Not}


def test_slopes_of_the_branch_not_taken_do_not_matter() -> None:
    f = sg.from_sympy(sp.Piecewise((sp.log(x), x > 0), (0, True)), x)
    np.testing.assert_array_equal(sg.vmap(sg.grad(f))(np.array([2.0, 0.0, -1.0])), [0.5, 0, 0])


def test_text() -> None:
    f = sg.from_sympy("sin(x)*y + Max(x, 2)", "x y")
    assert f(1.0, 2.0) == pytest.approx(2 * np.sin(1) + 2)
    assert f.stages(1.0, 2.0).source.startswith("# sin(x)*y + Max(x, 2) by (x, y)")


@pytest.mark.parametrize(
    ("kind", "make", "text"),
    [
        (UsageError, lambda: sg.from_sympy(x + y, x), r"y is no argument; the arguments are \(x\)"),
        (UsageError, lambda: sg.from_sympy(x + sp.Symbol("y"), (x, y)), "other assumptions"),
        (UsageError, lambda: sg.from_sympy(x, (x, x)), "twice"),
        (UsageError, lambda: sg.from_sympy(x, 3), "cannot be an argument"),
        (UsageError, lambda: sg.from_sympy(x, sp.Symbol("c", imaginary=True)), "not to be real"),
        (UsageError, lambda: sg.from_sympy("x +", x), "no expression"),
        (UnsupportedError, lambda: sg.from_sympy(sp.besselj(0, x), x), "besselj.*rewrite"),
        (UnsupportedError, lambda: sg.from_sympy(sp.exp(sp.I * x), x), "the constant I is no real"),
        (UnsupportedError, lambda: sg.from_sympy(sp.Function("h")(x), x), "h in .* no formula"),
        (UnsupportedError, lambda: sg.from_sympy(sp.Sum(x, (z, 0, y)), (x, y)), "whole numbers"),
        (UnsupportedError, lambda: sg.from_sympy(sp.Sum(x**z, (z, 0, 5000)), x), "5001 terms"),
        (UnsupportedError, lambda: sg.from_sympy(sp.Integral(sp.sin(sp.cos(x)) / x, x), x), "work"),
        (UnsupportedError, lambda: sg.from_sympy(sp.polygamma(y, x), (x, y))(1.0, 1.0), "natural"),
        (ShapeError, lambda: sg.from_sympy(x + y, (x, y))(np.ones(2), np.ones(3)), "broadcast"),
        (ShapeError, lambda: sg.from_sympy(x + y, [[x, y]])(np.ones(3)), "2 elements"),
        (ShapeError, lambda: sg.from_sympy(x + y, [[x, y]])(1.0), "a number"),
        (ShapeError, lambda: sg.from_sympy(sp.MatrixSymbol("A", 2, 2), sp.MatrixSymbol("A", 2, 2))
         (np.ones((4, 2, 2))), r"\[2, 2\].*vmap"),
        (DTypeError, lambda: sg.from_sympy(x, x)(np.ones(2, complex)), "complex"),
        (TypeError, lambda: sg.from_sympy(x + y, (x, y))(1.0), "argument: 'y'"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(kind: type[Exception], make: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        make()


def test_on_the_command_line() -> None:
    runner = CliRunner()
    code = 'sg.from_sympy("x**2*sin(y)", "x y")'
    shown = runner.invoke(app, ["trace", "-c", code, "--arg", "y:f64[3]", "--arg", "x:f64"])
    assert shown.exit_code == 0
    assert "func @formula(%x: f64[], %y: f64[3])" in shown.output
    code = "sg.from_sympy(sympy.Symbol('u')**3, sympy.Symbol('u'))"
    found = runner.invoke(app, ["check", "-c", code, "--arg", "u=1.5"])
    assert found.exit_code == 0, found.output
