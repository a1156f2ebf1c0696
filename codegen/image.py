"""A program as data: everything a run needs but the machine code, as bytes and back.

An ``Image`` names its kernels by the symbols of their machine code.  Written to disk its
parts (``codegen.parts``) are the constants; the objects lie in a cache of their own, so that
programs share kernels there as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from symgrad.codegen import parts
from symgrad.codegen.plan import barriers
from symgrad.codegen.runtime.program import ARENA, Step
from symgrad.codegen.runtime.resident import Form
from symgrad.ir.types import TensorType, parse_type

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Call
    from symgrad.codegen.storage import Buffer


@dataclass(frozen=True, slots=True)
class Image:
    """A program without its machine code.

    Slots are numbered through parameters, results and constants.
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

    @property
    def kernels(self) -> list[str]:
        """The symbols of the kernels, each once."""
        return list(dict.fromkeys(step.kernel for step in self.steps))

    def to_bytes(self) -> bytes:
        """The image as ``from_bytes`` reads it."""
        header = {
            "name": self.name,
            "params": [str(t) for t in self.params],
            "results": [str(t) for t in self.results],
            "steps": [[s.kernel, s.pointers, s.parallel, s.barrier] for s in self.steps],
            "constants": [[a.dtype.str, a.shape] for a in self.constants],
            "arena_bytes": self.arena_bytes,
            "threads": self.threads,
            "brief": self.brief,
            "homes": list(self.homes.items()),
            "forms": [form and form.describe() for form in self.forms],
        }
        return parts.join(header, [a.tobytes() for a in self.constants])

    @staticmethod
    def from_bytes(blob: bytes) -> Image:
        """The image that ``to_bytes`` wrote."""
        header, data = parts.split(blob)
        constants = [
            np.frombuffer(part, dtype).reshape(shape).copy()  # aligned, and not read-only
            for part, (dtype, shape) in zip(data, header["constants"], strict=True)
        ]
        return Image(
            name=header["name"],
            params=tuple(map(parse_type, header["params"])),
            results=tuple(map(parse_type, header["results"])),
            steps=tuple(
                Step(kernel, tuple((slot, offset) for slot, offset in pointers), parallel, barrier)
                for kernel, pointers, parallel, barrier in header["steps"]
            ),
            constants=tuple(constants),
            arena_bytes=header["arena_bytes"],
            threads=header["threads"],
            brief=header["brief"],
            homes=dict(header["homes"]),
            forms=tuple(text and Form.parse(text) for text in header["forms"]),
        )


def lay_out(
    calls: Sequence[Call], kernels: Sequence[str], slots: int
) -> tuple[tuple[Step, ...], tuple[np.ndarray[Any, Any], ...]]:
    """Kernel calls with their kernels' symbols as steps, and the constants they read.

    The constants take the slots from ``slots`` on.
    """
    constants = {id(b): b.data for call in calls for b in call.reads if b.data is not None}
    numbers = {key: slots + i for i, key in enumerate(constants)}

    def pointer(buffer: Buffer) -> tuple[int, int]:
        if buffer.slot is not None:
            return buffer.slot, 0
        if buffer.data is not None:
            return numbers[id(buffer)], 0
        return ARENA, buffer.offset

    steps = tuple(
        Step(kernel, tuple(map(pointer, call.buffers)), call.parallel, stop)
        for kernel, call, stop in zip(kernels, calls, barriers(calls), strict=True)
    )
    return steps, tuple(constants.values())
