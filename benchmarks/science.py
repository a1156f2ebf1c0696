"""Objectives of scientific computing: their inputs, and formulas that several sides share.

The mixture, the bundles and the recurrent network are those of ADBench (Srajer, Kukelova,
Fitzgibbon, "A benchmark of selected algorithmic differentiation tools", 2018), on random data of
its sizes, all f64.  Formulas use operators and methods that every library's arrays have, and take
the functions that they have under different names as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# --------------------------------------------------------------------- small formulas --


def nested_sines(x: Any, depth: int, sin: Callable[[Any], Any]) -> Any:
    """sin(sin(...(x)))"""
    for _ in range(depth):
        x = sin(x)
    return x


def chain_of_sines(x: Any, coefficients: Sequence[float], m: Any) -> Any:
    """The sum of ``y`` after ``y = sin(x c + y)`` for each coefficient; ``m`` has ``sin``."""
    y = m.zeros_like(x)
    for c in coefficients:
        y = m.sin(x * c + y)
    return y.sum()


def option_prices(
    s: Any, k: Any, t: Any, r: Any, v: Any, m: Any, erfc: Callable[[Any], Any]
) -> Any:  # fmt: skip
    """The sum of what call options cost by Black and Scholes.

    Spot and strike price, years to go, interest rate and volatility of each; ``m`` has ``exp``,
    ``log`` and ``sqrt``.
    """

    def normal(x: Any) -> Any:
        return 0.5 * erfc(x * -(0.5**0.5))

    width = v * m.sqrt(t)
    d = (m.log(s / k) + (r + 0.5 * v * v) * t) / width
    return (s * normal(d) - k * m.exp(-r * t) * normal(d - width)).sum()


# ------------------------------------------------------------------ Gaussian mixture --


def mixture_inputs(d: int, k: int, n: int) -> tuple[Array, ...]:
    """Weights [k], means [k, d], factors of the inverse covariances [k, d(d+1)/2], points [n, d].

    A factor Q holds the logarithms of its diagonal, then its lower triangle, column by column.
    """
    rng = np.random.default_rng(2)
    factors = rng.standard_normal((k, d * (d + 1) // 2))
    return rng.standard_normal(k), rng.random((k, d)), factors, rng.standard_normal((n, d))


def triangle(d: int) -> tuple[Array, Array]:
    """Rows and columns of the strictly lower triangle, column by column."""
    columns, rows = np.triu_indices(d, 1)
    return rows, columns


def mixture(
    weights: Any, means: Any, factors: Any, x: Any, q: Any, exp: Callable[..., Any],
    logsumexp: Callable[[Any, int], Any],
) -> Any:  # fmt: skip
    """Log likelihood of the points ``x``, with a Wishart prior of gamma 1 and m 0.

    ``q`` are the factors as matrices [k, d, d].  All products with points are one:
    Q (x - mu) = Q x - Q mu.
    """
    k, d = means.shape
    n = len(x)
    logs, lower = factors[:, :d], factors[:, d:]
    y = (x @ q.reshape(k * d, d).T).reshape(n, k, d) - (q @ means[:, :, None])[:, :, 0]
    terms = weights + logs.sum(1) - 0.5 * (y * y).sum(2)
    prior = 0.5 * (exp(2 * logs).sum() + (lower * lower).sum())
    likelihood = logsumexp(terms, 1).sum() - n * logsumexp(weights, 0)
    return likelihood + prior + _mixture_constant(d, k, n)


def _mixture_constant(d: int, k: int, n: int) -> float:
    """The terms that depend on no parameter: normal density and Wishart prior."""
    log_gamma = 0.25 * d * (d - 1) * math.log(math.pi)
    log_gamma += sum(math.lgamma(0.5 * (d + 2 - j)) for j in range(1, d + 1))
    prior = -0.5 * math.log(2) * (d + 1) * d - log_gamma
    return -n * d * 0.5 * math.log(2 * math.pi) - k * prior


# ----------------------------------------------------------------- bundle adjustment --


def bundle_inputs(cameras: int, points: int, observations: int) -> tuple[Array, ...]:
    """Cameras [11, c], points [3, p], weights [o], features [2, o], and the indices [o] of both.

    A camera: rotation (3), centre (3), focal length, principal point (2), radial distortion (2).
    """
    rng = np.random.default_rng(3)
    low = [[-0.3]] * 3 + [[-0.5]] * 3 + [[400]] + [[-10]] * 2 + [[-0.01], [-0.001]]
    high = [[0.3]] * 3 + [[0.5]] * 3 + [[600]] + [[10]] * 2 + [[0.01], [0.001]]
    return (
        rng.uniform(low, high, (11, cameras)),
        rng.uniform(-2, 2, (3, points)) + np.array([[0], [0], [8.0]]),
        rng.uniform(0.5, 1.5, observations),
        rng.uniform(-100, 100, (2, observations)),
        rng.integers(0, cameras, observations),
        rng.integers(0, points, observations),
    )


def reprojection(camera: Any, point: Any, weight: Any, feature: Any, m: Any) -> tuple[Any, Any]:
    """Both errors of one observation, or of many when each component is a vector.

    ``m`` has ``sqrt``, ``sin`` and ``cos``.
    """
    r0, r1, r2, c0, c1, c2, focal, p0, p1, k0, k1 = (camera[i] for i in range(11))
    x, y, z = point[0] - c0, point[1] - c1, point[2] - c2
    angle = m.sqrt(r0 * r0 + r1 * r1 + r2 * r2)
    a0, a1, a2 = r0 / angle, r1 / angle, r2 / angle
    cos, sin = m.cos(angle), m.sin(angle)
    along = (a0 * x + a1 * y + a2 * z) * (1 - cos)
    x, y, z = (
        x * cos + (a1 * z - a2 * y) * sin + a0 * along,
        y * cos + (a2 * x - a0 * z) * sin + a1 * along,
        z * cos + (a0 * y - a1 * x) * sin + a2 * along,
    )
    u, v = x / z, y / z
    square = u * u + v * v
    scale = (1 + k0 * square + k1 * square * square) * focal
    return weight * (u * scale + p0 - feature[0]), weight * (v * scale + p1 - feature[1])


# ---------------------------------------------------------------- recurrent network --

BITS = 14


def lstm_inputs(layers: int, length: int) -> tuple[Array, ...]:
    """Weights and biases of each layer in turn [2l, 4b], of input and output [3, b], hidden
    values and cells of each layer in turn [2l, b], and a sequence of bits [length, b]."""
    rng = np.random.default_rng(4)
    shapes = (2 * layers, 4 * BITS), (3, BITS), (2 * layers, BITS)
    floats = (rng.standard_normal(shape) for shape in shapes)
    return (*floats, rng.integers(0, 2, (length, BITS)).astype(float))


def lstm_step(
    weights: Any, biases: Any, state: Sequence[Any], x: Any, concatenate: Callable[..., Any],
    sigmoid: Callable[[Any], Any], tanh: Callable[[Any], Any],
) -> tuple[Any, ...]:  # fmt: skip
    """The next hidden values and cells of all layers.  All products are elementwise."""
    found: list[Any] = []
    for i in range(len(state) // 2):
        hidden, cell = state[2 * i], state[2 * i + 1]
        z = concatenate((x, hidden, x, hidden)) * weights[i] + biases[i]
        gates = sigmoid(z[: 3 * BITS])
        cell = cell * gates[:BITS] + gates[BITS : 2 * BITS] * tanh(z[3 * BITS :])
        x = gates[2 * BITS :] * tanh(cell)
        found += [x, cell]
    return tuple(found)


def lstm_loss(hidden: Any, extra: Any, sequence: Any, exp: Any, log: Any) -> Any:
    """Mean loss of predicting each next bit from the last layer's ``hidden`` [length - 1, b]."""
    y = hidden * extra[1] + extra[2]
    y = y - log(2 + exp(y).sum(1))[:, None]
    return -(sequence[1:] * y).sum() / ((len(sequence) - 1) * BITS)


# ------------------------------------------------------------------- Lotka-Volterra --

STEPS, STEP = 1000, 0.01


def populations() -> tuple[Array, Array]:
    """Prey and predators at the beginning, and the four rates."""
    return np.array([1.0, 1.0]), np.array([1.5, 1.0, 3.0, 1.0])


def runge_kutta(u: Any, v: Any, rates: Any) -> tuple[Any, Any]:
    """One step of the classical method of order 4 for u' = a u - b u v, v' = d u v - c v."""
    a, b, c, d = (rates[i] for i in range(4))

    def slopes(u: Any, v: Any) -> tuple[Any, Any]:
        return u * (a - b * v), v * (d * u - c)

    k1, l1 = slopes(u, v)
    k2, l2 = slopes(u + 0.5 * STEP * k1, v + 0.5 * STEP * l1)
    k3, l3 = slopes(u + 0.5 * STEP * k2, v + 0.5 * STEP * l2)
    k4, l4 = slopes(u + STEP * k3, v + STEP * l3)
    return u + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4), v + STEP / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
