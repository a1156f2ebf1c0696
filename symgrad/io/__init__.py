"""Files of weights: ``load`` reads PyTorch's and safetensors', ``save`` writes safetensors.

Reading never runs code from a file: pickles go through an interpreter that knows data and a
handful of torch's names, and refuses everything else.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from symgrad.io.errors import DamagedError, RefusedError, WeightsError
from symgrad.io.safetensors_format import read_safetensors, write_safetensors
from symgrad.io.torch_format import read_torch

__all__ = ["WeightsError", "load", "save", "state_dict"]

Array = np.ndarray[Any, Any]


def load(path: str | os.PathLike[str] | BinaryIO) -> Any:
    """What a ``.safetensors``, ``.pth`` or ``.pt`` file holds, its tensors as NumPy arrays.

    ``path`` may be a file that is open for reading, which is read from where it is.

    The format is told from the content, not the name.  A state dict comes back as a
    dictionary of arrays; a nested checkpoint keeps its structure (``state_dict`` finds the
    weights in it).  dtypes are kept, except that bfloat16, which NumPy lacks, becomes
    float32 without loss.  Parameters and tensors are not told apart.

    Raises ``WeightsError`` for a file that is missing, damaged, or asks for anything beyond
    tensors and plain Python data.
    """
    if not isinstance(path, (str, os.PathLike)):
        content = path.read()
        return _read(Path(getattr(path, "name", "the open file")), lambda: io.BytesIO(content))
    found = Path(path)
    return _read(found, lambda: open(found, "rb"))


def _read(path: Path, opened: Callable[[], BinaryIO]) -> Any:
    try:
        with opened() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            start = file.read(9)
            file.seek(0)
            if start[8:] == b"{":
                return read_safetensors(file.read())
            return read_torch(file, size)
    except OSError as error:
        raise WeightsError.of(path, "cannot read", error) from error
    except DamagedError as error:
        raise WeightsError(f"{path}: truncated or damaged: {error}") from None
    except RefusedError as error:
        raise WeightsError(
            f"{path}: refused: {error}; if you trust the file, load it with PyTorch and save "
            "its tensors alone: torch.save(model.state_dict(), path)"
        ) from None


def save(
    state: Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a flat dictionary of arrays (or tensors) as a ``.safetensors`` file.

    ``metadata`` goes into the file's header.  The file appears whole or not at all: when
    writing fails (``WeightsError``: full disk, no permission) an older file stays intact.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path}: cannot write: weights are saved as .safetensors, "
            f"for instance {path.with_suffix('.safetensors').name}"
        )
    write_safetensors(path, state, metadata)


def state_dict(checkpoint: Any) -> dict[str, Array]:
    """The weights of a loaded checkpoint: itself, or what it holds under a usual name.

    The prefix ``module.``, which PyTorch's ``DataParallel`` adds to every name, is dropped.
    """
    for candidate in (checkpoint, *_entries(checkpoint, "state_dict", "model_state_dict", "model")):
        if _is_state(candidate):
            wrapped = all(name.startswith("module.") for name in candidate)
            return {k.removeprefix("module.") if wrapped else k: v for k, v in candidate.items()}
    found = ", ".join(map(repr, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint)
    raise WeightsError(f"no state dict in the checkpoint, which holds: {found}")


def _entries(checkpoint: Any, *names: str) -> list[Any]:
    return [checkpoint.get(name) for name in names] if isinstance(checkpoint, dict) else []


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and hasattr(v, "dtype") for k, v in value.items())
    )
