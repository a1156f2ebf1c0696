"""Functions that are short formulas of others, written as NumPy code on traced values.

A row of ``FORMULAS`` gives the formula, the name of ``grad_fn`` where it is not the
function's own, and whether integers stay integers.  ``SPECIAL`` is ``torch.special``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.tensors import dtypes
from symgrad.tensors.apply import INPUTS, NOTHING, apply
from symgrad.tensors.arithmetic import clamp, mul
from symgrad.tensors.elementwise import (
    FUNCTIONS,
    NO_DERIVATIVE,
    backward_name,
    cast,
    declared,
    enter,
    floating,
    in_type,
    is_number,
    matched,
    without_derivative,
)
from symgrad.tensors.handle import Tensor
from symgrad.tensors.namespaces import Special
from symgrad.tracing import constant, stage

_SQRT_HALF = math.sqrt(0.5)


def _untracked(x: Any) -> Any:
    return stage("stop_gradient", x)


def _xlogy(x: Any, y: Any) -> Any:
    zero = (x == 0) & ~snp.isnan(y)
    return snp.where(zero, x * 0.0, x * np.log(y))


def _xlog1py(x: Any, y: Any) -> Any:
    zero = (x == 0) & ~snp.isnan(y)
    return snp.where(zero, x * 0.0, x * np.log1p(y))


def _entr(x: Any) -> Any:
    inside = -x * np.log(snp.where(x > 0, x, 1.0))
    return snp.where(x > 0, inside, snp.where(x == 0, x * 0.0, snp.where(x < 0, -math.inf, x)))


def _frac(x: Any) -> Any:
    return x - stage("trunc", x)


def _heaviside(x: Any, at_zero: Any) -> Any:
    one, zero = constant(1, x.dtype, x.shape), constant(0, x.dtype, x.shape)
    return snp.where(x == 0, at_zero, snp.where(x > 0, one, zero))


def _larger(x: Any, y: Any) -> Any:
    if x._kind != "f":
        return stage("maximum", x, y)
    return snp.where((x >= y) | snp.isnan(y), x, y)


def _smaller(x: Any, y: Any) -> Any:
    if x._kind != "f":
        return stage("minimum", x, y)
    return snp.where((x <= y) | snp.isnan(y), x, y)


def _logaddexp2(x: Any, y: Any) -> Any:
    return np.logaddexp(x * math.log(2), y * math.log(2)) * (1 / math.log(2))


def _digamma(x: Any) -> Any:
    return stage("polygamma", x, order=0)


def _gcd(x: Any, y: Any) -> Any:
    """Euclid's algorithm, as many steps as 64 bits can take."""
    x, y = abs(x), abs(y)
    for _ in range(_EUCLID[x.dtype.itemsize]):
        done = y == 0
        x, y = snp.where(done, x, y), snp.where(done, y, x % snp.where(done, 1, y))
    return x


_EUCLID = {1: 13, 2: 24, 4: 47, 8: 93}
"""Steps for two numbers of so many bytes: consecutive Fibonacci numbers are the worst."""


def _lcm(x: Any, y: Any) -> Any:
    common = _gcd(x, y)
    return abs(x // snp.where(common == 0, 1, common) * y)


FORMULAS: dict[str, tuple[Callable[..., Any], str, bool]] = {
    "sinc": (np.sinc, "", False),
    "xlogy": (_xlogy, "", False),
    "special_xlog1py": (_xlog1py, "SpecialXlog1PyBackward0", False),
    "special_entr": (_entr, "", False),
    "special_ndtri": (lambda p: math.sqrt(2) * stage("erfinv", 2.0 * p - 1.0), "", False),
    "special_ndtr": (lambda x: stage("erfc", -x * _SQRT_HALF) * 0.5, "MulBackward1", False),
    "digamma": (_digamma, "", False),
    "deg2rad": (lambda x: x * (math.pi / 180), "Deg2RadBackward0", False),
    "rad2deg": (lambda x: x * (180 / math.pi), "Rad2DegBackward0", False),
    "frac": (_frac, "", True),
    "sgn": (lambda x: x if x.dtype.kind == "b" else stage("sign", x), "", True),
    "heaviside": (_heaviside, f"{NO_DERIVATIVE} aten::heaviside", True),
    "fmax": (_larger, "", True),
    "fmin": (_smaller, "", True),
    "logaddexp2": (_logaddexp2, "", False),
    "gcd": (_gcd, "", True),
    "lcm": (_lcm, "", True),
}


def _declare_formula(name: str, formula: Callable[..., Any], label: str, keeps: bool) -> None:
    label = label or backward_name(name)

    def function(input: Any, *others: Any) -> Tensor:
        operands = (input, *others)
        bring = matched(operands, dtypes.promote(operands) if keeps else floating(operands))
        given = label
        if name == "xlogy" and any(map(is_number, operands)):
            given = f"XlogyBackward{1 if is_number(input) else 2}"
        saves = NOTHING if name in ("frac", "sgn", "heaviside") else INPUTS
        made: Tensor = apply(given, lambda *xs: formula(*bring(*xs)), operands, saves=saves)
        return made

    enter(function, name, f"``{name.removeprefix('special_')}`` of each element.")


for _name, (_formula, _label, _keeps) in FORMULAS.items():
    _declare_formula(_name, _formula, _label, _keeps)


@declared
def positive(input: Tensor) -> Tensor:
    """The tensor itself."""
    if input._dtype.kind == "b":
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@declared
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input * 2 ** other``"""
    dtype = floating((input, other))
    bring = matched((input, other), dtype)

    def compute(x: Any, n: Any) -> Any:
        x, n = bring(x, n)
        return x * np.exp2(n)

    made: Tensor = apply("LdexpBackward0", compute, (input, other))
    return made


@declared
def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next number of the type in the direction of ``other``."""
    stepped = np.nextafter(input._array(), other._array())
    made = Tensor.of_array(np.ascontiguousarray(stepped))
    return without_derivative(made, "aten::nextafter", input, other)


@declared
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, or multiple of ``10 ** -decimals``; halves go to the even one."""
    if input._kind != "f":
        return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]
    ten = 10.0 ** abs(decimals)

    def compute(x: Any) -> Any:
        if decimals == 0:
            return stage("round", x)
        return stage("round", x * ten) / ten if decimals > 0 else stage("round", x / ten) * ten

    label = f"RoundBackward{int(decimals != 0)}"
    made: Tensor = apply(label, compute, (input,), saves=NOTHING)
    return made


@declared
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """``log(p / (1 - p))``; with ``eps`` the input is kept within [eps, 1 - eps]."""
    dtype = floating((input,))

    def compute(x: Any) -> Any:
        p = cast(x, dtype)
        if eps is not None:
            inside = (p >= eps) & (p <= 1 - eps)
            p = snp.where(inside, p, _untracked(snp.clip(p, eps, 1 - eps)))
        return np.log(p / (1.0 - p))

    made: Tensor = apply("LogitBackward0", compute, (input,))
    return made


@declared
def nan_to_num(
    input: Tensor, nan: float | None = None, posinf: float | None = None,
    neginf: float | None = None,
) -> Tensor:  # fmt: skip
    """nan and infinities replaced, by 0 and the type's extremes unless told otherwise."""
    if input._kind != "f":
        return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]
    limits = dtypes.limits(input._dtype)
    high = limits.max if posinf is None else posinf
    low = limits.min if neginf is None else neginf

    def compute(x: Any) -> Any:
        infinite = snp.where(x > 0, float(high), float(low))
        special = snp.where(snp.isnan(x), float(nan or 0.0), cast(infinite, x.dtype))
        return snp.where(snp.isfinite(x), x, cast(special, x.dtype))

    made: Tensor = apply("NanToNumBackward0", compute, (input,), saves=INPUTS)
    return made


