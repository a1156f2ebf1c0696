"""What is measured, and the numbers that go in: the same for every side.

Nothing here imports symgrad, PyTorch or anything but NumPy.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from goals import AtLeast, AtMost, Goal

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
    ``sides`` compete in turn; the first is ours.  A side is a library, then words that choose
    among its ways of doing the job; ``1 thread`` has it run on one.
    """

    name: str
    title: str
    kind: str
    options: Mapping[str, Any]
    sides: tuple[str, ...]
    threads: int | None = None
    goals: tuple[Goal, ...] = ()
    measure: str = "time"
    """``time`` of a call, ``memory`` (peak of a fresh process), ``start`` (first calls) or
    ``import`` (of the library, in a fresh process)."""


TORCH = ("symgrad", "torch", "torch channels_last")
COMPILE = ("symgrad", "torch", "torch compile")
NUMPY = ("symgrad", "numpy")
BLAS = ("symgrad", "numpy", "torch")
SCALAR = ("symgrad", "numba", "casadi", "heyoka", "jax", "autograd", "torch")
ALONE = "symgrad 1 thread"
"""Our own side without a second thread, to see how a case scales."""


def _resnet18_train(batch: int, size: int, best: float) -> Case:
    title = f"ResNet-18 training step, {batch} @ {size}"
    sides = (*TORCH, "torch compile channels_last", "jax", "jax im2col")
    goals = AtLeast(best), AtLeast(15, "jax"), AtLeast(4, "jax im2col")
    options = {"batch": batch, "size": size}
    return Case(f"train_b{batch}_{size}", title, "resnet18_train", options, sides, goals=goals)


def _resnet18_infer(batch: int, size: int, best: float) -> Case:
    title = f"ResNet-18 inference, {batch} @ {size}"
    sides = (*TORCH, "torch compile", "torch frozen channels_last", "jax", "jax im2col")
    options = {"batch": batch, "size": size}
    goals = (AtLeast(best),)
    return Case(f"infer_b{batch}_{size}", title, "resnet18_infer", options, sides, goals=goals)


def _on_arrays(job: str, work: str) -> Case:
    title = f"ResNet-18 {work} on NumPy arrays, 1 @ 64"
    return Case(f"{job}_b1_64_arrays", title, f"resnet18_{job}_arrays", STEP, TORCH)


def _loop(batch: int) -> Case:
    title = f"ResNet-18 training loop on tensors, {batch} @ 64"
    options = {"batch": batch, "size": 64}
    return Case(f"loop_b{batch}_64", title, "resnet18_loop", options, TORCH, goals=(AtLeast(1),))


def _matmul(n: int, dtype: str = "f32") -> Case:
    name = f"matmul_{n}" if dtype == "f32" else f"matmul_{n}_{dtype}"
    goal = AtLeast(0.95 if n >= 256 else 1)
    return _product(name, f"matmul {n}x{n}", (n, n), (n, n), dtype, goal)


def _product(
    name: str, title: str, a: tuple[int, ...], b: tuple[int, ...], dtype: str, goal: Goal
) -> Case:
    options = {"a": a, "b": b, "dtype": dtype}
    return Case(name, f"{title} {dtype}", "matmul", options, BLAS, goals=(goal,))


def _odd_products(dtype: str) -> Iterator[Case]:
    """Skinny products, one with a vector, and a batch of small ones."""
    shapes = {
        "skinny": ("8x512 @ 512x512", (8, 512), (512, 512)),
        "narrow": ("1000x1000 @ 1000x10", (1000, 1000), (1000, 10)),
        "outer": ("1000x10 @ 10x1000", (1000, 10), (10, 1000)),
        "gemv": ("2048x2048 @ 2048", (2048, 2048), (2048,)),
        "batched": ("64 of 64x64", (64, 64, 64), (64, 64, 64)),
    }
    for name, (title, a, b) in shapes.items():
        yield _product(f"matmul_{name}_{dtype}", f"matmul {title}", a, b, dtype, AtLeast(1))


