"""symgrad's side of the comparison, through its public interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cases
import numpy as np
import science

import symgrad as sg
import symgrad.models
import symgrad.nn.functional
import symgrad.optim
import symgrad.tree
from symgrad.tracing import emit

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"symgrad {sg.__version__}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """Threads of one compiled call."""
    sg.set_num_threads(threads)


def arrays(result: Any) -> list[Array]:
    """The arrays of a result, with which those of the other sides must agree."""
    leaves, _ = sg.tree.flatten(result)
    return [np.asarray(leaf) for leaf in leaves]


def matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> Call:
    """One product of two matrices, of a matrix with a vector, or of a batch."""
    inputs = cases.matmul_inputs(a, b, dtype)
    product = sg.jit(np.matmul)
    return lambda: product(*inputs)


def conv(channels: int, size: int) -> Call:
    """A 3x3 convolution and its two gradients."""
    x, w = cases.conv_inputs(channels, size)

    def loss(x: Array, w: Array) -> Any:
        y = sg.nn.functional.conv2d(x, w, padding=1)
        return (y * y).sum()

    f = sg.value_and_grad(loss, argnums=(0, 1))
    return lambda: f(x, w)


def chain(chain: str, dtype: str, size: int) -> Call:
    """The same Python function that NumPy runs, compiled."""
    x, y = cases.chain_inputs(dtype, size)
    function = sg.jit(cases.CHAINS[chain])
    return lambda: function(x, y)


def resnet18_infer(batch: int, size: int) -> Call:
    """The compiled model, which reads its weights at every call and keeps them packed."""
    infer = sg.jit(_resnet18().eval())
    x = sg.tensor(cases.images(batch, size))
    return sg.no_grad()(lambda: infer(x))


def resnet18_infer_arrays(batch: int, size: int) -> Call:
    """The same with weights in NumPy arrays, which the caller might change at any time."""
    model = _resnet18().eval()
    parameters, state = sg.nn.arrays(model)
    x = cases.images(batch, size)

    @sg.jit
    def infer(parameters: Arrays, state: Arrays, x: Array) -> Array:
        logits, _ = sg.nn.functional_call(model, parameters, state, x)
        return logits

    return lambda: infer(parameters, state, x)


def resnet18_train(batch: int, size: int) -> Call:
    """Forward, cross-entropy, backward, SGD with momentum: one compiled step on tensors."""
    model = _resnet18().train()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    state = {name: b.clone() for name, b in model.named_buffers()}
    x, y = sg.tensor(cases.images(batch, size)), sg.tensor(cases.labels(batch, 1000))
    return _training(_resnet18_loss(model), parameters, state, x, y)


def resnet18_train_arrays(batch: int, size: int) -> Call:
    """The same on NumPy arrays, which are brought into the kernels' layout at every call."""
    model = _resnet18().train()
    x, y = cases.images(batch, size), cases.labels(batch, 1000)
    return _training(_resnet18_loss(model), *sg.nn.arrays(model), x, y)


def _resnet18_loss(model: Any) -> Callable[..., tuple[Array, Arrays]]:
    """The loss as a function of parameters, state and data, with the new state."""

    def loss(parameters: Arrays, state: Arrays, x: Array, y: Array) -> tuple[Array, Arrays]:
        logits, state = sg.nn.functional_call(model, parameters, state, x)
        return sg.nn.functional.cross_entropy(logits, y), state

    return loss


def mlp() -> Call:
    """Three linear layers with ReLU between, cross-entropy, SGD with momentum, on tensors."""
    x, y = sg.tensor(cases.mlp_images()), sg.tensor(cases.labels(cases.MLP_BATCH, 10))

    def loss(p: Arrays, state: Arrays, x: Array, y: Array) -> tuple[Array, Arrays]:
        h = np.maximum(x @ p["w0"].T + p["b0"], 0)
        h = np.maximum(h @ p["w1"].T + p["b1"], 0)
        return sg.nn.functional.cross_entropy(h @ p["w2"].T + p["b2"], y), state

    return _training(loss, _tensors(cases.mlp_parameters()), {}, x, y)


