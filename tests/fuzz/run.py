"""Runs many random programs: ``python tests/fuzz/run.py 10000 [--seed N] [--out DIR]``.

Each is compiled for two threads and in one other way: with a pass switched off, or for
one thread with donated parameters.  Failing programs are made small, grouped by the
ops left and written as ``.sgir`` files; a program that kills the process is left in ``last.sgir``.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from symgrad.codegen.lowering.scope import Scope  # noqa: E402

from tests.fuzz.oracle import DISABLED, Oracle, share_everything  # noqa: E402
from tests.fuzz.programs import Program, networks, programs  # noqa: E402
from tests.fuzz.reduction import reduced  # noqa: E402


def failure(program: Program, number: int) -> str | None:
    """What went wrong, without the numbers in it, so that equal faults read equal."""
    try:
        oracle = Oracle(program)
        oracle.check(threads=2)
        if number % 3:
            oracle.check(disable=DISABLED[number % len(DISABLED)], donate=program.donate)
        else:
            oracle.check(threads=1, donate=program.donate)
    except Exception as error:
        return re.sub(r"[\d.]+(e[-+]\d+)?", "#", f"{type(error).__name__}: {error}"[:90])
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6, help="steps of a program at most")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    Scope.threads_for = share_everything  # type: ignore[method-assign]
    found: dict[str, int] = {}
    start, done = time.time(), 0
    steps = options.steps
    either = st.one_of(programs(steps), programs(steps), networks(steps))

    def run(program: Program) -> None:
        nonlocal done
        done += 1
        (options.out / "last.sgir").write_text(str(program.func))
        if (what := failure(program, done)) is not None:
            kind = what.partition(":")[0]
            small = program
            with contextlib.suppress(Exception):  # a fault of the interpreter itself
                small = reduced(program, lambda p: (failure(p, done) or "").startswith(kind))
            key = f"{kind}: {' '.join(op.name for op in small.func.ops)}"
            found[key] = found.get(key, 0) + 1
            if found[key] == 1:
                path = options.out / f"{options.seed}-{done}.sgir"
                path.write_text(f"# {what}\n{small.func}")
                print(f"{path}: {what}\n{small.func}", flush=True)
        if done % 100 == 0:
            seconds = time.time() - start
            print(f"{done} programs, {seconds:.0f} s, {sum(found.values())} failed", flush=True)

    batch = 0
    while done < options.count:  # new examples in batches: Hypothesis keeps what it has seen
        quiet = settings(
            max_examples=min(250, options.count - done), deadline=None, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        try:
            seed(options.seed * 1000 + batch)(quiet(given(either)(run)))()
        except Exception as error:  # a program that could not even be built
            found[f"building: {error}"] = 1
            traceback.print_exc()
        batch += 1
    print(f"{done} programs: {found or 'no failure'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
