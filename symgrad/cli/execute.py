"""``symgrad run``, ``profile`` and ``export``: compile, run or write, print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer

from symgrad.cli.derivative import differentiate, parameters
from symgrad.cli.target import Subject
from symgrad.ir import Func
from symgrad.ir.errors import UsageError


def run(subject: Subject, wrt: str | None, save: Path | None, *, gradient: bool) -> None:
    """Runs the compiled function and prints its results, and its gradient if asked to."""
    func, count = subject.own, len(subject.own.results)
    labels = ["result"] if count == 1 else [f"result{i}" for i in range(count)]
    if gradient:
        names = [func.params[i].name for i in parameters(func, wrt)]
        func, labels = differentiate(func, wrt), [*labels, *(f"d_{name}" for name in names)]
    results = execute(func, subject.values)
    for label, value, t in zip(labels, results, func.result_types, strict=True):
        text = np.array2string(np.asarray(value), separator=", ")
        typer.echo(f"{label}: {t} = {text}" if not t.shape else f"{label}: {t} =\n{text}")
    if save is not None:
        with _reported(save), open(save, "wb") as file:
            np.savez(file, **dict(zip(labels, results, strict=True)))


def profile(subject: Subject, wrt: str | None, trace: Path | None, *, gradient: bool) -> None:
    """Runs the compiled function, or its gradient, and prints what each kernel takes."""
    from symgrad.api_backend import optimize
    from symgrad.codegen.compile import compile_func

    func = differentiate(subject.own, wrt) if gradient else subject.own
    found = compile_func(func, passes=optimize).profile(arrays_for(func, subject.values))
    typer.echo(str(found), nl=False)
    if trace is not None:
        with _reported(trace):
            found.save_trace(trace)


def export(subject: Subject, wrt: str | None, to: str, out: Path, *, gradient: bool) -> None:
    """Writes the compiled function, or its value and gradient, for programs in C."""
    from symgrad.api_export import write
    from symgrad.codegen.export import FORMATS, entry_name

    if to not in FORMATS:
        raise UsageError(f"--to {to}: it is one of {', '.join(FORMATS)}")
    func = differentiate(subject.own, wrt) if gradient else subject.own
    with _reported(out):
        write(func, to, out)
    typer.echo(f"wrote {entry_name(func)} to {out}")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Says plainly that a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot write: {error.strerror}") from None


def arrays_for(func: Func, values: Sequence[Any]) -> list[Any]:
    """The values as arrays of the parameters' dtypes."""
    types = [p.type.dtype.numpy for p in func.params]
    return [np.asarray(x, dtype) for x, dtype in zip(values, types, strict=True)]


def execute(func: Func, values: Sequence[Any]) -> list[Any]:
    """The results of the optimised and compiled function."""
    from symgrad.api_backend import compile_func

    return list(compile_func(func)(arrays_for(func, values)))
