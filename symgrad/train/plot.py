"""The picture of a training run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symgrad.io.atomic import write_bytes
from symgrad.train.data import DataError
from symgrad.train.extras import optional

INK, GRID = "#333333", "#dddddd"
COLOURS = ("#1f6fb4", "#d9622b", "#2f8f4e")


def plot_history(
    path: Path,
    title: str,
    losses: Mapping[str, Sequence[float]],
    accuracies: Mapping[str, Sequence[float]],
) -> None:
    """Write a PNG with losses (log scale) and accuracies (shares, 0 to 1) over the epochs.

    The legend gives each curve's last value.  Raises ``DataError`` when the file cannot be
    written; an older one then stays.
    """
    figure = optional("matplotlib.figure").Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title, color=INK)
    left, right = figure.subplots(1, 2)
    _curves(left, losses, "loss", "{:.3g}")
    if any(value > 0 for curve in losses.values() for value in curve):
        left.set_yscale("log")
    percent = {name: [100 * share for share in curve] for name, curve in accuracies.items()}
    _curves(right, percent, "accuracy, %", "{:.1f} %")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes(path, buffer.getvalue(), DataError)


def _curves(axes: Any, curves: Mapping[str, Sequence[float]], label: str, value: str) -> None:
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        epochs = range(1, len(curve) + 1)
        last = ", " + value.format(curve[-1]) if curve else ""
        axes.plot(epochs, curve, color=colour, marker="o", markersize=3, label=name + last)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(colors=INK)
    if curves:
        axes.legend(frameon=False)
