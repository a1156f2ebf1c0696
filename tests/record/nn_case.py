"""A call of ``torch.nn.functional`` to record: see ``nn_cases``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import references as R

Array = np.ndarray[Any, Any]


@dataclass
class Case:
    """A call to record; inputs given as shapes are drawn, arrays are taken as they are."""

    op: str
    name: str
    inputs: dict[str, Any]
    attrs: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, Array]:
        return {k: self._array(k, v) for k, v in self.inputs.items()}

    def _array(self, name: str, value: Any) -> Array:
        if isinstance(value, np.ndarray):
            return value
        low = 0.5 if name == "running_var" else -2.0
        return few_bits(R.draw(f"{self.op}/{self.name}/{name}", value, low, 2.0))


def few_bits(x: Array) -> Array:
    """Multiples of 1/1024: exact in float32, and the file compresses well."""
    return np.round(x.astype(np.float64) * 1024) / 1024


def spell(options: dict[str, Any]) -> str:
    """A case's name from what differs in it: ``stride2-padding1x0``."""
    parts = [k + "x".join(map(str, np.atleast_1d(v))) for k, v in options.items()]
    return "-".join(parts) or "default"