def polygamma(n: int, input: Tensor) -> Tensor:
    """The derivative of order ``n`` of ``digamma``."""
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    dtype = floating((input,))

    def compute(x: Any) -> Any:
        return stage("polygamma", cast(x, dtype), order=n)

    made: Tensor = apply("PolygammaBackward0", compute, (input,))
    return made


FUNCTIONS["_polygamma"] = lambda input, n: polygamma(n, input)


@declared
def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension ``p``."""
    dtype = floating((input,))

    def compute(x: Any) -> Any:
        x = cast(x, dtype)
        total: Any = p * (p - 1) / 4 * math.log(math.pi)
        for j in range(p):
            total = total + stage("lgamma", x - j / 2)
        return total

    made: Tensor = apply("MvlgammaBackward0", compute, (input,))
    return made


# -- activations ---------------------------------------------------------------------------


def _elu(x: Any, alpha: float, scale: float) -> Any:
    below = alpha * np.expm1(snp.where(x < 0, x, 0.0))
    return scale * snp.where(x > 0, x, below)


def _activation(name: str, label: str, formula: Callable[..., Any]) -> None:
    def activation(input: Tensor, *options: Any, **named: Any) -> Tensor:
        made: Tensor = apply(label, lambda x: formula(x, *options, **named), (input,))
        return made

    enter(activation, name, f"``{name}`` of torch.")


_activation("selu", "EluBackward0", lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805))
_activation("celu", "CeluBackward0", lambda x, alpha=1.0: snp.where(
    x > 0, x, alpha * np.expm1(snp.where(x < 0, x, 0.0) / alpha)))  # fmt: skip
_activation("threshold", "ThresholdBackward0",
            lambda x, threshold, value: snp.where(
                x > threshold, x, in_type(value, x.dtype)))  # fmt: skip


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """``input``, multiplied by the weight of its channel (axis 1) where it is negative."""
    shape = (1, -1, *(1,) * (input.ndim - 2)) if weight.numel() > 1 else (1,) * input.ndim

    def compute(x: Any, w: Any) -> Any:
        return snp.where(x > 0, x, x * snp.reshape(w, shape))

    made: Tensor = apply("PreluKernelBackward0", compute, (input, weight))
    return made


FUNCTIONS["prelu"] = prelu

# -- torch.special -------------------------------------------------------------------------

_SHARED = """exp2 expm1 log1p erf erfc erfinv digamma polygamma sinc logit xlogy
softmax log_softmax logsumexp round"""
_RENAMED = {"expit": "sigmoid", "gammaln": "lgamma", "psi": "digamma", "multigammaln": "mvlgamma"}
_OWN = "xlog1py entr ndtr ndtri"


def namespace() -> Special:
    """``torch.special``, once all functions are entered."""
    found = {name: FUNCTIONS[name] for name in _SHARED.split() if name in FUNCTIONS}
    found |= {name: FUNCTIONS[other] for name, other in _RENAMED.items()}
    found |= {name: FUNCTIONS[f"special_{name}"] for name in _OWN.split()}
    return Special(**found, polygamma=polygamma)


__all__ = ["FORMULAS", "clamp", "mul", "namespace", "polygamma", "prelu"]
