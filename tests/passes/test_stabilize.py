"""Every rule of stabilize: closer to the truth of mpmath than what it replaces."""

from __future__ import annotations

from collections import Counter

import mpmath
import numpy as np
import pytest
from passes.programs import build
from symgrad.ir import interpret, verify
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import reduce as rd
from symgrad.ir.passes.canonicalize import canonicalize
from symgrad.ir.passes.stabilize import RULES, stabilize
from symgrad.ir.rewrite import rewrite

SMALL = np.array([1e-300, 1e-20, -3e-17, 1e-9, 1e-3, -0.2, 0.4])
WIDE = np.array([-800.0, -40.0, -1.5, -1e-9, 0.3, 2.0, 37.0, 750.0])
mp = mpmath.mp.clone()
mp.dps = 1000  # exp(750) + 1 must not round


def one(x):
    return ew.zeros_like(x) + 1


UNARY = {
    "log_of_one_plus": (
        lambda x: ew.log(1 + x) * ew.log(1 - x),
        SMALL,
        lambda x: mp.log(1 + x) * mp.log(1 - x),
    ),
    "exp_minus_one": (
        lambda x: (ew.exp(x) - 1) * (1 - ew.exp(x)),
        SMALL,
        lambda x: -((mp.exp(x) - 1) ** 2),
    ),
    "one_minus_erf": (
        lambda x: (1 - ew.erf(x)) * (1 + ew.erf(-x)),
        np.array([-1.0, 0.5, 3.0, 5.5, 8.0]),
        lambda x: mp.erfc(x) ** 2,
    ),
    "log_of_exp": (lambda x: ew.log(ew.exp(x)), WIDE, lambda x: x),
    "log_of_sigmoid": (lambda x: ew.log(ew.sigmoid(x)), WIDE, lambda x: -mp.log(1 + mp.exp(-x))),
    "log1p_of_exp": (lambda x: ew.log(1 + ew.exp(x)), WIDE, lambda x: mp.log(1 + mp.exp(x))),
    "logistic": (lambda x: 1 / (1 + ew.exp(-x)), WIDE, lambda x: 1 / (1 + mp.exp(-x))),
    "sigmoid_cancels": (
        lambda x: 3 / ew.sigmoid(x) * (ew.sigmoid(x) * (1 - ew.sigmoid(x))),
        WIDE,
        lambda x: 3 / (1 + mp.exp(x)),
    ),
    "exp_times_sigmoid": (
        lambda x: ew.exp(x) * (1 / (1 + ew.exp(x))),
        WIDE,
        lambda x: 1 / (1 + mp.exp(-x)),
    ),
    "log_of_two_exps": (
        lambda x: ew.log(ew.exp(x) + ew.exp(2 * x)),
        WIDE,
        lambda x: mp.log(mp.exp(x) + mp.exp(2 * x)),
    ),
    "share_of_exps": (
        lambda x: ew.exp(x) / (ew.exp(x) + ew.exp(2 * x)),
        WIDE,
        lambda x: 1 / (1 + mp.exp(x)),
    ),
    "sqrt_of_square": (lambda x: ew.sqrt(x * x), np.array([-1e200, 1e-200, 3.0]), abs),
}


def errors(func, x, truth):
    """Relative error of the function's first result at each point."""
    (got, *_) = interpret(func, [x])
    pairs = zip(got.tolist(), truth, strict=True)
    return np.array(
        [np.inf if not np.isfinite(g) else float(abs(mp.mpf(g) - t) / abs(t)) for g, t in pairs]
    )


@pytest.mark.parametrize("name", UNARY)
def test_rule_is_accurate(name):
    make, x, truth = UNARY[name]
    hits: Counter[str] = Counter()
    before = canonicalize(build(make, x=x.shape))
    after = verify(rewrite(before, RULES, hits))
    assert hits[name], dict(hits)
    exact = [truth(mp.mpf(v)) for v in x.tolist()]
    was, now = errors(before, x, exact), errors(after, x, exact)
    representable = np.array([abs(t) > 1e-300 for t in exact])
    assert now[representable].max() < 4e-15
    if name != "logistic":  # it is there for the derivative
        assert was[representable].max() > 100 * now[representable].max()


def test_log_of_sum_of_exps_and_its_gradient():
    def make(x):
        return rd.reduce_sum(ew.log(rd.reduce_sum(ew.exp(x), axes=(1,))), axes=(0,))

    func = value_and_grad(build(make, x=(3, 4)))
    x = np.array([[1000.0, 999.0, 0.0, -1000.0], [-900, -900, -901, -2000], [1, 2, 3, 4]])
    value, grad = interpret(stabilize(canonicalize(func)), [x])
    top = x.max(1, keepdims=True)
    powers = np.exp(x - top)
    total = powers.sum(1, keepdims=True)
    np.testing.assert_allclose(value, (top + np.log(total)).sum(), rtol=1e-15)
    np.testing.assert_allclose(grad, powers / total, rtol=1e-14)


def test_a_row_of_minus_infinity_gives_minus_infinity():
    func = build(lambda x: ew.log(rd.reduce_sum(ew.exp(x), axes=(1,))), x=(2, 3))
    x = np.array([[-np.inf, -np.inf, -np.inf], [-np.inf, 0, 0]])
    (got,) = interpret(stabilize(func), [x])
    np.testing.assert_allclose(got, [-np.inf, np.log(2)])


def test_shifted_forms_stay():
    def make(x):
        shifted = x - rd.spread(rd.reduce_max(x, axes=(1,)), x, (1,))
        return shifted - rd.spread(ew.log(rd.reduce_sum(ew.exp(shifted), axes=(1,))), x, (1,))

    func = canonicalize(build(make, x=(3, 4)))
    assert stabilize(func) == func


def test_softmax_and_its_logarithm():
    def softmax(x):
        e = ew.exp(x)
        return e / rd.spread(rd.reduce_sum(e, axes=(1,)), x, (1,))

    x = np.array([[1000.0, 999.0, -1000.0]])
    plain = stabilize(canonicalize(build(softmax, x=(1, 3))))
    logged = stabilize(canonicalize(build(lambda x: ew.log(softmax(x)), x=(1, 3))))
    (p,), (logp,) = interpret(plain, [x]), interpret(canonicalize(logged), [x])
    share = np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(p, [[np.exp(-share), np.exp(-1 - share), 0]], rtol=1e-15)
    np.testing.assert_allclose(logp, [[-share, -1 - share, -2000 - share]], rtol=1e-15)


def test_gradients_of_softplus_and_log_sigmoid_do_not_overflow():
    for make, slope in (
        (lambda x: ew.log(1 + ew.exp(x)), lambda x: 1 / (1 + np.exp(-x))),
        (lambda x: ew.log(1 / (1 + ew.exp(-x))), lambda x: 1 / (1 + np.exp(x))),
        (lambda x: ew.log(ew.sigmoid(x)), lambda x: 1 / (1 + np.exp(x))),
        (lambda x: ew.log(ew.exp(x) + ew.exp(-x)), np.tanh),
    ):
        func = value_and_grad(
            build(lambda x, make=make: rd.reduce_sum(make(x), axes=(0,)), x=WIDE.shape)
        )
        _, grad = interpret(stabilize(canonicalize(func)), [WIDE])
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(grad, slope(WIDE), rtol=1e-13, atol=1e-16)


def test_idempotent_and_documented():
    assert all(r.identity for r in RULES)
    for make, x, _ in UNARY.values():
        once = stabilize(canonicalize(build(make, x=x.shape)))
        assert stabilize(once) == once
