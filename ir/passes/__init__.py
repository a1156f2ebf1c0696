"""The passes over the IR: one ordered pipeline from a traced function to fused nests."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from symgrad.ir.graph import Func
from symgrad.ir.passes.canonicalize import canonicalize
from symgrad.ir.passes.expand import expand, open_regions
from symgrad.ir.passes.fuse import fuse
from symgrad.ir.passes.loops import rebuild_loops
from symgrad.ir.passes.manager import Hooks, Pass, run
from symgrad.ir.passes.simplify_scalar import simplify_scalar
from symgrad.ir.passes.stabilize import stabilize
from symgrad.ir.reroll import reroll

__all__ = ["DEFAULT", "Hooks", "Pass", "optimize"]

DEFAULT: tuple[Pass, ...] = (
    Pass("reroll", reroll),  # what Python unrolled: the rest then sees one step of it
    Pass("expand", expand),  # composite ops first: the rest knows basic ops only
    Pass("canonicalize", canonicalize),  # one normal form, so that patterns match
    Pass("stabilize", stabilize),  # in that normal form, which it keeps
    Pass("fuse", fuse),  # the code generator takes elementwise work as nests alone
    Pass("simplify_scalar", simplify_scalar),  # SymPy on the nests that are worth it
)


def optimize(func: Func, *, disable: Sequence[str] = (), hooks: Hooks | None = None) -> Func:
    """Runs the default pipeline without the passes named in ``disable``.

    Bodies of loops go through all of it as functions of their own, as soon as the loops are
    there.  ``fuse`` and ``expand`` cannot be disabled: they make the form that has kernels.
    """
    bodies = functools.partial(optimize, disable=disable, hooks=hooks)

    def loops(func: Func) -> Func:
        func = open_regions(func)
        return rebuild_loops(func if "reroll" in disable else reroll(func), bodies)

    chosen = [p for p in DEFAULT if p.name not in disable or p.name in ("expand", "fuse")]
    rest = [p for p in chosen if p.name != "reroll"]
    return run(func, [Pass("reroll", loops), *rest], hooks)
