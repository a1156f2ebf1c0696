"""Whether operations are tracked for derivatives: per thread, as contexts and decorators."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


class _Mode(threading.local):
    tracking = True
    inference = False


MODE = _Mode()
"""That of this thread."""


def is_grad_enabled() -> bool:
    """Whether operations are tracked now."""
    return MODE.tracking


def is_inference_mode_enabled() -> bool:
    """Whether ``inference_mode`` is on."""
    return MODE.inference


class _Tracking:
    """Sets the mode within ``with`` or a decorated function; may be nested and reused."""

    def __init__(self, tracking: bool, inference: bool | None = None) -> None:
        self._wanted = tracking, inference
        self._outer: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._outer.append((MODE.tracking, MODE.inference))
        self._set()

    def __exit__(self, *exc: object) -> None:
        MODE.tracking, MODE.inference = self._outer.pop()

    def _set(self) -> None:
        tracking, inference = self._wanted
        MODE.tracking = tracking
        if inference is not None:
            MODE.inference = inference

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        tracking, inference = self._wanted

        @functools.wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with _Tracking(tracking, inference):
                return function(*args, **kwargs)

        return within


def no_grad(function: Callable[..., Any] | None = None) -> Any:
    """Operations within are not tracked: a context, or a decorator with or without ``()``."""
    return _Tracking(False) if function is None else _Tracking(False)(function)


def enable_grad(function: Callable[..., Any] | None = None) -> Any:
    """Operations within are tracked, whatever surrounds them."""
    return _Tracking(True) if function is None else _Tracking(True)(function)


def inference_mode(mode: bool | Callable[..., Any] = True) -> Any:
    """As ``no_grad``, for values that will never need a derivative."""
    if callable(mode):
        return _Tracking(False, True)(mode)
    return _Tracking(not mode, mode)


class set_grad_enabled(_Tracking):  # noqa: N801  (torch's name)
    """Switches tracking at once; as a context only for the block."""

    def __init__(self, mode: bool) -> None:
        super().__init__(mode)
        self._before = MODE.tracking, MODE.inference
        self._set()

    def __enter__(self) -> None:
        self._outer.append(self._before)
        self._set()
