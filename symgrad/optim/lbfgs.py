"""L-BFGS: steps along a direction that past gradients tell the curvature of.

J. Nocedal and S. Wright, "Numerical optimization" (2006): algorithm 7.4 for the direction,
section 3.5 for the search along it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from symgrad.optim.optimizer import Optimizer
from symgrad.tensors.handle import Tensor
from symgrad.tensors.state import enable_grad, no_grad

Array = np.ndarray[Any, Any]
Closure = Callable[[], Any]

SUFFICIENT, CURVATURE = 1e-4, 0.9
"""The constants of Wolfe's conditions."""
FLAT = 1e-10
"""Steps along which the gradient changes less than this tell no curvature."""
NARROWEST = 1e-9
"""An interval is narrowed no further, by how far parameters move within it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """A point along the direction: how far, and loss, gradient and slope there."""

    t: float
    loss: float
    gradient: Array
    slope: float


class LBFGS(Optimizer):
    """Limited-memory BFGS; ``step`` needs a closure that computes loss and gradients.

    A step makes up to ``max_iter`` moves by ``lr``, or by a search for a point that satisfies
    the strong Wolfe conditions, with ``line_search_fn="strong_wolfe"``.  All parameters are one
    vector, in one group.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1, max_iter: int = 20,
        max_eval: int | None = None, tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        if not lr >= 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        defaults = {
            "lr": lr, "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        }  # fmt: skip
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self._params: list[Tensor] = self.param_groups[0]["params"]

    def step(self, closure: Closure | None = None) -> Any:
        """Moves the parameters; returns the loss before."""
        if closure is None:
            raise TypeError("LBFGS.step() missing 1 required positional argument: 'closure'")
        for hook in list(self._pre_hooks.values()):
            hook(self, (closure,), {})
        with no_grad():
            first = _Descent(self, closure).run()
        for hook in list(self._post_hooks.values()):
            hook(self, (closure,), {})
        return first

    # -- parameters as one vector ------------------------------------------------------------

    def _gradient(self) -> Array:
        parts = [
            np.zeros(p.shape, p._dtype) if p.grad is None else p.grad._array() for p in self._params
        ]
        return np.concatenate([part.reshape(-1) for part in parts])

    def _position(self) -> list[Array]:
        return [p._array().copy() for p in self._params]

    def _move(self, origin: list[Array], t: float, direction: Array) -> None:
        """Puts the parameters ``t`` times the direction away from an origin."""
        start = 0
        for parameter, begun in zip(self._params, origin, strict=True):
            part = direction[start : start + begun.size].reshape(begun.shape)
            moved = begun + np.asarray(t, begun.dtype) * part
            parameter.copy_(Tensor.of_array(moved.astype(begun.dtype)))
            start += begun.size


class _Descent:
    """One ``step``: its options, and what is remembered from the steps before."""

    def __init__(self, optimizer: LBFGS, closure: Closure) -> None:
        self.optimizer, self.closure = optimizer, closure
        self.group = optimizer.param_groups[0]
        self.state = optimizer.state[optimizer._params[0]]
        self.state.setdefault("func_evals", 0)
        self.state.setdefault("n_iter", 0)
        self.evaluations = 0

    def run(self) -> Any:
        group, state = self.group, self.state
        first, loss, gradient = self._evaluated()
        if _largest(gradient) <= group["tolerance_grad"]:
            return first
        direction, t = _vector(state.get("d")), state.get("t")
        before, loss_before = _vector(state.get("prev_flat_grad")), state.get("prev_loss")
        for move in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            if state["n_iter"] == 1:
                direction = -gradient
                state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
            else:
                self._remember(gradient - before, direction * direction.dtype.type(t))
                direction = self._direction(gradient)
            before, loss_before = gradient, loss
            t = group["lr"]
            if state["n_iter"] == 1:
                t *= min(1.0, 1.0 / float(np.abs(gradient).sum()))
            slope = _dot(gradient, direction)
            if slope > -group["tolerance_change"]:
                break
            last = move == group["max_iter"]
            t, loss, gradient = self._moved(_Point(0, loss, gradient, slope), direction, t, last)
            if (
                last
                or self.evaluations >= group["max_eval"]
                or _largest(gradient) <= group["tolerance_grad"]
                or _largest(direction * t) <= group["tolerance_change"]
                or abs(loss - loss_before) < group["tolerance_change"]
            ):
                break
        state.update(d=Tensor.of_array(direction), t=t, prev_loss=loss_before)
        state["prev_flat_grad"] = Tensor.of_array(before)
        return first

    def _evaluated(self) -> tuple[Any, float, Array]:
        """The loss as the closure gives it and as a number, and the gradient."""
        with enable_grad():
            loss = self.closure()
        self.evaluations += 1
        self.state["func_evals"] += 1
        return loss, float(loss), self.optimizer._gradient()

    # -- the direction -----------------------------------------------------------------------

    def _remember(self, change: Array, step: Array) -> None:
        """Notes how much the gradient changed along a step."""
        state, curvature = self.state, _dot(change, step)
        if curvature <= FLAT:
            return
        news = {"old_dirs": Tensor.of_array(change), "old_stps": Tensor.of_array(step),
                "ro": 1.0 / curvature}  # fmt: skip
        for name, new in news.items():
            if len(state[name]) == self.group["history_size"]:
                state[name].pop(0)
            state[name].append(new)
        state["H_diag"] = curvature / _dot(change, change)

    def _direction(self, gradient: Array) -> Array:
        """Minus the gradient, times the inverse of the Hessian as far as it is known."""
        pairs = [
            (_vector(change), _vector(step), rho)
            for change, step, rho in zip(
                *(self.state[name] for name in ("old_dirs", "old_stps", "ro")), strict=True
            )
        ]
        q: Array = -gradient
        weights: list[float] = []
        for change, step, rho in reversed(pairs):
            weights.append(rho * _dot(step, q))
            q = q - q.dtype.type(weights[-1]) * change
        d: Array = q * q.dtype.type(self.state["H_diag"])
        for change, step, rho in pairs:
            d = d + d.dtype.type(weights.pop() - rho * _dot(change, d)) * step
        return d

    # -- how far to go -----------------------------------------------------------------------

    def _moved(
        self, here: _Point, direction: Array, t: float, last: bool
    ) -> tuple[float, float, Array]:
        """Moves the parameters; how far, and loss and gradient there, unless it was the last."""
        origin, search = self.optimizer._position(), self.group["line_search_fn"]
        if search is None:
            self.optimizer._move(origin, t, direction)
            return (t, here.loss, here.gradient) if last else (t, *self._evaluated()[1:])
        if search != "strong_wolfe":
            raise RuntimeError("only 'strong_wolfe' is supported")

        def try_at(t: float) -> _Point:
            self.optimizer._move(origin, t, direction)
            _, loss, gradient = self._evaluated()
            return _Point(t, loss, gradient, _dot(gradient, direction))

        most = self.group["max_eval"] - self.evaluations
        found = strong_wolfe(try_at, here, t, _largest(direction), most)
        self.optimizer._move(origin, found.t, direction)
        return found.t, found.loss, found.gradient


def strong_wolfe(
    try_at: Callable[[float], _Point], start: _Point, t: float, width: float, most: int
) -> _Point:
    """A point along a direction, with a sufficiently lower loss and a flatter slope.

    First steps get longer until two points have such a point between them, then the interval
    is narrowed; ``width`` is how far the parameters move for each unit of ``t``.  After the
    first, ``most`` points are tried.
    """

    def is_high(point: _Point) -> bool:
        return point.loss > start.loss + SUFFICIENT * point.t * start.slope

    def is_flat(point: _Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    before, point, tries = start, try_at(t), 0
    while True:
        if tries >= most:
            low, high = start, point
            break
        if is_high(point) or (tries > 1 and point.loss >= before.loss):
            low, high = before, point
            break
        if is_flat(point):
            return point
        if point.slope >= 0:
            low, high = before, point
            break
        bounds = point.t + 0.01 * (point.t - before.t), point.t * 10
        t = _lowest_of_cubic(before, point, bounds)
        before, point, tries = point, try_at(t), tries + 1
    ends = [low, high]  # in the order in which they are interpolated
    low, high = sorted(ends, key=lambda end: end.loss)
    is_slow = False
    while tries < most and abs(ends[1].t - ends[0].t) * width >= NARROWEST:
        t = _lowest_of_cubic(ends[0], ends[1])
        left, right = sorted(end.t for end in ends)
        margin = 0.1 * (right - left)
        is_close = min(right - t, t - left) < margin
        if is_close and (is_slow or not left < t < right):  # twice: go further inside
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            is_close = False
        is_slow = is_close
        point, tries = try_at(t), tries + 1
        place = ends.index(high)
        if is_high(point) or point.loss >= low.loss:
            ends[place] = point
            low, high = sorted(ends, key=lambda end: end.loss)
            continue
        if not is_flat(point) and point.slope * (high.t - low.t) >= 0:
            ends[place] = high = low
        ends[1 - place] = low = point
        if is_flat(point):
            break
    return low


def _lowest_of_cubic(a: _Point, b: _Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points with their slopes is lowest, within ``bounds``.

    Nocedal and Wright, (3.59); the middle if it has no lowest point.
    """
    left, right = sorted((a, b), key=lambda point: point.t)
    low, high = (left.t, right.t) if bounds is None else bounds
    if left.t == right.t:
        return (low + high) / 2
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    share = (right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2)
    return min(max(right.t - (right.t - left.t) * share, low), high)


def _dot(a: Array, b: Array) -> float:
    return float(np.dot(a, b))


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0))


def _vector(x: Any) -> Any:
    return None if x is None else x._array()
