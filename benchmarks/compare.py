"""Measure symgrad beside PyTorch and NumPy: ``python benchmarks/compare.py``.

Every side of a case runs in its own process; they take turns for several rounds, so that a
noisy machine disturbs both alike.  A ratio is the median over the rounds of the other side's
median time by ours: above 1 we are faster.  Each side's first result must agree with ours.

PyTorch may live in another environment: ``--torch-python path/to/python``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import CASES, Case
from report import Table, write_chart
from results import Result, ratio

HERE = Path(__file__).resolve().parent
BUSY = 0.5
"""Average number of waiting processes above which figures are not to be trusted."""


class Worker:
    """A process that measures one side of a case when told to."""

    def __init__(self, case: Case, side: str, options: argparse.Namespace, cache: Path) -> None:
        threads = case.threads or options.threads
        job = {"side": side, "kind": case.kind, "options": dict(case.options), "threads": threads}
        python = options.torch_python if side.startswith("torch") else sys.executable
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", json.dumps(job)],
            env=environment(threads, cache), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.first = self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of the worker; raises ``RuntimeError`` when it died instead."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        self.process.wait()
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"ended with code {self.process.returncode}")

    def measure(self, seconds: float) -> dict[str, Any]:
        """Samples of about ``seconds``, and the peak memory so far."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.log.close()


def environment(threads: int, cache: Path) -> dict[str, str]:
    """The workers' environment: thread counts for every library, our checkout, our cache."""
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB", "SYMGRAD")
    env |= {f"{name}_NUM_THREADS": str(threads) for name in names}
    paths = [str(HERE.parent), *filter(None, [env.get("PYTHONPATH")])]
    return env | {"PYTHONPATH": os.pathsep.join(paths), "SYMGRAD_CACHE_DIR": str(cache)}


def run(case: Case, sides: list[str], options: argparse.Namespace, cache: Path) -> list[Result]:
    """All sides of a case."""
    results = [Result(case.name, side) for side in sides]
    if case.measure == "time":
        take_turns(case, results, options, cache)
    else:
        for _ in range(max(options.rounds // 2, 1)):
            for result in results:
                with failures(result):
                    fresh_process(case, result, options)
    return results


@contextlib.contextmanager
def failures(result: Result) -> Iterator[None]:
    """A side that fails says why and leaves the others in peace."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        result.error = str(error)


def take_turns(case: Case, results: list[Result], options: argparse.Namespace, cache: Path) -> None:
    """Start a worker per side, then measure them in turn, round by round."""
    workers: dict[str, Worker] = {}
    try:
        for result in results:
            with failures(result):
                workers[result.side] = worker = Worker(case, result.side, options, cache)
                result.first = worker.first
        for _ in range(options.rounds):
            for result in results:
                if result.side in workers and result.error is None:
                    with failures(result):
                        samples = workers[result.side].measure(options.seconds)["samples"]
                        result.rounds.append(statistics.median(samples))
                        result.least = min(result.least, *samples)
    finally:
        for worker in workers.values():
            worker.close()


def fresh_process(case: Case, result: Result, options: argparse.Namespace) -> None:
    """One round of a measurement that needs a new process, and for ``start`` an empty cache."""
    cache = Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        worker = Worker(case, result.side, options, cache)
        result.first = dict(worker.first)
        value = worker.first["import" if case.measure == "import" else "first_call"]
        if case.measure == "memory":
            value = worker.measure(0.5)["peak_memory"]
        worker.close()
        if case.measure == "start":  # again, with what the first process left in the cache
            again = Worker(case, result.side, options, cache)
            result.first["warm_start"] = again.first["first_call"]
            again.close()
        result.rounds.append(value)
        result.least = min(result.least, value)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def machine() -> dict[str, Any]:
    """Where the figures come from, and how busy it was."""
    import platform

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if found := re.search(r"model name\s*: (.*)", text):
            model = found[1]
    return {
        "cpu": model, "cpus": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch-python", help="interpreter that has PyTorch (default: this one)")
    parser.add_argument("--only", default=".*", help="cases to run, a regular expression")
    parser.add_argument("--large", action="store_true", help="also run the 224x224 cases")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side and round")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of results")
    parser.add_argument("--chart", type=Path, help="also write the chart here, for the README")
    options = parser.parse_args()
    if options.torch_python is None and importlib.util.find_spec("torch"):
        options.torch_python = sys.executable
    return options


def main() -> int:
    options = arguments()
    chosen = [
        c for c in CASES if re.search(options.only, c.name) and (options.large or not c.large)
    ]
    if not chosen:
        sys.exit(f"no case matches {options.only!r}; there are: {', '.join(c.name for c in CASES)}")
    if (load := machine()["load"]) > BUSY:
        print(f"the machine is busy (load {load:.1f}): the figures will be off", file=sys.stderr)
    table, found = Table(), {}
    with tempfile.TemporaryDirectory(prefix="compare-") as cache, table.live():
        for case in chosen:
            sides = [s for s in case.sides if options.torch_python or not s.startswith("torch")]
            table.start(case)
            found[case.name] = run(case, sides, options, Path(cache))
            table.add(case, found[case.name])
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "compare.json", found)
    write_chart(options.out / "compare.png", chosen, found)
    if options.chart is not None:
        write_chart(options.chart, chosen, found)
    print(f"\nwrote {options.out / 'compare.json'} and compare.png")
    return int(any(result.error for results in found.values() for result in results))


def write_json(path: Path, found: Mapping[str, list[Result]]) -> None:
    """Every figure, with the machine they come from."""
    results = [
        asdict(result) | {"ratio": ratio(results[0], result)}
        for results in found.values()
        for result in results
    ]
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
