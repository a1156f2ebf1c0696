"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from symgrad.tensors import NAMES, Tensor

_torch: dict[str, Any] = NAMES


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of all parameters in one axis."""
    return _torch["cat"]([p.reshape(-1) for p in parameters])  # type: ignore[no-any-return]


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Writes the elements of a vector into the parameters: undoes ``parameters_to_vector``."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__name__}")
    for parameter, part in _parts(vec, parameters):
        parameter.data = part


def _parts(vec: Tensor, parameters: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        yield parameter, vec[start:stop].reshape(parameter.shape)
        start = stop
