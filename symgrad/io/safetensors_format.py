"""Reading and writing ``.safetensors`` files: a JSON header, then raw little-endian arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from symgrad.io.atomic import write_bytes
from symgrad.io.bfloat16 import upcast_bfloat16
from symgrad.io.errors import DamagedError, RefusedError, WeightsError
from symgrad.tensors.handle import Tensor

Array = np.ndarray[Any, Any]

BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "C64": "<c8", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def read_safetensors(data: bytes) -> dict[str, Array]:
    """The arrays of a ``.safetensors`` file by name; bfloat16 becomes float32."""
    from safetensors import SafetensorError, deserialize

    try:
        return {name: _array(name, view) for name, view in deserialize(data)}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise DamagedError(str(error)) from error


def _array(name: str, view: Mapping[str, Any]) -> Array:
    dtype = view["dtype"]
    if dtype not in DTYPES:
        raise RefusedError(f"{name!r} has the dtype {dtype}, which NumPy does not know")
    stored = np.frombuffer(view["data"], DTYPES[dtype]).reshape(view["shape"])
    if dtype == BFLOAT16:
        return upcast_bfloat16(stored)
    return stored.astype(stored.dtype.newbyteorder("="))


def write_safetensors(
    path: Path, state: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays and text metadata; ``path`` keeps its old content if that fails."""
    from safetensors.numpy import save

    arrays = {name: _contiguous(path, name, value) for name, value in state.items()}
    write_bytes(path, save(arrays, dict(metadata) if metadata else None))


def _contiguous(path: Path, name: str, value: Any) -> Array:
    if not isinstance(name, str):
        raise WeightsError(f"{path}: cannot write: the name {name!r} is not a string")
    array = np.asarray(value._array() if isinstance(value, Tensor) else value, order="C")
    if array.dtype.name == "bfloat16":
        return array
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.str.replace("|b1", "?").lstrip("|") not in DTYPES.values():
        kind = type(value).__name__ if array.dtype == object else array.dtype.name
        raise WeightsError(
            f"{path}: cannot write {name!r}: a {kind} is not an array that safetensors stores; "
            "pass a flat dictionary of names and numeric arrays"
        )
    return array


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata in the header of a ``.safetensors`` file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except OSError as error:
        raise WeightsError.of(path, "cannot read", error) from error
    except SafetensorError as error:
        raise WeightsError(f"{path}: truncated or damaged: {error}") from error
