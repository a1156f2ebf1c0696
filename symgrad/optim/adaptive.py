"""Step sizes from the squares of past gradients: Adagrad, Adadelta, RMSprop."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

import symgrad.numpy as snp
from symgrad.optim.optimizer import RuleOptimizer
from symgrad.optim.rule import Array, Now, Rule, Slots, cast, check, check_real


def _decayed(rule: Any, p: Array, g: Array) -> Array:
    """The gradient, turned about by ``maximize``, with the weight decay's part."""
    g = -g if rule.maximize else g
    return g + rule.weight_decay * p if rule.weight_decay else g


@dataclass(frozen=True)
class RMSpropRule(Rule):
    """``p -= lr g / (sqrt(v) + eps)`` with a running mean ``v`` of ``g^2``.

    With ``centered`` the square of the running mean of ``g`` is taken off ``v``; with
    ``momentum`` the quotients are added up.  G. Hinton, lecture 6e (2012); A. Graves (2013).
    """

    scheduled: ClassVar[tuple[str, ...]] = ("lr", "momentum")

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0
    momentum: float = 0
    centered: bool = False
    capturable: bool = False
    foreach: bool | None = None
    maximize: bool = False
    differentiable: bool = False

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        check("epsilon value", self.eps)
        check("momentum value", self.momentum)
        check("weight_decay value", self.weight_decay)
        check("alpha value", self.alpha)
        check_real(self.differentiable)

    def slots(self, parameter: Array) -> Slots:
        """A running mean of squares; a velocity and a running mean if they are wanted."""
        wanted = {
            "square_avg": True, "momentum_buffer": self.momentum, "grad_avg": self.centered,
        }  # fmt: skip
        return {name: np.zeros_like(parameter) for name, yes in wanted.items() if yes}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        g = _decayed(self, p, g)
        v = self.alpha * slots["square_avg"] + (1 - self.alpha) * (g * g)
        moved, spread = {"square_avg": v}, v
        if self.centered:
            mean = slots["grad_avg"] + (1 - self.alpha) * (g - slots["grad_avg"])
            moved["grad_avg"] = mean
            spread = v - mean * mean
        step = g / (snp.sqrt(spread) + self.eps)
        if self.momentum:
            moved["momentum_buffer"] = step = now.momentum * slots["momentum_buffer"] + step
        return p - now.lr * step, moved


@dataclass(frozen=True)
class AdagradRule(Rule):
    """``p -= lr g / (sqrt(s) + eps)`` with the sum ``s`` of all ``g^2``.

    The rate falls as ``1 / (1 + (step - 1) lr_decay)``.  J. Duchi et al., "Adaptive
    subgradient methods" (2011).
    """

    lr: float = 1e-2
    lr_decay: float = 0
    weight_decay: float = 0
    initial_accumulator_value: float = 0
    eps: float = 1e-10
    foreach: bool | None = None
    _: KW_ONLY
    maximize: bool = False
    differentiable: bool = False
    fused: bool | None = None

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        check("lr_decay value", self.lr_decay)
        check("weight_decay value", self.weight_decay)
        check("initial_accumulator_value value", self.initial_accumulator_value)
        check("epsilon value", self.eps)
        check_real(self.differentiable)

    def slots(self, parameter: Array) -> Slots:
        """The sum of squares."""
        return {"sum": np.full_like(parameter, self.initial_accumulator_value)}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        g = _decayed(self, p, g)
        total = slots["sum"] + g * g
        rate = now.lr
        if self.lr_decay:
            rate = rate / cast(1 + (now.step - 1) * self.lr_decay, p)
        return p - rate * (g / (snp.sqrt(total) + self.eps)), {"sum": total}


@dataclass(frozen=True)
class AdadeltaRule(Rule):
    """Steps as large as past steps, relative to past gradients.

    M. Zeiler, "Adadelta" (2012).
    """

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0
    foreach: bool | None = None
    _: KW_ONLY
    capturable: bool = False
    maximize: bool = False
    differentiable: bool = False

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        if not 0 <= self.rho <= 1:
            raise ValueError(f"Invalid rho value: {self.rho}")
        check("epsilon value", self.eps)
        check("weight_decay value", self.weight_decay)
        check_real(self.differentiable)

    def slots(self, parameter: Array) -> Slots:
        """Running means of the squares of gradients and of steps."""
        return {name: np.zeros_like(parameter) for name in ("square_avg", "acc_delta")}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        g = _decayed(self, p, g)
        v = self.rho * slots["square_avg"] + (1 - self.rho) * (g * g)
        step = snp.sqrt(slots["acc_delta"] + self.eps) / snp.sqrt(v + self.eps) * g
        past = self.rho * slots["acc_delta"] + (1 - self.rho) * (step * step)
        return p - now.lr * step, {"square_avg": v, "acc_delta": past}


class RMSprop(RuleOptimizer):
    """``RMSpropRule`` on tensors."""

    rule: ClassVar[Any] = RMSpropRule


class Adagrad(RuleOptimizer):
    """``AdagradRule`` on tensors."""

    rule: ClassVar[Any] = AdagradRule


class Adadelta(RuleOptimizer):
    """``AdadeltaRule`` on tensors."""

    rule: ClassVar[Any] = AdadeltaRule
