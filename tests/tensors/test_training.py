"""Modules and optimisers on tensors: what the tutorials do with a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn, optim
from symgrad.nn import functional as F


class Small(nn.Module):
    """A convolution, a normalisation and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 5 * 5, 7)

    def forward(self, x: Any) -> Any:
        return self.fc(F.flatten(F.relu(self.bn(self.conv(x))), 1))


def test_a31_a32_every_parameter_gets_a_gradient() -> None:
    model = Small()
    prediction = model(torch.rand(2, 3, 5, 5))
    assert prediction.shape == (2, 7) and prediction.grad_fn.name() == "AddmmBackward0"
    (prediction - torch.rand(2, 7)).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.shape == parameter.shape
    mean = model.bn.running_mean
    assert abs(mean).sum().item() > 0 and int(model.bn.num_batches_tracked) == 1
    with pytest.raises(Exception, match="Expected more than 1 value per channel when training"):
        nn.BatchNorm2d(4)(torch.rand(1, 4, 1, 1))


def test_a33_sgd_with_momentum() -> None:
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    skipped = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([w, skipped], lr=1e-2, momentum=0.9)
    assert repr(optimizer) == (
        "SGD (\nParameter Group 0\n    dampening: 0\n    differentiable: False\n    foreach: None\n"
        "    fused: None\n    lr: 0.01\n    maximize: False\n    momentum: 0.9\n"
        "    nesterov: False\n    weight_decay: 0\n)"
    )
    expected, buffer = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for number in range(5):
        rate = 1e-2 / (number + 1)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (w**3).sum().backward()
        optimizer.step()
        buffer = 0.9 * buffer + 3 * expected**2
        expected = expected - rate * buffer
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=2e-6)
    assert skipped.tolist() == [1, 1]


def test_a34_fine_tuning_changes_the_classifier_alone() -> None:
    model = Small()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(4 * 5 * 5, 10)
    optimizer = optim.SGD(model.fc.parameters(), lr=1e-2, momentum=0.9)
    before = {name: p.tolist() for name, p in model.named_parameters()}
    prediction = model(torch.rand(2, 3, 5, 5))
    assert prediction.shape == (2, 10)
    loss = prediction.sum()
    loss.backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if p.tolist() != before[name]}
    assert changed == {"fc.weight", "fc.bias"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == changed
    assert model.conv.weight.grad is None


def test_a35_zero_grad() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    (w * 2).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0, 0]
    optimizer.zero_grad()
    assert w.grad is None


def test_a_loop_follows_the_functional_form() -> None:
    model, x = nn.Linear(3, 2), np.linspace(-1, 1, 12).reshape(4, 3).astype(np.float32)
    y = np.array([0, 1, 1, 0])
    weights, _ = nn.arrays(model)
    rule = optim.SGD(0.1, 0.9)
    velocity = rule.init(weights)

    def loss_of(params: Any) -> Any:
        return F.cross_entropy(F.linear(x, params["weight"], params["bias"]), y)

    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = torch.jit(torch.value_and_grad(loss_of))
    for _ in range(6):
        value, grads = step(weights)
        weights, velocity = rule.apply(weights, grads, velocity)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(float(value), rel=1e-5)
    assert optimizer.param_groups[0]["params"][0] is model.weight


def test_state_is_loaded_into_tensors() -> None:
    one, other = Small(), Small()
    list(one.parameters()), list(other.parameters())
    other.load_state_dict(one.state_dict())
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and b.requires_grad
