"""Tensors that count steps: whoever looks at one, by whatever road, sees the present number."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad.tensors.counters import advance


def _batches(norm: Any, count: int) -> None:
    for _ in range(count):
        norm(torch.ones(4, 3) * torch.arange(4.0).reshape(4, 1))


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_a_counter_is_a_tensor_like_any_other(dtype: Any) -> None:
    counter = torch.tensor(np.array(5, dtype))
    seen = counter.numpy()
    assert [advance(counter) for _ in range(2)] == [6, 7]
    assert counter.item() == 7 and seen == 7 and counter.numpy().dtype == dtype
    counter.add_(10)
    assert advance(counter) == 18 and (counter * 2).item() == 36 and seen == 18
    seen[...] = 3
    assert advance(counter) == 4 and counter.item() == 4
    doubled = counter * 2
    assert advance(counter) == 5 and doubled.item() == 8  # recorded with what it was


def test_views_and_aliases_count_together() -> None:
    counter = torch.tensor(1)
    alias, part = counter.detach(), torch.arange(3)[1]
    assert advance(counter) == 2 and alias.item() == 2
    assert advance(part) == 2 and part.item() == 2
    assert advance(alias) == 3 and counter.item() == 3


def test_values_that_are_yet_to_be_computed() -> None:
    counter = torch.tensor(1)
    counter.mul_(4)
    assert advance(counter) == 5 and counter.item() == 5


def test_batches_are_counted() -> None:
    norm = torch.nn.BatchNorm1d(3)
    _batches(norm, 2)
    held, state = norm.num_batches_tracked, norm.state_dict()
    assert held.item() == 2 and state["num_batches_tracked"].item() == 2
    twin = copy.deepcopy(norm)
    _batches(norm, 1)
    assert (held.item(), twin.num_batches_tracked.item()) == (3, 2)
    _batches(twin, 2)
    assert (held.item(), twin.num_batches_tracked.item()) == (3, 4)
    norm.load_state_dict(twin.state_dict())
    _batches(norm, 1)
    assert norm.num_batches_tracked.item() == 5 and held.item() == 5
    norm.reset_running_stats()
    assert held.item() == 0
    _batches(norm, 1)
    norm.num_batches_tracked = torch.tensor(20)
    _batches(norm, 1)
    assert (norm.num_batches_tracked.item(), held.item()) == (21, 1)


def test_cumulative_averages_use_the_count() -> None:
    """``momentum=None`` weighs all batches alike."""
    norm = torch.nn.BatchNorm1d(2, momentum=None)
    batches = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    for batch in batches:
        norm(torch.tensor(batch))
    np.testing.assert_allclose(
        norm.running_mean.numpy(), batches.mean(1).mean(0), rtol=1e-5, atol=1e-6
    )


def test_an_optimizer_counts_for_each_parameter() -> None:
    """Adam's correction of its first steps, which a parameter without gradients does not take."""
    start = np.array([1.0, -2.0])
    a, b = (torch.tensor(start, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([a, b], lr=0.1)
    for number in range(3):
        optimizer.zero_grad()
        loss = (a * a).sum() + (b * b).sum() if number else (a * a).sum()
        loss.backward()
        optimizer.step()
    counts = [optimizer.state[p]["step"].item() for p in (a, b)]
    assert counts == [3, 2]
    saved = optimizer.state_dict()["state"]
    assert [saved[i]["step"].item() for i in range(2)] == counts
    optimizer.state[b]["step"].fill_(0.0)  # as if it had taken none
    assert optimizer.state[b]["step"].item() == 0
    expected, m, v = start.copy(), np.zeros(2), np.zeros(2)
    for step in (1, 2, 3):
        g = 2 * expected
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(a.tolist(), expected, rtol=1e-12)
