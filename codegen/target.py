"""What the machine code is made for: vector width, registers, caches, features.

Every kernel and every cost takes its machine facts from a ``Target``; nothing
else in the code generator knows a CPU.  ``Target.host()`` describes this
machine, ``Target.named("avx2")`` one of the portable ones.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

from symgrad.ir.record import record


@record
class Target:
    """Facts about one CPU.  Sizes in bytes."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    """Width of one vector register: 64 (AVX-512), 32 (AVX2), 16 (SSE2, NEON)."""
    vector_registers: int
    has_fma: bool
    has_masks: bool
    """Whether masked loads and stores are single instructions."""
    l1d: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 8 << 20
    tile_unit: str = ""
    """The matrix unit, by its name in ``tile_unit.py``; none if empty."""

    def lanes(self, scalar_bytes: int) -> int:
        """Elements of ``scalar_bytes`` bytes in one vector register."""
        return max(1, self.vector_bytes // scalar_bytes)

    @property
    def has_bf16_products(self) -> bool:
        """Whether there is an instruction for products of bf16 pairs summed in f32."""
        return "+avx512bf16" in self.features.split(",") and self.vector_bytes == 64

    @property
    def vector_ports(self) -> int:
        """Vector fmas, and vector loads, that start in one cycle."""
        halves = self.cpu in ("znver4", "znver4t") and self.vector_bytes == 64
        return 1 if halves else 2

    def cycles_per_byte(self, footprint: float) -> float:
        """What it takes one thread to read again what lies among ``footprint`` bytes that
        it goes over in turn."""
        if footprint <= self.l1d // 2:
            return 1 / self.vector_bytes
        if footprint <= self.l2 * 3 // 4:
            return 1 / 32
        return 1 / 12 if footprint <= self.l3 // 2 else 1 / 6

    @property
    def key(self) -> str:
        """Text that identifies the generated code's target in cache keys."""
        sizes = f"{self.vector_bytes}/{self.l1d}/{self.l2}"
        return f"{self.triple}/{self.cpu}/{self.features}/{sizes}{self.tile_unit}"

    @staticmethod
    @functools.cache
    def host() -> Target:
        """This machine.  ``SYMGRAD_TARGET`` (a name of ``named``) overrides it."""
        if name := os.environ.get("SYMGRAD_TARGET"):
            return Target.named(name)
        import llvmlite.binding as llvm

        enabled = llvm.get_host_cpu_features()
        triple = llvm.get_process_triple()
        # AMX counts only if the system lets this process use it.
        has_tiles = bool(enabled.get("amx-tile") and enabled.get("amx-bf16")) and may_use_tiles()
        flags = {
            name: on for name, on in enabled.items() if has_tiles or not name.startswith("amx")
        }
        features = ",".join(("+" if on else "-") + name for name, on in sorted(flags.items()))
        caches = _cache_sizes()
        base = Target(triple, llvm.get_host_cpu_name(), features, 16, 16, False, False, **caches)
        if platform.machine() in ("aarch64", "arm64"):
            return replace(base, vector_registers=32, has_fma=True)
        if flags.get("avx512f") and flags.get("avx512vl") and flags.get("avx512dq"):
            return replace(
                base, vector_bytes=64, vector_registers=32, has_fma=True, has_masks=True,
                tile_unit="amx" if has_tiles else "",
            )  # fmt: skip
        if flags.get("avx2") and flags.get("fma"):
            return replace(base, vector_bytes=32, has_fma=True, has_masks=True)
        return base

    @staticmethod
    def named(name: str) -> Target:
        """A portable target, ``avx512``, ``avx2``, ``x86-64`` or ``neon``, or ``amx``: that is the
        first server with AMX."""
        linux = "unknown-linux-gnu"
        table = {
            "avx512": Target(f"x86_64-{linux}", "x86-64-v4", "", 64, 32, True, True),
            "avx2": Target(f"x86_64-{linux}", "x86-64-v3", "", 32, 16, True, True),
            "x86-64": Target(f"x86_64-{linux}", "x86-64", "", 16, 16, False, False),
            "amx": Target(
                f"x86_64-{linux}",
                "sapphirerapids",
                "+avx512bf16,+amx-tile,+amx-bf16",
                64,
                32,
                True,
                True,
                48 << 10,
                2 << 20,
                32 << 20,
                tile_unit="amx",
            ),
            "neon": Target(f"aarch64-{linux}", "generic", "+neon", 16, 32, True, False),
        }
        if name not in table:
            raise ValueError(f"unknown target {name!r}; known targets: {', '.join(table)}")
        return table[name]


@functools.cache
def huge_page_bytes() -> int:
    """Size of the large pages that Linux backs memory with where a program asks; else 0."""
    try:
        return int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


@functools.cache
def may_use_tiles() -> bool:
    """Asks Linux, once, to let this process and its threads use AMX; whether they may.

    A thread's tiles are 8 KiB of state, which the kernel sets aside only for those who ask
    (Documentation/arch/x86/xstate.rst).
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    syscall = ctypes.CDLL(None).syscall
    syscall.restype, syscall.argtypes = ctypes.c_long, (ctypes.c_long,) * 3
    return bool(syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Of x86-64: the system call, ``ARCH_REQ_XCOMP_PERM``, and the component of the state."""


def _cache_sizes() -> dict[str, Any]:
    """Data cache sizes of CPU 0 as Linux reports them; empty where it does not."""
    names = {("1", "Data"): "l1d", ("2", "Unified"): "l2", ("3", "Unified"): "l3"}
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes: dict[str, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = (
                (index / leaf).read_text().strip() for leaf in ("level", "type", "size")
            )
            if name := names.get((level, kind)):
                sizes[name] = int(size[:-1]) * units[size[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return sizes


def available_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
