"""Activations that are written into their input, under torch's names: ``relu_`` and the like."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from symgrad.nn.functions import activations
from symgrad.nn.functions.sampling import rrelu


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(input: Any, *args: Any, **options: Any) -> Any:
        return function(input, *args, **options, inplace=True)

    call.__name__ = call.__qualname__ = f"{function.__name__}_"
    call.__doc__ = f"``{function.__name__}``, written into the input."
    return call


celu_ = _in_place(activations.celu)
elu_ = _in_place(activations.elu)
hardtanh_ = _in_place(activations.hardtanh)
leaky_relu_ = _in_place(activations.leaky_relu)
relu_ = _in_place(activations.relu)
rrelu_ = _in_place(rrelu)
selu_ = _in_place(activations.selu)
threshold_ = _in_place(activations.threshold)
