"""How tensors are printed: torch's rules, to the letter.

Four decimals; no decimals but a point when all are whole; scientific when magnitudes
span more than 1000 or leave [1e-4, 1e8]; beyond 1000 elements three at either end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad.ir import dtype_of
from symgrad.ir.opdef import Array

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor


class _Options:
    """How tensors are printed; see ``set_printoptions``."""

    precision, edgeitems, threshold, linewidth = 4, 3, 1000, 80
    sci_mode: bool | None = None


def set_printoptions(
    precision: int | None = None, threshold: int | None = None, edgeitems: int | None = None,
    linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None,
) -> None:  # fmt: skip
    """Sets decimals, the size from which and to how many elements tensors are shortened,
    the width of lines, and whether numbers are written in scientific form."""
    profiles = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80),
                "full": (4, math.inf, 3, 80)}  # fmt: skip
    names = ("precision", "threshold", "edgeitems", "linewidth")
    if profile is not None:
        for name, value in zip(names, profiles[profile], strict=True):
            setattr(_Options, name, value)
    for name, given in zip(names, (precision, threshold, edgeitems, linewidth), strict=True):
        if given is not None:
            setattr(_Options, name, given)
    _Options.sci_mode = sci_mode


def render(tensor: Tensor) -> str:
    """The text of ``repr(tensor)``."""
    from symgrad.tensors.dtypes import get_default_dtype

    prefix, array, dtype = "tensor(", tensor._array(), tensor.dtype
    notes = []
    if not array.size:
        body = "[]"
        if array.ndim != 1:
            notes.append(f"size={tuple(array.shape)}")
        if dtype is not get_default_dtype():
            notes.append(f"dtype={dtype}")
    else:
        summarize = array.size > _Options.threshold
        form, width = _format_for(_corners(array) if summarize else array)
        body = _block(array, len(prefix), summarize, form, width)
        if dtype is not get_default_dtype() and dtype.name not in ("int64", "bool"):
            notes.append(f"dtype={dtype}")
    if tensor.grad_fn is not None:
        notes.append(f"grad_fn=<{type(tensor.grad_fn).__name__}>")
    elif tensor.requires_grad:
        notes.append("requires_grad=True")
    return _with_notes(prefix + body, notes, len(prefix))


def _with_notes(text: str, notes: list[str], indent: int) -> str:
    used = len(text) - text.rfind("\n") + 1
    for note in notes:
        if used + len(note) + 2 > _Options.linewidth:
            text += ",\n" + " " * indent + note
            used = indent + len(note)
        else:
            text += ", " + note
            used += len(note) + 2
    return text + ")"


def _corners(array: Array) -> Array:
    """The elements that a summary shows."""
    for axis, size in enumerate(array.shape):
        if size > 2 * _Options.edgeitems:
            ends = [*range(_Options.edgeitems), *range(size - _Options.edgeitems, size)]
            array = np.take(array, ends, axis)
    return array


def _format_for(array: Array) -> tuple[Callable[[Any], str], int]:
    """How to write one element, and the width all are padded to."""
    if not dtype_of(array.dtype).is_float:
        return str, max(len(str(x)) for x in array.reshape(-1).tolist())
    values = array.reshape(-1).astype(np.float64)
    shown = values[np.isfinite(values) & (values != 0)]
    if not shown.size:
        return _whole, 1
    low, high = np.abs(shown).min(), np.abs(shown).max()
    whole = bool((shown == np.ceil(shown)).all())
    scientific = _Options.sci_mode
    if scientific is None:
        scientific = bool(high / low > 1000 or high > 1e8 or (not whole and low < 1e-4))
    form: Callable[[Any], str] = _scientific if scientific else _whole if whole else _fixed
    return form, max(len(form(x)) for x in shown.tolist())


def _whole(x: float) -> str:
    return f"{x:.0f}." if math.isfinite(x) else f"{x:.0f}"


def _fixed(x: float) -> str:
    return f"{x:.{_Options.precision}f}"


def _scientific(x: float) -> str:
    return f"{x:.{_Options.precision}e}"


def _block(
    array: Array, indent: int, summarize: bool, form: Callable[[Any], str], width: int
) -> str:
    if not array.ndim:
        return form(array.item()).rjust(width)
    shortened = summarize and len(array) > 2 * _Options.edgeitems
    if array.ndim == 1:
        chosen = (
            [*array[: _Options.edgeitems], *array[-_Options.edgeitems :]] if shortened else array
        )
        words = [form(x.item()).rjust(width) for x in chosen]
        if shortened:
            words.insert(_Options.edgeitems, " ...")
        per_line = max(1, (_Options.linewidth - indent) // (width + 2))
        lines = [", ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    rows = [*array[: _Options.edgeitems], *array[-_Options.edgeitems :]] if shortened else array
    blocks = [_block(row, indent + 1, summarize, form, width) for row in rows]
    if shortened:
        blocks.insert(_Options.edgeitems, "...")
    separator = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + separator.join(blocks) + "]"
