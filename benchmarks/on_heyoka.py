"""heyoka's side of the comparison: symbolic expressions, compiled by LLVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from itertools import pairwise
from typing import Any

import cases
import heyoka
import numpy as np

Call = Callable[[], Any]
AHEAD_OF_TIME = True
"""Building a case compiles it."""
LONG = 100
"""Steps of a chain above which compact code compiles sooner."""


def version() -> str:
    """Library and version."""
    return f"heyoka {metadata.version('heyoka')}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """Its functions run on one thread."""


def arrays(result: Any) -> list[Any]:
    """The arrays of a result."""
    return list(result)


def _compiled(variables: list[Any], value: Any, compact: bool = False) -> Any:
    derivatives = heyoka.diff_tensors([value], diff_args=variables, diff_order=1)
    return heyoka.cfunc([value, *derivatives.gradient], variables, compact_mode=compact)


def rosenbrock() -> Call:
    """Value and gradient."""
    at = cases.rosenbrock_input()
    x = [heyoka.expression(f"x{i}") for i in range(len(at))]
    terms = [100.0 * (y - x**2) ** 2 + (1.0 - x) ** 2 for x, y in pairwise(x)]
    f = _compiled(x, heyoka.sum(terms))

    def call() -> tuple[Any, Any]:
        found = f(at)
        return found[0], found[1:]

    return call


def nested() -> Call:
    """Value and gradient of sin(sin(...(x)))."""
    x = y = heyoka.expression("x")
    for _ in range(cases.NESTED_DEPTH):
        y = heyoka.sin(y)
    f, at = _compiled([x], y), np.array([cases.NESTED_INPUT])
    return lambda: tuple(f(at))


def unrolled(n: int) -> Call:
    """Value and gradient of ``y = sin(x c_i + y)``, n times; many points at once."""
    at, coefficients = cases.unrolled_inputs(n)
    x = heyoka.expression("x")
    y = heyoka.sin(x * coefficients[0])
    for c in coefficients[1:]:
        y = heyoka.sin(x * c + y)
    f, points = _compiled([x], y, compact=n > LONG), at[None]

    def call() -> tuple[Any, Any]:
        values, gradient = f(points)
        return values.sum(), gradient

    return call
