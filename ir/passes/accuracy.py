"""Is a rewritten scalar region as accurate as the one it replaces?

Both run on sample points in their own dtype.  On ordinary points their errors against
mpmath are compared; on special ones (zeros, infinities, nan, huge and tiny numbers, in
pairs) they must agree.  A finite and correct result may replace a nan, if no input is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
from symgrad.ir.graph import Region, scalar_constant
from symgrad.ir.opdef import Array

_DIGITS = 400  # enough for 1 - sigmoid(800)
_SLACK = 4.0
_LUCK = 4.0
"""A rewritten result may be off by ``_SLACK`` units of rounding, or ``_LUCK`` times what
the old one was off by at the worst point of its kind: which of two equal formulas rounds
luckily at an ill-conditioned point says nothing about them."""

mp = mpmath.mp.clone()
mp.dps = _DIGITS


def _maximum(x: Any, y: Any) -> Any:
    return x if x >= y else y


_TRUTH: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "scale": lambda x, y: x * y if x != 0 else x,
    "pow": mp.power,
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "cbrt": lambda x: mp.sign(x) * mp.cbrt(abs(x)),
    "exp": mp.exp,
    "exp2": lambda x: mp.power(2, x),
    "expm1": mp.expm1,
    "log": mp.log,
    "log2": lambda x: mp.log(x) / mp.log(2),
    "log10": mp.log10,
    "log1p": lambda x: mp.log(1 + x),
    "logaddexp": lambda x, y: _maximum(x, y) + mp.log(1 + mp.exp(-abs(x - y))),
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan,
    "asin": mp.asin, "acos": mp.acos, "atan": mp.atan, "atan2": mp.atan2,
    "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh,
    "asinh": mp.asinh, "acosh": mp.acosh, "atanh": mp.atanh,
    "erf": mp.erf, "erfc": mp.erfc,
    "abs": abs, "sign": mp.sign, "floor": mp.floor, "ceil": mp.ceil,
    "relu": lambda x: _maximum(x, mp.mpf(0)),
    "maximum": _maximum,
    "minimum": lambda x, y: x if x <= y else y,
    "hypot": mp.hypot,
    "eq": lambda x, y: x == y, "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y, "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y,
    "and": lambda x, y: x and y, "or": lambda x, y: x or y, "logical_not": lambda x: not x,
    "isnan": mp.isnan, "isfinite": mp.isfinite,
    "select": lambda c, x, y: x if c else y,
    "convert": lambda x, dtype: mp.mpf(x),
}  # fmt: skip


def has_truth(region: Region) -> bool:
    """Whether every op of the region has a reference of arbitrary precision."""
    return all(op.name in _TRUTH or op.name == "constant" for op in region.ops)


class Judge:
    """Knows the truth about a region and compares replacements with it."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.ordinary, self.classes = _ordinary_points(region)
        self.special = _special_points(region)
        self.harmless = ~np.any([np.isnan(x) for x in self.special if x.dtype.kind == "f"], axis=0)
        self.truth = [_true_results(region, point) for point in zip(*self.ordinary, strict=True)]
        self.old_ordinary = evaluate(region, self.ordinary)
        self.old_special = evaluate(region, self.special)

    def accepts(self, new: Region) -> bool:
        """Whether ``new`` may replace the region."""
        for i, (old, value) in enumerate(
            zip(self.old_special, evaluate(new, self.special), strict=True)
        ):
            wrong = ~_agree(old, value, self.harmless)
            if wrong.any() and not self._is_right(i, value, np.flatnonzero(wrong)):
                return False
        for i, (old, value) in enumerate(
            zip(self.old_ordinary, evaluate(new, self.ordinary), strict=True)
        ):
            truth = [t[i] for t in self.truth]
            if not self._as_accurate(old, value, truth):
                return False
        return True

    def _is_right(self, result: int, values: Array, places: Array) -> bool:
        """Whether the values at some special points are the true ones, where the old
        region was wrong."""
        if values.dtype.kind != "f":
            return False
        for place in places.tolist():
            truth = _true_results(self.region, [x[place] for x in self.special])[result]
            if truth is None or _errors(values[[place]], [truth])[0] > _SLACK:
                return False
        return True

    def _as_accurate(self, old: Array, new: Array, truth: Sequence[Any]) -> bool:
        if old.dtype.kind != "f":
            return bool(np.array_equal(old, new))
        before, after = _errors(old, truth), _errors(new, truth)
        unknown = np.array([t is None for t in truth])
        if not _agree(old[unknown], new[unknown], np.ones(int(unknown.sum()), bool)).all():
            return False
        for kind in np.unique(self.classes):
            chosen = (self.classes == kind) & ~unknown
            if chosen.any() and after[chosen].max() > _LUCK * before[chosen].max() + _SLACK:
                return False
        return True


def evaluate(region: Region, arrays: Sequence[Array]) -> list[Array]:
    """The region's results at arrays of points, by the NumPy references."""
    env = {id(p): a for p, a in zip(region.params, arrays, strict=True)}
    with np.errstate(all="ignore"):
        for op in region.ops:
            rule = op.opdef.evaluate_rule
            if rule is None:
                raise NotImplementedError(op.name)
            env[id(op.result)] = np.asarray(rule(*(env[id(v)] for v in op.operands), **op.attrs))
    return [np.broadcast_to(env[id(v)], arrays[0].shape) for v in region.results]