def _tensors(arrays: Arrays) -> Arrays:
    return {name: sg.tensor(array) for name, array in arrays.items()}


def transformer_block(batch: int, length: int, width: int, by_hand: bool = False) -> Call:
    """Gradients of a GPT-2 block by all parameters and by its input; gives the last."""
    F, heads = sg.nn.functional, cases.HEADS
    causal = np.tril(np.ones((length, length), bool))

    def attend(q: Array, k: Array, v: Array) -> Array:
        if not by_hand:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ np.swapaxes(k, -1, -2) / np.float32((width // heads) ** 0.5)
        scores = np.where(causal, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v

    def loss(p: Arrays, x: Array, ct: Array) -> Array:
        h = F.layer_norm(x, (width,), p["ln1_w"], p["ln1_b"])
        qkv = (h @ p["qkv_w"] + p["qkv_b"]).reshape(batch, length, 3, heads, -1)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        a = attend(q, k, v).transpose(0, 2, 1, 3).reshape(batch, length, width)
        x = x + a @ p["proj_w"] + p["proj_b"]
        h = F.layer_norm(x, (width,), p["ln2_w"], p["ln2_b"])
        h = F.gelu(h @ p["fc_w"] + p["fc_b"], approximate="tanh")
        x = x + h @ p["out_w"] + p["out_b"]
        return (x * ct).sum()

    parameters, inputs = cases.block_parameters(width), cases.block_inputs(batch, length, width)
    f = sg.value_and_grad(loss, argnums=(0, 1))
    return lambda: f(parameters, *inputs)[1][1]


def _resnet18() -> Any:
    """The model with the weights that all sides use."""
    model = sg.models.resnet18()
    own = model.state_dict()
    floating = {k: v for k, v in own.items() if v.is_floating_point()}
    weights = {k: sg.tensor(cases.weight(k, tuple(v.shape))) for k, v in floating.items()}
    model.load_state_dict(own | weights)
    return model


def resnet18_loop(batch: int, size: int) -> Call:
    """The loop of the tutorials, on tensors."""
    model = _resnet18().train()
    x, y = sg.tensor(cases.images(batch, size)), sg.tensor(cases.labels(batch, 1000))
    optimiser = sg.optim.SGD(model.parameters(), lr=cases.LEARNING_RATE, momentum=cases.MOMENTUM)

    def step() -> Any:
        optimiser.zero_grad()
        loss = sg.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def rosenbrock(into: bool = False) -> Call:
    """Value and gradient, as new arrays or into given ones."""
    return _small(cases.rosenbrock, cases.rosenbrock_input(), into)


def nested(into: bool = False) -> Call:
    """Value and gradient of sin(sin(...(x))).

    The depth is a default: a module's number is looked at again in every call.
    """

    def sines(x: Array, depth: int = cases.NESTED_DEPTH) -> Array:
        return science.nested_sines(x, depth, np.sin)

    return _small(sines, np.array(cases.NESTED_INPUT), into)


def _small(f: Callable[[Array], Any], x: Array, into: bool) -> Call:
    """A call of tens of nanoseconds, with as little around it as Python has.

    ``partial`` costs a few, but sixty where it passes a keyword on; a function costs twenty.
    """
    gradient = sg.value_and_grad(f)
    if into:
        out = np.empty(()), np.empty_like(x)
        return lambda: gradient(x, out=out)
    return partial(gradient, x)


def unrolled(n: int) -> Call:
    """Value and gradient of ``y = sin(x c_i + y)``, n times."""
    x, coefficients = cases.unrolled_inputs(n)

    def chain(x: Array) -> Array:
        return science.chain_of_sines(x, coefficients, np)

    f = sg.value_and_grad(chain)
    return lambda: f(x)


def greeks(dtype: str) -> Call:
    """The price of each call option, and its derivatives by all five inputs."""
    inputs = cases.option_inputs(dtype)

    def price(s: Array, k: Array, t: Array, r: Array, v: Array) -> Array:
        return science.option_prices(s, k, t, r, v, np, partial(emit, "erfc"))

    f = sg.value_and_grad(price, argnums=(0, 1, 2, 3, 4))
    return lambda: f(*inputs)


def gmm(d: int, k: int, n: int) -> Call:
    """Value and gradient by all parameters of the mixture."""
    rows, columns = science.triangle(d)
    index = np.full((d, d), -1)  # into a factor's numbers and a zero at their end
    index[np.diag_indices(d)] = np.arange(d)
    index[rows, columns] = d + np.arange(len(rows))

    def logsumexp(x: Array, axis: int) -> Array:
        peak = x.max(axis, keepdims=True)
        return np.log(np.exp(x - peak).sum(axis)) + peak.squeeze(axis)

    def value(weights: Array, means: Array, factors: Array, x: Array) -> Array:
        numbers = [np.exp(factors[:, :d]), factors[:, d:], np.zeros((k, 1))]
        q = np.concatenate(numbers, 1)[:, index]
        return science.mixture(weights, means, factors, x, q, np.exp, logsumexp)

    f, inputs = sg.value_and_grad(value, (0, 1, 2)), science.mixture_inputs(d, k, n)
    return lambda: f(*inputs)


def lstm(layers: int, length: int) -> Call:
    """Value and gradient by all weights."""

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    def loss(main: Array, extra: Array, state: Array, sequence: Array) -> Any:
        weights, biases = ([main[2 * i + j] for i in range(layers)] for j in (0, 1))

        def step(state: tuple[Array, ...], x: Array) -> Any:
            state = science.lstm_step(weights, biases, state, x, np.concatenate, sigmoid, np.tanh)
            return state, state[-2]

        first = tuple(state[i] for i in range(2 * layers))
        _, hidden = sg.scan(step, first, sequence[:-1] * extra[0])
        return science.lstm_loss(hidden, extra, sequence, np.exp, np.log)

    f, inputs = sg.value_and_grad(loss, (0, 1)), science.lstm_inputs(layers, length)
    return lambda: f(*inputs)


def lotka_volterra() -> Call:
    """Value and gradient by the initial populations and the rates."""

    def loss(start: Array, rates: Array) -> Any:
        def step(state: tuple[Any, Any], _: None) -> Any:
            return science.runge_kutta(*state, rates), None

        (u, v), _ = sg.scan(step, (start[0], start[1]), length=science.STEPS)
        return u + v

    f, inputs = sg.value_and_grad(loss, (0, 1)), science.populations()
    return lambda: f(*inputs)


def bundle_adjustment(**sizes: int) -> Call:
    """Errors of all observations, and the Jacobian's blocks by camera, point and weight."""

    def residuals(
        cameras: Array, points: Array, weights: Array, features: Array, camera: Array, point: Array
    ) -> Any:
        errors, pullback = sg.vjp(
            lambda *wrt: science.reprojection(*wrt, features, np),
            cameras[:, camera], points[:, point], weights,
        )  # fmt: skip
        one, zero = np.ones_like(weights), np.zeros_like(weights)
        rows = [np.vstack(pullback(ct)) for ct in ((one, zero), (zero, one))]
        return np.stack(errors), 1 - weights * weights, np.stack(rows), -2 * weights

    f, inputs = sg.jit(residuals), science.bundle_inputs(**sizes)
    return lambda: f(*inputs)


def _training(
    loss: Callable[..., Any], parameters: Arrays, state: Arrays, x: Array, y: Array
) -> Call:
    """A step of SGD with momentum that carries its arrays or tensors from call to call."""
    optimiser = sg.optim.SGD(lr=cases.LEARNING_RATE, momentum=cases.MOMENTUM)
    gradient = sg.value_and_grad(loss, has_aux=True)

    @sg.jit(donate_argnums=(0, 1, 2))
    def step(
        parameters: Arrays, momentum: Arrays, state: Arrays, x: Array, y: Array
    ) -> tuple[Any, ...]:
        (value, state), gradients = gradient(parameters, state, x, y)
        parameters, momentum = optimiser.apply(parameters, gradients, momentum)
        return value, parameters, momentum, state

    carried = parameters, optimiser.init(parameters), state

    def call() -> Any:
        nonlocal carried
        value, *carried = step(*carried, x, y)
        return value

    return call
