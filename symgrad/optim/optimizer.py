"""Optimisers of tensors: an update rule, the parameters it is applied to, and its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from symgrad.ir.errors import UsageError
from symgrad.tensors.apply import record
from symgrad.tensors.handle import Tensor
from symgrad.tensors.record import Leaf
from symgrad.tensors.templates import kept
from symgrad.tracer import Tracer

_ONE = "p"
"""The name under which a rule sees each parameter."""


class Optimizer:
    """Changes parameters by their gradients whenever ``step`` is called.

    ``param_groups`` holds the options of each group, which may be changed between steps;
    the learning rate costs no new program.
    """

    def __init__(self, rule: type[Any], params: Iterable[Any], *args: Any, **options: Any) -> None:
        names = [f.name for f in dataclasses.fields(rule)]
        options |= dict(zip(names, args, strict=False))
        given = list(params)
        if not given:
            raise UsageError(f"{rule.__name__}: optimizer got an empty parameter list")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        defaults = {f.name: f.default for f in dataclasses.fields(rule)} | options
        if unknown := defaults.keys() - set(names):
            raise UsageError(f"{rule.__name__} has no option {sorted(unknown)[0]!r}")
        self._rule = rule
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": list(group["params"])} for group in groups
        ]
        for group in self.param_groups:
            self._rule_of(group)  # raises for options that make no sense
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def _rule_of(self, group: dict[str, Any]) -> Any:
        return self._rule(**{name: group[name] for name in self.defaults})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, or makes them zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none or parameter.grad is None:
                    parameter.grad = None
                else:
                    parameter.grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Runs one program: what gradients and losses still wait for, and the update.
        """
        loss = None if closure is None else closure()
        changed: list[Tensor] = []
        spent: list[Leaf] = []
        for group in self.param_groups:
            given = {p: p._grad for p in group["params"] if p._grad is not None}
            if given:
                changed += self._update(self._rule_of(group), given, group["lr"], spent)
        Tensor._compute(changed, spent)
        for tensor in changed:
            tensor._publish()
        return loss

    def _update(
        self, rule: Any, gradients: dict[Tensor, Tensor], lr: Any, spent: list[Leaf]
    ) -> list[Tensor]:
        """Records the update of parameters; returns all that has a new value.

        The values it replaces are added to ``spent``.
        """
        params = list(gradients)
        states = [self._state_of(p, rule) for p in params]
        rates = {dtype: Leaf(np.asarray(lr, dtype)) for dtype in {p._dtype for p in params}}
        kept = [tensor for state in states for tensor in state.values()]
        values = [t._value() for t in (*params, *gradients.values(), *kept)]
        # A scheduled rate is no other update: it is an operand.
        function = _update_by(dataclasses.replace(rule, lr=0.0), tuple(map(tuple, states)))
        made = record(function, [*values, *[rates[p._dtype] for p in params]])
        changed = [*params, *kept]
        replaced = (*values[: len(params)], *values[2 * len(params) :])
        spent += [v for v in replaced if isinstance(v, Leaf)]
        for tensor, value in zip(changed, made, strict=True):
            tensor._take(value)
        return changed

    def _state_of(self, parameter: Tensor, rule: Any) -> dict[str, Tensor]:
        state = self.state.get(parameter)
        if state is None:
            fresh = rule.init({_ONE: np.empty(parameter.shape, parameter._dtype)})
            state = {k: Tensor.of_array(np.asarray(v)) for k, v in fresh.items()}
            self.state[parameter] = state
        return state

    def __repr__(self) -> str:
        lines = [f"{self._rule.__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(self.defaults)]
        return "\n".join([*lines, ")"])


@kept
def _update_by(rule: Any, states: tuple[tuple[str, ...], ...]) -> Callable[..., Any]:
    """One step of ``rule`` for parameters whose states have these names, on traced values.

    Takes the parameters, their gradients, their states one after the other and a learning
    rate for each; returns new parameters and states.  ``rule.lr`` is not looked at.
    """

    def update(*values: Tracer) -> list[Tracer]:
        count = len(states)
        rest = iter(values[2 * count : -count])
        params: list[Tracer] = []
        moments: list[Tracer] = []
        for i, names in enumerate(states):
            before = {name: next(rest) for name in names}
            after, moved = rule.apply(
                {_ONE: values[i]}, {_ONE: values[count + i]}, before, values[i - count]
            )
            params.append(after[_ONE])
            moments += [moved[name] for name in names]
        return [*params, *moments]

    return update
