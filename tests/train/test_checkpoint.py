"""A checkpoint brings everything back bit by bit, or says in one line why it cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symgrad.io import WeightsError, save
from symgrad.train.checkpoint import Checkpoint, Progress, mismatch
from symgrad.train.plot import plot_history


def checkpoint() -> Checkpoint:
    rng = np.random.default_rng(0)
    parameters = {"fc.weight": rng.standard_normal((3, 5), np.float32), "fc.bias": np.ones(3)}
    progress = Progress(
        epoch=2, batch=17, seed=5, settings={"lr": 0.1, "data": "digits"},
        history=[{"loss": 0.1 + 0.2, "accuracy": 1 / 3}, {"loss": float("nan"), "rate": 1e-308}],
    )  # fmt: skip
    state = {"bn.running_mean": np.float32([np.nan, -0.0, 1e-45]), "count": np.array(3)}
    return Checkpoint(parameters, state, {"fc.weight": parameters["fc.weight"] / 3}, progress)


def test_round_trip(tmp_path: Path) -> None:
    old = checkpoint()
    old.save(tmp_path / "run.safetensors")
    new = Checkpoint.load(tmp_path / "run.safetensors", expected=old.parameters)
    assert repr(new.progress) == repr(old.progress)
    for group in ("parameters", "state", "momentum"):
        before, after = getattr(old, group), getattr(new, group)
        assert before.keys() == after.keys()
        for name, array in before.items():
            assert array.dtype == after[name].dtype
            assert array.shape == after[name].shape
            assert array.tobytes() == after[name].tobytes()


def test_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint().save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WeightsError, match="the disk is full"):
        Checkpoint({}, {}, {}, Progress()).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_other_files(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save({"fc.weight": np.ones(3)}, weights)
    with pytest.raises(WeightsError, match=r"w\.safetensors: not a checkpoint of a training run"):
        Checkpoint.load(weights)
    save({"fc.weight": np.ones(3)}, weights, {"symgrad.checkpoint": "{}"})
    with pytest.raises(WeightsError, match="a checkpoint of another version"):
        Checkpoint.load(weights)
    with pytest.raises(WeightsError, match="no such file"):
        Checkpoint.load(tmp_path / "missing.safetensors")
    checkpoint().save(weights)
    with pytest.raises(WeightsError, match=r"of another model: 'fc\.bias' has shape \[3\]"):
        Checkpoint.load(weights, {"fc.weight": np.ones((3, 5)), "fc.bias": np.ones(4)})


def test_mismatch() -> None:
    one, two = np.ones(1), np.ones(2)
    assert mismatch({"a": one}, {"a": one}) is None
    assert mismatch({}, {"a": one, "b": one}) == "'a' is missing (and 1 more)"
    assert mismatch({"a": one, "b": one}, {"a": one}) == "'b' is not in the model"
    assert mismatch({"a": one}, {"a": two}) == "'a' has shape [1], the model [2]"


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "curves.png"
    losses = {"training": [2.0, 0.5, 0.1], "held out": [1.9, 0.6, 0.3]}
    plot_history(path, "digits", losses, {"held out": [0.4, 0.9, 0.98]})
    with image.open(path) as picture:
        assert picture.size == (1500, 600)
        assert len(picture.convert("RGB").getcolors(1 << 16)) > 20
    plot_history(path, "nothing yet", {"training": []}, {"held out": []})
    plot_history(path, "one epoch", {"training": [0.0]}, {"held out": [1.0]})
    with pytest.raises(Exception, match="cannot write: no such file or directory"):
        plot_history(tmp_path / "missing" / "curves.png", "digits", losses, {})
