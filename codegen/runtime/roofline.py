"""What this machine can do at most: floating-point rate and memory bandwidth.

Two small kernels measure it, on as many threads as asked for.  The best figures ever seen
are kept on disk, since another process may disturb a measurement but never improve it.
They are what a profile compares kernels with.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.jit import compile_modules
from symgrad.codegen.objects import version
from symgrad.codegen.registers import Reg, vec
from symgrad.codegen.runtime.program import NativeProgram, Step
from symgrad.codegen.target import Target, available_cpus
from symgrad.ir.cache import Cache
from symgrad.ir.record import record

Memory = np.ndarray[Any, Any]

_CHAINS = 12
"""Independent accumulators: more than latency times throughput of any multiply-add unit."""
_ROUNDS = 100_000
_BYTES = 64 << 20
"""Larger than the caches next to the cores: what streams through is read from memory."""
_REPEATS = 5

_cache = Cache("machine", limit=1 << 20)


@record
class Peaks:
    """The most that all threads of a program reach together."""

    flops: float
    """f32 operations a second; a multiply-add counts as two."""
    bytes: float
    """Bytes read from memory a second."""

    def seconds(self, flops: float, bytes: float, scalar_bytes: int = 4) -> float:
        """The least time for this much work: the roofline."""
        return max(flops * scalar_bytes / 4 / self.flops, bytes / self.bytes)


@functools.cache
def measure(threads: int) -> Peaks:
    """The peaks of this machine with so many threads; takes some 0.1 s."""
    identity = f"{platform.node()} {Target.host()!r} {available_cpus()} {threads} {version()}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:40]
    known = _cache.get(key)
    best = Peaks(0.0, 0.0) if known is None else Peaks(**json.loads(known))
    flops = 2.0 * Target.host().lanes(4) * _CHAINS * _ROUNDS * threads
    memory = np.ones(_BYTES // 4, np.float32)
    peaks = Peaks(
        max(best.flops, flops / _fastest("peak_flops", _emit_flops, memory, threads)),
        max(best.bytes, _BYTES / _fastest("peak_bytes", _emit_bytes, memory, threads)),
    )
    _cache.put(key, json.dumps(asdict(peaks)).encode())
    return peaks


def _fastest(
    name: str, emit: Callable[[Emitter, str], None], memory: Memory, threads: int
) -> float:
    """Seconds of the fastest of some runs of a kernel on all threads."""
    k = Emitter(Target.host())
    emit(k, name)
    addresses = compile_modules({name: k.module()}, k.target)
    sink = np.zeros(threads * 64, np.float32)
    program = NativeProgram([Step(name, ((0, 0), (1, 0)))], addresses, 2, threads=threads)
    runs = (program.run_timed([memory, sink]) for _ in range(_REPEATS + 1))
    return min(float(np.nanmax(spans) - np.nanmin(spans)) for spans in runs)


def _emit_flops(k: Emitter, name: str) -> None:
    """Chains of multiply-adds on registers."""
    type = vec("float", k.target.lanes(4))
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, _):
        chains = [k.alloca(type) for _ in range(_CHAINS)]
        for chain in chains:
            k.store(k.zero(type), chain)
        factor = k.broadcast_load(type, k.load("ptr", args))
        with k.loop(0, _ROUNDS):
            for chain in chains:
                k.store(k.fma(k.load(type, chain), factor, factor), chain)
        _keep(k, type, chains, args, tid)


def _emit_bytes(k: Emitter, name: str) -> None:
    """Each thread adds up its part of the memory."""
    lanes = k.target.lanes(4)
    type, width = vec("float", lanes), lanes * _CHAINS
    with k.function(name, ("ptr", "i64", "i64")) as (args, tid, nth):
        sums = [k.alloca(type) for _ in range(_CHAINS)]
        for one in sums:
            k.store(k.zero(type), one)
        memory = k.load("ptr", args)
        low, high = k.slice(_BYTES // 4 // width, tid, nth)
        with k.loop(low, high) as i:
            row = k.gep(memory, k.mul(i, width), "float")
            for j, one in enumerate(sums):
                value = k.load(type, k.gep(row, j * lanes, "float"))
                k.store(k.fadd(k.load(type, one), value), one)
        _keep(k, type, sums, args, tid)


def _keep(k: Emitter, type: str, chains: Sequence[Reg], args: Reg, tid: Reg) -> None:
    """Stores what was computed, so that it is."""
    total = k.load(type, chains[0])
    for chain in chains[1:]:
        total = k.fadd(total, k.load(type, chain))
    sink = k.load("ptr", k.gep(args, 1, "ptr"))
    k.store(total, k.gep(sink, k.mul(tid, 16), "float"))
