"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

import symgrad.numpy as snp
from symgrad.optim.optimizer import RuleOptimizer
from symgrad.optim.rule import Array, Now, Rule, Slots, cast, check, check_real


@dataclass(frozen=True)
class SGDRule(Rule):
    """Gradient descent with momentum, weight decay and Nesterov's look-ahead, as PyTorch's.

    ``v = momentum v + (1 - dampening) g`` with ``g = gradient + weight_decay p`` (at the first
    step ``v = g``), then ``p -= lr v``, or ``p -= lr (g + momentum v)`` with ``nesterov``.
    """

    scheduled: ClassVar[tuple[str, ...]] = ("lr", "momentum")

    lr: float = 1e-3
    momentum: float = 0
    dampening: float = 0
    weight_decay: float = 0
    nesterov: bool = False
    _: KW_ONLY
    maximize: bool = False
    foreach: bool | None = None
    differentiable: bool = False
    fused: bool | None = None

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        check("momentum value", self.momentum)
        check("weight_decay value", self.weight_decay)
        check_real(self.differentiable)
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    @property
    def counter(self) -> str | None:  # type: ignore[override]
        """Steps matter for dampening alone, which begins with the second; torch keeps no count."""
        return "_step" if self.momentum and self.dampening else None

    def slots(self, parameter: Array) -> Slots:
        """A velocity, if there is momentum."""
        return {"momentum_buffer": np.zeros_like(parameter)} if self.momentum else {}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step down, or up with ``maximize``."""
        if self.maximize:
            g = -g
        if self.weight_decay:
            g = g + self.weight_decay * p
        moved: Slots = {}
        if self.momentum:
            share = g
            if self.dampening:
                share = g * cast(snp.where(now.step == 1, 1.0, 1.0 - self.dampening), g)
            v = now.momentum * slots["momentum_buffer"] + share
            moved["momentum_buffer"] = v
            g = g + now.momentum * v if self.nesterov else v
        return p - now.lr * g, moved


class SGD(RuleOptimizer):
    """``SGDRule`` on tensors: ``SGD(model.parameters(), lr=0.01)``.

    Without parameters first, ``SGD(lr=0.01)`` is the rule itself.
    """

    rule: ClassVar[Any] = SGDRule
