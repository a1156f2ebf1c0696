"""Stopping and resuming a training run, to the last bit.

A checkpoint is one ``.safetensors`` file: the arrays under ``parameters/``, ``state/`` and
``momentum/``, everything else as JSON in the header.  It replaces its predecessor at once or
not at all.  Batches follow from seed, epoch and batch number (``Batches.epoch``), so no state
of a random generator has to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from symgrad.io import load, save
from symgrad.io.errors import WeightsError
from symgrad.io.safetensors_format import read_metadata

Array = np.ndarray[Any, Any]

HEADER = "symgrad.checkpoint"
GROUPS = ("parameters", "state", "momentum")


@dataclass(frozen=True)
class Progress:
    """Where a run is: the epoch (from 0), its next batch, the seed and what was measured.

    ``settings`` are the options the run began with; ``sums`` what the epoch under way has
    gathered; ``history`` has one entry per finished epoch.  All hold what JSON can: floats
    return with the same bits.
    """

    epoch: int = 0
    batch: int = 0
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """All a run needs to go on: arrays by name, and the progress."""

    parameters: Mapping[str, Array]
    state: Mapping[str, Array]
    momentum: Mapping[str, Array]
    progress: Progress

    def save(self, path: Path) -> None:
        """Write the checkpoint; raises ``WeightsError`` and leaves an older one as it was."""
        arrays = {f"{group}/{k}": v for group in GROUPS for k, v in getattr(self, group).items()}
        save(arrays, path, {HEADER: json.dumps(asdict(self.progress))})

    @classmethod
    def load(cls, path: Path, expected: Mapping[str, Array] | None = None) -> Self:
        """Read a checkpoint; ``expected`` are the model's parameters, to compare shapes with.

        Raises ``WeightsError`` for a file that is no checkpoint, or one of another model.
        """
        arrays = load(path)
        header = read_metadata(path).get(HEADER) if path.suffix == ".safetensors" else None
        if header is None:
            raise WeightsError(f"{path}: not a checkpoint of a training run")
        groups: dict[str, dict[str, Array]] = {group: {} for group in GROUPS}
        try:
            for name, array in arrays.items():
                group, _, rest = name.partition("/")
                groups[group][rest] = array
            checkpoint = cls(progress=Progress(**json.loads(header)), **groups)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: a checkpoint of another version ({error})") from error
        if expected is not None and (difference := mismatch(checkpoint.parameters, expected)):
            raise WeightsError(f"{path}: a checkpoint of another model: {difference}")
        return checkpoint


def mismatch(found: Mapping[str, Array], expected: Mapping[str, Array]) -> str | None:
    """What keeps ``found`` from being the weights ``expected``: names or shapes, in a phrase."""
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        return f"{min(missing)!r} is missing" + _more(missing)
    if extra:
        return f"{min(extra)!r} is not in the model" + _more(extra)
    shapes = {
        name: f"{name!r} has shape {list(found[name].shape)}, the model {list(value.shape)}"
        for name, value in expected.items()
        if found[name].shape != value.shape
    }
    return shapes[min(shapes)] + _more(shapes.keys()) if shapes else None


def _more(names: Any) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
