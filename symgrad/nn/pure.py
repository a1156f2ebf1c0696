"""Modules as pure functions of their parameters and buffers.

A module's values are lent others for one forward pass: traced ones, or arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad.ir.errors import UsageError
from symgrad.nn.members import BUFFERS, PARAMETERS
from symgrad.numpy.core import traced
from symgrad.tensors import Tensor
from symgrad.tracer import Tracer
from symgrad.tracing import current_trace

if TYPE_CHECKING:
    from symgrad.nn.module import Module

Array = Any
Arrays = dict[str, Array]
_lending = threading.RLock()
_KINDS = (PARAMETERS, BUFFERS)


class _Lent(threading.local):
    depth = 0


_lent = _Lent()


def is_lent() -> bool:
    """Whether modules have other values than their own just now, in this thread."""
    return _lent.depth > 0


def functional_call(
    model: Module, params: Mapping[str, Array], state: Mapping[str, Array], *inputs: Any
) -> tuple[Any, Arrays]:
    """A module as a pure function: ``(output, new_state)``.

    ``params`` and ``state`` are arrays, traced values or tensors under the names that
    ``named_parameters`` and ``named_buffers`` give (``arrays`` makes both); the module itself
    is left as it was.  Raises ``UsageError`` unless the names are exactly the module's.
    """
    _check_names("params", params, dict(model.named_parameters()))
    _check_names("state", state, dict(model.named_buffers()))
    with _values_lent(model, params, state):
        output = model(*inputs)
        return output, dict(model.named_buffers())


def arrays(model: Module) -> tuple[Arrays, Arrays]:
    """Copies of a module's parameters and buffers by name, as ``functional_call`` takes them."""
    return _copies(model.named_parameters()), _copies(model.named_buffers())


def _copies(tensors: Iterator[tuple[str, Any]]) -> Arrays:
    return {name: np.array(_plain(value)) for name, value in tensors}


def _plain(value: Any) -> Any:
    """The present array of a tensor; anything else as it is."""
    return value._array() if isinstance(value, Tensor) else value


def _captured(value: Any) -> Any:
    return _plain(value) if current_trace() is None else traced(value)


def holds_tensors(model: Module) -> bool:
    """Whether a module has its own values: tensors, and none that are lent."""
    return not is_lent() and any(
        module._of_kind(kind) for module in model.modules() for kind in _KINDS
    )


@contextmanager
def own_arrays(model: Module) -> Iterator[None]:
    """Lends a module its own values as arrays; buffers that change are stored in the end.

    While a function is traced they are lent as captured arrays, so that what is computed
    from them is computed at every call.  Raises ``UsageError`` if buffers change then: a
    compiled function has no place to store them.
    """
    before = dict(model.named_buffers())
    with _lent_for(model, _captured):
        lent = dict(model.named_buffers())
        yield
        after = dict(model.named_buffers())
    for name, value in after.items():
        if isinstance(value, Tracer) and value is not lent[name]:
            raise UsageError(
                f"{type(model).__name__}: {name} changes while the module runs in training mode, "
                "which a compiled function cannot store; call model.eval() first, or pass the "
                "state: y, state = nn.functional_call(model, params, state, x)"
            )
        if isinstance(value, np.ndarray | np.generic) and value is not _plain(before[name]):
            before[name]._set_array(np.array(value))


def lent_tensors(model: Module, values: Mapping[str, Any], *, strict: bool) -> Any:
    """A context in which a module has ``values`` in place of its own of these names.

    Raises ``RuntimeError`` for names it does not know, and if ``strict`` for missing ones.
    """
    own = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
    unexpected = [name for name in values if name not in own]
    missing = [name for name in own if name not in values] if strict else []
    if unexpected or missing:
        raise RuntimeError(
            f"functional_call: unexpected key(s): {_listed(unexpected)}; missing key(s): "
            f"{_listed(missing)}"
        )
    replaced = {id(own[name]): value for name, value in values.items()}
    return _lent_for(model, lambda value: replaced.get(id(value), value))


def _values_lent(model: Module, params: Mapping[str, Array], state: Mapping[str, Array]) -> Any:
    values: dict[int, Array] = {}  # by what they stand for: one module may be in several places
    for members, given in ((model.named_parameters(), params), (model.named_buffers(), state)):
        values.update((id(own), given[name]) for name, own in members)
    return _lent_for(model, lambda own: values[id(own)])


class _Kept:
    """A module's own values, while it is lent others."""

    def __init__(self, module: Module) -> None:
        self._fields, self._members = module.__dict__, dict(module._members)
        self._values = {
            name: self._fields[name] for name, kind in self._members.items() if kind in _KINDS
        }

    def lend(self, value_of: Callable[[Any], Any]) -> None:
        """Puts ``value_of(own)`` in the place of every value."""
        for name, own in self._values.items():
            if own is not None:
                self._fields[name] = value_of(own)

    def restore(self) -> None:
        """Puts them back; members that have come since are gone."""
        for name in self._fields["_members"].keys() - self._members.keys():
            del self._fields[name]
        self._fields.update(self._values, _members=self._members)


@contextmanager
def _lent_for(model: Module, value_of: Callable[[Any], Any]) -> Iterator[None]:
    """Puts ``value_of(own)`` in the place of every value for a while."""
    with _lending:
        modules = list(model.modules())
        own = [_Kept(module) for module in modules]
        _lent.depth += 1
        try:
            for kept in own:
                kept.lend(value_of)
            yield
        finally:
            _lent.depth -= 1
            for kept in own:
                kept.restore()


def _check_names(what: str, given: Mapping[str, Array], own: Mapping[str, Array]) -> None:
    if given.keys() != own.keys():
        missing = [k for k in own if k not in given]
        unexpected = [k for k in given if k not in own]
        raise UsageError(
            f"functional_call: {what} lack {_listed(missing)} and have {_listed(unexpected)} "
            f"that the module does not know; nn.arrays(model) gives params and state"
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4]) or "nothing"
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
