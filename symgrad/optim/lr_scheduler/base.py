"""What all schedules share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from symgrad.optim.optimizer import Optimizer


class LRScheduler:
    """Sets the learning rates of an optimiser's groups whenever ``step`` is called.

    Made after the optimiser, which it gives the rates of the first epoch.  ``last_epoch`` is
    the number of steps already done, less one: with anything but -1 the groups must hold an
    ``initial_lr``.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    "param 'initial_lr' is not specified in "
                    f"param_groups[{number}] when resuming scheduler with last_epoch >= 0."
                )
        self.base_lrs: list[float] = [g["initial_lr"] for g in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates of epoch ``last_epoch``, from those of the one before."""
        raise NotImplementedError

    def rates_at(self, epoch: int) -> list[float] | None:
        """The rates of an epoch by a formula of their own, if there is one."""
        return None

    def step(self, epoch: int | None = None) -> None:
        """Goes to the next epoch, or to one given."""
        self._step_count += 1
        rates: list[float] | None = None
        if epoch is None:
            self.last_epoch += 1
        else:
            warnings.warn(
                "The epoch parameter in `scheduler.step()` was not necessary and is being "
                "deprecated where possible. Please use `scheduler.step()` to step the scheduler.",
                stacklevel=2,
            )
            self.last_epoch = epoch
            rates = self.rates_at(epoch)
        self._set(self.get_lr() if rates is None else rates)

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = list(rates)

    def get_last_lr(self) -> list[float]:
        """The rates that were set last."""
        return self._last_lr

    @property
    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _scaled(self, factor: float) -> list[float]:
        return [rate * factor for rate in self._present]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimiser, to be saved."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        self.__dict__.update(state_dict)
