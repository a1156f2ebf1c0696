"""The state of lowering one function: where values live and which kernels run.

A lowering rule asks the scope for its operands' storages in the form its kernel
takes (``plain`` with any strides, ``dense``, ``blocked`` with a halo) and gets a copy
made where the value lives otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from symgrad.codegen.access import Access
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, identity_body, lower_loop
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering.epilogue import AttachedRegion, overwritable
from symgrad.codegen.lowering.rules import rule_of
from symgrad.codegen.lowering.sums import AttachedSums
from symgrad.codegen.storage import (
    Buffer,
    Halo,
    Storage,
    channel_blocked,
    constant,
    covers,
    dense,
    over_space,
)
from symgrad.codegen.target import Target
from symgrad.codegen.tiling import Tiling
from symgrad.ir.errors import Loc
from symgrad.ir.graph import Op, Value
from symgrad.ir.record import record
from symgrad.ir.types import DTYPES

SERIAL_BELOW = 2e-6
"""Seconds of one thread's work under which waking the others does not pay."""
_BYTES_PER_SECOND = 2e10
_FLOPS_PER_SECOND = 2e10


@record
class Call:
    """One kernel call: its code's identity and the buffers it reads and writes."""

    phase: Phase
    buffers: tuple[Buffer, ...]
    starts: tuple[int, ...]
    """Bytes from the beginning of each buffer to where the kernel's argument points."""
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    in_place: tuple[tuple[Buffer, Buffer], ...]
    """(written, read) pairs that may share memory: each point reads only its own element."""
    parallel: bool
    op: str
    loc: Loc | None
    flops: float
    bytes: float
    scalar_bytes: int = 4
    """Size of an element of the op's result: wider ones have fewer lanes."""
    chosen: str = ""
    """The kernel family, where there was a choice."""
    refused: str = ""
    """Why a better family was refused."""


