"""Writes what ``torch.save`` would, without torch: a zip of a pickle and of storages."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


class _Storage:
    def __init__(self, array: Array, key: str) -> None:
        self.array, self.key = array, key


class _View:
    """What pickles as a tensor."""

    def __init__(self, storage: _Storage, rebuild: Any) -> None:
        self.storage, self.rebuild = storage, rebuild

    def __reduce__(self) -> Any:
        array = self.storage.array
        strides = tuple(s // array.itemsize for s in array.strides)
        return self.rebuild, (self.storage, 0, array.shape, strides, False, OrderedDict())


@contextmanager
def _named_torch() -> Iterator[ModuleType]:
    """A module named torch with the names that pickles refer to."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    torch._utils = utils  # type: ignore[attr-defined]
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_torch(path: Path, state: Mapping[str, Array]) -> None:
    """A state dict as a ``.pth`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    with _named_torch() as torch, zipfile.ZipFile(path, "w") as archive:

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if not isinstance(obj, _Storage):
                    return None
                kind = getattr(torch, STORAGES[obj.array.dtype.name])
                return "storage", kind, obj.key, "cpu", obj.array.size

        text = io.BytesIO()
        rebuild = torch._utils._rebuild_tensor_v2
        tree = OrderedDict(
            (name, _View(_Storage(array.reshape(state[name].shape), str(number)), rebuild))
            for number, (name, array) in enumerate(arrays.items())
        )
        Pickler(text, protocol=2).dump(tree)
        archive.writestr("archive/data.pkl", text.getvalue())
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", "3\n")
