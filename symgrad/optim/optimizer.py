"""Optimisers of tensors: an update rule, the parameters it is applied to, and its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from symgrad.ir.errors import UsageError
from symgrad.tensors.handle import Handle, Tensor
from symgrad.tensors.record import RECORDER, Leaf, recording
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
        for group in self.param_groups:
            rule, rates = self._rule_of(group), {}
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                dtype = parameter._dtype
                if dtype not in rates:
                    rates[dtype] = Tracer(RECORDER, Leaf(np.asarray(group["lr"], dtype)))
                changed += self._update(rule, parameter, gradient, rates[dtype])
        Tensor._compute(changed)
        return loss

    def _update(self, rule: Any, parameter: Tensor, gradient: Tensor, rate: Tracer) -> list[Tensor]:
        """Records one parameter's update; returns all that has a new value."""
        if parameter not in self.state:
            fresh = rule.init({_ONE: np.empty(parameter.shape, parameter._dtype)})
            self.state[parameter] = {k: Tensor.of_array(np.asarray(v)) for k, v in fresh.items()}
        state = self.state[parameter]
        with recording():
            values = {_ONE: Tracer(RECORDER, parameter._value())}
            grads = {_ONE: Tracer(RECORDER, gradient._value())}
            before = {name: Tracer(RECORDER, t._value()) for name, t in state.items()}
            after, moved = rule.apply(values, grads, before, rate)
            new = RECORDER.builder.emit("stop_gradient", after[_ONE].value)
            parameter._replace(Tensor.of_value(new))
            for name, value in moved.items():
                state[name] = Tensor(Handle(value.value))
        return [parameter, *state.values()]

    def __repr__(self) -> str:
        lines = [f"{self._rule.__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(self.defaults)]
        return "\n".join([*lines, ")"])
