"""A cotangent of zero stays zero whatever the slope: in every form of derivative, any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as sg

X = np.array([-1.0, 2.0, 0.0])
BRANCHES: dict[str, Callable[[Any], Any]] = {
    "sqrt": lambda x: np.where(x > 0, np.sqrt(x), x),
    "log": lambda x: np.where(x > 0, np.log(x), x),
    "power": lambda x: np.where(x > 0, x**1.5, x),
    "quotient": lambda x: np.where(x > 0, 1 / x, x),
    "arcsin": lambda x: np.where(x < 1, x, np.arcsin(x - 2) + x),
    "overflow": lambda x: np.where(x > -0.5, x, np.exp(1000 * x * x) * 0 + x),
}
SLOPES = {
    "sqrt": 0.5 / np.sqrt(2), "log": 0.5, "power": 1.5 * np.sqrt(2), "quotient": -0.25,
    "arcsin": 2.0, "overflow": 1.0,
}  # fmt: skip
"""At 2; elsewhere it is 1."""
FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "grad": lambda f, x: sg.grad(lambda x: np.sum(f(x)))(x),
    "vjp": lambda f, x: sg.vjp(f, x)[1](np.ones_like(x))[0],
    "vjp, traced": lambda f, x: sg.jit(lambda x: sg.vjp(f, x)[1](np.ones_like(x))[0])(x),
    "jvp": lambda f, x: sg.jvp(f, (x,), (np.ones_like(x),))[1],
    "jacrev": lambda f, x: np.diag(sg.jacrev(f)(x)),
    "jacfwd": lambda f, x: np.diag(sg.jacfwd(f)(x)),
    "checkpoint": lambda f, x: sg.grad(sg.checkpoint(lambda x: np.sum(f(x))))(x),
    "vmap": lambda f, x: sg.vmap(sg.grad(f))(x),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [n for n in BRANCHES if n != "overflow"])
def test_untaken_branches(name: str, form: str) -> None:
    found = FORMS[form](BRANCHES[name], X)
    np.testing.assert_allclose(found, [1, SLOPES[name], 1], 1e-14)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "f", [lambda x: np.linalg.norm(x * 0), lambda x: np.std(x[:1] + x[1:2] * 0, keepdims=True)]
)
def test_norms_at_zero(f: Callable[..., Any], form: str) -> None:
    if form == "vmap":
        found = sg.vmap(sg.grad(lambda x: np.sum(f(x))))(X[None])[0]
    elif form in ("jacrev", "jacfwd"):
        found = getattr(sg, form)(lambda x: np.sum(f(x)))(X)
    elif form.startswith("vjp"):
        return np.testing.assert_array_equal(
            sg.vjp(lambda x: np.sum(f(x)), X)[1](np.asarray(1.0))[0], np.zeros(3)
        )
    else:
        found = FORMS[form](lambda x: np.sum(f(x)), X)
    np.testing.assert_array_equal(found, np.zeros_like(found))


SECOND: dict[str, Callable[[Any, Any], Any]] = {
    "hessian": lambda g, x: np.diag(sg.hessian(g)(x)),
    "hvp": lambda g, x: sg.hvp(g, x, np.ones_like(x)),
    "grad of grad": lambda g, x: sg.grad(lambda x: np.sum(sg.grad(g)(x)))(x),
    "reverse twice": lambda g, x: np.diag(sg.jacrev(sg.jacrev(g))(x)),
    "forward twice": lambda g, x: np.diag(sg.jacfwd(sg.jacfwd(g))(x)),
    "forward inside": lambda g, x: np.diag(sg.jacrev(sg.jacfwd(g))(x)),
}


@pytest.mark.parametrize("form", SECOND)
@pytest.mark.parametrize("name", ["sqrt", "log", "power", "quotient"])
def test_second_derivatives_of_untaken_branches(name: str, form: str) -> None:
    def g(x: Any) -> Any:
        return np.sum(BRANCHES[name](x) ** 3)

    steps = np.array([-1.0, 2.0]), np.full(2, 1e-4)
    at = [sg.grad(g)(steps[0] + sign * steps[1]) for sign in (1, -1)]
    np.testing.assert_allclose(SECOND[form](g, X[:2]), (at[0] - at[1]) / 2e-4, 1e-6)


def test_residuals_and_their_facts_tell_programs_apart() -> None:
    """The same text: a parameter that is finite, and a residual that need not be."""

    def f(x: Any, y: Any) -> Any:
        return np.sum(np.where(np.isfinite(y), x * y, 0.0))

    def g(x: Any, y: Any) -> Any:
        return f(x, 1 / y)

    x, y = np.ones(2), np.array([0.0, 2.0])
    for h, slope in ((f, [0, 2]), (g, [0, 0.5])):
        np.testing.assert_array_equal(sg.vjp(h, x, y)[1](np.asarray(1.0))[0], slope)
