"""From a traced function to something that runs: passes, native code, number of threads."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from symgrad.codegen.runtime import vectorcall
from symgrad.ir import Func, interpret

if TYPE_CHECKING:
    from symgrad.codegen.profile import Recording


def optimize(func: Func) -> Func:
    """The default passes."""
    from symgrad.ir.passes import optimize as run_passes

    return run_passes(func)


def compile_func(
    func: Func,
    donate: Sequence[int] = (),
    conv_precision: str | None = None,
    *,
    state: tuple[Iterable[int], Iterable[int]] | None = None,
    invariant: Iterable[int] = (),
) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A callable from arrays to arrays: native code, or with ``SYMGRAD_BACKEND=interp`` the
    interpreter on the function as traced.

    Results may overwrite the parameters ``donate``.  The numbers of parameters and of results
    in ``state`` may be in a layout of the program's choosing (see ``codegen.runtime.resident``);
    all others are arrays.  Parameters ``invariant`` are the same in most calls: what is made
    of them alone is kept (see ``codegen.prologue``).
    ``conv_precision`` is that of the process unless given.
    ``SYMGRAD_DEBUG=ir,llvm,asm`` prints these stages to the standard error stream.
    """
    channels = os.environ.get("SYMGRAD_DEBUG", "").replace(" ", "").split(",")
    if "ir" in channels:
        print(func, file=sys.stderr)
    if os.environ.get("SYMGRAD_BACKEND") == "interp":
        return Interpreted(func)
    from symgrad.codegen.compile import compile_func as compile_native
    from symgrad.codegen.runtime.resident import STATELESS, State

    kept = STATELESS if state is None else State(*map(frozenset, (*state, invariant)))
    # Who looks at the stages wants to see them made, not found on disk.
    if any(channels) or os.environ.get("SYMGRAD_DUMP"):
        executable = compile_native(
            optimize(func), donate=donate, state=kept, conv_precision=conv_precision
        )
    else:
        executable = compile_native(
            func, donate=donate, state=kept, passes=optimize, conv_precision=conv_precision
        )
    for channel in ("llvm", "asm"):
        if channel in channels:
            print(getattr(executable.lowered, channel)(), file=sys.stderr)
    return executable


class Interpreted:
    """A function that the interpreter runs, with as much of ``Executable``'s interface."""

    invariant: Sequence[int] = ()

    def __init__(self, func: Func) -> None:
        self._func = func

    def __call__(self, arrays: Sequence[Any]) -> Sequence[Any]:
        """The results: fresh arrays, NumPy scalars where 0-d."""
        return [x[()] for x in self.run(arrays)]

    def run(self, arrays: Sequence[Any], stamp: Sequence[object] = ()) -> Sequence[Any]:
        """The results, arrays all of them."""
        return [np.array(x) for x in interpret(self._func, arrays)]

    def unprepared(self, arguments: Sequence[Any]) -> Sequence[int]:
        """Numbers of the state that is not in a form of the program's own: it has none."""
        return ()


class HasPrograms(Protocol):
    """Something that keeps compiled programs."""

    def forget(self) -> None:
        """Drops them: they are compiled anew at the next call."""


_owners: weakref.WeakSet[HasPrograms] = weakref.WeakSet()


def register_owner(owner: HasPrograms) -> None:
    """Has ``owner`` told when its programs are out of date."""
    _owners.add(owner)


def set_num_threads(threads: int) -> None:
    """Sets the number of threads that run a program, from the next call on.

    Programs are laid out for a number of threads, so functions compile anew for another.
    """
    from symgrad.codegen.runtime import threads as team

    before = team.get_num_threads()
    team.set_num_threads(threads)
    if threads != before:
        _forget_programs()


def set_conv_precision(precision: str) -> None:
    """Sets how exact convolutions are, from the next call on: ``"default"`` or ``"high"``.

    By default, convolutions of 3 x 3 in float32 may use Winograd's algorithm F(4 x 4, 3 x 3),
    which is up to three times as fast as direct sums; its largest error is about ten
    roundings (1e-6 of the largest result).  ``"high"`` keeps to direct sums and F(2 x 2,
    3 x 3), which err by two or three roundings.  ``SYMGRAD_CONV_PRECISION`` says what holds
    until the first call; ``jit(..., conv_precision=...)`` decides for one function.
    """
    from symgrad.codegen import precision as setting

    before = setting.get_conv_precision()
    setting.set_conv_precision(precision)
    if precision != before:
        _forget_programs()


def _forget_programs() -> None:
    for owner in list(_owners):
        owner.forget()


# -- profiles ------------------------------------------------------------------------------


@contextlib.contextmanager
def profile() -> Iterator[Recording]:
    """Times every compiled program that runs within, kernel by kernel and thread by thread.

        with sg.profile() as p:
            for x, y in loader:
                ...
        print(p)                     # programs by their time, and the first one's kernels
        p.save_trace("trace.json")   # a timeline for Perfetto

    ``p.profiles`` has the figures.
    """
    from symgrad.codegen.profile import recording

    with vectorcall.pause(), recording() as record:  # native calls would pass it by
        yield record
