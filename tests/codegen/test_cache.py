"""The disk cache: intact blobs or none, bounded, shared by processes, never an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from symgrad.ir import cache
from symgrad.ir.cache import Cache

import symgrad


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_gives_back_what_was_put() -> None:
    blobs = Cache("objects")
    for size in (0, 1, 1 << 16):
        blobs.put(f"k{size}", bytes(range(256))[:size] or b"x" * size)
        assert Cache("objects").get(f"k{size}") == (bytes(range(256))[:size] or b"x" * size)
    assert blobs.get("other") is None
    assert Cache("symbolic").get("k1") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "extend"])
def test_a_damaged_entry_vanishes(directory: Path, damage: str) -> None:
    blobs = Cache("objects")
    blobs.put("key", b"some blob")
    path = directory / "objects" / "key.blob"
    entry = bytearray(path.read_bytes())
    if damage == "flip":
        entry[-1] ^= 1
    path.write_bytes(
        {"truncate": entry[:-1], "empty": b"", "extend": entry + b"!"}.get(damage, entry)
    )
    assert blobs.get("key") is None
    assert not path.exists()
    blobs.put("key", b"some blob")
    assert blobs.get("key") == b"some blob"


def test_the_least_recently_used_leave(directory: Path) -> None:
    blobs = Cache("objects", limit=10_000)
    for i in range(9):
        blobs.put(f"k{i}", bytes(1000))
        os.utime(directory / "objects" / f"k{i}.blob", (i, i))
    assert blobs.get("k0") is not None  # a hit makes the oldest the youngest
    blobs.put("k9", bytes(1000))
    assert blobs.get("k0") is not None
    assert blobs.get("k9") is not None
    assert blobs.get("k1") is None
    (usage,) = cache.info()
    assert usage.namespace == "objects"
    assert 5 <= usage.entries <= 7
    assert usage.bytes <= 7_500


def test_bounds_what_other_processes_wrote() -> None:
    for i in range(8):
        Cache("objects", limit=5_000).put(f"k{i}", bytes(1000))
    assert cache.info()[0].bytes <= 5_000


def test_clear_removes_entries_and_nothing_else(directory: Path) -> None:
    Cache("objects").put("a", b"1")
    Cache("symbolic").put("b", b"2")
    bystander = directory / "objects" / "notes.txt"
    bystander.write_text("mine")
    assert [u[:2] for u in cache.info()] == [("objects", 1), ("symbolic", 1)]
    cache.clear()
    assert cache.info() == []
    assert bystander.exists()


def test_off_means_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", "off")
    Cache("objects").put("a", b"1")
    assert Cache("objects").get("a") is None
    assert cache.info() == []
    cache.clear()


def test_a_place_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file where a folder is wanted")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(place))
        Cache("objects").put("a", b"1")
        assert Cache("objects").get("a") is None
        assert cache.info() == []
        cache.clear()


def test_a_read_only_folder_still_gives_its_blobs(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cache("objects").put("a", b"1")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    # The superuser may write to a read-only folder, so the calls themselves refuse.
    for name in ("mkstemp", "mkdtemp"):
        monkeypatch.setattr(f"tempfile.{name}", refuse)
    for name in ("unlink", "utime", "replace"):
        monkeypatch.setattr(os, name, refuse)
    blobs = Cache("objects", limit=1)
    os.chmod(directory / "objects", 0o500)
    blobs.put("b", b"2")
    assert blobs.get("a") == b"1"
    assert blobs.get("b") is None
    os.chmod(directory / "objects", 0o700)


def test_a_full_disk_leaves_no_half_entry(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    Cache("objects").put("a", b"1")
    assert Cache("objects").get("a") is None
    assert list((directory / "objects").iterdir()) == []


WRITER = """
import sys
from symgrad.ir.cache import Cache
blobs = Cache("objects", limit=40_000)
for i in range(300):
    key = f"k{i % 40}"
    blobs.put(key, key.encode() * 500)
    found = blobs.get(f"k{(i * 7) % 40}")
    assert found is None or found == f"k{(i * 7) % 40}".encode() * 500
"""


def test_processes_share_it() -> None:
    root = Path(symgrad.__file__).parent.parent
    writers = [subprocess.Popen([sys.executable, "-c", WRITER], cwd=root) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert cache.info()[0].bytes <= 45_000
