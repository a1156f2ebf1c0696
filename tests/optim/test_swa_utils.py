"""Means of models over their training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn, optim
from symgrad.optim import swa_utils


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def histories(averaged: Any, source: Any, steps: int = 4) -> dict[str, list[Any]]:
    """All values that the source's state had, having been taken in."""
    seen: dict[str, list[Any]] = {}
    for step in range(steps):
        for i, t in enumerate([*source.parameters(), *source.buffers()]):
            if t.is_floating_point():
                t.data = torch.full(t.shape, float((i + 2) * step**2 + i))
        averaged.update_parameters(source)
        for name, t in source.state_dict().items():
            seen.setdefault(name, []).append(t.numpy().copy())
    return seen


def exponential(values: list[Any], decay: float) -> Any:
    mean = values[0]
    for value in values[1:]:
        mean = decay * mean + (1 - decay) * value
    return mean


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", ["mean", "avg_fn", "multi_avg_fn"])
def test_means(kind: str, use_buffers: bool) -> None:
    options: dict[str, Any] = {
        "mean": {}, "avg_fn": {"avg_fn": swa_utils.get_ema_avg_fn(0.75)},
        "multi_avg_fn": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.75)},
    }[kind]  # fmt: skip
    source = model()
    averaged = swa_utils.AveragedModel(source, use_buffers=use_buffers, **options)
    assert list(averaged.state_dict())[:2] == ["n_averaged", "module.0.weight"]
    seen = histories(averaged, source)
    assert averaged.n_averaged.item() == 4
    for name, t in averaged.module.state_dict().items():
        values = seen[name]
        if "num" in name or ("running" in name and not use_buffers):
            expected = values[-1]
        else:
            expected = np.mean(values, 0) if kind == "mean" else exponential(values, 0.75)
        np.testing.assert_allclose(t.numpy(), expected, 1e-6)


def test_statistics_are_computed_anew() -> None:
    network = model()
    batches = [torch.randn(8, 3) for _ in range(3)]
    with torch.no_grad():
        hidden = [network[0](x).numpy() for x in batches]
    network.eval()
    swa_utils.update_bn([(x, None) for x in batches], network)
    norm = network[1]
    assert not network.training
    assert norm.momentum == 0.1
    np.testing.assert_allclose(norm.running_mean.tolist(), np.mean([h.mean(0) for h in hidden], 0),
                               1e-5, 1e-6)  # fmt: skip
    spread = np.mean([h.var(0, ddof=1) for h in hidden], 0)
    np.testing.assert_allclose(norm.running_var.tolist(), spread, 1e-5)


def test_refusals() -> None:
    mean = swa_utils.get_swa_avg_fn()
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be prov"):
        swa_utils.AveragedModel(model(), avg_fn=mean, multi_avg_fn=swa_utils.get_swa_multi_avg_fn())
    with pytest.raises(ValueError, match="Invalid decay value 2 provided"):
        swa_utils.get_ema_avg_fn(2)
    optimizer = optim.SGD(model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="anneal_strategy must be one of 'cos' or 'linear', inst"):
        swa_utils.SWALR(optimizer, 0.1, anneal_strategy="x")
    with pytest.raises(ValueError, match="anneal_epochs must be equal or greater than 0, got -1"):
        swa_utils.SWALR(optimizer, 0.1, -1)
