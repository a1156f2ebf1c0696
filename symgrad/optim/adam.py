"""Adam and AdamW."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

import symgrad.numpy as snp
from symgrad.optim.optimizer import RuleOptimizer
from symgrad.optim.rule import (
    Array,
    Now,
    Rule,
    Slots,
    cast,
    check,
    check_betas,
    check_real,
)


@dataclass(frozen=True)
class MomentsRule(Rule):
    """What Adam and its kin share: options, and running means of ``g`` and ``g^2``."""

    scheduled: ClassVar[tuple[str, ...]] = ("lr", "betas")

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0

    def __post_init__(self) -> None:
        check("learning rate", self.lr)
        check("epsilon value", self.eps)
        check_betas(self.betas)
        check("weight_decay value", self.weight_decay)
        check_real(getattr(self, "differentiable", False))

    def slots(self, parameter: Array) -> Slots:
        """Running means of the gradient and its square."""
        return {name: np.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}

    def decayed(self, p: Array, g: Array, now: Now) -> tuple[Array, Array]:
        """Parameter and gradient after weight decay, which may act on either."""
        if getattr(self, "maximize", False):
            g = -g
        if not self.weight_decay:
            return p, g
        if getattr(self, "decoupled_weight_decay", False):
            return p * (1 - now.lr * self.weight_decay), g
        return p, g + self.weight_decay * p


def mean_of(old: Array, new: Array, beta: Array) -> Array:
    """A running mean moved towards a new value by ``1 - beta``."""
    return old + (new - old) * cast(1 - beta, new)


def mean_square(old: Array, g: Array, beta: Array) -> Array:
    """A running mean of squares moved on by ``1 - beta``."""
    return cast(beta, g) * old + cast(1 - beta, g) * (g * g)


@dataclass(frozen=True)
class AdamRule(MomentsRule):
    """``p -= lr m / (sqrt(v) + eps)`` with running means ``m`` of ``g`` and ``v`` of ``g^2``,
    both divided by ``1 - beta^step``.

    With ``amsgrad`` the largest ``v`` so far takes its place.  D. Kingma and J. Ba, "Adam"
    (2014); S. Reddi et al., "On the convergence of Adam and beyond" (2018).
    """

    amsgrad: bool = False
    _: KW_ONLY
    maximize: bool = False
    foreach: bool | None = None
    capturable: bool = False
    differentiable: bool = False
    fused: bool | None = None
    decoupled_weight_decay: bool = False

    def slots(self, parameter: Array) -> Slots:
        """The running means, and with ``amsgrad`` the largest of the second."""
        means = super().slots(parameter)
        return means | ({"max_exp_avg_sq": np.zeros_like(parameter)} if self.amsgrad else {})

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        p, g = self.decayed(p, g, now)
        beta1, beta2 = now.betas
        m = mean_of(slots["exp_avg"], g, beta1)
        v = mean_square(slots["exp_avg_sq"], g, beta2)
        moved = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            moved["max_exp_avg_sq"] = v = snp.maximum(slots["max_exp_avg_sq"], v)
        root = cast(snp.sqrt(1 - snp.power(beta2, now.step)), p)
        size = cast(1 - snp.power(beta1, now.step), p)
        return p - (now.lr / size) * (m / (snp.sqrt(v) / root + self.eps)), moved


@dataclass(frozen=True)
class AdamWRule(AdamRule):
    """Adam whose weight decay acts on the parameters themselves, not on the gradients.

    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization" (2017).
    """

    weight_decay: float = 1e-2
    decoupled_weight_decay: bool = True


class Adam(RuleOptimizer):
    """``AdamRule`` on tensors."""

    rule: ClassVar[Any] = AdamRule


class AdamW(RuleOptimizer):
    """``AdamWRule`` on tensors."""

    rule: ClassVar[Any] = AdamWRule
