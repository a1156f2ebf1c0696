"""ResNet-18 against PyTorch: same weights, same batch, recorded results.

Forward, all 62 gradients, running statistics, three optimiser steps and eval mode; float64 to
1e-9 and float32 to 1e-4 of the float64 record.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from references import BATCHES, Resnet18, relative_error

import symgrad as sg
from symgrad.nn import functional as F

TOLERANCE = {"f64": 1e-9, "f32": 1e-4}
DTYPES = {"f64": np.float64, "f32": np.float32}
LOSSES = {
    "cross_entropy": F.cross_entropy,
    "sum": lambda logits, labels: logits.sum(),
}


@cache
def reference(batch: str) -> Resnet18:
    return Resnet18(batch)


def model(batch: str, train: bool) -> Any:
    return sg.models.resnet18(num_classes=BATCHES[batch][2]).train(train)


def inputs(batch: str, precision: str) -> tuple[Any, ...]:
    """Parameters, state, images and labels."""
    ref, dtype = reference(batch), DTYPES[precision]
    return ref.parameters(dtype), ref.state(dtype), ref.images(dtype), ref.labels


@cache
def gradient(batch: str, loss: str) -> Any:
    """Loss, (logits, new state) and gradients as one compiled function."""
    network = model(batch, train=True)

    def objective(params: Any, state: Any, images: Any, labels: Any) -> Any:
        logits, state = sg.nn.functional_call(network, params, state, images)
        return LOSSES[loss](logits, labels), (logits, state)

    return sg.value_and_grad(objective, has_aux=True)


def test_names_and_shapes() -> None:
    network = sg.models.resnet18()
    ref = Resnet18("b4_64")
    own = {name: np.shape(value) for name, value in network.named_parameters()}
    assert own == {name: value.shape for name, value in ref.parameters().items()}
    assert list(own) == list(ref.parameters())
    assert dict(network.named_buffers()).keys() == ref.state().keys()
    assert sum(p.numel() for p in network.parameters()) == 11_689_512


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
def test_eval_mode(batch: str, precision: str) -> None:
    params, state, images, _ = inputs(batch, precision)
    network = model(batch, train=False)
    forward = sg.jit(lambda *args: sg.nn.functional_call(network, *args))
    logits, after = forward(params, state, images)
    assert logits.dtype == DTYPES[precision]
    assert relative_error(logits, reference(batch)["eval/logits"]) < TOLERANCE[precision]
    for name, value in state.items():
        np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(
    ("batch", "loss"), [("b4_33", "cross_entropy"), ("b4_33", "sum"), ("b4_64", "cross_entropy")]
)
def test_training_pass(batch: str, loss: str, precision: str) -> None:
    ref, tolerance = reference(batch), TOLERANCE[precision]
    (value, (logits, state)), gradients = sg.jit(gradient(batch, loss))(*inputs(batch, precision))
    key = f"train/{loss}"
    assert relative_error(value, ref[f"{key}/loss"]) < tolerance
    assert relative_error(logits, ref[f"{key}/logits"]) < tolerance
    assert len(gradients) == 62
    errors = ref.errors(f"{key}/state", state) | ref.errors(f"{key}/gradients", gradients)
    wrong = {name: error for name, error in errors.items() if not error < tolerance}
    assert not wrong
    assert all(g.dtype == DTYPES[precision] for g in gradients.values())


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", Resnet18.OPTIMISERS)
def test_three_steps(name: str, precision: str) -> None:
    ref, tolerance = reference("b4_33"), TOLERANCE[precision]
    optimiser = sg.optim.SGD(**Resnet18.OPTIMISERS[name])

    @sg.jit
    def step(params: Any, state: Any, momentum: Any, images: Any, labels: Any) -> Any:
        (value, (_, state)), gradients = gradient("b4_33", "cross_entropy")(
            params, state, images, labels
        )
        return value, *optimiser.apply(params, gradients, momentum), state

    params, state, images, labels = inputs("b4_33", precision)
    momentum = optimiser.init(params)
    for k in (1, 2, 3):
        value, params, momentum, state = step(params, state, momentum, images, labels)
        key = f"steps/{name}/{k}"
        assert relative_error(value, ref[f"{key}/loss"]) < tolerance
        buffers = {k.removesuffix("/momentum_buffer"): v for k, v in momentum.items()}
        for kind, found in (("parameters", params), ("momentum", buffers)):
            errors = ref.errors(f"{key}/{kind}", found)
            wrong = {k: error for k, error in errors.items() if not error < tolerance}
            assert not wrong, kind
    errors = ref.errors(f"{key}/state", state)
    assert max(errors.values()) < tolerance
    network = model("b4_33", train=False)
    logits, _ = sg.jit(lambda *args: sg.nn.functional_call(network, *args))(params, state, images)
    assert relative_error(logits, ref[f"{key}/eval_logits"]) < tolerance
