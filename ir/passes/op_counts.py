"""Arithmetic of value and gradient before and after ``simplify_scalar``, as a table.

python -m symgrad.ir.passes.op_counts [--formulas]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from symgrad.ir.adjoint import pull_back
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Func, Region, Value
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.passes import op_cost, optimize
from symgrad.ir.passes.simplify_scalar import simplify_region
from symgrad.ir.passes.symbolic_report import formulas
from symgrad.ir.types import TensorType, f64


def gelu_tanh(x: Value) -> Value:
    """The approximation of D. Hendrycks and K. Gimpel, arXiv:1606.08415."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * ew.power(x, 3))
    result: Value = 0.5 * x * (1 + ew.tanh(inner))
    return result


def gelu_erf(x: Value) -> Value:
    """x times the normal distribution function."""
    result: Value = 0.5 * x * (1 + ew.erf(x / math.sqrt(2)))
    return result


def silu(x: Value) -> Value:
    """x times its sigmoid."""
    result: Value = x * ew.sigmoid(x)
    return result


def softplus(x: Value) -> Value:
    """log(1 + exp(x)), as one would write it."""
    result: Value = ew.log(1 + ew.exp(x))
    return result


def sigmoid_cross_entropy(x: Value, label: Value) -> Value:
    """Minus the log-likelihood of a label in [0, 1], as one would write it."""
    p = ew.sigmoid(x)
    result: Value = -(label * ew.log(p) + (1 - label) * ew.log(1 - p))
    return result


def black_scholes(spot: Value, strike: Value, rate: Value, volatility: Value, time: Value) -> Value:
    """Price of a European call (F. Black and M. Scholes, 1973)."""

    def normal(d: Value) -> Value:
        probability: Value = 0.5 * (1 + ew.erf(d / math.sqrt(2)))
        return probability

    spread = volatility * ew.sqrt(time)
    drift = (rate + volatility * volatility / 2) * time
    d1 = (ew.log(spot / strike) + drift) / spread
    price: Value = spot * normal(d1) - strike * ew.exp(-rate * time) * normal(d1 - spread)
    return price


FUNCTIONS: tuple[Callable[..., Value], ...] = (
    gelu_tanh, gelu_erf, silu, softplus, sigmoid_cross_entropy, black_scholes,
)  # fmt: skip


def value_and_gradient(f: Callable[..., Value], points: int = 4096) -> Func:
    """``f`` of arrays and its pull-back of a cotangent, as one function."""
    builder = Builder(locations=False)
    names = f.__code__.co_varnames[: f.__code__.co_argcount]
    params = [builder.param(TensorType(f64, (points,)), name) for name in names]
    ct = builder.param(TensorType(f64, (points,)), "ct")
    with builder:
        y = f(*params)
    grads = pull_back(builder, [y], [ct], params)
    return builder.build([y, *(g for g in grads if g is not None)], f.__name__)


def regions(f: Callable[..., Value]) -> tuple[Region, Region, list[str]]:
    """The scalar region of value and gradient before and after simplification, and the
    names of its parameters."""
    (nest,) = optimize(value_and_gradient(f), disable=("simplify_scalar",)).ops
    (before,) = nest.regions
    return before, simplify_region(before), [v.name for v in nest.operands]


def main(arguments: list[str]) -> None:
    """Prints the table, and with ``--formulas`` what was simplified."""
    print(f"{'value and gradient':<24}{'ops':>12}{'cycles':>14}")
    for f in FUNCTIONS:
        before, after, names = regions(f)
        ops = f"{op_cost.count(before.ops)} -> {op_cost.count(after.ops)}"
        cycles = f"{op_cost.cost(before):.0f} -> {op_cost.cost(after):.0f}"
        print(f"{f.__name__:<24}{ops:>12}{cycles:>14}")
        if "--formulas" in arguments:
            for title, region in (("before", before), ("after", after)):
                print(f"  {title}:")
                print("".join(f"    {line}\n" for line in formulas(region, names)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
