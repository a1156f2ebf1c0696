"""Tensors without axes as masks and operands, names with two meanings, the order of hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch


@pytest.mark.parametrize("make", [bool, torch.tensor, np.array])
def test_a_mask_without_axes_is_a_new_axis_of_size_one(make: Any) -> None:
    yes, no = make(True), make(False)
    assert torch.arange(3.0)[yes].tolist() == [[0, 1, 2]]
    assert torch.arange(3.0)[no].shape == (0, 3) and torch.tensor(2.0)[no].shape == (0,)
    for key, expected, gradient in ((yes, 7.0, 0.0), (no, 1.0, 1.0)):
        x = torch.ones(2, requires_grad=True)
        y = x * 1
        y[key] = 7.0
        y.sum().backward()
        assert y.tolist() == [expected] * 2 and x.grad.tolist() == [gradient] * 2
        scalar = torch.tensor(1.0)
        scalar[key] = torch.tensor(7.0)
        assert scalar.item() == expected
        rows = torch.ones(2)
        rows[key] = torch.tensor([[7.0, 7.0]])
        assert rows.tolist() == [expected] * 2


def test_a_mask_without_axes_passes_gradients() -> None:
    x = torch.tensor(3.0, requires_grad=True)
    (x[torch.tensor(True)] * 2).sum().backward()
    x[torch.tensor(False)].sum().backward()
    assert x.grad.item() == 2


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp_of_a_number(dim: int, keepdim: bool) -> None:
    x = torch.tensor(-2.5, requires_grad=True)
    y = torch.logsumexp(x, dim, keepdim)
    y.backward()
    assert y.shape == () and y.item() == -2.5 and x.grad.item() == 1
    with pytest.raises(IndexError):
        torch.logsumexp(x, 1)


def test_trace_of_a_matrix_and_of_a_function() -> None:
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    y = torch.trace(x)
    y.backward()
    assert y.item() == 4 and x.grad.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert y.grad_fn.name() == "TraceBackward0"
    func = torch.trace(lambda a: a * 2, np.ones(3))
    assert [str(p.type) for p in func.params] == ["f64[3]"]
    with pytest.raises(RuntimeError, match="expected a matrix"):
        torch.trace(torch.ones(2))


def test_hooks_run_in_the_order_of_their_registration() -> None:
    order: list[str] = []

    def hook(name: str, factor: float) -> Any:
        def run(gradient: Any) -> Any:
            order.append(f"{name} {gradient.tolist()}")
            return gradient * factor

        return run

    for _ in range(2):  # the second time, operations and derivatives are known
        order.clear()
        x = torch.tensor(1.0, requires_grad=True)
        x.register_hook(hook("x1", 2))
        removed = x.register_hook(hook("x2", 100))
        x.register_hook(hook("x3", 3))
        removed.remove()
        y = x * 5
        y.register_hook(hook("y1", 7))
        z = y * 1
        z.register_hook(hook("z1", 10))
        y.register_hook(hook("y2", 1))
        z.backward()
        assert order == ["z1 1.0", "y1 10.0", "y2 70.0", "x1 350.0", "x3 700.0"]
        assert x.grad.item() == 2100


def test_hooks_of_modules_and_of_an_optimizer_run_in_order() -> None:
    order: list[str] = []

    def noted(name: str) -> Any:
        return lambda *_: order.append(name)

    layer = torch.nn.Linear(1, 1)
    layer.register_forward_hook(noted("after"))
    layer.register_forward_pre_hook(noted("before 2"))
    layer.register_forward_pre_hook(noted("before 1"), prepend=True)
    layer.register_full_backward_pre_hook(noted("backward, before"))
    layer.register_full_backward_hook(noted("backward, after"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(noted("step, before"))
    optimizer.register_step_post_hook(noted("step, after"))
    for _ in range(2):
        order.clear()
        x = torch.ones(1, 1, requires_grad=True)
        layer(x).sum().backward()
        optimizer.step()
        assert order == [
            "before 1", "before 2", "after", "backward, before", "backward, after",
            "step, before", "step, after",
        ]  # fmt: skip
