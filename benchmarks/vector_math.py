"""Speed and accuracy of elementary functions, beside NumPy's.

    python benchmarks/vector_math.py [NAME ...]

One thread, arrays that fit the first caches, results into given arrays.  Times are the
least of many runs that take turns; errors are the largest seen, in units of the last
place, against NumPy's functions of a wider type on the same arguments.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import symgrad as sg

Array = np.ndarray[Any, Any]

SIZE, ROUNDS, CALLS = 4096, 60, 8
SAMPLES = 500_000
RANGES: dict[str, tuple[float, float]] = {
    "exp": (-10, 10), "exp2": (-10, 10), "expm1": (-2, 5), "log": (0.1, 100), "log2": (0.1, 100),
    "log10": (0.1, 100), "log1p": (-0.5, 10), "sin": (-10, 10), "cos": (-10, 10),
    "tan": (-1.5, 1.5), "arcsin": (-1, 1), "arccos": (-1, 1), "arctan": (-10, 10),
    "sinh": (-5, 5), "cosh": (-5, 5), "tanh": (-4, 4), "arcsinh": (-10, 10), "arccosh": (1, 10),
    "arctanh": (-0.99, 0.99), "sqrt": (0, 10), "cbrt": (-10, 10),
}  # fmt: skip
"""Arguments by NumPy's name of the function."""
WIDER = {np.float32: np.float64, np.float64: np.longdouble}


def least(*calls: Callable[[], Any]) -> list[float]:
    """Least seconds of each call, which take turns."""
    found = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            found[i] = min(found[i], (time.perf_counter() - start) / CALLS)
    return found


def worst(got: Array, exact: Array) -> float:
    """The largest distance in units of the last place of what would be right."""
    digits = np.finfo(got.dtype).nmant + 1
    unit = np.exp2((np.frexp(np.abs(exact))[1] - digits).astype(exact.dtype))
    return float(np.max(np.abs(got.astype(exact.dtype) - exact) / unit))


def _apply(function: Callable[[Array], Array], x: Array) -> Array:
    return function(x)


def main() -> None:
    """Prints one row for each function and dtype."""
    sg.set_num_threads(1)
    rng = np.random.default_rng(0)
    table = Table("function", "dtype", "symgrad", "NumPy", "ratio", "error", "NumPy's error")
    for name in sys.argv[1:] or RANGES:
        function = getattr(np, name)
        compiled = sg.jit(partial(_apply, function))
        for dtype, wider in WIDER.items():
            sample = rng.uniform(*RANGES[name], SAMPLES).astype(dtype)
            exact = function(sample.astype(wider))
            errors = [worst(f(sample), exact) for f in (compiled, function)]
            x, out = sample[:SIZE], np.empty(SIZE, dtype)
            ours, theirs = least(*(partial(f, x, out=out) for f in (compiled, function)))
            each = [f"{seconds / SIZE * 1e9:.2f} ns" for seconds in (ours, theirs)]
            ulps = [f"{error:.2f}" for error in errors]
            table.add_row(name, np.dtype(dtype).name, *each, f"{theirs / ours:.2f}", *ulps)
    Console().print(table)


if __name__ == "__main__":
    main()
