"""JAX's side of the comparison: everything under ``jit``, on arrays that JAX already holds.

Convolutions are XLA's own in its preferred layout NHWC, or with the way ``im2col`` shifted slices
and one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cases
import jax
import jax.numpy as jnp
import science
from jax import Array, lax

Call = Callable[[], Any]
Arrays = Mapping[str, Array]
_ways: set[str] = set()


def version() -> str:
    """Library and version."""
    return f"JAX {jax.__version__}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """XLA's threads are those of the machine; only how to do the job can be chosen."""
    _ways.update(ways)


def arrays(result: Any) -> list[Any]:
    """The arrays of a result."""
    return jax.tree.leaves(result)


def _ready(f: Callable[..., Any], *inputs: Any) -> Call:
    """The compiled function on these inputs, with its results complete."""
    compiled = jax.jit(f)
    held = jax.tree.map(jnp.asarray, inputs)
    return lambda: jax.block_until_ready(compiled(*held))


def _gradient(f: Callable[..., Any], *inputs: Any, wrt: int | None = None) -> Call:
    """Value and gradients by the first ``wrt`` inputs, or by all."""
    argnums = tuple(range(len(inputs) if wrt is None else wrt))
    return _ready(jax.value_and_grad(f, argnums), *inputs)


# ------------------------------------------------------------------------- networks --


