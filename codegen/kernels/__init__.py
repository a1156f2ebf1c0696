"""The kernels: one file per family, each ``emit_xxx(k, name, spec)``.

A kernel is one function ``void @NAME(ptr args, i64 tid, i64 nth)`` that every
thread of the team calls; a barrier follows it and none is inside, but in those that
run the body of a loop or branch.  An op whose threads must exchange results therefore
lowers to several kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from symgrad.codegen.emitter import Emitter
from symgrad.ir.record import record


@record
class Phase:
    """One kernel of an op's lowering.

    ``emit(k, name, spec)`` writes its code; phases with equal ``emit`` and ``spec``
    share it.  ``buffers`` says what the argument array points to, as indices into
    the op's operands, then its results, then ``Lowering.temporaries``.  ``numbers``,
    if any, are i64 values in an array behind these: sizes that one code serves.  Where
    ``scratch_bytes`` is not 0, a private area of that size is the last argument.
    ``is_bound`` says that the numbers mean something in this process only.
    """

    label: str
    emit: Callable[[Emitter, str, Any], None]
    spec: Hashable
    buffers: tuple[int, ...]
    scratch_bytes: int = 0
    numbers: tuple[int, ...] = ()
    weight: int = 1
    """Its part of the op's work relative to the other phases, for profiles."""
    is_bound: bool = False
    only_read: tuple[int, ...] = ()
    """Those of the buffers that are temporaries which an earlier phase has filled."""


@record
class Lowering:
    """The phases of an op in order, a barrier after each.

    ``temporaries`` are the sizes in bytes of buffers that live from one phase to
    the next.
    """

    phases: tuple[Phase, ...]
    temporaries: tuple[int, ...] = ()