class Scope:
    """Lowers ops one by one into ``calls``."""

    def __init__(
        self,
        target: Target,
        threads: int,
        layouts: Layouts,
        epilogues: Mapping[int, AttachedRegion],
        conv_precision: str = "default",
        invariant: Collection[int] = (),
        announce: Callable[[Phase], object] = lambda phase: None,
        moves_pointers: bool = False,
    ) -> None:
        self.target = target
        self.conv_precision = conv_precision
        self._invariant = invariant
        self._announce = announce
        """Told of each phase as soon as it is clear that it will run."""
        self.moves_pointers = moves_pointers
        """Whether kernels for parts of values, of steps or layers say, get pointers to the parts:
        then one kernel serves all of them, wherever they lie."""
        self.epilogues = epilogues
        self._sums = {id(e.sums.op): e.sums for e in epilogues.values() if e.sums}
        self.threads = threads
        self.layouts = layouts
        self.calls: list[Call] = []
        self._home: dict[int, Storage] = {}
        self._copies: dict[tuple[int, object], Storage] = {}
        self._op: Op | None = None
        self.read: set[int] = set()
        """Values, by id, that an op or the function's caller reads."""
        self.choices: list[tuple[Op, str, str]] = []
        """What was chosen for each op and why, for ``explain``."""
        self.parts: dict[int, Storage] = {}
        """Where to make values, by id, that become parts of others."""

    def lower(self, op: Op) -> None:
        """Runs the rule of one op; one without any element to compute needs no kernel."""
        if not any(v.type.size for v in op.results):
            for value in op.results:
                self.define(value, dense(value.type))
            return
        rule = rule_of(op)
        self._op = op
        rule(self, op)

    def choose(self, kernel: str, refused: str = "") -> None:
        """Records the kernel family chosen for the current op, and why not a better one."""
        if self._op is not None:
            self.choices.append((self._op, kernel, refused))

    def _choice(self) -> tuple[str, str]:
        """What ``choose`` recorded for the current op, if it did."""
        if self.choices and self.choices[-1][0] is self._op:
            return self.choices[-1][1:]
        return "", ""

    def is_invariant(self, value: Value) -> bool:
        """Whether a value is the same in most runs: what is made of it alone is kept."""
        return id(value) in self._invariant

    # -- operands -----------------------------------------------------------

    def storage(self, value: Value) -> Storage:
        """Where a value lives, in whatever layout."""
        return self._home[id(value)]

    def plain(self, value: Value) -> Storage:
        """The value over its own axes, with any strides."""
        home = self._home[id(value)]
        return home if home.tiling is None else self._copy(value, "dense", dense(value.type))

    def dense(self, value: Value) -> Storage:
        """The value in row-major order."""
        home = self._home[id(value)]
        return home if home.is_dense else self._copy(value, "dense", dense(value.type))

    def operand(self, value: Value, axes: Sequence[int], tiling: Tiling | None) -> Storage:
        """The value in a form that a (tiled) iteration space can follow by strides."""
        home = self._home[id(value)]
        if home.tiling == tiling is not None and tuple(axes) == tuple(range(value.rank)):
            return home
        return self.plain(value)

    def blocked(self, value: Value, halo: Halo) -> Storage:
        """Activations channel-blocked, with at least this halo."""
        home = self._home[id(value)]
        if home.blocked is not None and covers(home.blocked.halo, halo):
            return home
        halo = self.layouts.halo(value, halo)
        return self._copy(value, ("blocked", halo), channel_blocked(value.type, halo))

    def form(self, value: Value, form: object, make: Callable[[], Storage]) -> Storage:
        """The value in another form, which is made once."""
        key = id(value), form
        if key not in self._copies:
            self._copies[key] = make()
        return self._copies[key]

    def _copy(self, value: Value, form: object, new: Storage) -> Storage:
        def make() -> Storage:
            home = self._home[id(value)]
            if None not in (home.tiling, new.tiling) and home.tiling != new.tiling:
                home = self.plain(value)
            self.copy(home, new)
            return new

        return self.form(value, form, make)

    def copy(self, source: Storage, target: Storage) -> None:
        """Emits a copy between two storages of one shape, plain or of one tiling."""
        tiling = source.tiling or target.tiling
        axes = range(len(source.shape))
        accesses = [over_space(s, axes, len(axes), tiling) for s in (source, target)]
        space = tiling.extents if tiling else source.shape
        body = identity_body(source.access.dtype)
        spec = LoopSpec(space, (accesses[0],), body, (Output(accesses[1]),))
        self.loop(spec, [source], [target], label="copy")

    def epilogue(self, op: Op) -> AttachedRegion | None:
        """The fused op that runs on this op's result before it is stored, if any."""
        return self.epilogues.get(id(op))

    def sums_of(self, op: Op) -> AttachedSums | None:
        """For a nest of sums: how the kernel that made its operand has taken them, if so."""
        return self._sums.get(id(op))

    # -- results ------------------------------------------------------------

    def define(self, value: Value, storage: Storage) -> Storage:
        """Says where a value lives."""
        self._home[id(value)] = storage
        return storage

    def allocate(self, value: Value, *, plain: bool = True) -> Storage:
        """A new buffer for a value: row-major, or unless ``plain`` in its chosen layout.

        A value that is part of another gets its part of that one's buffer.
        """
        part = self.parts.get(id(value))
        if part is None:
            part = dense(value.type) if plain else self.layouts.storage(value)
        return self.define(value, part)

    # -- kernels --------------------------------------------------------------

    def loop(
        self, spec: LoopSpec, inputs: Sequence[Storage], outputs: Sequence[Storage], *, label: str
    ) -> None:
        """Emits a loop nest."""
        points = 1
        for n in spec.extents:
            points *= n
        flops = float(points * sum(_OP_COST.get(op.name, 1.0) for op in spec.body.ops))
        moved = float(sum(_touched(spec.extents, a) for a in spec.inputs))
        moved += sum(_touched(spec.extents, o.access) for o in spec.outputs)
        threads = self.threads_for(flops, moved)
        in_place = _in_place(spec, inputs, outputs)
        starts = [0] * (len(inputs) + len(outputs))
        if self.moves_pointers:
            accesses = (*spec.inputs, *(output.access for output in spec.outputs))
            starts = [a.offset * DTYPES[a.dtype].bytes for a in accesses]
        if any(starts):
            spec = replace(
                spec,
                inputs=tuple(replace(a, offset=0) for a in spec.inputs),
                outputs=tuple(replace(o, access=replace(o.access, offset=0)) for o in spec.outputs),
            )
        self.run(
            lower_loop(spec, self.target, threads),
            inputs,
            outputs,
            label=label,
            flops=flops,
            bytes=moved,
            in_place=in_place,
            starts=starts,
        )

    def threads_for(self, flops: float, bytes: float) -> int:
        """How many threads a piece of work deserves."""
        seconds = max(flops / _FLOPS_PER_SECOND, bytes / _BYTES_PER_SECOND)
        return 1 if seconds < SERIAL_BELOW else self.threads

    def finish(self) -> list[Call]:
        """All calls; on one thread where the whole program is too short to wake another."""
        flops = sum(call.flops for call in self.calls)
        moved = sum(call.bytes for call in self.calls)
        if self.threads_for(flops / 50, moved / 10) == 1:
            return [replace(call, parallel=False) for call in self.calls]
        return self.calls

    def run(
        self,
        lowering: Lowering,
        operands: Sequence[Storage],
        results: Sequence[Storage],
        *,
        label: str = "",
        flops: float = 0.0,
        bytes: float = 0.0,
        written: Sequence[Storage] = (),
        in_place: tuple[tuple[Buffer, Buffer], ...] = (),
        parallel: bool | None = None,
        starts: Sequence[int] = (),
    ) -> None:
        """Appends a lowering's phases, with its temporaries as arena buffers.

        ``written`` are operands that are written, too; ``in_place`` holds for the last
        phase, which alone may read and write these.  ``parallel`` says whether all threads
        call the kernels; None lets the work decide.  ``starts`` are bytes into the operands
        and results where the kernels' pointers to them go.
        """
        temporaries = [Buffer(n) for n in lowering.temporaries]
        pool = [*(s.buffer for s in operands), *(s.buffer for s in results), *temporaries]
        starts = [*(starts or [0] * (len(operands) + len(results))), *[0] * len(temporaries)]
        targets = {id(s.buffer) for s in (*results, *written)} | {id(b) for b in temporaries}
        if parallel is None:
            parallel = self.threads_for(flops, bytes) > 1
        chosen, refused = self._choice()
        weights = sum(phase.weight for phase in lowering.phases)
        for phase in lowering.phases:
            self._announce(phase)
            buffers = tuple(pool[i] for i in phase.buffers)
            written_here = targets - {id(pool[i]) for i in phase.only_read}
            if phase.numbers:
                buffers += (constant(np.array(phase.numbers, np.int64), "i64").buffer,)
            scratch = (Buffer(phase.scratch_bytes),) if phase.scratch_bytes else ()
            begins = [starts[i] for i in phase.buffers]
            begins += [0] * (len(buffers) + len(scratch) - len(begins))
            self.calls.append(
                Call(
                    phase=phase,
                    buffers=(*buffers, *scratch),
                    starts=tuple(begins),
                    reads=buffers,
                    writes=(*(b for b in buffers if id(b) in written_here), *scratch),
                    in_place=in_place if phase is lowering.phases[-1] else (),
                    parallel=parallel,
                    op=f"{self._op.name if self._op else 'copy'}:{label or phase.label}",
                    loc=self._op.loc if self._op else None,
                    flops=flops * phase.weight / weights,
                    bytes=bytes * phase.weight / weights,
                    scalar_bytes=self._op.results[0].type.dtype.bytes if self._op else 4,
                    chosen=chosen,
                    refused=refused,
                )
            )


_OP_COST = {
    "div": 8.0, "sqrt": 8.0, "rsqrt": 12.0, "exp": 20.0, "exp2": 20.0, "expm1": 30.0, "log": 24.0,
    "log1p": 30.0, "sin": 24.0, "cos": 24.0, "tan": 40.0, "tanh": 30.0, "erf": 40.0, "pow": 80.0,
    "sigmoid": 30.0, "atan2": 50.0, "rem": 20.0, "floor_div": 20.0,
}  # fmt: skip
"""Work of an element relative to an addition, where it is much more."""


def _in_place(
    spec: LoopSpec, inputs: Sequence[Storage], outputs: Sequence[Storage]
) -> tuple[tuple[Buffer, Buffer], ...]:
    """Outputs that may overwrite an input: the nest reads that buffer nowhere else."""
    writes = [
        (output.access, target)
        for output, target in zip(spec.outputs, outputs, strict=True)
        if output.reduce is None
    ]
    return overwritable(list(zip(spec.inputs, inputs, strict=True)), writes)


def _touched(extents: Sequence[int], access: Access) -> int:
    size = DTYPES[access.dtype].bytes
    for n, stride in zip(extents, access.strides, strict=True):
        size *= n if stride else 1
    return size
