"""``save`` and ``load`` as ``torch`` has them: trees of tensors and plain data in one file.

``symgrad.io`` reads and writes the same files with arrays in place of tensors.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from symgrad.io import WeightsError
from symgrad.io import load as load_arrays
from symgrad.io import save as save_arrays
from symgrad.io.atomic import write_bytes
from symgrad.io.torch_writer import MAX_DEPTH, Named, Stored, write_torch
from symgrad.nn.parameter import Parameter
from symgrad.tensors import Tensor, dtypes

__all__ = ["load", "save"]

PathLike = str | os.PathLike[str]


def save(obj: Any, f: PathLike | BinaryIO, *args: Any, **options: Any) -> None:
    """Writes tensors, numbers, text, and lists, tuples and dictionaries of these.

    ``f`` is a path or a file open for writing.  ``torch.load`` reads what is written; under a
    name that ends in ``.safetensors`` it is that format, and ``obj`` a flat dictionary.  The
    file appears whole or not at all.  Raises ``WeightsError`` for anything else.
    """
    if isinstance(f, (str, os.PathLike)) and Path(f).suffix == ".safetensors":
        save_arrays(obj, f, *args, **options)
        return
    whole = io.BytesIO()
    write_torch(whole, _described(obj, {}))
    if isinstance(f, (str, os.PathLike)):
        write_bytes(Path(f), whole.getvalue())
    else:
        f.write(whole.getvalue())


def load(
    f: PathLike | BinaryIO, map_location: Any = None, *, weights_only: bool | None = None,
    mmap: bool | None = None,
) -> Any:  # fmt: skip
    """What ``save`` or ``torch.save`` wrote, its tensors on the CPU wherever they were.

    No code of the file runs: ``weights_only=False`` changes nothing.  Raises ``WeightsError`` for a
    file that is missing, damaged, or asks for more than data.
    """
    return _with_tensors(load_arrays(f), {})


def _described(x: Any, known: dict[int, Any], depth: int = 0) -> Any:
    """The tree as the writer takes it; a tensor that occurs twice is one there."""
    if depth > MAX_DEPTH:
        raise WeightsError("cannot write: containers contain themselves or are nested too deep")
    if isinstance(x, Tensor):
        if id(x) not in known:
            array = np.ascontiguousarray(x.detach()._array()).reshape(tuple(x.shape))
            known[id(x)] = Stored(array, x.requires_grad, isinstance(x, Parameter))
        return known[id(x)]
    if isinstance(x, np.ndarray):
        return Stored(np.ascontiguousarray(x).reshape(x.shape))
    if isinstance(x, dtypes.dtype):
        return Named(x.name)
    if isinstance(x, dtypes.Size):
        return Named("Size", (tuple(x),))
    if isinstance(x, dict):
        kind = type(x) if type(x) is not dict and type(x).__name__ == "OrderedDict" else dict
        return kind((k, _described(v, known, depth + 1)) for k, v in x.items())
    if type(x) is list:
        return [_described(v, known, depth + 1) for v in x]
    if type(x) is tuple:
        return tuple([_described(v, known, depth + 1) for v in x])
    return x


def _with_tensors(x: Any, known: dict[int, Any]) -> Any:
    """The tree with tensors on the memory of its arrays."""
    if isinstance(x, np.ndarray):
        if id(x) not in known:
            known[id(x)] = Tensor.of_array(x)
        return known[id(x)]
    if isinstance(x, np.dtype):
        return dtypes.named(x)
    if isinstance(x, dict):
        return type(x)((k, _with_tensors(v, known)) for k, v in x.items())
    if isinstance(x, list):
        return [_with_tensors(v, known) for v in x]
    if isinstance(x, tuple):
        return tuple([_with_tensors(v, known) for v in x])
    return x
