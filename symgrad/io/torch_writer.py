"""Writing files that ``torch.load`` reads, without torch: a zip of a pickle and of storages.

The pickle is written opcode by opcode, of protocol 2 as PyTorch's own: the names in it belong
to a library that need not be there.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from symgrad.io.errors import WeightsError
from symgrad.io.torch_format import STORAGES

Array = np.ndarray[Any, Any]
_KINDS = {dtype: kind for kind, dtype in STORAGES.items()}
ROOT = "archive"
MAX_DEPTH = 64
"""Nesting of containers that is still read back."""


class Stored(NamedTuple):
    """A tensor to be written."""

    array: Array
    requires_grad: bool = False
    is_parameter: bool = False


class Named(NamedTuple):
    """One of torch's own values: a dtype by its name, or a Size by its numbers."""

    name: str
    arguments: tuple[Any, ...] | None = None


def write_torch(file: BinaryIO, tree: Any) -> None:
    """Writes a tree of ``Stored``, ``Named`` and plain Python data.

    Arrays that occur twice are stored once.  Raises ``WeightsError`` for anything else.
    """
    pickle = _Pickle()
    pickle.whole(tree)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{ROOT}/data.pkl", pickle.text.getvalue())
        archive.writestr(f"{ROOT}/byteorder", "little")
        for number, array in enumerate(pickle.storages):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            archive.writestr(f"{ROOT}/data/{number}", little.tobytes())
        archive.writestr(f"{ROOT}/version", "3\n")


class _Pickle:
    """A pickle as it is written, and the storages that it names by their numbers."""

    def __init__(self) -> None:
        self.text = io.BytesIO()
        self.storages: list[Array] = []
        self._numbers: dict[int, int] = {}
        self._memo: dict[int, int] = {}

    def whole(self, tree: Any) -> None:
        """The pickle of a tree."""
        self._write(b"\x80\x02")
        self._any(tree)
        self._write(b".")

    def _write(self, opcodes: bytes) -> None:
        self.text.write(opcodes)

    def _any(self, x: Any) -> None:
        if x is None or x is True or x is False:
            self._write({None: b"N", True: b"\x88", False: b"\x89"}[x])
        elif isinstance(x, Stored):
            self._once(x)
        elif isinstance(x, Named):
            self._named(x)
        elif isinstance(x, str):
            encoded = x.encode("utf-8", "surrogatepass")
            self._write(b"X" + struct.pack("<I", len(encoded)) + encoded)
        elif isinstance(x, (int, np.integer)):
            self._integer(int(x))
        elif isinstance(x, (float, np.floating)):
            self._write(b"G" + struct.pack(">d", float(x)))
        elif isinstance(x, dict):
            self._dictionary(x)
        elif isinstance(x, (list, tuple)):
            is_list = isinstance(x, list)
            self._write(b"](" if is_list else b"(")
            for item in x:
                self._any(item)
            self._write(b"e" if is_list else b"t")
        else:
            raise WeightsError(
                f"cannot write a {type(x).__name__}: files hold tensors, numbers, text, and "
                "lists, tuples and dictionaries of these; save model.state_dict() in place of a "
                "model"
            )

    def _integer(self, n: int) -> None:
        if -(1 << 31) <= n < 1 << 31:
            self._write(b"J" + struct.pack("<i", n))
        else:
            size = n.bit_length() // 8 + 1
            self._write(b"\x8a" + bytes([size]) + n.to_bytes(size, "little", signed=True))

    def _global(self, module: str, name: str) -> None:
        self._write(f"c{module}\n{name}\n".encode())

    def _dictionary(self, x: dict[Any, Any]) -> None:
        if isinstance(x, OrderedDict):
            self._empty_ordered()
        else:
            self._write(b"}")
        self._write(b"(")
        for key, value in x.items():
            self._any(key)
            self._any(value)
        self._write(b"u")

    def _empty_ordered(self) -> None:
        self._global("collections", "OrderedDict")
        self._write(b")R")

    def _named(self, x: Named) -> None:
        self._global("torch", x.name)
        if x.arguments is not None:
            self._any(x.arguments)
            self._write(b"R")

    def _once(self, x: Stored) -> None:
        """A tensor, which is one object wherever it occurs."""
        number = self._memo.get(id(x))
        if number is not None:
            self._write(b"j" + struct.pack("<I", number))
            return
        self._tensor(x)
        self._memo[id(x)] = len(self._memo)
        self._write(b"r" + struct.pack("<I", self._memo[id(x)]))

    def _tensor(self, x: Stored) -> None:
        if x.is_parameter:
            self._global("torch._utils", "_rebuild_parameter")
            self._write(b"(")
            self._tensor(Stored(x.array))
        else:
            self._global("torch._utils", "_rebuild_tensor_v2")
            self._write(b"(")
            self._storage(x.array)
            row_major = np.empty(x.array.shape, np.int8).strides
            for part in (0, x.array.shape, row_major):
                self._any(part)
        self._any(bool(x.requires_grad))
        self._empty_ordered()
        self._write(b"tR")

    def _storage(self, array: Array) -> None:
        kind = _KINDS.get(array.dtype.name)
        if kind is None:
            raise WeightsError(f"cannot write a tensor of {array.dtype.name}")
        number = self._numbers.get(id(array))
        if number is None:
            number = self._numbers[id(array)] = len(self.storages)
            self.storages.append(array)
        self._write(b"(")
        self._any("storage")
        self._global("torch", kind)
        for part in (str(number), "cpu", array.size):
            self._any(part)
        self._write(b"tQ")
