"""The rule of an optimiser: a pure function from parameter, gradient and state to new ones.

A rule is a frozen dataclass of torch's options, in torch's order.  Options that schedules
change come to ``update`` as run-time values, so that a step under a schedule is always the
same program; whether they are zero decides what the program is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import symgrad.numpy as snp
from symgrad.operators import is_tensor

Array = Any
Arrays = Mapping[str, Array]
Slots = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Now:
    """What is different at every step: the step's number, from 1 on, and scheduled options.

    ``lr`` and ``momentum`` have the parameter's dtype, the others float64, in which the small
    differences of decay rates from 1 are exact enough.
    """

    lr: Array
    step: Array = None
    momentum: Array = 0.0
    betas: tuple[Array, Array] = (0.0, 0.0)


NARROW = ("lr", "momentum")
"""Scheduled options in the parameter's dtype."""


@dataclass(frozen=True)
class Rule:
    """Base of all rules."""

    scheduled: ClassVar[tuple[str, ...]] = ("lr",)
    """Options whose values come at run time."""
    counter: ClassVar[str | None] = "step"
    """The slot in which torch counts steps; ``None`` if the rule does not look at them."""

    def slots(self, parameter: Array) -> Slots:
        """The state of one parameter before its first step, but for the counter."""
        return {}

    def update(self, p: Array, g: Array, slots: Slots, now: Now) -> tuple[Array, Slots]:
        """The new parameter and state after one step along the gradient ``g``."""
        raise NotImplementedError(f"{type(self).__name__} defines no update()")

    def shape(self) -> Rule:
        """The rule without the values that come at run time: what a program depends on."""
        changes: dict[str, Any] = {}
        for name in self.scheduled:
            value = getattr(self, name)
            changes[name] = _unscheduled(value)
        return dataclasses.replace(self, **changes)

    # -- the functional face -------------------------------------------------------------

    def init(self, params: Arrays) -> dict[str, Array]:
        """The state before the first step: ``"<parameter>/<slot>"``, and the steps done.

        That of tensors is tensors.
        """
        state: dict[str, Array] = {
            f"{name}/{slot}": type(p).of_array(value) if is_tensor(p) else value
            for name, p in params.items()
            for slot, value in self.slots(p).items()
        }
        if self.counter is not None:
            state["step"] = np.array(0, np.int64)
        return state

    def apply(
        self, params: Arrays, grads: Arrays, state: Arrays, lr: Array | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """``(new_params, new_state)`` after one step; ``lr`` may be a traced schedule's value."""
        updated: dict[str, Array] = {}
        moved: dict[str, Array] = {}
        step = state["step"] + 1 if self.counter is not None else None
        if step is not None:
            moved["step"] = step
            step = snp.astype(step, np.float64)
        for name, p in params.items():
            # A schedule's value may be wider than the parameters, which keep their dtype.
            rate = self.lr if lr is None else cast(snp.asarray(lr), p)  # type: ignore[attr-defined]
            options = {n: getattr(self, n) for n in self.scheduled if n != "lr"}
            prefix = f"{name}/"
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            updated[name], slots = self.update(p, grads[name], own, Now(rate, step, **options))
            moved.update((prefix + slot, value) for slot, value in slots.items())
        return updated, moved


def _unscheduled(value: Any) -> Any:
    """A stand-in for any value of a scheduled option: only whether it is zero is kept."""
    if isinstance(value, tuple):
        return tuple(0.5 if v else 0.0 for v in value)
    return 0.5 if value else 0.0


def cast(x: Array, like: Array) -> Array:
    """A number, or a scalar of any dtype, as a factor of ``like``."""
    return x if isinstance(x, int | float) else snp.astype(x, like.dtype)


def check(name: str, value: Any, *, below: float | None = None) -> None:
    """Refuses negative options, and those that are not ``below`` a bound, in torch's words."""
    if not value >= 0 or (below is not None and not value < below):
        raise ValueError(f"Invalid {name}: {value}")


def check_betas(betas: tuple[float, float]) -> None:
    """Refuses decay rates outside [0, 1)."""
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")


def check_real(differentiable: bool) -> None:
    """Refuses torch's ``differentiable``: a step here is outside every graph."""
    if differentiable:
        raise NotImplementedError(
            "differentiable=True is not supported: differentiate the rule's apply() instead"
        )
