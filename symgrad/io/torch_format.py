"""Reading the files of ``torch.save`` without torch and without running what they say.

Two layouts exist.  Since torch 1.6 a file is a zip archive: ``<root>/data.pkl`` describes
the objects, ``<root>/data/<key>`` holds the bytes of each storage, ``<root>/byteorder`` their
order.  Before that (``_use_new_zipfile_serialization=False``) it is a row of pickles followed
by the storages.  In both, a tensor is a view — offset, sizes, strides — of a storage.

Reading has two steps.  The pickle becomes a tree with a ``TensorView`` in each tensor's
place; then every view is checked against its storage and copied into an array.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from symgrad.io.bfloat16 import upcast_bfloat16
from symgrad.io.errors import DamagedError, RefusedError
from symgrad.io.pickle_machine import Name, read_pickle

Array = np.ndarray[Any, Any]

# Bytes that open a file of the old layout: a pickle of its magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
LEGACY_PROTOCOL = 1001
# Bounds that no honest file reaches: nesting, and bytes of tensors per byte of file.
MAX_DEPTH = 64
MAX_EXPANSION = 16

BFLOAT16 = "bfloat16"
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


class Storage(NamedTuple):
    """A named run of ``size`` elements; ``dtype`` is a name from ``STORAGES``."""

    key: str
    dtype: str
    size: int


class TensorView(NamedTuple):
    """A tensor as a pickle describes it, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(file: BinaryIO, size: int) -> Any:
    """The object that ``torch.save`` wrote into ``file`` of ``size`` bytes, tensors as arrays.

    Raises ``RefusedError`` for a file that asks for more than data, ``DamagedError`` for a
    broken one.
    """
    start = file.read(len(LEGACY_MAGIC))
    file.seek(0)
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_zip(archive, size)
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, struct.error) as error:
            raise DamagedError(str(error)) from error
    if start == LEGACY_MAGIC:
        return _read_legacy(io.BytesIO(file.read()), size)
    raise DamagedError("it is neither a file of torch.save nor of safetensors")


def _read_zip(archive: zipfile.ZipFile, size: int) -> Any:
    members = {info.filename: info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise RefusedError("two members of its archive have one name")
    if any(info.compress_type or info.flag_bits & 1 for info in members.values()):
        raise RefusedError("its archive is compressed or encrypted, which PyTorch's never is")
    if sum(info.file_size for info in members.values()) > size:
        raise RefusedError("the members of its archive overlap or exceed the file")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError("its archive has no data.pkl, so torch.save did not write it")
    root = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise DamagedError(f"unknown byte order {order[:20]!r}")

    def storage_bytes(key: str) -> bytes:
        if f"{root}data/{key}" not in members:
            raise DamagedError(f"its archive has no storage {key!r}")
        return archive.read(f"{root}data/{key}")

    tree = _read_tree(io.BytesIO(archive.read(pickles[0])))
    return _Materialiser(storage_bytes, order == b"big", size).tree(tree)


def _read_legacy(file: io.BytesIO, size: int) -> Any:
    read_pickle(file, {})  # the magic number
    protocol, system = read_pickle(file, {}), read_pickle(file, {})
    tree, keys = _read_tree(file), read_pickle(file, {})
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise DamagedError("its header is not that of torch.save")
    # After the pickles: for each key its element count as an int64, then its elements.
    declared = {storage.key: storage for storage in _storages(tree)}
    content = file.getbuffer()
    spans: dict[str, memoryview] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if not isinstance(key, str) or key not in declared or count != declared[key].size:
            raise DamagedError(f"storage {key!r} holds {count} elements that no tensor expects")
        start = file.tell()
        spans[key] = content[start : start + count * _item_type(declared[key].dtype).itemsize]
        file.seek(start + len(spans[key]))

    def storage_bytes(key: str) -> memoryview:
        if key not in spans:
            raise DamagedError(f"it has no storage {key!r}")
        return spans[key]

    return _Materialiser(storage_bytes, not system.get("little_endian", True), size).tree(tree)


def _storages(tree: Any) -> Iterator[Storage]:
    """The storages of all views in a tree."""
    todo, seen = [tree], set()
    while todo:
        node = todo.pop()
        if isinstance(node, TensorView):
            yield node.storage
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            todo.extend(node.values() if isinstance(node, dict) else node)


# --------------------------------------------------------------------- pickle → tree --


def _read_tree(file: BinaryIO) -> Any:
    return read_pickle(file, NAMES, _storage)


def _storage(identity: Any) -> Storage:
    """The storage of a persistent id ("storage", type, key, device, size[, view])."""
    match identity:
        case ("storage", Name() as kind, str(key), str(), int(size), *view) if (
            kind.text in STORAGES and size >= 0 and view in ([], [None])
        ):
            return Storage(key, STORAGES[kind.text], size)
    raise RefusedError("unknown kind of storage")


def _rebuild_tensor(*arguments: Any) -> TensorView:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if all(
            type(n) is int for n in (*shape, *strides)
        ):
            return TensorView(storage, offset, shape, strides)
    raise DamagedError("wrong arguments of a tensor")


def _rebuild_parameter(*arguments: Any) -> TensorView:
    match arguments:
        case (TensorView() as view, bool(), dict()):
            return view
    raise DamagedError("wrong arguments of a parameter")


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise DamagedError("an OrderedDict with arguments")
    return {}


def _size(*arguments: Any) -> tuple[Any, ...]:
    match arguments:
        case (tuple(size),):
            return size
    raise DamagedError("wrong arguments of a torch.Size")


NAMES: dict[str, Callable[..., Any] | Name] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    **{f"torch.{kind}": Name(kind) for kind in STORAGES},
    **{f"torch.{dtype}": Name(dtype) for dtype in STORAGES.values()},
}


