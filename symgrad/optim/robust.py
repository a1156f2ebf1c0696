"""Rprop, whose steps follow signs of gradients, and ASGD, which averages parameters."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

import symgrad.numpy as snp
from symgrad.optim.optimizer import RuleOptimizer
from symgrad.optim.rule import Array, Now, Rule, Slots, cast, check, check_real


@dataclass(frozen=True)
class RpropRule(Rule):
    """Each parameter has a step size of its own, which grows while its gradient keeps its sign.

    M. Riedmiller and H. Braun, "A direct adaptive method for faster backpropagation learning"
    (1993).
    """

    lr: float = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50)
    _: KW_ONLY
    capturable: bool = False
    foreach: bool | None = None
    maximize: bool = False
    differentiable: bool = False

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        if not 0.0 < self.etas[0] < 1.0 < self.etas[1]:
            raise ValueError(f"Invalid eta values: {self.etas[0]}, {self.etas[1]}")
        check_real(self.differentiable)

    def slots(self, parameter: Array) -> Slots:
        """The gradient before, zero where its sign had changed, and the step sizes."""
        return {"prev": np.zeros_like(parameter), "step_size": np.full_like(parameter, self.lr)}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        g = -g if self.maximize else g
        agreement = g * slots["prev"]
        turned = agreement < 0
        smaller, larger = self.etas
        size = slots["step_size"]
        size = snp.where(turned, size * smaller, snp.where(agreement > 0, size * larger, size))
        size = snp.clip(size, *self.step_sizes)
        g = snp.where(turned, g * 0, g)
        return p - snp.sign(g) * size, {"prev": g, "step_size": size}


@dataclass(frozen=True)
class ASGDRule(Rule):
    """Gradient descent with a decaying rate; ``ax`` is the mean of the parameters since ``t0``.

    B. Polyak and A. Juditsky, "Acceleration of stochastic approximation by averaging" (1992).
    """

    lr: float = 1e-2
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: float = 0
    foreach: bool | None = None
    maximize: bool = False
    differentiable: bool = False
    capturable: bool = False

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        check("weight_decay value", self.weight_decay)
        check_real(self.differentiable)

    def slots(self, parameter: Array) -> Slots:
        """The next step's rate, its share in the mean, and the mean."""
        return {
            "eta": np.array(self.lr, np.float32), "mu": np.array(1, np.float32),
            "ax": np.zeros_like(parameter),
        }  # fmt: skip

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        g = -g if self.maximize else g
        if self.weight_decay:
            g = g + self.weight_decay * p
        eta, mu = (snp.astype(slots[name], np.float64) for name in ("eta", "mu"))
        p = p * cast(1 - self.lambd * eta, p) - cast(eta, p) * g
        mean = slots["ax"]
        mean = snp.where(mu == 1, p, mean + (p - mean) * cast(mu, p))
        rate = now.lr if isinstance(now.lr, int | float) else snp.astype(now.lr, np.float64)
        eta = rate / snp.power(1 + self.lambd * rate * now.step, self.alpha)
        mu = 1 / snp.maximum(now.step - self.t0, 1.0)
        moved = {"eta": snp.astype(eta, np.float32), "mu": snp.astype(mu, np.float32), "ax": mean}
        return p, moved


class Rprop(RuleOptimizer):
    """``RpropRule`` on tensors."""

    rule: ClassVar[Any] = RpropRule


class ASGD(RuleOptimizer):
    """``ASGDRule`` on tensors."""

    rule: ClassVar[Any] = ASGDRule
