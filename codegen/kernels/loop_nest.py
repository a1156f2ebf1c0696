"""Fused loop nests: elementwise work, broadcasts, transposes and reductions in one pass.

A ``LoopSpec`` says what is computed at every point of an iteration space,
``loop_schedule`` decides how, ``loop_emit`` writes it; ``lower_loop`` makes the
kernels of it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from symgrad.codegen.access import MEMORY_TYPES, Access, row_major
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.loop_emit import emit_loop, emit_nest
from symgrad.codegen.kernels.loop_schedule import Schedule, schedule
from symgrad.codegen.kernels.loop_spec import (
    Indirect,
    LoopSpec,
    Output,
    identity_body,
    region_key,
)
from symgrad.codegen.kernels.reduce import accumulator_dtype
from symgrad.codegen.registers import bytes_of

if TYPE_CHECKING:
    from symgrad.codegen.target import Target

__all__ = [
    "Indirect",
    "LoopSpec",
    "Output",
    "emit_loop",
    "emit_nest",
    "identity_body",
    "lower_loop",
    "region_key",
]


FLAT_EXTENT = (1 << 30) - 1
"""What the schedule of a flat nest assumes: many blocks, and a remainder."""


def lower_loop(spec: LoopSpec, target: Target, threads: int) -> Lowering:
    """The kernels of a nest: one, or two where threads must share a reduction.

    Few kept elements cannot occupy all threads; then a reduced loop is cut into parts as
    well, and a second kernel joins the parts' results.
    """
    spec = replace(spec, threads=threads)
    plan = schedule(spec, target, threads)
    cut = _loop_to_split(plan, threads)
    if cut is not None and spec.axes:
        return _in_parts(spec, plan, *cut)
    buffers = tuple(range(len(spec.inputs) + len(spec.outputs)))
    numbers: tuple[int, ...] = ()
    if _is_flat(plan, spec):
        numbers = (plan.loops[0].extent,)
        outputs = tuple(Output(a) for a in plan.outputs)
        spec = LoopSpec((FLAT_EXTENT,), plan.inputs, spec.body, outputs, spec.threads, flat=True)
    return Lowering((Phase("loop", emit_loop, spec, buffers, numbers=numbers),))


def _is_flat(plan: Schedule, spec: LoopSpec) -> bool:
    """Whether a nest is a single pass over contiguous arrays.

    Their code is the same for all sizes, so a program's many updates of parameters,
    say, share it.
    """
    accesses = (*plan.inputs, *plan.outputs)
    moves = any(isinstance(a, Indirect) or a.strides[0] not in (0, 1) for a in accesses)
    return len(plan.loops) == 1 and plan.loops[0].extent >= 16 and not (moves or spec.axes)


def _in_parts(spec: LoopSpec, plan: Schedule, loop: int, parts: int) -> Lowering:
    """A nest that leaves one partial result per part of ``loop``, and one that joins them."""
    threads, inputs = spec.threads, len(spec.inputs)
    kept = [i for i, each in enumerate(plan.loops) if not each.reduced]
    reduced = tuple(i for i, each in enumerate(plan.loops) if each.reduced)
    shape = tuple(plan.loops[i].extent for i in kept)
    size = math.prod(shape)
    strides = [0] * len(plan.loops)
    for i, stride in zip(kept, row_major(shape), strict=True):
        strides[i] = stride
    strides[loop] = size

    outputs: list[Output] = []
    places = list(range(inputs))
    partials: list[Access] = []
    joined: list[Output] = []
    results: list[int] = []
    for n, (output, access) in enumerate(zip(spec.outputs, plan.outputs, strict=True)):
        if output.reduce is None:
            outputs.append(Output(access))
            places.append(inputs + n)
            continue
        dtype = accumulator_dtype(access.dtype)
        outputs.append(Output(Access(dtype, tuple(strides)), output.reduce, reduced))
        places.append(inputs + len(spec.outputs) + len(partials))
        partials.append(Access(dtype, (size, *row_major(shape))))
        home = replace(access, strides=(0, *(access.strides[i] for i in kept)))
        joined.append(Output(home, output.reduce, (0,)))
        results.append(inputs + n)

    extents = tuple(each.extent for each in plan.loops)
    split = LoopSpec(extents, plan.inputs, spec.body, tuple(outputs), threads, (loop, parts))
    body = identity_body(*(a.dtype for a in partials))
    join = LoopSpec((parts, *shape), tuple(partials), body, tuple(joined), threads)
    temporaries = [n for n in places if n >= inputs + len(spec.outputs)]
    return Lowering(
        (
            Phase("parts", emit_loop, split, tuple(places)),
            Phase("join", emit_loop, join, (*temporaries, *results), weight=0),
        ),
        tuple(parts * size * bytes_of(MEMORY_TYPES[a.dtype]) for a in partials),
    )


def _loop_to_split(plan: Schedule, threads: int) -> tuple[int, int] | None:
    """The reduced loop to cut, and into how many parts, if that keeps the threads busier.

    A part is worth a few blocks of its own for each thread that takes it.
    """
    if plan.balance >= 0.75 or threads == 1:
        return None
    kept, best, found = plan.kept_tasks, plan.balance + 0.1, None
    for index, loop in enumerate(plan.loops):
        blocks = -(-loop.extent // plan.step(index)) if loop.reduced else 0
        for parts in range(2, min(threads, blocks // 4) + 1):
            busiest = -(-parts * kept // threads) * -(-blocks // parts)
            balance = blocks * kept / (busiest * threads)
            if balance > best + 0.01:
                best, found = balance, (index, parts)
    return found
