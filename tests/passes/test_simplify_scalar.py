"""simplify_scalar: cheaper regions, equal values, and what must not be touched."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from passes.programs import assert_same, build
from symgrad.ir import interpret, parse
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.passes import op_cost, op_counts
from symgrad.ir.passes.accuracy import Judge, evaluate
from symgrad.ir.passes.fuse import fuse
from symgrad.ir.passes.simplify_scalar import (
    SCALE_RULES,
    _as_text,
    _from_text,
    is_candidate,
    simplify_region,
    simplify_scalar,
)
from symgrad.ir.passes.symbolic_report import report
from symgrad.ir.passes.sympy_bridge import ANALYTIC, ARITHMETIC, to_region, to_sympy
from symgrad.ir.rewrite import rewrite_region
from symgrad.ir.types import f64

OFTEN = 10**9
"""Calls for which any search pays."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path))


def region_of(make, **shapes):
    (nest,) = fuse(build(make, **shapes)).ops
    return nest.regions[0]


@pytest.mark.parametrize("f", op_counts.FUNCTIONS[:5], ids=lambda f: f.__name__)
def test_value_and_gradient_get_cheaper(f):
    before, after, _ = op_counts.regions(f)
    assert op_cost.count(after.ops) < op_cost.count(before.ops)
    assert op_cost.cost(after) < op_cost.cost(before)
    rng = np.random.default_rng(0)
    points = [rng.normal(size=1000) * 3 for _ in before.params]
    for a, b in zip(evaluate(before, points), evaluate(after, points), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_gradient_of_cross_entropy_is_sigmoid_minus_label():
    _, after, names = op_counts.regions(op_counts.sigmoid_cross_entropy)
    x, label = np.array([-800.0, -2.0, 0.5, 800.0]), np.array([0.0, 0.25, 1.0, 0.0])
    args = {"x": x, "label": label, "ct": np.ones(4)}
    *_, slope = evaluate(after, [args[name] for name in names])
    sigmoid = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    np.testing.assert_allclose(slope, sigmoid - label, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("transparent", [ARITHMETIC, ANALYTIC])
def test_bridge_round_trip_keeps_values_and_constants(transparent):
    def make(x, y):
        a = x * 0.1 + ew.exp(y / 3) * 1e-300 - ew.sqrt(x * x + 1)
        b = ew.where(ew.lt(x, y), a, ew.tanh(y) * 0.044715)
        return a, ew.relu(b) + ew.power(x, -2), -x - y

    region = region_of(make, x=(5,), y=(5,))
    again = to_region(to_sympy(region, f64, transparent))
    rng = np.random.default_rng(1)
    points = [rng.normal(size=50), rng.normal(size=50)]
    for a, b in zip(evaluate(region, points), evaluate(again, points), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-15)


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e-300, 5e300, 0.044715, 2.0**-1060])
def test_constants_come_back_bit_for_bit(number):
    region = region_of(lambda x: x * number, x=(3,))
    again = to_region(to_sympy(region, f64, ARITHMETIC))
    (value,) = [op.attrs["value"] for op in again.ops if op.name == "constant"]
    assert value == number


def judged(make, other, **shapes):
    return Judge(region_of(make, **shapes)).accepts(region_of(other, **shapes))


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (ew.expm1, lambda x: ew.exp(x) - 1),
        (lambda x: ew.log1p(ew.exp(-ew.abs(x))), lambda x: ew.log(1 + ew.exp(-ew.abs(x)))),
        (lambda x: (1 - ew.tanh(x)) * (1 + ew.tanh(x)) * x, lambda x: x - x * x),
        (lambda x: x * ew.sigmoid(x) + x, lambda x: x * (ew.sigmoid(x) * 1.0000001) + x),
        (lambda x: ew.relu(x) * ew.exp(x), lambda x: x * ew.exp(x)),
        (lambda x: ew.scale(x, 1 / x), lambda x: x * (1 / x)),  # 0 times infinity
        (
            lambda x: ew.sigmoid(x) * (x * (1 - ew.sigmoid(x)) + 1),  # 1 + x - x at 1e30
            lambda x: ew.sigmoid(x) * ((x + 1) - x * ew.sigmoid(x)),
        ),
    ],
)
def test_judge_refuses_what_is_worse(make, other):
    assert not judged(make, other, x=(3,))
    assert judged(make, make, x=(3,))


def test_judge_refuses_digits_for_speed():
    # 1 - sigmoid(x) in place of sigmoid(-x) is off by x / 2 units of rounding here.
    assert not judged(
        lambda x: x * ew.sigmoid(-x) + ew.sigmoid(x),
        lambda x: x * (1 - ew.sigmoid(x)) + ew.sigmoid(x),
        x=(3,),
    )


def test_judge_lets_a_nan_heal():
    # exp(x) / (1 + exp(x)) is nan for large x.
    assert judged(lambda x: ew.exp(x) / (1 + ew.exp(x)), ew.sigmoid, x=(3,))


