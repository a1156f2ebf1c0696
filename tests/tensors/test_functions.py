"""Functions under torch's names: values against NumPy, gradients against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch

A = np.array([[0.3, -1.2, 2.5], [1.7, 0.4, -0.6]])
B = np.array([[1.1, 0.7, -0.8], [-0.3, 2.2, 0.9]])

CASES: dict[str, tuple[Any, Any]] = {
    "sum": (lambda x, y: x.sum(1, keepdim=True), lambda a, b: a.sum(1, keepdims=True)),
    "mean": (lambda x, y: x.mean((0, 1)), lambda a, b: a.mean()),
    "prod": (lambda x, y: x.prod(1), lambda a, b: a.prod(1)),
    "var": (lambda x, y: x.var(1), lambda a, b: a.var(1, ddof=1)),
    "std": (lambda x, y: x.std(0, unbiased=False), lambda a, b: a.std(0)),
    "max": (lambda x, y: x.max(1).values, lambda a, b: a.max(1)),
    "norm": (lambda x, y: x.norm(dim=1), lambda a, b: np.linalg.norm(a, axis=1)),
    "cumsum": (lambda x, y: x.cumsum(1), lambda a, b: a.cumsum(1)),
    "add": (lambda x, y: torch.add(x, y, alpha=3), lambda a, b: a + 3 * b),
    "rsub": (lambda x, y: 2 - x, lambda a, b: 2 - a),
    "rdiv": (lambda x, y: 2 / (x * x + 1), lambda a, b: 2 / (a * a + 1)),
    "pow": (lambda x, y: (x * x + 1) ** y, lambda a, b: (a * a + 1) ** b),
    "rpow": (lambda x, y: 2**x, lambda a, b: 2**a),
    "atan2": (torch.atan2, np.arctan2),
    "maximum": (torch.maximum, np.maximum),
    "remainder": (lambda x, y: x % 0.7, lambda a, b: a % 0.7),
    "where": (lambda x, y: torch.where(x > y, x * 2, y), lambda a, b: np.where(a > b, a * 2, b)),
    "clamp": (lambda x, y: x.clamp(-1, 1), lambda a, b: a.clip(-1, 1)),
    "sigmoid": (lambda x, y: x.sigmoid(), lambda a, b: 1 / (1 + np.exp(-a))),
    "log_softmax": (
        lambda x, y: x.log_softmax(1),
        lambda a, b: a - np.log(np.exp(a).sum(1, keepdims=True)),
    ),
    "logsumexp": (lambda x, y: x.logsumexp(0), lambda a, b: np.log(np.exp(a).sum(0))),
    "matmul": (lambda x, y: x @ y.T, lambda a, b: a @ b.T),
    "batched": (
        lambda x, y: x.reshape(2, 1, 3) @ y.reshape(2, 3, 1),
        lambda a, b: a.reshape(2, 1, 3) @ b.reshape(2, 3, 1),
    ),
    "einsum": (lambda x, y: torch.einsum("ij,kj->ik", x, y), lambda a, b: a @ b.T),
    "outer": (lambda x, y: torch.outer(x[0], y[1]), lambda a, b: np.outer(a[0], b[1])),
    "permute": (lambda x, y: x.permute(1, 0) * 2, lambda a, b: a.T * 2),
    "expand": (lambda x, y: x[:, :1].expand(-1, 4), lambda a, b: np.repeat(a[:, :1], 4, 1)),
    "repeat": (lambda x, y: x.repeat(2, 1), lambda a, b: np.tile(a, (2, 1))),
    "squeeze": (lambda x, y: x.unsqueeze(1).squeeze() + 1, lambda a, b: a + 1),
    "cat": (lambda x, y: torch.cat([x, y], 1), lambda a, b: np.concatenate([a, b], 1)),
    "stack": (lambda x, y: torch.stack([x, y], 1), lambda a, b: np.stack([a, b], 1)),
    "split": (lambda x, y: x.split([1, 2], 1)[1] * 2, lambda a, b: a[:, 1:] * 2),
    "unbind": (lambda x, y: x.unbind(1)[2], lambda a, b: a[:, 2]),
    "tril": (lambda x, y: x.tril(), lambda a, b: np.tril(a)),
    "flip": (lambda x, y: x.flip(1), lambda a, b: a[:, ::-1]),
    "roll": (lambda x, y: x.roll(1, 1), lambda a, b: np.roll(a, 1, 1)),
    "mask": (lambda x, y: x[y > 0], lambda a, b: a[b > 0]),
    "masked_fill": (lambda x, y: x.masked_fill(y > 0, 4.0), lambda a, b: np.where(b > 0, 4.0, a)),
    "index": (lambda x, y: x[:, [2, 0, 0]], lambda a, b: a[:, [2, 0, 0]]),
    "gather": (
        lambda x, y: x.gather(1, torch.tensor([[2], [0]])),
        lambda a, b: np.take_along_axis(a, np.array([[2], [0]]), 1),
    ),
    "index_select": (
        lambda x, y: x.index_select(1, torch.tensor([1, 1])),
        lambda a, b: a[:, [1, 1]],
    ),
    "sort": (lambda x, y: x.sort(1).values, lambda a, b: np.sort(a, 1)),
    "addmm": (
        lambda x, y: torch.addmm(x[:, :2], x, y.T, alpha=2),
        lambda a, b: a[:, :2] + 2 * a @ b.T,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    function, reference = CASES[name]
    x, y = (torch.tensor(v, requires_grad=True) for v in (A, B))
    result = function(x, y)
    expected = reference(A, B)
    assert result.dtype is torch.float64 and result.shape == np.shape(expected)
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-12)
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape)
    result.backward(torch.tensor(weights))
    for number, (tensor, at) in enumerate(((x, A), (y, B))):
        if tensor.grad is None:
            continue
        for place in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[place] = 1e-6
            ends = [(A + s * step, B) if number == 0 else (A, B + s * step) for s in (1, -1)]
            high, low = (np.sum(weights * reference(*e)) for e in ends)
            assert tensor.grad[place].item() == pytest.approx((high - low) / 2e-6, abs=1e-6)


PROMOTED = [  # as torch 2.13 has it
    (lambda: torch.arange(3) * 1.0, "float32"),
    (lambda: torch.arange(3) * 2, "int64"),
    (lambda: torch.arange(3) / 2, "float32"),
    (lambda: torch.arange(3) + torch.ones(3), "float32"),
    (lambda: torch.ones(3, dtype=torch.float64) + torch.ones(3), "float64"),
    (lambda: torch.ones(3) + torch.tensor(1.0, dtype=torch.float64), "float32"),
    (lambda: torch.arange(3) + torch.tensor(1.5), "float32"),
    (lambda: torch.tensor(True) + 1, "int64"),
    (lambda: torch.tensor([True]).sum(), "int64"),
    (lambda: torch.ones(2, dtype=torch.int32) + 1, "int32"),
    (lambda: torch.ones(2, dtype=torch.int32).sum(), "int64"),
    (lambda: torch.ones(2, dtype=torch.uint8) + torch.ones(2, dtype=torch.int8), "int16"),
    (lambda: torch.arange(3).sqrt(), "float32"),
    (lambda: torch.arange(3) == 1, "bool"),
    (lambda: torch.ones(2, dtype=torch.float16) + 1.5, "float16"),
    (lambda: torch.arange(4) // 3, "int64"),
    (lambda: torch.tensor([1, 2]) ** 2, "int64"),
    (lambda: torch.ones(2).argmax(), "int64"),
]


@pytest.mark.parametrize("number", range(len(PROMOTED)))
def test_promotion(number: int) -> None:
    make, name = PROMOTED[number]
    assert make().dtype.name == name


def test_seeds_repeat() -> None:
    torch.manual_seed(3)
    first = torch.randn(5).tolist()
    torch.manual_seed(3)
    assert torch.randn(5).tolist() == first
    assert sorted(torch.randperm(9).tolist()) == list(range(9))
