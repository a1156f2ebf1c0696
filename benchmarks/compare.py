"""Measure symgrad beside its peers: ``python benchmarks/compare.py``.

Every side of a case runs in its own process; they take turns for several rounds, so that a
noisy machine disturbs all alike.  A ratio is the median over the rounds of the other side's
median time by ours: above 1 we are faster.  Each side's first result must agree with ours.

The peers may live in another environment: ``--peers-python path/to/python``.  Those that are not
there are left out.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import CASES, Case
from goals import OURS, verdicts
from report import Table, write_chart
from results import Result, ratio

HERE = Path(__file__).resolve().parent
PACKAGES = ("symgrad", "ir", "codegen")
"""Ours, compiled to bytecode before anything is measured, as installed packages are: the peers."""
BUSY = 0.5
"""Average number of waiting processes above which figures are not to be trusted."""


class Worker:
    """A process that measures one side of a case when told to."""

    def __init__(self, case: Case, side: str, options: argparse.Namespace, cache: Path) -> None:
        threads = 1 if side.endswith("1 thread") else case.threads or options.threads
        job = {"side": side, "kind": case.kind, "options": dict(case.options), "threads": threads}
        python = interpreter(side, options)
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
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB", "NUMBA", "SYMGRAD")
    env |= {f"{name}_NUM_THREADS": str(threads) for name in names}
    paths = [str(HERE.parent), *filter(None, [env.get("PYTHONPATH")])]
    caches = {f"{name}_CACHE_DIR": str(cache) for name in ("SYMGRAD", "TORCHINDUCTOR", "NUMBA")}
    return env | caches | {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_X64": "1"}


def interpreter(side: str, options: argparse.Namespace) -> str:
    """The Python that runs a side."""
    ours = side.startswith((OURS, "numpy"))
    python: str = sys.executable if ours else options.peers_python
    return python


def missing_sides(sides: set[str], options: argparse.Namespace) -> dict[str, str]:
    """The sides that cannot run here, and why."""
    look = (
        "import importlib.util, json, sys\n"
        "print(json.dumps([bool(importlib.util.find_spec(name)) for name in sys.argv[1:]]))"
    )
    libraries = sorted({side.split()[0] for side in sides if not side.startswith(OURS)})
    answer = subprocess.run(
        [options.peers_python, "-c", look, *libraries], capture_output=True, text=True, check=True
    )
    absent = {n for n, there in zip(libraries, json.loads(answer.stdout), strict=True) if not there}
    found = {s: f"{s.split()[0]} is not installed" for s in sides if s.split()[0] in absent}
    compiled = {side for side in sides - set(found) if {"compile", "frozen"} & set(side.split())}
    if options.quick:
        found |= dict.fromkeys(compiled, "torch.compile takes half a minute a case")
    elif not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        found |= dict.fromkeys(compiled, "torch.compile finds no C++ compiler")
    return found


def run(case: Case, sides: list[str], options: argparse.Namespace, cache: Path) -> list[Result]:
    """All sides of a case."""
    results = [Result(case.name, side) for side in sides]
    if case.measure == "time":
        take_turns(case, results, options, cache)
    else:
        measure = import_time if case.measure == "import" else fresh_process
        for _ in range(max(options.rounds // 2, 1)):
            for result in results:
                with failures(result):
                    measure(case, result, options)
    return results


@contextlib.contextmanager
def failures(result: Result) -> Iterator[None]:
    """A side that fails says why and leaves the others in peace."""
    try:
        yield
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
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
                        result.add(*workers[result.side].measure(options.seconds)["samples"])
    finally:
        for worker in workers.values():
            worker.close()


def fresh_process(case: Case, result: Result, options: argparse.Namespace) -> None:
    """One round of a measurement that needs a new process, and for ``start`` an empty cache."""
    cache = Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        worker = Worker(case, result.side, options, cache)
        result.first = dict(worker.first)
        value = worker.first["first_call"]
        if case.measure == "memory":
            value = worker.measure(0.5)["peak_memory"]
        worker.close()
        if case.measure == "start":  # again, with what the first process left in the cache
            again = Worker(case, result.side, options, cache)
            result.first["warm_start"] = again.first["first_call"]
            again.close()
        result.add(value)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


IMPORTS = {OURS: "symgrad, numpy", "jax": "jax, jax.numpy", "autograd": "autograd, autograd.numpy"}
"""What a library is used with; symgrad puts NumPy off, so its import counts, too."""


def import_time(case: Case, result: Result, options: argparse.Namespace) -> None:
    """One import in a fresh interpreter; the first one of all fills the system's caches."""
    names = IMPORTS.get(result.side, result.side)
    code = f"from time import time; t = time(); import {names}; print(time() - t)"
    command = [interpreter(result.side, options), "-c", code]
    for _ in range(1 if result.rounds else 2):
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment(1, HERE)
        )
    result.add(float(answer.stdout))


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
    parser.add_argument(
        "--peers-python", default=sys.executable, help="interpreter that has the peers"
    )
    parser.add_argument("--only", default=".*", help="cases to run, a regular expression")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, without torch.compile"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side and round")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of results")
    parser.add_argument("--chart", type=Path, help="also write the chart here, for the README")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.1
    return options


def main() -> int:
    options = arguments()
    chosen = [case for case in CASES if re.search(options.only, case.name)]
    if not chosen:
        sys.exit(f"no case matches {options.only!r}; there are: {', '.join(c.name for c in CASES)}")
    if (load := machine()["load"]) > BUSY:
        print(f"the machine is busy (load {load:.1f}): the figures will be off", file=sys.stderr)
    for package in PACKAGES:
        compileall.compile_dir(HERE.parent / package, quiet=2)
    missing = missing_sides({side for case in chosen for side in case.sides}, options)
    table, found, start = Table(missing), {}, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="compare-") as cache, table.live():
        with contextlib.suppress(KeyboardInterrupt):  # what is there is shown
            for case in chosen:
                table.start(case)
                sides = [side for side in case.sides if side not in missing]
                found[case.name] = run(case, sides, options, Path(cache))
                table.add(case, found[case.name])
    chosen = [case for case in chosen if case.name in found]
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "compare.json", chosen, found)
    write_chart(options.out / "compare.png", chosen, found)
    if options.chart is not None:
        write_chart(options.chart, chosen, found)
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    print(f"\n{minutes} min {seconds} s; wrote {options.out / 'compare.json'} and compare.png")
    return int(any(result.error for results in found.values() for result in results))


def write_json(path: Path, cases: Sequence[Case], found: Mapping[str, list[Result]]) -> None:
    """Every figure and verdict, with the machine they come from."""
    results = [
        asdict(result) | {"ratio": ratio(results[0], result)}
        for results in found.values()
        for result in results
    ]
    goals = {
        case.name: [asdict(v) for v in verdicts(case.goals, found[case.name], case.measure)]
        for case in cases
    }
    found_here = {"machine": machine(), "results": results, "goals": goals}
    path.write_text(json.dumps(found_here, indent=1))


if __name__ == "__main__":
    sys.exit(main())
