"""Every rule of canonicalize: the ops that remain, and the same values."""

from __future__ import annotations

from collections import Counter

import pytest
from passes.programs import assert_same, build, op_names
from symgrad.ir import dtype_of, parse
from symgrad.ir.graph import insertion
from symgrad.ir.ops import conv as cv
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import linalg as la
from symgrad.ir.ops import reduce as rd
from symgrad.ir.ops import shape as sh
from symgrad.ir.ops import structural as st
from symgrad.ir.passes.canonicalize import RULES, canonicalize
from symgrad.ir.rewrite import rewrite

V = {"x": (3, 5)}
VV = {"x": (3, 5), "y": (3, 5)}
I64, F32, F64, BOOL = (dtype_of(n) for n in ("i64", "f32", "f64", "bool"))


def bc(v, shape, *axes):
    return sh.broadcast_to(v, shape=shape, axes=axes)


def cut(v, start, stop, step=None):
    return sh.slice_(v, start=start, stop=stop, step=step or (1,) * v.rank)


def zero_pad(v, low, high, interior=None):
    return sh.pad(v, low=low, high=high, interior=interior or (0,) * v.rank, value=0)


def const(n, like):
    return insertion.builder.operand_like(n, like)


# name of the rule: (function, parameter shapes, ops that remain)
POINTS = {
    "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "lhs_dilation": (1, 1),
}  # fmt: skip
EXACT = {
    "identity_away": (lambda x: st.identity(st.stop_gradient(x)) * 3, V, ["mul"]),
    "add_zero": (lambda x: 0 + (x + 0.0), V, []),
    "sub_zero": (lambda x: 0 - (x - 0), V, ["neg"]),
    "sub_self": (lambda i: i - i, {"i": (4,)}, []),
    "neg_of_neg": (lambda x: ew.neg(ew.neg(x)), V, []),
    "neg_of_sub": (lambda x, y: -(x - y), VV, ["sub"]),
    "neg_of_constant_multiple": (lambda x: -(x * 3) + -(4 * x), V, ["mul", "mul", "add"]),
    "add_of_neg": (lambda x, y: (-x + y) * (x + -y), VV, ["sub", "sub", "mul"]),
    "sub_of_neg": (lambda x, y: x - -y, VV, ["add"]),
    "product_of_neg": (
        lambda x, y: (-x) * (-y) / (-y) + (-x) * 3,
        VV,
        ["mul", "div", "mul", "sub"],
    ),
    "even_of_neg": (
        lambda x: ew.cos(-x) + ew.cosh(-x) + ew.abs(-x),
        V,
        ["cos", "cosh", "add", "abs", "add"],
    ),
    "mul_zero": (lambda i: i * 0 + 1, {"i": (4,)}, []),
    "mul_minus_one": (lambda x: x * -1, V, ["neg"]),
    "mul_of_constant_multiple": (
        lambda x: (0.1 * x) * 4 + 0.3 * (0.5 * x),
        V,
        ["mul", "mul", "add"],
    ),
    "div_by_power_of_two": (lambda x: x / 8 + x / 3, V, ["mul", "div", "add"]),
    "select_of_constant": (lambda x, y: ew.where(ew.eq(const(1, x), const(1, x)), x, y), VV, []),
    "select_of_not": (
        lambda m, x, y: ew.where(ew.logical_not(m), x, y),
        {"m": (3, 5), **VV},
        ["select"],
    ),
    "select_of_select": (
        lambda m, x, y: ew.where(m, ew.where(m, x, y), ew.where(m, x * 2, x + y)),
        {"m": (3, 5), **VV},
        ["add", "select"],
    ),
    "select_of_truths": (
        lambda m: (
            ew.where(m, const(True, m), const(False, m)),
            ew.where(m, const(False, m), const(True, m)),
        ),
        {"m": (7,)},
        ["logical_not"],
    ),
    "not_of_not": (
        lambda x, y: ew.logical_not(ew.logical_not(ew.logical_not(ew.eq(x, y)))),
        VV,
        ["ne"],
    ),
    "idempotent": (lambda x: ew.maximum(x, x) + ew.minimum(x, x), V, ["add"]),
    "logic_with_constant": (
        lambda m: (
            ew.and_(m, const(True, m)),
            ew.and_(m, const(False, m)),
            ew.or_(const(False, m), m),
            ew.or_(m, const(True, m)),
        ),
        {"m": (7,)},
        [],
    ),
    "clamp_of_nonnegative": (
        lambda x: ew.relu(ew.abs(x)) + ew.abs(ew.exp(x)),
        V,
        ["abs", "exp", "add"],
    ),
    "convert_of_convert": (
        lambda i: ew.convert(ew.convert(ew.eq(i, i), dtype=F32), dtype=F64),
        {"i": (4,)},
        ["eq", "convert"],
    ),
    "rearranged_constant": (
        lambda x: x + sh.transpose(const(3, sh.transpose(x, axes=(1, 0))), axes=(1, 0)),
        {"x": (6, 7)},
        ["add"],
    ),
    "pad_of_constant": (
        lambda x: x + zero_pad(cut(const(0.0, x), (0, 0), (5, 7)), (1, 0), (0, 0)),
        {"x": (6, 7)},
        [],
    ),
    "reshape_of_broadcast": (
        lambda x: sh.reshape(bc(x, (4, 6)), shape=(2, 12)),
        {"x": ()},
        ["broadcast_to"],
    ),
    "transpose_of_small_axes": (
        lambda x: sh.transpose(x, axes=(1, 0, 2)),
        {"x": (3, 1, 5)},
        ["reshape"],
    ),
    "transpose_of_broadcast": (
        lambda x: sh.transpose(bc(x, (3, 2, 5), 0, 2), axes=(2, 1, 0)),
        V,
        ["transpose", "broadcast_to"],
    ),
    "broadcast_to_small_axes": (lambda x: bc(x, (1, 3, 1, 5), 1, 3), V, ["reshape"]),
    "elementwise_of_broadcasts": (
        lambda x, y: ew.sin(bc(x, (3, 4, 5), 1)) * bc(y, (3, 4, 5), 2) * 2,
        {"x": (4,), "y": (5,)},
        ["sin", "broadcast_to", "broadcast_to", "mul", "mul", "broadcast_to"],
    ),
    "iota_of_one_axis": (
        lambda i: i + sh.iota(shape=(2, 3), axis=1, dtype=I64),
        {"i": (2, 3)},
        ["iota", "broadcast_to", "add"],
    ),
    "slice_of_slice": (
        lambda x: cut(cut(x, (1, 2), (9, 11), (2, 3)), (1, 1), (4, 3), (2, 1)),
        {"x": (10, 12)},
        ["slice"],
    ),
    "slice_of_broadcast": (
        lambda x: cut(bc(x, (4, 3, 5), 1, 2), (1, 0, 2), (3, 2, 5)),
        V,
        ["slice", "broadcast_to"],
    ),
    "slice_of_pad": (
        lambda x: cut(zero_pad(x, (2, 1), (0, 3), (1, 0)), (2, 1), (7, 6), (2, 1)),
        V,
        [],
    ),
    "slice_of_concatenate": (
        lambda x, y: cut(sh.concatenate(x, y, axis=0), (4, 1), (6, 5)),
        VV,
        ["slice"],
    ),
    "reverse_of_reverse": (lambda x: sh.reverse(sh.reverse(x, axes=(0, 1)), axes=(0, 1)), V, []),
    "add_of_neighbouring_pads": (
        lambda x, y: zero_pad(y, (1, 3), (0, 1)) + zero_pad(x, (1, 0), (0, 6)),
        {"x": (2, 3), "y": (2, 5)},
        ["concatenate", "pad"],
    ),
    "concatenate_of_concatenate": (
        lambda x, y: sh.concatenate(x, sh.concatenate(y, x, axis=1), axis=1),
        VV,
        ["concatenate"],
    ),
    "reduce_of_transpose": (
        lambda x: rd.reduce_max(sh.transpose(x, axes=(2, 0, 1)), axes=(0,)),
        {"x": (2, 3, 4)},
        ["reduce_max"],
    ),
    "reduce_of_broadcast": (
        lambda x: rd.reduce_max(bc(x, (4, 3, 5, 2), 1, 2), axes=(0, 1)),
        V,
        ["reduce_max", "broadcast_to"],
    ),
    "dot_of_transpose": (
        lambda x, y: la.dot_general(
            sh.transpose(x, axes=(1, 0)), y, lhs_contract=(1,), rhs_contract=(0,)
        ),
        VV,
        ["dot_general"],
    ),
    "dot_of_one_term": (
        lambda x, y: la.dot_general(x, y, lhs_contract=(1,), rhs_contract=(0,)),
        {"x": (3, 1), "y": (1, 5)},
        ["reshape", "broadcast_to", "reshape", "broadcast_to", "mul"],
    ),
    "conv_of_one_term": (
        lambda x, w: cv.conv(x, w, **POINTS),
        {"x": (2, 1, 3, 4), "w": (5, 1, 1, 1)},
        ["reshape", "broadcast_to", "reshape", "broadcast_to", "mul"],
    ),
}

