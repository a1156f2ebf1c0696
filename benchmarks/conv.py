"""Rates of the convolution kernels on the layers of ResNet-18.

``python benchmarks/conv.py [--batch 8] [--image 64] [--threads 1 2]`` prints, for every
distinct layer and pass, nominal Gflop/s: 2 x images x outputs x inputs x taps x pixels
over the least time of a call.  Weights are plain and packed on the way.  Each thread
repeats its share without barriers and counts its own CPU time, so that a busy machine
disturbs little.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.jit import compile_modules
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.kernels.conv_direct import forward, input_grad, lower_conv
from symgrad.codegen.kernels.conv_direct_grad import WeightGradSpec, lower_weight_grad
from symgrad.codegen.kernels.conv_pack import PackWeightsSpec
from symgrad.codegen.target import Target

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """A square convolution with padding kernel // 2."""

    channels: int
    outputs: int
    size: int
    kernel: int
    stride: int

    def flops(self, batch: int) -> float:
        pixels = (self.size // self.stride) ** 2
        return 2.0 * batch * pixels * self.channels * self.outputs * self.kernel**2

    def __str__(self) -> str:
        shape = f"{self.channels}->{self.outputs} {self.size}x{self.size}"
        return f"{shape} {self.kernel}x{self.kernel} /{self.stride}"


def layers(image: int) -> Iterator[Layer]:
    """The distinct convolutions of ResNet-18."""
    yield Layer(3, 64, image, 7, 2)
    size, channels = image // 4, 64
    for outputs in (64, 128, 256, 512):
        if outputs != channels:
            yield Layer(channels, outputs, size, 3, 2)
            yield Layer(channels, outputs, size, 1, 2)
            size //= 2
        yield Layer(outputs, outputs, size, 3, 1)
        channels = outputs


def aligned(elements: int) -> Array:
    """Random numbers at the start of a cache line."""
    raw = np.empty(elements + 16, np.float32)
    start = -(raw.ctypes.data // 4) % 16
    raw[:] = np.random.default_rng(0).standard_normal(raw.size, np.float32)
    return raw[start : start + elements]


def lowerings(
    layer: Layer, batch: int, threads: int
) -> Iterator[tuple[str, Lowering, list[Array]]]:
    """Each pass with its operands and result."""
    target, kernel = Target.host(), (layer.kernel, layer.kernel)
    pad, halo = layer.kernel // 2, max(1, layer.kernel // 2)
    around = ((halo, halo), (halo, halo))
    x = Blocked.dense("f32", (batch, layer.channels, layer.size, layer.size), around)
    out = layer.size // layer.stride
    y = Blocked.dense("f32", (batch, layer.outputs, out, out), ((1, 1), (1, 1)))
    w = Weights.plain("f32", layer.outputs, layer.channels, kernel)
    strides, padding = (layer.stride, layer.stride), (pad, pad)
    x_data, y_data, w_data = (aligned(t.elements) for t in (x, y, w))
    spec = forward(x, y, kernel, stride=strides, padding=padding)
    lowering = lower_conv(spec, PackWeightsSpec(w), target, threads)
    yield "forward", lowering, [x_data, w_data, y_data]
    if layer.channels >= 16:
        spec, packing = input_grad(y, x, w, stride=strides, padding=padding)
        lowering = lower_conv(spec, packing, target, threads)
        yield "to input", lowering, [y_data, w_data, x_data]
    gradient = WeightGradSpec(x, y, w, strides, padding)
    yield "to weights", lower_weight_grad(gradient, target, threads), [x_data, y_data, w_data]


class Repeated:
    """A compiled phase in a loop."""

    def __init__(self, phase: Phase) -> None:
        k = Emitter(Target.host())
        phase.emit(k, "kernel", phase.spec)
        with k.function("repeated", ["ptr", "i64", "i64", "i64"]) as (args, tid, nth, times):
            with k.loop(0, times):
                k.call("kernel", "void", [args, tid, nth])
        address = compile_modules({"repeated": k.module()}, Target.host())["repeated"]
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(address)

    def seconds(self, arrays: Sequence[Array], threads: int, budget: float = 0.1) -> float:
        """The least CPU time of one call's slowest thread."""
        pointers = np.array([a.ctypes.data for a in arrays], np.uint64)
        address = pointers.ctypes.data
        begin = time.thread_time()
        for tid in range(threads):
            self.call(address, tid, threads, 1)
        once = max((time.thread_time() - begin) / threads, 1e-7)
        times = max(1, int(0.004 / once))
        best, end = float("inf"), time.perf_counter() + budget
        while time.perf_counter() < end:
            took = [0.0] * threads
            gate = threading.Barrier(threads)

            def run(tid: int, took: list[float] = took, gate: threading.Barrier = gate) -> None:
                gate.wait()
                start = time.thread_time()
                self.call(address, tid, threads, times)
                took[tid] = time.thread_time() - start

            team = [threading.Thread(target=run, args=(tid,)) for tid in range(threads)]
            for thread in team:
                thread.start()
            for thread in team:
                thread.join()
            best = min(best, max(took) / times)
        return best


def rate(layer: Layer, batch: int, lowering: Lowering, arrays: list[Array], threads: int) -> float:
    """Gflop/s of all phases together."""
    buffers = [*arrays, *(aligned(size // 4) for size in lowering.temporaries)]
    total = 0.0
    for phase in lowering.phases:
        operands = [buffers[i] for i in phase.buffers]
        operands += [aligned(phase.scratch_bytes // 4)] if phase.scratch_bytes else []
        total += Repeated(phase).seconds(operands, threads)
    return layer.flops(batch) / total / 1e9


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    passes = ("forward", "to input", "to weights")
    counts = "/".join(map(str, options.threads))
    print(f"Gflop/s on {counts} threads, batch {options.batch}, image {options.image}")
    print(f"{'layer':28}" + "".join(f"{name:>16}" for name in passes))
    for layer in layers(options.image):
        rates: dict[str, list[float]] = {name: [] for name in passes}
        for threads in options.threads:
            for name, lowering, arrays in lowerings(layer, options.batch, threads):
                rates[name].append(rate(layer, options.batch, lowering, arrays, threads))
        cells = (" / ".join(f"{r:.0f}" for r in rates[name]) for name in passes)
        print(f"{layer!s:28}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
