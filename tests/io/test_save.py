"""Saving is all or nothing, and says what it cannot do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symgrad.io import WeightsError, load, save


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that a failed save must leave alone."""
    path = tmp_path / "w.safetensors"
    save({"old": np.arange(3)}, path)
    return path


def check_untouched(path: Path) -> None:
    np.testing.assert_array_equal(load(path)["old"], np.arange(3))
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk(old: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WeightsError, match=r"w\.safetensors: cannot write: the disk is full"):
        save({"new": np.zeros(1000)}, old)
    monkeypatch.undo()
    check_untouched(old)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_truly_full_device(old: Path) -> None:
    os.symlink("/dev/full", old.with_name(f".{old.name}.{os.getpid()}.tmp"))
    with pytest.raises(WeightsError, match=r"w\.safetensors: cannot write: the disk is full"):
        save({"new": np.zeros(100_000)}, old)
    check_untouched(old)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": np.ones(1)}}, "cannot write 'a': a dict is not an array"),
        ({"a": np.ones(1), "epoch": None}, "cannot write 'epoch': a NoneType"),
        ({"a": "text"}, "cannot write 'a': a str"),
        ({"a": np.array(["text"])}, "cannot write 'a': a str"),
        ({"a": np.ones(2, np.complex128)}, "cannot write 'a': a complex128"),
        ({1: np.ones(2)}, "the name 1 is not a string"),
    ],
)
def test_what_cannot_be_stored(old: Path, state: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        save(state, old)
    check_untouched(old)


def test_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"saved as \.safetensors, for instance w\.safetensors"):
        save({"a": np.ones(1)}, tmp_path / "w.pth")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot write: no such file or directory"):
        save({"a": np.ones(1)}, tmp_path / "missing" / "w.safetensors")


def test_replaces_the_old_file(old: Path) -> None:
    save({"new": np.float32(2)}, str(old))
    assert list(load(old)) == ["new"]
    assert os.listdir(old.parent) == [old.name]
