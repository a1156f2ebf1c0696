"""``symgrad opt``: passes over IR text."""

from __future__ import annotations

from symgrad.cli.target import functions_in, read_ir
from symgrad.ir import Func
from symgrad.ir.errors import UsageError
from symgrad.ir.passes import DEFAULT, Hooks
from symgrad.ir.passes.manager import parse_pipeline, pipeline_of, run


def optimize_text(target: str, passes: str | None, hooks: Hooks) -> list[Func]:
    """The functions in a file or on stdin after the passes.

    ``passes`` is a pipeline as ``a,b{x=1}``; without it a reproducer's own pipeline runs, or
    the default one.  Raises ``UsageError`` or ``ParseError``.
    """
    text = read_ir(target)
    if passes is None:
        passes = pipeline_of(text)
    chosen = DEFAULT if passes is None else parse_pipeline(passes, DEFAULT)
    if unknown := hooks.print_after - {"all"} - {p.name for p in chosen}:
        listed = ", ".join(p.name for p in chosen)
        raise UsageError(f"--print-after: no pass {min(unknown)!r} runs here; these do: {listed}")
    return [run(func, chosen, hooks) for func in functions_in(text)]
