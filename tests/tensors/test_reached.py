"""Leaves that a result depends on in name only, frozen ones, and gradients that hooks change."""

from __future__ import annotations

from typing import Any

import pytest

import symgrad as torch


def test_a_leaf_whose_influence_was_overwritten_gets_zeros() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.5
    y.zero_()
    y.sum().backward()
    assert x.grad.tolist() == [0, 0]
    x.grad = None
    z = x / 2
    z.copy_(torch.ones(2))
    assert z.grad_fn.name() == "torch::autograd::CopyBackwards"
    z.sum().backward()
    assert x.grad.tolist() == [0, 0]
    x.grad = None
    torch.floor(x * 3).sum().backward()
    assert x.grad.tolist() == [0, 0]


def test_a_leaf_frozen_after_its_use_gets_nothing() -> None:
    x, w = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    y = torch.stack([x, w])
    x.requires_grad_(False)
    y.sum().backward()
    assert x.grad is None and w.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("by", ["y", "x", "both"])
def test_hooks_act_on_derivatives_by_their_own_tensor(by: str) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = -x
    y.register_hook(lambda g: g * 2)
    inputs = {"y": (y,), "x": (x,), "both": (x, y)}[by]
    found = torch.autograd.grad((y * y).sum(), inputs)
    expected = {"y": [[-4, -8]], "x": [[4, 8]], "both": [[4, 8], [-4, -8]]}[by]
    assert [g.tolist() for g in found] == expected


def test_what_a_derivative_does_not_pass_is_not_used_up() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = torch.exp(x)
    y.sum().backward()
    z = y * y
    (by_y,) = torch.autograd.grad(z.sum(), y)
    assert by_y.tolist() == (2 * y).tolist()
    with pytest.raises(RuntimeError, match="a second time"):
        (y * 2).sum().backward()


def test_hooks_act_on_second_derivatives_too() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = -x
    y.register_hook(lambda g: g * 2)
    (g,) = torch.autograd.grad((y * y).sum(), y, create_graph=True)
    g.sum().backward()
    assert x.grad.tolist() == [-8, -8]


def test_a_write_through_an_alias_of_a_number() -> None:
    x = torch.tensor(3.0)
    x.transpose(0, -1).zero_()
    assert x.item() == 0
    y = torch.tensor([0.2])
    y[y > 0.5] = 0.0
    assert y.tolist() == torch.tensor([0.2]).tolist()


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (lambda y: y.sign(), [2, 2]),
        (lambda y: y.floor(), [2, 2]),
        (lambda y: y.zero_(), [2, 2]),
        (lambda y: (y * 1).zero_(), [2, 2]),
        (lambda y: (y > 0).float() + y * 0, [2, 2]),
    ],
)
def test_hooks_see_gradients_that_are_zero(lost: Any, expected: list[float]) -> None:
    """What they make of zeros goes on, as in PyTorch."""
    seen: list[Any] = []

    def hook(g: Any) -> Any:
        seen.append(g.tolist())
        return g + 1

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y.register_hook(hook)
    lost(y).sum().backward()
    assert seen == [[0, 0]] and x.grad.tolist() == expected
    x.register_hook(hook)
    assert torch.autograd.grad(x.sign().sum(), x)[0].tolist() == [1, 1]


def test_hooks_off_the_way_are_not_called() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: g + 1)
    for z in (y.detach() * x, (y > 0).float() * x):
        x.grad = None
        z.sum().backward()
        assert x.grad.tolist() == z.detach().div(x.detach()).tolist()


def test_gradients_are_retained_where_nothing_goes_on() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = x.sign()
    y.retain_grad()
    z = y * 1
    z.retain_grad()
    (y * 3 + z.floor()).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist(), z.grad.tolist()) == ([0, 0], [3, 3], [0, 0])


def test_a_refused_backward_retains_nothing() -> None:
    y = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.ones(2).sum().backward(inputs=[y])
    assert not y.retains_grad


@pytest.mark.parametrize("write", [lambda y: y.mul_(2), lambda y: y[:1].mul_(2)])
def test_retained_is_the_gradient_by_what_was_written_last(write: Any) -> None:
    x = torch.ones(2, requires_grad=True)
    y = x * 3
    y.retain_grad()
    write(y)
    y.sum().backward()
    assert y.grad.tolist() == [1, 1]
    y = x * 3
    view = y[1:]
    view.retain_grad()
    y.mul_(2)
    (view * 3).sum().backward()
    assert view.grad.tolist() == [3]


def test_what_is_retained_comes_after_all_hooks() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x * 3
    y.register_hook(lambda g: g * 2)
    y.retain_grad()
    y.register_hook(lambda g: g * 5)
    y.sum().backward()
    assert y.grad.tolist() == [10, 10] and x.grad.tolist() == [30, 30]


def test_what_is_added_to_may_change() -> None:
    """Of ``x + a b`` and the like a derivative reads the factors alone."""
    x = torch.ones(2, requires_grad=True)
    for made in (
        lambda y: torch.addcmul(y, x, x), lambda y: torch.addcdiv(y, x, x),
        lambda y: torch.lerp(y, x, 0.5),
    ):  # fmt: skip
        x.grad, y = None, torch.ones(2)
        z = made(y)
        y.zero_()
        z.sum().backward()
        assert x.grad is not None
