"""Functions written with tensors' methods and functions under ``jit`` and ``grad``: as eagerly.

They are held against themselves on tensors, whose results are tested against PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import TraceError, UsageError

import symgrad as torch
from symgrad import nn, tree

W = torch.tensor(np.random.default_rng(0).normal(size=(4, 3)).astype("f4"))
K = torch.arange(4)
X = torch.tensor(np.random.default_rng(1).normal(size=(4, 3)).astype("f4"))
I = torch.tensor([3, 1, 2])  # noqa: E741
LAYER = nn.Linear(3, 3)


def written(x: Any) -> Any:
    x = x.clone()
    x.add_(1).mul_(2)
    x.view(-1)[0] = 5.0
    x[:, 1:].t()[1] = 7.0
    x[0] += 1
    return x, x.relu_()


def in_a_loop(x: Any) -> Any:
    h = torch.zeros(3)
    sums = []
    for row in x:
        h = torch.tanh(LAYER(h) + row)
        sums.append(h.sum(dim=-1))
    return h, torch.stack(sums)


def in_a_scan(x: Any) -> Any:
    def step(h: Any, row: Any) -> Any:
        h = torch.tanh(LAYER(h) + row)
        return h, h.sum(dim=-1)

    return torch.scan(step, torch.zeros(3), x)


FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "functions": (
        lambda x: (
            torch.tanh(x), torch.mean((torch.tanh(x @ W.T) - 1) ** 2), torch.logsumexp(x, dim=1),
            torch.einsum("ij,kj->ik", x, W), torch.cat([x, W], dim=0), torch.stack([x, x]),
            torch.where(x > 0, x, 0 * x), torch.zeros_like(x) + 1, torch.linalg.norm(x),
            torch.nn.functional.mse_loss(x, W), torch.mm(x, W.T), torch.add(W, x, alpha=2),
        ),
        X,
    ),
    "methods": (
        lambda x: (
            x.tanh(), x.pow(2).mean(), x.unsqueeze(0).expand(2, -1, -1), x.softmax(-1).log(),
            x.chunk(2, dim=0)[0], x.masked_fill(x > 0, 1.0), x.permute(1, 0), x.norm(dim=1),
            x.view(x.size(0), -1), x.view(2, -1), x.type_as(K), x.double(), x.new_zeros(3),
            x.to(torch.float64), x.numel(), x.dim(), x.size(1), W.mm(x.T), W.mul(x), x.topk(2),
            x.gather(1, torch.tensor([[0], [2], [1], [1]])), x.detach() * x, x.data,
        ),
        X,
    ),
    "names that arrays have, too": (
        lambda x: (
            x.max(1), x.min(dim=0), x.max(), x.std(), x.var(0), x.repeat(2, 1), x.transpose(0, 1),
            x.flatten(0), x.sum(dim=1, keepdim=True), x.sort(dim=1), x.argsort(1, True), x.T,
            x.mean(dim=(0, 1)), x.argmax(dim=1), x.cumsum(1), x.any(), x.all(dim=0), x.flatten(),
            x.std(unbiased=False), x.var(dim=1, keepdim=True), x.reshape(-1, 2), x.squeeze(),
        ),
        X,
    ),
    "promotion": (
        lambda x: (
            (x > 0) * 0.5 * x, (x > 0) / 2, (x > 0) + (x < 1), ~(x > 0), (x > 0).sum() / len(x),
            K * x[:, 0], x[:, 0] * K, K.to(x.dtype) * x[:, 1], x.dtype == torch.float32,
            x * torch.ones((), dtype=torch.float64),
        ),
        X,
    ),
    "integers": (
        lambda i: (
            i / 2, i * 1.5, i // 2, i % 3, i + 1, i**2, -i, i == 1, i.float() / 3,
            i * torch.ones(3), 2 / i, 7 - i, i << 1, i & 1, i.sum(),
        ),
        I,
    ),
    "operators": (
        lambda x: (
            W + x, W * x, x * W, W @ x.T, W / x, 2 - W * x, x**2, 2**x, x // 0.3, x % 0.3, abs(x)
        ),
        X,
    ),
    "bfloat16": (
        lambda x: (
            x * 0.5 + 1, x + x, (x > 0) * x, 2 / x, x @ x.T, -x, x.tanh(), x.sum(), x.mean(0),
            x.max(1), x + torch.ones(3), torch.nn.functional.relu(x), x.float() * 0.1,
        ),
        X.bfloat16(),
    ),
    "written to": (written, X),
    "bfloat16 written to": (written, X.bfloat16()),
    "loop": (in_a_loop, X),
    "NumPy in between": (lambda x: torch.tanh(np.maximum(x, 0)).max(0), X),
}  # fmt: skip


def assert_same(found: Any, expected: Any) -> None:
    (leaves, _), (others, _) = tree.flatten(found), tree.flatten(expected)
    assert len(leaves) == len(others)
    for a, b in zip(leaves, others, strict=True):
        if isinstance(b, torch.Tensor):
            assert isinstance(a, torch.Tensor)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            torch.testing.assert_close(a.detach(), b.detach())
        else:
            assert a == b


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "NumPy in between"])
def test_compiled_as_eagerly(name: str) -> None:
    function, argument = FUNCTIONS[name]
    with torch.no_grad():
        assert_same(torch.jit(function)(argument.clone()), function(argument.clone()))


def test_numpy_functions_in_between() -> None:
    function, argument = FUNCTIONS["NumPy in between"]
    assert_same(torch.jit(function)(argument), torch.tanh(argument.clamp(min=0)).max(0))


def test_a_scan_is_the_loop() -> None:
    with torch.no_grad():
        assert_same(torch.jit(in_a_scan)(X), in_a_loop(X))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: ((x @ W.T).tanh() - 1).pow(2).mean(),
        lambda x: torch.logsumexp(x @ W.T, dim=1).sum() + x.max(1).values.sum(),
        lambda x: x.std() * x.var(dim=0).sum() + torch.cat([x, W]).softmax(-1)[:, 0].sum(),
        lambda x: (x.detach() * x).sum() + x.view(-1)[::2].norm(),
        lambda x: in_a_loop(x)[1].sum(),
        lambda x: written(x)[0].sum() * x.mean(),
    ],
)
def test_gradients_as_backward_gives_them(loss: Callable[[Any], Any]) -> None:
    x = X.clone().requires_grad_()
    loss(x).backward()
    assert_same(torch.grad(loss)(X), x.grad)


def test_gradients_in_bfloat16() -> None:
    for loss in (lambda x: written(x)[0].sum(), lambda x: ((x * 0.5).tanh() * x).sum()):
        x = X.bfloat16().requires_grad_()
        loss(x).backward()
        assert_same(torch.grad(loss)(X.bfloat16()), x.grad)


def test_arrays_stay_arrays() -> None:
    array = np.asarray(X)
    found = torch.jit(lambda x: torch.tanh(x).std())(array)
    assert isinstance(found, np.float32)
    np.testing.assert_allclose(found, np.tanh(array).std(), rtol=1e-6)  # as arrays have it


def test_no_grad_stops_derivatives() -> None:
    def loss(x: Any) -> Any:
        with torch.no_grad():
            fixed = torch.exp(x)
        return (fixed * x).sum()

    def unseen(x: Any) -> Any:
        y = x * 2
        with torch.no_grad():
            y[0] = np.exp(x[1])
            y.add_(1)
            z = x * 3 + y.sum(dim=0) + np.maximum(x, 0)
        return (y * y).sum() + (z * x).sum()

    for function in (loss, unseen):
        x = X.clone().requires_grad_()
        if function is loss:
            function(x).backward()
            assert_same(torch.grad(function)(X), x.grad)
        with torch.no_grad():
            found = torch.grad(function)(X)
        y = X * 2
        y[0] = torch.exp(X[1])
        y += 1
        z = X * 3 + y.sum(0) + X.clamp(min=0)
        assert_same(found, torch.exp(X) if function is loss else 4 * y + z)


def test_values_cannot_be_looked_at() -> None:
    with pytest.raises(UsageError, match="not known while tracing"):
        torch.jit(torch.nonzero)(X)
    with pytest.raises(TraceError, match="truth value"):
        torch.jit(lambda x: x.relu() if x.mean() > 0 else x)(X)
    for name in ("backward", "requires_grad_", "grad"):
        with pytest.raises(UsageError, match=rf"{name}: derivatives in functions that are traced"):
            torch.jit(lambda x, name=name: getattr(x.sum(), name)())(X)
    with pytest.raises(AttributeError, match="no attribute 'unsqueeeze'"):
        torch.jit(lambda x: x.unsqueeeze(0))(X)


def test_what_nobody_could_follow_raises() -> None:
    """A view of a view cannot be written to in another function than the one that made it."""

    def f(x: Any) -> Any:
        x = x.clone()
        x.t().diagonal().copy_(torch.zeros(3))
        return x

    with torch.no_grad():
        assert_same(torch.jit(f)(X), f(X))