def test_scale_rules_keep_zero_times_infinity():
    def make(x, y):
        one = ew.scale(ew.scale(x, 1 / y), ew.log(y))
        return one - ew.scale(x, ew.exp(y) / y)

    region = region_of(make, x=(3,), y=(3,))
    merged = rewrite_region(region, SCALE_RULES)
    assert sum(op.name == "scale" for op in merged.ops) == 1
    x, y = np.array([0.0, 0.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.5, 2.0])
    for a, b in zip(evaluate(region, [x, y]), evaluate(merged, [x, y]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_reductions_and_branches_survive():
    def make(x, y):
        s = ew.sigmoid(x)
        picked = ew.where(ew.gt(y, ew.zeros_like(y)), s * (1 - s) * x * y + s * y, 0.0)
        from symgrad.ir.ops import reduce as rd

        return rd.reduce_sum(picked + ew.exp(-ew.abs(x)), axes=(0,)), picked

    before = fuse(build(make, x=(64, 80), y=(64, 80)))
    after = simplify_scalar(before, calls=OFTEN)
    assert after != before
    assert_same(before, after, rtol=1e-11, atol=1e-11)
    assert parse(after.text) == after


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda x: (ew.sigmoid(x), ew.sigmoid(x) + ew.sigmoid(-x) * 2), 1),
        (lambda x: (ew.exp(x) + ew.exp(-x), ew.exp(x) + ew.exp(-x) * 3), 1),
        (lambda x: (ew.log1p(ew.exp(-ew.abs(x))), ew.sigmoid(x)), 2),
    ],
)
def test_functions_of_one_argument_share_an_exponential(make, kept):
    before = region_of(make, x=(9000,))
    after = simplify_region(before)
    assert op_cost.transcendental(after) == kept < op_cost.transcendental(before)


def test_result_comes_from_the_disk_the_second_time(monkeypatch):
    before, after, _ = op_counts.regions(op_counts.softplus)
    module = sys.modules["symgrad.ir.passes.simplify_scalar"]
    monkeypatch.setattr(module, "_search", lambda *_: pytest.fail("searched again"))
    again = simplify_region(before)
    assert _as_text(again) == _as_text(after)


def test_text_of_a_region_keeps_scale():
    region = region_of(lambda x, y: ew.scale(x, 1 / y) + ew.exp(y), x=(3,), y=(3,))
    for param in region.params:
        param.facts = 0
    again = _from_text(_as_text(region), region)
    assert [op.name for op in again.ops] == [op.name for op in region.ops]
    assert "scale" in [op.name for op in again.ops]
    assert _as_text(again) == _as_text(region)


def test_f32_regions_keep_their_dtype():
    f = build(
        lambda x: (ew.exp(x) + ew.exp(-x), ew.exp(x) + ew.exp(-x) * 3),
        dtype="f32",
        x=(5000,),
    )
    before = fuse(f)
    after = simplify_scalar(before, calls=OFTEN)
    assert after != before
    x = np.linspace(-20, 20, 5000, dtype=np.float32)
    for a, b in zip(interpret(before, [x]), interpret(after, [x]), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-12)


def test_small_or_plain_nests_are_passed_over():
    plain = fuse(build(lambda x: ew.relu(x * 2 + 1) / 3, x=(10000,)))
    assert simplify_scalar(plain) is plain
    small = fuse(build(lambda x: ew.exp(x) * ew.exp(x) + ew.log(x), x=(8,)))
    assert simplify_scalar(small) is small
    assert is_candidate(small.ops[0].regions[0], 100)


@pytest.mark.parametrize(
    ("points", "searches"),
    [(10**5, []), (10**7, [False]), (10**8, [True])],
    ids=["nothing pays", "only what needs no sympy", "sympy pays"],
)
def test_a_search_costs_no_more_than_calls_win_back(monkeypatch, points, searches):
    # One exponential of two can be saved: 10 cycles of 26, which SymPy might do, too.
    f = fuse(build(lambda x: ew.exp(x) * (ew.exp(-x) + ew.exp(x) * x), x=(points,)))
    seen = []
    module = sys.modules["symgrad.ir.passes.simplify_scalar"]
    monkeypatch.setattr(module, "_search", lambda _, seconds: seen.append(seconds > 0))
    assert simplify_scalar(f) is f
    assert seen == searches


def test_sympy_is_not_imported_without_need():
    code = (
        "import sys\n"
        "from symgrad.ir import parse\n"
        "from symgrad.ir.passes import optimize\n"
        "f = parse('func @f(%x: f32[9000]) -> (f32[9000]) "
        "{ %0: f32[9000] = exp %x\\n return %0 }')\n"
        "optimize(f)\n"
        "print(sorted({'sympy', 'mpmath'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_report_shows_formulas_before_and_after():
    func = op_counts.value_and_gradient(op_counts.softplus)
    from symgrad.ir.passes import optimize

    text = report(optimize(func, disable=("simplify_scalar",)))
    assert "v1 = ct*sigmoid(x)" in text
    assert "# simplified: 11 ops" in text
