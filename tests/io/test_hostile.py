"""Files that attack or are broken: each is refused with one clear line and runs nothing."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references import DATA

from symgrad.io import WeightsError, load

WEIGHTS = DATA / "weights"
MARKER = "hostile-code-ran"


class Calls:
    """Pickles as a call of ``function(*arguments)`` when read by Python's own unpickler."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def archive(path: Path, pickled: bytes, storage: bytes = b"") -> Path:
    """A file as torch.save lays it out, around any pickle, with a storage "0"."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", storage)
    return path


def refusal(path: Path) -> str:
    """What the refusal of ``path`` says after naming it; one line."""
    with pytest.raises(WeightsError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# ---------------------------------------------------------------------- pickled calls --

ATTACKS = {
    "system": (Calls(os.system, f"touch {MARKER}"), "system'"),
    "eval": (Calls(eval, "1"), "eval'"),
    "exec": (Calls(exec, "1"), "exec'"),
    "getattr": (Calls(getattr, "", "join"), "getattr'"),
    "import": (Calls(builtins.__import__, "os"), "__import__'"),
    "open": (Calls(open, MARKER, "w"), "open'"),
    "numpy objects": (np.array([Calls(os.system, "true")], dtype=object), "names 'numpy"),
    "numpy": (np.ones(3), "names 'numpy"),
    "inside a call": (Calls(OrderedDict, [("a", Calls(os.system, "true"))]), "system'"),
    "nested": ({"state_dict": [(1, {"w": Calls(os.system, "true")})]}, "system'"),
    "class": (Path("x"), "names 'pathlib"),
    "set": ({"a": {1, 2}}, "set"),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(("attack", "message"), ATTACKS.values(), ids=ATTACKS.keys())
def test_calls_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, attack: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(archive(tmp_path / "evil.pth", pickle.dumps({"w": attack}, protocol)))
    assert "refused: its pickle " in text
    assert message.lower() in text.lower()
    assert os.listdir() == ["evil.pth"]


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"(cos\nsystem\nX\x04\x00\x00\x00trueo.", "names 'os.system'"),
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "opcode INST"),
        (b"c__builtin__\nint\n)\x81.", "names '__builtin__.int'"),
        (b"\x8c\x0ccollections.\x8c\x0bOrderedDict\x93.", "names 'collections..OrderedDict'"),
        (b"ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"Q.", "damaged"),
        (b"K\x01Q.", "unknown kind of storage"),
        (b"X\x01\x00\x00\x00a)R.", "calls an object that is no constructor"),
        (b"ctorch\nFloatStorage\n)R.", "calls an object that is no constructor"),
        (b"ctorch\nFloatStorage\n.", "where data belongs"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n.", "where data belongs"),
        (b"K\x01}b.", "in place of a dict"),  # BUILD on a number
        (b"]q\x00h\x00a.", "contain themselves"),
        (b"]" * 100 + b"a" * 99 + b".", "nested too deeply"),
        (b"}(K\x01K\x02K\x03u.", "damaged"),
        (b"}]K\x01s.", "dictionary key of type list"),
        (b"r\xff\xff\xff\x7f.", "damaged"),  # Python's own memo would take 2³¹ entries
        (b"h\x05.", "damaged"),
        (b"K\x01K\x02.", "damaged"),
        (b"K\x01", "damaged"),
        (b"a.", "damaged"),
        (b"t.", "damaged"),
        (b"K\x01\x86.", "damaged"),
        (b".", "damaged"),
    ],
)
def test_opcodes(tmp_path: Path, pickled: bytes, message: str) -> None:
    assert message in refusal(archive(tmp_path / "w.pth", b"\x80\x02" + pickled))


def test_shared_containers_do_not_multiply(tmp_path: Path) -> None:
    laughs: list[Any] = []
    for _ in range(50):
        laughs = [laughs, laughs]  # 2⁵⁰ leaves when written out
    loaded = load(archive(tmp_path / "laughs.pth", pickle.dumps(laughs, 2)))
    assert loaded[0] is loaded[1]


# ---------------------------------------------------------------------- tensors, storages --


def tensor(
    offset: Any = 0,
    shape: Any = (2, 2),
    strides: Any = (2, 1),
    *,
    size: Any = 4,
    key: Any = "0",
    kind: str = "FloatStorage",
) -> bytes:
    """The pickle of one tensor, any part of it wrong."""

    def value(x: Any) -> bytes:
        return pickle.dumps(x, 2)[2:-1]

    def text(x: str) -> bytes:
        return b"X" + struct.pack("<I", len(x)) + x.encode()

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + value(key) + text("cpu")
    storage += value(size) + b"tQ"
    arguments = value(offset) + value(shape) + value(strides) + b"\x89}"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + arguments + b"tR."


def test_the_hand_made_tensor_is_valid(tmp_path: Path) -> None:
    data = np.arange(4, dtype=np.float32)
    path = archive(tmp_path / "w.pth", tensor(), data.tobytes())
    np.testing.assert_array_equal(load(path), data.reshape(2, 2))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor(1), "reaches outside its storage"),
        (tensor(-1), "sizes (2, 2) and strides (2, 1)"),
        (tensor(0, (2, 2), (3, 1)), "reaches outside its storage"),
        (tensor(0, (2, 2), (-2, 1)), "strides (-2, 1)"),
        (tensor(0, (2, -2)), "sizes (2, -2)"),
        (tensor(0, (4,)), "sizes (4,) and strides (2, 1)"),
        (tensor(0, (1 << 40,), (0,)), "spreads 4 stored elements"),
        (tensor(0, (1 << 62, 1 << 62), (0, 0)), "spreads 4 stored elements"),
        (tensor(0, (0, 1 << 62), (1 << 62, 1)), "sizes (0, 4611686018427387904)"),
        (tensor(0, (1,) * 65, (1,) * 65), "sizes (1, 1"),
        (tensor(0, (2.0, 2)), "wrong arguments of a tensor"),
        (tensor("0"), "wrong arguments of a tensor"),
        (tensor(0, [2, 2]), "wrong arguments of a tensor"),
        (tensor(size=1 << 60), "of 4611686018427387904 bytes"),
        (tensor(size=5), "storage '0' has 16 of 20 bytes"),
        (tensor(size=-4), "unknown kind of storage"),
        (tensor(key="1"), "no storage '1'"),
        (tensor(key="../data.pkl"), "no storage '../data.pkl'"),
        (tensor(key=0), "unknown kind of storage"),
        (tensor(kind="QInt8Storage"), "names 'torch.QInt8Storage'"),
        (tensor(kind="float32"), "unknown kind of storage"),
    ],
)
def test_tensors(tmp_path: Path, pickled: bytes, message: str) -> None:
    assert message in refusal(archive(tmp_path / "w.pth", pickled, bytes(16)))


def test_many_views_of_one_storage(tmp_path: Path) -> None:
    """A small file must not become a large state dict: here 1,000 views of all elements."""
    one = tensor(0, (25000,), (1,), size=25000)[2:-1]
    path = archive(tmp_path / "w.pth", b"\x80\x02](" + one * 1000 + b"e.", bytes(100_000))
    assert "more than 16 times the file" in refusal(path)


# ----------------------------------------------------------------------------- archives --


def test_compressed_archive(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", tensor())
        file.writestr("archive/data/0", bytes(10 << 20))
    assert "compressed" in refusal(path)


def test_duplicate_members(tmp_path: Path) -> None:
    path = tmp_path / "twice.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", tensor())
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("archive/data.pkl", tensor())
    assert "one name" in refusal(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("hello.txt", "hello")
    assert "no data.pkl" in refusal(tmp_path / "other.zip")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK", b"\x80\x02}.", bytes(100), b"\x93NUMPY"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    assert "truncated or damaged" in refusal(path)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.pth")
    assert "it is a directory" in refusal(tmp_path)


FILES = sorted(path.name for path in WEIGHTS.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(tmp_path: Path, name: str) -> None:
    data = (WEIGHTS / name).read_bytes()
    for length in range(0, len(data) - 1, 1 + len(data) // 50):
        path = tmp_path / name
        path.write_bytes(data[:length])
        assert "truncated or damaged" in refusal(path)


def damaged(data: bytes, times: int) -> list[bytes]:
    """Copies of ``data`` with a few random bytes each."""
    rng = random.Random(len(data))
    copies = []
    for _ in range(times):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 2, 3, 10))):
            broken[rng.randrange(len(data))] = rng.randrange(256)
        copies.append(bytes(broken))
    return copies


def reads_or_refuses(path: Path) -> bool:
    """Whether ``path`` was refused; any exception but ``WeightsError`` fails the test."""
    try:
        load(path)
    except WeightsError as error:
        return "\n" not in str(error)
    return False


@pytest.mark.parametrize("name", FILES)
def test_random_damage(tmp_path: Path, name: str) -> None:
    """Wrong bytes give other numbers or a refusal, never another exception or a crash."""
    path = tmp_path / name
    for broken in damaged((WEIGHTS / name).read_bytes(), 80):
        path.write_bytes(broken)
        reads_or_refuses(path)


def test_random_damage_past_the_checksums(tmp_path: Path) -> None:
    with zipfile.ZipFile(WEIGHTS / "checkpoint.pth") as source:
        members = {name: source.read(name) for name in source.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    path, refused = tmp_path / "w.pth", 0
    for broken in damaged(members[pickled], 300):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as target:
            for name, data in (members | {pickled: broken}).items():
                target.writestr(name, data)
        path.write_bytes(file.getvalue())
        refused += reads_or_refuses(path)
    assert refused > 100
