"""``symgrad show``: the stages of compilation as text."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from symgrad.cli.derivative import contracted, differentiate
from symgrad.cli.graph import nodes
from symgrad.cli.target import Subject
from symgrad.drawing import as_dot, as_svg
from symgrad.ir import Func, Region
from symgrad.ir.errors import UsageError


def show(subject: Subject, emit: str, wrt: str | None, *, gradient: bool) -> str:
    """The stages named in ``emit``, by comma; several ones get headings.

    With ``gradient`` everything that follows differentiation is of value and gradient.
    Raises ``UsageError`` for an unknown stage.
    """
    stages = Stages(subject, wrt, gradient=gradient)
    names = [name.strip() for name in emit.split(",") if name.strip()]
    for name in names:
        if name not in STAGES:
            raise UsageError(f"--emit: there is no stage {name!r}; there are {', '.join(STAGES)}")
    texts = {name: STAGES[name](stages).rstrip() + "\n" for name in names}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n".join(f"# ---- {name} ----\n{text}" for name, text in texts.items())


class Stages:
    """A function at every stage, computed when asked for."""

    def __init__(self, subject: Subject, wrt: str | None, *, gradient: bool) -> None:
        self.subject = subject
        self._wrt, self._gradient = wrt, gradient

    @functools.cached_property
    def adjoint(self) -> Func:
        """With its derivative: the user's own, if the function is one."""
        if self.subject.is_derivative:
            return self.subject.own
        return differentiate(contracted(self.subject.own), self._wrt)

    @property
    def compiled(self) -> Func:
        """What gets compiled, before the passes."""
        return self.adjoint if self._gradient else self.subject.own

    @functools.cached_property
    def optimized(self) -> Func:
        """After the passes."""
        from symgrad.ir.passes import optimize

        return optimize(self.compiled)

    @functools.cached_property
    def lowered(self) -> Any:
        """As kernel calls."""
        from symgrad.codegen.lower import lower

        return lower(self.optimized)


def _symbolic(stages: Stages) -> str:
    from symgrad.ir.passes import optimize
    from symgrad.ir.passes.symbolic_report import report

    return report(optimize(stages.adjoint, disable=["simplify_scalar"]))


def _latex(stages: Stages) -> str:
    from symgrad.cli.formulas import as_latex

    return as_latex(stages.compiled)


STAGES: dict[str, Callable[[Stages], str]] = {
    "source": lambda s: s.subject.source,
    "ir": lambda s: str(s.subject.ir),
    "adjoint": lambda s: str(s.adjoint),
    "optimized": lambda s: str(s.optimized),
    "symbolic": _symbolic,
    "latex": _latex,
    "kernels": lambda s: str(s.lowered.explain()),
    "llvm": lambda s: str(s.lowered.llvm()),
    "asm": lambda s: str(s.lowered.asm()),
    "dot": lambda s: as_dot(s.compiled.name, nodes(s.compiled)),
    "svg": lambda s: as_svg(s.compiled.name, nodes(s.compiled)),
    "json": lambda s: json.dumps(as_data(s.compiled), indent=1),
}


def as_data(func: Func) -> dict[str, Any]:
    """A function as dictionaries and lists, with the value names of its text form."""
    names = {id(p): f"%{p.name}" for p in func.params}
    return {"name": func.name, **_body(func, names)}


def _body(body: Region, names: dict[int, str]) -> dict[str, Any]:
    ops = []
    for op in body.ops:
        for value in op.results:
            names[id(value)] = f"%{len(names) - len(body.params)}"
        regions = []
        for region in op.regions:
            inner = {id(p): f"%{_letters(i)}" for i, p in enumerate(region.params)}
            regions.append(_body(region, inner))
        entry: dict[str, Any] = {
            "op": op.name,
            "operands": [names[id(v)] for v in op.operands],
            "attrs": {key: _plain(value) for key, value in op.attrs.items()},
            "results": [{"name": names[id(v)], "type": str(v.type)} for v in op.results],
            "loc": None if op.loc is None else {"file": op.loc.file, "line": op.loc.line},
        }
        ops.append({**entry, "regions": regions} if regions else entry)
    return {
        "params": [{"name": names[id(p)], "type": str(p.type)} for p in body.params],
        "ops": ops,
        "results": [names[id(v)] for v in body.results],
    }


def _letters(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"a{i}"


def _plain(value: Any) -> Any:
    """An attribute as JSON has it; numbers it lacks (nan, complex) as text."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return repr(value)
    return value if isinstance(value, (int, float, str, type(None))) else str(value)
