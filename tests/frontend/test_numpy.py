"""Every traced NumPy function against NumPy itself: values, dtypes and shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as sg

RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 1.5, (3, 5))
Y = RNG.uniform(-1.0, 1.0, (3, 5))
V = RNG.uniform(-1.0, 1.0, 5)
U = RNG.uniform(0.1, 0.9, 5)
T = RNG.uniform(-1.0, 1.0, (2, 3, 5))
A = RNG.uniform(-1.0, 1.0, (5, 5))
N = RNG.integers(-9, 9, (3, 5))
B = RNG.uniform(size=(3, 5)) < 0.5
S = np.float64(0.3)


def same(actual: Any, expected: Any) -> None:
    """Structure, shapes, dtypes and values agree."""
    if isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            same(a, e)
        return
    assert np.shape(actual) == np.shape(expected)
    assert np.asarray(actual).dtype == np.asarray(expected).dtype
    tolerance = 1e-6 if np.asarray(expected).dtype == np.float32 else 1e-13
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)


Case = tuple[Callable[..., Any], tuple[Any, ...]]

UNARY = (
    "negative positive absolute fabs sign rint floor ceil trunc exp exp2 expm1 log log2 log10 "
    "log1p sqrt square cbrt reciprocal sin cos tan arcsin arccos arctan sinh cosh tanh "
    "arcsinh arctanh deg2rad rad2deg radians degrees isnan isinf isfinite signbit "
    "logical_not conjugate modf"
).split()
BINARY = (
    "add subtract multiply divide power float_power maximum minimum fmax fmin arctan2 hypot "
    "copysign remainder mod fmod floor_divide divmod logaddexp logaddexp2 heaviside equal "
    "not_equal less less_equal greater greater_equal logical_and logical_or logical_xor"
).split()
INTEGER = (
    "add subtract multiply floor_divide remainder bitwise_and bitwise_or bitwise_xor maximum"
).split()

TABLE: dict[str, Case] = {
    **{f: (getattr(np, f), (U,)) for f in UNARY},
    "arccosh": (np.arccosh, (U + 1,)),
    **{f: (getattr(np, f), (U, V + 2)) for f in BINARY},
    **{f"{f} of integers": (getattr(np, f), (N, abs(N) + 1)) for f in INTEGER},
    "shifts": (lambda n: (n << 2, n >> 1, ~n), (N,)),
    "bool logic": (lambda a, b: (a & b, a | b, a ^ b, ~a), (B, ~B)),
    "broadcast": (lambda x, v: x * v + x[:, :1] - v[None, :1], (X, V)),
    "scalar operands": (
        lambda x: (1 - x, 2 / x, x**2, 2.0**x, x // 0.3, x % 0.3, -x, abs(x)),
        (X,),
    ),
    "array operand": (lambda x: Y * x - Y, (X,)),
    "reflected array": (lambda x: Y - x, (V,)),
    "integer promotion": (lambda n: (np.sin(n), n / 2, n + 0.5, n**2, n.mean(), n.sum()), (N,)),
    "int32": (lambda n: (n + 1, n.sum(), n.cumsum(), n / n.dtype.type(2)), (N.astype(np.int32),)),
    "float32 stays": (
        lambda x: (x * 2.0, x + 1, np.sin(x), x.mean(), x.sum(), x.var()),
        (X.astype("f4"),),
    ),
    "float32 and float64": (lambda x, y: x + y, (X.astype("f4"), Y)),
    "uint8": (lambda x: (x + 1, x // 2, x.sum(), x.astype(float)), (np.arange(5, dtype=np.uint8),)),
    "bool arithmetic": (lambda b: (b + b, b * 2, b.sum(), b.mean(), b.astype(int)), (B,)),
    "where": (lambda x, y: np.where(x > 1, x, y), (X, Y)),
    "where scalar": (lambda x: np.where(x > 0, x, 0), (Y,)),
    "where mask": (lambda x: np.where(B, x, -x), (X,)),
    "clip": (lambda x: (np.clip(x, -0.5, 0.5), x.clip(0), np.clip(x, None, 0.1)), (Y,)),
    "clip array": (lambda x, v: np.clip(x, -abs(v), abs(v)), (Y, V)),
    "round": (lambda x: (np.round(x), x.round(2), np.round(x * 100, -1)), (Y,)),
    "nan_to_num": (np.nan_to_num, (np.array([1.0, np.nan, np.inf, -np.inf]),)),
    "isclose": (lambda x: np.isclose(x, x + 1e-9), (X,)),
    "allclose": (lambda x: (np.allclose(x, x), np.array_equal(x, x + 1)), (X,)),
    "select": (lambda x: np.select([x < -0.3, x < 0.3], [x, x**2], 7.0), (Y,)),
    "sinc": (np.sinc, (V,)),
    "real and imag": (lambda x: (np.real(x), np.imag(x), x.real, np.conj(x)), (X,)),
    # reductions
    **{
        f"{f} axis={axis} keepdims={keep}": (
            lambda t, f=f, axis=axis, keep=keep: getattr(np, f)(t, axis=axis, keepdims=keep),
            (T,),
        )
        for f in ("sum", "prod", "mean", "var", "std", "max", "min", "any", "all")
        for axis, keep in ((None, False), (1, True), (-1, False), ((0, 2), False))
    },
    **{
        f"{f} axis={axis}": (lambda t, f=f, axis=axis: getattr(np, f)(t, axis), (T,))
        for f in (
            "argmax",
            "argmin",
            "cumsum",
            "cumprod",
            "ptp",
            "count_nonzero",
            "nansum",
            "nanmax",
        )
        for axis in (None, 0, -1)
    },
    "argmax keepdims": (lambda t: np.argmax(t, 1, keepdims=True), (T,)),
    "methods": (lambda t: (t.sum(), t.mean(0), t.std(1), t.var(ddof=1), t.max(), t.min(2)), (T,)),
    "sum dtype": (lambda x: np.sum(x, dtype=np.float32), (X,)),
    "sum where": (lambda x: np.sum(x, axis=0, where=B), (X,)),
    "sum initial": (lambda x: np.sum(x, initial=3.0), (X,)),
    "max initial": (lambda x: np.max(x, axis=1, initial=0.1, where=B), (X,)),
    "mean where": (lambda x: np.mean(x, where=B), (X,)),
    "mean of integers": (lambda n: np.mean(n, 0), (N,)),
    "average": (lambda x, w: np.average(x, axis=1, weights=w), (X, U)),
    "reduce methods": (lambda x: (np.add.reduce(x), np.maximum.reduce(x, axis=1)), (X,)),
    "accumulate": (lambda x: np.add.accumulate(x, axis=1), (X,)),
    "diff": (lambda x: (np.diff(x), np.diff(x, 2, axis=1), np.diff(x, prepend=0.0)), (X,)),
    "trapezoid": (lambda x: (np.trapezoid(x), np.trapezoid(x, dx=0.5, axis=0)), (X,)),
    "trapezoid points": (lambda x: np.trapezoid(x, np.arange(5.0) ** 2), (X,)),
    "nan moments": (
        lambda x: (np.nanvar(x), np.nanstd(x, 1, ddof=1), np.nanmean(x, 0, keepdims=True)),
        (np.where(np.eye(3, 5, dtype=bool), np.nan, X),),
    ),
    "ediff1d": (np.ediff1d, (X,)),
    "gradient": (lambda x: (*np.gradient(x), np.gradient(x, 0.5, axis=1)), (X,)),
    "cov": (lambda x, v: (np.cov(x), np.cov(x, rowvar=False), np.cov(v), np.cov(v, v**2)), (X, V)),
    "corrcoef": (lambda x: (np.corrcoef(x), np.cov(x, bias=True)), (X,)),
    "nanmean": (np.nanmean, (np.array([1.0, np.nan, 3.0]),)),
    # shapes
    "reshape": (
        lambda x: (x.reshape(5, 3), np.reshape(x, -1), x.reshape((-1, 1)), x.ravel()),
        (X,),
    ),
    "reshape F": (lambda x: np.reshape(x, (5, 3), order="F"), (X,)),
    "transpose": (lambda t: (t.T, t.transpose(1, 0, 2), np.transpose(t, (2, 0, 1)), t.mT), (T,)),
    "swapaxes": (
        lambda t: (t.swapaxes(0, 2), np.moveaxis(t, 0, -1), np.moveaxis(t, (0, 1), (2, 0))),
        (T,),
    ),
    "rollaxis": (lambda t: np.rollaxis(t, 2), (T,)),
    "expand": (
        lambda x: (np.expand_dims(x, 1), np.expand_dims(x, (0, -1)), x[None, :, None]),
        (X,),
    ),
    "squeeze": (lambda x: (np.squeeze(x[:1]), np.squeeze(x[:, None], 1)), (X,)),
    "broadcast_to": (lambda v: np.broadcast_to(v, (2, 5)), (V,)),
    "broadcast_arrays": (np.broadcast_arrays, (X, V)),
    "atleast": (lambda s, v: (np.atleast_1d(s), np.atleast_2d(v), np.atleast_3d(v)), (S, V)),
    "concatenate": (lambda x, y: np.concatenate([x, y, np.ones((2, 5))]), (X, Y)),
    "concatenate axis": (lambda x, n: np.concatenate([x, n], axis=-1), (X, N)),
    "concatenate flat": (lambda x, v: np.concatenate([x, v], axis=None), (X, V)),
    "stack": (
        lambda x, y: (np.stack([x, y]), np.stack([x, y], -1), np.stack([x, y], axis=1)),
        (X, Y),
    ),
    "vstack": (lambda x, v: (np.vstack([x, v]), np.hstack([v, v]), np.hstack([x, x])), (X, V)),
    "dstack": (lambda x, v: (np.dstack([x, x]), np.column_stack([v, v])), (X, V)),
    "append": (lambda v: np.append(v, 1.0), (V,)),
    "block": (lambda a: np.block([[a, a], [a, a * 2]]), (A,)),
    "split": (
        lambda x: (np.split(x, 3), np.split(x, [1, 3], axis=1), np.array_split(x, 2, 1)),
        (X,),
    ),
    "hsplit": (lambda t: (np.vsplit(t, 2), np.hsplit(t, 3), np.dsplit(t, 5)), (T,)),
    "unstack": (lambda t: np.unstack(t, axis=1), (T,)),
    "tile": (lambda x: (np.tile(x, 2), np.tile(x, (2, 1)), np.tile(x, (2, 1, 3))), (X,)),
    "repeat": (
        lambda x: (np.repeat(x, 2), np.repeat(x, 3, axis=0), np.repeat(x, [1, 0, 2], 0)),
        (X,),
    ),
    "flip": (lambda x: (np.flip(x), np.flip(x, 0), np.fliplr(x), np.flipud(x)), (X,)),
    "rot90": (lambda x: [np.rot90(x, k) for k in range(4)], (X,)),
    "roll": (lambda x: (np.roll(x, 2), np.roll(x, -1, 1), np.roll(x, (1, 2), (0, 1))), (X,)),
    "pad": (lambda x: (np.pad(x, 1), np.pad(x, ((1, 0), (0, 2)), constant_values=3.0)), (X,)),
    "pad values": (lambda x: np.pad(x, 1, constant_values=((1, 2), (3, 4))), (X,)),
    "pad modes": (
        lambda x: [np.pad(x, 2, mode=m) for m in ("edge", "reflect", "symmetric", "wrap")],
        (X,),
    ),
    "meshgrid": (
        lambda v, u: np.meshgrid(v, u[:3]) + np.meshgrid(v, u, indexing="ij", sparse=True),
        (V, U),
    ),
    "triangles": (lambda a: (np.tril(a), np.triu(a), np.tril(a, 1), np.triu(a, -1)), (A,)),
    "diagonals": (lambda a: (np.diag(a), np.diagonal(a, 1), np.trace(a), a.diagonal(-2)), (A,)),
    "diag of vector": (lambda v: (np.diag(v), np.diag(v, 1), np.diag(v, -2)), (V,)),
    "diagonal axes": (lambda t: np.diagonal(t, 0, 1, 2), (T,)),
    "astype": (lambda x: (np.astype(x, np.float32), x.astype(int), x.astype(bool)), (X,)),
    "flat copies": (lambda x: (x.flatten(), x.copy(), np.copy(x), x.astype(np.float32)), (X,)),
    "sizes": (lambda x: x * np.size(x) + np.shape(x)[0] + np.ndim(x) + len(x), (X,)),
    # products
    "matmul": (lambda x, a: x @ a, (X, A)),
    "matmul vectors": (lambda v, a: (v @ a, a @ v, v @ v), (V, A)),
    "matmul batch": (lambda t, a: (t @ a, a[:3, :3] @ t, t @ t.swapaxes(1, 2)), (T, A)),
    "matmul stretched": (lambda t: t[:, None] @ t[None].swapaxes(2, 3), (T,)),
    "matmul constant": (lambda x: x @ A, (X,)),
    "dot": (lambda x, a, v: (np.dot(x, a), np.dot(v, v), x.dot(v), np.dot(2.0, v)), (X, A, V)),
    "dot of 3-d": (np.dot, (T, A)),
    "inner": (lambda x, v: (np.inner(x, v), np.inner(x, x), np.vdot(v, v)), (X, V)),
    "outer": (lambda u, v: (np.outer(u, v), np.multiply.outer(u, v)), (U, V)),
    "tensordot": (lambda t, x: (np.tensordot(t, x, 2), np.tensordot(t, x, ([1], [0]))), (T, X)),
    "vecdot": (np.vecdot, (X, V)),
    "kron": (lambda x, v: (np.kron(x, x), np.kron(v, v)), (X, V)),
    "cross": (np.cross, (X[:, :3], Y[:, :3])),
    "convolve": (
        lambda v, u: [np.convolve(v, u[:3], m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "convolve swapped": (
        lambda v, u: [np.convolve(u[:2], v, m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "convolve even": (
        lambda v, u: [np.convolve(v, u[:4], m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "correlate": (
        lambda v, u: [np.correlate(v, u[:3], m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "correlate swapped": (
        lambda v, u: [np.correlate(u[:2], v, m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    **{
        f"einsum {s}": (lambda *ops, s=s: np.einsum(s, *ops), ops)
        for s, ops in (
            ("ij,jk->ik", (X, A)),
            ("ij,kj", (X, X)),
            ("ii->i", (A,)),
            ("ii", (A,)),
            ("ij->ji", (X,)),
            ("ij->", (X,)),
            ("i,j->ij", (U, V)),
            ("ij,ij->i", (X, Y)),
            ("bij,bkj->bik", (T, T)),
            ("...ij,jk->...ik", (T, A)),
            ("...j,j", (T, V)),
            ("ij,jk,kl->il", (X, A, A)),
            ("i,ij,j->", (U[:3], X, V)),
            ("ij,kl->ikjl", (X, X)),
            ("bij,ij->b", (T, X)),
            ("i,i,i->i", (U, V, U)),
            ("ij,j->ij", (X, V)),
            ("ab,bc,ad->cd", (X, A, X)),
        )
    },
    "einsum lists": (lambda x, a: np.einsum(x, [0, 1], a, [1, 2], [0, 2]), (X, A)),
    **{
        f"norm ord={order} axis={axis}": (
            lambda x, order=order, axis=axis: np.linalg.norm(x, order, axis),
            (X,),
        )
        for order, axis in itertools.chain(
            ((o, None) for o in (None, "fro", 1, -1, np.inf, -np.inf)),
            ((o, 1) for o in (None, 0, 1, 2, 3, np.inf, -np.inf, 0.5)),
            ((o, (1, 0)) for o in (None, 1, np.inf)),
        )
    },
    "norm keepdims": (
        lambda x: (np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(x, keepdims=True)),
        (X,),
    ),
    "norm 3-d": (
        lambda t: (np.linalg.norm(t), np.linalg.norm(t, axis=(1, 2)), np.linalg.norm(t, 1, (2, 0))),
        (T,),
    ),
    "vector_norm": (
        lambda t: (np.linalg.vector_norm(t), np.linalg.vector_norm(t, axis=(0, 2), ord=3)),
        (T,),
    ),
    "multi_dot": (
        lambda x, a, v: (np.linalg.multi_dot([x, a, a]), np.linalg.multi_dot([x, a, v])),
        (X, A, V),
    ),
    "matrix_power": (lambda a: [np.linalg.matrix_power(a, n) for n in (0, 1, 2, 5)], (A,)),
    # creation
    "like": (
        lambda x: (
            np.zeros_like(x),
            np.ones_like(x, dtype=int),
            np.full_like(x, 2),
            np.empty_like(x) * 0,
        ),
        (X,),
    ),
    "linspace": (lambda s: (np.linspace(s, 2.0, 5), np.linspace(0, s, 4, endpoint=False)), (S,)),
    "vander": (lambda v: (np.vander(v), np.vander(v, 3, increasing=True)), (V,)),
    "polyval": (lambda v: (np.polyval(v, 0.5), np.polyval([1.0, 2.0, 3.0], v)), (V,)),
    # indexing
    **{
        f"index {text}": (eval(f"lambda t: t[{text}]"), (T,))
        for text in (
            "0",
            "-1",
            "0, 1",
            "0, 1, 2",
            "1:",
            ":, 1:3",
            "..., 0",
            "..., ::2",
            "::-1",
            ":, ::-2, 1:4:2",
            "None, 0",
            ":, None, 1",
            "..., None",
            "0, ..., 1",
            "1:1",
            "5:",
            "-2:, -1, ::-1",
            "[0, 1]",
            "[1, -1, 0]",
            ":, [0, 2]",
            ":, [[0, 1], [2, -1]]",
            "[0, 1], [2, 0]",
            "[0, 1], :, [2, 0]",
            "0, :, [1, 2]",
            ":, 0, [1, 2]",
            ":, [1, 2], 0",
            "[1, 0], None, [2, 1]",
            "..., [0, 1], [0, 4]",
            "[[0], [1]], [0, 2]",
            "1:, [0, 2], ::2",
            "None, [0, 1]",
            "[]",
            "np.array([0, 1]), 1:, np.array([1, 2])",
            "t.shape[0] - 1",
            "np.array([True, False])",
            "np.arange(30).reshape(2, 3, 5) % 3 == 0",
            ":, np.array([True, False, True])",
            "np.array([True, True]), [0, 2]",
            "np.ix_([0, 1], [0, 2], [1, 3])",
            "np.int64(1), np.array(2)",
            "slice(None, None, -1), 1",
            "0, ..., np.array([[True, False, True, True, True]] * 3)",
        )
    },
    "traced index": (lambda t, i: (t[i], t[:, i], t[i, i], t[i[0]]), (T, np.array([1, -1, 0]))),
    "argmax as index": (lambda x: x[np.arange(3), x.argmax(axis=1)], (X,)),
    "take": (lambda x: (np.take(x, [0, 2], 0), np.take(x, 7), x.take([1, 9], mode="clip")), (X,)),
    "take wrap": (lambda x: np.take(x, [-1, 9], axis=1, mode="wrap"), (X,)),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.argmax(x, 1, keepdims=True), 1), (X,)),
    "choose": (lambda n, x, y: np.choose(n, [x, y]), (N % 2, X, Y)),
}


@pytest.mark.parametrize("name", TABLE)
def test_matches_numpy(name: str) -> None:
    f, args = TABLE[name]
    with np.errstate(all="ignore"):
        same(sg.jit(f)(*args), f(*args))


@pytest.mark.parametrize(
    "name", ["sum", "einsum", "concatenate", "where", "reshape", "linalg.norm"]
)
def test_public_function_is_numpy_on_plain_arrays(name: str) -> None:
    ours, theirs = sg.numpy, np
    for part in name.split("."):
        ours, theirs = getattr(ours, part), getattr(theirs, part)
    args = {
        "einsum": ("ij->j", X),
        "concatenate": ([X, Y],),
        "where": (B, X, Y),
        "reshape": (X, (5, 3)),
    }.get(name, (X,))
    same(ours(*args), theirs(*args))
    assert isinstance(ours(*args), (np.ndarray, np.generic))
    same(
        sg.jit(ours, static_argnums={"einsum": 0, "reshape": 1}.get(name, ()))(*args), theirs(*args)
    )


def test_sinc_has_derivatives_at_0() -> None:
    """Of ``1 - t**2 / 6 + t**4 / 120``, ``t = pi x``."""
    f = np.sinc
    wants = [1.0, 0.0, -(np.pi**2) / 3, 0.0, np.pi**4 / 5]
    for order, want in enumerate(wants):
        for x in (0.0, 1e-9):
            near = want + x * wants[order + 1] if order + 1 < len(wants) else want
            np.testing.assert_allclose(float(f(np.float64(x))), near, 1e-12, 1e-12)
        f = sg.grad(f)
