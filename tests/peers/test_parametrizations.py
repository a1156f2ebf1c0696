"""Parametrised layers trained live beside PyTorch's: the same text, names, losses and states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad
import symgrad.nn.utils.parametrizations

torch = pytest.importorskip("torch")
pytest.importorskip("torch.nn.utils.parametrizations")

LAYERS = [
    "parametrizations.weight_norm(nn.Conv2d(3, 4, 3))",
    "parametrizations.weight_norm(nn.Conv2d(3, 4, 3), dim=1)",
    "parametrizations.weight_norm(nn.Conv2d(3, 4, 3), dim=None)",
    "parametrizations.spectral_norm(nn.Conv2d(3, 4, 3), n_power_iterations=2)",
    "parametrizations.spectral_norm(nn.ConvTranspose2d(3, 4, 3))",
    "weight_norm(nn.Conv2d(3, 4, 3))",
    "weight_norm(nn.Conv2d(3, 4, 3), dim=None)",
    "spectral_norm(nn.Conv2d(3, 4, 3))",
    "spectral_norm(nn.ConvTranspose2d(3, 4, 3), n_power_iterations=3)",
]


def made(module: Any, expression: str) -> Any:
    module.manual_seed(0)
    return eval(f"nn.utils.{expression}", {"nn": module.nn}).double()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expression", LAYERS)
def test_trained_beside_each_other(expression: str) -> None:
    peer, own = made(torch, expression), made(symgrad, expression)
    assert repr(own) == repr(peer)
    assert list(own.state_dict()) == list(peer.state_dict())
    own.load_state_dict({k: symgrad.tensor(v.numpy()) for k, v in peer.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
    optimizers = [m.optim.SGD(n.parameters(), 0.05) for m, n in ((torch, peer), (symgrad, own))]
    for _ in range(3):
        losses = []
        for module, net, optimizer in zip((torch, symgrad), (peer, own), optimizers, strict=True):
            optimizer.zero_grad()
            loss = (net(module.tensor(x)) ** 2).mean() + net.weight.sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-10)
    for name, value in peer.state_dict().items():
        np.testing.assert_allclose(own.state_dict()[name].numpy(), value.numpy(), 1e-9, 1e-9)
