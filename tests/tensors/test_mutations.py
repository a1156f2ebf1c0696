"""Saved values changed by every road: as PyTorch, or safer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import symgrad as torch

sys.path.insert(0, str(Path(__file__).parent))
import mutations

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "tensor_mutations.json").read_text())
UNSEEN = {
    "x.data.add_(1)",
    "x.detach().numpy().__setitem__(0, 7.0)",
    "x.data[0] = 4.0",
    "np.from_dlpack(x.detach()).__setitem__(0, 7.0)",
    "torch.from_dlpack(x.detach()).add_(1)",
}
"""Changes of a leaf that PyTorch does not see: there its gradient mixes old and new values."""
RESULT = {"z.add_(1)", "z.zero_() if z.ndim == 0 else z[0].zero_()"}
"""Changes of a result that PyTorch's derivative reads; ours reads the operands, as they were."""


def _is_safer(operation: str, road: str) -> bool:
    if road in UNSEEN:
        return operation == "y / x"
    return road in RESULT and operation in ("y.prod()", "y.std()", "y.cumprod(0)")


@pytest.mark.parametrize("road", RECORDED)
def test_road(road: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    for operation, expected in zip(
        mutations.listed(mutations.OPERATIONS), RECORDED[road], strict=True
    ):
        if _is_safer(operation, road):
            continue
        got = mutations.outcome(torch, np, operation, road)
        if isinstance(expected[0], str) or isinstance(got[0], str):
            assert got == expected, operation
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=operation)


@pytest.mark.parametrize("road", sorted(UNSEEN))
def test_an_unseen_change_raises_or_gives_the_gradient_of_what_was_used(
    road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    got = mutations.outcome(torch, np, "y / x", road)
    raised = got[0] == "RuntimeError" and got[1].startswith("one of the variables needed")
    assert raised or got == [0, 0, 0]


@pytest.mark.parametrize("road", sorted(RESULT))
def test_a_changed_result_leaves_the_derivative_right(
    road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    x = np.array([0.7, 1.3, 1.9])
    others = np.array([x[1] * x[2], x[0] * x[2], x[0] * x[1]])
    got = mutations.outcome(torch, np, "y.prod()", road)
    np.testing.assert_allclose(got, others if road == "z.add_(1)" else 0 * others)


@pytest.mark.parametrize("foreign", ["array", "tensor"])
def test_memory_lent_by_dlpack_is_written_and_read_both_ways(foreign: str) -> None:
    x = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    lent = (np if foreign == "array" else torch).from_dlpack(x.detach())
    for _ in range(2):
        y = x / x.detach()
        lent[1] = lent[1] * 2
        assert (x * 1).tolist() == x.tolist() == lent.tolist()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    with torch.no_grad():
        x.mul_(10)
    assert lent.tolist() == [10, 80, 40]
    (x * x).sum().backward()
    assert x.grad.tolist() == [20, 160, 80]
