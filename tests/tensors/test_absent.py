"""Names that PyTorch has and symgrad has not are refused with a remedy."""

from __future__ import annotations

from typing import Any

import pytest

import symgrad as torch
from symgrad import nn, optim
from symgrad.nn import functional as F

NAMES: list[tuple[str, str]] = [
    ("torch.stft", "'stft': there are no complex numbers"),
    ("torch.complex64", "there are no complex numbers"),
    ("torch.sparse_coo_tensor", "there are no sparse tensors; use dense ones"),
    ("torch.cnv2d", r"module 'symgrad' has no attribute 'cnv2d'; did you mean conv2d"),
    ("torch.linalg.eig", r"namespace 'symgrad.linalg' has no attribute 'eig': .* linalg.eigh"),
    ("torch.ones(2).cuda()", r"'Tensor' object has no attribute 'cuda': .* write x.to\(device\)"),
    ("torch.ones(2).untyped_storage()", r"x.numpy\(\) shares the memory"),
    ("nn.SyncBatchNorm", "use nn.BatchNorm2d"),
    ("F.cros_entropy", "did you mean cross_entropy"),
    ("optim.Zebra", r"module 'symgrad.optim' has no attribute 'Zebra'; where it is PyTorch's"),
]


@pytest.mark.parametrize(("name", "text"), NAMES)
def test_names(name: str, text: str) -> None:
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "optim": optim}
    with pytest.raises(AttributeError, match=text):
        eval(name, names)


def test_asking_is_no_error() -> None:
    assert not hasattr(torch.ones(1), "untyped_storage")
    assert getattr(torch, "sparse_coo_tensor", None) is None
    assert not hasattr(nn, "_private") and not hasattr(torch.linalg, "eig")
