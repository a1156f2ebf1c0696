"""``compile_func``: an IR function in, an ``Executable`` out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from symgrad.codegen import plan, programs
from symgrad.codegen.executable import Executable
from symgrad.codegen.image import Image, Layout, PrologueImage
from symgrad.codegen.jit import Compilation, load_compiled
from symgrad.codegen.precision import get_conv_precision
from symgrad.codegen.runtime import threadpool
from symgrad.codegen.runtime.ahead import load_ahead
from symgrad.codegen.runtime.memory import give_back
from symgrad.codegen.runtime.resident import STATELESS, State
from symgrad.codegen.runtime.threads import get_num_threads
from symgrad.codegen.target import Target
from symgrad.ir.collector import collector_paused
from symgrad.ir.graph import Func

if TYPE_CHECKING:
    from symgrad.codegen.lower import Lowered


@collector_paused()
def compile_func(
    func: Func,
    *,
    target: Target | None = None,
    threads: int | None = None,
    donate: Sequence[int] = (),
    state: State = STATELESS,
    passes: Callable[[Func], Func] | None = None,
    conv_precision: str | None = None,
) -> Executable:
    """Native code for a function, ready to call; see ``lower``.

    Without ``passes`` the function must be optimised already.  With them it is the function
    as traced, and the whole program is kept on disk under its text: when the same function
    comes again, in this process or another, neither passes nor lowering run.
    """
    machine = target or Target.host()
    threads = threads or get_num_threads()
    precision = conv_precision or get_conv_precision()

    def lowered(written: Callable[[str, str], None] = lambda name, text: None) -> Lowered:
        from symgrad.codegen.lower import lower  # kernels and all: not for a program on disk

        optimised = passes(func) if passes else func
        return lower(
            optimised,
            target=machine,
            threads=threads,
            donate=donate,
            state=state,
            conv_precision=precision,
            written=written,
        )

    def built() -> Executable:
        with Compilation(machine) as compilation:  # beside the lowering
            return _build(lowered(compilation.add), compilation, functools.cache(lowered))

    load_ahead()
    threadpool.register()
    if passes is None:
        return built()
    options = {"donate": tuple(donate), "state": state, "conv_precision": precision}
    key = programs.key(func, machine, threads=threads, **options)
    image = programs.find(key)
    addresses = load_compiled(image.kernels, machine) if image else None
    if image and addresses is not None:
        return Executable(image, addresses, functools.cache(lowered))
    give_back()  # before compiling takes more, and then what it leaves
    executable = built()
    if not executable.is_bound:
        programs.keep(key, executable.image)
    give_back()
    return executable


def _build(lowered: Lowered, compilation: Compilation, again: Callable[[], Lowered]) -> Executable:
    """Loads the kernels of a lowered function, which the compilation has the text of.

    The text is many times as long as the code, and seldom asked for: it is let go of, and
    made ``again`` for who does ask.
    """
    symbols, loaded = compilation.symbols, compilation.load()
    func, before = lowered.func, lowered.prologue
    slots = len(func.params) + len(func.results)
    layout = Layout(kept=slots, constants=slots + bool(before))
    steps = layout.steps(lowered.calls, [symbols[name] for name in lowered.names])
    prologue = None
    if before is not None:
        kernels = [symbols[name] for name in before.names]
        filling = layout.steps(before.calls, kernels)
        prologue = PrologueImage(before.invariant, filling, before.arena_bytes, before.kept_bytes)
    image = Image(
        name=func.name,
        params=func.param_types,
        results=func.result_types,
        steps=steps,
        constants=tuple(layout.constants),
        arena_bytes=lowered.arena_bytes,
        threads=lowered.threads,
        brief=plan.is_brief(lowered.calls),
        homes=lowered.homes,
        forms=lowered.forms,
        prologue=prologue,
    )
    addresses = {symbols[name]: address for name, address in loaded.items()}
    is_bound = any(call.phase.is_bound for call in lowered.every_call)
    if is_bound:  # to what is written into this text
        return Executable(image, addresses, lambda: lowered, is_bound=True)
    return Executable(image, addresses, again)
