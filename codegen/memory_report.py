"""The memory of a run, by purpose."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from symgrad.ir.types import TensorType


def memory_of(
    params: Sequence[TensorType],
    results: Sequence[TensorType],
    arena_bytes: int,
    homes: Container[int],
    kept_bytes: int = 0,
) -> dict[str, int]:
    """Bytes of arena, parameters, results, and what is kept between runs if anything: together
    the peak of a run.

    Results that overwrite a donated parameter, whose slots are in ``homes``, need none.
    """
    own = [t.bytes for slot, t in enumerate(results, len(params)) if slot not in homes]
    memory = {"arena": arena_bytes, "parameters": sum(t.bytes for t in params), "results": sum(own)}
    return {**memory, "kept": kept_bytes} if kept_bytes else memory


def describe_memory(memory: Mapping[str, int]) -> str:
    """``memory 140.2 MB (arena 46.6 MB, ...)``"""
    parts = ", ".join(f"{name} {_size(size)}" for name, size in memory.items())
    return f"memory {_size(sum(memory.values()))} ({parts})"


def _size(bytes: int) -> str:
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if bytes >= scale:
            return f"{bytes / scale:.1f} {unit}"
    return f"{bytes} B"
