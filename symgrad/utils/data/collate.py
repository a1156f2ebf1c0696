"""Examples put together to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from symgrad.tensors import Tensor
from symgrad.tensors.creation import tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Examples along a new first axis: tensors, arrays and numbers become tensors.

    Tuples, lists and mappings keep their structure; texts stay as they are.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return Tensor.of_array(np.stack([x._array() for x in batch]))
    if isinstance(first, np.ndarray | np.generic):
        return Tensor.of_array(np.stack([np.asarray(x) for x in batch]))
    if isinstance(first, float):
        return tensor(batch, dtype=np.float64)
    if isinstance(first, int):
        return tensor(list(batch))
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return {key: default_collate([x[key] for x in batch]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(default_collate, zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(x) != len(first) for x in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        return [default_collate(column) for column in zip(*batch, strict=True)]
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {type(first)}"
    )
