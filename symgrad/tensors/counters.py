"""Tensors of one number that counts steps, which Python changes and programs seldom look at."""

from __future__ import annotations

from typing import Any

import numpy as np

from symgrad.tensors.contents import Handle
from symgrad.tensors.handle import Tensor


def advance(counter: Tensor) -> Any:
    """Adds 1 to a tensor of one number; returns the new number.

    The number lies in an array that shares the tensor's memory, as an array of the user's would:
    counting records nothing and makes no value, and who looks at the tensor sees the present one.
    """
    handle = counter._tracer
    if type(handle) is not Handle:  # a view, whose base knows no array
        counter._set_array(np.array(counter._array() + 1, counter._dtype))
        return counter._array().item()
    array = handle.outside()
    if array is None:
        array = np.array(counter._array())
        handle.share(array)
    number = array.item() + 1
    array[()] = number
    return number
