"""Stochastic gradient descent as a pure function of parameters, gradients and state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.ir.errors import UsageError

Array = Any
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class SGD:
    """Gradient descent with momentum, weight decay and Nesterov's look-ahead, as PyTorch's.

    ``v = momentum v + (1 - dampening) g`` with ``g = gradient + weight_decay p`` (at the first
    step ``v = g``), then ``p -= lr v``, or ``p -= lr (g + momentum v)`` with ``nesterov``.

    Given tensors first, ``SGD(model.parameters(), lr=0.01)`` is an ``Optimizer`` of them
    that follows this rule.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if "params" in kwargs or (args and isinstance(args[0], Iterable)):
            from symgrad.optim.optimizer import Optimizer

            return Optimizer(cls, *args, **kwargs)
        return object.__new__(cls)

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0 or self.momentum < 0 or self.weight_decay < 0:
            raise UsageError(f"SGD: lr, momentum and weight_decay must not be negative: {self}")
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise UsageError("SGD: nesterov needs a momentum and zero dampening")

    def init(self, params: Arrays) -> dict[str, Array]:
        """The state before the first step: a velocity per parameter, if there is momentum."""
        if not self.momentum:
            return {}
        state: dict[str, Array] = {name: np.zeros_like(p) for name, p in params.items()}
        if self.dampening:
            state["_steps"] = np.array(0, np.int64)
        return state

    def apply(
        self, params: Arrays, grads: Arrays, state: Arrays, lr: Array | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """``(new_params, new_state)`` after one step; ``lr`` may be a traced schedule's value."""
        updated: dict[str, Array] = {}
        velocities: dict[str, Array] = {}
        fresh = 1.0 - self.dampening
        if "_steps" in state:
            fresh = snp.where(state["_steps"] == 0, 1.0, fresh)
            velocities["_steps"] = state["_steps"] + 1
        for name, p in params.items():
            g = grads[name] + self.weight_decay * p if self.weight_decay else grads[name]
            if self.momentum:
                share = g if not self.dampening else g * snp.astype(fresh, g.dtype)
                v = self.momentum * state[name] + share
                velocities[name] = v
                g = g + self.momentum * v if self.nesterov else v
            # A schedule's value may be wider than the parameters, which keep their dtype.
            rate = self.lr if lr is None else snp.astype(snp.asarray(lr), p.dtype)
            updated[name] = p - rate * g
        return updated, velocities
