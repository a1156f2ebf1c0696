"""Reading files of PyTorch and safetensors: values, structure, layouts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references import DATA

from symgrad.io import WeightsError, load, save, state_dict

WEIGHTS = DATA / "weights"
LAYOUTS = ("", "_protocol4", "_legacy")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes(layout: str) -> None:
    loaded = load(WEIGHTS / f"dtypes{layout}.pth")
    assert len(loaded) == 12
    for name, array in loaded.items():
        dtype = np.dtype("float32" if name == "bfloat16" else name)
        start = 0 if name == "uint8" else -2
        assert array.dtype == dtype
        assert array.dtype.isnative
        expected = np.arange(start, start + 6).reshape(2, 3).astype(dtype)
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views(layout: str) -> None:
    loaded = load(WEIGHTS / f"views{layout}.pth")
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "transposed": grid.T, "rows": grid[1:3], "steps": grid[::2, 1::3], "scalar": grid[2, 3],
        "empty": grid[:0], "last": grid[3:, 5:], "tied": np.ones(2, np.float32),
    }  # fmt: skip
    for name, array in expected.items():
        assert loaded[name].shape == array.shape
        assert loaded[name].flags.c_contiguous
        assert loaded[name].flags.writeable
        np.testing.assert_array_equal(loaded[name], array)
    assert loaded["tied"] is loaded["also_tied"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoint(layout: str) -> None:
    loaded = load(WEIGHTS / f"checkpoint{layout}.pth")
    plain = {k: v for k, v in loaded.items() if k not in ("state_dict", "optimizer")}
    assert plain == {
        "epoch": 3, "best": 0.5, "name": "größe", "size": (2, 3), "dtype": np.dtype("float16"),
        "none": None, "flags": [True, False], "big": 1 << 70,
    }  # fmt: skip
    weights = state_dict(loaded)
    assert {k: v.shape for k, v in weights.items()} == {
        "0.weight": (3, 2, 3, 3), "0.bias": (3,), "1.weight": (3,), "1.bias": (3,),
        "1.running_mean": (3,), "1.running_var": (3,), "1.num_batches_tracked": (),
    }  # fmt: skip
    assert loaded["optimizer"]["param_groups"][0]["momentum"] == 0.9
    assert loaded["optimizer"]["state"][0]["momentum_buffer"].shape == (3, 2, 3, 3)


def test_big_endian_files(tmp_path: Path) -> None:
    """A file from a big-endian machine: the byteorder member says so, storages are swapped."""
    original, swapped = WEIGHTS / "dtypes.pth", tmp_path / "big.pth"
    item = dict(enumerate((8, 4, 2, 2, 8, 4, 2, 1, 1, 1, 4, 8)))  # complex: swapped by halves
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                words = np.frombuffer(data, f"V{item[int(name.split('/')[-1])]}")
                data = b"".join(word.tobytes()[::-1] for word in words)
            target.writestr(name, data)
    expected, loaded = load(original), load(swapped)
    for name, array in expected.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)


def test_prefix_of_data_parallel() -> None:
    one = np.ones(1)
    assert state_dict({"model": {"module.a": one, "module.b": one}}).keys() == {"a", "b"}
    assert state_dict({"module.a": one, "b": one}).keys() == {"module.a", "b"}
    with pytest.raises(WeightsError, match="no state dict in the checkpoint, which holds: 'epoch'"):
        state_dict({"epoch": 3})


# ------------------------------------------------------------------------ safetensors --


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4", ">i2"]
)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 17)])
def test_safetensors_round_trip(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    save({"x": array, "t": array.T}, tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors")
    for name, expected in (("x", array), ("t", array.T)):
        assert loaded[name].dtype == np.dtype(dtype).newbyteorder("=")
        assert loaded[name].flags.writeable
        np.testing.assert_array_equal(loaded[name], expected)


def test_safetensors_bfloat16(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e38, np.inf, 1e-40], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    _write_safetensors(tmp_path / "b.safetensors", "BF16", [5], bits.tobytes())
    loaded = load(tmp_path / "b.safetensors")["x"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded.view(np.uint32) >> 16, bits)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    save({"x": np.ones(3)}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "x.pth")
    assert load(str(tmp_path / "x.pth"))["x"].shape == (3,)


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("F8_E4M3", [4], bytes(4), "refused: 'x' has the dtype F8_E4M3"),
        ("F32", [4], bytes(12), "truncated or damaged"),
        ("F32", [1 << 40], bytes(12), "truncated or damaged"),
        ("F32", [-1], bytes(4), "truncated or damaged"),
    ],
)
def test_wrong_safetensors(
    tmp_path: Path, dtype: str, shape: list[int], data: bytes, message: str
) -> None:
    _write_safetensors(tmp_path / "x.safetensors", dtype, shape, data)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "x.safetensors")


def _write_safetensors(path: Path, dtype: str, shape: list[int], data: bytes) -> None:
    entry: dict[str, Any] = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
