"""Tensors whose text is compared with PyTorch's: expressions in torch code."""

from __future__ import annotations

from typing import Any

TEXTS = """
torch.tensor([1e-8, 1.0]); torch.tensor([1e10, 1.0]); torch.tensor([[1.0, nan], [inf, -inf]])
torch.arange(1200).reshape(30, 40); torch.arange(1200.).reshape(2, 20, 30) / 7; torch.zeros(0)
torch.zeros(2, 0, 3); torch.zeros(0, dtype=torch.int64); torch.tensor([True, False])
torch.tensor([[1, -200], [3000, 4]], dtype=torch.int16); torch.tensor(3.5, dtype=torch.float64)
torch.tensor([0.1] * 30); torch.tensor([nan]); torch.tensor([inf, 1.5]); torch.tensor([0., 0.])
torch.tensor([1e-5, 0.]); torch.tensor([-0.0, 1.]); torch.tensor(1e20); torch.tensor([1.5, 1e6])
torch.tensor([1., 1e6]); torch.tensor([1, 2], dtype=torch.uint8); torch.ones(2, 2, 2, 2)
torch.ones(3, requires_grad=True) * 2; torch.tensor([0.001, 123.4]); torch.ones(1001)
torch.eye(3, dtype=torch.float16); torch.max(torch.tensor([[1., 2.]]), 1); torch.ones(3, 400)
torch.tensor([2. ** 31]); torch.tensor([123456., 1.5]); torch.tensor([99999999.])
torch.tensor([100000000., 1]); torch.ones(2, 3, requires_grad=True); torch.zeros(2, 2)[0]
torch.ones(2, requires_grad=True)[0]; torch.ones(30, requires_grad=True) * 1.5
"""
OPTIONS: list[dict[str, Any]] = [
    {}, {"precision": 2}, {"sci_mode": True}, {"sci_mode": False}, {"profile": "short"},
    {"edgeitems": 2, "threshold": 5, "linewidth": 30}, {"profile": "full"},
]  # fmt: skip


def texts(torch: Any) -> list[list[str]]:
    """The text of every expression under each set of print options."""
    names = {"torch": torch, "nan": float("nan"), "inf": float("inf")}
    parts = [p.strip() for line in TEXTS.strip().splitlines() for p in line.split(";")]
    tensors = [eval(p, names) for p in parts]
    found = []
    for options in OPTIONS:
        torch.set_printoptions(profile="default")
        torch.set_printoptions(**options)
        found.append([repr(t) for t in tensors])
    torch.set_printoptions(profile="default")
    return found
