"""Operations recorded from templates are those that running the function would record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad.tensors import derivatives, record, templates
from symgrad.tensors.templates import key_of


def test_keys_tell_apart_what_means_something_else() -> None:
    def closure(x: Any) -> Any:
        return lambda: x

    different = [
        *(0.0, -0.0, 0, False, 1, 1.0, True, "1", None, (1,), [1], (1.0,), len),
        *(slice(1), slice(0, 1), {"a": 1}, {"b": 1}),
        *(np.float32(1), np.float64(1), np.dtype("f4"), np.dtype("f8")),
        *(closure(1), closure(1.0), closure(closure(2)), closure((0.0, 1)), closure((-0.0, 1))),
    ]
    keys = [key_of(x) for x in different]
    assert len(set(keys)) == len(keys)
    assert key_of(closure((1, "a"))) == key_of(closure((1, "a")))
    assert key_of(float("nan")) == key_of(float("nan"))
    for x in (np.zeros(2), object(), closure(np.zeros(2))):
        with pytest.raises(templates._NoTemplateError):
            key_of(x)


def test_a_step_recorded_again_traces_and_differentiates_nothing() -> None:
    x = torch.tensor(np.linspace(0, 1, 12).reshape(4, 3).astype(np.float32))
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)

    def step(target: list[int]) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(x), torch.tensor(target))
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step([0, 1, 1, 0]), step([0, 1, 1, 0])]
    counts = [len(templates._templates), len(derivatives._adjoints), len(record.PROGRAMS.known)]
    for target in ([0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]):
        optimizer.param_groups[0]["lr"] *= 0.5
        losses.append(step(target))
    now = [len(templates._templates), len(derivatives._adjoints), len(record.PROGRAMS.known)]
    assert now == counts and len(set(losses)) == 5


def test_known_values_are_not_computed_again_by_a_derivative() -> None:
    w = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    for _ in range(2):  # the second time from what was kept
        w.grad = None
        h = torch.exp(w)
        assert h.tolist() == np.exp([0.5, 2.0]).tolist()
        (h * h).sum().backward()
        text = str(record.recorded_function([w.grad._value()]))
        assert "exp" not in text
        np.testing.assert_allclose(w.grad.tolist(), 2 * np.exp([1.0, 4.0]), rtol=1e-14)


def test_values_recorded_alike_are_different_variables() -> None:
    x = torch.tensor(3.0, requires_grad=True)
    for _ in range(2):
        one, two = x * 2, x * 2
        gradients = torch.autograd.grad(one * one * two, (one, two, x), create_graph=True)
        assert [g.item() for g in gradients] == [72, 36, 216]


def test_hooks_see_the_cotangents_of_what_was_recorded() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    seen: list[list[float]] = []
    for factor in (1, 3):
        x.grad = None
        y = torch.tanh(x * 2)
        y.register_hook(lambda g, f=factor: seen.append(g.tolist()) or g * f)
        (y * 5).sum().backward()
        expected = factor * 10 * (1 - np.tanh([2.0, 4.0]) ** 2)
        np.testing.assert_allclose(x.grad.tolist(), expected, rtol=1e-13)
    assert seen == [[5, 5], [5, 5]]


def test_views_from_templates_share_memory() -> None:
    for _ in range(2):
        x = torch.zeros(2, 3)
        x.view(3, 2)[1].add_(torch.tensor([1.0, 2.0]))
        x.t()[0] = 7
        assert x.tolist() == [[7, 0, 1], [7, 0, 0]]


def test_the_default_dtype_is_looked_at() -> None:
    i = torch.arange(3)
    assert torch.exp(i).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.exp(i).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_templates_are_bounded(monkeypatch: Any) -> None:
    limit = len(templates._templates) + 5
    monkeypatch.setattr(templates._templates, "limit", limit)
    before = len(derivatives._adjoints)
    monkeypatch.setattr(derivatives._adjoints, "limit", before)
    for i in range(40):
        x = torch.ones(3, requires_grad=True)
        (x * i).sum().backward()
        assert x.grad.tolist() == [i] * 3
    assert len(templates._templates) <= limit
    assert len(derivatives._adjoints) == before


def test_numbers_that_keep_changing_become_operands() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    counts = []
    for i in range(20):
        x.grad = None
        factor, shift = 0.5 + i / 7, i
        y = ((x * factor + shift) * 3 - factor / x).sum()
        y.backward()
        expected = [3 * factor + factor / v**2 for v in (1, 2, 3)]
        np.testing.assert_allclose(x.grad.tolist(), expected, rtol=1e-6)
        assert y.dtype is x.grad.dtype is torch.float32
        counts.append(len(record.PROGRAMS.known))
    assert counts[-1] == counts[-8]
    assert (torch.arange(3) * 12345 + 1).dtype is torch.int64


def test_numbers_that_decide_the_course_stay_in_the_template() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    for i in range(12):
        assert torch.clamp(x, max=i / 4).tolist() == [min(v, i / 4) for v in (1, 2, 3)]
        np.testing.assert_allclose((x ** (i / 2)).tolist(), np.array([1, 2, 3]) ** (i / 2), 1e-6)
        assert torch.where(x > 1, x, i).tolist() == [i, 2, 3]
