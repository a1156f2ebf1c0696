"""The fuse pass: what its output looks like, and that values stay."""

from __future__ import annotations

import numpy as np
import pytest
from symgrad.ir import Builder, Func, TensorType, dtype_of, interpret, parse, verify
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.ops import conv as cv
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import linalg as la
from symgrad.ir.ops import reduce as rd
from symgrad.ir.ops import shape as sh
from symgrad.ir.passes import optimize
from symgrad.ir.passes.fuse import fuse

F64 = dtype_of("f64")
PLAIN = {
    "stride": (1, 1),
    "padding": ((1, 1), (1, 1)),
    "dilation": (1, 1),
    "lhs_dilation": (1, 1),
}


def build(make, **shapes):
    """The function ``make`` emits for f64 parameters of the given shapes."""
    b = Builder(locations=False)
    params = [b.param(TensorType(F64, shape), name) for name, shape in shapes.items()]
    with b:
        results = make(*params)
    return b.build(results if isinstance(results, (list, tuple)) else [results], "f")


def check(func: Func, fused: Func) -> Func:
    """Fused equals unfused on random input, verifies, round-trips, keeps the invariants."""
    verify(fused)
    assert parse(fused.text) == fused
    for op in fused.ops:
        assert not op.opdef.elementwise
        assert not op.name.startswith("reduce_")
        if op.name == "fused":
            over = {how[1] for how in op.attrs["reduce"] if how}
            assert len(over) <= 1
    rng = np.random.default_rng(0)
    args = [rng.normal(size=p.shape) for p in func.params]
    for a, b in zip(interpret(func, args), interpret(fused, args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    return fused


def nests(func: Func):
    return [op for op in func.ops if op.name == "fused"]


def test_chain_with_broadcast_is_one_nest():
    f = build(
        lambda x, b: ew.relu(x * 2 + sh.broadcast_to(b, shape=(3, 5), axes=(1,))), x=(3, 5), b=(5,)
    )
    (op,) = check(f, fuse(f)).ops
    assert op.attrs["maps"] == ((0, 1), (1,))
    assert [o.name for o in op.regions[0].ops] == ["constant", "mul", "add", "relu"]


def test_transpose_becomes_a_map():
    f = build(lambda x, y: sh.transpose(x, axes=(1, 0)) + y, x=(3, 5), y=(5, 3))
    (op,) = check(f, fuse(f)).ops
    assert op.attrs["maps"] == ((1, 0), (0, 1))


def test_axes_of_size_one_do_not_part_a_chain():
    f = build(lambda x, y: ew.exp(sh.reshape(ew.sin(x), shape=(3, 5))) * y, x=(3, 1, 5), y=(3, 5))
    assert len(nests(check(f, fuse(f)))) == 1


def test_two_sums_read_the_array_once():
    def sums(x):
        return rd.reduce_sum(x, axes=(0,)), rd.reduce_sum(x * x, axes=(0,))

    f = build(sums, x=(7, 5))
    (op,) = check(f, fuse(f)).ops
    assert op.attrs["reduce"] == (("sum", (0,)), ("sum", (0,)))
    assert len(op.operands) == 1


def test_sums_over_other_axes_are_nests_of_their_own():
    def sums(x):
        return rd.reduce_sum(ew.exp(x), axes=(0,)), rd.reduce_sum(ew.exp(x), axes=(1,))

    f = build(sums, x=(7, 5))
    assert len(nests(check(f, fuse(f)))) == 2


def test_a_reduction_ends_its_nest():
    def softmax(x):
        e = ew.exp(x - rd.spread(rd.reduce_max(x, axes=(1,)), x, (1,)))
        return e / rd.spread(rd.reduce_sum(e, axes=(1,)), x, (1,))

    f = build(softmax, x=(4, 6))
    assert len(nests(check(f, fuse(f)))) == 3


def test_cheap_mask_is_made_where_it_is_used():
    def make(x, w):
        r = ew.relu(x)
        y = la.dot_general(r, w, lhs_contract=(1,), rhs_contract=(0,))
        return y, ew.where(ew.gt(r, ew.zeros_like(r)), y, 0.0)

    f = build(make, x=(4, 4), w=(4, 4))
    fused = check(f, fuse(f))
    assert all(v.type.dtype.name != "bool" for op in fused.ops for v in op.results)


def test_epilogue_is_cut_from_what_follows():
    def make(x, w, b):
        y = la.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,))
        y = ew.relu(y + sh.broadcast_to(b, shape=y.shape, axes=(1,)))
        return y, rd.reduce_sum(y * y, axes=(0,))

    f = build(make, x=(4, 3), w=(3, 5), b=(5,))
    first, second = nests(check(f, fuse(f)))
    assert first.attrs["reduce"] == (None,)
    assert second.attrs["reduce"] == (("sum", (0,)),)