# --------------------------------------------------------------------- tree → arrays --


def _item_type(dtype: str) -> np.dtype[Any]:
    """How an element lies in a file; bfloat16 as its bits."""
    return np.dtype(np.uint16 if dtype == BFLOAT16 else dtype)


class _Materialiser:
    """Copies every view of a tree out of its storage.

    An object that the tree holds twice (a tied weight) stays one object.  ``size`` is the
    file's, which bounds what its tensors may amount to.
    """

    def __init__(
        self, storage_bytes: Callable[[str], bytes | memoryview], big_endian: bool, size: int
    ) -> None:
        self.storage_bytes, self.big_endian = storage_bytes, big_endian
        self.budget = MAX_EXPANSION * size
        self.storages: dict[Storage, Array] = {}
        self.done: dict[int, Any] = {}
        self.open: set[int] = set()

    def tree(self, node: Any, depth: int = 0) -> Any:
        if isinstance(node, str | bytes | int | float | None):
            return node
        if id(node) not in self.done:
            if id(node) in self.open or depth > MAX_DEPTH:
                raise RefusedError("its containers contain themselves or are nested too deeply")
            self.open.add(id(node))
            self.done[id(node)] = self.convert(node, depth + 1)
            self.open.remove(id(node))
        return self.done[id(node)]

    def convert(self, node: Any, depth: int) -> Any:
        match node:
            case TensorView():
                return self.array(node)
            case Name(text=text) if text not in STORAGES:
                return np.dtype("float32" if text == BFLOAT16 else text)
            case dict():
                return {key: self.tree(value, depth) for key, value in node.items()}
            case list():
                return [self.tree(value, depth) for value in node]
            case tuple() if not isinstance(node, Storage):
                return tuple(self.tree(value, depth) for value in node)
        raise DamagedError("a storage, its type or a constructor stands where data belongs")

    def array(self, view: TensorView) -> Array:
        storage, offset, shape, strides = view
        if len(shape) != len(strides) or min(offset, *shape, *strides, 0) < 0:
            raise DamagedError(f"a tensor has sizes {shape} and strides {strides}")
        if prod(shape) > storage.size:
            raise RefusedError(f"a tensor spreads {storage.size} stored elements to sizes {shape}")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if prod(shape) and last >= storage.size:
            raise RefusedError(f"a tensor reaches outside its storage of {storage.size} elements")
        self.budget -= prod(shape) * _item_type(storage.dtype).itemsize
        if self.budget < 0:
            raise RefusedError(f"its tensors amount to more than {MAX_EXPANSION} times the file")
        flat = self.elements(storage)
        steps = [n * flat.itemsize for n in strides]
        try:
            window = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
        except (ValueError, OverflowError) as error:  # too many axes, too long empty ones
            raise DamagedError(f"a tensor of impossible sizes {shape} ({error})") from error
        array = window.astype(flat.dtype.newbyteorder("="), order="C")  # always a copy
        return upcast_bfloat16(array) if storage.dtype == BFLOAT16 else array

    def elements(self, storage: Storage) -> Array:
        if storage not in self.storages:
            item = _item_type(storage.dtype).newbyteorder(">" if self.big_endian else "<")
            data = self.storage_bytes(storage.key)
            if len(data) != storage.size * item.itemsize:
                expected = storage.size * item.itemsize
                raise DamagedError(f"storage {storage.key!r} has {len(data)} of {expected} bytes")
            self.storages[storage] = np.frombuffer(data, item)
        return self.storages[storage]
