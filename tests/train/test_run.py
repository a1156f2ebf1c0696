"""Whole training runs on a few small images: interrupting, resuming, failing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from PIL import Image
from symgrad.ir.errors import UsageError

from symgrad.io import load, save
from symgrad.io.errors import FileError, WeightsError
from symgrad.train.checkpoint import Checkpoint, Progress
from symgrad.train.data import DataError
from symgrad.train.run import CHECKPOINT, CURVES, WEIGHTS, Run, free_folder, latest_unfinished
from symgrad.train.settings import Settings

BATCHES = 4
"""Batches of an epoch: 32 images to train on, 8 in a batch."""


class Watch:
    """A display that remembers, and interrupts the run after one step."""

    def __init__(self, stop_at: tuple[int, int] | None = None) -> None:
        self.stop_at = stop_at
        self.steps: list[tuple[int, int]] = []
        self.epochs: list[dict[str, float]] = []

    def begin(self, run: Run) -> None:
        pass

    def compiled(self, seconds: float) -> None:
        assert seconds > 0

    def step(self, progress: Progress, batches: int) -> None:
        assert batches == BATCHES
        self.steps.append((progress.epoch, progress.batch))
        if self.steps[-1] == self.stop_at:
            signal.raise_signal(signal.SIGINT)

    def epoch(self, record: dict[str, float]) -> None:
        self.epochs.append(record)


class Finished(NamedTuple):
    """A run that nothing interrupted."""

    settings: Settings
    folder: Path
    watch: Watch


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 images: bright above or bright below."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, rows in (("above", slice(0, 4)), ("below", slice(4, 8))):
        (folder / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 80, (8, 8, 3), np.uint8)
            pixels[rows] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    settings = Settings(str(images), epochs=2, batch_size=8, lr=0.02, size=8, threads=1)
    folder = tmp_path_factory.mktemp("finished")
    watch = Watch()
    assert Run.start(settings, folder).train(watch)
    return Finished(settings, folder, watch)


def test_results(finished: Finished) -> None:
    assert finished.watch.steps == [(e, b) for e in range(2) for b in range(1, BATCHES + 1)]
    assert sorted(os.listdir(finished.folder)) == [CURVES, WEIGHTS]
    assert (finished.folder / CURVES).read_bytes().startswith(b"\x89PNG")
    weights = load(finished.folder / WEIGHTS)
    assert weights["fc.weight"].shape == (2, 512)
    assert weights["bn1.num_batches_tracked"] == 2 * BATCHES
    last = finished.watch.epochs[-1]
    assert last["epoch"] == 2
    assert 0 <= last["held_out_accuracy"] <= 1
    assert last["loss"] < finished.watch.epochs[0]["loss"]


def test_resumes_to_the_bit(finished: Finished, tmp_path: Path) -> None:
    """Interrupted in both epochs, and at the very last step, which changes nothing."""
    folder, watches = tmp_path / "run", [Watch((0, 2)), Watch((1, 3)), Watch((1, BATCHES))]
    assert not Run.start(finished.settings, folder).train(watches[0])
    assert watches[0].steps[-1] == (0, 2)
    assert os.listdir(folder) == [CHECKPOINT]
    assert latest_unfinished(tmp_path) == folder
    assert not Run.resume(folder).train(watches[1])
    assert Run.resume(folder).train(watches[2])
    assert [step for watch in watches for step in watch.steps] == finished.watch.steps
    old, new = load(finished.folder / WEIGHTS), load(folder / WEIGHTS)
    assert old.keys() == new.keys()
    for name, array in old.items():
        assert array.tobytes() == new[name].tobytes(), name
    records = [record for watch in watches for record in watch.epochs]
    for one, other in zip(finished.watch.epochs, records, strict=True):
        for key in ("loss", "accuracy", "held_out_loss", "held_out_accuracy"):
            assert one[key] == other[key]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_full_disk_loses_nothing(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fill(Watch):
        def step(self, progress: Progress, batches: int) -> None:
            super().step(progress, batches)
            if self.steps[-1] == (1, 1):
                monkeypatch.setattr(os, "fsync", _full)

    with pytest.raises(FileError, match="the disk is full"):
        Run.start(finished.settings, tmp_path).train(Fill())
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [CHECKPOINT]
    assert Checkpoint.load(tmp_path / CHECKPOINT).progress.epoch == 1
    assert Run.resume(tmp_path).train(Watch())
    assert (tmp_path / WEIGHTS).read_bytes() == (finished.folder / WEIGHTS).read_bytes()


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_too_small_a_disk(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5_000_000))
    with pytest.raises(FileError, match=r"needs 179 MB of disk and 5 MB are free") as caught:
        Run.start(finished.settings, tmp_path / "new")
    assert str(tmp_path) in str(caught.value)


def test_other_folders(finished: Finished, images: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no interrupted run here"):
        Run.resume(tmp_path)
    with pytest.raises(WeightsError, match="no interrupted run here"):
        latest_unfinished(tmp_path)
    moved = tmp_path / "images"
    shutil.copytree(images, moved)
    settings = Settings(**{**vars(finished.settings), "data": str(moved)})
    folder = tmp_path / "run"
    assert not Run.start(settings, folder).train(Watch((0, 1)))
    with pytest.raises(DataError, match="holds an unfinished run; continue it with --resume"):
        Run.start(settings, folder)
    shutil.copy(moved / "above" / "0.png", moved / "above" / "new.png")
    with pytest.raises(DataError, match="the images have changed since the run began"):
        Run.resume(folder)


def test_divergence(finished: Finished, tmp_path: Path) -> None:
    settings = Settings(**{**vars(finished.settings), "lr": 1e30})
    with pytest.raises(
        UsageError, match=r"the loss became \S+ in epoch \d, batch \d.* smaller --lr"
    ):
        Run.start(settings, tmp_path).train(Watch())


def test_weights_to_start_from(finished: Finished, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    own = load(finished.folder / WEIGHTS)
    counters = [name for name in own if name.endswith("num_batches_tracked")]
    save({k: v for k, v in own.items() if k not in counters}, path)
    settings = Settings(**{**vars(finished.settings), "weights": str(path)})
    run = Run.start(settings, tmp_path / "a")
    assert not run.notes
    for name, array in {**run.network.parameters, **run.network.state}.items():
        if name not in counters:
            np.testing.assert_array_equal(array, own[name])

    save({**own, "fc.weight": np.ones((7, 512), np.float32), "fc.bias": np.ones(7)}, path)
    run = Run.start(settings, tmp_path / "b")
    assert run.notes == [f"{path.name} was made for other classes: the classifier starts anew"]
    assert run.network.parameters["fc.weight"].shape == (2, 512)
    np.testing.assert_array_equal(run.network.parameters["conv1.weight"], own["conv1.weight"])

    save({**own, "conv1.weight": np.ones((64, 3, 7, 7), np.float32)}, path)
    with pytest.raises(WeightsError, match=r"conv1.weight' has shape \[64, 3, 7, 7\], the model"):
        Run.start(settings, tmp_path / "c")
    save({"w": np.ones(3)}, path)
    with pytest.raises(WeightsError, match=r"not the weights of this network: .* is missing"):
        Run.start(settings, tmp_path / "d")


def test_folders_are_not_reused(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(free_folder(tmp_path, "digits").name)
        (tmp_path / names[-1]).mkdir()
    assert names == ["digits", "digits-2", "digits-3"]


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "--batch-size must be at least 1, got -1"),
        ({"size": 4}, "--size must lie between 8 and 1024 pixels, got 4"),
        ({"lr": float("nan")}, "--lr must be positive and finite, got nan"),
        ({"seed": -3}, "--seed must not be negative, got -3"),
    ],
)
def test_settings(option: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Settings(**option)


def test_learning_rate() -> None:
    settings = Settings(lr=0.1)
    rates = np.array([settings.learning_rate(done) for done in np.linspace(0, 1, 101)])
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(0.1)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert 0 < rates[0] < 0.01
    assert rates[-1] == pytest.approx(0, abs=1e-9)
