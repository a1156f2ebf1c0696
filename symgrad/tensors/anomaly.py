"""Anomaly detection: backward passes that say which operation's derivative is not a number.

While it is on, results remember where they were recorded, and a backward pass through them
computes and looks at every cotangent on its way, one by one: it is slow.
"""

from __future__ import annotations

import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from symgrad.ir import Value
from symgrad.tensors.nodes import AccumulateGrad, Node
from symgrad.tensors.record import materialise

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor

_INSIDE = 3
"""Frames of our own at the end of a trace."""


class _Mode(threading.local):
    enabled = False
    check_nan = True


_mode = _Mode()
_traces: WeakKeyDictionary[Node, str] = WeakKeyDictionary()
_sound: WeakSet[Node] = WeakSet()
"""Nodes whose cotangent the present sweep has found to be numbers."""


def is_anomaly_enabled() -> bool:
    """Whether operations remember where they were recorded."""
    return _mode.enabled


def is_anomaly_check_nan_enabled() -> bool:
    """Whether backward passes look for values that are not numbers."""
    return _mode.check_nan


class set_detect_anomaly:  # noqa: N801  (torch's name)
    """Switches detection on or off at once; as a context only for the block."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = _mode.enabled, _mode.check_nan
        _mode.enabled, _mode.check_nan = mode, check_nan

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _mode.enabled, _mode.check_nan = self._before


class detect_anomaly(set_detect_anomaly):  # noqa: N801
    """Detection within ``with``: for the forward pass and the backward pass."""

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True, check_nan)
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should "
            "only be enabled for debugging.",
            UserWarning,
            stacklevel=2,
        )


def note(node: Node, result: Tensor) -> None:
    """Remembers where ``result``, which ``node`` stands for, is recorded, and watches it."""
    if not _mode.enabled:
        return
    _traces[node] = "".join(traceback.format_stack()[:-_INSIDE])

    def look(cotangent: Value) -> Value:
        if _mode.check_nan:
            if _has_nan(cotangent):
                _report(node)
            _sound.add(node)
        return cotangent

    node.watchers.append((result._value(), look))


def begin() -> None:
    """Called at the start of a sweep."""
    _sound.clear()


def check_leaves(
    leaves: Sequence[AccumulateGrad], inputs: Sequence[Value], found: Sequence[Value | None]
) -> None:
    """Looks at the derivatives by ``inputs``, those values that are leaves."""
    if not (_mode.enabled and _mode.check_nan):
        return
    nodes = {id(leaf.value): leaf for leaf in leaves}
    for value, gradient in zip(inputs, found, strict=True):
        if gradient is not None and id(value) in nodes and _has_nan(gradient):
            _report(nodes[id(value)])


def _has_nan(value: Value) -> bool:
    return bool(np.isnan(materialise([value])[0]).any())


def _report(node: Node) -> Any:
    """Raises for the operation that made the cotangent of ``node`` no number.

    It is one of those that ``node`` is an operand of, and whose own cotangent was sound.
    """
    users = [user for user in _sound if node in user.parents]
    for user in users:
        warnings.warn(
            f"Error detected in {user.name()}. Traceback of forward call that caused the "
            f"error:\n{_traces[user]}",
            UserWarning,
            stacklevel=2,
        )
    if not users:
        raise RuntimeError(
            f"the gradient of {node.name()} has nan values: they were given to backward(), or "
            "come from operations that were recorded before anomaly detection was on"
        )
    places = [f"'{u.name()}' returned nan values in its {u.parents.index(node)}th" for u in users]
    raise RuntimeError(f"Function {' output, or '.join(sorted(places))} output.")
