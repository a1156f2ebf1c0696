"""A program as data: everything a run needs but the machine code, as bytes and back.

An ``Image`` names its kernels by the symbols of their machine code.  Written to disk its
parts (``codegen.parts``) are the constants; the objects lie in a cache of their own, so that
programs share kernels there as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from symgrad.codegen import parts
from symgrad.codegen.plan import barriers
from symgrad.codegen.runtime.program import ARENA, Step
from symgrad.codegen.runtime.resident import Form
from symgrad.ir.record import record
from symgrad.ir.types import TensorType, parse_type

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Call
    from symgrad.codegen.storage import Buffer


@record
class PrologueImage:
    """What fills the memory that is kept from run to run; see ``codegen.prologue``."""

    invariant: tuple[int, ...]
    """Numbers of the parameters that it depends on."""
    steps: tuple[Step, ...]
    arena_bytes: int
    kept_bytes: int

    def describe(self) -> list[Any]:
        """The prologue as JSON keeps it."""
        return [self.invariant, _described(self.steps), self.arena_bytes, self.kept_bytes]

    @staticmethod
    def parse(described: Sequence[Any]) -> PrologueImage:
        """The prologue that ``describe`` gave."""
        invariant, steps, *sizes = described
        return PrologueImage(tuple(invariant), _restored(steps), *sizes)


@record
class Image:
    """A program without its machine code.

    Slots are numbered through parameters, results, the memory that is kept if there is a
    prologue, and constants.
    """

    name: str
    params: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    steps: tuple[Step, ...]
    constants: tuple[np.ndarray[Any, Any], ...]
    arena_bytes: int
    threads: int
    brief: bool
    """Whether a run is too short to let other Python threads go on meanwhile."""
    homes: Mapping[int, int]
    """Slots of results that overwrite a donated parameter, with that parameter's."""
    forms: tuple[Form | None, ...]
    """The forms of the parameters, then of the results; ``None`` for plain arrays."""
    prologue: PrologueImage | None = None

    @property
    def kernels(self) -> list[str]:
        """The symbols of the kernels, each once."""
        before = self.prologue.steps if self.prologue else ()
        return list(dict.fromkeys(step.kernel for step in (*before, *self.steps)))

    def to_bytes(self) -> bytes:
        """The image as ``from_bytes`` reads it."""
        header = {
            "name": self.name,
            "params": [str(t) for t in self.params],
            "results": [str(t) for t in self.results],
            "steps": _described(self.steps),
            "constants": [[a.dtype.str, a.shape] for a in self.constants],
            "arena_bytes": self.arena_bytes,
            "threads": self.threads,
            "brief": self.brief,
            "homes": list(self.homes.items()),
            "forms": [form and form.describe() for form in self.forms],
            "prologue": self.prologue and self.prologue.describe(),
        }
        return parts.join(header, [a.tobytes() for a in self.constants])

    @staticmethod
    def from_bytes(blob: bytes) -> Image:
        """The image that ``to_bytes`` wrote."""
        header, data = parts.split(blob)
        before = header["prologue"]
        constants = [
            np.frombuffer(part, dtype).reshape(shape).copy()  # aligned, and not read-only
            for part, (dtype, shape) in zip(data, header["constants"], strict=True)
        ]
        return Image(
            name=header["name"],
            params=tuple(map(parse_type, header["params"])),
            results=tuple(map(parse_type, header["results"])),
            steps=_restored(header["steps"]),
            constants=tuple(constants),
            arena_bytes=header["arena_bytes"],
            threads=header["threads"],
            brief=header["brief"],
            homes=dict(header["homes"]),
            forms=tuple(text and Form.parse(text) for text in header["forms"]),
            prologue=before and PrologueImage.parse(before),
        )


def _described(steps: Sequence[Step]) -> list[Any]:
    """Steps as JSON keeps them."""
    return [[s.kernel, s.pointers, s.parallel, s.barrier] for s in steps]


def _restored(described: Sequence[Any]) -> tuple[Step, ...]:
    return tuple(
        Step(kernel, tuple((slot, offset) for slot, offset in pointers), parallel, barrier)
        for kernel, pointers, parallel, barrier in described
    )


class Layout:
    """Numbers the slots of a program's memory while its kernel calls become steps.

    The memory that is kept takes slot ``kept``, the constants those from ``constants`` on.
    """

    def __init__(self, kept: int, constants: int) -> None:
        self.constants: list[np.ndarray[Any, Any]] = []
        self._kept, self._first = kept, constants
        self._numbers: dict[int, int] = {}

    def steps(self, calls: Sequence[Call], kernels: Sequence[str]) -> tuple[Step, ...]:
        """Kernel calls with their kernels' symbols as steps."""
        return tuple(
            Step(kernel, self._pointers(call), call.parallel, stop)
            for kernel, call, stop in zip(kernels, calls, barriers(calls), strict=True)
        )

    def _pointers(self, call: Call) -> tuple[tuple[int, int], ...]:
        pairs = zip(map(self._pointer, call.buffers), call.starts, strict=True)
        return tuple((slot, offset + start) for (slot, offset), start in pairs)

    def _pointer(self, buffer: Buffer) -> tuple[int, int]:
        if buffer.slot is not None:
            return buffer.slot, 0
        if buffer.data is not None:
            if id(buffer) not in self._numbers:
                self._numbers[id(buffer)] = self._first + len(self.constants)
                self.constants.append(buffer.data)
            return self._numbers[id(buffer)], 0
        return self._kept if buffer.is_kept else ARENA, buffer.offset
