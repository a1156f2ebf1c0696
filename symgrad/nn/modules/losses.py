"""Losses as modules: functions of ``nn.functional`` with their options kept."""

from __future__ import annotations

from typing import Any, ClassVar

from symgrad.nn import functional as F
from symgrad.nn.module import Module
from symgrad.tensors import Tensor

Array = Any


class _Loss(Module):
    """A function of predictions and targets, and its options: attributes of the same names."""

    _function: ClassVar[Any]

    def __init__(self, *, weights: dict[str, Tensor | None] | None = None, **options: Any) -> None:
        super().__init__()
        for name, value in (weights or {}).items():
            self.register_buffer(name, value)
        self._options = (*(weights or {}), *options)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, *inputs: Array) -> Array:
        """A number, or with ``reduction="none"`` one per element or example."""
        options = {name: getattr(self, name) for name in self._options}
        return type(self)._function(*inputs, **options)


class CrossEntropyLoss(_Loss):
    """Cross-entropy of logits against classes or probabilities; see ``functional``."""

    _function = F.cross_entropy

    def __init__(
        self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(
            weights={"weight": weight}, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing,
        )  # fmt: skip


class NLLLoss(_Loss):
    """Minus the log-probabilities at class numbers; see ``functional.nll_loss``."""

    _function = F.nll_loss

    def __init__(
        self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(weights={"weight": weight}, ignore_index=ignore_index, reduction=reduction)


class _Plain(_Loss):
    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class MSELoss(_Plain):
    """Squared difference."""

    _function = F.mse_loss


class L1Loss(_Plain):
    """Absolute difference."""

    _function = F.l1_loss


class SoftMarginLoss(_Plain):
    """``log(1 + exp(-target input))``"""

    _function = F.soft_margin_loss


class SmoothL1Loss(_Loss):
    """Absolute difference, squared near 0; see ``functional.smooth_l1_loss``."""

    _function = F.smooth_l1_loss

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction, beta=beta)


class HuberLoss(_Loss):
    """Squared difference near 0, linear beyond; see ``functional.huber_loss``."""

    _function = F.huber_loss

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction, delta=delta)


class BCELoss(_Loss):
    """Cross-entropy of probabilities of one event; see ``functional.binary_cross_entropy``."""

    _function = F.binary_cross_entropy

    def __init__(self, weight: Tensor | None = None, *, reduction: str = "mean") -> None:
        super().__init__(weights={"weight": weight}, reduction=reduction)


class BCEWithLogitsLoss(_Loss):
    """``BCELoss`` of the sigmoid; see ``functional.binary_cross_entropy_with_logits``."""

    _function = F.binary_cross_entropy_with_logits

    def __init__(
        self, weight: Tensor | None = None, *, reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__(weights={"weight": weight, "pos_weight": pos_weight}, reduction=reduction)


class KLDivLoss(_Loss):
    """Divergence of log-probabilities from probabilities; see ``functional.kl_div``."""

    _function = F.kl_div

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction=reduction, log_target=log_target)


class PoissonNLLLoss(_Loss):
    """Minus the log-likelihood of counts; see ``functional.poisson_nll_loss``."""

    _function = F.poisson_nll_loss

    def __init__(
        self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8,
        reduction: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__(log_input=log_input, full=full, eps=eps, reduction=reduction)


class GaussianNLLLoss(_Loss):
    """Minus the log-likelihood under normal distributions; see ``functional``."""

    _function = F.gaussian_nll_loss

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(full=full, eps=eps, reduction=reduction)


class _Margin(_Loss):
    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        super().__init__(margin=margin, reduction=reduction)


class MarginRankingLoss(_Margin):
    """``max(0, margin - target (input1 - input2))``"""

    _function = F.margin_ranking_loss


class CosineEmbeddingLoss(_Margin):
    """1 less the cosine of alike pairs, the cosine of others; see ``functional``."""

    _function = F.cosine_embedding_loss


class HingeEmbeddingLoss(_Loss):
    """Distances of alike pairs, ``margin`` less those of others; see ``functional``."""

    _function = F.hinge_embedding_loss

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(margin=margin, reduction=reduction)


class TripletMarginLoss(_Loss):
    """``max(0, margin + d(anchor, positive) - d(anchor, negative))``; see ``functional``."""

    _function = F.triplet_margin_loss

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, *,
        reduction: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__(margin=margin, p=p, eps=eps, swap=swap, reduction=reduction)


class CosineSimilarity(_Loss):
    """The cosine of the angle between vectors along an axis."""

    _function = F.cosine_similarity

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__(dim=dim, eps=eps)


class PairwiseDistance(_Loss):
    """The norm of the difference along the last axis; see ``functional.pairwise_distance``."""

    _function = F.pairwise_distance

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__(p=p, eps=eps, keepdim=keepdim)


class MultiMarginLoss(_Loss):
    """How far wrong classes come near the right one; see ``functional.multi_margin_loss``."""

    _function = F.multi_margin_loss

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, *,
        reduction: str = "mean",
    ) -> None:  # fmt: skip
        if p not in (1, 2):
            raise ValueError("only p == 1 and p == 2 supported")
        super().__init__(weights={"weight": weight}, p=p, margin=margin, reduction=reduction)


class MultiLabelMarginLoss(_Plain):
    """Margins of all pairs of right and wrong classes; see ``functional``."""

    _function = F.multilabel_margin_loss


class MultiLabelSoftMarginLoss(_Loss):
    """The mean of the cross-entropies of classes; see ``functional``."""

    _function = F.multilabel_soft_margin_loss

    def __init__(self, weight: Tensor | None = None, *, reduction: str = "mean") -> None:
        super().__init__(weights={"weight": weight}, reduction=reduction)


class TripletMarginWithDistanceLoss(_Loss):
    """``TripletMarginLoss`` by any distance; see ``functional``."""

    _function = F.triplet_margin_with_distance_loss

    def __init__(
        self, *, distance_function: Any = None, margin: float = 1.0, swap: bool = False,
        reduction: str = "mean",
    ) -> None:  # fmt: skip
        if margin <= 0:
            raise ValueError(
                "TripletMarginWithDistanceLoss: expected margin to be greater than 0, got "
                f"{margin} instead"
            )
        super().__init__(
            distance_function=distance_function or PairwiseDistance(), margin=margin, swap=swap,
            reduction=reduction,
        )  # fmt: skip


class CTCLoss(_Loss):
    """Minus the log-likelihood of label sequences; see ``functional.ctc_loss``."""

    _function = F.ctc_loss

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        super().__init__(blank=blank, reduction=reduction, zero_infinity=zero_infinity)
