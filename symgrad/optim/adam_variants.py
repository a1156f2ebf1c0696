"""Relatives of Adam: Adamax, NAdam and RAdam."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

import symgrad.numpy as snp
from symgrad.optim.adam import MomentsRule, mean_of, mean_square
from symgrad.optim.optimizer import RuleOptimizer
from symgrad.optim.rule import Array, Now, Slots, cast, check


@dataclass(frozen=True)
class AdamaxRule(MomentsRule):
    """Adam with a decaying maximum of ``|g|`` in place of the root of the mean square.

    D. Kingma and J. Ba, "Adam" (2014), section 7.
    """

    lr: float = 2e-3
    foreach: bool | None = None
    _: KW_ONLY
    maximize: bool = False
    differentiable: bool = False
    capturable: bool = False

    def slots(self, parameter: Array) -> Slots:
        """A running mean of the gradient and the decaying maximum."""
        return {name: np.zeros_like(parameter) for name in ("exp_avg", "exp_inf")}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        p, g = self.decayed(p, g, now)
        beta1, beta2 = now.betas
        m = mean_of(slots["exp_avg"], g, beta1)
        u = snp.maximum(cast(beta2, g) * slots["exp_inf"], snp.abs(g) + self.eps)
        size = cast(1 - snp.power(beta1, now.step), p)
        return p - (now.lr / size) * (m / u), {"exp_avg": m, "exp_inf": u}


@dataclass(frozen=True)
class NAdamRule(MomentsRule):
    """Adam with Nesterov's look-ahead, its momentum growing from half to all of ``beta1``.

    T. Dozat, "Incorporating Nesterov momentum into Adam" (2016).
    """

    lr: float = 2e-3
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False
    _: KW_ONLY
    foreach: bool | None = None
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check("momentum_decay value", self.momentum_decay)

    def slots(self, parameter: Array) -> Slots:
        """The running means, and the product of all momenta."""
        return {"mu_product": np.array(1, np.float32), **super().slots(parameter)}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        p, g = self.decayed(p, g, now)
        beta1, beta2 = now.betas
        m = mean_of(slots["exp_avg"], g, beta1)
        v = mean_square(slots["exp_avg_sq"], g, beta2)
        mu = beta1 * (1 - 0.5 * snp.power(0.96, now.step * self.momentum_decay))
        ahead = beta1 * (1 - 0.5 * snp.power(0.96, (now.step + 1) * self.momentum_decay))
        product = slots["mu_product"] * snp.astype(mu, np.float32)
        whole = snp.astype(product, np.float64)
        rate = now.lr if isinstance(now.lr, int | float) else snp.astype(now.lr, np.float64)
        own = cast(rate * (1 - mu) / (1 - whole), p)
        next_ = cast(rate * ahead / (1 - whole * ahead), p)
        root = snp.sqrt(v / cast(1 - snp.power(beta2, now.step), p)) + self.eps
        moved = {"mu_product": product, "exp_avg": m, "exp_avg_sq": v}
        return p - own * (g / root) - next_ * (m / root), moved


@dataclass(frozen=True)
class RAdamRule(MomentsRule):
    """Adam whose step size is corrected for the few squares seen in the beginning.

    L. Liu et al., "On the variance of the adaptive learning rate and beyond" (2019).
    """

    decoupled_weight_decay: bool = False
    _: KW_ONLY
    foreach: bool | None = None
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """One step."""
        p, g = self.decayed(p, g, now)
        beta1, beta2 = now.betas
        m = mean_of(slots["exp_avg"], g, beta1)
        v = mean_square(slots["exp_avg_sq"], g, beta2)
        power = snp.power(beta2, now.step)
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * now.step * power / (1 - power)
        enough = length > 5
        safe = snp.where(enough, length, 6.0)  # the branch not taken shall have no root of < 0
        share = (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe)
        root = snp.sqrt(share) * snp.sqrt(1 - power)
        corrected = m / cast(1 - snp.power(beta1, now.step), p)
        adaptive = cast(root, p) / (snp.sqrt(v) + self.eps)
        factor = snp.where(enough, adaptive, adaptive * 0 + 1)
        return p - now.lr * (corrected * factor), {"exp_avg": m, "exp_avg_sq": v}


class Adamax(RuleOptimizer):
    """``AdamaxRule`` on tensors."""

    rule: ClassVar[Any] = AdamaxRule


class NAdam(RuleOptimizer):
    """``NAdamRule`` on tensors."""

    rule: ClassVar[Any] = NAdamRule


class RAdam(RuleOptimizer):
    """``RAdamRule`` on tensors."""

    rule: ClassVar[Any] = RAdamRule
