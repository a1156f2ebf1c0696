"""Networks of bottleneck blocks against recorded results of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import (
    BOTTLENECKS,
    DATA,
    fingerprint_error,
    network_parameters,
    read_record,
    relative_error,
)

import symgrad as sg
from symgrad.models import Bottleneck, ResNet
from symgrad.nn import functional as F


def network(name: str) -> Any:
    net = BOTTLENECKS[name]
    return ResNet(
        Bottleneck, net.layers, net.classes, groups=net.groups, width_per_group=net.width,
        replace_stride_with_dilation=net.dilated,
    )  # fmt: skip


def recorded(name: str) -> dict[str, Any]:
    arrays = read_record(DATA / "bottlenecks.npz")[1]
    return {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_names_and_shapes(name: str) -> None:
    own = {k: np.shape(v) for k, v in network(name).named_parameters()}
    assert list(own.items()) == list(BOTTLENECKS[name].shapes())


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-9), (np.float32, 2e-4)])
@pytest.mark.parametrize("name", BOTTLENECKS)
def test_eval_mode(name: str, dtype: Any, bound: float) -> None:
    net = BOTTLENECKS[name]
    forward = sg.jit(lambda *args: sg.nn.functional_call(network(name).eval(), *args))
    logits, _ = forward(net.parameters(dtype), net.state(dtype), net.batch(dtype)[0])
    assert logits.dtype == dtype
    assert relative_error(logits, recorded(name)["eval/logits"]) < bound


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_training_pass(name: str) -> None:
    net, expected = BOTTLENECKS[name], recorded(name)
    model = network(name).train()

    def objective(params: Any, state: Any, images: Any, labels: Any) -> Any:
        logits, state = sg.nn.functional_call(model, params, state, images)
        return F.cross_entropy(logits, labels), (logits, state)

    step = sg.jit(sg.value_and_grad(objective, has_aux=True))
    (value, (logits, state)), gradients = step(
        net.parameters(np.float64), net.state(np.float64), *net.batch(np.float64)
    )
    assert relative_error(value, expected["train/loss"]) < 1e-9
    assert relative_error(logits, expected["train/logits"]) < 1e-9
    found = {f"train/gradients/{k}": v for k, v in gradients.items()}
    found |= {f"train/state/{k}": v for k, v in state.items() if "num_batches" not in k}
    assert found.keys() == {k for k in expected if k.count("/") == 2}
    errors = {k: fingerprint_error(v, expected[k]) for k, v in found.items()}
    assert {k: error for k, error in errors.items() if not error < 1e-8} == {}


def test_parameters_come_from_their_names_alone() -> None:
    shapes = list(BOTTLENECKS["dilated"].shapes())
    one = network_parameters(shapes[:3])
    assert all(np.array_equal(one[k], v) for k, v in network_parameters(shapes).items() if k in one)
