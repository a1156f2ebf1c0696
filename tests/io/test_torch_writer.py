"""Checkpoints: what ``symgrad.save`` writes is read back, here and by PyTorch."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symgrad as sg
from symgrad import nn, optim
from symgrad.io import WeightsError


def checkpoint() -> dict[str, Any]:
    sg.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    model(sg.rand(5, 3)).sum().backward()
    optimizer.step()
    weight = sg.arange(6.0).reshape(2, 3).T
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "numbers": [2**40, -(2**70), 255, -1, 1e-3, float("inf"), True, None],
        "pair": ("x", "ä€", OrderedDict(a=1)),
        "kinds": [sg.tensor([1, 2], dtype=getattr(sg, t)) for t in ("int8", "uint8", "float16")],
        "bools": sg.tensor([True, False]),
        "number": sg.tensor(2.5, dtype=sg.float64),
        "empty": sg.zeros(0, 3),
        "tied": [weight, weight],
        "view": weight[1:],
        "dtype": sg.float16,
    }


def compare(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            compare(found[key], value)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            compare(a, b)
    elif isinstance(wanted, sg.Tensor):
        assert str(found.dtype) == str(wanted.dtype) and tuple(found.shape) == tuple(wanted.shape)
        np.testing.assert_array_equal(found.detach().numpy(), wanted.detach().numpy())
    else:
        assert str(found) == str(wanted)


def test_round_trip(tmp_path: Path) -> None:
    state = checkpoint()
    sg.save(state, tmp_path / "c.pt")
    found = sg.load(tmp_path / "c.pt", map_location="cpu", weights_only=True)
    compare(found, state)
    assert found["tied"][0] is found["tied"][1]
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = optim.Adam(model.parameters())
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    compare(optimizer.state_dict(), state["optimizer"])


def test_open_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    sg.save([sg.ones(2), "x"], buffer)
    buffer.seek(0)
    compare(sg.load(buffer), [sg.ones(2), "x"])
    with open(tmp_path / "t.pt", "wb") as file:
        sg.save(sg.arange(3), file)
    with open(tmp_path / "t.pt", "rb") as file:
        assert sg.load(file).tolist() == [0, 1, 2]
    with pytest.raises(WeightsError, match="the open file: truncated or damaged"):
        sg.load(io.BytesIO(buffer.getvalue()[:100]))


def test_models_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot write a Linear: .*model\.state_dict\(\)"):
        sg.save({"m": nn.Linear(1, 1)}, tmp_path / "m.pt")
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(WeightsError, match="nested too deep"):
        sg.save(loop, tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_pytorch_reads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = checkpoint() | {"parameter": nn.Parameter(sg.ones(2)), "size": sg.Size([2, 3])}
    sg.save(state, tmp_path / "c.pt")
    found = torch.load(tmp_path / "c.pt", weights_only=True)
    assert isinstance(found["parameter"], torch.nn.Parameter)
    assert found["size"] == torch.Size([2, 3])
    compare(found, state)
