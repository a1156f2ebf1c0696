"""Schedules that raise the rate and lower it again, the momentum the other way round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from symgrad.optim.lr_scheduler.base import LRScheduler
from symgrad.optim.optimizer import Optimizer

Numbers = float | list[float]


def _per_group(name: str, optimizer: Optimizer, value: Numbers) -> list[float]:
    count = len(optimizer.param_groups)
    if isinstance(value, list | tuple):
        if len(value) != count:
            raise ValueError(f"{name} must have {count} elements, got {len(value)}")
        return list(value)
    return [value] * count


def _set_momentum(group: dict[str, Any], value: float) -> None:
    """Sets what plays momentum's part: Adam's first decay rate."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def _check_momentum(optimizer: Optimizer) -> None:
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` enabled")


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def _line(start: float, end: float, share: float) -> float:
    return (end - start) * share + start


class OneCycleLR(LRScheduler):
    """One rise to ``max_lr`` and a longer fall far below the beginning, a step per batch.

    From ``max_lr / div_factor`` up in a share ``pct_start`` of the steps, then down to the
    initial rate divided by ``final_div_factor``; with ``three_phase`` first back to the
    initial rate.  L. Smith and N. Topin, "Super-convergence" (2017).
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: Numbers, total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: Numbers = 0.85,
        max_momentum: Numbers = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "You must define either total_steps OR (epochs AND steps_per_epoch)"
                )
            total_steps = epochs * steps_per_epoch
        if total_steps <= 0:
            raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self.total_steps, self._anneal_func_type = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum
        self._schedule_phases = _phases(total_steps, pct_start, three_phase)
        if last_epoch == -1:
            for group, top in zip(
                optimizer.param_groups, _per_group("max_lr", optimizer, max_lr), strict=True
            ):
                group["initial_lr"] = top / div_factor
                group["max_lr"] = top
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if cycle_momentum:
            _check_momentum(optimizer)
            if last_epoch == -1:
                lows = _per_group("base_momentum", optimizer, base_momentum)
                tops = _per_group("max_momentum", optimizer, max_momentum)
                for group, low, top in zip(optimizer.param_groups, lows, tops, strict=True):
                    _set_momentum(group, top)
                    group["max_momentum"], group["base_momentum"] = top, low
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates of step ``last_epoch``; sets the momenta, too."""
        number = self.last_epoch
        if number > self.total_steps:
            raise ValueError(
                f"Tried to step {number} times. The total number of steps is {self.total_steps}"
            )
        anneal = _cosine if self._anneal_func_type == "cos" else _line
        start = 0.0
        for phase in self._schedule_phases:
            if number <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            start = phase["end_step"]
        share = (number - start) / (phase["end_step"] - start)
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(anneal(group[phase["start_lr"]], group[phase["end_lr"]], share))
            if self.cycle_momentum:
                ends = group[phase["start_momentum"]], group[phase["end_momentum"]]
                _set_momentum(group, anneal(*ends, share))
        return rates


def _phases(total: int, rise: float, three: bool) -> list[dict[str, Any]]:
    """Where each phase ends, and from which of a group's values to which it goes."""
    names = [("initial_lr", "max_lr"), ("max_lr", "initial_lr"), ("initial_lr", "min_lr")]
    momenta = [("max_momentum", "base_momentum"), ("base_momentum", "max_momentum"),
               ("max_momentum", "max_momentum")]  # fmt: skip
    ends: list[float] = [float(rise * total) - 1, float(2 * rise * total) - 2, total - 1]
    if not three:
        names, momenta, ends = [names[0], ("max_lr", "min_lr")], momenta[:2], [ends[0], ends[2]]
    return [
        {"end_step": end, "start_lr": rates[0], "end_lr": rates[1],
         "start_momentum": moment[0], "end_momentum": moment[1]}
        for end, rates, moment in zip(ends, names, momenta, strict=True)
    ]  # fmt: skip


class CyclicLR(LRScheduler):
    """Up and down between two rates, over and over, a step per batch.

    ``mode`` "triangular" keeps the height, "triangular2" halves it every cycle, "exp_range"
    multiplies it by ``gamma`` every step; ``scale_fn`` gives it instead, of the cycle or of
    the step.  L. Smith, "Cyclical learning rates" (2015).
    """

    def __init__(
        self, optimizer: Optimizer, base_lr: Numbers, max_lr: Numbers, step_size_up: int = 2000,
        step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle",
        cycle_momentum: bool = True, base_momentum: Numbers = 0.8, max_momentum: Numbers = 0.9,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        if last_epoch == -1:
            lows = _per_group("base_lr", optimizer, base_lr)
            for group, low in zip(optimizer.param_groups, lows, strict=True):
                group["lr"] = low
        self.max_lrs = _per_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        self.mode, self.gamma = mode, gamma
        self.scale_mode = scale_mode if scale_fn is not None else _SCALE_MODES[mode]
        self._scale_fn_custom = scale_fn
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            _check_momentum(optimizer)
            self.base_momentums = _per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = _per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                for group, top in zip(optimizer.param_groups, self.max_momentums, strict=True):
                    _set_momentum(group, top)
        super().__init__(optimizer, last_epoch)

    def scale_fn(self, x: float) -> float:
        """The height of the triangle in cycle, or at step, ``x``."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular":
            return 1.0
        if self.mode == "triangular2":
            return float(0.5 ** (x - 1))
        return float(self.gamma**x)

    def get_lr(self) -> list[float]:
        """The rates of step ``last_epoch``; sets the momenta, too."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        place = 1.0 + self.last_epoch / self.total_size - cycle
        up = (
            place / self.step_ratio
            if place <= self.step_ratio
            else (place - 1) / (self.step_ratio - 1)
        )
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            ends = zip(self.base_momentums, self.max_momentums, strict=True)
            for group, (low, top) in zip(self.optimizer.param_groups, ends, strict=True):
                _set_momentum(group, top - (top - low) * up * scale)
        pairs = zip(self.base_lrs, self.max_lrs, strict=True)
        return [low + (top - low) * up * scale for low, top in pairs]

    def state_dict(self) -> dict[str, Any]:
        """All but optimiser and functions; of an object that is called, its attributes."""
        state = super().state_dict()
        custom = self._scale_fn_custom
        plain = custom is None or hasattr(custom, "__code__")
        state["_scale_fn_custom"] = None if plain else dict(custom.__dict__)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        custom = state_dict.get("_scale_fn_custom")
        if custom is not None and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(custom)
        rest = {k: v for k, v in state_dict.items() if k != "_scale_fn_custom"}
        super().load_state_dict(rest)


_SCALE_MODES = {"triangular": "cycle", "triangular2": "cycle", "exp_range": "iterations"}
