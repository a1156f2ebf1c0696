"""Means of a model's parameters over its training, and a schedule that goes with them.

P. Izmailov et al., "Averaging weights leads to wider optima and better generalization" (2018);
for exponential means, B. Polyak and A. Juditsky (1992).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from symgrad.nn.module import Module
from symgrad.nn.modules.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d
from symgrad.optim.lr_scheduler.base import LRScheduler
from symgrad.optim.optimizer import Optimizer
from symgrad.tensors import NAMES, Tensor
from symgrad.tensors.state import no_grad

__all__ = [
    "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
    "get_swa_multi_avg_fn", "update_bn",
]  # fmt: skip

Average = Callable[[Any, Any, Any], Any]
MultiAverage = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def _checked(decay: float) -> float:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )
    return decay


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The exponential mean: ``decay`` of the mean so far, the rest of the new value."""
    decay = _checked(decay)

    def average(ema_param: Any, current_param: Any, num_averaged: Any) -> Any:
        with no_grad():
            return decay * ema_param + (1 - decay) * current_param

    return average


def get_swa_avg_fn() -> Average:
    """The mean of all values so far."""

    def average(averaged_param: Any, current_param: Any, num_averaged: Any) -> Any:
        with no_grad():
            return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return average


def _of_each(average: Average) -> MultiAverage:
    def update(means: Sequence[Tensor], values: Sequence[Tensor], num_averaged: Any) -> None:
        with no_grad():
            for mean, value in zip(means, values, strict=True):
                if mean.is_floating_point() or mean.is_complex():
                    mean.copy_(average(mean, value, num_averaged))
                else:
                    mean.copy_(value)

    return update


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """The exponential mean of many tensors, in place; of integers the new ones are taken."""
    return _of_each(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> MultiAverage:
    """The mean of all values of many tensors so far, in place."""
    return _of_each(get_swa_avg_fn())


class AveragedModel(Module):
    """A copy of a model whose parameters are means of the model's: ``update_parameters`` takes
    these in.

    ``avg_fn`` or ``multi_avg_fn`` say how; the mean of all unless given.  With ``use_buffers``
    buffers are averaged as well, else they are those of the model.
    """

    n_averaged: Tensor

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None, use_buffers: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        names: dict[str, Any] = NAMES
        self.register_buffer("n_averaged", names["tensor"](0))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the copy makes of it."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the model's present parameters into the means."""
        with no_grad():
            means, values = self._tensors(self.module), self._tensors(model)
            if not int(self.n_averaged):
                for mean, value in zip(means, values, strict=True):
                    mean.copy_(value)
            elif self.avg_fn is not None:
                for mean, value in zip(means, values, strict=True):
                    mean.copy_(self.avg_fn(mean, value, self.n_averaged))
            else:
                update = self.multi_avg_fn or get_swa_multi_avg_fn()
                update(means, values, self.n_averaged)
            if not self.use_buffers:
                for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
                    own.copy_(other)
            self.n_averaged.add_(1)

    def _tensors(self, model: Module) -> list[Tensor]:
        buffers = model.buffers() if self.use_buffers else ()
        return [t.detach() for t in itertools.chain(model.parameters(), buffers)]


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Computes the running statistics of batch norms anew, as means over all batches.

    Batches are tensors, or lists and tuples whose first element is the input.
    """
    kinds = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    if not layers:
        return
    momenta, was_training = [layer.momentum for layer in layers], model.training
    model.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with no_grad():
        for batch in loader:
            model(batch[0] if isinstance(batch, (list, tuple)) else batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """Goes from the present rates to ``swa_lr`` in ``anneal_epochs`` steps, and stays there."""

    def __init__(
        self, optimizer: Optimizer, swa_lr: float | Sequence[float], anneal_epochs: int = 10,
        anneal_strategy: str = "cos", last_epoch: int = -1,
    ) -> None:  # fmt: skip
        groups = optimizer.param_groups
        rates = list(swa_lr) if isinstance(swa_lr, (list, tuple)) else [swa_lr] * len(groups)
        if len(rates) != len(groups):
            raise ValueError(
                "swa_lr must have the same length as optimizer.param_groups: swa_lr has "
                f"{len(rates)}, optimizer.param_groups has {len(groups)}"
            )
        for group, rate in zip(groups, rates, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of the way has been gone."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return (1 - math.cos(math.pi * t)) / 2 if self.anneal_strategy == "cos" else t

    def get_lr(self) -> list[float]:
        """The rates of the present epoch, from those of the one before."""
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(max(0, step - 1)), self._share(step)
        rates = []
        for group in self.optimizer.param_groups:
            rate = group["swa_lr"]
            # What the rates were at first: the one before is known, with its share of the way.
            begun = rate if before == 1 else (group["lr"] - before * rate) / (1 - before)
            rates.append(rate * now + begun * (1 - now))
        return rates
