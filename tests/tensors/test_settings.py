"""What programs written for PyTorch ask and set besides computing; comparison of results."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import symgrad as torch
from symgrad import nn
from symgrad.testing import assert_close


def test_a_device_is_chosen_as_usual() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Linear(2, 1).to(device)
    torch.cuda.manual_seed_all(0)
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high")
    assert not torch.backends.mps.is_available() and torch.cuda.device_count() == 0
    x = torch.ones(1, 2, device=device)
    assert torch.equal(torch.compile(model)(x), model(x))
    assert torch.compile(fullgraph=True)(model) is model
    with torch.autocast("cuda", dtype=torch.float16), torch.autocast("cpu", enabled=False):
        assert model(x).dtype is torch.float32
    with pytest.raises(NotImplementedError, match="autocast"), torch.autocast("cpu"):
        pass


def test_pickled_and_copied() -> None:
    x = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    y = pickle.loads(pickle.dumps(x))
    assert y.requires_grad and y.tolist() == x.tolist()
    model = pickle.loads(pickle.dumps(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))))
    assert isinstance(model[0].weight, nn.Parameter) and model(torch.rand(4, 2)).shape == (4, 3)
    alias = copy.copy(x)
    x.data.zero_()
    assert alias.requires_grad and not alias.any() and y.any()


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.ones(2), torch.ones(2) + 1e-6),
        (1.0, 1.0 + 1e-8),
        ({"a": [torch.ones(2)], "b": 2}, {"b": 2, "a": [torch.ones(2)]}),
        (torch.tensor([True]), torch.tensor([True])),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
    ],
)
def test_close(actual: Any, expected: Any) -> None:
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected", "text"),
    [
        (torch.ones(2), torch.tensor([1.0, 1.1]), r"Mismatched elements: 1 / 2 \(50\.0%\)"),
        (torch.ones(2), torch.ones(3), r"'shape' do not match: torch\.Size\(\[2\]\) != "),
        (torch.ones(2), torch.ones(2).double(), "'dtype' do not match: torch.float32 != torch.f"),
        (torch.tensor([1]), torch.tensor([2]), "Tensor-likes are not equal"),
        (float("nan"), float("nan"), "Scalars are not close"),
        ([torch.ones(2), 1.0], [torch.ones(2), 2.0], r"failure occurred for item \[1\]"),
        ({"a": 1}, {"b": 1}, "Missing keys in the actual mapping: .'b'"),
        ([1], [1, 2], "length of the sequences mismatch: 1 != 2"),
    ],
)
def test_not_close(actual: Any, expected: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        assert_close(actual, expected)


def test_tolerances_and_messages() -> None:
    assert_close(torch.ones(2), torch.ones(2) + 0.01, rtol=0.02, atol=0)
    assert_close(torch.tensor(float("nan")), torch.tensor(float("nan")), equal_nan=True)
    assert_close(torch.ones(2), torch.ones(2).double(), check_dtype=False)
    with pytest.raises(AssertionError, match=r"^mine$"):
        assert_close(1.0, 2.0, msg="mine")
    with pytest.raises(ValueError, match="both be specified"):
        assert_close(1.0, 1.0, rtol=1.0)
    with pytest.raises(TypeError, match="No comparison pair"):
        assert_close(torch.ones(1), 1.0)
