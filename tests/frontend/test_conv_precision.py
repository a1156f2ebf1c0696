"""The precision of convolutions is a choice of the process or of one function."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from symgrad.codegen import precision

import symgrad as sg
from symgrad.nn import functional as F

X = np.random.default_rng(0).standard_normal((2, 32, 16, 16)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((32, 32, 3, 3)).astype(np.float32)


def convolve(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return F.conv2d(x, w, padding=1)


def error(y: np.ndarray) -> float:
    exact = sg.jit(convolve)(X.astype(np.float64), W.astype(np.float64))
    return float(np.abs(y - exact).max() / np.abs(exact).max())


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SYMGRAD_CONV_PRECISION", raising=False)
    before = sg.get_conv_precision()
    yield
    sg.set_conv_precision(before)


def test_high_is_more_exact() -> None:
    default = sg.jit(convolve)(X, W)
    high = sg.jit(convolve, conv_precision="high")(X, W)
    assert 3e-7 < error(default) < 4e-6
    assert error(high) < 6e-7
    np.testing.assert_array_equal(sg.jit(convolve, conv_precision="default")(X, W), default)


def test_the_process_compiles_anew() -> None:
    f = sg.jit(convolve)
    default = f(X, W)
    tensors = sg.tensor(X), sg.tensor(W)
    default_tensor = F.conv2d(*tensors, padding=1).numpy()
    sg.set_conv_precision("high")
    assert sg.get_conv_precision() == "high"
    high = f(X, W)
    assert error(high) < 6e-7
    assert not np.array_equal(high, default)
    np.testing.assert_array_equal(F.conv2d(*tensors, padding=1).numpy(), high)
    np.testing.assert_array_equal(default_tensor, default)


def test_the_environment_decides_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_chosen", [])
    assert sg.get_conv_precision() == "default"
    monkeypatch.setenv("SYMGRAD_CONV_PRECISION", "high")
    assert sg.get_conv_precision() == "high"
    monkeypatch.setenv("SYMGRAD_CONV_PRECISION", "huge")
    with pytest.raises(ValueError, match="SYMGRAD_CONV_PRECISION: a precision is 'default' or"):
        sg.get_conv_precision()
    monkeypatch.delenv("SYMGRAD_CONV_PRECISION")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="jit: a precision is 'default' or 'high', got 'best'"):
        sg.jit(convolve, conv_precision="best")
    with pytest.raises(ValueError, match="set_conv_precision"):
        sg.set_conv_precision("low")
