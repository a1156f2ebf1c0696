"""Calls found again by their arguments record what a first call would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad.nn import functional as F
from symgrad.tensors import plans
from symgrad.tensors.apply import apply
from symgrad.tensors.plans import remembered

MEANS = np.array([2, 4])
TIMES = range(3)
"""The first call learns the plan, later ones follow it."""


def test_calls_in_all_modes_do_not_take_each_other_for_granted() -> None:
    for _ in TIMES:
        x = torch.tensor([2.0, 3.0], requires_grad=True)
        with torch.no_grad():
            constant = x * x
        assert not constant.requires_grad and constant.grad_fn is None
        plain = torch.tensor([5.0, 7.0]) * torch.tensor([1.0, 2.0])
        assert plain.grad_fn is None
        y = x * constant
        assert y.grad_fn.name() == "MulBackward0"
        (y * plain).sum().backward()
        assert x.grad.tolist() == [4 * 5, 9 * 14]


def test_operands_are_told_from_each_other() -> None:
    for _ in TIMES:
        x, y = torch.tensor([5.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
        assert (x - x).tolist() == [0] and (x / x).tolist() == [1]
        assert (x - y).tolist() == [3] and torch.rsub(x, y).tolist() == [-3]
        assert torch.sub(other=x, input=y).tolist() == [-3]
        torch.rsub(x, y * 3).sum().backward()
        (x / y).sum().backward()
        assert x.grad.tolist() == [-1 + 0.5] and y.grad.tolist() == [3 - 1.25]
        shown = [f[0].name() for f in torch.rsub(x, y * 3).grad_fn.next_functions]
        assert shown == ["MulBackward0", "torch::autograd::AccumulateGrad"]


def test_numbers_that_are_equal_may_mean_something_else() -> None:
    for _ in TIMES:
        x, i = torch.ones(2), torch.arange(2)
        assert [np.signbit((x * z).tolist()).tolist()[0] for z in (0.0, -0.0)] == [False, True]
        assert (i * 1).dtype is torch.int64 and (i * 1.0).dtype is torch.float32
        assert (torch.tensor([True]) * True).dtype is torch.bool
        assert (torch.tensor([True]) * 1).dtype is torch.int64
        assert torch.sum(torch.ones(2, 3), 1).tolist() == [3, 3]
        assert torch.sum(torch.ones(2, 3), (0, 1)).item() == 6
        assert torch.sum(torch.ones(2, 3), 1, keepdim=True).shape == (2, 1)
        assert torch.sum(torch.ones(2, 3), dim=1, dtype=torch.float64).dtype is torch.float64


def test_saved_values_are_watched() -> None:
    for _ in TIMES:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        for function in (torch.exp, torch.tanh, torch.relu, F.relu, torch.sqrt):
            y = function(x)
            y.add_(1)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        y = x * 2
        z = y * y
        z.mul_(3)  # a product does not read its result
        z.sum().backward()
        assert x.grad.tolist() == [24, 48]
        weight = torch.ones(2)
        z = (x * weight).sum()
        weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.backward()


@pytest.mark.filterwarnings("ignore:Error detected")
def test_hooks_and_anomaly_detection_see_planned_operations() -> None:
    for _ in TIMES:
        x = torch.tensor([1.0, 4.0], requires_grad=True)
        y = torch.sqrt(x)
        y.register_hook(lambda g: g * 10)
        y.sum().backward()
        assert x.grad.tolist() == [5, 2.5]
        below = torch.tensor([-1.0], requires_grad=True)
        with pytest.raises(RuntimeError, match="SqrtBackward0"):
            _look_closely(below)


def _look_closely(x: Any) -> None:
    with torch.autograd.set_detect_anomaly(True):
        torch.sqrt(x * 1).sum().backward()


def test_views_and_shared_memory_are_looked_at_anew() -> None:
    array = np.ones(2, np.float32)
    shared, base = torch.from_numpy(array), torch.zeros(2, 2)
    row = base[0]
    for number in TIMES:
        array[:] = number
        base.add_(1)
        assert (shared + row).tolist() == [2 * number + 1] * 2
    leaf = torch.ones(2, requires_grad=True)
    for _ in TIMES:
        base = torch.zeros(2)
        part = base[:1]
        assert not (part * 2).requires_grad
        base.copy_(leaf)
        assert (part * 2).requires_grad  # a view follows its base into the graph


@remembered
def _by_length(x: Any, y: Any) -> Any:
    """Depends on the contents of a tensor that is no operand: this must not be kept."""
    return apply("MulBackward0", _scaled, (x, float(y.tolist()[0])))


def _scaled(x: Any, factor: float) -> Any:
    return x * factor


@remembered
def _twice(x: Any) -> Any:
    return torch.exp(x) + torch.exp(x)


def test_what_is_more_than_one_operation_of_its_arguments_is_not_kept() -> None:
    for number in TIMES:
        assert _by_length(torch.ones(2), torch.full((3,), number)).tolist() == [number] * 2
    before = len(plans._plans)
    for _ in TIMES:
        assert _twice(torch.zeros(5)).tolist() == [2] * 5
    kept = [p for p in map(plans._plans.get, list(plans._plans)[before:]) if p != plans._NONE]
    assert len(kept) == 2  # of the exponential and of the sum


def test_running_statistics_move_and_lent_ones_do_not() -> None:
    layer = torch.nn.BatchNorm1d(2, momentum=0.5)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    expected = np.zeros(2)
    for number in TIMES:
        held = layer.running_mean
        layer(x)
        expected = (expected + MEANS) / 2
        assert layer.running_mean is held and held.tolist() == expected.tolist()
        assert layer.num_batches_tracked.item() == number + 1
        params = dict(layer.named_parameters())
        state = {n: b.clone() for n, b in layer.named_buffers()}
        _, new = torch.nn.functional_call(layer, params, state, x)
        assert state["running_mean"].tolist() == expected.tolist()
        assert new["running_mean"].tolist() == ((expected + MEANS) / 2).tolist()
        assert layer.running_mean is held and held.tolist() == expected.tolist()
    mean, variance = torch.zeros(2), torch.ones(2)
    for _ in TIMES:
        F.batch_norm(x, mean, variance, training=True, momentum=1.0)
        assert mean.tolist() == [2, 4] and variance.tolist() == [2, 8]
        mean.zero_()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(x[:1])
