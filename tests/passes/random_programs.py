"""Random programs of smooth and structural ops, for comparing passes and back ends.

Values stay moderate (growing ops are damped) and branches depend on parameters alone, so
that a result computed in another order may differ by rounding, but never by a jump.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from symgrad.ir import Builder, Func, TensorType, Value
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import index as ix
from symgrad.ir.ops import linalg as la
from symgrad.ir.ops import reduce as rd
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import f64, i64

SIZES = (1, 2, 3, 5)


def random_program(seed: int, *, steps: int = 20, gradient: bool = True) -> Func:
    """A function of three to five f64 arrays, with its gradient for most seeds."""
    rng = random.Random(seed)
    builder = Builder(locations=False)
    params = []
    for i in range(rng.randint(3, 5)):
        shape = tuple(rng.choice(SIZES) for _ in range(rng.choice((0, 1, 2, 2, 3))))
        params.append(builder.param(TensorType(f64, shape), f"p{i}"))
    pool = list(params)
    with builder:
        for _ in range(rng.randint(4, steps)):
            step = rng.choice(STEPS)
            value = step(rng, pool, params)
            if value is not None and value.type.size <= 400:
                pool.append(value)
        scalars = [total(v) for v in pool[-4:]]
        out = scalars[0]
        for s in scalars[1:]:
            out = out + s
        func = builder.build([out, *pool[-2:]], f"random{seed}")
    return value_and_grad(func, range(len(params))) if gradient and seed % 4 else func


def total(v: Value) -> Value:
    return rd.reduce_sum(v, axes=tuple(range(v.rank)))


def pick(rng: random.Random, pool: list[Value]) -> Value:
    return rng.choice(pool[-8:])


def partner(rng: random.Random, pool: list[Value], x: Value) -> Value:
    """A value of x's shape: one from the pool, broadcast where that fits, or a constant."""
    same = [v for v in pool if v.shape == x.shape and v is not x]
    if same and rng.random() < 0.6:
        return rng.choice(same)
    for v in rng.sample(pool, len(pool)):
        axes, at = [], 0
        for n in v.shape:
            while at < x.rank and x.shape[at] != n:
                at += 1
            axes.append(at)
            at += 1
        if v.rank < x.rank and all(a < x.rank for a in axes):
            return sh.broadcast_to(v, shape=x.shape, axes=tuple(axes))
    return ew.zeros_like(x) + rng.choice((-1.0, 0.25, 0.3, 1.0, 2.0, 3.0))


def unary(rng: random.Random, pool: list[Value], params: list[Value]) -> Value:
    x = pick(rng, pool)
    f: Callable[[Value], Value] = rng.choice((
        ew.sin, ew.cos, ew.tanh, ew.sigmoid, ew.relu, ew.abs, ew.neg, ew.erf, ew.asinh,
        lambda v: ew.exp(-ew.abs(v)), lambda v: ew.log(1 + ew.exp(ew.tanh(v))),
        lambda v: ew.log(ew.sigmoid(v)), lambda v: ew.sqrt(v * v + 1), lambda v: 1 - ew.erf(v),
        lambda v: ew.exp(ew.sin(v)) - 1, lambda v: ew.power(ew.tanh(v), rng.choice((2, 3, 4))),
        lambda v: ew.power(v * v + 1, rng.choice((-0.5, 0.5, 1.5))),
        lambda v: v * rng.choice((0.5, -1.0, 0.3, 1.0)), lambda v: v / rng.choice((2.0, 3.0)),
        ew.floor if x in params else ew.sin,
    ))  # fmt: skip
    return f(x)


def binary(rng: random.Random, pool: list[Value], params: list[Value]) -> Value:
    x = pick(rng, pool)
    y = partner(rng, pool, x)
    f: Callable[[Value, Value], Value] = rng.choice((
        ew.add, ew.sub, ew.maximum, ew.minimum, lambda a, b: ew.tanh(a) * b,
        lambda a, b: a / (b * b + 1), lambda a, b: ew.scale(a, ew.tanh(b)),
        lambda a, b: ew.atan2(a, ew.abs(b) + 1), ew.logaddexp,
        lambda a, b: ew.log(ew.exp(ew.tanh(a)) + ew.exp(ew.tanh(b))),
    ))  # fmt: skip
    return f(x, y)


def branch(rng: random.Random, pool: list[Value], params: list[Value]) -> Value:
    p = rng.choice(params)
    condition = ew.gt(p, ew.zeros_like(p) + 0.125)
    if rng.random() < 0.3:
        condition = ew.logical_not(condition)
    x = partner(rng, pool, p)
    return ew.where(condition, x, partner(rng, pool, p))