def _convolve(x: Array, w: Array, stride: int, padding: int) -> Array:
    """``x`` is NHWC, ``w`` HWIO."""
    if "im2col" not in _ways:
        pads = ((padding, padding),) * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=layout)
    k = w.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((size - k) // stride + 1 for size in x.shape[1:3])
    rows = [slice(i, i + stride * (height - 1) + 1, stride) for i in range(k)]
    columns = [slice(i, i + stride * (width - 1) + 1, stride) for i in range(k)]
    taps = jnp.concatenate([x[:, r, c] for r in rows for c in columns], 3)
    return taps @ w.reshape(-1, w.shape[3])


def _normalise(p: Arrays, state: dict[str, Array], name: str, x: Array, train: bool) -> Array:
    """Batch norm; in train mode the running statistics in ``state`` move."""
    running = [f"{name}.running_{kind}" for kind in ("mean", "var")]
    if train:
        mean = x.mean((0, 1, 2))
        variance = jnp.square(x - mean).mean((0, 1, 2))
        count = x.size // x.shape[3]
        for key, batch in zip(running, (mean, variance * count / max(count - 1, 1)), strict=True):
            state[key] = 0.9 * state[key] + 0.1 * batch
    else:
        mean, variance = (state[key] for key in running)
    scale = p[f"{name}.weight"] * lax.rsqrt(variance + 1e-5)
    return x * scale + (p[f"{name}.bias"] - mean * scale)


def _blocks() -> list[tuple[str, int, int]]:
    """Name, channels and stride of ResNet-18's eight blocks."""
    return [
        (f"layer{i + 1}.{j}", 64 << i, 2 if i and not j else 1) for i in range(4) for j in range(2)
    ]


def _parameters() -> tuple[dict[str, Array], dict[str, Array]]:
    """Parameters with convolutions as HWIO, and running statistics."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    norms: list[tuple[str, int]] = [("bn1", 64)]
    shapes["conv1.weight"] = (64, 3, 7, 7)
    inner = 64
    for name, outer, stride in _blocks():
        shapes[f"{name}.conv1.weight"] = (outer, inner, 3, 3)
        shapes[f"{name}.conv2.weight"] = (outer, outer, 3, 3)
        norms += [(f"{name}.bn1", outer), (f"{name}.bn2", outer)]
        if stride == 2:
            shapes[f"{name}.downsample.0.weight"] = (outer, inner, 1, 1)
            norms.append((f"{name}.downsample.1", outer))
        inner = outer
    shapes |= {f"{name}.{kind}": (c,) for name, c in norms for kind in ("weight", "bias")}
    running = {f"{name}.running_{kind}": (c,) for name, c in norms for kind in ("mean", "var")}
    p = {name: cases.weight(name, shape) for name, shape in shapes.items()}
    p = {name: w.transpose(2, 3, 1, 0) if w.ndim == 4 else w for name, w in p.items()}
    state = {name: cases.weight(name, shape) for name, shape in running.items()}
    return jax.tree.map(jnp.asarray, (p, state))


def _resnet18(p: Arrays, state: Arrays, x: Array, train: bool) -> tuple[Array, Arrays]:
    """Logits and new running statistics."""
    state = dict(state)
    norm = partial(_normalise, p, state, train=train)
    x = jax.nn.relu(norm("bn1", _convolve(x, p["conv1.weight"], 2, 3)))
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)
    for name, _, stride in _blocks():
        y = _convolve(x, p[f"{name}.conv1.weight"], stride, 1)
        y = jax.nn.relu(norm(f"{name}.bn1", y))
        y = norm(f"{name}.bn2", _convolve(y, p[f"{name}.conv2.weight"], 1, 1))
        if stride == 2:
            x = _convolve(x, p[f"{name}.downsample.0.weight"], 2, 0)
            x = norm(f"{name}.downsample.1", x)
        x = jax.nn.relu(x + y)
    return x.mean((1, 2)) @ p["fc.weight"].T + p["fc.bias"], state


def _cross_entropy(logits: Array, y: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def resnet18_infer(batch: int, size: int) -> Call:
    """Forward with running statistics."""
    x = cases.images(batch, size).transpose(0, 2, 3, 1)
    return _ready(lambda p, state, x: _resnet18(p, state, x, False)[0], *_parameters(), x)


def resnet18_train(batch: int, size: int) -> Call:
    """Forward, cross-entropy, backward, SGD with momentum."""

    def loss(p: Arrays, state: Arrays, x: Array, y: Array) -> tuple[Array, Arrays]:
        logits, state = _resnet18(p, state, x, True)
        return _cross_entropy(logits, y), state

    x, y = cases.images(batch, size).transpose(0, 2, 3, 1), cases.labels(batch, 1000)
    return _training(loss, *_parameters(), x, y)


def mlp() -> Call:
    """Three linear layers with ReLU between, cross-entropy, SGD with momentum."""

    def loss(p: Arrays, state: Arrays, x: Array, y: Array) -> tuple[Array, Arrays]:
        h = jax.nn.relu(x @ p["w0"].T + p["b0"])
        h = jax.nn.relu(h @ p["w1"].T + p["b1"])
        return _cross_entropy(h @ p["w2"].T + p["b2"], y), state

    x, y = cases.mlp_images(), cases.labels(cases.MLP_BATCH, 10)
    return _training(loss, jax.tree.map(jnp.asarray, cases.mlp_parameters()), {}, x, y)


def transformer_block(batch: int, length: int, width: int, by_hand: bool = False) -> Call:
    """Gradients of a GPT-2 block by all parameters and by its input; gives the last."""
    causal = jnp.tril(jnp.ones((length, length), bool))

    def normalise(x: Array, weight: Array, bias: Array) -> Array:
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * weight + bias

    def attend(q: Array, k: Array, v: Array) -> Array:
        if not by_hand:
            return jax.nn.dot_product_attention(q, k, v, is_causal=True)
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / (width // cases.HEADS) ** 0.5
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
        return jnp.einsum("bhqk,bkhc->bqhc", weights, v)

    def loss(p: Arrays, x: Array, ct: Array) -> Array:
        h = normalise(x, p["ln1_w"], p["ln1_b"])
        qkv = (h @ p["qkv_w"] + p["qkv_b"]).reshape(batch, length, 3, cases.HEADS, -1)
        a = attend(*(qkv[:, :, i] for i in range(3))).reshape(batch, length, width)
        x = x + a @ p["proj_w"] + p["proj_b"]
        h = normalise(x, p["ln2_w"], p["ln2_b"])
        h = jax.nn.gelu(h @ p["fc_w"] + p["fc_b"], approximate=True)
        return ((x + h @ p["out_w"] + p["out_b"]) * ct).sum()

    inputs = cases.block_parameters(width), *cases.block_inputs(batch, length, width)
    gradients = _gradient(loss, *inputs, wrt=2)
    return lambda: gradients()[1][1]


def _training(loss: Callable[..., Any], p: Arrays, state: Arrays, x: Any, y: Any) -> Call:
    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(p: Arrays, momentum: Arrays, state: Arrays, x: Array, y: Array) -> tuple[Any, ...]:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, state), gradients = gradient(p, state, x, y)
        move = partial(jax.tree.map, lambda m, g: cases.MOMENTUM * m + g)
        momentum = move(momentum, gradients)
        p = jax.tree.map(lambda w, m: w - cases.LEARNING_RATE * m, p, momentum)
        return value, p, momentum, state

    x, y = jnp.asarray(x), jnp.asarray(y)
    carried = p, jax.tree.map(jnp.zeros_like, p), state

    def call() -> Array:
        nonlocal carried
        value, *carried = jax.block_until_ready(step(*carried, x, y))
        return value

    return call


# -------------------------------------------------------------------------- science --


def rosenbrock() -> Call:
    """Value and gradient, from NumPy to NumPy."""
    return _from_numpy(cases.rosenbrock, cases.rosenbrock_input())


def nested() -> Call:
    """Value and gradient of sin(sin(...(x))), from NumPy to NumPy."""

    def sines(x: Array) -> Array:
        return science.nested_sines(x, cases.NESTED_DEPTH, jnp.sin)

    return _from_numpy(sines, cases.NESTED_INPUT)


def _from_numpy(f: Callable[..., Any], x: Any) -> Call:
    compiled = jax.jit(jax.value_and_grad(f))
    return lambda: jax.device_get(compiled(x))


def unrolled(n: int) -> Call:
    """Value and gradient of ``y = sin(x c_i + y)``, n times."""
    x, coefficients = cases.unrolled_inputs(n)

    def chain(x: Array) -> Array:
        return science.chain_of_sines(x, coefficients, jnp)

    return _gradient(chain, x)


def greeks(dtype: str) -> Call:
    """The price of each call option, and its derivatives by all five inputs."""

    def price(s: Array, k: Array, t: Array, r: Array, v: Array) -> Array:
        return science.option_prices(s, k, t, r, v, jnp, lax.erfc)

    return _gradient(price, *cases.option_inputs(dtype))


def gmm(d: int, k: int, n: int) -> Call:
    """Value and gradient by all parameters of the mixture."""
    rows, columns = science.triangle(d)
    diagonal = jnp.arange(d)

    def value(weights: Array, means: Array, factors: Array, x: Array) -> Array:
        q = jnp.zeros((k, d, d)).at[:, rows, columns].set(factors[:, d:])
        q = q.at[:, diagonal, diagonal].set(jnp.exp(factors[:, :d]))
        logsumexp = jax.scipy.special.logsumexp
        return science.mixture(weights, means, factors, x, q, jnp.exp, logsumexp)

    return _gradient(value, *science.mixture_inputs(d, k, n), wrt=3)


def bundle_adjustment(**sizes: int) -> Call:
    """Errors of all observations, and the Jacobian's blocks by camera, point and weight."""

    def residuals(
        cameras: Array, points: Array, weights: Array, features: Array, camera: Array, point: Array
    ) -> tuple[Array, ...]:
        wrt = cameras[:, camera], points[:, point], weights
        errors, pullback = jax.vjp(partial(science.reprojection, feature=features, m=jnp), *wrt)
        one, zero = jnp.ones_like(weights), jnp.zeros_like(weights)
        rows = [jnp.vstack(pullback(ct)) for ct in ((one, zero), (zero, one))]
        return jnp.stack(errors), 1 - weights * weights, jnp.stack(rows), -2 * weights

    return _ready(residuals, *science.bundle_inputs(**sizes))


def lstm(layers: int, length: int) -> Call:
    """Value and gradient by all weights."""

    def loss(main: Array, extra: Array, state: Array, sequence: Array) -> Array:
        def step(state: tuple[Array, ...], x: Array) -> tuple[tuple[Array, ...], Array]:
            state = science.lstm_step(
                main[::2], main[1::2], state, x, jnp.concatenate, jax.nn.sigmoid, jnp.tanh
            )
            return state, state[-2]

        _, hidden = lax.scan(step, tuple(state), sequence[:-1] * extra[0])
        return science.lstm_loss(hidden, extra, sequence, jnp.exp, jnp.log)

    return _gradient(loss, *science.lstm_inputs(layers, length), wrt=2)


def lotka_volterra() -> Call:
    """Value and gradient by the initial populations and the rates."""

    def loss(start: Array, rates: Array) -> Array:
        def step(state: tuple[Array, Array], _: None) -> tuple[Any, None]:
            return science.runge_kutta(*state, rates), None

        (u, v), _ = lax.scan(step, (start[0], start[1]), None, science.STEPS)
        return u + v

    return _gradient(loss, *science.populations())
