"""Convolution layers of many networks, all three passes, against PyTorch.

``python benchmarks/conv_layers.py [--only depthwise] [--threads 2] [--seconds 0.1]`` prints
for every layer and pass the least time of: our kernels on operands as they lie inside of a
network (conversions at the program's edges left out), the whole one-op program on plain
arrays, PyTorch on contiguous tensors and on channels_last ones.  ``ratio`` is PyTorch's better
time over our kernels'.  Rounds are interleaved, so that a busy machine troubles all alike.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from symgrad.codegen.compile import compile_func
from symgrad.codegen.executable import Executable
from symgrad.codegen.profile import timed
from symgrad.ir import Builder, Func, TensorType
from symgrad.ir.passes import optimize
from symgrad.ir.types import f32

Array = np.ndarray[Any, Any]
GROUP = 7
"""Layers that are prepared together, and then measured one after another."""
PASSES = {"conv": "forward", "conv_input_grad": "to input", "conv_weight_grad": "to weights"}


@dataclass(frozen=True)
class Layer:
    """A convolution with equal sizes along all spatial axes."""

    network: str
    images: int
    channels: int
    outputs: int
    size: tuple[int, ...]
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | None = None
    """Before and after each axis; half of the window where ``None``."""

    @property
    def pad(self) -> int:
        """The padding in numbers."""
        return self.dilation * (self.kernel - 1) // 2 if self.padding is None else self.padding

    @property
    def out(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        window = self.dilation * (self.kernel - 1) + 1
        return tuple((n + 2 * self.pad - window) // self.stride + 1 for n in self.size)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the input, the weights and the output."""
        rank = len(self.size)
        return {
            "x": (self.images, self.channels, *self.size),
            "w": (self.outputs, self.channels // self.groups, *(self.kernel,) * rank),
            "y": (self.images, self.outputs, *self.out),
        }

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        text = f"b{self.images} {self.channels}->{self.outputs} {size} k{self.kernel}"
        marks = (("s", self.stride), ("d", self.dilation), ("g", self.groups))
        return f"{self.network:10} {text} {' '.join(f'{m}{n}' for m, n in marks if n > 1)}"


LAYERS = (
    Layer("resnet50", 8, 64, 256, (56, 56), 1),
    Layer("resnet50", 8, 256, 64, (56, 56), 1),
    Layer("resnet50", 8, 512, 1024, (14, 14), 1),
    Layer("resnet50", 8, 1024, 2048, (14, 14), 1, 2),
    Layer("resnet50", 8, 256, 256, (14, 14), 3),
    Layer("resnet50", 8, 128, 128, (56, 56), 3, 2),
    Layer("resnext", 8, 128, 128, (28, 28), 3, groups=32),
    Layer("resnext", 8, 256, 256, (28, 28), 3, groups=32),
    Layer("efficient", 8, 240, 240, (28, 28), 5, 2, groups=240),
    Layer("mobilenet", 8, 32, 32, (112, 112), 3, groups=32),
    Layer("mobilenet", 8, 96, 96, (112, 112), 3, 2, groups=96),
    Layer("mobilenet", 8, 384, 384, (14, 14), 3, groups=384),
    Layer("mobilenet", 8, 576, 576, (14, 14), 3, 2, groups=576),
    Layer("mobilenet", 8, 960, 960, (7, 7), 3, groups=960),
    Layer("multiplier", 8, 48, 96, (28, 28), 3, groups=48),
    Layer("mobilenet", 8, 24, 144, (56, 56), 1),
    Layer("convnext", 8, 96, 96, (56, 56), 7, groups=96),
    Layer("convnext", 8, 384, 384, (14, 14), 7, groups=384),
    Layer("convnext", 8, 3, 96, (224, 224), 4, 4, padding=0),
    Layer("convnext", 8, 96, 192, (56, 56), 2, 2, padding=0),
    Layer("wavenet", 4, 32, 64, (4000,), 3, dilation=16),
    Layer("wavenet", 4, 64, 64, (4000,), 3),
    Layer("audio", 4, 1, 32, (16000,), 25, 4),
    Layer("audio", 4, 20, 40, (4000,), 9),
    Layer("audio", 4, 256, 256, (500,), 5),
    Layer("audio", 4, 64, 64, (2000,), 25, groups=64),
    Layer("unet", 2, 64, 64, (128, 128), 3),
    Layer("unet", 2, 16, 16, (256, 256), 3),
    Layer("unet", 2, 64, 1, (128, 128), 1),
    Layer("video", 2, 3, 32, (16, 56, 56), 3),
    Layer("video", 2, 32, 32, (8, 28, 28), 3),
    Layer("video", 2, 64, 128, (8, 28, 28), 3, 2),
    Layer("first", 32, 1, 32, (28, 28), 3),
    Layer("first", 32, 3, 32, (32, 32), 3),
    Layer("first", 8, 3, 64, (224, 224), 7, 2),
    Layer("lenet", 64, 1, 20, (28, 28), 5, padding=0),
    Layer("lenet", 64, 20, 50, (12, 12), 5, padding=0),
    Layer("odd", 8, 50, 100, (28, 28), 3),
    Layer("odd", 8, 100, 100, (14, 14), 3),
    Layer("odd", 8, 20, 20, (56, 56), 3),
    Layer("small", 1, 512, 512, (2, 2), 3),
    Layer("small", 8, 512, 512, (7, 7), 3),
    Layer("atrous", 2, 256, 256, (33, 33), 3, dilation=2),
    Layer("inception", 8, 192, 192, (17, 17), 5),
)


def program(layer: Layer, name: str) -> Func:
    """One pass of a layer as a function of plain arrays."""
    shapes, rank = layer.shapes, len(layer.size)
    attrs: dict[str, Any] = {
        "stride": (layer.stride,) * rank, "padding": ((layer.pad,) * 2,) * rank,
        "dilation": (layer.dilation,) * rank, "lhs_dilation": (1,) * rank,
        "groups": layer.groups,
    }  # fmt: skip
    operands = {"conv": "xw", "conv_input_grad": "yw", "conv_weight_grad": "xy"}[name]
    if name == "conv_input_grad":
        attrs["spatial"] = layer.size
    if name == "conv_weight_grad":
        attrs["kernel"] = shapes["w"][2:]
    builder = Builder()
    params = [builder.param(TensorType(f32, shapes[o])) for o in operands]
    return optimize(builder.build([builder.emit(name, *params, **attrs)], "layer"))


class Ours:
    """One pass, compiled; calls give the seconds in its kernels and in all."""

    def __init__(self, layer: Layer, name: str, arrays: dict[str, Array], threads: int) -> None:
        self.executable: Executable = compile_func(program(layer, name), threads=threads)
        used = {"conv": "xw", "conv_input_grad": "yw", "conv_weight_grad": "xy"}[name]
        result = np.empty(layer.shapes[{"conv": "y", "conv_input_grad": "x"}.get(name, "w")], "f4")
        self.slots = [*(arrays[o] for o in used), result]
        calls = self.executable.lowered.calls
        self.counted = np.array([not call.op.endswith(":copy") for call in calls])
        # What is no longer a convolution, a product of one term, runs in a kernel without choice.
        self.chosen = next(
            (call.chosen for call in calls if call.chosen),
            f"{max(calls, key=lambda call: call.flops).op} (no convolution kernel)",
        )

    def __call__(self) -> tuple[float, float]:
        spans = timed(self.executable, self.slots).spans
        took = np.nan_to_num(spans[..., 1] - spans[..., 0]).max(axis=0)
        return float(took[self.counted].sum()), float(np.nanmax(spans))


def peers(layer: Layer, name: str, arrays: dict[str, Array]) -> list[Callable[[], Any]]:
    """PyTorch's pass on contiguous tensors and, where there are such, on channels_last ones."""
    import torch

    rank = len(layer.size)
    last = {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank)
    found = []
    for form in (torch.contiguous_format, *([last] if last else ())):
        x, w, y = (torch.from_numpy(arrays[o]).to(memory_format=form) for o in "xwy")
        options = ([layer.stride] * rank, [layer.pad] * rank, [layer.dilation] * rank, False,
                   [0] * rank, layer.groups)  # fmt: skip
        mask = [name == "conv_input_grad", name == "conv_weight_grad", False]

        def forward(x: Any = x, w: Any = w, options: Any = options) -> Any:
            return torch.ops.aten.convolution(x, w, None, *options)

        def backward(
            x: Any = x, w: Any = w, y: Any = y, options: Any = options, mask: Any = mask
        ) -> Any:
            return torch.ops.aten.convolution_backward(y, x, w, None, *options, mask)

        found.append(forward if name == "conv" else backward)
    return found


def clock(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@contextmanager
def locked(path: str | None) -> Iterator[None]:
    """Holds a lock file, so that two benchmarks on one machine take turns."""
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Contest:
    """One pass of a layer, ready to be measured."""

    def __init__(self, layer: Layer, name: str, threads: int) -> None:
        rng = np.random.default_rng(0)
        arrays = {n: rng.standard_normal(s, np.float32) for n, s in layer.shapes.items()}
        self.layer, self.name = layer, name
        self.ours = Ours(layer, name, arrays, threads)
        self.others = peers(layer, name, arrays)

    def least(self, seconds: float) -> list[float]:
        """Times of kernels, program, PyTorch, PyTorch channels_last."""
        own: list[tuple[float, float]] = []
        theirs: list[list[float]] = [[] for _ in self.others]

        def repeat(function: Callable[[], Any], share: float) -> None:
            end, rounds = time.perf_counter() + share, 0
            while rounds < 2 or time.perf_counter() < end:
                function()
                rounds += 1

        for _ in range(3):
            repeat(lambda: own.append(self.ours()), seconds / 6)
            for run, times in zip(self.others, theirs, strict=True):
                repeat(lambda run=run, times=times: times.append(clock(run)), seconds / 12)
        kernels, whole = zip(*own, strict=True)
        return [min(kernels), min(whole), *map(min, theirs)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.15, help="for each line")
    parser.add_argument("--only", default="", help="part of the names of the layers")
    parser.add_argument("--passes", default="", help="part of the names of the passes")
    parser.add_argument("--lock", help="a file to lock while measuring")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads; milliseconds")
    heads = "".join(f"{h:>9}" for h in ("kernels", "program", "torch", "last", "ratio", "whole"))
    print(f"{'layer':52}{'pass':11}{heads}  chosen")
    wanted = [layer for layer in LAYERS if options.only in str(layer)]
    ratios: list[float] = []
    for start in range(0, len(wanted), GROUP):
        contests = [
            Contest(layer, name, options.threads)
            for layer in wanted[start : start + GROUP]
            for name, label in PASSES.items()
            if options.passes in label
        ]
        with locked(options.lock):
            measured = [contest.least(options.seconds) for contest in contests]
        for contest, times in zip(contests, measured, strict=True):
            best = min(times[2:])
            ratios.append(best / times[0])
            cells = [*(f"{1e3 * t:9.3f}" for t in times), "" if len(times) > 3 else " " * 9]
            cells += [f"{ratios[-1]:9.2f}", f"{best / times[1]:9.2f}"]
            label = f"{contest.layer!s:52}{PASSES[contest.name]:11}"
            print(f"{label}{''.join(cells)}  {contest.ours.chosen}", flush=True)
    slower = sum(ratio < 1 for ratio in ratios)
    well = sum(ratio >= 1.5 for ratio in ratios)
    print(f"of {len(ratios)} passes {slower} are slower than PyTorch's, {well} 1.5 times as fast")


if __name__ == "__main__":
    main()
