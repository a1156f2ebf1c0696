"""Ops that call Python: the program hands arrays to a function and goes on when it is back.

The kernel runs on one thread, in which the program was started; the call takes the
interpreter's lock itself.  The function's address is data of the program, not part of its
code, so that code can be kept for other processes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.ir.record import record
from symgrad.ir.types import TensorType

Array = np.ndarray[Any, Any]
Reference = Callable[..., Any]
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@record
class HostSpec:
    """A call with the addresses of arrays, operands first, so many bytes into their buffers."""

    offsets: tuple[int, ...]


@functools.cache
def _entry(reference: Reference, operands: tuple[TensorType, ...], results: tuple[TensorType, ...],
           attrs: tuple[tuple[str, Any], ...]) -> Any:  # fmt: skip
    """A C function of an array of addresses: reads the operands, writes the results."""

    def array(address: int, type: TensorType) -> Array:
        memory: Any = (ctypes.c_char * type.bytes).from_address(address)
        return np.ndarray(type.shape, type.dtype.numpy, memory)

    def call(table: int) -> None:
        addresses = (ctypes.c_size_t * (len(operands) + len(results))).from_address(table)
        given, wanted = addresses[: len(operands)], addresses[len(operands) :]
        targets = [array(a, t) for a, t in zip(wanted, results, strict=True)]
        try:
            made = reference(*map(array, given, operands), **dict(attrs))
        except (np.linalg.LinAlgError, ArithmeticError):  # no convergence: nobody to raise it to
            made = [np.full(t.shape, np.nan) for t in results]
        for target, value in zip(targets, made if len(targets) > 1 else [made], strict=True):
            target[...] = value[0] if isinstance(value, list) else value

    return _CALLBACK(call)


def lower_host(
    reference: Reference, operands: tuple[TensorType, ...], results: tuple[TensorType, ...],
    attrs: dict[str, Any], offsets: tuple[int, ...],
) -> Lowering:  # fmt: skip
    """One kernel on row-major operands and results, ``offsets`` bytes into their buffers."""
    entry = _entry(reference, operands, results, tuple(attrs.items()))
    address = ctypes.cast(entry, ctypes.c_void_p).value or 0
    places = tuple(range(len(offsets)))
    phase = Phase("host", emit_host, HostSpec(offsets), places, numbers=(address,), is_bound=True)
    return Lowering((phase,))


def emit_host(k: Emitter, name: str, spec: HostSpec) -> None:
    """Writes the kernel of a ``HostSpec``."""
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, _):
        with k.if_(k.icmp("eq", tid, 0)):
            count = len(spec.offsets)
            table = k.alloca("ptr", count)
            for i, offset in enumerate(spec.offsets):
                place = k.gep(k.load("ptr", k.gep(args, i, "ptr")), offset, "i8")
                k.store(place, k.gep(table, i, "ptr"))
            address = k.load("i64", k.load("ptr", k.gep(args, count, "ptr")))
            k.line(f"call void {k.cast('inttoptr', address, 'ptr')}(ptr {table})")
