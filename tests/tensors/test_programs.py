"""How many programs a training loop runs, what they compute, and when they are compiled anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad.tensors import record


@pytest.fixture
def runs(monkeypatch: Any) -> Iterator[list[int]]:
    """The number of values that each program run computes."""
    counts: list[int] = []
    find = record._Programs.find

    def noted(self: Any, graph: Any, results: Any, donated: Any) -> Any:
        counts.append(len(results))
        return find(self, graph, results, donated)

    monkeypatch.setattr(record._Programs, "find", noted)
    return counts


class Loop:
    """A perceptron trained by SGD; ``look`` says when the loss is read."""

    def __init__(self, look: str) -> None:
        torch.manual_seed(0)
        first, last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
        self.model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.look = look
        self.losses: list[Any] = []

    def step(self, batch: int = 5) -> None:
        x = torch.tensor(np.linspace(-1, 1, batch * 4).reshape(batch, 4).astype(np.float32))
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(x), torch.arange(batch) % 3)
        if self.look == "before backward":
            self.losses.append(loss.item())
        loss.backward()
        if self.look == "before step":
            self.losses.append(loss.item())
        self.optimizer.step()
        if self.look == "after step":
            self.losses.append(loss.item())
        if self.look == "at the end":
            self.losses.append(loss)


def trained(look: str, steps: int = 8) -> list[float]:
    loop = Loop(look)
    for _ in range(steps):
        loop.step()
    return [float(x) for x in loop.losses]


def test_losses_do_not_depend_on_when_they_are_read() -> None:
    looks = ("before backward", "before step", "after step", "at the end")
    first, *others = [trained(look) for look in looks]
    assert len(set(first)) == 8 and first[-1] < first[0]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=2e-6)


@pytest.mark.parametrize(
    ("look", "programs"), [("after step", 1), ("before step", 2), ("before backward", 2)]
)
def test_no_step_runs_the_forward_pass_twice(look: str, programs: int, runs: list[int]) -> None:
    loop = Loop(look)
    for _ in range(3):
        loop.step()
    runs.clear()
    loop.step()
    assert len(runs) == programs
    if programs == 2:  # the loss with the gradients, then the update of weights and momentum
        assert runs == [1 + 4, 4 + 4]


def test_a_loss_that_is_only_looked_at_computes_no_gradients(runs: list[int]) -> None:
    w = torch.ones(3, requires_grad=True)
    for _ in range(3):
        (torch.tanh(w) * 3).sum().item()
    assert runs == [1, 1, 1]


def test_an_unforeseen_use_of_a_foreseen_loss() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    for number in range(4):
        w.grad = None
        loss = (w * w * w).sum()
        assert loss.item() == 9
        if number == 3:
            (by_w,) = torch.autograd.grad(loss, w, create_graph=True)
            by_w.sum().backward()
            assert w.grad.tolist() == [6, 12]
        else:
            loss.backward(torch.tensor(2.0) if number == 2 else None)
            assert w.grad.tolist() == ([6, 24] if number == 2 else [3, 12])
    scale = torch.tensor(2.0)
    for number in range(4):
        w.grad = None
        loss = (w * scale).sum()
        assert loss.item() == 3 * scale.item()
        with torch.no_grad():
            w.add_(0)
            if number == 3:
                scale.mul_(5)
        if number == 3:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            loss.backward()
            assert w.grad.tolist() == [2, 2]


def test_why_a_program_is_compiled(monkeypatch: Any, capsys: Any) -> None:
    torch.ones(1).add_(1).tolist()  # and what others left for the next program
    monkeypatch.setenv("SYMGRAD_DEBUG", "recompiles")
    monkeypatch.setattr(record, "PROGRAMS", record._Programs())
    loop = Loop("after step")
    loop.step()
    assert "program 1" in (said := capsys.readouterr().err) and "it is the first" in said
    loop.step()
    assert not capsys.readouterr().err
    loop.step(batch=7)
    said = capsys.readouterr().err
    assert "is f32[7,4], it was f32[5,4]" in said and "test_programs.py" in said
    x = torch.ones(3)
    (torch.exp(x) * 2).tolist()
    capsys.readouterr()
    (torch.sin(x) * 2).tolist()
    assert "operation 1 is sin" in (said := capsys.readouterr().err) and "it was exp" in said
    y = torch.exp(x) * 2
    (y + 1).tolist()
    assert "1 operations more" in capsys.readouterr().err


def test_other_threads_compile_anew() -> None:
    before = torch.get_num_threads()
    loop = Loop("after step")
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            loop.step()
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(loop.losses, trained("after step", 3), rtol=1e-6)
