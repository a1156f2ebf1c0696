"""``symgrad ops``, ``passes`` and ``cache``: what there is, as aligned text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import typer

from symgrad.ir import cache
from symgrad.ir.opdef import REGISTRY, OpDef, lookup


def list_ops(name: str | None) -> None:
    """All operations, or one with its whole description."""
    if name is not None:
        opdef = lookup(name)
        _print_table([_row(opdef)[:4]], "op operands attributes differentiable".split())
        typer.echo(f"\n{opdef.doc or 'Element by element.'}")
        if opdef.sympy:
            typer.echo(f"formula: {opdef.sympy}")
        return
    rows = [_row(opdef) for opdef in REGISTRY.values()]
    _print_table(rows, "op operands attributes differentiable meaning".split())


def _row(opdef: OpDef) -> list[str]:
    operands = " ".join(f"*{n}" if opdef.variadic else n for n in opdef.operand_names)
    flags = opdef.differentiable
    if isinstance(flags, bool):
        by = "yes" if flags else "no"
    else:
        by = " ".join(n for n, flag in zip(opdef.operand_names, flags, strict=False) if flag)
    meaning = (opdef.doc or opdef.sympy or "").partition("\n")[0]
    return [opdef.name, operands, " ".join(opdef.attr_defaults), by, meaning]


def list_passes() -> None:
    """The default pipeline in order, with options and their default values."""
    from symgrad.ir.passes import DEFAULT

    rows = []
    for step in DEFAULT:
        options = ",".join(f"{k.replace('_', '-')}={v}" for k, v in step.defaults().items())
        doc = (inspect.getdoc(step.apply) or "").partition("\n")[0]
        rows.append([step.name, options or "-", doc])
    _print_table(rows, "pass options meaning".split())


def cache_info() -> None:
    """Where the cache lies and what it holds."""
    typer.echo(f"folder  {cache.folder() or 'none: caching is off'}")
    usages = cache.info()
    rows = [[u.namespace, str(u.entries), f"{u.bytes / 1e6:.1f} MB"] for u in usages]
    total = f"{sum(u.bytes for u in usages) / 1e6:.1f} MB"
    rows.append(["total", str(sum(u.entries for u in usages)), total])
    _print_table(rows, "kind entries size".split())


def cache_clear() -> None:
    """Empties the cache and says what went."""
    size = sum(u.bytes for u in cache.info())
    cache.clear()
    typer.echo(f"removed {size / 1e6:.1f} MB from {cache.folder() or 'no cache: caching is off'}")


def _print_table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> None:
    """Columns under their heads; the last one is as long as it is."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
