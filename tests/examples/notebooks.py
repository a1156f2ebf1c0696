"""Runs notebooks in this process; ``python tests/examples/notebooks.py FILES`` stores outputs.

A cell tagged ``raises-exception`` may raise; the numbers in what a cell tagged
``random-output`` shows are not compared.  Both tags are Jupyter's way to mark cells.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pprint
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Output = dict[str, Any]
WIDTH = 79
"""Columns at which Jupyter breaks tuples and lists over lines."""


def read(path: Path) -> dict[str, Any]:
    """A notebook."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> list[list[Output]]:
    """The outputs of every code cell, run one after the other in one namespace.

    Raises what a cell raises that is not marked so.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for number, cell in enumerate(code_cells(notebook), 1):
        may_raise = "raises-exception" in tags(cell)
        found.append(_run_cell("".join(cell["source"]), namespace, number, may_raise=may_raise))
    return found


def tags(cell: dict[str, Any]) -> list[str]:
    """How a cell is marked."""
    marks: list[str] = cell["metadata"].get("tags", [])
    return marks


def _run_cell(
    source: str, namespace: dict[str, Any], number: int, *, may_raise: bool
) -> list[Output]:
    if source.startswith("%%HTML"):
        html = source.partition("\n")[2].splitlines(keepends=True)
        return [{"output_type": "display_data", "data": {"text/html": html}, "metadata": {}}]
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else ast.Expr(ast.Constant(None))
    name = f"<cell {number}>"
    results: list[Output] = []
    with _captured(results):
        try:
            exec(compile(ast.Module(body, []), name, "exec"), namespace)
            value = eval(compile(_expression(last), name, "eval"), namespace)
            if value is not None:
                results.append(_result(pprint.pformat(value, width=WIDTH), number))
        except Exception as error:
            if not may_raise:
                raise
            results.append(_error(error))
    return results


def _expression(statement: ast.Expr) -> ast.Expression:
    return ast.fix_missing_locations(ast.Expression(statement.value))


def _result(text: str, number: int) -> Output:
    return {
        "output_type": "execute_result",
        "execution_count": number,
        "data": {"text/plain": text.splitlines(keepends=True)},
        "metadata": {},
    }


def _error(error: Exception) -> Output:
    lines = traceback.format_exception_only(error)
    return {
        "output_type": "error",
        "ename": type(error).__name__,
        "evalue": str(error),
        "traceback": ["".join(lines).rstrip()],
    }


@contextlib.contextmanager
def _captured(results: list[Output]) -> Iterator[None]:
    """Puts what is printed, and warnings, before the other results."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield
    said = [f"{w.category.__name__}: {w.message}\n" for w in caught]
    for name, text in (("stderr", err.getvalue() + "".join(said)), ("stdout", out.getvalue())):
        if text:
            lines = text.splitlines(keepends=True)
            results.insert(0, {"output_type": "stream", "name": name, "text": lines})


def comparable(cell: dict[str, Any], outputs: list[Output]) -> list[Output]:
    """Outputs without what differs from run to run: addresses, and numbers where marked so."""
    text = re.sub(r"0x[0-9a-f]+", "0x…", json.dumps(outputs, ensure_ascii=False))
    if "random-output" in tags(cell):
        text = re.sub(r"[ -]\d+\.\d*", "#", re.sub(r"(?<=\[)(?=\d)", " ", text))
    cleaned: list[Output] = json.loads(text)
    return cleaned


def write(path: Path) -> None:
    """Runs a notebook and stores its outputs in it."""
    notebook = read(path)
    for number, (cell, outputs) in enumerate(
        zip(code_cells(notebook), run(notebook), strict=True), 1
    ):
        cell["execution_count"], cell["outputs"] = number, outputs
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).parents[1]))
    from examples.tutorial_weights import stand_in

    with stand_in():
        for argument in sys.argv[1:]:
            write(Path(argument))