def _chain(chain: str, dtype: str, size: int) -> Case:
    title = f"{chain}, {size:,} {dtype}, 1 thread"
    options = {"chain": chain, "dtype": dtype, "size": size}
    name = f"{chain}_{dtype}_{size}"
    return Case(name, title, "chain", options, NUMPY, threads=1, goals=(AtLeast(1.5),))


def _unrolled(n: int, *slower: str) -> Case:
    """``slower`` peers compile longer chains for minutes."""
    title = f"chain of {n:,} sines with gradient, 1 thread"
    sides = ("symgrad", "torch", "heyoka", "casadi", *slower)
    goals = (AtLeast(1, "heyoka"),)
    return Case(f"unrolled_{n}", title, "unrolled", {"n": n}, sides, threads=1, goals=goals)


def _first_unrolled(n: int, most: float, *slower: str) -> Case:
    title = f"first call of the chain of {n:,} sines"
    sides = ("symgrad", "torch", "heyoka", "casadi", *slower)
    return Case(
        f"first_unrolled_{n}", title, "unrolled", {"n": n}, sides, threads=1,
        goals=(AtMost(most),), measure="start",
    )  # fmt: skip


def _greeks(dtype: str) -> Case:
    title = f"Black-Scholes Greeks, 1,000,000 {dtype}"
    sides = (*COMPILE, "jax", "numba")
    return Case(f"greeks_{dtype}", title, "greeks", {"dtype": dtype}, sides, goals=(AtLeast(1.5),))


def _gmm(d: int, k: int, n: int) -> Case:
    title, options = f"ADBench GMM, d {d}, k {k}, n {n:,}", {"d": d, "k": k, "n": n}
    sides = (*COMPILE, "jax", "autograd")
    return Case(f"gmm_d{d}_k{k}", title, "gmm", options, sides, goals=(AtLeast(1.5),))


def _lstm(layers: int, length: int) -> Case:
    title = f"ADBench LSTM, {layers} layers, {length:,} steps"
    options = {"layers": layers, "length": length}
    sides = ("symgrad", "jax", "casadi")
    return Case(f"lstm_l{layers}", title, "lstm", options, sides, goals=(AtLeast(1.5),))


def _small(name: str, title: str) -> Iterator[Case]:
    """A gradient as new arrays, and into given ones."""
    title, goals = f"gradient of {title}", (AtMost(0.15e-6),)
    yield Case(name, title, name, {}, SCALAR, threads=1, goals=goals)
    ours, title, goals = ("symgrad",), f"{title}, out=", (AtMost(0.06e-6),)
    yield Case(f"{name}_out", title, name, {"into": True}, ours, threads=1, goals=goals)


def _scaling(name: str, title: str, kind: str, **options: Any) -> Case:
    sides, goals = ("symgrad", ALONE), (AtLeast(1.8, ALONE),)
    return Case(f"scaling_{name}", f"2 threads: {title}", kind, options, sides, 2, goals)