def reduction(rng: random.Random, pool: list[Value], params: list[Value]) -> Value:
    x = pick(rng, pool)
    axes = tuple(a for a in range(x.rank) if rng.random() < 0.6)
    if rng.random() < 0.25:
        mean, var = rd.moments(x, axes=axes)
        return rng.choice((mean, ew.rsqrt(var + 0.5)))
    if rng.random() < 0.3:
        e = ew.exp(ew.tanh(x))
        return e / rd.spread(rd.reduce_sum(e, axes=axes), x, axes)
    y = rng.choice((rd.reduce_sum, rd.reduce_max, rd.reduce_min))(x, axes=axes)
    return rd.spread(y, x, axes) if rng.random() < 0.4 else y


def rearrange(rng: random.Random, pool: list[Value], params: list[Value]) -> Value:
    x = pick(rng, pool)
    kind = rng.choice(("transpose", "reshape", "squeeze", "slice", "pad", "reverse", "broadcast"))
    if kind == "transpose":
        return sh.transpose(x, axes=tuple(rng.sample(range(x.rank), x.rank)))
    if kind == "reshape":
        return sh.reshape(x, shape=(x.type.size,))
    if kind == "squeeze":
        shape = [n for n in x.shape if n != 1]
        shape.insert(rng.randint(0, len(shape)), 1)
        return sh.reshape(x, shape=tuple(shape))
    if kind == "slice":
        start = tuple(rng.randrange(n) for n in x.shape)
        stop = tuple(rng.randint(a + 1, n) for a, n in zip(start, x.shape, strict=True))
        step = tuple(rng.choice((1, 1, 2)) for _ in x.shape)
        return sh.slice_(x, start=start, stop=stop, step=step)
    if kind == "pad":
        widths = [tuple(rng.choice((0, 0, 1, 2)) for _ in x.shape) for _ in range(3)]
        return sh.pad(x, low=widths[0], high=widths[1], interior=widths[2], value=0)
    if kind == "reverse":
        return sh.reverse(x, axes=tuple(a for a in range(x.rank) if rng.random() < 0.5))
    shape = list(x.shape)
    at = rng.randint(0, x.rank)
    shape.insert(at, rng.choice(SIZES))
    axes = tuple(a for a in range(len(shape)) if a != at)
    return sh.broadcast_to(x, shape=tuple(shape), axes=axes)


def join(rng: random.Random, pool: list[Value], params: list[Value]) -> Value | None:
    x = pick(rng, pool)
    if not x.rank:
        return None
    axis = rng.randrange(x.rank)
    return sh.concatenate(x, partner(rng, pool, x), axis=axis)


def product(rng: random.Random, pool: list[Value], params: list[Value]) -> Value | None:
    x, y = pick(rng, pool), pick(rng, pool)
    pairs = [(i, j) for i in range(x.rank) for j in range(y.rank) if x.shape[i] == y.shape[j]]
    if not pairs:
        return None
    i, j = rng.choice(pairs)
    rest = [p for p in pairs if p[0] != i and p[1] != j]
    batch = [rng.choice(rest)] if rest and rng.random() < 0.4 else []
    return la.dot_general(
        ew.tanh(x), ew.sin(y), lhs_contract=(i,), rhs_contract=(j,),
        lhs_batch=tuple(b[0] for b in batch), rhs_batch=tuple(b[1] for b in batch),
    )  # fmt: skip


def indexed(rng: random.Random, pool: list[Value], params: list[Value]) -> Value | None:
    x = pick(rng, pool)
    if not x.rank:
        return rd.cumsum(sh.reshape(x, shape=(1,)), axis=0)
    axis = rng.randrange(x.rank)
    if rng.random() < 0.4:
        return rd.cumsum(x, axis=axis) * (1 / math.sqrt(x.shape[axis]))
    lane = ew.rem(sh.iota(shape=(4,), axis=0, dtype=i64), _all(x.shape[axis]))
    return ix.gather(x, lane, axes=(axis,))


def _all(number: int) -> Value:
    from symgrad.ir.graph import insertion

    return insertion.builder.emit("constant", value=number, type=TensorType(i64, (4,)))


STEPS = (unary, unary, unary, binary, binary, binary, branch, reduction, reduction, rearrange,
         rearrange, join, product, indexed)  # fmt: skip
