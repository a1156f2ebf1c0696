"""Gradients against finite differences, to any order, in random directions.

One direction checks a whole Jacobian up to chance: for random ``u`` and ``v`` the number
``<u, J v>`` must be the same from central differences, from the pull-back and from the
push-forward.  Higher orders check the pull-back itself in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad import tree
from symgrad.api import jvp
from symgrad.api_vjp import vjp
from symgrad.ir.errors import SymgradError
from symgrad.ir.opdef import Array

# Central differences of sixth order: sum of c (f(x + k h v) - f(x - k h v)) / h.
_STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
_STEP = 1e-3


class GradientError(SymgradError, AssertionError):
    """A derivative that differs from finite differences."""


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    *,
    tolerance: float = 1e-6,
    step: float = _STEP,
    seed: int = 0,
) -> None:
    """Raises ``GradientError`` unless ``f``'s derivatives at ``args`` are right up to ``order``.

    ``args`` are the positional arguments, nested containers of floating arrays or numbers;
    they are checked in float64.  ``f`` must be smooth within a few ``step`` of them.
    ``tolerance`` is relative to the size of the derivative, at least 1.
    """
    point = tuple(tree.map_leaves(lambda x: np.asarray(x, np.float64), a) for a in args)
    rng = np.random.default_rng(seed)
    _check(f, point, order, 1, rng, tolerance, step)


def _check(
    f: Callable[..., Any], args: tuple[Any, ...], order: int, level: int,
    rng: np.random.Generator, tolerance: float, step: float,
) -> None:  # fmt: skip
    out, pullback = vjp(f, *args)
    direction, weight = _random_like(args, rng), _random_like(out, rng)
    numeric = _difference(f, args, direction, weight, step)
    pulled = _dot(pullback(weight), direction)
    pushed = _dot(jvp(f, args, direction)[1], weight)
    for name, value in (("pull-back", pulled), ("push-forward", pushed)):
        if not abs(value - numeric) <= tolerance * max(1.0, abs(numeric)):
            raise GradientError(
                f"check_grads: the {name} of {getattr(f, '__name__', f)} gives {value:.12g} at "
                f"order {level}, finite differences {numeric:.12g}"
            )
    if order > 1:

        def slope(*at: Any) -> Any:
            return vjp(f, *at)[1](weight)

        slope.__name__ = f"gradient of {getattr(f, '__name__', 'f')}"
        _check(slope, args, order - 1, level + 1, rng, tolerance * 10, step)


def _random_like(x: Any, rng: np.random.Generator) -> Any:
    return tree.map_leaves(lambda leaf: rng.standard_normal(np.shape(leaf)), x)


def _leaves(x: Any) -> list[Array]:
    return [np.asarray(leaf, np.float64) for leaf in tree.flatten(x)[0]]


def _dot(a: Any, b: Any) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(_leaves(a), _leaves(b), strict=True)))


def _difference(
    f: Callable[..., Any], args: tuple[Any, ...], direction: Any, weight: Any, step: float
) -> float:
    """``<weight, f'(args) direction>`` by differences."""
    spec = tree.flatten(args)[1]

    def along(t: float) -> float:
        moved = [x + t * v for x, v in zip(_leaves(args), _leaves(direction), strict=True)]
        return _dot(f(*tree.unflatten(spec, moved)), weight)

    return sum(c * (along(k * step) - along(-k * step)) for k, c in _STENCIL) / step