STEP = {"batch": 1, "size": 64}
BUNDLES = {"cameras": 49, "points": 7776, "observations": 31843}
CASES = (
    _resnet18_train(1, 64, best=4),
    _resnet18_train(8, 64, best=3),
    _resnet18_train(8, 224, best=2.5),
    _resnet18_infer(1, 64, best=4),
    _resnet18_infer(8, 64, best=3),
    _resnet18_infer(8, 224, best=2.2),
    _on_arrays("train", "training step"),
    _on_arrays("infer", "inference"),
    _loop(1),
    _loop(8),
    Case(
        "mlp", "MLP training step, batch 128", "mlp", {}, (*COMPILE, "jax"),
        goals=(AtLeast(1.3),),
    ),
    Case(
        "block", "GPT-2 block with gradients, 4 x 128", "transformer_block", BLOCK,
        (*COMPILE, "jax"), goals=(AtLeast(1.5),),
    ),
    Case(
        "block_by_hand", "the same, attention written out", "transformer_block",
        BLOCK | {"by_hand": True}, (*COMPILE, "jax"), goals=(AtLeast(1.5),),
    ),
    _gmm(10, 25, 10_000),
    _gmm(20, 200, 1000),
    Case(
        "ba", "ADBench BA, 49 cameras", "bundle_adjustment", BUNDLES,
        (*COMPILE, "jax", "casadi", "autograd"), goals=(AtLeast(1.5),),
    ),
    _lstm(2, 1024),
    _lstm(4, 4096),
    Case(
        "ode", "Lotka-Volterra, 1,000 RK4 steps", "lotka_volterra", {},
        ("symgrad", "numba", "casadi", "jax"), threads=1, goals=(AtLeast(0.83),),
    ),
    _greeks("f64"),
    _greeks("f32"),
    *_small("rosenbrock", "Rosenbrock's function, n = 10"),
    *_small("nested", "nested sines"),
    *(_matmul(n) for n in (16, 64, 256, 512, 1024, 2048, 4096)),
    *(_matmul(n, "f64") for n in (64, 256, 1024)),
    *_odd_products("f32"),
    *_odd_products("f64"),
    _chain("polynomial", "f32", 10_000),
    _chain("polynomial", "f64", 1_000_000),
    _chain("gelu", "f32", 1_000_000),
    _chain("gaussian", "f64", 1_000_000),
    _unrolled(100, "jax"),
    _unrolled(1000),
    _unrolled(5000),
    _first_unrolled(100, 0.05, "jax"),
    _first_unrolled(1000, 0.4),
    _first_unrolled(5000, 2.0),
    _scaling("matmul_2048", "matmul 2048x2048 f32", "matmul", **_matmul(2048).options),
    _scaling("conv_64", "conv layer, 64 channels @ 56", "conv", channels=64, size=56),
    _scaling("conv_256", "conv layer, 256 channels @ 14", "conv", channels=256, size=14),
    _scaling("train_b8_64", "ResNet-18 training, 8 @ 64", "resnet18_train", batch=8, size=64),
    _scaling("train_b8_224", "ResNet-18 training, 8 @ 224", "resnet18_train", batch=8, size=224),
    Case(
        "memory", "peak memory of the step, 1 @ 64", "resnet18_train", STEP, (*TORCH, "jax"),
        goals=(AtMost(300e6),), measure="memory",
    ),
    Case(
        "start", "first call of the step, 1 @ 64", "resnet18_train", STEP,
        ("symgrad", "torch", "torch compile", "jax"),
        goals=(AtMost(1.5), AtMost(0.3, warm=True)), measure="start",
    ),
    Case(
        "import", "import of the library", "", {},
        ("symgrad", "numpy", "casadi", "autograd", "numba", "heyoka", "jax", "torch"),
        goals=(AtMost(0.03, "numpy"),), measure="import",
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------- inputs --


def uniform(key: str, shape: tuple[int, ...], low: float, high: float, dtype: str = "f32") -> Array:
    """Numbers that depend on ``key`` only; ``dtype`` is ``f32`` or ``f64``."""
    found = np.random.default_rng(zlib.crc32(key.encode())).uniform(low, high, shape)
    return found.astype({"f32": np.float32, "f64": np.float64}[dtype])


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
    x, y = (uniform(key, (size,), -2, 2, dtype) for key in "xy")
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
    return tuple(uniform(k, (1_000_000,), *r, dtype) for k, r in ranges.items())


def matmul_inputs(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    """The factors of a product, by their shapes."""
    return uniform("a", a, -1, 1, dtype), uniform("b", b, -1, 1, dtype)


def conv_inputs(channels: int, size: int) -> tuple[Array, Array]:
    """Eight images with so many channels, and weights that make as many again."""
    x = uniform("pixels", (8, channels, size, size), -1, 1)
    return x, weight("conv", (channels, channels, 3, 3))


def norms(arrays: Iterable[Any]) -> list[float]:
    """What must agree between the sides: the norm of each array."""
    return [float(np.linalg.norm(np.asarray(a, "f8").ravel())) for a in arrays]
