"""How weight gradients by Winograd's algorithm are cut up, and what they then cost.

Costs are cycles of the slowest thread, as in ``winograd_schedule``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from math import ceil

from symgrad.codegen.kernels import Lowering
from symgrad.codegen.kernels.blocked import BLOCK
from symgrad.codegen.kernels.conv_pack import PACKING
from symgrad.codegen.kernels.winograd_grad import (
    GradKernelSpec,
    WinogradGradSpec,
    lower_filters_first,
    lower_tiles_first,
)
from symgrad.codegen.kernels.winograd_schedule import TRANSFORM
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record

Cost = Callable[[GradKernelSpec, Target, int], tuple[float, float]]
SHARE_TILES = (32, 64)
"""Tiles that are transformed together where tiles come first."""
PREFETCHED = 4
"""How much less it takes to go over again what lies in a row, since that is prefetched."""


@record
class GradSchedule:
    """The form of least cost and its estimate."""

    kernel: GradKernelSpec
    phases: tuple[float, float]
    """Cycles before the products and with them, or with them and after."""

    @property
    def cycles(self) -> float:
        """Of all kernels together."""
        return sum(self.phases)


@functools.lru_cache(maxsize=4096)
def grad_schedule(spec: WinogradGradSpec, target: Target, threads: int) -> GradSchedule:
    """The tiling of least estimated time; a pure function of its arguments."""
    found = (
        GradSchedule(kernel, cost(kernel, target, threads))
        for kernel, cost in _kernels(spec, target, threads)
    )
    return min(found, key=lambda s: s.cycles)


def lower_winograd_grad(spec: WinogradGradSpec, target: Target, threads: int) -> Lowering:
    """The kernels in the form of least estimated time; operands x, dy, the epilogue's,
    result dw."""
    if reason := spec.refusal():
        raise ValueError(f"weight gradient by Winograd's algorithm: {reason}")
    best = grad_schedule(spec, target, threads)
    first, second = (max(1, round(cycles)) for cycles in best.phases)
    lower = lower_tiles_first if best.kernel.block else lower_filters_first
    return lower(best.kernel, target, threads, (first, second))


def _kernels(
    spec: WinogradGradSpec, target: Target, threads: int
) -> Iterator[tuple[GradKernelSpec, Cost]]:
    """Register tiles that fit, in both forms, with the cost function of each."""
    lanes = min(BLOCK, target.lanes(bytes_of(spec.x.scalar)))
    registers = target.vector_registers - (1 if target.has_fma else 2)
    shares = min(threads, spec.tiles)
    blocks = sorted({min(block, ceil(spec.tiles / shares)) for block in SHARE_TILES})
    for vectors in (1, 2, 4):
        span = vectors * lanes
        group = max(1, span // BLOCK)
        if (span % BLOCK and BLOCK % span) or spec.out_blocks % group:
            continue
        for channels in (n for n in range(1, spec.inputs + 1) if spec.inputs % n == 0):
            if channels * vectors + vectors + 1 <= registers:
                kernel = GradKernelSpec(spec, channels, group, vectors)
                yield kernel, _filters_first
                for block in blocks:
                    kernel = GradKernelSpec(spec, channels, group, vectors, block, shares)
                    yield kernel, _tiles_first


def _products(kernel: GradKernelSpec, target: Target, tiles: float) -> float:
    """The products of one block of input channels and one group of outputs over tiles."""
    span = kernel.vectors * min(BLOCK, target.lanes(bytes_of(kernel.grad.x.scalar)))
    calls = kernel.grad.inputs // kernel.channels * (kernel.pitch // span)
    pairs, ports = kernel.channels * kernel.vectors, target.vector_ports
    step = 0.3 + max(pairs / ports, (kernel.channels + kernel.vectors) / ports, 4)
    cut = kernel.grad.cut
    tiles *= cut.needed
    return cut.points * calls * (tiles * step + 20 + pairs / ports)


def _transforms(kernel: GradKernelSpec, target: Target, count: float) -> float:
    """Transforms of ``count`` rows of 16 channels."""
    lanes = min(BLOCK, target.lanes(bytes_of(kernel.grad.x.scalar)))
    return count * (BLOCK // lanes) * kernel.grad.points * TRANSFORM / target.vector_ports


def _stores(kernel: GradKernelSpec, target: Target, pairs: float) -> float:
    """Finished block pairs on their way to the weights."""
    dw = kernel.grad.dw
    size = bytes_of(dw.scalar)
    packed = 0.0 if dw.strides is None else PACKING
    return pairs * dw.matrix * (packed + size * target.cycles_per_byte(dw.elements * size))


def _filters_first(kernel: GradKernelSpec, target: Target, threads: int) -> tuple[float, float]:
    grad, cut, size = kernel.grad, kernel.grad.cut, bytes_of(kernel.grad.x.scalar)
    blocks = grad.x.blocks + grad.dy.blocks
    area = cut.points * blocks * cut.tiles * BLOCK * size
    tasks = ceil(kernel.groups * grad.in_blocks / threads)
    read = cut.points * cut.tiles * (BLOCK + kernel.pitch) * size
    task = _products(kernel, target, cut.tiles)
    task += read * target.cycles_per_byte(area) / PREFETCHED
    task += _transforms(kernel, target, grad.inputs * kernel.group)
    task += _stores(kernel, target, kernel.group)
    transforms = _transforms(kernel, target, cut.tiles * blocks * cut.needed)
    # Lines that are written come before and push out as many.
    written = 2 * area * target.cycles_per_byte(2 * area)
    return (transforms + written) / threads, tasks * task


def _tiles_first(kernel: GradKernelSpec, target: Target, threads: int) -> tuple[float, float]:
    grad, cut, size = kernel.grad, kernel.grad.cut, bytes_of(kernel.grad.x.scalar)
    blocks, pairs = grad.x.blocks + grad.dy.blocks, kernel.groups * grad.in_blocks
    share = ceil(cut.tiles / kernel.shares)
    rounds = ceil(share / kernel.block)
    sums = kernel.share * size
    area = cut.points * blocks * kernel.block * BLOCK * size
    pace = target.cycles_per_byte(sums + area)
    again = (rounds - 1) * sums + share / kernel.block * area
    moved = 2 * (sums + again / PREFETCHED) * pace
    products = rounds * pairs * _products(kernel, target, share / rounds)
    rows = pairs * kernel.group * grad.inputs
    back = _transforms(kernel, target, rows * (1 + kernel.shares / 4))
    back += _stores(kernel, target, pairs * kernel.group)
    back += kernel.shares * sums * target.cycles_per_byte(kernel.shares * sums)
    transforms = _transforms(kernel, target, share * blocks * cut.needed)
    return moved + products + transforms, back / threads
