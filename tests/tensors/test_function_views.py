"""Functions that return views of their arguments: shared memory, a derivative by hand.

Values and texts are PyTorch's.
"""

from __future__ import annotations

from typing import Any

import pytest

import symgrad as torch
from symgrad.autograd import Function


class Tail(Function):
    """All but the first element; its derivative is seven times the right one."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x[1:]

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return torch.cat([torch.zeros(1), g * 7])


class Same(Function):
    """The argument itself, under a derivative seven times the right one."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 7


def test_views_share_memory() -> None:
    x = torch.ones(3, requires_grad=True)
    tail, same = Tail.apply(x), Same.apply(x)
    assert same is not x
    with torch.no_grad():
        x.mul_(3)
    assert tail.tolist() == [3, 3] and same.tolist() == [3, 3, 3]
    with torch.no_grad():
        tail.add_(2)
    assert x.tolist() == same.tolist() == [3, 5, 5] and tail.tolist() == [5, 5]
    assert tail.stride() == (1,) and tail.storage_offset() == 1


@pytest.mark.parametrize("look", [False, True])
def test_the_derivative_stays_that_by_hand(look: bool) -> None:
    x = torch.ones(3, requires_grad=True)
    y = Same.apply(x)
    if look:
        y.tolist()
    x.data.mul_(5)
    (y * y).sum().backward()
    assert x.grad.tolist() == [70, 70, 70]


@pytest.mark.parametrize("function", [Tail, Same])
def test_writes_that_would_override_it_are_refused(function: Any) -> None:
    x = torch.ones(3, requires_grad=True) * 1
    y = function.apply(x)
    with pytest.raises(RuntimeError) as error:
        y.mul_(2)
    assert str(error.value) == (
        f"Output 0 of {function.__name__} is a view and is being modified inplace. This "
        "view was created inside a custom Function (or because an input was returned as-is) and "
        "the autograd logic to handle view+inplace would override the custom backward associated "
        "with the custom Function, leading to incorrect gradients. This behavior is forbidden. You "
        "can fix this by cloning the output of the custom Function."
    )
    x.mul_(2)
    with pytest.raises(RuntimeError, match=r"its base or another view of its base has been mod"):
        (y * 2).sum()
    assert y.detach().tolist() == x.tolist()[-len(y) :]


def test_without_a_derivative_they_are_plain_views() -> None:
    x = torch.zeros(3)
    Tail.apply(x)[0] = 5
    assert x.tolist() == [0, 5, 0]


def test_none_is_no_gradient_but_what_else_leads_to_a_leaf_counts() -> None:
    class Silent(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return None

    x = torch.ones(3, requires_grad=True)
    Silent.apply(x * 1).sum().backward()
    assert x.grad is None
    (Silent.apply(x) + x.sign()).sum().backward()
    assert x.grad.tolist() == [0, 0, 0]
