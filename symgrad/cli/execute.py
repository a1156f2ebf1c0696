"""``symgrad run``: compile, run, print."""

from __future__ import annotations

from collections.abc import Sequence
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
        try:
            with open(save, "wb") as file:
                np.savez(file, **dict(zip(labels, results, strict=True)))
        except OSError as error:
            raise UsageError(f"{save}: cannot write: {error.strerror}") from None


def execute(func: Func, values: Sequence[Any]) -> list[Any]:
    """The results of the optimised and compiled function."""
    from symgrad.api_backend import compile_func

    types = [p.type.dtype.numpy for p in func.params]
    arrays = [np.asarray(x, dtype) for x, dtype in zip(values, types, strict=True)]
    return list(compile_func(func)(arrays))