def _true_results(region: Region, point: Sequence[Any]) -> list[Any]:
    """The results at one point exactly enough; ``None`` where they are not finite reals."""
    env: dict[int, Any] = {}
    for param, number in zip(region.params, point, strict=True):
        is_bool = param.type.dtype.kind == "b"
        env[id(param)] = bool(number) if is_bool else _real(mp.mpf(float(number)))
    for op in region.ops:
        constant = scalar_constant(op.result)
        if constant is not None:
            env[id(op.result)] = constant if isinstance(constant, bool) else mp.mpf(constant)
            continue
        operands = [env[id(v)] for v in op.operands]
        env[id(op.result)] = _apply(op.name, operands, op.attrs)
    return [_real(env[id(v)]) for v in region.results]


def _apply(name: str, operands: list[Any], attrs: Any) -> Any:
    if name == "select" and operands[0] is not None:  # the other branch may have no value
        return operands[1] if operands[0] else operands[2]
    if any(v is None for v in operands):
        return None
    try:
        return _real(_TRUTH[name](*operands, **attrs))
    except (ZeroDivisionError, ValueError, OverflowError, TypeError):
        return None


def _real(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    return value if isinstance(value, mp.mpf) and mp.isfinite(value) else None


def _errors(values: Array, truth: Sequence[Any]) -> Array:
    """Errors in units of rounding of the true values (infinite for nan)."""
    info = np.finfo(values.dtype)
    result = np.zeros(values.shape)
    for i, (value, exact) in enumerate(zip(values.tolist(), truth, strict=True)):
        if exact is None:
            continue
        unit = max(abs(exact) * float(info.eps), float(info.tiny))
        if abs(exact) > float(info.max):
            result[i] = 0.0
        elif not np.isfinite(value):
            result[i] = np.inf
        else:
            result[i] = float(abs(mp.mpf(value) - exact) / unit)
    return np.minimum(result, 1e30)


def _agree(old: Array, new: Array, may_heal: Array) -> Array:
    """Where values are equal up to rounding, nan and infinities included; ``new`` may be
    finite where ``old`` is nan and ``may_heal``."""
    if old.dtype.kind != "f":
        return np.asarray(old == new)
    with np.errstate(all="ignore"):
        loose = np.abs(old - new) <= 1e-3 * np.abs(old) + np.finfo(old.dtype).tiny * 8
    same = (old == new) | (np.isnan(old) & np.isnan(new)) | loose
    return np.asarray(same | (np.isnan(old) & may_heal))


_CLASSES: tuple[Callable[[np.random.Generator, int], Array], ...] = (
    lambda rng, n: rng.normal(size=n),
    lambda rng, n: np.exp(rng.normal(size=n)),
    lambda rng, n: rng.uniform(0.01, 0.99, n),
    lambda rng, n: rng.normal(size=n) * 30,
    lambda rng, n: rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-8, -2, n),
    lambda rng, n: 10.0 ** rng.uniform(-3, 3, n),
)
_PER_CLASS = 12


def _ordinary_points(region: Region) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(20)
    columns = []
    for param in region.params:
        dtype = param.type.dtype
        column: Array
        if dtype.kind == "b":
            column = rng.random(_PER_CLASS * len(_CLASSES)) < 0.5
        elif dtype.is_integer:
            column = rng.integers(0, 9, _PER_CLASS * len(_CLASSES))
        else:
            column = np.concatenate([draw(rng, _PER_CLASS) for draw in _CLASSES])
        columns.append(column.astype(dtype.numpy))
    return columns, np.repeat(np.arange(len(_CLASSES)), _PER_CLASS)


def _special_points(region: Region) -> list[Array]:
    rng = np.random.default_rng(21)
    floats = [i for i, p in enumerate(region.params) if p.type.dtype.is_float]
    rows: list[list[float]] = []
    for base in (rng.normal(size=len(region.params)), np.exp(rng.normal(size=len(region.params)))):
        rows.append(list(base))
        for i in floats:
            rows += [_with(base, {i: v}) for v in (*_specials(region, i), np.nan)]
        for i, j in itertools.combinations(floats, 2):
            corners = itertools.product(_specials(region, i), _specials(region, j))
            rows += [_with(base, {i: v, j: w}) for v, w in corners]
    table = np.array(rows or [[]])
    return [
        (table[:, i] > 0 if p.type.dtype.kind == "b" else table[:, i]).astype(p.type.dtype.numpy)
        for i, p in enumerate(region.params)
    ]


def _specials(region: Region, index: int) -> list[float]:
    # Not the very largest and smallest: on those any regrouping overflows elsewhere.
    large = 1e30 if region.params[index].type.dtype.name == "f64" else 1e9
    return [0.0, np.inf, -np.inf, large, 1 / large, 800.0, -800.0]


def _with(base: Array, changes: dict[int, float]) -> list[float]:
    row = list(base)
    for index, value in changes.items():
        row[index] = value
    return row
