"""``compile_func``: an optimised IR function in, an ``Executable`` out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from symgrad.codegen import plan
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.jit import compile_modules, emit_assembly, optimised
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import find_epilogues, lower_func, reuse_donated
from symgrad.codegen.lowering.scope import Call, Scope
from symgrad.codegen.runtime.memory import SMALL, empty
from symgrad.codegen.runtime.program import ARENA, NativeProgram, Step
from symgrad.codegen.runtime.threads import get_num_threads
from symgrad.codegen.storage import Buffer
from symgrad.codegen.target import Target
from symgrad.ir.errors import NoKernelError, UsageError
from symgrad.ir.graph import Func
from symgrad.ir.types import type_of_array

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lowered:
    """A function as kernel calls: what ``show`` prints and what gets compiled."""

    func: Func
    target: Target
    threads: int
    calls: tuple[Call, ...]
    names: tuple[str, ...]
    """Kernel of each call; equal kernels share a name."""
    modules: dict[str, str]
    """LLVM text of each kernel."""
    arena_bytes: int
    homes: dict[int, int]
    """Slots of results that overwrite a donated parameter, with that parameter's."""

    def llvm(self, *, optimise: bool = False) -> str:
        """The kernels' LLVM text."""
        texts = self.modules.values()
        return "\n".join(optimised(t, self.target) if optimise else t for t in texts)

    def asm(self) -> str:
        """The kernels' assembly text."""
        return "\n".join(emit_assembly(t, self.target) for t in self.modules.values())


def lower(
    func: Func,
    *,
    target: Target | None = None,
    threads: int | None = None,
    donate: Sequence[int] = (),
) -> Lowered:
    """Kernel calls, memory plan and LLVM text for an optimised function.

    ``donate`` numbers parameters whose memory results may take over.  Raises
    ``NoKernelError`` for an op that nothing can run.
    """
    target = target or Target.host()
    threads = threads or get_num_threads()
    _check_dtypes(func)
    scope = Scope(target, threads, Layouts(func), find_epilogues(func))
    calls = lower_func(scope, func)
    homes = reuse_donated(func, calls, donate)
    arena = plan.place_buffers(calls)
    names: dict[Hashable, str] = {}
    modules: dict[str, str] = {}
    for call in calls:
        key = (call.phase.emit, call.phase.spec)
        if key not in names:
            name = names[key] = f"{call.phase.label.replace(' ', '_')}_{len(names)}"
            modules[name] = kernel_text(call.phase.emit, call.phase.spec, name, target)
    used = tuple(names[c.phase.emit, c.phase.spec] for c in calls)
    return Lowered(func, target, threads, tuple(calls), used, modules, arena, homes)


def _check_dtypes(func: Func) -> None:
    for op in func.ops:
        for value in (*op.operands, *op.results):
            if value.type.dtype.kind == "c":
                raise NoKernelError(
                    f"{op.name} of {value.type}: complex numbers are traced and interpreted "
                    "(SYMGRAD_BACKEND=interp) but not compiled; split them into real parts",
                    loc=op.loc,
                )


@functools.lru_cache(maxsize=4096)
def kernel_text(
    emit: Callable[[Emitter, str, Any], None], spec: Hashable, name: str, target: Target
) -> str:
    """LLVM text of the module of one kernel."""
    k = Emitter(target)
    emit(k, name, spec)
    return k.module()


def compile_func(
    func: Func,
    *,
    target: Target | None = None,
    threads: int | None = None,
    donate: Sequence[int] = (),
) -> Executable:
    """Native code for an optimised function, ready to call; see ``lower``."""
    return Executable(lower(func, target=target, threads=threads, donate=donate))


class Executable:
    """A compiled function: NumPy arrays of its parameters' types in, arrays out."""

    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        func = lowered.func
        self.param_types = func.param_types
        self.result_types = func.result_types
        self._params = [(t.dtype.numpy, t.shape) for t in func.param_types]
        self._results = [(t.shape, t.dtype.numpy) for t in func.result_types]
        self._constants = {
            id(b): b for call in lowered.calls for b in call.reads if b.data is not None
        }
        slots = len(self._params) + len(self._results)
        numbers = {key: slots + i for i, key in enumerate(self._constants)}
        fixed = {
            numbers[key]: b.data.ctypes.data
            for key, b in self._constants.items()
            if b.data is not None
        }
        stops = plan.barriers(lowered.calls)
        steps = [
            Step(name, tuple(self._pointer(b, numbers) for b in call.buffers), call.parallel, stop)
            for name, call, stop in zip(lowered.names, lowered.calls, stops, strict=True)
        ]
        addresses = compile_modules(lowered.modules, lowered.target)
        self._program = NativeProgram(
            steps,
            addresses,
            slots,
            arena_bytes=lowered.arena_bytes,
            fixed=fixed,
            threads=lowered.threads,
        )
        self._direct = self.direct()

    def direct(self, *, unwrap: bool = False) -> Callable[..., Any] | None:
        """The program as a builtin function of its arguments, tens of nanoseconds a call.

        ``None`` where results are large or overwrite donated arrays; a call gives
        ``NotImplemented`` for arguments that it cannot take as they are.  ``unwrap`` gives a
        single result without its tuple.
        """
        # Large results come from recycled memory, which the direct call does not know.
        if self.lowered.homes or any(t.bytes >= SMALL for t in self.result_types):
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

    def _pointer(self, buffer: Buffer, constants: dict[int, int]) -> tuple[int, int]:
        if buffer.slot is not None:
            return buffer.slot, 0
        if buffer.data is not None:
            return constants[id(buffer)], 0
        return ARENA, buffer.offset

    def _results_for(self, arrays: list[Array]) -> list[Array]:
        """Arrays for the results: donated ones and recycled memory."""
        made = []
        for number, (shape, dtype) in enumerate(self._results):
            home = self.lowered.homes.get(len(arrays) + number)
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
                expected = ", ".join(map(str, self.param_types))
                raise UsageError(
                    f"@{self.lowered.func.name} was compiled for ({expected}), "
                    f"got {type_of_array(array)} among its arguments"
                )
            # Not ascontiguousarray: that would turn a scalar's array into one axis.
            arrays.append(array if array.flags.c_contiguous else array.copy(order="C"))
        return arrays
