"""``symgrad train`` from outside: interrupted, resumed, and with data that cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from symgrad.cli import exits
from symgrad.cli.app import app

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def draw(folder: Path, classes: str = "ab", count: int = 8) -> Path:
    """A folder of images of noise."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(folder / name / f"{i}.png")
    return folder


def test_interrupt_and_resume(tmp_path: Path) -> None:
    draw(tmp_path / "images", count=10)
    command = [sys.executable, "-m", "symgrad.cli", "train"]
    options = ["--data", "images", "--size", "8", "--batch-size", "8", "--epochs", "3"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    with start(*options) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.split()[:1] == ["1"]:  # the first epoch's line
                break
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate()
    assert run.returncode == exits.INTERRUPTED
    assert "checkpoint saved in runs/images" in stderr
    assert "continue with: symgrad train --resume" in stderr
    assert "Traceback" not in stderr
    with start("--resume") as run:
        stdout, stderr = run.communicate()
    assert (run.returncode, stderr) == (0, "")
    assert "resuming in epoch" in stdout
    assert "wrote runs/images/weights.safetensors and runs/images/curves.png" in stdout


def _corrupt(folder: Path) -> str:
    (draw(folder) / "b" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return "cannot read 1 image"


def _no_image(folder: Path) -> str:
    (draw(folder) / "b" / "text.jpg").write_text("no image")
    return "text.jpg (not an image); repair or remove them"


def _empty(folder: Path) -> str:
    folder.mkdir()
    return "no class folders; expected one folder per class"


def _one_class(folder: Path) -> str:
    draw(folder, "a")
    return "only one class, 'a'"


def _no_images(folder: Path) -> str:
    (draw(folder, "a") / "b").mkdir()
    return "fewer than two images in 'b' (0)"


@pytest.mark.parametrize("spoil", [_corrupt, _no_image, _empty, _one_class, _no_images])
def test_data_that_cannot_be_used(
    spoil: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = spoil(tmp_path / "images")
    result = CliRunner().invoke(app, ["train", "--data", "images", "--size", "8"])
    assert result.exit_code == exits.USER_ERROR
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_weights_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(b"not a pickle")
    result = CliRunner().invoke(app, ["train", "--weights", "w.pth"])
    assert result.exit_code == exits.USER_ERROR
    assert result.stderr.startswith("symgrad: w.pth: ")
    assert result.stderr.count("\n") == 1


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    result = CliRunner().invoke(app, ["train"])
    assert result.exit_code == exits.USER_ERROR
    assert "pip install 'symgrad[train]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "images")
    Path("file").write_text("in the way")
    arguments = ["train", "--data", "images", "--size", "8", "--out", "file"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == exits.USER_ERROR
    assert result.stderr.count("\n") == 1
    assert Path("file").read_text() == "in the way"
