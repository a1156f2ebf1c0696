"""torch's switches for what is always so here: compiled, deterministic, in full precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

_PRECISIONS = ("highest", "high", "medium")


def compile(model: Any = None, **options: Any) -> Any:
    """The model or function itself: programs of tensors are compiled as they are.

    ``symgrad.jit`` compiles a function as a whole.  Without a model, a decorator.
    """
    return (lambda model: model) if model is None else model


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Nothing: the same inputs, on as many threads, give the same bits."""


def are_deterministic_algorithms_enabled() -> bool:
    """``True``"""
    return True


def set_float32_matmul_precision(precision: str) -> None:
    """Nothing: products of float32 are computed in float32."""
    if precision not in _PRECISIONS:
        raise RuntimeError(
            f"precision must be one of {', '.join(_PRECISIONS)}, but got {precision}"
        )


def get_float32_matmul_precision() -> str:
    """``"highest"``"""
    return "highest"


@contextlib.contextmanager
def autocast(
    device_type: str = "cpu", dtype: Any = None, enabled: bool = True, cache_enabled: Any = None
) -> Iterator[None]:
    """A block in which nothing is cast: raises ``NotImplementedError`` if that is asked for.

    For a device that is not there it is off, as torch's.
    """
    if enabled and device_type == "cpu":
        raise NotImplementedError(
            "autocast: tensors are computed in their own types; convert the model and its inputs, "
            "or pass enabled=False"
        )
    yield


PUBLIC: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        compile, use_deterministic_algorithms, are_deterministic_algorithms_enabled,
        set_float32_matmul_precision, get_float32_matmul_precision, autocast,
    )
}  # fmt: skip