ROUNDED = {
    "pow_of_small_exponent": (
        lambda x: tuple(ew.power(ew.exp(x), n) for n in (3, 4, 0.5, -0.5)),
        V,
        ["exp", "mul", "mul", "mul", "sqrt", "rsqrt"],
    ),
    "reduce_of_reduce": (
        lambda x: rd.reduce_sum(rd.reduce_sum(x, axes=(1,)), axes=(0,)),
        {"x": (2, 3, 4)},
        ["reduce_sum"],
    ),
    "reduce_of_reshape": (
        lambda x: rd.reduce_sum(sh.reshape(x, shape=(15,)), axes=(0,)),
        V,
        ["reduce_sum"],
    ),
    "sum_of_constant": (
        lambda x: x + rd.reduce_sum(bc(const(3, x), (10, 7)), axes=(0, 1)),
        {"x": ()},
        ["add"],
    ),
    "sum_of_common_factor": (
        lambda x, y, z: rd.reduce_sum(
            -(x * bc(y, (2, 3, 4), 1) * 3 * x) / bc(z, (2, 3, 4), 1), axes=(0, 2)
        ),
        {"x": (2, 3, 4), "y": (3,), "z": (3,)},
        ["mul", "reduce_sum", "mul", "mul", "div"],
    ),
    "transpose_of_dot": (
        lambda x, y: sh.transpose(
            la.dot_general(x, y, lhs_contract=(1,), rhs_contract=(1,)), axes=(1, 0)
        ),
        VV,
        ["dot_general"],
    ),
}


