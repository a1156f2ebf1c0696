"""Optimisers of tensors: groups of parameters with their options, and the state of each.

``Optimizer`` is torch's base class; ``RuleOptimizer`` makes one from an update rule.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from symgrad.ir import Value
from symgrad.ir.types import DTYPES
from symgrad.optim.rule import NARROW, Now, Rule
from symgrad.tensors.apply import record
from symgrad.tensors.counters import advance
from symgrad.tensors.halves import common_half, computed, rounded
from symgrad.tensors.handle import Tensor
from symgrad.tensors.recorded import Recorded, leaf_of
from symgrad.tensors.several import give_values, values_of
from symgrad.tensors.state import enable_grad
from symgrad.tensors.templates import kept
from symgrad.tracer import Tracer


class Optimizer:
    """Changes parameters by their gradients whenever ``step`` is called.

    ``param_groups`` holds the options of each group, which may be changed between steps, and
    ``state`` what is remembered of each parameter.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {params.type()}"
            )
        given = list(params)
        if not given:
            raise ValueError("optimizer got an empty parameter list")
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._pre_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._post_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(dict(group))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; what is not given is as the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the "
                "ordering of tensors in sets will change between runs. Please use a list instead."
            )
        params = list(params)
        named = [p for p in params if isinstance(p, tuple)]
        if named:
            param_group["param_names"] = [name for name, _ in named]
            params = [tensor for _, tensor in named]
        for parameter in params:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is "
                    f"{type(parameter).__name__}"
                )
            if not parameter.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        if len(set(map(id, params))) < len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; each is "
                "updated once",
                stacklevel=4,
            )
            params = list(dict.fromkeys(params))
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in known for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append({**param_group, "params": params, **self._missing(param_group)})

    def _missing(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in self.defaults.items() if name not in group}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, or makes them zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    parameter._gradient = None
                elif parameter._grad is not None:
                    parameter._grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of the parameters; define it in the subclass."""
        raise NotImplementedError

    # -- saved state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State by the numbers of parameters, and the groups with these numbers, as torch's."""
        count = itertools.count()
        numbers = {id(p): next(count) for group in self.param_groups for p in group["params"]}
        groups = [
            {**{k: v for k, v in group.items() if k != "params"},
             "params": [numbers[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]  # fmt: skip
        return {
            "state": {
                numbers[id(p)]: {k: v for k, v in state.items() if not k.startswith("_")}
                for p, state in self.state.items()
                if id(p) in numbers and state
            },
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` gave, here or in torch; values may be arrays."""
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        pairs = list(zip(groups, self.param_groups, strict=True))
        if any(len(new["params"]) != len(own["params"]) for new, own in pairs):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )
        numbered: dict[Any, Tensor] = {}
        for new, own in pairs:
            numbered.update(zip(new["params"], own["params"], strict=True))
            own.update({k: v for k, v in new.items() if k != "params"})
        self.state.clear()
        for number, values in state_dict["state"].items():
            if number in numbered:
                parameter = numbered[number]
                self.state[parameter] = {
                    k: _loaded(k, v, parameter) for k, v in values.items() if v is not None
                }

    # -- hooks and text --------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Callable[[], None]:
        """Calls ``hook(optimizer, args, kwargs)`` before each step; returns how to undo it."""
        return _registered(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Callable[[], None]:
        """Calls ``hook(optimizer, args, kwargs)`` after each step; returns how to undo it."""
        return _registered(self._post_hooks, hook)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines += ["", f"Parameter Group {number}"] if number else ["Parameter Group 0"]
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def _registered(hooks: OrderedDict[int, Any], hook: Callable[..., Any]) -> Callable[[], None]:
    key = next(_keys)
    hooks[key] = hook
    return lambda: hooks.pop(key, None)


_keys = itertools.count()


_COUNTERS = ("step", "mu_product", "mu", "eta")
"""States that are one number for each parameter, always in float32."""


def _loaded(name: str, value: Any, parameter: Tensor) -> Any:
    """A value of a saved state: in the parameter's dtype, but for counters of steps."""
    if not isinstance(value, Tensor | np.ndarray | np.generic | int | float):
        return value
    array = value._array() if isinstance(value, Tensor) else np.asarray(value)
    if name in _COUNTERS:
        return Tensor.of_array(np.array(array, np.float32))
    return Tensor.of_array(np.array(array, parameter._dtype, order="C"))


# -- by rules ------------------------------------------------------------------------------


class RuleOptimizer(Optimizer):
    """An optimiser that follows a rule; its options are the rule's.

    Neither the learning rate and other scheduled options nor the number of steps are part of
    a program: they cost no new one.
    """

    rule: ClassVar[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if "params" in kwargs or (args and isinstance(args[0], Iterable)):
            return super().__new__(cls)
        return cls.rule(*args, **kwargs)

    def __init__(self, params: Iterable[Any], *args: Any, **options: Any) -> None:
        fields = dataclasses.fields(self.rule)
        names = [f.name for f in fields]
        placed = [f.name for f in fields if not f.kw_only]
        if len(args) > len(placed):
            raise TypeError(
                f"{type(self).__name__}.__init__() takes at most {len(placed) + 2} positional "
                f"arguments but {len(args) + 2} were given"
            )
        given = options | dict(zip(placed, args, strict=False))
        if unknown := [name for name in given if name not in names]:
            raise TypeError(
                f"{type(self).__name__}.__init__() got an unexpected keyword argument "
                f"'{unknown[0]}'"
            )
        defaults = {f.name: f.default for f in fields} | given
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; what is not given is as the defaults."""
        super().add_param_group(param_group)
        self._rule_of(self.param_groups[-1])  # raises for options that make no sense

    def _rule_of(self, group: dict[str, Any]) -> Any:
        return self.rule(**{name: _plain(group[name]) for name in self.defaults})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Runs one program: what gradients and losses still wait for, and the update.
        """
        for hook in list(self._pre_hooks.values()):
            hook(self, (closure,), {})
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        changed: list[Tensor] = []
        made: list[Value] = []
        spent: list[Recorded] = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p._gradient is not None]
            if params:
                self._update(self._rule_of(group), params, changed, made, spent)
        owns = [t._tracer._view is None for t in changed]
        shows = [not is_owner for is_owner in owns]
        views = list(itertools.compress(changed, shows))
        give_values(views, itertools.compress(made, shows))
        Tensor._compute(views, spent, also=made)  # which writes to the bases of views, too
        for value in itertools.compress(made, owns):
            value.op = None
        give_values(itertools.compress(changed, owns), itertools.compress(made, owns))
        for hook in list(self._post_hooks.values()):
            hook(self, (closure,), {})
        return loss

    def _update(
        self,
        rule: Any,
        params: list[Tensor],
        changed: list[Tensor],
        made: list[Value],
        spent: list[Recorded],
    ) -> None:
        """Records the update of parameters.

        Adds to ``changed`` the tensors that are to have new values, to ``made`` these, and to
        ``spent`` those that they replace.
        """
        shape = rule.shape()
        slots = _slot_names(shape)
        states = self._states_of(params, rule, slots)
        updated = [*params, *[state[name] for state in states for name in slots]]
        before = values_of(updated)
        steps = [0] * len(params)
        if rule.counter is not None:
            steps = [int(advance(state[rule.counter])) for state in states]
        dtypes = [value.type.dtype.name for value in before[: len(params)]]
        clock = _Clock(rule)
        times = clock.times(list(zip(dtypes, steps, strict=True)))
        gradients = [
            g if isinstance(g := p._gradient, Value) else g._value()  # type: ignore[union-attr]
            for p in params
        ]
        made += record(_update_by(shape, slots, times), [*before, *gradients, *clock.numbers])
        changed += updated
        spent += [v for v in before if v.op is None]  # type: ignore[misc]

    def _states_of(
        self, params: Sequence[Tensor], rule: Any, slots: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """What is remembered of each parameter; what is missing begins now."""
        counter = rule.counter
        names = slots if counter is None else (counter, *slots)
        if not names:
            return []
        states = [self.state[p] for p in params]
        for parameter, state in zip(params, states, strict=True):
            for name in names:
                if name not in state:
                    self._begin(parameter, state, rule)
                    break
        return states

    @staticmethod
    def _begin(parameter: Tensor, state: dict[str, Any], rule: Any) -> None:
        """Adds what is missing in the state of a parameter."""
        if rule.counter is not None and rule.counter not in state:
            begun = bool(state)  # loaded from torch, which does not count
            state[rule.counter] = Tensor.of_array(np.array(begun, np.float32))
        fresh = rule.slots(np.empty(parameter.shape, parameter._dtype))
        for name in fresh:
            if name not in state:
                state[name] = Tensor.of_array(np.asarray(fresh[name]))


def _plain(value: Any) -> Any:
    """An option as Python's: a learning rate may be a tensor."""
    if isinstance(value, list):
        return tuple(value)
    return value.item() if isinstance(value, Tensor) else value


@functools.lru_cache
def _slot_names(rule: Rule) -> tuple[str, ...]:
    return tuple(rule.slots(np.empty(0)))


class _Clock:
    """The run-time values of one step of a rule.

    Parameters that have the dtype and the number of the step in common share a *time*.
    """

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        self.numbers: list[Recorded] = []
        """Of each time the scheduled options in the rule's order, then the number of the step
        if it matters."""

    def times(self, moments: list[tuple[str, int]]) -> tuple[int, ...]:
        """The numbers of times, from 0 on, by the names of dtypes and the numbers of steps."""
        known = {moment: time for time, moment in enumerate(dict.fromkeys(moments))}
        for dtype, step in known:
            self._add(DTYPES[dtype].numpy, step)
        return tuple([known[moment] for moment in moments])

    def _add(self, dtype: np.dtype[Any], step: int) -> None:
        for name in self._rule.scheduled:
            value = getattr(self._rule, name)
            kind = computed(dtype) if name in NARROW else np.float64
            parts = value if isinstance(value, tuple) else (value,)
            self.numbers += [leaf_of(np.asarray(part, kind)) for part in parts]
        if self._rule.counter is not None:
            self.numbers.append(leaf_of(np.asarray(step, np.float64)))


def _now(rule: Rule, numbers: list[Tracer]) -> Now:
    """The numbers of one time of a ``_Clock``, as the rule looks at them."""
    rest = iter(numbers)
    options: dict[str, Any] = {}
    for name in rule.scheduled:
        value = getattr(rule, name)
        options[name] = tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
    return Now(step=next(rest, None), **options)


def _step_of(rule: Rule, names: tuple[str, ...], now: Now) -> Callable[..., list[Tracer]]:
    """A step from a parameter, its gradient and its states to the next parameter and states."""

    def step(param: Tracer, grad: Tracer, *states: Tracer) -> list[Tracer]:
        after, moved = rule.update(param, grad, dict(zip(names, states, strict=True)), now)
        return [after, *(moved[name] for name in names)]

    return step


@kept
def _update_by(rule: Rule, names: tuple[str, ...], times: tuple[int, ...]) -> Callable[..., Any]:
    """One step of ``rule`` for parameters at these ``times``, with states of these names, traced.

    Takes the parameters, their states one after the other, their gradients, and the numbers of
    a ``_Clock``; returns new parameters and states.
    """
    count, width = len(times), len(names)

    def update(*values: Tracer) -> list[Tracer]:
        params, rest = values[:count], values[count:]
        states, rest = rest[: count * width], rest[count * width :]
        grads, clock = rest[:count], rest[count:]
        ticks = len(clock) // (max(times) + 1)
        updated: list[Tracer] = []
        moments: list[Tracer] = []
        for i, time in enumerate(times):
            now = _now(rule, list(clock[time * ticks :][:ticks]))
            step = _step_of(rule, names, now)
            given = (params[i], grads[i], *states[i * width :][:width])
            if half := common_half([x._value.type for x in given]):
                step = rounded(step, half)
            after, *moved = step(*given)
            updated.append(after)
            moments += moved
        return [*updated, *moments]

    return update
