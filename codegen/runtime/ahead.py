"""Begins to load what all programs need, on threads of its own, while Python does other things.

While the first program is traced and lowered that is LLVM, and the driver that runs programs.
Behind its first run come the entries of native calls, which its second run is the first to ask
for.  On a machine that never ran a program both must be compiled.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable

from symgrad.codegen.target import available_cpus

FIRST_RUN = 0.02
"""Seconds for which the first run shall not have to share the interpreter."""
_importing = threading.Lock()
"""The child of a fork must not inherit modules halfway through their import."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire, after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )  # fmt: skip


@functools.cache
def load_ahead() -> None:
    """Begins to load LLVM and the driver of programs."""
    _beside(_load_driver)


@functools.cache
def load_calls_ahead() -> None:
    """Begins to load native calls, for a run that is about to begin: when it may be over."""
    _beside(_load_calls, after=FIRST_RUN)


def _beside(load: Callable[[], object], after: float = 0.0) -> None:
    """Runs ``load`` on a thread in so many seconds, if there is a CPU for it.

    Who needs what it loads waits for it, or loads it, and raises again what fails here.
    """

    def run() -> None:
        time.sleep(after)
        if threading.main_thread().is_alive():  # or the process is about to end
            with contextlib.suppress(Exception):
                load()

    if available_cpus() > 1:
        threading.Thread(target=run, name="symgrad runtime").start()


def _load_driver() -> None:
    with _importing:
        import llvmlite.binding  # noqa: F401
        from symgrad.codegen.runtime.program import driver
    driver()


def _load_calls() -> None:
    with _importing:
        from symgrad.codegen.runtime import fastcall
    fastcall.supported()
