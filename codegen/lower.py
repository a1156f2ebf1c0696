"""``lower``: an optimised IR function in, kernel calls, memory plan and LLVM text out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

from symgrad.codegen import plan
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Phase
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import find_epilogues, lower_func, reuse_donated
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.memory_report import describe_memory, memory_of
from symgrad.codegen.objects import emit_assembly, optimised
from symgrad.codegen.precision import get_conv_precision
from symgrad.codegen.prologue import Prologue, invariant_values, split
from symgrad.codegen.runtime.resident import STATELESS, Form, State
from symgrad.codegen.runtime.threads import get_num_threads
from symgrad.codegen.target import Target
from symgrad.ir.errors import NoKernelError
from symgrad.ir.graph import Func
from symgrad.ir.record import record


@record
class Lowered:
    """A function as kernel calls: what ``show`` prints and what gets compiled."""

    func: Func
    target: Target
    threads: int
    calls: tuple[Call, ...]
    names: tuple[str, ...]
    """Kernel of each call; equal kernels share a name."""
    modules: dict[str, str]
    """LLVM text of each kernel."""
    arena_bytes: int
    homes: dict[int, int]
    """Slots of results that overwrite a donated parameter, with that parameter's."""
    forms: tuple[Form | None, ...]
    """The forms of the parameters, then of the results; ``None`` for plain arrays."""
    prologue: Prologue | None = None
    """What runs when invariant parameters have changed, before the calls."""

    @property
    def every_call(self) -> tuple[Call, ...]:
        """The prologue's calls and those of every run."""
        return (*(self.prologue.calls if self.prologue else ()), *self.calls)

    def explain(self) -> str:
        """Which kernels run, how often, why these, and the memory of a run."""
        types, results = self.func.param_types, self.func.result_types
        kept = self.prologue.kept_bytes if self.prologue else 0
        memory = describe_memory(memory_of(types, results, self.arena_bytes, self.homes, kept))
        lines = [
            f"@{self.func.name}: {len(self.calls)} kernel calls, {len(self.modules)} kernels, "
            f"{self.threads} threads, {memory}"
        ]
        counts = Counter(self.names)
        reasons = {
            name: f"  [{call.chosen}{f': {call.refused}' if call.refused else ''}]"
            for name, call in zip(self.names, self.calls, strict=True)
            if call.chosen
        }
        lines += [f"{n:6} x {name}{reasons.get(name, '')}" for name, n in counts.items()]
        if self.prologue:
            counts = Counter(self.prologue.names)
            lines.append(f"{counts.total()} kernel calls before, where parameters have changed")
            lines += [f"{n:6} x {name}" for name, n in counts.items()]
        return "\n".join(lines) + "\n"

    def llvm(self, *, optimise: bool = False) -> str:
        """The kernels' LLVM text."""
        texts = self.modules.values()
        return "\n".join(optimised(t, self.target) if optimise else t for t in texts)

    def asm(self) -> str:
        """The kernels' assembly text."""
        return "\n".join(emit_assembly(t, self.target) for t in self.modules.values())


def lower(
    func: Func,
    *,
    target: Target | None = None,
    threads: int | None = None,
    donate: Sequence[int] = (),
    state: State = STATELESS,
    conv_precision: str | None = None,
    written: Callable[[str, str], None] = lambda name, text: None,
) -> Lowered:
    """Kernel calls, memory plan and LLVM text for an optimised function.

    ``donate`` numbers parameters whose memory results may take over; ``state`` has the
    parameters and results whose layout may be chosen here; ``conv_precision`` is one of
    ``precision.PRECISIONS``, the process's unless given.  ``written`` gets each kernel, by name
    and LLVM text, while the rest is still being lowered.  Raises ``NoKernelError`` for
    an op that nothing can run.
    """
    target = target or Target.host()
    threads = threads or get_num_threads()
    _check_dtypes(func)
    layouts = Layouts(func, state)
    precision = conv_precision or get_conv_precision()
    kernels = _Kernels(target, written)
    scope = Scope(
        target, threads, layouts, find_epilogues(func, layouts), precision,
        invariant=invariant_values(func, state.invariant), announce=kernels.name,
        moves_pointers=True,
    )  # fmt: skip
    every = lower_func(scope, func)
    homes = reuse_donated(func, layouts, every, donate)
    forms = tuple(layouts.form(v) for v in (*func.params, *func.results))
    calls, prologue = split(every, state.invariant.difference(donate))
    names = tuple(kernels.name(call.phase) for call in calls)
    if prologue:
        before = tuple(kernels.name(call.phase) for call in prologue.calls)
        prologue = replace(prologue, names=before)
    return Lowered(
        func, target, threads, tuple(calls), names, kernels.modules, plan.place_buffers(calls),
        homes, forms, prologue,
    )  # fmt: skip


class _Kernels:
    """The modules of a program's kernels: equal ones share a name."""

    def __init__(self, target: Target, written: Callable[[str, str], None]) -> None:
        self.target = target
        self.modules: dict[str, str] = {}
        self._names: dict[Hashable, str] = {}
        self._written = written

    def name(self, phase: Phase) -> str:
        """The name of a phase's kernel, which is written when it is met first."""
        key = (phase.emit, phase.spec)
        if key not in self._names:
            name = f"{phase.label.replace(' ', '_')}_{len(self._names)}"
            self._names[key] = name
            self.modules[name] = kernel_text(phase.emit, phase.spec, name, self.target)
            self._written(name, self.modules[name])
        return self._names[key]


def _check_dtypes(func: Func) -> None:
    for op in func.ops:
        for value in (*op.operands, *op.results):
            if value.type.dtype.kind == "c":
                raise NoKernelError(
                    f"{op.name} of {value.type}: complex numbers are traced and interpreted "
                    "(SYMGRAD_BACKEND=interp) but not compiled; split them into real parts",
                    loc=op.loc,
                )


@functools.lru_cache(maxsize=256)
def kernel_text(
    emit: Callable[[Emitter, str, Any], None], spec: Hashable, name: str, target: Target
) -> str:
    """LLVM text of the module of one kernel."""
    k = Emitter(target)
    emit(k, name, spec)
    return k.module()
