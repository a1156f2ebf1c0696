"""One side of one case in a process of its own: ``python worker.py JSON``.

The argument holds ``side``, ``kind``, ``options`` and ``threads``.  The worker builds the
case, makes the first call and prints one JSON line about it.  Then it measures for as many
seconds as each line of its standard input says and answers with the samples: so that the
sides of a case can take turns, each idle while the other runs.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import cases

SAMPLE = 5e-3
"""Seconds; calls shorter than this are timed in groups."""


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(call: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds per call of as many samples as fit, at least three."""
    clock = time.perf_counter
    call()  # wakes threads and caches after the pause
    start = clock()
    call()
    group = max(1, round(SAMPLE / max(clock() - start, 1e-7)))
    samples: list[float] = []
    end = clock() + seconds
    while len(samples) < 3 or clock() < end:
        start = clock()
        for _ in range(group):
            call()
        samples.append((clock() - start) / group)
    return samples


def main() -> None:
    job = json.loads(sys.argv[1])
    library, *ways = job["side"].split()
    module = importlib.import_module(f"on_{library}")
    module.set_up(job["threads"], ways)
    start = time.perf_counter()
    call = getattr(module, job["kind"])(**job["options"])
    if not getattr(module, "AHEAD_OF_TIME", False):  # building is compiling then
        start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    norms = cases.norms(module.arrays(result))
    first = {"version": module.version(), "norms": norms, "first_call": seconds}
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        samples = measure(call, float(line))
        print(json.dumps({"samples": samples, "peak_memory": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