@pytest.mark.parametrize(
    ("make", "shapes", "is_product"),
    [
        (lambda y, w: cv.conv_input_grad(y, w, spatial=(3, 4), **POINTS),
         ((2, 1, 3, 4), (1, 5, 1, 1)), True),
        (lambda x, w: cv.conv(x, w, **{**POINTS, "groups": 5}),
         ((2, 5, 3, 4), (5, 1, 1, 1)), True),
        (lambda y, w: cv.conv_input_grad(y, w, spatial=(3, 4), **{**POINTS, "groups": 5}),
         ((2, 5, 3, 4), (5, 1, 1, 1)), True),
        (lambda x, w: cv.conv(x, w, **{**POINTS, "groups": 2}),
         ((2, 2, 3, 4), (4, 1, 1, 1)), False),
        (lambda x, w: cv.conv(x, w, **{**POINTS, "stride": (2, 1)}),
         ((2, 1, 3, 4), (5, 1, 1, 1)), False),
        (lambda x, w: cv.conv(x, w, **{**POINTS, "padding": ((0, 0), (1, 0))}),
         ((2, 1, 3, 4), (5, 1, 1, 1)), False),
        (lambda x, w: cv.conv(x, w, **{**POINTS, "lhs_dilation": (1, 2)}),
         ((2, 1, 3, 4), (5, 1, 1, 1)), False),
        (lambda x, w: cv.conv(x, w, **POINTS), ((2, 2, 3, 4), (5, 2, 1, 1)), False),
        (lambda x, w: cv.conv(x, w, **POINTS), ((2, 1, 3, 4), (5, 1, 1, 2)), False),
        (lambda y, w: cv.conv_input_grad(y, w, spatial=(3, 4), **POINTS),
         ((2, 5, 3, 4), (5, 1, 1, 1)), False),
    ],
)  # fmt: skip
def test_convolutions_of_one_term(make, shapes, is_product):
    before = build(make, **dict(zip("xw", shapes, strict=True)))
    after = rewrite(before, RULES, Counter())
    assert ("mul" in op_names(after)) == is_product
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_rule(name):
    make, shapes, expected = {**EXACT, **ROUNDED}[name]
    before = build(make, **shapes)
    hits: Counter[str] = Counter()
    after = rewrite(before, RULES, hits)
    assert hits[name], f"{name} did not apply; these did: {dict(hits)}"
    assert op_names(after) == expected
    assert_same(before, after, rtol=0 if name in EXACT else 1e-14)
    assert canonicalize(after) == after


def test_every_rule_has_a_case_and_says_its_identity():
    assert {r.name for r in RULES} == {*EXACT, *ROUNDED}
    assert all(r.identity for r in RULES)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x * 0,  # nan and infinity times 0 are nan
        lambda x: x - x,
        lambda x: (0.1 * x) * 0.3,  # two roundings, not one
        lambda x: x / 3,
        lambda x: ew.where(ew.gt(x, const(0, x)), x, 0.0),  # not relu: nan becomes 0
        lambda x: ew.convert(ew.convert(x, dtype=F32), dtype=F64),
    ],
)
def test_what_would_change_a_result_stays(make):
    before = build(make, **V)
    assert canonicalize(before) == before


def test_ops_that_nothing_changes_are_shared_with_the_old_function() -> None:
    func = canonicalize(
        parse(
            """
            func @f(%x: f64[3]) -> (f64[3], f64[3]) {
              %0: f64[3] = sin %x
              %1: f64[3] = identity %0
              %2: f64[3] = exp %1
              %3: f64[3] = cos %x
              return %2, %3
            }
            """
        )
    )
    again = canonicalize(func)
    assert [id(op) for op in again.ops] == [id(op) for op in func.ops]
    before = parse(str(func).replace("cos %x", "stop_gradient %x"))
    after = canonicalize(before)
    assert after.ops == before.ops[:2]
    assert after.results[1] is before.params[0]
