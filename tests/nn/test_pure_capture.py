"""Compiled functions that use a module from outside see what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn

x = np.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6).astype(np.float32)


def _train(model: Any) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(torch.tensor(x)) ** 2).mean().backward()
    optimizer.step()
    model.eval()


def _write(model: Any) -> None:
    with torch.no_grad():
        model[1].running_mean.add_(3)
        model[1].running_var.mul_(4)


def _load(model: Any) -> None:
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


@pytest.mark.parametrize("change", [_train, _write, _load])
def test_changes_of_a_captured_model_are_seen(change: Callable[[Any], None]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    compiled = torch.jit(lambda x: model(x) * 1)
    gradient = torch.grad(lambda x: (model(x) ** 2).sum())
    for step in range(2):
        t = torch.tensor(x, requires_grad=True)
        expected = model(t)
        (expected**2).sum().backward()
        np.testing.assert_allclose(compiled(x), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient(x), t.grad.numpy(), rtol=1e-4, atol=1e-4)
        if not step:
            change(model)
