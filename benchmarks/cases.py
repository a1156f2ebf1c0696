"""What is measured, and the numbers that go in: the same for every side.

Nothing here imports symgrad, PyTorch or anything but NumPy.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LEARNING_RATE, MOMENTUM = 1e-4, 0.9
MLP_SIZES, MLP_BATCH = (784, 512, 512, 10), 128
BLOCK = {"batch": 4, "length": 128, "width": 768}
"""A block of GPT-2 small: sequences, tokens of each, features of a token."""
HEADS = 12


@dataclass(frozen=True)
class Case:
    """One row of the table.

    ``kind`` names the function that builds it on each side, ``options`` are its arguments.
    ``sides`` compete in turn; the first is ours.  ``large`` cases run on request.
    """

    name: str
    title: str
    kind: str
    options: Mapping[str, Any]
    sides: tuple[str, ...]
    threads: int | None = None
    large: bool = False
    measure: str = "time"
    """``time`` of a call, ``memory`` (peak of a fresh process), ``start`` (first calls) or
    ``import`` (of the library, in a fresh process)."""


TORCH = ("symgrad", "torch", "torch channels_last")
NUMPY = ("symgrad", "numpy")


def _resnet18(job: str, batch: int, size: int, large: bool = False) -> Case:
    work = "training step" if job == "train" else "inference"
    title = f"ResNet-18 {work}, {batch} @ {size}"
    options = {"batch": batch, "size": size}
    return Case(f"{job}_b{batch}_{size}", title, f"resnet18_{job}", options, TORCH, large=large)


def _matmul(n: int) -> Case:
    return Case(f"matmul_{n}", f"matmul {n}x{n} f32", "matmul", {"n": n}, NUMPY)


def _chain(chain: str, dtype: str, size: int) -> Case:
    title = f"{chain}, {size:,} {dtype}, 1 thread"
    options = {"chain": chain, "dtype": dtype, "size": size}
    return Case(f"{chain}_{dtype}_{size}", title, "chain", options, NUMPY, threads=1)


def _loop(batch: int) -> Case:
    title = f"ResNet-18 training loop on tensors, {batch} @ 64"
    return Case(f"loop_b{batch}_64", title, "resnet18_loop", {"batch": batch, "size": 64}, TORCH)


def _unrolled(n: int) -> Case:
    title = f"chain of {n:,} sines with gradient, 1 thread"
    return Case(f"unrolled_{n}", title, "unrolled", {"n": n}, TORCH[:2], threads=1)


def _greeks(dtype: str) -> Case:
    title = f"Black-Scholes Greeks, 1,000,000 {dtype}"
    return Case(f"greeks_{dtype}", title, "greeks", {"dtype": dtype}, TORCH[:2])


STEP = {"batch": 1, "size": 64}
CASES = (
    _resnet18("train", 1, 64),
    _resnet18("train", 8, 64),
    _resnet18("train", 8, 224, large=True),
    _resnet18("infer", 1, 64),
    _resnet18("infer", 8, 64),
    _resnet18("infer", 8, 224, large=True),
    _loop(1),
    _loop(8),
    Case("mlp", "MLP training step, batch 128", "mlp", {}, ("symgrad", "torch")),
    Case("block", "GPT-2 block with gradients, 4 x 128", "transformer_block", BLOCK, TORCH[:2]),
    Case(
        "block_by_hand", "the same, attention written out", "transformer_block",
        BLOCK | {"by_hand": True}, TORCH[:2],
    ),
    *(_matmul(n) for n in (256, 512, 1024, 2048)),
    _chain("polynomial", "f32", 10_000),
    _chain("polynomial", "f64", 1_000_000),
    _chain("gelu", "f32", 1_000_000),
    _chain("gaussian", "f64", 1_000_000),
    Case(
        "rosenbrock", "gradient of Rosenbrock's function, n = 10", "rosenbrock", {}, TORCH[:2],
        threads=1,
    ),
    Case("nested", "gradient of nested sines", "nested", {}, TORCH[:2], threads=1),
    _greeks("f64"),
    _greeks("f32"),
    *(_unrolled(n) for n in (100, 1000)),
    Case(
        "first_unrolled", "first call of the chain of 1,000 sines", "unrolled", {"n": 1000},
        TORCH[:2], threads=1, measure="start",
    ),
    Case(
        "memory", "peak memory of the step, 1 @ 64", "resnet18_train", STEP, TORCH,
        measure="memory",
    ),
    Case(
        "start", "first call of the step, 1 @ 64", "resnet18_train", STEP, TORCH[:2],
        measure="start",
    ),
    Case("import", "import of the library", "nothing", {}, (*TORCH[:2], "numpy"), measure="import"),
)  # fmt: skip


# ---------------------------------------------------------------------------- inputs --


def uniform(key: str, shape: tuple[int, ...], low: float, high: float, dtype: str = "f4") -> Array:
    """Numbers that depend on ``key`` only."""
    return np.random.default_rng(zlib.crc32(key.encode())).uniform(low, high, shape).astype(dtype)


def weight(name: str, shape: tuple[int, ...]) -> Array:
    """A ResNet-18 parameter or buffer by torchvision's name."""
    if len(shape) > 1:
        bound = (6 / np.prod(shape[1:])) ** 0.5
        return uniform(name, shape, -bound, bound)
    if name.endswith(("weight", "var")):
        return uniform(name, shape, 0.5, 1.5)
    return uniform(name, shape, -0.1, 0.1)


