"""symgrad's side of the comparison, through its public interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cases
import numpy as np

import symgrad as sg

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"symgrad {sg.__version__}"


def set_threads(threads: int) -> None:
    """Threads of one compiled call."""
    sg.set_num_threads(threads)


def value(result: Any) -> float:
    """What must agree between the sides: the loss, or the norm of the result."""
    return float(np.linalg.norm(np.asarray(result)))


def matmul(n: int) -> Call:
    """One product of two matrices."""
    a, b = cases.matmul_inputs(n)
    product = sg.jit(np.matmul)
    return lambda: product(a, b)


def chain(chain: str, dtype: str, size: int) -> Call:
    """The same Python function that NumPy runs, compiled."""
    x, y = cases.chain_inputs(dtype, size)
    function = sg.jit(cases.CHAINS[chain])
    return lambda: function(x, y)


def resnet18_infer(batch: int, size: int) -> Call:
    """Forward with running statistics."""
    model, parameters, state = _resnet18()
    model.eval()
    x = cases.images(batch, size)

    @sg.jit
    def infer(parameters: Arrays, state: Arrays, x: Array) -> Array:
        logits, _ = sg.nn.functional_call(model, parameters, state, x)
        return logits

    return lambda: infer(parameters, state, x)


def resnet18_train(batch: int, size: int) -> Call:
    """Forward, cross-entropy, backward, SGD with momentum: one compiled step."""
    model, parameters, state = _resnet18()
    model.train()
    x, y = cases.images(batch, size), cases.labels(batch, 1000)

    def loss(parameters: Arrays, state: Arrays) -> tuple[Array, Arrays]:
        logits, state = sg.nn.functional_call(model, parameters, state, x)
        return sg.nn.functional.cross_entropy(logits, y), state

    return _training(loss, parameters, state)


def mlp() -> Call:
    """Three linear layers with ReLU between, cross-entropy, SGD with momentum."""
    x, y = cases.mlp_images(), cases.labels(cases.MLP_BATCH, 10)

    def loss(p: Arrays, state: Arrays) -> tuple[Array, Arrays]:
        h = np.maximum(x @ p["w0"].T + p["b0"], 0)
        h = np.maximum(h @ p["w1"].T + p["b1"], 0)
        return sg.nn.functional.cross_entropy(h @ p["w2"].T + p["b2"], y), state

    return _training(loss, cases.mlp_parameters(), {})


def _resnet18() -> tuple[Any, dict[str, Array], dict[str, Array]]:
    """The model, its parameters and its running statistics."""
    model = sg.models.resnet18(num_classes=1000)

    def filled(tensors: Any) -> dict[str, Array]:
        arrays = {name: np.asarray(tensor) for name, tensor in tensors}
        return {
            name: cases.weight(name, array.shape) if array.dtype.kind == "f" else array
            for name, array in arrays.items()
        }

    return model, filled(model.named_parameters()), filled(model.named_buffers())


def _training(loss: Callable[..., Any], parameters: Arrays, state: Arrays) -> Call:
    """A step of SGD with momentum that keeps its arrays between calls."""
    gradient = sg.value_and_grad(loss, has_aux=True)

    @sg.jit(donate_argnums=(0, 1, 2))
    def step(parameters: Arrays, momentum: Arrays, state: Arrays) -> tuple[Any, ...]:
        (value, state), gradients = gradient(parameters, state)
        momentum = {k: cases.MOMENTUM * v + gradients[k] for k, v in momentum.items()}
        parameters = {k: v - cases.LEARNING_RATE * momentum[k] for k, v in parameters.items()}
        return value, parameters, momentum, state

    carried = parameters, {k: np.zeros_like(v) for k, v in parameters.items()}, state

    def call() -> Any:
        nonlocal carried
        value, *carried = step(*carried)
        return value

    return call
