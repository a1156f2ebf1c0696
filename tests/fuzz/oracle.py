"""What compiled results are held against: the interpreter, with a tolerance per element.

How far rounding alone may move a result is found by running the interpreter again with
random errors of a few units in the last place behind every inexact operation (J. Vignes,
"A stochastic arithmetic for reliable scientific computation", 1993): an element that
moves there may move by a multiple of it in compiled code, others must agree closely.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lowering.scope import Scope
from symgrad.ir import Func
from symgrad.ir.interp import evaluate, interpret
from symgrad.ir.passes import DEFAULT, optimize

from tests.fuzz.programs import Program

Array = np.ndarray[Any, Any]
Noise = Callable[[tuple[int, ...]], Array]

REQUIRED = ("expand", "fuse")
"""Passes that make the form which has kernels."""
DISABLED = tuple((p.name,) for p in DEFAULT if p.name not in REQUIRED)
PAIRS = 2
NOISE = 4
"""Errors in units of the last place."""
_EXACT = {
    "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "maximum", "minimum", "relu",
    "select", "convert", "copysign", "rem", "fmod", "floor_div",
}  # fmt: skip
"""Elementwise ops that round nothing (or whole numbers only)."""
_ROUNDED = {"add", "sub", "mul", "scale"}
"""Elementwise ops that are exact on short numbers."""
_SUMS = {
    "reduce_sum", "reduce_prod", "dot_general", "conv", "conv_input_grad", "conv_weight_grad",
    "window_sum", "window_sum_grad", "window_max_scatter", "cumsum", "cumprod", "recurrence",
    "moments", "scatter_add",
}  # fmt: skip
"""Ops that accumulate: their error scales with their operands, not with their result."""


def _shaken(array: Array, noise: Noise, *, short: bool) -> Array:
    """The array with errors of a few units in the last place, in short numbers too or not.

    Small multiples of 1/1024 count as short: sums and products of few of them are exact.
    """
    if array.dtype.kind != "f":
        return array
    moved = (array * (1 + noise(array.shape) * np.finfo(array.dtype).eps)).astype(array.dtype)
    steps = array.astype(np.float64) * 1024
    is_short = (steps == np.round(steps)) & (np.abs(steps) < 2**20)
    return moved if short else np.where(is_short, array, moved)


def interpret_inexactly(func: Func, arguments: Sequence[Array], noise: Noise) -> list[Array]:
    """The interpreter's results with rounding errors of ``noise`` units."""
    env = dict(zip(func.params, arguments, strict=True))
    with np.errstate(all="ignore"):
        for op in func.ops:
            operands = [env[v] for v in op.operands]
            if op.name in _SUMS:
                operands = [_shaken(a, noise, short=False) for a in operands]
            results = evaluate(op, operands)
            if (op.opdef.elementwise and op.name not in _EXACT) or op.name == "moments":
                results = tuple(_shaken(a, noise, short=op.name not in _ROUNDED) for a in results)
            env.update(zip(op.results, results, strict=True))
    return [env[v] for v in func.results]


def _noises() -> Iterator[Noise]:
    """Random errors, and the same ones with the other sign: one of a pair crosses a boundary."""
    for seed, sign in itertools.product(range(PAIRS), (1, -1)):
        rng = np.random.default_rng(seed)
        yield lambda shape, rng=rng, sign=sign: sign * rng.uniform(-NOISE, NOISE, shape)  # type: ignore[misc]


def tolerances(func: Func, arguments: Sequence[Array], exact: Sequence[Array]) -> list[Array]:
    """How far each element may lie from the interpreter's."""
    runs = [interpret_inexactly(func, arguments, noise) for noise in _noises()]
    bounds = []
    with np.errstate(all="ignore"):
        for i, expected in enumerate(exact):
            wide = expected.astype(np.float64)
            spread = np.max([np.abs(run[i].astype(np.float64) - wide) for run in runs], axis=0)
            # Where rounding decides between numbers and nan or infinity, anything goes.
            spread = np.where(np.isnan(spread) & np.isfinite(wide), np.inf, np.nan_to_num(spread))
            base = 0.0
            if expected.dtype.kind == "f":
                largest = np.max(np.abs(wide), initial=0, where=np.isfinite(wide))
                base = 256 * float(np.finfo(expected.dtype).eps) * (1 + largest)
            bounds.append(base + 32 * spread)
    return bounds


def assert_agrees(actual: Array, expected: Array, bound: Array, what: str) -> None:
    """Types are equal and every element lies within its bound."""
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, not {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, not {expected.shape}"
    with np.errstate(all="ignore"):
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        same = (actual == expected) | (np.isnan(a) & np.isnan(e))
        wrong = ~(same | (np.abs(a - e) <= bound) | np.isinf(bound))
    if wrong.any():
        at = tuple(map(int, np.argwhere(wrong)[0]))
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.size} elements differ, first at {at}: "
            f"{actual[at]!r} instead of {expected[at]!r}, allowed {np.asarray(bound)[at]:.1e}"
        )


class Oracle:
    """The expected results of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.expected = interpret(program.func, program.arguments)
        self.bounds = tolerances(program.func, program.arguments, self.expected)

    def check(
        self,
        *,
        disable: Sequence[str] = (),
        threads: int = 1,
        donate: Sequence[int] = (),
    ) -> None:
        """Compiles, runs and compares; arguments that were not donated must survive."""
        what = f"disable={tuple(disable)} threads={threads} donate={tuple(donate)}"
        optimised = optimize(self.program.func, disable=disable)
        executable = compile_func(optimised, threads=threads, donate=donate)
        arguments = [a.copy() for a in self.program.arguments]
        for _ in range(2):  # the second run finds the arena as the first one left it
            given = [a.copy() if i in donate else a for i, a in enumerate(arguments)]
            results = executable(given)
            for i, (actual, expected, bound) in enumerate(
                zip(results, self.expected, self.bounds, strict=True)
            ):
                assert_agrees(np.asarray(actual), expected, bound, f"{what}: result {i}")
        for i, (now, before) in enumerate(zip(arguments, self.program.arguments, strict=True)):
            if i not in donate:
                assert_agrees(now, before, np.zeros(now.shape), f"{what}: argument {i}")


def share_everything(scope: Scope, flops: float, bytes: float) -> int:
    """Stands in for ``Scope.threads_for``: even tiny work is shared among the threads."""
    return scope.threads