def images(batch: int, size: int) -> Array:
    """``f32[batch, 3, size, size]``."""
    return uniform("images", (batch, 3, size, size), -1, 1)


def labels(batch: int, classes: int) -> Array:
    """``i64[batch]``."""
    return np.arange(batch, dtype=np.int64) * 7 % classes


def mlp_parameters() -> dict[str, Array]:
    """Weights ``w0…`` of shape [out, in] and biases ``b0…``."""
    found: dict[str, Array] = {}
    for i, (inner, outer) in enumerate(itertools.pairwise(MLP_SIZES)):
        found[f"w{i}"] = weight(f"w{i}", (outer, inner))
        found[f"b{i}"] = np.zeros(outer, np.float32)
    return found


def mlp_images() -> Array:
    """``f32[128, 784]``."""
    return uniform("mlp", (MLP_BATCH, MLP_SIZES[0]), 0, 1)


def block_parameters(width: int) -> dict[str, Array]:
    """Weights [in, out] and biases of a transformer block, in the order of their use."""
    shapes = {"qkv": (width, 3 * width), "proj": (width, width)}
    shapes |= {"fc": (width, 4 * width), "out": (4 * width, width)}
    found: dict[str, Array] = {}
    for norm, layers in (("ln1", ("qkv", "proj")), ("ln2", ("fc", "out"))):
        found[f"{norm}_w"] = uniform(f"{norm}.weight", (width,), 0.5, 1.5)
        found[f"{norm}_b"] = uniform(f"{norm}.bias", (width,), -0.1, 0.1)
        for name in layers:
            found[f"{name}_w"] = uniform(name, shapes[name], -0.03, 0.03)
            found[f"{name}_b"] = uniform(name, shapes[name][1:], -0.03, 0.03)
    return found


def block_inputs(batch: int, length: int, width: int) -> tuple[Array, Array]:
    """Tokens ``f32[batch, length, width]``, and the cotangent of what the block makes of them."""
    x, ct = (uniform(key, (batch, length, width), -1, 1) for key in ("tokens", "cotangent"))
    return x, ct


# ------------------------------------------------- elementwise chains, plain NumPy code --


def polynomial(x: Array, y: Array) -> Array:
    """Arithmetic only: bound by memory when every operation makes an array of its own."""
    return (x * y + 2 * x - y) / (1 + x * x) - (x - y) * (x + y) * 0.25


def gelu(x: Array, y: Array) -> Array:
    """The tanh form of GELU, gated."""
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x))) * y


def gaussian(x: Array, y: Array) -> Array:
    """Exponential, sine and logarithm."""
    return np.exp(-x * x) * np.sin(y) + np.log1p(y * y)


CHAINS: Mapping[str, Callable[[Array, Array], Array]] = {
    "polynomial": polynomial, "gelu": gelu, "gaussian": gaussian,
}  # fmt: skip


def chain_inputs(dtype: str, size: int) -> tuple[Array, Array]:
    """Two vectors."""
    numpy_dtype = dtype.replace("f32", "f4").replace("f64", "f8")
    x, y = (uniform(key, (size,), -2, 2, numpy_dtype) for key in "xy")
    return x, y


# ------------------------------------------------------------ functions to differentiate --


def rosenbrock(x: Array) -> Any:
    """Rosenbrock's banana in any dimension."""
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def rosenbrock_input() -> Array:
    """``f64[10]``."""
    return np.linspace(-1.2, 1.2, 10)


NESTED_INPUT = 0.7
"""Where the nested sines are differentiated."""
NESTED_DEPTH = 7


def unrolled_inputs(n: int) -> tuple[Array, list[float]]:
    """The vector that sines run over, and the coefficient of each step."""
    rng = np.random.default_rng(9)
    return rng.uniform(-1, 1, 1024), rng.uniform(0.5, 1.5, n).tolist()


def option_inputs(dtype: str) -> tuple[Array, ...]:
    """Spot, strike, time, rate and volatility of a million options."""
    ranges = {
        "spot": (50, 150), "strike": (50, 150), "time": (0.1, 2), "rate": (0.01, 0.05),
        "volatility": (0.1, 0.5),
    }  # fmt: skip
    numpy_dtype = dtype.replace("f32", "f4").replace("f64", "f8")
    return tuple(uniform(k, (1_000_000,), *r, numpy_dtype) for k, r in ranges.items())


def matmul_inputs(n: int) -> tuple[Array, Array]:
    """Two square matrices."""
    return uniform("a", (n, n), -1, 1), uniform("b", (n, n), -1, 1)
