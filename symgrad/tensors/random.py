"""Random tensors: drawn at once, by NumPy's generators, outside the graph."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.ir.opdef import Array
from symgrad.randomness import Generator, Source, drawing
from symgrad.tensors import dtypes
from symgrad.tensors.arithmetic import mul
from symgrad.tensors.creation import default_type, like, made, sizes
from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import make_node
from symgrad.tensors.state import is_grad_enabled


def rand(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None, out: Any = None,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1)."""
    wanted = dtypes.named(default_type(dtype))
    kind = np.float64 if wanted is dtypes.float64 else np.float32
    with drawing(generator) as source:
        drawn: Any = np.asarray(source.random(sizes(size, "rand"), dtype=kind))
    if wanted.itemsize < drawn.itemsize and wanted.is_floating_point:  # else it may round up to 1
        steps = 1 / float(dtypes.limits(wanted.numpy).epsneg)
        drawn = np.floor(drawn * steps) / steps
    return made(drawn, wanted, requires_grad)


def randn(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None, out: Any = None,
) -> Tensor:  # fmt: skip
    """Normal with mean 0 and variance 1."""
    with drawing(generator) as source:
        drawn = source.standard_normal(sizes(size, "randn"))
    return made(np.asarray(drawn), default_type(dtype), requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Integers in [low, high); ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if low >= high:
        raise RuntimeError(
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )
    with drawing(generator) as source:
        drawn = source.integers(low, high, sizes([size], "randint"))
    return made(np.asarray(drawn), dtype or dtypes.int64, requires_grad)


def randperm(
    n: int, *, dtype: Any = None, device: Any = None, generator: Generator | None = None
) -> Tensor:
    """The numbers below ``n`` in random order."""
    with drawing(generator) as source:
        drawn = source.permutation(n)
    return made(drawn, dtype or dtypes.int64, False)


rand_like, randn_like = like(rand), like(randn)


def randint_like(
    input: Tensor, low: int, high: Any = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """As ``randint``, with the shape and type of a tensor."""
    first, last = (0, low) if high is None else (low, high)
    return randint(first, last, tuple(input.shape), dtype=dtype or input.dtype,
                   requires_grad=requires_grad)  # fmt: skip


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None,
    dtype: Any = None, device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Normal with a mean and a standard deviation, each a number or a tensor."""
    given: list[Any] = [x._array() if isinstance(x, Tensor) else x for x in (mean, std)]
    shape = sizes([size], "normal") if size is not None else np.broadcast(*given).shape
    kind = next((x.dtype for x in (mean, std) if isinstance(x, Tensor)), default_type(dtype))
    with drawing(generator) as source:
        drawn = source.normal(given[0], given[1], shape)
    return made(np.asarray(drawn), kind, requires_grad)


def bernoulli(input: Tensor, p: Any = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element, or ``p``, is; else 0."""
    odds = input._array() if p is None else p._array() if isinstance(p, Tensor) else p
    if not (np.asarray(odds >= 0) & np.asarray(odds <= 1)).all():
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    with drawing(generator) as source:
        drawn = source.random(tuple(input.shape)) < odds
    result = made(np.asarray(drawn), input.dtype, False)
    if input.requires_grad and is_grad_enabled():  # what was drawn does not move with it
        result._node = make_node("BernoulliBackward0", (input._edge(),))
    return result


def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Poisson numbers with the given rates."""
    with drawing(generator) as source:
        drawn = source.poisson(input._array())
    return made(np.asarray(drawn), input.dtype, False)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Positions drawn in proportion to the weights in each row."""
    weights = np.atleast_2d(input._array().astype(np.float64))
    n = weights.shape[1]
    if num_samples > n and not replacement:
        raise RuntimeError(
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement"
        )
    if (weights < 0).any() or not np.isfinite(weights).all():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if (weights.sum(1) <= 0).any():
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    with drawing(generator) as source:
        if replacement:
            ends = np.cumsum(weights, 1)
            points = source.random((len(weights), num_samples)) * ends[:, -1:]
            rows = zip(ends, points, strict=True)
            drawn = np.stack([np.searchsorted(e, p, "right") for e, p in rows])
        else:  # the smallest of exponential times come first
            with np.errstate(divide="ignore"):
                times = source.standard_exponential(weights.shape) / weights
            drawn = np.argsort(times, 1)[:, :num_samples]
    return made(drawn[0] if input.ndim == 1 else drawn, dtypes.int64, False)


def dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """Elements set to 0 with probability ``p``, the others scaled up, in training."""
    if not train or p == 0:
        return input
    kept = bernoulli(input.detach(), 1 - p) if p < 1 else input.detach() * 0
    return input * (mul(kept, 1 / (1 - p)) if p < 1 else kept)


def get_rng_state() -> Tensor:
    """The state of the default stream as bytes."""
    return Tensor.of_array(np.frombuffer(pickle.dumps(Source.default.state), np.uint8).copy())


def set_rng_state(new_state: Tensor) -> None:
    """Sets the default stream to a state that ``get_rng_state`` gave."""
    Source.default.state = pickle.loads(new_state._array().tobytes())


# -- in place: draw(source, shape, ...) ----------------------------------------------------


def _integers(g: np.random.Generator, target: Tensor, low: Any = None, high: Any = None) -> Array:
    if low is None:
        low, high = 0, 1 << (24 if target._dtype == np.float32 else 53)
    elif high is None:
        low, high = 0, low
    return g.integers(low, high, tuple(target.shape))


def _cauchy(g: np.random.Generator, target: Tensor, median: float = 0, sigma: float = 1) -> Array:
    return np.asarray(median + sigma * g.standard_cauchy(tuple(target.shape)))


def _odds(g: np.random.Generator, target: Tensor, p: Any = 0.5) -> Array:
    limit = p._array() if isinstance(p, Tensor) else p
    return np.asarray(g.random(tuple(target.shape)) < limit)


IN_PLACE: dict[str, Callable[..., Array]] = {
    "uniform_": lambda g, t, low=0, high=1: g.uniform(low, high, tuple(t.shape)),
    "normal_": lambda g, t, mean=0, std=1: g.normal(mean, std, tuple(t.shape)),
    "random_": _integers,
    "bernoulli_": _odds,
    "exponential_": lambda g, t, lambd=1: g.exponential(1 / lambd, tuple(t.shape)),
    "geometric_": lambda g, t, p: g.geometric(p, tuple(t.shape)),
    "log_normal_": lambda g, t, mean=1, std=2: g.lognormal(mean, std, tuple(t.shape)),
    "cauchy_": _cauchy,
}
"""Methods that fill a tensor, by what they draw."""

PUBLIC = {
    f.__name__: f
    for f in (
        rand, randn, randint, randperm, rand_like, randn_like, randint_like, normal, bernoulli,
        poisson, multinomial, dropout, get_rng_state, set_rng_state, Generator,
    )
}  # fmt: skip
