"""How weight gradients by Winograd's algorithm are cut up, and what they then cost.

Costs are cycles of the slowest thread, as in ``winograd_schedule``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from math import ceil

from symgrad.codegen.emitter import bytes_of
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
from symgrad.codegen.target import Target
from symgrad.ir.record import record

Cost = Callable[[GradKernelSpec, Target, int], tuple[float, float]]
SHARE_TILES = 64
"""Tiles that are transformed together where tiles come first."""


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
    block = min(SHARE_TILES, ceil(spec.tiles / shares))
    for vectors in (1, 2, 4):
        span = vectors * lanes
        group = max(1, span // BLOCK)
        if (span % BLOCK and BLOCK % span) or spec.out_blocks % group:
            continue
        for channels in (2, 4, 8, 16):
            if channels * vectors + vectors + 1 <= registers:
                kernel = GradKernelSpec(spec, channels, group, vectors)
                yield kernel, _filters_first
                yield GradKernelSpec(spec, channels, group, vectors, block, shares), _tiles_first


def _products(kernel: GradKernelSpec, target: Target, tiles: float) -> float:
    """The products of one block of input channels and one group of outputs over tiles."""
    span = kernel.vectors * min(BLOCK, target.lanes(bytes_of(kernel.grad.x.scalar)))
    calls = BLOCK // kernel.channels * (kernel.pitch // span)
    pairs, ports = kernel.channels * kernel.vectors, target.vector_ports
    step = 0.3 + max(pairs / ports, (kernel.channels + kernel.vectors) / ports, 4)
    tiles *= kernel.grad.cut.needed
    return kernel.grad.points * calls * (tiles * step + 20 + pairs / ports)


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


def _filters_first(
    kernel: GradKernelSpec, target: Target, threads: int
) -> tuple[float, float]:
    grad, size = kernel.grad, bytes_of(kernel.grad.x.scalar)
    blocks = grad.x.blocks + grad.dy.blocks
    area = grad.points * blocks * grad.tiles * BLOCK * size
    tasks = ceil(kernel.groups * grad.in_blocks / threads)
    read = grad.points * grad.tiles * (BLOCK + kernel.pitch) * size
    task = _products(kernel, target, grad.tiles)
    task += read * target.cycles_per_byte(area) / 4  # the rest is prefetched
    task += _transforms(kernel, target, BLOCK * kernel.group)
    task += _stores(kernel, target, kernel.group)
    transforms = _transforms(kernel, target, grad.tiles * blocks * grad.cut.needed)
    written = 2 * area * target.cycles_per_byte(area)  # a line comes before it can be written
    return (transforms + written) / threads, tasks * task


def _tiles_first(kernel: GradKernelSpec, target: Target, threads: int) -> tuple[float, float]:
    grad, size = kernel.grad, bytes_of(kernel.grad.x.scalar)
    blocks, pairs = grad.x.blocks + grad.dy.blocks, kernel.groups * grad.in_blocks
    share = ceil(grad.tiles / kernel.shares)
    rounds = ceil(share / kernel.block)
    sums = kernel.share * size
    area = grad.points * blocks * kernel.block * BLOCK * size
    moved = rounds * 2 * sums * target.cycles_per_byte(sums + area)
    moved += 2 * share / kernel.block * area * target.cycles_per_byte(sums + area)
    products = rounds * pairs * _products(kernel, target, share / rounds)
    back = _transforms(kernel, target, pairs * kernel.group * BLOCK * (1 + kernel.shares / 4))
    back += _stores(kernel, target, pairs * kernel.group)
    back += kernel.shares * sums * target.cycles_per_byte(kernel.shares * sums)
    transforms = _transforms(kernel, target, share * blocks * grad.cut.needed)
    return moved + products + transforms, back / threads
