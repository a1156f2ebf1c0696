"""autograd's side of the comparison: NumPy calls, differentiated while they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import autograd
import autograd.numpy as anp
import cases
import numpy as np
import science
from autograd.builtins import tuple as traced_tuple
from autograd.scipy.special import logsumexp

Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"autograd {metadata.version('autograd')}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """BLAS reads its number of threads from the environment; nothing is left to do."""


def arrays(result: Any) -> list[Any]:
    """The arrays of a result: a value, and a gradient or a tuple of them."""
    return [result[0], *(result[1] if isinstance(result[1], tuple) else result[1:])]


def rosenbrock() -> Call:
    """Value and gradient."""
    f, x = autograd.value_and_grad(lambda x: anp.sum(cases.rosenbrock(x))), cases.rosenbrock_input()
    return lambda: f(x)


def nested() -> Call:
    """Value and gradient of sin(sin(...(x)))."""

    def sines(x: Any) -> Any:
        return science.nested_sines(x, cases.NESTED_DEPTH, anp.sin)

    f = autograd.value_and_grad(sines)
    return lambda: f(cases.NESTED_INPUT)


def gmm(d: int, k: int, n: int) -> Call:
    """Value and gradient by all parameters of the mixture."""
    rows, columns = science.triangle(d)
    index = np.full((d, d), d * (d + 1) // 2)
    index[np.diag_indices(d)] = np.arange(d)
    index[rows, columns] = d + np.arange(len(rows))
    *parameters, x = science.mixture_inputs(d, k, n)

    def value(parameters: Any) -> Any:
        weights, means, factors = parameters
        numbers = [anp.exp(factors[:, :d]), factors[:, d:], np.zeros((k, 1))]
        q = anp.concatenate(numbers, 1)[:, index]
        return science.mixture(weights, means, factors, x, q, anp.exp, logsumexp)

    f = autograd.value_and_grad(value)
    return lambda: f(tuple(parameters))


def bundle_adjustment(**sizes: int) -> Call:
    """Errors of all observations, and the Jacobian's blocks by camera, point and weight."""
    cameras, points, weights, features, camera, point = science.bundle_inputs(**sizes)
    one, zero = np.ones_like(weights), np.zeros_like(weights)

    def errors(wrt: Any) -> Any:
        return traced_tuple(science.reprojection(*wrt, features, anp))

    def residuals() -> tuple[Any, ...]:
        pullback, found = autograd.make_vjp(errors)((cameras[:, camera], points[:, point], weights))
        rows = np.stack([np.vstack(pullback(ct)) for ct in ((one, zero), (zero, one))])
        return np.stack(found), 1 - weights * weights, rows, -2 * weights

    return residuals