def test_no_cycle_through_another_op():
    # exp(x) and the sum of it with a sort of its own cumulative sum: a nest of both
    # would need the running sum before it exists.
    def make(x):
        e = ew.exp(x)
        return e + rd.cumsum(e, axis=0)

    f = build(make, x=(9,))
    assert [op.name for op in check(f, fuse(f)).ops] == ["fused", "cumsum", "fused"]


@pytest.mark.parametrize("n", [1, 5, 17])
def test_bounds_hold(n):
    def make(*xs):
        total = xs[0]
        for x in xs[1:]:
            total = ew.sin(total) * x
        return total

    f = build(make, **{f"x{i}": (n,) for i in range(40)})
    fused = check(f, fuse(f, max_operands=6, max_ops=5))
    assert all(len(op.operands) <= 6 for op in nests(fused))
    assert all(len(op.regions[0].ops) <= 5 for op in nests(fused))


@pytest.mark.parametrize(
    ("n", "parts"), [(3, [200, 100]), (1000, [50] * 6), (1 << 14, [300]), ((1 << 14) + 5, [300])]
)
def test_nests_are_cut_by_what_that_costs_at_so_many_points(n, parts):
    """Few points: calls; more: compile time; many: values that pass through memory."""

    def make(x):
        total = x
        for i in range(150):
            total = total * x + float(i)
        return total

    fused = fuse(build(make, x=(n,)))
    sizes = [sum(op.name != "constant" for op in nest.regions[0].ops) for nest in nests(fused)]
    assert sum(sizes) == 300
    assert len(sizes) == len(parts)
    assert max(sizes) <= parts[0]


def batch_norm(y, gain, bias):
    mean, var = rd.moments(y, axes=(0, 2, 3))
    spread = lambda t: rd.spread(t, y, (0, 2, 3))  # noqa: E731
    return (y - spread(mean)) * spread(ew.rsqrt(var + 1e-5)) * spread(gain) + spread(bias)


def residual_net(x, w, v, g, b):
    y = ew.relu(batch_norm(cv.conv(x, w, **PLAIN), g, b))
    z = ew.relu(batch_norm(cv.conv(y, v, **PLAIN), g, b) + y)
    return rd.reduce_sum(z * z, axes=(0, 1, 2, 3))


@pytest.mark.parametrize("batch", [1, 2])
def test_residual_network_keeps_its_values(batch):
    shapes = {"x": (batch, 3, 5, 5), "w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "g": (4,), "b": (4,)}
    f = value_and_grad(build(residual_net, **shapes), (1, 2, 3, 4))
    check(f, optimize(f))


def test_long_scalar_program_is_linear():
    def make(x):
        for _ in range(3000):
            x = ew.sin(x) * 0.99
        return x

    f = build(make, x=())
    assert len(nests(check(f, fuse(f)))) == 30


def test_a_written_value_is_made_again_where_all_it_takes_is_read():
    def make(x, s, w):
        y = ew.relu(x * sh.broadcast_to(s, shape=x.shape, axes=(1,)))
        z = la.dot_general(y, w, lhs_contract=(1,), rhs_contract=(0,))  # y is written
        late = rd.reduce_sum(z, axes=(0, 1))
        late = sh.broadcast_to(late, shape=x.shape, axes=())
        return z, ew.where(ew.gt(y, ew.zeros_like(y)), late, 0.0) * x

    f = build(make, x=(4, 4), s=(4,), w=(4, 4))
    *_, last = nests(check(f, fuse(f)))
    assert sum(v.rank == 2 for v in last.operands) == 1  # x alone
    assert "relu" in [o.name for o in last.regions[0].ops]


def test_a_value_read_crosswise_is_read():
    def make(x, w):
        y = ew.relu(x)
        z = la.dot_general(y, w, lhs_contract=(1,), rhs_contract=(0,))
        late = sh.broadcast_to(rd.reduce_sum(z, axes=(0, 1)), shape=x.shape, axes=())
        return z, sh.transpose(y, axes=(1, 0)) * late * x

    f = build(make, x=(4, 4), w=(4, 4))
    *_, last = nests(check(f, fuse(f)))
    assert sum(v.rank == 2 for v in last.operands) == 2
