"""``symgrad.func``: transforms of functions of tensors, nested and through modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import UsageError

import symgrad as torch
from symgrad import nn
from symgrad.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from symgrad.tensors import record

X = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)


def cubes(x: Any) -> Any:
    return (x**3).sum()


def test_gradients_of_gradients() -> None:
    assert grad(cubes)(X).tolist() == (3 * X**2).tolist()
    assert not grad(cubes)(X).requires_grad
    assert grad(grad(torch.sin))(X[0]).item() == pytest.approx(-np.sin(0.5))
    gradient, value = grad_and_value(cubes)(X)
    assert value.item() == cubes(X).item() and gradient.tolist() == (3 * X**2).tolist()
    parts, more = grad(lambda p, s: ((p["a"] * p["b"]).sum() * s, p["a"] + 1), has_aux=True)(
        {"a": X, "b": X * 2}, 3.0
    )
    assert parts["a"].tolist() == (6 * X).tolist() and parts["b"].tolist() == (3 * X).tolist()
    assert more.tolist() == (X + 1).tolist() and not more.requires_grad
    first, second = grad(lambda x, y: (x * y).sum(), argnums=(0, 1))(X, X + 1)
    assert first.tolist() == (X + 1).tolist() and second.tolist() == X.tolist()


def test_results_are_part_of_a_graph_that_leads_further() -> None:
    x, w = X.clone().requires_grad_(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    grad(lambda x: w * cubes(x))(x).sum().backward()
    assert x.grad.tolist() == (12 * X).tolist() and w.grad.item() == (3 * X**2).sum().item()
    with torch.no_grad():
        assert not grad(lambda x: w * cubes(x))(x).requires_grad


def test_jacobians_and_products() -> None:
    def f(x: Any, y: Any) -> Any:
        return x * y, (x * y[0]).sum()

    y = X + 1
    (to_x, to_y), (sum_x, sum_y) = jacrev(f, argnums=(0, 1))(X, y)
    np.testing.assert_array_equal(to_x.numpy(), np.diag(y))
    np.testing.assert_array_equal(to_y.numpy(), np.diag(X))
    assert sum_x.tolist() == [y[0].item()] * 3
    assert sum_y.tolist() == pytest.approx([X.sum().item(), 0, 0])
    np.testing.assert_allclose(hessian(cubes)(X).numpy(), np.diag(6 * X.numpy()))
    assert jacfwd(lambda x: x**2)(X).diagonal().tolist() == (2 * X).tolist()
    values, pushed = jvp(f, (X, y), (torch.ones_like(X), torch.zeros_like(X)))
    assert pushed[0].tolist() == y.tolist() and pushed[1].item() == pytest.approx(3 * y[0].item())
    assert values[0].tolist() == (X * y).tolist()
    _, pull = vjp(f, X, y)
    by_x, by_y = pull((torch.ones_like(X), torch.tensor(2.0, dtype=torch.float64)))
    assert by_x.tolist() == pytest.approx((y + 2 * y[0]).tolist())
    assert by_y[1:].tolist() == X[1:].tolist()


def test_batches() -> None:
    a = torch.arange(12.0).reshape(3, 4)
    assert vmap(torch.dot, in_dims=(0, None))(a, torch.ones(4)).tolist() == a.sum(1).tolist()
    assert vmap(lambda x: x * 2, in_dims=1, out_dims=1)(a).tolist() == (a * 2).tolist()
    table = vmap(vmap(lambda x, y: x * y, in_dims=(0, None)), in_dims=(None, 0))
    assert table(a[0], a[1]).tolist() == torch.outer(a[1], a[0]).tolist()
    named = vmap(lambda d: {"s": d["a"] + d["b"]}, in_dims=({"a": 0, "b": None},))
    assert named({"a": a, "b": a[0]})["s"].tolist() == (a + a[0]).tolist()
    assert vmap(vmap(grad(grad(cubes))))(a).tolist() == (6 * a).tolist()
    assert vmap(hessian(cubes))(a).diagonal(0, 1, 2).tolist() == (6 * a).tolist()
    assert vmap(lambda x: torch.ones(2))(a).shape == (3, 2)


def test_in_place_writes_of_an_example() -> None:
    def f(x: Any) -> Any:
        y = x * 1
        y[0] = x.sum()
        y[1:3].mul_(10)
        return y

    a = torch.arange(12.0).reshape(3, 4)
    assert vmap(f)(a).tolist() == [f(row).tolist() for row in a]


def test_derivatives_pass_through_batches_to_all_that_was_used() -> None:
    w = torch.ones(2, requires_grad=True)
    scaled, x = w * 3, torch.arange(6.0).reshape(3, 2).requires_grad_()
    y = vmap(lambda x: (x * scaled).sum() + w[0])(x * 2)
    assert y.grad_fn.name() == "AddBackward0"
    y.sum().backward()
    assert w.grad.tolist() == [39, 54] and x.grad.tolist() == [[6, 6]] * 3


def test_gradients_of_every_example_run_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    params = {name: p.detach() for name, p in model.named_parameters()}
    x, y = torch.rand(5, 3), torch.rand(5, 1)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return ((functional_call(model, params, (x[None],)) - y) ** 2).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    found = each(params, x, y)
    for i in range(5):
        alone = grad(loss)(params, x[i], y[i])
        for name in params:
            np.testing.assert_allclose(found[name][i].numpy(), alone[name].numpy(), 1e-5, 1e-6)
    programs = len(record.PROGRAMS.known)
    for _ in range(3):
        again = each(params, x + 1, y)
        again["0.weight"].tolist()
    assert len(record.PROGRAMS.known) <= programs + 1


def test_ensembles() -> None:
    models = [nn.Linear(3, 2) for _ in range(2)]
    params, buffers = stack_module_state(models)
    x = torch.rand(5, 3)
    found = vmap(lambda p, b, x: functional_call(models[0], (p, b), (x,)), (0, 0, None))(
        params, buffers, x
    )
    for model, y in zip(models, found, strict=True):
        np.testing.assert_allclose(y.detach().numpy(), model(x).detach().numpy(), 1e-6)
    found.sum().backward()
    assert params["weight"].grad.shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: grad(lambda x: x * 2)(X), RuntimeError, "Expected f.*got tensor with 1 dims"),
        (lambda: grad(cubes)(torch.arange(3)), RuntimeError, "floating-point tensors"),
        (lambda: grad(cubes, argnums=1)(X), RuntimeError, "Got argnum=1, but only 1"),
        (lambda: vmap(lambda x: x.item())(X), UsageError, "looked at inside vmap"),
        (lambda: vmap(lambda x: x if x > 0 else -x)(X), UsageError, "looked at inside vmap"),
        (lambda: vmap(lambda x: 3)(X), ValueError, "must only return Tensors, got type"),
        (lambda: vmap(lambda x: x, in_dims=2)(X), ValueError, "Tensor of dimensionality 1"),
        (lambda: vmap(lambda x, y: x)(X, X[:2]), ValueError, "same size in the mapped"),
        (lambda: vmap(lambda x: x, in_dims=None)(X), ValueError, "must have a batch axis"),
        (lambda: vmap(lambda x: x * torch.rand(2))(X), RuntimeError, "randomness error mode"),
        (lambda: functional_call(nn.Linear(1, 1), {"w": X}, X), RuntimeError, "unexpected key"),
    ],
)
def test_refusals(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
