"""Matrix products against NumPy's BLAS and PyTorch.

``python benchmarks/gemm.py [--threads 1 2] [--dtypes f32 f64] [--rounds 5]`` prints, for a
table of products, Gflop/s of a compiled ``a @ b``, of NumPy's and of PyTorch's, where that is
installed, and our rate relative to the better one.  All are called from Python and return a
fresh array; all take the least time of interleaved runs, of processor time where there is
one thread.  With threadpoolctl installed, BLAS gets the same number of threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import symgrad

torch: Any
try:
    import torch
except ImportError:
    torch = None

SQUARES = [(n, n, n) for n in (4, 10, 16, 32, 64, 100, 128, 256, 512, 1024, 2048, 4096)]
OTHERS = [
    (1, 1000, 1000),
    (1000, 1, 1000),
    (8, 512, 512),
    (10, 1000, 100),
    (1000, 10, 100),
    (1000, 4, 100),
    (10, 10, 10000),
    (512, 512, 16),
    (64, 512, 1000),
    (128, 1000, 512),
    (1, 4096, 4096),
    (16, 4096, 4096),
    (4096, 16, 4096),
    (3, 3, 100000),
    (1000, 1000, 10),
]
PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "NN": lambda a, b: a @ b,
    "NT": lambda a, b: a @ b.T,
    "TN": lambda a, b: a.T @ b,
    "TT": lambda a, b: a.T @ b.T,
}
"""By how the operands lie in memory: normal or transposed."""
DTYPES = {"f32": np.float32, "f64": np.float64}
Array = np.ndarray[Any, Any]


def operands(m: int, n: int, k: int, dtype: str, order: str) -> tuple[Array, Array]:
    """Random matrices; a ``T`` in ``order`` stores that operand transposed."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, cols: int, turned: bool) -> Array:
        shape = (cols, rows) if turned else (rows, cols)
        return rng.standard_normal(shape).astype(DTYPES[dtype])

    return matrix(m, k, order[0] == "T"), matrix(k, n, order[1] == "T")


def blas_threads(threads: int) -> AbstractContextManager[Any]:
    """Limits NumPy's BLAS, where that can be done."""
    try:
        import threadpoolctl
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpoolctl.threadpool_limits(threads)
    return limits


def least_times(
    functions: list[Callable[[], Any]], calls: int, rounds: int, threads: int
) -> list[float]:
    """The shortest call of each function, in seconds; rounds are interleaved."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            for _ in range(calls):
                start = clock()
                function()
                best[i] = min(best[i], clock() - start)
    return best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--orders", nargs="+", default=list(PRODUCTS), choices=PRODUCTS)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(
        f"{'product':>26} {'threads':>7} {'symgrad':>8} {'BLAS':>8} {'PyTorch':>8} {'ratio':>6}"
        "  (Gflop/s)"
    )
    for threads in args.threads:
        symgrad.set_num_threads(threads)
        for dtype in args.dtypes:
            for order in args.orders:
                for size in SQUARES + OTHERS:
                    report(size, dtype, order, threads, args.rounds)


def report(size: tuple[int, int, int], dtype: str, order: str, threads: int, rounds: int) -> None:
    """Measures one product and prints its line."""
    m, n, k = size
    a, b = operands(m, n, k, dtype, order)
    plain, compiled = PRODUCTS[order], symgrad.jit(PRODUCTS[order])
    flops = 2.0 * m * n * k
    calls = max(2, min(1000, int(1e8 / (flops / 100 + 1e4))))
    functions: list[Callable[[], Any]] = [lambda: compiled(a, b), lambda: plain(a, b)]
    if torch is not None:
        torch.set_num_threads(threads)
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        functions.append(lambda: plain(left, right))
    with blas_threads(threads):
        np.testing.assert_allclose(compiled(a, b), plain(a, b), rtol=1e-3, atol=1e-3 * k**0.5)
        times = least_times(functions, calls, rounds, threads)
    ours, *theirs = times
    label = f"{dtype} {order} {m}x{n}x{k}"
    rates = [f"{flops / t / 1e9:8.1f}" for t in times] + [" " * 8] * (3 - len(times))
    print(f"{label:>26} {threads:7} {' '.join(rates)} {min(theirs) / ours:6.2f}", flush=True)


if __name__ == "__main__":
    main()
