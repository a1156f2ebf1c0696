"""``Executable``: a compiled function that takes and gives NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from symgrad.codegen.image import Image
from symgrad.codegen.runtime.memory import SMALL, empty
from symgrad.codegen.runtime.program import NativeProgram
from symgrad.ir.errors import UsageError
from symgrad.ir.types import type_of_array

if TYPE_CHECKING:
    from symgrad.codegen.compile import Lowered
    from symgrad.codegen.lowering.scope import Call

Array = np.ndarray[Any, Any]


class Executable:
    """A compiled function: NumPy arrays of its parameters' types in, arrays out.

    ``addresses`` has the machine code of the image's kernels, ``lower`` gives the kernel
    calls behind it to whoever looks.
    """

    def __init__(
        self, image: Image, addresses: Mapping[str, int], lower: Callable[[], Lowered]
    ) -> None:
        self.image = image
        self._lower = lower
        self._params = [(t.dtype.numpy, t.shape) for t in image.params]
        self._results = [(t.shape, t.dtype.numpy) for t in image.results]
        slots = len(image.params) + len(image.results)
        self._program = NativeProgram(
            image.steps,
            addresses,
            slots,
            arena_bytes=image.arena_bytes,
            fixed={slots + i: array.ctypes.data for i, array in enumerate(image.constants)},
            threads=image.threads,
        )
        self._direct = self.direct()

    @property
    def lowered(self) -> Lowered:
        """The kernel calls; lowered anew where the program came from the disk."""
        return self._lower()

    def direct(self, *, unwrap: bool = False) -> Callable[..., Any] | None:
        """The program as a builtin function of its arguments, tens of nanoseconds a call.

        ``None`` where results are large or overwrite donated arrays; a call gives
        ``NotImplemented`` for arguments that it cannot take as they are.  ``unwrap`` gives a
        single result without its tuple.
        """
        # Large results come from recycled memory, which the direct call does not know.
        if self.image.homes or any(t.bytes >= SMALL for t in self.image.results):
            return None
        results = [(dtype, shape) for shape, dtype in self._results]
        return self._program.bind(self._params, results, unwrap=unwrap)

    def __call__(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """Runs the program; results are fresh C-contiguous arrays, NumPy scalars where 0-d.

        Raises ``UsageError`` when the arguments do not have the parameters' types.
        """
        if self._direct is not None:
            fast = self._direct(*arguments)
            if fast is not NotImplemented:
                results: Sequence[Any] = fast
                return results
        arrays = self._checked(arguments)
        made = self._results_for(arrays)
        self._program.run([*arrays, *made])
        return [a[()] for a in made]

    def _results_for(self, arrays: list[Array]) -> list[Array]:
        """Arrays for the results: donated ones and recycled memory."""
        made = []
        for number, (shape, dtype) in enumerate(self._results):
            home = self.image.homes.get(len(arrays) + number)
            made.append(empty(shape, dtype) if home is None else arrays[home])
        return made

    def profile(self, arguments: Sequence[Any]) -> list[tuple[Call, float]]:
        """The seconds each kernel call took in one run."""
        arrays = self._checked(arguments)
        results = self._results_for(arrays)
        times = self._program.run_timed([*arrays, *results])
        return list(zip(self.lowered.calls, map(float, times), strict=True))

    def _checked(self, arguments: Sequence[Any]) -> list[Array]:
        arrays = []
        for argument, (dtype, shape) in zip(arguments, self._params, strict=True):
            array = argument if isinstance(argument, np.ndarray) else np.asarray(argument)
            if not array.dtype.isnative:
                array = array.astype(array.dtype.newbyteorder("="))
            if array.dtype != dtype or array.shape != shape:
                expected = ", ".join(map(str, self.image.params))
                raise UsageError(
                    f"@{self.image.name} was compiled for ({expected}), "
                    f"got {type_of_array(array)} among its arguments"
                )
            # Not ascontiguousarray: that would turn a scalar's array into one axis.
            arrays.append(array if array.flags.c_contiguous else array.copy(order="C"))
        return arrays
