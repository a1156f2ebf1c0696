"""``out=``: functions that put their result into given tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from symgrad.tensors.handle import Tensor
from symgrad.tensors.methods import in_place
from symgrad.tensors.state import is_grad_enabled

_WITHOUT = frozenset({"clone", "detach", "unbind", "split", "chunk", "equal", "allclose"})


def with_out(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a keyword ``out``: a tensor, or one for each result."""
    if name in _WITHOUT:
        return function

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if "out" not in named:
            return function(*args, **named)
        out = named.pop("out")
        result = function(*args, **named)
        if out is None:
            return result
        pairs = [(out, result)] if isinstance(out, Tensor) else zip(out, result, strict=True)
        for target, new in pairs:
            _put(name, target, new)
        return out

    return call


def _put(name: str, target: Tensor, new: Tensor) -> None:
    if is_grad_enabled() and (target.requires_grad or new.requires_grad):
        raise RuntimeError(
            f"{name}(): functions with out=... arguments don't support automatic differentiation, "
            "but one of the arguments requires grad."
        )
    if target.shape != new.shape:
        target.resize_(tuple(new.shape))
    in_place(target, new)
