"""Our threads as threadpoolctl sees them.

threadpoolctl knows thread pools by the shared libraries they come in.  Machine code made
at run time has no file; the library that made it, llvmlite's, stands for it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from symgrad.codegen.runtime import threads


def register() -> None:
    """Makes our threads known to threadpoolctl if the process has imported it.

    ``threadpool_limits(n)`` then bounds the team.  Programs compiled for more threads run
    on fewer; what is compiled under a limit stays within it.
    """
    module = sys.modules.get("threadpoolctl")
    if module is not None and hasattr(module, "register"):
        _register(module)


@functools.cache
def _register(module: Any) -> None:
    class SymgradController(module.LibController):  # type: ignore[misc]
        """Reads and sets the size of the process's team."""

        user_api = "symgrad"
        internal_api = "symgrad"
        filename_prefixes = ("libllvmlite", "llvmlite")

        def get_num_threads(self) -> int:
            """Threads of a program's run."""
            return threads.get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            """Bounds them from the next run on."""
            threads.set_num_threads(num_threads)

        def get_version(self) -> None:
            """The library's version says nothing about ours."""

    module.register(SymgradController)
