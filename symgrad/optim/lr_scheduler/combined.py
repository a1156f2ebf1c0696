"""Schedules one after the other, and on top of each other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from symgrad.optim.lr_scheduler.base import LRScheduler
from symgrad.optim.lr_scheduler.plateau import ReduceLROnPlateau
from symgrad.optim.optimizer import Optimizer

Schedule = LRScheduler | ReduceLROnPlateau


class _Several(LRScheduler):
    """Schedules of one optimiser."""

    _schedulers: list[Any]

    def state_dict(self) -> dict[str, Any]:
        """The states of all schedules, and one's own."""
        own = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        return {**own, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(_Several):
    """One schedule after the other: the next begins at each of the milestones."""

    def __init__(
        self, optimizer: Optimizer, schedulers: list[Any], milestones: list[int],
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if len(schedulers) < 1:
            raise ValueError(
                "SequentialLR expects at least one scheduler to be chained, but got no scheduler."
            )
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than "
                f"the number of milestone points, but got number of schedulers {len(schedulers)} "
                f"and the number of milestones to be equal to {len(milestones)}"
            )
        if any(s.optimizer is not optimizer for s in schedulers):
            raise ValueError("SequentialLR expects all schedulers to belong to the same optimizer")
        self.optimizer = optimizer
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.last_epoch = last_epoch + 1
        # Making each schedule has set the rates of its own beginning: undo that.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        for scheduler in self._schedulers:
            scheduler.last_epoch -= 1
        first = self._schedulers[0]
        first._is_initial = True
        first.step()
        first._is_initial = False
        first._step_count = 1
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        """Goes to the next epoch."""
        self.last_epoch += 1
        number = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[number]
        if number > 0 and self._milestones[number - 1] == self.last_epoch:
            _start(scheduler)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


def _start(scheduler: LRScheduler) -> None:
    """Begins a schedule at its first epoch, from the initial rates."""
    scheduler.last_epoch = 0
    rates = scheduler.rates_at(0)
    if rates is None:
        scheduler.last_epoch = -1
        scheduler.step()
    else:
        scheduler._step_count += 1
        scheduler._set(rates)


class ChainedScheduler(_Several):
    """Schedules on top of each other: each changes the rate that the one before has set."""

    def __init__(self, schedulers: Sequence[Any], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                "ChainedScheduler expects at least one scheduler to be chained, but got no "
                "scheduler."
            )
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        if any(s.optimizer is not self.optimizer for s in schedulers):
            raise ValueError(
                "ChainedScheduler expects all schedulers to belong to the same optimizer"
            )
        self._schedulers = list(schedulers)
        self._last_lr = self._present

    def step(self) -> None:  # type: ignore[override]
        """Goes to the next epoch of all schedules."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._present
