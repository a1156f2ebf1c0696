"""Derivatives of derivatives, by every value on the way, however it came about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import symgrad as torch
from symgrad.autograd import grad


def _known() -> Any:
    return torch.tensor([2.0, 2.0], requires_grad=True)


def _pending() -> Any:
    return (torch.ones(2) * 2).requires_grad_()


def _computed() -> Any:
    x = _pending()
    x.tolist()
    return x


LEAVES: dict[str, Callable[[], Any]] = {
    "known": _known, "pending": _pending, "computed": _computed,
}  # fmt: skip


def by(outputs: Any, inputs: Any) -> Any:
    """A derivative that must be there."""
    (found,) = grad(outputs.sum(), inputs, retain_graph=True)
    return found.tolist()


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("leaf", LEAVES)
def test_by_leaf_and_by_what_lies_between(leaf: str, hooked: bool) -> None:
    x, y = LEAVES[leaf](), LEAVES[leaf]()
    inner, twin = x * 2, x * 2  # equal, but two values
    if hooked:
        inner.register_hook(lambda g: g * 1)
    q = inner**2 * twin * y  # 8 x^3 y
    (first,) = grad(q.sum(), x, create_graph=True)
    assert first.tolist() == [192.0, 192.0]  # 24 x^2 y
    assert by(first, x) == [192.0, 192.0]  # 48 x y
    assert by(first, y) == [96.0, 96.0]  # 24 x^2
    # With x = 2 inner and twin are 4: first = 4 inner twin y + 2 inner^2 y.
    assert by(first, inner) == [64.0, 64.0]
    assert by(first, twin) == [32.0, 32.0]
    (second,) = grad(q.sum(), inner, create_graph=True)  # 2 inner twin y
    assert by(second, inner) == [16.0, 16.0]
    assert by(second, x) == [64.0, 64.0]


def test_third_derivative_of_a_pending_leaf() -> None:
    x = (torch.ones(2) * 2).requires_grad_()
    y = x**4
    for expected in (32.0, 48.0, 48.0, 24.0):
        (y,) = grad(y.sum(), x, create_graph=True)
        assert y.tolist() == [expected, expected]
