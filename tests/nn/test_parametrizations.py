"""Parameters computed from others: names, values, training, and how to get rid of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn
from symgrad.nn.utils import parametrizations, parametrize


def rows() -> Any:
    return torch.tensor(np.linspace(-1, 1, 12).reshape(4, 3))


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim: Any) -> None:
    plain = nn.Linear(3, 2).double()
    weight = plain.weight.detach().clone()
    layer = parametrizations.weight_norm(plain, dim=dim)
    assert list(layer.state_dict()) == [
        "bias", "parametrizations.weight.original0", "parametrizations.weight.original1",
    ]  # fmt: skip
    np.testing.assert_allclose(layer.weight.detach().numpy(), weight.numpy(), rtol=1e-12)
    g, v = layer.parametrizations.weight._originals()
    with torch.no_grad():
        g.mul_(2)
        v.mul_(3)  # has no effect
    np.testing.assert_allclose(layer.weight.detach().numpy(), 2 * weight.numpy(), rtol=1e-12)
    layer(rows()).square().sum().backward()
    # The weight does not change with the length of v: its gradient is orthogonal to v.
    kept = () if dim is None else (1 - dim,)
    inner = (v.grad * v).detach().numpy()
    np.testing.assert_allclose(inner.sum(axis=kept or None), 0, atol=1e-10)
    assert g.grad.abs().min() > 0


@pytest.mark.parametrize("old", [False, True])
def test_spectral_norm(old: bool) -> None:
    torch.manual_seed(2)
    normalize = nn.utils.spectral_norm if old else parametrizations.spectral_norm
    layer = normalize(nn.Conv2d(3, 4, 3).double(), n_power_iterations=3)
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    for _ in range(20):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()
        layer(x)
    matrix = layer.weight.detach().numpy().reshape(4, -1)
    assert np.linalg.svd(matrix)[1][0] == pytest.approx(1, abs=1e-2)
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_old_forms_compute_the_weight_before_each_call() -> None:
    layer = nn.utils.weight_norm(nn.Linear(3, 2).double())
    assert list(layer.state_dict()) == ["bias", "weight_g", "weight_v"]
    before = layer(rows()).detach()
    with torch.no_grad():
        layer.weight_g.mul_(3)
    after = layer(rows()).detach()
    bias = layer.bias.detach()
    np.testing.assert_allclose((after - bias).numpy(), 3 * (before - bias).numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="spectral_norm of 'weight' not found"):
        nn.utils.remove_spectral_norm(layer)
    nn.utils.remove_weight_norm(layer)
    assert list(layer.state_dict()) == ["bias", "weight"]
    np.testing.assert_allclose(layer(rows()).detach().numpy(), after.numpy(), rtol=1e-12)


class Symmetric(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).mT

    def right_inverse(self, x: Any) -> Any:
        return x.triu()


class Doubled(nn.Module):
    calls = 0

    def forward(self, x: Any) -> Any:
        Doubled.calls += 1
        return x * 2

    def right_inverse(self, x: Any) -> Any:
        return x / 2


def test_parametrizations_are_applied_in_turn() -> None:
    layer = nn.Linear(3, 3).double()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert type(layer).__name__ == "ParametrizedLinear" and isinstance(layer, nn.Linear)
    assert torch.equal(layer.weight, layer.weight.mT)
    wanted = torch.tensor(np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T)
    layer.weight = wanted
    assert torch.equal(layer.weight, wanted)
    Doubled.calls = 0
    with parametrize.cached():
        assert layer.weight is layer.weight
    assert Doubled.calls == 1
    layer.weight.sum().backward()
    original = layer.parametrizations.weight.original
    assert original.grad.tolist() == [[2, 4, 4], [0, 2, 4], [0, 0, 2]]
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear and layer.weight is original
    assert torch.equal(layer.weight, wanted) and not parametrize.is_parametrized(layer)


def test_what_does_not_fit_is_refused() -> None:
    class Shorter(nn.Module):
        def forward(self, x: Any) -> Any:
            return x[1:]

    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="may not change the shape or the type"):
        parametrize.register_parametrization(layer, "weight", Shorter())
    with pytest.raises(ValueError, match="does not have a parameter, a buffer"):
        parametrize.register_parametrization(layer, "wait", Doubled())
    assert type(layer) is nn.Linear
    parametrize.register_parametrization(layer, "weight", Shorter(), unsafe=True)
    with pytest.raises(RuntimeError, match="Shorter does not implement right_inverse"):
        layer.weight = torch.zeros(3, 3)
