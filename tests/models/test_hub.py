"""Downloads of weights, from a server on this machine that behaves well or badly."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.weights_server import Behaviour, serving

import symgrad as sg
from symgrad import hub
from symgrad.io import download

STATE = {"a.weight": np.arange(60_000, dtype=np.float32).reshape(200, 300), "b": np.ones(3)}


def _content(folder: Path) -> bytes:
    sg.save(STATE, folder / "content.safetensors")
    return (folder / "content.safetensors").read_bytes()


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return _content(tmp_path)


@pytest.fixture
def name(data: bytes) -> str:
    return f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"


@pytest.fixture
def behaviour(data: bytes, name: str) -> Behaviour:
    return Behaviour({name: data})


@pytest.fixture
def server(behaviour: Behaviour) -> Iterator[str]:
    with serving(behaviour) as url:
        yield url


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder downloads go to; nothing else is found."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SYMGRAD_HUB_DIR", str(tmp_path / "hub"))
    monkeypatch.delenv("SYMGRAD_HUB_URL", raising=False)
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    return tmp_path / "hub" / "checkpoints"


def fetch(url: str, **options: Any) -> Any:
    return hub.load_state_dict_from_url(url, **{"check_hash": True, "progress": False, **options})


def assert_state(found: Any) -> None:
    assert found.keys() == STATE.keys()
    for key, value in STATE.items():
        np.testing.assert_array_equal(found[key], value)


def test_complete_download_is_kept(
    server: str, name: str, own: Path, behaviour: Behaviour, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_state(fetch(server + name, progress=True))
    said = capsys.readouterr()
    assert said.out == f'Downloading: "{server}{name}" to {own / name}\n'
    assert "100%" in said.err
    assert_state(fetch(server + name))
    assert capsys.readouterr().out == ""
    assert behaviour.requests == [(f"/models/{name}", None)]
    assert os.listdir(own) == [name]


def test_torchs_cache_is_read_and_not_written(
    server: str, data: bytes, name: str, tmp_path: Path, behaviour: Behaviour
) -> None:
    place = tmp_path / "torch" / "hub" / "checkpoints" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    assert_state(fetch(server + name))
    assert behaviour.requests == []
    place.write_bytes(data[:-1])
    with pytest.warns(UserWarning, match="damaged: its sha256 begins with"):
        assert_state(fetch(server + name))
    assert place.read_bytes() == data[:-1]


@pytest.mark.parametrize("variable", ["TORCH_HOME", "XDG_CACHE_HOME", "HOME"])
def test_torchs_cache_is_found_as_torch_finds_it(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "x"))
    under = {"TORCH_HOME": "x", "XDG_CACHE_HOME": "x/torch", "HOME": "x/.cache/torch"}[variable]
    assert hub.folders()[0] == tmp_path / under / "hub" / "checkpoints"


@pytest.mark.parametrize("have", [1, 1000, -1])
def test_an_interrupted_download_goes_on(
    server: str, data: bytes, name: str, own: Path, behaviour: Behaviour, have: int
) -> None:
    own.mkdir(parents=True)
    part = data[:have]
    (own / f"{name}.partial").write_bytes(part)
    assert_state(fetch(server + name))
    assert behaviour.requests == [(f"/models/{name}", f"bytes={len(part)}-")]
    assert os.listdir(own) == [name]


def test_a_partial_file_may_be_whole_already(
    server: str, data: bytes, name: str, own: Path
) -> None:
    own.mkdir(parents=True)
    (own / f"{name}.partial").write_bytes(data)
    assert_state(fetch(server + name))


@pytest.mark.parametrize("part", [b"something else", bytes(10**6)])
def test_a_partial_file_of_something_else_is_thrown_away(
    server: str, name: str, own: Path, part: bytes
) -> None:
    own.mkdir(parents=True)
    (own / f"{name}.partial").write_bytes(part)
    assert_state(fetch(server + name))


def test_a_server_without_ranges_starts_over(
    server: str, data: bytes, name: str, own: Path, behaviour: Behaviour
) -> None:
    behaviour.ranges = False
    own.mkdir(parents=True)
    (own / f"{name}.partial").write_bytes(data[:1000])
    assert_state(fetch(server + name))
    assert len(behaviour.requests) == 1


def test_broken_connections_are_taken_up_again(
    server: str, data: bytes, name: str, behaviour: Behaviour
) -> None:
    behaviour.stop_after = len(data) // 3 + 1
    assert_state(fetch(server + name))
    asked = [what for _, what in behaviour.requests]
    third = behaviour.stop_after
    assert asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_file_that_never_ends_is_given_up_and_kept(
    server: str, data: bytes, name: str, own: Path, behaviour: Behaviour
) -> None:
    behaviour.stop_after = 10
    with pytest.raises(hub.HubError, match=rf"ended after 40 of {len(data)} bytes; call again"):
        fetch(server + name)
    assert (own / f"{name}.partial").read_bytes() == data[:40]
    behaviour.stop_after = None
    assert_state(fetch(server + name))
    assert behaviour.requests[-1][1] == "bytes=40-"


def test_a_server_that_starts_elsewhere_is_not_believed(
    server: str, data: bytes, name: str, own: Path, behaviour: Behaviour
) -> None:
    behaviour.shift = 3
    own.mkdir(parents=True)
    (own / f"{name}.partial").write_bytes(data[:50])
    with pytest.raises(hub.HubError, match="asked for bytes from 50, the server sends from 53"):
        fetch(server + name)


def test_without_a_size_the_digest_decides(
    server: str, name: str, behaviour: Behaviour, own: Path, data: bytes
) -> None:
    behaviour.sized = False
    assert_state(fetch(server + name))
    (own / name).unlink()
    behaviour.stop_after = 1000
    with pytest.raises(hub.HubError, match="damaged"):
        fetch(server + name)
    assert not os.listdir(own)


def test_a_corrupted_file_is_deleted(
    server: str, data: bytes, name: str, own: Path, behaviour: Behaviour
) -> None:
    behaviour.files[name] = data[:-1] + b"\0"
    with pytest.raises(hub.HubError, match=f"damaged: its sha256 does not begin with {name[4:12]}"):
        fetch(server + name)
    assert not os.listdir(own)
    # Unless it is wanted as it is: for weights of one's own under this name.
    assert fetch(server + name, check_hash=False).keys() == STATE.keys()


def test_a_damaged_cached_file_is_replaced(server: str, name: str, own: Path) -> None:
    own.mkdir(parents=True)
    (own / name).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="; deleted"):
        assert_state(fetch(server + name))
    assert_state(fetch(server + name))


def test_verification_can_be_switched_off(
    server: str, data: bytes, own: Path, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMGRAD_HUB_VERIFY", "0")
    behaviour.files["net-00000000.pth"] = data
    assert_state(fetch(server + "net-00000000.pth"))
    assert_state(fetch(server + "net-00000000.pth"))
    assert len(behaviour.requests) == 1


def test_missing_files_and_servers_say_what_to_do(server: str, own: Path, tmp_path: Path) -> None:
    name = "net-12345678.pth"
    with pytest.raises(hub.HubError, match="HTTP 404") as error:
        fetch(server + name)
    for part in (
        str(tmp_path / "torch" / "hub" / "checkpoints" / name), str(own / name),
        f"weights='path/to/{name}'", f"symgrad.load('path/to/{name}')", "SYMGRAD_HUB_URL",
    ):  # fmt: skip
        assert part in str(error.value)
    with pytest.raises(hub.HubError, match=r"cannot download: .*[Rr]efused"):
        fetch(f"http://127.0.0.1:1/{name}")
    with pytest.raises(hub.HubError, match=r"cannot download"):
        fetch(f"http://no-such-host.invalid/{name}")
    assert not own.exists() or not os.listdir(own)


def test_a_folder_that_cannot_be_written(server: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(hub.HubError, match="cannot write"):
        fetch(server + name, model_dir=tmp_path / "file")


def test_mirrors(
    server: str, name: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = hub.TORCHVISION + name
    monkeypatch.setenv("SYMGRAD_HUB_URL", server.rstrip("/"))
    assert hub.mirrored(url) == server + name
    assert_state(fetch(url, model_dir=tmp_path / "one"))
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / name).write_bytes(data)
    monkeypatch.setenv("SYMGRAD_HUB_URL", (tmp_path / "mirror").as_uri())
    assert_state(fetch(url, model_dir=tmp_path / "two"))


def test_chosen_folder(
    server: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_chosen", None)
    hub.set_dir(tmp_path / "chosen")
    assert hub.get_dir() == str(tmp_path / "chosen")
    fetch(server + name)
    assert (tmp_path / "chosen" / "checkpoints" / name).is_file()


def test_download_url_to_file(server: str, name: str, data: bytes, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.with_name("file.bin.partial").write_bytes(b"of something else")
    hub.download_url_to_file(server + name, target, progress=False)
    assert target.read_bytes() == data
    with pytest.raises(hub.HubError, match="does not begin with abcd"):
        hub.download_url_to_file(server + name, tmp_path / "b", "abcd", progress=False)


CHILD = """
import sys
from symgrad import hub
state = hub.load_state_dict_from_url(sys.argv[1], check_hash=True, progress=False)
print(sorted(state))
"""


def test_processes_share_one_download(server: str, name: str, behaviour: Behaviour) -> None:
    behaviour.hold = threading.Event()
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, server + name], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    deadline = time.monotonic() + 20
    while not behaviour.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    behaviour.hold.set()
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        assert out.decode().splitlines()[-1] == "['a.weight', 'b']"
    assert len(behaviour.requests) == 1


def test_a_killed_process_leaves_a_part_that_is_used(
    server: str, data: bytes, name: str, own: Path, behaviour: Behaviour
) -> None:
    behaviour.hold = threading.Event()
    child = subprocess.Popen([sys.executable, "-c", CHILD, server + name], stdout=subprocess.PIPE)
    partial = own / f"{name}.partial"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.02)
    child.kill()
    child.communicate()
    behaviour.hold.set()
    have = partial.stat().st_size
    assert 0 < have < len(data)
    assert_state(fetch(server + name))
    assert behaviour.requests[-1][1] == f"bytes={have}-"
