"""Rates of the convolution kernels on the layers of ResNet-18, and what was expected.

``python benchmarks/conv.py [--batch 8] [--image 64] [--threads 2] [--ghz 3.7]`` prints for
every distinct layer, pass and algorithm the nominal Gflop/s: 2 x images x outputs x inputs x
taps x pixels over the least time of a call; that time, and the estimate by which the compiler
chooses.  A star marks the choice; a line at the end says where another was faster by more
than a tenth.  Weights are plain and packed on the way.  Each thread repeats its share without
barriers and counts its own CPU time, so that a busy machine disturbs little.
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
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Weights
from symgrad.codegen.lowering.conv_choice import (
    Candidate,
    Setting,
    candidates,
    gradient_candidates,
)
from symgrad.codegen.target import Target
from symgrad.ir import Builder, TensorType
from symgrad.ir.types import f32

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


PASSES = {"conv": "forward", "conv_input_grad": "to input", "conv_weight_grad": "to weights"}


def algorithms(
    layer: Layer, batch: int, threads: int
) -> Iterator[tuple[str, list[Candidate], list[Array]]]:
    """Each pass with the algorithms that can compute it, its operands and its result."""
    setting, kernel = Setting(Target.host(), threads), (layer.kernel, layer.kernel)
    pad, halo = layer.kernel // 2, max(1, layer.kernel // 2)
    around = ((halo, halo), (halo, halo))
    x = Blocked.dense("f32", (batch, layer.channels, layer.size, layer.size), around)
    out = layer.size // layer.stride
    y = Blocked.dense("f32", (batch, layer.outputs, out, out), ((1, 1), (1, 1)))
    w = Weights.plain("f32", layer.outputs, layer.channels, kernel)
    x_data, y_data, w_data = (aligned(t.elements) for t in (x, y, w))
    attrs: dict[str, Any] = {
        "stride": (layer.stride,) * 2, "padding": ((pad, pad),) * 2, "dilation": (1, 1),
        "lhs_dilation": (1, 1), "groups": 1,
    }  # fmt: skip
    b = Builder()
    w_shape = (layer.outputs, layer.channels, *kernel)
    xs, ys, ws = (b.param(TensorType(f32, s)) for s in (x.shape, y.shape, w_shape))
    op = b.emit("conv", xs, ws, **attrs).op
    yield "conv", candidates(setting, op, x, y, w)[0], [x_data, w_data, y_data]
    if layer.channels >= BLOCK:
        op = b.emit("conv_input_grad", ys, ws, **attrs, spatial=x.shape[2:]).op
        yield "conv_input_grad", candidates(setting, op, y, x, w)[0], [y_data, w_data, x_data]
    op = b.emit("conv_weight_grad", xs, ys, **attrs, kernel=kernel).op
    yield "conv_weight_grad", gradient_candidates(setting, op, x, y, w)[0], [x_data, y_data, w_data]


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


def seconds(lowering: Lowering, arrays: list[Array], threads: int) -> float:
    """The least time of all phases together."""
    buffers = [*arrays, *(aligned(size // 4) for size in lowering.temporaries)]
    total = 0.0
    for phase in lowering.phases:
        operands = [buffers[i] for i in phase.buffers]
        operands += [aligned(phase.scratch_bytes // 4)] if phase.scratch_bytes else []
        total += Repeated(phase).seconds(operands, threads)
    return total


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ghz", type=float, default=3.7, help="clock, to turn cycles into time")
    options = parser.parse_args()
    print(f"{options.threads} threads, batch {options.batch}, image {options.image}")
    print(f"{'layer':26}{'pass':12}{'algorithm':28}{'Gflop/s':>8}{'ms':>9}{'expected':>10}")
    wrong: list[str] = []
    for layer in layers(options.image):
        for name, found, arrays in algorithms(layer, options.batch, options.threads):
            best = min(found, key=lambda c: c.cycles)
            times = {c.name: seconds(c.lower(), arrays, options.threads) for c in found}
            for c in found:
                rate = layer.flops(options.batch) / times[c.name] / 1e9
                expected = 1e-6 * c.cycles / options.ghz
                label = f"{'*' if c is best else ' '} {c.name}"
                cells = f"{rate:8.0f}{1e3 * times[c.name]:9.3f}{expected:10.3f}"
                print(f"{layer!s:26}{PASSES[name]:12}{label:28}{cells}", flush=True)
            lost = times[best.name] / min(times.values())
            if lost > 1.1:
                wrong.append(f"{layer} {PASSES[name]}: {best.name} takes {lost:.2f} x the least")
    print("\n".join(wrong) or "every choice is within a tenth of the best")


if __name__ == "__main__":
    main()
